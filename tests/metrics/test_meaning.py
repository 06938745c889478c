"""What a value means: void, classes, findings, numbers that are no predictions; a wrong one is told at once."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MultilabelJaccardIndex

from irrbench import (
    AreaICC,
    ExtentICC,
    GwetAC1,
    KrippendorffAlpha,
    PixelICC,
    SegmentationBounds,
)
from irrbench.evaluation import Evaluator
from irrbench.summary import bounds_digest
from tests import reference
from tests.test_patterns import draw

RATERS = [KrippendorffAlpha, GwetAC1, PixelICC, lambda: AreaICC(cells=2), ExtentICC]


def with_void(value=255, dtype=torch.uint8, seed=0):
    """Masks of 3 images, 4 raters with void here and there; who is present; the pixels where nobody present has it."""
    masks, roi, preds = draw(seed, (3, 4, 9, 11))
    g = torch.Generator().manual_seed(seed + 1)
    void = torch.rand(3, 4, 9, 11, generator=g) < 0.08
    void[0, 3] = True  # of an absent rater, as padding
    present = torch.ones(3, 4, dtype=torch.bool)
    present[0, 3] = False
    void[2, 1, :5] = void[2, 2, 5:] = True  # of present ones: together nothing is left of that image
    counting = ~(void & present[:, :, None, None]).any(1)
    return masks.to(dtype).masked_fill(void, value), roi, preds, present, counting


@pytest.mark.parametrize(
    ("value", "dtype"), [(255, torch.uint8), (-1, torch.int64), (-100, torch.int32), (9, torch.float32)]
)
@pytest.mark.parametrize("with_roi", [False, True])
def test_void_is_as_if_the_pixels_were_not_there(value, dtype, with_roi):
    masks, roi, preds, present, counting = with_void(value, dtype)
    inside = counting & roi if with_roi else counting
    metric = SegmentationBounds(["iou", "kappa"], ignore_index=value)
    given = preds.to(torch.int64).masked_fill(~counting, value)  # a network that predicts void, too
    metric.update(given, masks, roi if with_roi else None, list("abc"), present)
    table = metric.per_image()
    for i in range(3):
        for score in ("iou", "kappa"):
            expected = reference.bounds(score, masks[i] == 1, inside[i], preds[i], present[i])
            for who in ("floor", "ceiling", "majority", "model"):
                column = score if who == "model" else f"{score}_{who}"
                assert table[column][i] == pytest.approx(expected[who], abs=1e-12, nan_ok=True)
    assert table["roi_pixels"].tolist() == inside.flatten(1).sum(1).tolist()
    assert table.loc[2, ["iou", "iou_floor", "kappa_ceiling"]].isna().all()
    found = metric.compute()
    assert (found["n_images"], found["iou_n_images"]) == (3, 2)


@pytest.mark.parametrize("make", RATERS)
def test_void_in_metrics_of_the_raters(make):
    masks, roi, _, present, counting = with_void()
    one, other = make(), make()
    one.ignore_index = 255
    one.update(masks, roi, present=present)
    other.update(masks == 1, roi & counting, present=present)
    assert one.per_image().equals(other.per_image())
    without = type(one)(**({"ignore_index": 255} | ({"cells": 2} if isinstance(one, AreaICC) else {})))
    without.update(masks, roi, present=present)
    assert without.compute() == other.compute()


def test_void_in_label_maps_and_in_training_labels():
    masks, roi, preds, present, counting = with_void(seed=4)
    labels = torch.where(masks == 255, 255, masks + preds[:, None].to(torch.uint8))
    known = labels.masked_fill(labels == 255, 0)
    one, other = (SegmentationBounds(["iou"], num_classes=3, ignore_index=x) for x in (255, None))
    one.update(preds.long(), labels, roi, list("abc"), present)
    other.update(preds.long(), known, roi & counting, list("abc"), present)
    assert one.per_image().equals(other.per_image())
    label = masks[:, 2]
    on_label = SegmentationBounds(["iou"], ignore_index=255)
    on_label.update(preds, masks, roi, list("abc"), present, label)
    for i in (0, 1):
        kept = (counting & roi)[i]
        truth, found = label[i][kept] == 1, preds[i][kept].bool()
        expected = (truth & found).sum() / (truth | found).sum()
        assert on_label.per_image()["iou_label"][i] == pytest.approx(expected.item())


@pytest.mark.parametrize("options", [{"ignore_index": 1}, {"ignore_index": 2, "num_classes": 3}])
def test_void_is_no_class(options):
    with pytest.raises(
        ValueError, match=r"`ignore_index` must be a value for void, none of 0 \.\. [12], which are classes"
    ):
        SegmentationBounds(**options)


def test_void_that_the_type_cannot_hold_is_nowhere():
    masks, roi, preds = draw()
    for given in (masks, masks.to(torch.uint8)):
        metric, plain = SegmentationBounds(["iou"], ignore_index=-100), SegmentationBounds(["iou"])
        metric.update(preds, given + 0 if given.dtype is not torch.bool else given, roi)
        plain.update(preds, given, roi)
        assert metric.per_image().equals(plain.per_image())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m: m * 2, r"found the values 0, 2\. Class numbers need `num_classes=3`"),
        (
            lambda m: torch.where(m.cumsum(-1) == 1, m, 255 * m),
            r"found the values 0, 1, 255\. .*pass `ignore_index=255`",
        ),
        (lambda m: m - 1, r"found the values -1, 0\. If -1 is void, pass `ignore_index=-1`"),
        (lambda m: m / 2, r"found the values 0, 0\.5\. Probabilities and soft labels must be cut"),
    ],
)
def test_masks_that_are_none_are_refused_at_the_first_batch(wrong, message):
    masks, _, preds = draw()
    masks = masks.to(torch.int64)
    for make in (SegmentationBounds, lambda: Evaluator("val")):
        with pytest.raises(ValueError, match=f"`masks` must hold 0 and 1 .*{message}"):
            make().update(preds, wrong(masks))
    for dtype in (torch.uint8, torch.int32):
        with pytest.raises(ValueError, match=r"`preds` must hold 0 and 1 .*found the values 0, 2\. .*`num_classes=3`"):
            SegmentationBounds().update(2 * preds.to(dtype), masks)


def test_masks_of_0_and_255_are_masks():
    masks, roi, preds = draw()
    values = []
    for m, p in (
        (masks, preds),
        (255 * masks.to(torch.uint8), 255 * preds.to(torch.uint8)),
        (masks.double(), preds.int()),
    ):
        metric = SegmentationBounds(["iou"])
        metric.update(p, m, roi)
        values.append(metric.compute()["iou"].item())
    assert len(set(values)) == 1


def broken(value=math.nan, which=(1, 3), num=5):
    """Logits of which some images have a number that is none."""
    masks, roi, preds = draw(2, (num, 3, 8, 9))
    logits = torch.where(preds, 1.0, -1.0)
    logits[list(which), 2, 3] = value
    return logits, masks, roi, [f"image {i}" for i in range(num)]


SCORES = ["iou", "accuracy", "kappa", "specificity", "false_alarm"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_predictions_that_are_no_numbers_count_as_the_worse_of_all_and_nothing(value, caplog):
    logits, masks, roi, ids = broken(value)
    masks[3] = False  # where nobody marks anything, false alarms are defined
    metric, intact = SegmentationBounds(SCORES, rebuilt=True), SegmentationBounds(SCORES, rebuilt=True)
    for part in (slice(0, 2), slice(2, 5)):
        metric.update(logits[part], masks[part], roi[part], ids[part])
    intact.update(logits.nan_to_num(0, 0, 0), masks, roi, ids)
    found, whole = metric.per_image(), intact.per_image()
    bad = found["unusable"].to_numpy()
    assert metric.unusable == ["image 1", "image 3"] == found["image_id"][bad].tolist()
    bounds = [c for c in found if any(f"_{who}" in c for who in ("floor", "blank", "ceiling", "upper", "majority"))]
    assert found[bounds].equals(whole[bounds])
    assert found[~bad].drop(columns="unusable").equals(whole[~bad])
    for score in SCORES:
        choose = max if score == "false_alarm" else min
        for end in ("", *(f"_{kind}{r}" for kind in ("fold", "without") for r in range(3))):
            both = found.loc[bad, [f"{score}_floor{end}", f"{score}_blank{end}"]]
            if not both.isna().to_numpy().any():
                means = found.loc[bad, [f"{score}_floor", f"{score}_blank"]].to_numpy()
                column = [row.tolist().index(choose(row)) for row in means]
                assert found.loc[bad, f"{score}{end}"].tolist() == [
                    x[k] for x, k in zip(both.to_numpy(), column, strict=True)
                ]
    assert not found.loc[bad, ["equals_rater", "equals_majority"]].to_numpy().any()
    assert found.loc[bad, "marked_pixels"].tolist() == [0, 0]
    assert metric.compute()["iou"] < intact.compute()["iou"]
    assert metric.compute()["iou_n_images"] == intact.compute()["iou_n_images"]
    assert len(caplog.records) == 1
    assert "2 of 5 images have predictions that are NaN or infinite" in caplog.text
    assert "first 'image 1': each counts as the worse of marking everything and marking nothing" in caplog.text
    assert bounds_digest(found, {}) == bounds_digest(whole, {})


def on_one_mask(mask, roi, marks):
    """Scores of a prediction that marks all (True) or nothing, on one mask, by hand."""
    truth, n = mask[roi], int(roi.sum())
    positives = int(truth.sum())
    right = positives if marks else n - positives
    return {
        "iou": right / n if marks and positives else 0.0,
        "accuracy": right / n,
        "kappa": 0.0 if 0 < positives < n else math.nan,
        "specificity": float(not marks),
        "false_alarm": math.nan if positives else float(marks),
        "tpr": float(marks),
    }


@pytest.mark.parametrize("classes", [None, 2])
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_one_rater_s_image_without_a_prediction_counts_as_the_worse_of_all_and_nothing(share, classes):
    logits, masks, roi, ids = broken()
    masks[1] = torch.rand(8, 9, generator=torch.Generator().manual_seed(1)) < share
    masks[3] = False
    present = torch.ones(5, 3, dtype=torch.bool)
    present[[1, 2, 3], 1:] = False
    metric = SegmentationBounds([*SCORES, "tpr"], num_classes=classes)
    if classes:
        logits = torch.stack([-logits, logits], 1)
    metric.update(logits, masks.long() if classes else masks, roi, ids, present)
    table = metric.per_image()
    for image in (1, 3):
        everything, nothing = (on_one_mask(masks[image, 0], roi[image], marks) for marks in (True, False))
        for score in [*SCORES, "tpr"]:
            worse = (max if score == "false_alarm" else min)(everything[score], nothing[score])
            if image == 3 and score in ("iou", "tpr", "kappa"):
                worse = math.nan  # undefined where the mask is empty
            assert table.loc[image, f"{score}_all"] == pytest.approx(worse, nan_ok=True), (image, score)
    assert table.loc[1, "accuracy_all"] > 0
    assert table.loc[2, ["iou_all", "accuracy_all"]].min() > 0
    assert table.loc[4, "iou_all"] == table.loc[4, "iou"]


@pytest.mark.parametrize("aggregate", ["image", lambda patch: patch.partition("/")[0]])
def test_no_image_has_a_usable_prediction_though_patches_have(aggregate):
    logits, masks, roi, _ = broken(which=(0, 3), num=6)
    by_image = ["a", "a", "a", "b", "b", "b"]
    ids = by_image if aggregate == "image" else [f"{name}/{n}" for n, name in enumerate(by_image)]
    metric = SegmentationBounds(["iou"], aggregate=aggregate)
    for part in (slice(0, 2), slice(2, 6)):
        metric.update(logits[part], masks[part], roi[part], ids[part])
    with pytest.raises(ValueError, match=r"Predictions must be finite .* all 2 images have others, first 'a'"):
        metric.compute()
    metric.update(logits[1:2], masks[1:2], roi[1:2], ["c"] if aggregate == "image" else ["c/0"])
    table = metric.per_image()
    assert table["unusable"].tolist() == [True, True, False]


def test_a_model_without_any_number_has_no_score_and_stops_nothing(caplog):
    logits, masks, roi, ids = broken(which=range(5))
    evaluator = Evaluator("val", scores=["iou"])
    for epoch in range(2):
        evaluator.update(logits, masks, roi=roi, image_id=ids)
        assert math.isnan(evaluator.finish(epoch)["val/iou"])
    assert "all 5 images have others, first 'image 0'" in caplog.text
    evaluator.update(logits.nan_to_num(1), masks, roi=roi, image_id=ids)
    assert evaluator.finish(2)["val/iou"] > 0


def test_some_images_without_numbers_cost_an_epoch_nothing_else(caplog):
    logits, masks, roi, ids = broken()
    evaluator = Evaluator("val", scores=["iou"])
    for epoch in range(2):
        evaluator.update(logits, masks, roi=roi, image_id=ids)
        values = evaluator.finish(epoch)
        assert not any(map(math.isnan, [values["val/iou"], values["val/iou_floor"], values["val/iou_ceiling"]]))
    assert len(caplog.records) == 2  # once an epoch


def test_numbers_that_are_no_probabilities_are_an_error_at_once_and_on_a_gpu_one_image():
    _, masks, roi, ids = broken()
    probabilities = torch.full((5, 8, 9), 0.25)
    probabilities[3, 1, 1], probabilities[4, 1, 1] = 1.5, math.nan
    for make in (lambda: SegmentationBounds(from_logits=False), lambda: Evaluator("val", from_logits=False)):
        with pytest.raises(
            ValueError, match=r"\(rounding errors of 1e-06 are clipped\), found 0\.25 \.\. 1\.5\. Leave"
        ):
            make().update(probabilities, masks, roi=roi, image_id=ids)
    late = SegmentationBounds(["iou"], from_logits=False)
    late._validates = lambda _: False  # as on an accelerator after the first batch
    late.update(probabilities, masks, roi, ids)
    assert late.compute()["iou_n_images"] == 5
    assert late.unusable == ["image 3", "image 4"]


def label_maps(seed=5):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (4, 3, 5, 7), generator=g), torch.randn(4, 3, 5, 7, generator=g)


@pytest.mark.parametrize("ties", ["average", "negative"])
def test_two_classes_are_a_binary_mask(ties):
    masks, roi, _ = draw(6, (4, 3, 8, 9))
    scores = torch.randn(4, 2, 8, 9, generator=torch.Generator().manual_seed(1))
    options = {"scores": ["iou", "accuracy", "kappa"], "ties": ties, "rebuilt": True}
    binary, softmax = SegmentationBounds(**options), SegmentationBounds(num_classes=2, **options)
    binary.update(scores[:, 1] - scores[:, 0], masks, roi)
    softmax.update(scores, masks.long(), roi)
    one, two = binary.per_image(), softmax.per_image()
    assert one.columns.tolist() == two.columns.tolist()
    np.testing.assert_array_equal(one.drop(columns=["image_id", "alpha"]), two.drop(columns=["image_id", "alpha"]))
    np.testing.assert_allclose(one["alpha"], two["alpha"], atol=1e-12)
    both = SegmentationBounds(num_classes=2, include_background=True, **options)
    both.update(scores, masks.long(), roi)
    found, mean = both.compute(), both.per_image()
    assert found["iou_class1"].item() == pytest.approx(binary.compute()["iou"].item(), abs=1e-12)
    np.testing.assert_allclose(mean["iou"], mean[["iou_class0", "iou_class1"]].mean(axis=1))
    assert found["iou"] != found["iou_class1"]


def test_the_mean_over_classes_leaves_the_background_out():
    labels, scores = label_maps()
    labels[0][labels[0] == 2] = 1  # a class that is nowhere in an image
    one, other = (SegmentationBounds(["iou", "f1"], num_classes=3, include_background=x) for x in (False, True))
    for metric in (one, other):
        metric.update(scores, labels)
    table, full = one.per_image(), other.per_image()
    for who in ("", "_floor", "_ceiling", "_upper"):
        classes = full[[f"iou_class{c}{who}" for c in (1, 2)]].to_numpy()
        np.testing.assert_array_equal(table[f"iou{who}"], np.nanmean(classes, 1))
        assert f"iou_class0{who}" not in table
    assert math.isnan(table["iou_class2_floor"][0])
    assert table["marked_pixels"].tolist() == (scores.argmax(1) > 0).flatten(1).sum(1).tolist()
    # The model against one rater's label map, by another package: with two raters the reference is the other's mask.
    pair = SegmentationBounds(["iou"], num_classes=3)
    pair.update(scores[1:2], labels[1:2, :2])
    peer = MultilabelJaccardIndex(2, average="none")
    expected = []
    for r in (0, 1):
        hot = [torch.stack([x[1].flatten() == c for c in (1, 2)], 1) for x in (scores.argmax(1), labels[:, r])]
        expected.append(peer(*(x.int() for x in hot)))
    assert pair.compute()["iou"].item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-6)


def test_classes_have_names():
    labels, scores = label_maps()
    names = ("background", "liver", "left lung")
    named, plain = (
        SegmentationBounds(["iou"], num_classes=3, class_names=names),
        SegmentationBounds(["iou"], num_classes=3),
    )
    for metric in (named, plain):
        metric.update(scores, labels)
    found, expected = named.compute(), plain.compute()
    assert found["iou_liver_ceiling"] == expected["iou_class1_ceiling"]
    assert found["iou_left lung"] == expected["iou_class2"]
    assert "iou_background" not in found
    assert plain.rules == {"ties": "average", "empty_reference": "drop", "background": "left out"}
    assert SegmentationBounds(ignore_index=255).rules["ignore_index"] == "255"
    evaluator = Evaluator("val", scores=["iou"], num_classes=3, class_names=names, include_background=True)
    evaluator.update(scores, labels)
    values = evaluator.finish(0)
    assert {
        "val/iou_background",
        "val/iou_liver",
        "val/iou_liver_floor",
        "val/iou_left lung_normalized",
    } <= values.keys()
    assert all(evaluator.owns(key.removeprefix("val/")) for key in values)
    assert not evaluator.owns("iou_spleen")
    two = SegmentationBounds(["iou"], num_classes=2, class_names=["rest", "tumour"])
    two.update(scores[:, :2], labels.clamp(max=1))
    assert two.compute()["iou_tumour"] == two.compute()["iou"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b"), "one name for each of num_classes=3 classes, the background first; found"),
        (("a", "b", "b"), "one name for each of num_classes=3 classes"),
        ("abc", "one name for each of num_classes=3 classes"),
        (("a", "b", "pelvic_floor"), "not end like another column .* found 'pelvic_floor'"),
        (("a", "b", "fold3"), "not end like another column"),
        (("a", "b", "c/d"), "consist of letters, digits, spaces"),
    ],
)
def test_names_of_classes_are_checked(names, message):
    with pytest.raises(ValueError, match=f"`class_names` must .*{message}"):
        SegmentationBounds(num_classes=3, class_names=names)


def test_findings_are_no_slices():
    hot = torch.randint(0, 3, (2, 4, 6, 7)).unsqueeze(2) == torch.arange(3).view(3, 1, 1)
    findings = torch.rand(2, 4, 3, 6, 7) < 0.3
    message = (
        r"`masks` \(2, 4, 3, 6, 7\) = .* of 3 slices, and `{}` is .*`masks.argmax\(2\)` and `num_classes=3`.*`name=`"
    )
    one, several, image = torch.randn(2, 1, 6, 7), torch.randn(2, 3, 6, 7), torch.rand(2, 1, 6, 7)
    for metric, preds, masks in (
        (SegmentationBounds(), one, findings),
        (SegmentationBounds(), one[:, 0], findings),
        (SegmentationBounds(), one[:, 0] > 0, hot.long()),
        (SegmentationBounds(), several, hot),
        (SegmentationBounds(num_classes=3), several, hot.long()),
        (SegmentationBounds(num_classes=3), several.argmax(1), hot.long()),
    ):
        with pytest.raises(ValueError, match=message.format("preds")):
            metric.update(preds, masks)
    with pytest.raises(ValueError, match=message.format("image")):
        Evaluator("val").update(several, findings, image=image)
    right = SegmentationBounds(["iou"], num_classes=3)
    right.update(several, hot.long().argmax(2))
    assert right.compute()["iou_n_images"] == 2


def test_volumes_are_volumes():
    masks, preds = torch.rand(2, 3, 4, 6, 7) < 0.4, torch.randn(2, 1, 4, 6, 7)
    for given, image in ((preds, torch.rand(2, 1, 4, 6, 7)), (preds[:, 0], None)):
        evaluator = Evaluator("val", scores=["iou"], num_panels=0)
        evaluator.update(given, masks, image=image)
        assert evaluator.finish()["val/n_images"] == 2
    one_slice = SegmentationBounds(["iou"])
    one_slice.update(preds[:, :, :1], torch.ones(2, 3, 1, 6, 7))
    assert one_slice.compute()["n_images"] == 2


@pytest.mark.parametrize(
    ("preds", "masks", "message"),
    [
        (torch.zeros(6, 7), torch.zeros(6, 7), r"`masks` must be \(B, R, \*S\).*found \(6, 7\)"),
        (torch.zeros(64, 48), torch.zeros(4, 64, 48), r"an axis too few\. One image is `masks\[None\]`"),
        (
            torch.zeros(2, 64, 48),
            torch.zeros(2, 64, 48, 4),
            r"4 raters on the last axis\. Pass `masks\.movedim\(-1, 1\)`",
        ),
        (torch.zeros(2, 9, 7), torch.zeros(2, 3, 6, 7), r"`preds` must be \(2, 6, 7\), as `masks` is \(2, 3, 6, 7\)"),
        (torch.zeros(3, 6, 7), torch.zeros(2, 3, 6, 7), r"`preds` must be \(2, 6, 7\)"),
    ],
)
def test_shapes_that_do_not_fit_are_one_sentence(preds, masks, message):
    with pytest.raises(ValueError, match=message) as error:
        SegmentationBounds().update(preds, masks)
    assert len(str(error.value)) < 240


def test_labels_trained_on_are_of_binary_masks():
    labels, scores = label_maps()
    with pytest.raises(ValueError, match=r"`label` is of binary masks: .*Leave it out with num_classes=3"):
        SegmentationBounds(num_classes=3).update(scores, labels, label=labels[:, 0])
    for make in (PixelICC, ExtentICC):
        with pytest.raises(ValueError, match=r"is of binary masks; found num_classes=3"):
            make(num_classes=3)


@pytest.mark.parametrize("first", ["update", "forward"])
def test_raters_that_vary_in_number_are_an_error_at_that_batch(first):
    masks, _, preds = draw(0, (2, 4, 5, 6))
    metric = SegmentationBounds(["iou"])
    (metric if first == "forward" else metric.update)(preds, masks)
    with pytest.raises(
        ValueError, match=r"`masks` is \(2, 3, 5, 6\) = .*before it was \(2, 4, 5, 6\)\. Pad .*`present=`"
    ):
        (metric if first == "forward" else metric.update)(preds, masks[:, :3])
    metric.reset()
    metric.update(preds, masks[:, :3])  # another stage may have others
