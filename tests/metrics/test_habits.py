"""What users of torchmetrics do with any metric, they can do with these."""

import logging

import pytest
import torch
from torchmetrics import MetricCollection, MetricTracker
from torchmetrics.wrappers import BootStrapper, MinMaxMetric, Running

from irrbench import AreaICC, ExtentICC, GwetAC1, KrippendorffAlpha, PixelICC, ProbabilityLevels, SegmentationBounds
from irrbench.metrics.base import _tell_of_repeats
from irrbench.simulate import draw_lesions

B, R = 6, 3
LESIONS = draw_lesions(B, sensitivity=[0.9, 0.8, 0.85], specificity=[0.97, 0.99, 0.98], size=(30, 20))
MASKS, LOGITS = LESIONS.masks, LESIONS.truth.float() - 0.5
RATERS = [KrippendorffAlpha, GwetAC1, PixelICC, AreaICC, ExtentICC]
IDS = [f"image {i}" for i in range(B)]


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (SegmentationBounds(), "SegmentationBounds()"),
        (
            SegmentationBounds(["iou", "nsd"], from_logits=False, tolerance=1.5, spacing=(2, 0.5)),
            "SegmentationBounds(scores=('iou', 'nsd'), from_logits=False, spacing=(2.0, 0.5), tolerance=1.5)",
        ),
        (
            SegmentationBounds(num_classes=3, class_names=["rest", "cyst", "tumour"], include_background=True),
            "SegmentationBounds(num_classes=3, class_names=['rest', 'cyst', 'tumour'], include_background=True)",
        ),
        (
            SegmentationBounds(["f1"], ties="positive").as_metric("f1_ceiling"),
            "BoundsValue('f1_ceiling', ties='positive')",
        ),
        (PixelICC(engine="quadrature", ignore_index=9), "PixelICC(engine='quadrature')"),
        (AreaICC(cells=4), "AreaICC(cells=4)"),
        (KrippendorffAlpha(num_classes=3), "KrippendorffAlpha(num_classes=3)"),
        (ProbabilityLevels(["f1"], levels=10), "ProbabilityLevels(scores=('f1',), levels=10)"),
    ],
)
def test_its_repr_has_the_options_that_are_not_the_defaults(metric, text):
    assert repr(metric) == text


EVERY = {
    "bounds": lambda: SegmentationBounds(["iou", "f1"]),
    "classes": lambda: SegmentationBounds(["iou"], num_classes=3, class_names=["rest", "cyst", "tumour"]),
    "value": lambda: SegmentationBounds(["iou"]).as_metric("iou_normalized"),
    "levels": lambda: ProbabilityLevels(["iou"], levels=4),
    **{metric.__name__: metric for metric in RATERS},
}


@pytest.mark.parametrize("name", EVERY)
def test_before_the_first_image_a_value_is_nan_with_the_warning_of_torchmetrics(name):
    metric = EVERY[name]()
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        value = metric.compute()
    numbers = value if isinstance(value, dict) else {name: value}
    assert {key for key, number in numbers.items() if not number.isnan()} == {
        key for key in numbers if key.endswith("n_images")
    }
    assert not any(number for key, number in numbers.items() if key.endswith("n_images"))
    with pytest.raises(ValueError, match="No image has come yet: call `update` first"):
        metric.per_image()
    if name == "classes":
        metric.update(torch.randn(B, 3, 30, 20), MASKS.long())
    elif name in ("bounds", "value", "levels"):
        metric.update(LOGITS, MASKS)
    else:
        metric.update(MASKS)
    full = metric.compute()
    if isinstance(full, dict):
        assert set(full) >= set(numbers)  # detection is shown where it counts
    metric.reset()
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        again = metric.compute()
    assert repr(again) == repr(value)


@pytest.mark.parametrize("channels", [False, True])
def test_a_collection_takes_predictions_and_masks_by_their_places(channels):
    preds = LOGITS[:, None] if channels else LOGITS
    roi = torch.ones(B, 30, 20, dtype=torch.bool)
    roi[:, 20:] = False
    several = MetricCollection([SegmentationBounds(["iou"]), *(metric() for metric in RATERS)])
    several.update(preds, MASKS, roi, IDS)
    found = several.compute()
    for metric in (metric() for metric in RATERS):
        metric.update(MASKS, roi, IDS)
        assert found[type(metric).__name__] == metric.compute()
    assert found["n_images"] == B
    assert len(several) == 6


def test_metrics_of_raters_take_arguments_by_place_and_by_name_alike():
    present = torch.ones(B, R, dtype=torch.bool)
    present[2, 1] = False
    ways = [
        ((MASKS, None, IDS, present), {}),
        ((LOGITS, MASKS, None, IDS, present), {}),
        ((LOGITS, MASKS), {"image_id": IDS, "present": present}),
        ((), {"masks": MASKS, "image_id": IDS, "present": present}),
        ((), {"preds": LOGITS, "masks": MASKS, "present": present}),
    ]
    values = []
    for places, names in ways:
        metric = KrippendorffAlpha()
        metric.update(*places, **names)
        values.append(metric.compute().item())
    assert len(set(values)) == 1
    assert 0.5 < values[0] < 1


@pytest.mark.parametrize(
    ("places", "names", "error", "message"),
    [
        ((), {}, TypeError, "`update` needs `masks`"),
        ((MASKS,), {"masks": MASKS}, TypeError, "`masks` was given twice"),
        ((LOGITS, MASKS, None, IDS), {"image_id": IDS}, TypeError, "`image_id` was given twice"),
        ((MASKS, None, IDS, None, None), {}, TypeError, "takes masks, roi, image_id, present; found 5 arguments"),
        ((MASKS, torch.ones(B, 1, 30, 20)), {}, ValueError, r"The number of raters must be from 2 to 16, found 1"),
        ((LOGITS,), {}, ValueError, r"`masks` must be \(B, R, \*S\)"),
    ],
)
def test_arguments_of_a_metric_of_raters_that_do_not_fit(places, names, error, message):
    with pytest.raises(error, match=message):
        KrippendorffAlpha().update(*places, **names)


def test_trackers_and_wrappers_take_one_number():
    one = SegmentationBounds(["iou", "hd95"])
    tracker = MetricTracker(MetricCollection({key: one.as_metric(key) for key in ("iou", "hd95")}), maximize=None)
    for preds in (MASKS[:, 0].float() - 0.5, LOGITS, torch.full_like(LOGITS, -1.0)):
        tracker.increment()
        tracker.update(preds, MASKS)
    assert tracker.best_metric(return_step=True)[1] == {"iou": 1, "hd95": 1}
    span = MinMaxMetric(one.as_metric("iou"))
    span.update(LOGITS, MASKS)
    assert span.compute()["raw"] == span.compute()["max"] == tracker.compute_all()["iou"][1]
    running = Running(one.as_metric("iou"), window=1)
    for part in (slice(0, 4), slice(4, B)):
        running.update(LOGITS[part], MASKS[part])
    last = one.as_metric("iou")
    last.update(LOGITS[4:], MASKS[4:])
    assert running.compute() == last.compute()


def test_a_bootstrap_spreads_as_resampled_images_do():
    torch.manual_seed(0)
    boot = BootStrapper(
        SegmentationBounds(["iou"]).as_metric("iou"), num_bootstraps=200, sampling_strategy="multinomial"
    )
    boot.update(MASKS[:, 0].float() - 0.5, MASKS)
    whole = SegmentationBounds(["iou"])
    whole.update(MASKS[:, 0].float() - 0.5, MASKS)
    values = torch.tensor(whole.per_image()["iou"].to_numpy())
    found = boot.compute()
    assert abs(found["mean"] - values.mean()) < values.std() / 5
    assert found["std"].item() == pytest.approx((values.std(correction=0) / B**0.5).item(), rel=0.25)


def test_copies_of_an_image_in_a_batch_are_told_once(caplog):
    _tell_of_repeats.cache_clear()
    twice = torch.tensor([0, 1, 1])
    metric = SegmentationBounds(["iou"])
    with caplog.at_level(logging.WARNING, "irrbench"):
        for _ in range(2):
            metric.update(LOGITS[twice], MASKS[twice], image_id=twice)
    assert metric.compute()["n_images"] == 2
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "comes twice in one batch: the image counts once" in told[0]
    assert "leave `image_id` out" in told[0]
