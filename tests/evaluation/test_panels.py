"""Which images of a stage are shown, what is kept of them meanwhile, and ranks against the scores of the metric."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from irrbench import SegmentationBounds
from irrbench.cases import choose_cases
from irrbench.evaluation import Evaluator
from irrbench.evaluation.panels import Panels, _Batch, _of_device, _shown, _Waiting
from irrbench.metrics.state import Rows
from irrbench.plots import agreement_panel, contour_panel

SIDE = 24


def draw(num_images, *, seed=0, raters=3):
    """Images, masks and predictions of squares that wander."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((num_images, raters + 1, SIDE, SIDE), bool)
    for image, spread in enumerate(rng.integers(1, 7, num_images)):
        for own in masks[image]:
            top, left = 6 + rng.integers(-spread, spread + 1, 2)
            own[max(0, top) : top + 10, max(0, left) : left + 10] = True
    image = torch.from_numpy(rng.random((num_images, 1, SIDE, SIDE), dtype=np.float32))
    masks = torch.from_numpy(masks)
    return image, masks[:, :-1], masks[:, -1].int()


def run(evaluator, image, masks, preds, *, size=4, names=None, **known):
    names = names or [f"image {place:02}" for place in range(len(masks))]
    for start in range(0, len(masks), size):
        part = slice(start, start + size)
        evaluator.update(
            preds[part],
            masks[part],
            image=image[part],
            image_id=names[part],
            **{key: value[part] for key, value in known.items()},
        )
    return evaluator.finish()


@pytest.mark.parametrize("num_panels", [1, 4, 6])
@pytest.mark.parametrize("score", ["iou", "f1", "ppv", "hd95", "nsd"])
def test_the_images_that_are_shown_are_those_of_the_whole_table(num_panels, score):
    evaluator = Evaluator("val", scores=[score], num_panels=num_panels)
    run(evaluator, *draw(40, seed=num_panels))
    chosen = choose_cases(evaluator.table, score=score, count=num_panels)
    kept = evaluator.panels._held
    assert len(kept) <= 8 * num_panels
    assert {case.image_id for case in chosen} <= set(kept)
    shown = evaluator.panels.draw(evaluator.table, score)
    assert len(shown) == num_panels
    assert next(iter(shown)) == "worst"


@pytest.mark.parametrize("raters", [2, 4, 12])
@pytest.mark.parametrize("score", ["iou", "hd95"])
def test_a_batch_is_ranked_as_the_table_ranks_its_images(score, raters):
    _, masks, preds = draw(6, raters=raters)
    masks[1] = False  # nobody marks anything
    present = torch.ones(6, raters, dtype=torch.bool)
    present[2, 1] = present[3, 1:] = False
    metric = SegmentationBounds([score])
    metric.update(preds, masks, present=present, image_id=list("abcdef"))
    ranks = metric.rank(metric.latest)
    table = metric.per_image().set_index("image_id")
    sign = -1 if score == "hd95" else 1
    for name, (model, alpha, lead) in ranks.items():
        row = table.loc[name]
        assert alpha == pytest.approx(row["alpha"], nan_ok=True)
        assert sign * model == pytest.approx(row[score], nan_ok=True)
        assert sign * lead == pytest.approx(row[score] - row[f"{score}_ceiling"], nan_ok=True)


def test_an_unusable_prediction_is_the_worst():
    image, masks, preds = draw(12, seed=2)
    preds = preds.float() - 0.5
    preds[7] = torch.nan
    evaluator = Evaluator("val", scores=["iou"], num_panels=2)
    run(evaluator, image, masks, preds)
    assert "image 07" in evaluator.panels._held
    assert choose_cases(evaluator.table, score="iou", count=2)[0].image_id == "image 07"


def test_patches_are_shown_as_they_come_and_none_is_called_the_worst():
    evaluator = Evaluator("val", scores=["iou"], num_panels=2, aggregate=lambda name: name.partition("/")[0])
    image, masks, preds = draw(8)
    run(evaluator, image, masks, preds, names=[f"{'ab'[place % 2]}/{place}" for place in range(8)])
    assert list(evaluator.pictures()) == ["example 1", "example 2"]
    assert list(evaluator.panels._held) == ["a/0", "b/1"]


def test_the_disputed_image_is_the_same_at_all_epochs_and_each_epoch_has_its_worst():
    evaluator = Evaluator("val", scores=["iou"])
    image, masks, preds = draw(20, seed=3)
    chosen = []
    for epoch in range(3):
        run(evaluator, image, masks, preds.roll(epoch, 0))
        chosen.append(choose_cases(evaluator.table, score="iou", among=evaluator.panels._held))
    assert len({cases[1].image_id for cases in chosen}) == 1
    for cases, table in zip(chosen[-1:], [evaluator.table], strict=True):
        assert cases[0].image_id == table.loc[table["iou"].idxmin(), "image_id"]


def test_images_are_asked_for_only_where_they_are_kept():
    _, masks, preds = draw(60, seed=5)
    asked = []
    evaluator = Evaluator("test", scores=["iou"], num_panels=1)
    for place in range(60):

        def image(place=place):
            asked.append(place)
            return torch.zeros(1, 1, SIDE, SIDE)

        evaluator.update(preds[place][None], masks[place][None], image=image, image_id=[str(place)])
    evaluator.finish()
    assert len(asked) < 30
    assert list(evaluator.pictures()) == ["worst"]


def test_where_no_score_is_defined_the_first_images_are_examples():
    evaluator = Evaluator("val", scores=["iou"], num_panels=2)
    image, masks, preds = draw(5)
    run(evaluator, image, masks & False, preds)
    assert list(evaluator.pictures()) == ["example 1", "example 2"]
    assert list(evaluator.panels.draw()) == ["example 1", "example 2"]
    evaluator.forget()
    assert evaluator.panels.draw() == {}


def test_an_image_that_comes_twice_is_kept_once():
    image, masks, preds = draw(4)
    evaluator = Evaluator("val", scores=["iou"], num_panels=4)
    run(evaluator, *(x.repeat(2, *[1] * (x.ndim - 1)) for x in (image, masks, preds)), names=list("abcd") * 2)
    assert sorted(evaluator.panels._held) == list("abcd")


def test_a_rater_who_is_absent_is_left_out_thin_masks_are_coloured_and_raters_are_named():
    image = torch.full((1, 1, 64, 64), 0.5)
    masks = torch.zeros(1, 3, 64, 64, dtype=torch.bool)
    masks[:, :2, 10:50:8, 8:56] = True
    masks[:, 2] = True
    present = torch.tensor([[True, True, False]])
    panels = Panels(1, from_logits=True, threshold=0.5, raters=["anna", "ben", "<b>"])
    panels.add(masks[:, 0].int(), masks, image, roi=None, image_id=["vessel"], present=present)
    expected = agreement_panel(image[0], masks[0, :2], masks[0, 0], margin=16, title="vessel")
    np.testing.assert_array_equal(panels.draw()["example 1"], expected)
    panels.reset()
    masks[:, :2] = False
    masks[:, :2, 20:40, 20:40] = True
    panels.add(masks[:, 0].int(), masks, image, roi=None, image_id=torch.tensor([7]))
    at_once = contour_panel(image[0], masks[0], masks[0, 0], margin=16, title="7", raters=["anna", "ben", "<b>"])
    np.testing.assert_array_equal(panels.draw()["example 1"], at_once)


@pytest.mark.parametrize("is_volume", [False, True])
@pytest.mark.parametrize("scale", [1.0, 900.0])
def test_what_is_kept_on_a_device_gives_the_same_picture(is_volume, scale):
    image, masks, preds = draw(5)
    image = (image * scale).sub_(100 * (scale > 1))
    roi, present = torch.ones(5, SIDE, SIDE), torch.tensor([[True, True, False]] * 5)
    if is_volume:  # five slices of one image
        image, masks = image.transpose(0, 1)[None], masks.transpose(0, 1)[None]
        preds, roi, present = preds[None], roi[None], present[:1]
        masks[:, :, 3] |= masks[:, :, 2]
    batch = _Batch(image, (masks, preds, roi, present))
    at_once, later = _shown(*batch.layers(0)), _of_device(batch.flat(0))
    for one, other in zip(at_once.part[1:4], later.part[1:4], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(at_once.part.image, later.part.image, atol=0.003)
    assert at_once.part.place == later.part.place
    assert at_once.part.place.endswith("of 5") == is_volume


class Event:
    """A device that is so many questions behind."""

    def __init__(self, behind):
        self.behind, self.waited = behind, 0

    def query(self):
        self.behind -= 1
        return self.behind < 0

    def synchronize(self):
        self.waited += 1


class LatestTwo(dict):
    """What is ranked of two images, the ones that came last."""

    def __call__(self, _):
        return dict(list(self.items())[-2:])


def test_ranks_are_read_when_they_have_come_and_at_the_end_at_the_latest():
    ranks = LatestTwo({"a": (0.5, 0.1, 0.0), "b": (0.2, 0.9, 0.1)})
    panels = Panels(1, from_logits=True, threshold=0.5, rank=ranks)
    rows = Rows.empty(torch.device("cpu"))
    image, masks, preds = draw(2)
    batch = _Batch(image, (masks, preds, None, None))
    panels._waiting.append(_Waiting(Event(2), ["a", "b"], rows, [batch.flat(0), batch.flat(1)]))
    panels._read(8)
    assert len(panels) == 0
    panels._read(8)
    panels._read(8)
    assert set(panels._held) == {"a", "b"}
    ranks |= {"3": (0.4, 0.5, 0.0), "4": (0.1, 0.5, 0.0)}
    panels._waiting.append(_Waiting(Event(99), torch.tensor([3, 4]), rows, [batch.flat(0), batch.flat(1)]))
    table = pd.DataFrame({"image_id": ["a", "b", "3", "4"], "iou": [0.5, 0.2, 0.4, 0.1], "alpha": 0.5})
    assert list(panels.draw(table, "iou")) == ["worst"]
    assert "4" in panels._held
    assert len(pickle.loads(pickle.dumps(panels))) == len(panels)  # noqa: S301 (our own)
