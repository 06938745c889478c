"""What all metrics of the raters promise, and that they give what their functions give."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.utilities.data import dim_zero_cat

from irrbench import (
    AreaICC,
    ExtentICC,
    GwetAC1,
    KrippendorffAlpha,
    PixelICC,
    SegmentationBounds,
    VotePatterns,
    gwet_ac1,
    krippendorff_alpha,
    pixel_icc,
)
from irrbench.icc.area import area_icc
from irrbench.icc.extent import extent_icc
from tests.metrics.processes import among

N, R = 7, 4


def data(num_raters=R, shape=(18, 15), seed=0):
    """Discs that raters draw differently, the last of them by nobody; a region of interest; who was there."""
    g = torch.Generator().manual_seed(seed)
    y, x = (torch.linspace(-1, 1, n) for n in shape)
    away = y[:, None] ** 2 + x**2
    limits = 0.5 + 0.12 * torch.randn(N, num_raters, 1, 1, generator=g) + 0.1 * torch.randn(N, 1, 1, 1, generator=g)
    masks = (away < limits) ^ (torch.rand(N, num_raters, *shape, generator=g) < 0.1)
    masks[-1] = False
    roi = torch.rand(N, *shape, generator=g) < 0.9
    present = torch.ones(N, num_raters, dtype=torch.bool)
    present[1, 0] = present[2, -2] = False
    return masks, roi, [f"image {i}" for i in range(N)], present


def mean_of_alpha(masks, roi, present):
    return krippendorff_alpha(VotePatterns.from_masks(masks, roi=roi, present=present)).nanmean()


def mean_of_ac1(masks, roi, present):
    return gwet_ac1(VotePatterns.from_masks(masks, roi=roi, present=present)).nanmean()


def mean_of_pixel_icc(masks, roi, present):
    fit = pixel_icc(VotePatterns.from_masks(masks, roi=roi, present=present), expect="liability")
    return fit.icc[fit.converged].mean()


def mean_of_area_icc(masks, roi, present):
    fit = area_icc(masks, roi=roi, present=present, cells=4, expect="latent")
    return fit.icc[fit.converged].mean()


def one_of_extent_icc(masks, roi, present):
    return extent_icc((masks & roi[:, None]).flatten(2).sum(2), roi.flatten(1).sum(1), present=present).icc


METRICS = {
    "alpha": (KrippendorffAlpha, mean_of_alpha),
    "ac1": (GwetAC1, mean_of_ac1),
    "pixel": (lambda: PixelICC(expect="liability"), mean_of_pixel_icc),
    "area": (lambda: AreaICC(cells=4, expect="latent"), mean_of_area_icc),
    "extent": (ExtentICC, one_of_extent_icc),
}
every_metric = pytest.mark.parametrize(("make", "function"), METRICS.values(), ids=METRICS)


def feed(metric, parts, masks, roi, ids, present):
    for part in map(list, parts):
        metric.update(masks[part], roi[part], [ids[i] for i in part], present[part])
    return metric


@every_metric
def test_gives_the_mean_of_the_function(make, function):
    masks, roi, ids, present = data()
    found = feed(make(), [range(3), range(3, N)], masks, roi, ids, present).compute()
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(function(masks, roi, present).item(), abs=1e-9)
    whole = make()
    whole.update(masks)
    everywhere, everybody = torch.ones_like(roi), torch.ones_like(present)
    assert whole.compute().item() == pytest.approx(function(masks, everywhere, everybody).item(), abs=1e-9)


@every_metric
def test_split_shuffled_merged_and_repeated_equal_whole(make, function):
    args = data()
    whole = feed(make(), [range(N)], *args)
    shuffled = feed(make(), [[6, 2], [0, 1, 3], [5, 4]], *args)
    repeated = feed(make(), [range(5), range(3, N), [0]], *args)
    merged = feed(make(), [range(4)], *args)
    merged.merge_state(feed(make(), [range(4, N)], *args))
    expected = whole.compute().item()
    for other in (shuffled, repeated, merged):
        assert other.compute().item() == pytest.approx(expected, abs=1e-9)
        assert sorted(other.per_image()["image_id"]) == args[2]


@every_metric
def test_processes_one_of_them_without_a_batch(make, function):
    args = data()
    ranks = [feed(make(), [range(4)], *args), make(), feed(make(), [range(3, N)], *args)]
    own, idle = among(ranks, (0, 1))
    assert own.compute().item() == pytest.approx(feed(make(), [range(N)], *args).compute().item(), abs=1e-9)
    pd.testing.assert_frame_equal(idle.per_image(), own.per_image())
    assert sorted(own.per_image()["image_id"]) == args[2]


@pytest.mark.slow
def test_two_real_processes_give_the_numbers_of_one(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "ignore", "-m", "tests.metrics.two_processes"]
    started = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], cwd=root, stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    printed = [json.loads(process.communicate(timeout=240)[0].splitlines()[-1]) for process in started]
    assert printed[0] == printed[1]
    masks, roi, _, present = data()
    for name, (_, function) in METRICS.items():
        expected = function(masks, roi, present).item()
        assert printed[0][name] == pytest.approx([expected, expected, N], abs=1e-9)


@every_metric
def test_forward_gives_the_batch_and_keeps_the_whole(make, function):
    masks, roi, ids, present = data()
    metric = make()
    first = metric(masks[:4], roi[:4], ids[:4], present[:4])
    metric(masks[4:], roi[4:], ids[4:], present[4:])
    assert first.item() == pytest.approx(function(masks[:4], roi[:4], present[:4]).item(), abs=1e-9)
    assert metric.compute().item() == pytest.approx(function(masks, roi, present).item(), abs=1e-9)
    metric.reset()
    with pytest.raises(ValueError, match="No image has come yet"):
        metric.per_image()


@every_metric
def test_the_table_says_why_a_value_is_missing(make, function):
    masks, roi, ids, present = data()
    roi[3], present[4, 1:] = False, False
    table = feed(make(), [range(N)], masks, roi, ids, present).per_image().set_index("image_id")
    assert table["n_raters"].tolist() == [4, 3, 3, 4, 1, 4, 4]
    assert table["roi_pixels"].tolist() == roi.flatten(1).sum(1).tolist()
    if "reason" in table:
        value = table.columns[2]
        assert (table["reason"] != "").tolist() == table[value].isna().tolist()
        assert table.loc["image 3", "reason"] == "the region of interest is empty"
        assert table.loc["image 4", "reason"] == "fewer than two raters"
        assert table.loc["image 6", "reason"] == ("" if value == "ac1" else "nobody marked anything")
    else:
        assert table.filter(like="marked_").isna().sum(axis=1).tolist() == [0, 1, 1, 0, 3, 0, 0]


def together(one, two):
    one.merge_state(two)
    return one


@every_metric
def test_refuses_other_masks_under_a_known_id_and_other_numbers_of_raters(make, function):
    masks, _, ids, _ = data()
    twice = make()
    twice.update(masks[:1], image_id=ids[:1])
    other, mixed = make(), make()
    other.update(masks[1:2], image_id=ids[:1])
    for refused in (lambda: twice.update(masks[1:2], image_id=ids[:1]), lambda: together(twice, other).compute()):
        with pytest.raises(ValueError, match="'image 0' came twice with different masks"):
            refused()
    mixed.update(masks)
    other.reset()
    other.update(masks[:, :3])
    for refused in (lambda: mixed.update(masks[:, :3]), lambda: together(mixed, other).compute()):
        with pytest.raises(ValueError, match=r"same number of raters.*`present"):
            refused()
    with pytest.raises(ValueError, match="`masks` must hold 0 and 1"):
        make().update(masks.float() / 2)


@every_metric
def test_what_an_absent_rater_s_mask_holds_does_not_matter(make, function):
    masks, roi, ids, present = data()
    other = masks ^ ~present[:, :, None, None]
    metric = feed(make(), [range(N)], masks, roi, ids, present)
    metric.update(other, roi, ids, present)
    assert metric.compute().item() == pytest.approx(function(masks, roi, present).item(), abs=1e-9)


@every_metric
def test_plot(make, function):
    metric = feed(make(), [range(N)], *data())
    figure, axes = metric.plot()
    assert figure is axes.figure
    line = axes.lines[0]
    assert float(line.get_ydata()[0]) == pytest.approx(metric.compute().item())
    _, again = metric.plot([metric.compute()] * 3, ax=axes)
    assert again is axes
    assert len(again.lines[-1].get_ydata()) == 3


def test_beside_a_model_in_one_collection():
    masks, roi, ids, present = data()
    preds = torch.randn(N, 18, 15, generator=torch.Generator().manual_seed(1))
    makers = {name: make for name, (make, _) in METRICS.items()}
    collection = MetricCollection({"bounds": SegmentationBounds(["iou"]), **{n: m() for n, m in makers.items()}})
    for part in (slice(0, 4), slice(4, N)):
        collection.update(
            preds=preds[part], masks=masks[part], roi=roi[part], image_id=ids[part], present=present[part]
        )
    found = collection.compute()
    assert found["n_images"] == N
    for name, (_, function) in METRICS.items():
        assert found[name].item() == pytest.approx(function(masks, roi, present).item(), abs=1e-9)
    groups = [set(group) for group in collection.compute_groups.values()]
    assert {"alpha", "ac1", "pixel", "extent"} in groups  # one state, counted once


def test_label_maps():
    labels = torch.randint(0, 3, (N, R, 6, 5), generator=torch.Generator().manual_seed(2))
    classes = VotePatterns.from_labels(labels, num_classes=3)
    for kind, function in ((KrippendorffAlpha, krippendorff_alpha), (GwetAC1, gwet_ac1)):
        metric = kind(num_classes=3)
        metric.update(labels[:2])
        metric.update(labels[2:])
        assert metric.compute().item() == pytest.approx(function(classes).mean().item(), abs=1e-12)


@pytest.mark.parametrize("num_raters", [2, 13])
def test_few_and_many_raters(num_raters):
    masks, roi, ids, present = data(num_raters)
    present[:] = True
    for make in (KrippendorffAlpha, ExtentICC):
        metric = feed(make(), [range(2), range(2, N)], masks, roi, ids, present)
        function = {KrippendorffAlpha: mean_of_alpha, ExtentICC: one_of_extent_icc}[make]
        assert metric.compute().item() == pytest.approx(function(masks, roi, present).item(), abs=1e-9)


def test_thirteen_raters_outside_of_every_region_of_interest():
    metric = KrippendorffAlpha()
    metric.update(data(13)[0], torch.zeros(N, 18, 15, dtype=torch.bool))
    assert set(metric.per_image()["reason"]) == {"the region of interest is empty"}
    assert metric.compute().isnan()


def test_state_is_small():
    masks, roi, ids, present = data()
    for make, limit in ((KrippendorffAlpha, 300), (lambda: AreaICC(cells=10), 4300)):
        metric = feed(make(), [range(N)], masks, roi, ids, present)
        states = (dim_zero_cat(getattr(metric, name)) for name in metric._reductions)
        used = sum(t.numel() * t.element_size() for t in states)
        assert used / N < limit


def test_options_reach_the_function():
    masks = data()[0][:2]
    patterns = VotePatterns.from_masks(masks)
    for options in ({"engine": "quadrature"}, {"expect": "latent"}, {"scale": "observation"}):
        metric = PixelICC(**options)
        metric.update(masks)
        assert metric.compute().item() == pytest.approx(pixel_icc(patterns, **options).icc.mean().item(), abs=1e-9)


def test_options_are_checked_at_once():
    for make, message in (
        (lambda: KrippendorffAlpha(num_classes=1), "`num_classes` must be 2 or more"),
        (lambda: PixelICC(engine="exact"), "`engine` must be one of 'laplace', 'quadrature'; found 'exact'"),
        (lambda: PixelICC(expect="mean"), "`expect` must be one of"),
        (lambda: PixelICC(scale="logit"), "`scale` must be one of"),
        (lambda: AreaICC(cells=1), "`cells` must be 2 or more"),
        (lambda: AreaICC(expect="mean"), "`expect` must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
