"""Results print as short tables, give frames, and draw themselves into given axes."""

import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from irrbench import (
    SegmentationBounds,
    VotePatterns,
    area_icc,
    extent_icc,
    joint_icc,
    mask_bounds,
    panel_curve,
    pixel_icc,
    segmentation_bounds,
    shrout_fleiss,
    staple,
    summarize,
)
from irrbench.analysis.results import build_results
from irrbench.icc import extent_icc_interval, pixel_icc_interval, pixel_icc_test
from irrbench.simulate import draw_lesions

B, R = 12, 3
LESIONS = draw_lesions(B, sensitivity=[0.9, 0.8, 0.85], specificity=[0.97, 0.99, 0.98], size=(40, 30))
MASKS = LESIONS.masks
VOTES = VotePatterns.from_masks(MASKS, preds=LESIONS.truth)
MARKED, TOTAL = MASKS.flatten(2).sum(2), torch.full((B,), 1200)
NAMES = [f"<b>{i}</b>" for i in range(B)]


def metric():
    metric = SegmentationBounds(["iou", "f1"], from_logits=False)
    metric.update(LESIONS.truth.float(), MASKS)
    return metric


OF_IMAGES = {
    "bounds": lambda: segmentation_bounds(VOTES),
    "borders": lambda: mask_bounds(MASKS, LESIONS.truth, ["nsd", "hd95"]),
    "pixel": lambda: pixel_icc(VOTES),
    "area": lambda: area_icc(MASKS),
    "interval": lambda: pixel_icc_interval(VOTES, resamples=8, engine="laplace"),
    "test": lambda: pixel_icc_test(VOTES),
    "staple": lambda: staple(VOTES),
    "votes": lambda: VOTES,
}
ALL = {
    **OF_IMAGES,
    "extent": lambda: extent_icc(MARKED, TOTAL),
    "extent interval": lambda: extent_icc_interval(MARKED, TOTAL, resamples=8),
    "joint": lambda: joint_icc(VOTES),
    "forms": lambda: shrout_fleiss(MARKED),
    "panels": lambda: panel_curve(VOTES, "iou"),
    "summary": lambda: summarize(metric().per_image()),
}


@pytest.mark.parametrize("name", ALL)
def test_a_result_prints_as_a_short_table(name):
    result = ALL[name]()
    lines = repr(result).splitlines()
    assert 3 <= len(lines) <= 18
    assert max(map(len, lines)) <= 100
    assert "tensor" not in repr(result)
    html = result._repr_html_()
    assert html.count("<table") == html.count("</table>") == 1
    assert len(html) < 12_000


@pytest.mark.parametrize("name", OF_IMAGES)
def test_the_frame_has_a_row_an_image_under_its_name(name):
    result = OF_IMAGES[name]()
    frame = result.to_frame(NAMES)
    assert frame["image_id"].tolist() == NAMES
    assert result.to_frame()["image_id"].tolist() == list(range(B))
    assert not [column for column in frame if frame[column].map(torch.is_tensor).any()]
    with pytest.raises(ValueError, match=f"`image_ids` must be {B} names, one an image; found 1"):
        result.to_frame(["a"])


def test_ten_rows_are_shown_and_the_others_counted():
    fit = pixel_icc(VOTES)
    assert repr(fit).count("True") == 10
    assert repr(fit).endswith("and 2 more rows: see to_frame()")
    assert len(fit.to_frame()) == B
    assert "reason" not in repr(fit)  # nothing is undefined
    alone = pixel_icc(VotePatterns.from_masks(torch.zeros(1, 2, 4)))
    assert alone.reason[0]
    assert alone.reason[0] in repr(alone)


def test_bounds_as_a_frame_have_the_columns_of_the_metrics_table():
    bounds, table = segmentation_bounds(VOTES, ["iou", "f1"]), metric().per_image()
    wide = bounds.to_frame(table["image_id"].tolist())
    assert set(wide) <= set(table)
    for column in wide:
        assert wide[column].tolist() == table[column].tolist()
    long = bounds.to_frame(form="long")
    assert list(long) == ["image_id", "score", "candidate", "value"]
    assert len(long) == B * 2 * 7
    one = long[(long["image_id"] == 4) & (long["score"] == "f1") & (long["candidate"] == "ceiling")]
    assert one["value"].item() == bounds.ceiling["f1"][4].item()
    without_model = segmentation_bounds(VotePatterns.from_masks(MASKS), ["iou"]).to_frame(form="long")
    assert set(without_model["candidate"]) == {"floor", "blank", "ceiling", "ceiling_of_two", "majority", "upper"}
    with pytest.raises(ValueError, match=r"`form`.*'tall'"):
        bounds.to_frame(form="tall")


def test_what_is_printed_of_bounds_are_the_means_over_images():
    bounds = segmentation_bounds(VOTES, ["iou"])
    names, row = (line.split() for line in repr(bounds).splitlines()[-2:])
    assert (names[:2], row[:2]) == (["score", "images"], ["iou", str(B)])
    assert names[2:] == ["floor", "ceiling", "majority", "upper", "model"]
    for name, text in zip(names[2:], row[2:], strict=True):
        assert text == f"{np.nanmean(getattr(bounds, name)['iou'].numpy()):.3f}"


def test_frames_of_other_results_hold_their_values():
    forms = shrout_fleiss(MARKED)
    assert forms.to_frame().set_index("form")["value"]["ICC(2,k)"] == forms["ICC(2,k)"].value
    curve = panel_curve(VOTES, "iou")
    frame = curve.to_frame(NAMES).set_index(["image_id", "k"])
    assert frame["rater"][NAMES[5], 2] == curve.rater[5, 1].item()
    with pytest.raises(ValueError, match=f"{B} names, one an image; found 2"):
        curve.to_frame(["a", "b"])
    fit = staple(VOTES)
    assert fit.to_frame()["sensitivity_1"].tolist() == fit.sensitivity[:, 1].tolist()
    votes = VOTES.to_frame()
    assert votes["by_3"].tolist() == MASKS.bool().all(1).flatten(1).sum(1).tolist()
    assert (votes[[f"by_{k}" for k in range(R + 1)]].sum(axis=1) == votes["roi_pixels"]).all()
    joint = joint_icc(VOTES)
    assert joint.to_frame()["share_rater"].item() == joint.shares["rater"].item()
    interval = pixel_icc_interval(VOTES, resamples=8, engine="laplace")
    assert interval.to_frame()["icc"].tolist() == interval.estimate.icc.tolist()
    assert summarize(metric().per_image()).to_frame()["score"].tolist() == ["iou", "f1"]


def test_texts_in_a_notebook_are_escaped():
    curve = panel_curve(VOTES, "iou")
    object.__setattr__(curve, "score", "<script>")
    assert "<script>" not in curve._repr_html_()
    assert "&lt;script&gt;" in curve._repr_html_()
    undefined = pixel_icc(VotePatterns.from_masks(torch.zeros(1, 2, 4)))
    object.__setattr__(undefined, "reason", ("<img>",))
    assert "<img>" not in undefined._repr_html_()


@pytest.mark.parametrize("name", ["bounds", "borders", "pixel", "area", "interval", "forms", "panels", "summary"])
def test_a_result_draws_itself_into_given_axes_or_a_figure_of_its_own(name):
    axes = Figure().subplots()
    figure, drawn = ALL[name]().plot(ax=axes)
    assert drawn is axes
    assert figure is axes.get_figure()
    assert axes.has_data()
    assert ALL[name]().plot()[1] is not axes


def test_undefined_images_are_counted_below_the_plot():
    masks = MASKS.clone()
    masks[3] = 0
    axes = pixel_icc(VotePatterns.from_masks(masks)).plot()[1]
    assert re.search("dashed: mean; 1 undefined", axes.get_xlabel())
    values = axes.lines[0].get_ydata()
    assert len(values) == B - 1
    assert (np.diff(values) >= 0).all()


def test_the_results_of_a_benchmark_print_as_the_leaderboard():
    results = build_results({"<b>net</b>": metric().per_image()})
    lines = repr(results).splitlines()
    assert lines[0] == f"Benchmark on {B} images"
    assert lines[1].split() == ["name", "role", "iou", "f1", "iou_normalized"]
    assert results.to_frame() is results.leaderboard
    row = results.leaderboard.set_index("name").loc["<b>net</b>"]
    assert f"{row['iou']:.3f}" in next(line for line in lines if "<b>net</b>" in line)
    assert "<b>" not in results._repr_html_()
