"""What is not there: raters without a mask, images without a pixel that counts; said, counted, and never silent."""

import logging
import math
import re

import pytest
import torch

from irrbench import AreaICC, KrippendorffAlpha, SegmentationBounds, VotePatterns, area_icc
from irrbench.evaluation import Evaluator
from irrbench.icc.extent import logit_extent
from tests.test_patterns import draw


@pytest.mark.parametrize("value", [255, -1, 9])
@pytest.mark.parametrize("with_roi", [False, True])
def test_a_rater_who_has_void_alone_is_absent(value, with_roi):
    masks, roi, preds = draw()
    masks, raters = masks.to(torch.int64), masks.shape[1]
    present = torch.ones(masks.shape[:2], dtype=torch.bool)
    present[0, 1] = present[2, 0] = False
    given = masks.masked_fill(~present[:, :, None, None], value)
    roi[1] = False  # nothing is left of this image, whoever rated it
    if with_roi:  # what lies outside of the region says nothing
        given[0, 1] = torch.where(roi[0], value, 0)
    metric, plain = SegmentationBounds(["iou"], ignore_index=value), SegmentationBounds(["iou"])
    metric.update(preds, given, roi, list("abc"))
    plain.update(preds, masks, roi, list("abc"), present)
    table = metric.per_image()
    assert table.equals(plain.per_image())
    assert table["n_raters"].tolist() == [raters - 1, raters, raters - 1]


def test_void_of_all_raters_is_no_absence_and_patches_keep_their_raters():
    masks = torch.tensor([[[1, 0, 1, 1], [1, 1, 0, 1]], [[255] * 4, [255] * 4], [[255] * 4, [1, 0, 0, 1]]])
    metric = SegmentationBounds(["iou"], ignore_index=255)
    metric.update(torch.ones(3, 4, dtype=torch.bool), masks)
    assert metric.per_image()["n_raters"].tolist() == [2, 2, 1]
    assert metric.per_image()["roi_pixels"].tolist() == [4, 0, 4]
    whole = SegmentationBounds(["iou"], ignore_index=255, aggregate="image")
    whole.update(torch.ones(3, 4, dtype=torch.bool), masks, image_id=["a"] * 3)
    assert whole.per_image()[["n_raters", "roi_pixels"]].to_numpy().tolist() == [[2, 4]]


@pytest.mark.parametrize("hold", [math.nan, -1, 255, 7])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_masks_of_absent_raters_may_hold_anything(hold, num_classes):
    masks, roi, preds = draw()
    present = torch.ones(masks.shape[:2], dtype=torch.bool)
    present[0, 1] = False
    given = masks.to(torch.float32).masked_fill(~present[:, :, None, None], hold)
    found = []
    for x in (given, masks.to(torch.float32)):
        metric = SegmentationBounds(["iou"], num_classes=num_classes)
        metric.update(preds.to(torch.int64), x, roi, list("abc"), present)
        found.append(metric.per_image())
    assert found[0].equals(found[1])


@pytest.mark.parametrize(
    ("hold", "how"),
    [
        (-1, "(masks != -1).flatten(2).any(2)"),
        (255, "(masks != 255).flatten(2).any(2)"),
        (math.nan, "~masks.isnan().flatten(2).all(2)"),
    ],
)
@pytest.mark.parametrize("make", [SegmentationBounds, lambda **o: Evaluator("val", **o), KrippendorffAlpha])
@pytest.mark.parametrize("options", [{}, {"num_classes": 2}])
def test_the_advice_on_a_missing_rater_can_be_pasted(hold, how, make, options):
    drawn, _, preds = draw()
    masks = drawn.to(torch.float32)
    masks[1, 2] = hold
    preds = {} if make is KrippendorffAlpha else {"preds": preds.long()}
    with pytest.raises(ValueError, match=re.escape(f"say by `present` (B, R) who did, `{how}`")):
        make(**options).update(**preds, masks=masks)
    make(**options).update(**preds, masks=masks, present=eval(how))  # noqa: S307 (our own words)
    assert eval(how).flatten().tolist() == [not (i == 1 and r == 2) for i in range(3) for r in range(drawn.shape[1])]  # noqa: S307


def test_void_in_parts_is_not_a_missing_rater():
    masks = torch.zeros(2, 3, 4, 5, dtype=torch.int16)
    masks[0, 0] = masks[1, 1, 0] = -1
    with pytest.raises(ValueError, match="If -1 is void, pass `ignore_index=-1`"):
        SegmentationBounds().update(torch.zeros(2, 4, 5), masks)


@pytest.mark.parametrize("empty", [3, 2])
def test_images_without_a_pixel_are_counted_and_said_once(caplog, empty):
    masks, roi, preds = draw()
    roi[:empty] = False
    evaluator = Evaluator("val", scores=["iou"])
    with caplog.at_level(logging.WARNING, "irrbench"):
        for _ in range(2):
            evaluator.update(preds, masks, roi=roi)
            values = evaluator.finish()
            evaluator.metric.compute()
    assert values["val/n_images"] == 3
    said = [r.getMessage() for r in caplog.records]
    if empty == 3:
        assert math.isnan(values["val/iou"])
        assert said == [
            "There are no scores, as no pixel of any image lies in the ROI: is `roi` empty, or is all void?"
        ]
        assert evaluator.line() == "val iou: not a number, no pixel of any image lies in the ROI"
        assert evaluator.summary["iou"].reason == "no pixel of any image lies in the ROI"
    else:
        assert said == [
            "2 of 3 images have no pixel in the ROI: they have no bounds, and the means are over the others."
        ]
        assert evaluator.line().endswith("; 2 of 3 images have no pixel in the ROI")


def test_void_everywhere_and_images_of_one_rater_are_counted_too(caplog):
    masks, _, preds = draw()
    masks = masks.to(torch.int64)
    masks[0], masks[1, 1:] = -1, -1
    metric = SegmentationBounds(["iou"], ignore_index=-1)
    metric.update(preds, masks)
    with caplog.at_level(logging.WARNING, "irrbench"):
        found = metric.compute()
    assert (found["n_images"], found["iou_n_images"]) == (3, 1)
    parts = "1 of 3 images have no pixel in the ROI and 1 of 3 images have masks of fewer than two raters"
    assert caplog.messages == [f"{parts}: they have no bounds, and the means are over the others."]


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.0, 1.0, True), (0.2, 0.3, True), (-0.36, 0.37, False), (-0.001, 1.0, False), (0.1, 1.1, False)],
)
def test_probabilities_are_suspected_only_of_numbers_that_are_some(caplog, low, high, says):
    masks, _, _ = draw()
    preds = torch.linspace(low, high, masks[:, 0].numel()).view_as(masks[:, 0])
    metric = SegmentationBounds(["iou"], threshold=0.3)
    with caplog.at_level(logging.WARNING, "irrbench"):
        for part in (slice(0, 2), slice(2, 3)):
            metric.update(preds[part], masks[part])
        metric.compute()
    assert [("lie between 0 and 1" in text) for text in caplog.messages] == [True] * says


def test_masks_with_a_channel_are_told_to_drop_it():
    masks, _, preds = draw()
    for other in (preds, preds[:, None]):
        with pytest.raises(ValueError, match=r"volumes of one slice, .* Pass `masks\.squeeze\(2\)`"):
            SegmentationBounds().update(other, masks[:, :, None])


def counted(present):
    masks, roi, preds = draw()
    yield VotePatterns.from_masks(masks, present=present).counts
    yield VotePatterns.from_levels(masks, preds.long(), num_levels=2, present=present).counts
    yield from (x.counts for x in VotePatterns.from_labels(masks.long(), num_classes=2, present=present))
    totals = VotePatterns.from_masks(masks).counts
    yield VotePatterns.from_counts(totals, num_raters=masks.shape[1], present=present).present
    yield area_icc(masks, cells=2, present=present).icc
    yield torch.from_numpy(logit_extent(masks.sum((2, 3)), [masks[0, 0].numel()] * len(masks), present=present))
    for void in (None, 255):
        for metric in (SegmentationBounds(["iou"], ignore_index=void), AreaICC(cells=2, ignore_index=void)):
            metric.update(**metric._filter_kwargs(preds=preds, masks=masks, roi=roi, present=present))
            yield torch.from_numpy(metric.per_image().select_dtypes("number").to_numpy(float))
        evaluator = Evaluator(scores=["iou"], ignore_index=void)
        evaluator.update(preds, masks, roi=roi, present=present)
        yield torch.tensor(list(evaluator.finish().values()))


def who():
    masks = draw()[0]
    present = torch.ones(masks.shape[:2], dtype=torch.bool)
    present[0, 1] = present[2, 0] = False
    return present


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64, torch.float16, torch.float64])
def test_who_is_present_is_said_by_numbers_of_any_type(dtype):
    for found, expected in zip(counted(who().to(dtype)), counted(who()), strict=True):
        assert torch.equal(found.nan_to_num(-9), expected.nan_to_num(-9))


@pytest.mark.parametrize("value", [0.3, 2, -1, 255, math.nan])
def test_a_rater_is_present_or_not(value):
    present = torch.where(who(), value, 0)
    calls, text = counted(present), r"`present` must hold 0 and 1 \(or bool\), .* found the values "
    with pytest.raises(ValueError, match=text):
        next(calls)
    masks, roi, preds = draw()
    size = [masks[0, 0].numel()] * len(masks)
    others = [
        lambda: VotePatterns.from_levels(masks, preds.long(), num_levels=2, present=present),
        lambda: VotePatterns.from_labels(masks.long(), num_classes=2, present=present),
        lambda: VotePatterns.from_counts(torch.zeros(3, 16).long(), num_raters=4, present=present),
        lambda: area_icc(masks, present=present),
        lambda: logit_extent(masks.sum((2, 3)), size, present=present),
        lambda: AreaICC().update(masks, present=present),
        *(lambda o=o: KrippendorffAlpha(**o).update(masks, present=present) for o in ({}, {"ignore_index": 255})),
        *(
            lambda o=o: SegmentationBounds(**o).update(preds, masks, roi, None, present)
            for o in ({}, {"num_classes": 2})
        ),
        lambda: Evaluator(ignore_index=-1).update(preds, masks, present=present),
    ]
    for call in others:
        with pytest.raises(ValueError, match=text):
            call()
