"""What raises costs a metric nothing: the images from before stay, to the bit."""

import math

import pytest
import torch

from irrbench import AreaICC, ExtentICC, GwetAC1, KrippendorffAlpha, PixelICC, SegmentationBounds
from irrbench.evaluation import Evaluator
from tests.metrics.processes import among
from tests.test_patterns import draw

METRICS = [SegmentationBounds, KrippendorffAlpha, GwetAC1, PixelICC, AreaICC, ExtentICC]


def state(metric):
    return repr(sorted(metric.__getstate__().items()))


def arguments(metric, names="abc", **others):
    masks, roi, preds = draw(shape=(3, 4, 6, 5))
    parts = {"preds": preds, "masks": masks.long(), "roi": roi, "image_id": list(names)} | others
    return metric._filter_kwargs(**parts)


def refused():
    masks = draw(shape=(3, 4, 6, 5))[0].long()
    return {
        "values": {"masks": masks + 5},
        "raters": {"names": "def", "masks": masks[:, :2]},
        "number of ids": {"names": "de"},
        "known id with other masks": {"masks": 1 - masks},
        "one id with two masks": {"names": "dde"},
        "region": {"roi": masks[:, 0] + 5},
    }


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize("what", refused())
@pytest.mark.parametrize("how", ["update", "forward"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_refused_batch_leaves_nothing(make, what, how, is_first):
    metric = make()
    if not is_first:
        metric.update(**arguments(metric))
    elif what in {"raters", "known id with other masks"}:
        pytest.skip("the first batch may have any")
    before = state(metric)
    with pytest.raises(ValueError, match=r"must|came twice"):
        getattr(metric, how)(**arguments(metric, **refused()[what]))
    assert state(metric) == before
    metric.update(**arguments(metric, "def"))
    assert len(metric.per_image()) == (3 if is_first else 6)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("make", METRICS)
def test_what_fails_while_it_computes_leaves_the_state(make, error, monkeypatch):
    metric = make()
    metric.update(**arguments(metric))
    whole = metric.per_image()
    before = state(metric)

    def fail(_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(make, "_tables", fail)
        for call in (metric.compute, metric.per_image, lambda: metric(**arguments(metric, "def"))):
            with pytest.raises(error):
                call()
            assert state(metric) == before
    assert metric.per_image().equals(whole)
    metric(**arguments(metric, "def"))
    assert len(metric.per_image()) == 6


@pytest.mark.parametrize("make", METRICS)
def test_in_several_processes_each_has_its_own_images_again(make, monkeypatch):
    parts = [make(), make()]
    for metric, names in zip(parts, ("abc", "def"), strict=True):
        metric.update(**arguments(metric, names))
    metric = among(parts, [0])[0]
    before = state(metric)

    def fail(_):
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(make, "_tables", fail)
        for call in (metric.compute, metric.per_image):
            with pytest.raises(RuntimeError):
                call()
            assert state(metric) == before
    gather = metric.dist_sync_fn
    metric.dist_sync_fn = lambda *_, **__: fail(None)
    before = state(metric)
    with pytest.raises(RuntimeError):
        metric.compute()
    assert state(metric) == before
    metric.dist_sync_fn = gather
    assert len(metric.per_image()) == 6


@pytest.mark.parametrize("options", [{}, {"num_classes": 2}])
def test_a_batch_of_unusable_predictions_costs_no_earlier_image(options):
    masks, _, preds = draw(shape=(3, 4, 6, 5))
    logits = torch.where(preds, 1.0, -1.0)
    logits = torch.stack([-logits, logits], 1) if options else logits
    metric, alone = SegmentationBounds(["iou"], **options), SegmentationBounds(["iou"], **options)
    metric(logits, masks.long(), image_id=list("abc"))
    before = state(metric)
    found = metric(logits * math.nan, masks.long(), image_id=list("def"))
    blank = SegmentationBounds(["iou"], **options)(torch.zeros_like(masks[:, 0]), masks.long())
    assert found["iou"] == torch.minimum(blank["iou"], blank["iou_floor"])  # the same is worse on each image
    assert found["n_images"] == found["iou_n_images"] == 3
    assert state(metric) != before
    assert metric.per_image()["unusable"].tolist() == [False] * 3 + [True] * 3
    alone(logits * math.nan, masks.long(), image_id=list("def"))
    before = state(alone)
    for call in (alone.compute, alone.per_image):  # of all images none is usable
        with pytest.raises(ValueError, match="all 3 images have others, first 'd'"):
            call()
        assert state(alone) == before
    alone.update(logits, masks.long(), image_id=list("abc"))
    assert alone.compute()["iou"] == metric.compute()["iou"]


def test_a_refused_picture_leaves_an_evaluator_without_the_batch():
    masks, _, preds = draw(shape=(3, 4, 6, 5))
    evaluator = Evaluator(scores=["iou"])
    evaluator.update(preds, masks, image_id=list("abc"))
    with pytest.raises(ValueError, match=r"`image` must hold 3 images, as `masks`; found \(2, 1, 6, 5\)"):
        evaluator.update(preds, masks, image_id=list("def"), image=torch.zeros(2, 1, 6, 5))
    assert evaluator.finish()["val/n_images"] == 3
