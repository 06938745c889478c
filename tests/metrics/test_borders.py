"""Scores of borders in the metric, in plain loops and in the callback."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from scipy.ndimage import binary_erosion, distance_transform_edt
from torchmetrics import MetricCollection

from irrbench import SegmentationBounds, VotePatterns, mask_bounds, segmentation_bounds
from irrbench.callbacks import RaterBoundsMonitor
from irrbench.cuts import cut_scores
from irrbench.evaluation import Evaluator
from tests.callbacks.toys import Module, Toy, loader, trainer

SCORES = ("iou", "nsd", "hd95", "masd")
SPACING = (0.5, 2.0)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def border(mask):
    return mask & ~binary_erosion(mask)


def apart(one, other, spacing):
    """From each border pixel of the one to the nearest of the other, by a transform of the whole image."""
    return distance_transform_edt(~border(other), sampling=spacing)[border(one)]


def by_hand(masks, roi, pred, spacing, tolerance):
    """The model's nsd, hd95 and masd on one image, a mean over folds and both readings of ties."""
    masks = [mask & roi for mask in masks]
    pred = pred & roi
    folds = []
    for r in range(len(masks)):
        votes = sum(mask.astype(int) for i, mask in enumerate(masks) if i != r)
        values = []
        for reference in (2 * votes > len(masks) - 1, (2 * votes >= len(masks) - 1) & (votes > 0)):
            if reference.any():
                there, back = apart(reference, pred, spacing), apart(pred, reference, spacing)
                near = (there <= tolerance).sum() + (back <= tolerance).sum()
                ends = max(np.percentile(there, 95), np.percentile(back, 95))
                values.append([near / (len(there) + len(back)), ends, (there.mean() + back.mean()) / 2])
        folds.append(np.mean(values, 0))
    return np.mean(folds, 0)


def blobs(size, *, raters=3, side=24, seed=0):
    """Discs of several raters, a region of interest, and a prediction, ``(B, R, H, W)``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, : side + 4]
    middle, radius = rng.uniform(9, 15, (size, 1, 2)), rng.uniform(4, 6, (size, 1))
    moved = middle + rng.normal(0, 1.2, (size, raters + 1, 2))
    sizes = radius + rng.normal(0, 0.6, (size, raters + 1))
    discs = np.hypot(y - moved[..., 0, None, None], x - moved[..., 1, None, None]) < sizes[..., None, None]
    roi = np.ones((size, side, side + 4), bool)
    roi[:, :, :7] = False
    return tuple(torch.from_numpy(part) for part in (discs[:, :-1], roi, discs[:, -1]))


def test_equals_a_transform_of_the_whole_image():
    masks, roi, preds = blobs(5)
    metric = SegmentationBounds(SCORES, spacing=SPACING, tolerance=1.2)
    metric.update(preds.float() - 0.5, masks, roi)
    table = metric.per_image()
    for i in range(5):
        right = by_hand(*(part[i].numpy() for part in (masks, roi, preds)), SPACING, 1.2)
        assert table.loc[i, ["nsd", "hd95", "masd"]].to_numpy(float) == pytest.approx(right, abs=1e-9)


def test_parts_in_any_order_are_the_whole_and_equal_the_function():
    masks, roi, preds = blobs(6)
    names = list("abcdef")
    spacing = torch.tensor([[1.0, 2.0], [0.5, 0.5]]).repeat(3, 1)
    bounds = mask_bounds(masks, preds, SCORES, roi=roi, spacing=spacing)
    metric, other = SegmentationBounds(SCORES), SegmentationBounds(SCORES)
    for target, part in ((metric, slice(4, 6)), (other, slice(2, 4)), (other, slice(0, 2)), (metric, slice(4, 6))):
        target.update(preds[part], masks[part], roi[part], names[part], spacing=spacing[part])
    metric.merge_state(other)
    table = metric.per_image().set_index("image_id").loc[names]
    assert len(table) == 6
    for score in SCORES:
        for who in ("floor", "blank", "ceiling", "majority"):
            assert np.array_equal(table[f"{score}_{who}"], getattr(bounds, who)[score], equal_nan=True)
        assert np.array_equal(table[score], bounds.model[score])
        assert table[f"{score}_fold0"].to_numpy() == pytest.approx(bounds.folds["model"][score][:, 0].numpy())


def test_label_maps_are_one_class_against_the_rest():
    masks, _, preds = blobs(3, raters=4)
    labels, classes = masks.long(), preds.long()
    labels[:, :, :10][masks[:, :, :10]] = 2
    classes[:, :10][preds[:, :10]] = 2
    metric = SegmentationBounds(["nsd", "hd95"], num_classes=3, class_names=["none", "low", "high"])
    metric.update(classes, labels)
    table = metric.per_image()
    for c, name in ((1, "low"), (2, "high")):
        bounds = mask_bounds(labels == c, classes == c, ["nsd", "hd95"])
        for score in ("nsd", "hd95"):
            assert np.allclose(table[f"{score}_{name}"], bounds.model[score], equal_nan=True)
            assert np.allclose(table[f"{score}_{name}_ceiling"], bounds.ceiling[score], equal_nan=True)


def test_predictions_that_are_no_numbers_count_as_the_worse_of_everything_and_nothing():
    masks, _, preds = blobs(2)
    logits = preds.float() - 0.5
    logits[1] = torch.nan
    metric = SegmentationBounds(SCORES)
    metric.update(logits, masks)
    table = metric.per_image()
    assert table.loc[1, "hd95"] == max(table.loc[1, "hd95_floor"], table.loc[1, "hd95_blank"])
    assert table.loc[1, "nsd"] == min(table.loc[1, "nsd_floor"], table.loc[1, "nsd_blank"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": (1.0, -0.5)}, r"`spacing` must be the length of a pixel .* found \(1.0, -0.5\)"),
        ({"spacing": (1.0, float("nan"))}, "numbers greater than 0"),
        ({"spacing": 0.7}, "numbers greater than 0"),
        ({"tolerance": 0}, "`tolerance` must be a distance greater than 0.* found 0"),
        ({"tolerance": "raters"}, "`tolerance` must be a distance .* found 'raters'"),
        ({"lesion_iou": 0}, "`lesion_iou` must be greater than 0 and at most 1, found 0"),
        ({"ties": "exclude"}, "`ties='exclude'` leaves single pixels out of a reference, which nsd, hd95, masd cannot"),
        ({"aggregate": "image"}, "nsd, hd95, masd of an image is no sum over its patches"),
    ],
)
def test_wrong_options_are_refused_at_construction(options, message):
    for make in (SegmentationBounds, RaterBoundsMonitor):
        with pytest.raises(ValueError, match=message):
            make(scores=SCORES, **options)


@pytest.mark.parametrize(
    ("spacing", "message"),
    [
        (torch.ones(2, 3), r"`spacing` must be \(2,\), .* or \(2, 2\) by image, .* found \(2, 3\)"),
        (torch.tensor([[1.0, 1.0], [0.0, 1.0]]), "numbers greater than 0"),
    ],
)
def test_wrong_spacing_of_a_batch_is_refused_and_costs_no_earlier_image(spacing, message):
    masks, roi, preds = blobs(2)
    metric = SegmentationBounds(SCORES)
    metric.update(preds, masks, roi, spacing=(1.0, 1.0))
    before = metric.per_image()
    with pytest.raises(ValueError, match=message):
        metric.update(preds, masks, roi, spacing=spacing)
    assert metric.per_image().equals(before)


EMPTY_FIRST = {"tolerance": (1.0, 5.0), "spacing": ((1.0, 1.0), (2.0, 1.0)), "ties": ("negative", "positive")}


@pytest.mark.parametrize(("option", "values"), EMPTY_FIRST.items(), ids=EMPTY_FIRST)
def test_a_collection_keeps_metrics_apart_whose_options_differ(option, values):
    masks, _, preds = blobs(3, raters=3)
    empty = torch.zeros_like(masks)
    alone = [SegmentationBounds(["nsd"], **{option: value}).as_metric("nsd") for value in values]
    together = MetricCollection({str(i): metric.clone() for i, metric in enumerate(alone)})
    for part in (empty, masks):  # at first nothing tells the states apart
        ids = [f"{part is empty}{i}" for i in range(3)]
        together.update(preds=preds & part.any(1), masks=part, image_id=ids)
        for metric in alone:
            metric.update(preds & part.any(1), part, image_id=ids)
    assert [float(together.compute()[str(i)]) for i in range(2)] == [float(metric.compute()) for metric in alone]


def test_spacing_comes_with_all_images_or_with_none():
    masks, roi, preds = blobs(2)
    metric = SegmentationBounds(["hd95"])
    metric.update(preds, masks, roi, ["a", "b"], spacing=(5.0, 5.0))
    with pytest.raises(ValueError, match="`spacing` came with earlier batches and not with this one"):
        metric.update(preds, masks, roi, ["c", "d"])
    assert metric.unit == "units of spacing"
    metric.reset()
    metric.update(preds, masks, roi, ["a", "b"])
    assert (metric.unit, metric.rules["spacing"]) == ("px", "1 px")
    with pytest.raises(ValueError, match="`spacing` came with this batch and not with earlier ones"):
        metric.update(preds, masks, roi, ["c", "d"], spacing=(5.0, 5.0))
    with pytest.raises(ValueError, match=r"`spacing` came with a batch, and \(1.0, 1.0\) was given for all images"):
        SegmentationBounds(["hd95"], spacing=(1, 1)).update(preds, masks, roi, spacing=(5.0, 5.0))
    with pytest.raises(ValueError, match="`spacing_unit='mm'` needs `spacing`"):
        SegmentationBounds(["hd95"], spacing_unit="mm").update(preds, masks, roi)


def test_an_image_does_not_come_again_with_another_spacing():
    masks, roi, preds = blobs(2)
    metric = SegmentationBounds(["hd95"])
    for spacing in (torch.tensor([[1.0, 2.0], [1.0, 1.0]]), torch.tensor([[1.0, 2.0], [1.0, 1.0]])):
        metric.update(preds, masks, roi, ["a", "b"], spacing=spacing)
    assert len(metric.per_image()) == 2
    with pytest.raises(ValueError, match=r"'b' came twice with different masks .*or spacing"):
        metric.update(preds, masks, roi, ["a", "b"], spacing=torch.tensor([[1.0, 2.0], [2.0, 1.0]]))


def test_a_refused_batch_is_in_no_part_of_an_evaluator():
    masks, roi, preds = blobs(2)
    evaluator = Evaluator("val", scores=["iou"], choose_threshold=True, from_logits=False)
    evaluator.update(preds.float(), masks, roi=roi, image_id=["a", "b"])
    with pytest.raises(ValueError, match="a mask"):
        evaluator.update(preds, masks, roi=roi, image_id=["c", "d"])
    assert evaluator.finish()["val/n_images"] == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: mask_bounds(m, p, ["nsd"], spacing="ab"), r"`spacing` must be \(2,\).* found 'ab'"),
        (lambda m, p: mask_bounds(m, p, ["nsd"], spacing=(1.0, 1.0, 1.0)), r"found \(3,\)"),
        (lambda m, p: mask_bounds(m, p, ["nsd"], spacing=(1e200, 1.0)), "numbers greater than 0"),
        (lambda m, p: mask_bounds(m, p, ["nsd"], tolerance=None), "`tolerance` must be a distance .* found None"),
        (lambda m, p: mask_bounds(m, p, ["nsd"], tolerance=True), "found True"),
        (lambda m, p: mask_bounds(m, p, ["lesion_f1"], lesion_iou=None), "`lesion_iou` .* found None"),
        (lambda m, p: mask_bounds(m.numpy(), p), "`masks` must be a torch.Tensor, found ndarray"),
        (lambda m, p: mask_bounds(m, ["nsd", "hd95"]), r"pass `scores=\['nsd', 'hd95'\]` by its name"),
        (lambda m, p: mask_bounds(m, p, ["brier"]), "`mask_bounds` is for scores of masks, found brier"),
        (lambda m, p: mask_bounds(m, p, ["dice"]), "Here dice is f1"),
        (lambda m, p: cut_scores(m, p.long(), "nsd", num_levels=2, tolernce=3), "unknown options tolernce"),
        (lambda m, p: segmentation_bounds(VotePatterns.from_masks(m), ["nsd"]), "`mask_bounds.*` makes it"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    masks, _, preds = blobs(1)
    with pytest.raises((ValueError, TypeError), match=message):
        call(masks, preds)


def test_images_of_one_rater_have_no_key_that_nobody_logs():
    masks, _, preds = blobs(2)
    present = torch.tensor([[True, False, False]] * 2)
    evaluator = Evaluator("val", scores=["nsd"])
    evaluator.update(preds, masks, present=present)
    evaluator.finish()
    assert evaluator.why_nan("val/nsd") == "no image has masks of two raters"


def test_the_centreline_of_a_volume_of_one_plane_does_not_depend_on_padding():
    masks, _, preds = (part.unsqueeze(-3) for part in blobs(1))
    alone = mask_bounds(masks, preds, ["cldice"])
    padded = [torch.cat([x, torch.zeros_like(x), torch.zeros_like(x)], -3) for x in (masks, preds)]
    roi = torch.zeros_like(padded[1])
    roi[:, :1] = True
    again = mask_bounds(*padded, ["cldice"], roi=roi)
    for who in ("floor", "ceiling", "majority", "model"):
        assert torch.equal(getattr(alone, who)["cldice"], getattr(again, who)["cldice"])


def test_a_plain_loop_takes_spacing():
    masks, roi, preds = blobs(2)
    evaluator = Evaluator("val", scores=["nsd"], tolerance=1.0)
    evaluator.update(preds, masks, roi=roi, spacing=torch.tensor([0.5, 0.5]))
    bounds = mask_bounds(masks, preds, ["nsd"], roi=roi, spacing=[0.5, 0.5], tolerance=1.0)
    assert evaluator.finish()["val/nsd"] == pytest.approx(bounds.model["nsd"].mean().item())


class Spaced(Toy):
    """Images that say how large their pixels are."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "spacing": (0.5, 2.0)}


@pytest.mark.parametrize("spacing", ["spacing", SPACING, lambda batch: torch.tensor([SPACING] * len(batch["id"]))])
def test_the_callback_takes_numbers_or_where_they_are(tmp_path, spacing):
    data, module = Spaced(), Module("tensor")
    batches = torch.utils.data.DataLoader(data, batch_size=4)
    monitor = RaterBoundsMonitor(
        roi="roi", image_id="id", scores=("hd95", "iou", "nsd"), spacing=spacing, tolerance=3.0, print_link=False
    )
    best = ModelCheckpoint(dirpath=tmp_path, monitor="val/hd95", mode="min")
    fit = trainer(monitor, tmp_path)
    fit.callbacks.append(best)
    fit.fit(module, batches, batches)
    with torch.no_grad():
        preds = module(data.image).squeeze(1) > 0
    bounds = mask_bounds(data.masks, preds, ["hd95", "nsd"], roi=data.roi, spacing=SPACING, tolerance=3.0)
    for score in ("hd95", "nsd"):
        for who, end in (("model", ""), ("floor", "_floor"), ("ceiling", "_ceiling")):
            right = getattr(bounds, who)[score].nanmean().item()
            assert monitor.history[-1][f"val/{score}{end}"] == pytest.approx(right, abs=1e-9)
    assert best.best_model_score == pytest.approx(min(row["val/hd95"] for row in monitor.history))


def test_spacing_that_is_not_in_the_batch_is_an_error_at_the_first_one(tmp_path):
    monitor = RaterBoundsMonitor(roi="roi", image_id="id", scores=("nsd",), spacing="pixel_size", print_link=False)
    with pytest.raises(ValueError, match="`spacing='pixel_size'` is not in the batch"):
        trainer(monitor, tmp_path).fit(Module("tensor"), loader(), loader())
