"""Extents, raters one by one, average and naive rater."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from irrbench.config import StudyOptions
from irrbench.data import RaterData
from irrbench.icc import extent_icc, joint_icc, shrout_fleiss
from irrbench.reliability import across as across_module
from irrbench.reliability import study
from irrbench.reliability.across import joint_table, measure_extents, raters_needed, score_table
from irrbench.reliability.counting import count_images
from irrbench.scores import SCORES, Score, record
from irrbench.stats import clustered_mean
from tests.reliability.conftest import OPTIONS, QUICK, RATERS


def fit_with(image: float, rater: float, residual: float):
    found = extent_icc([[1, 2], [3, 5], [7, 6]], [9, 9, 9])
    variances = {"var_image": image, "var_rater": rater, "var_residual": residual}
    return replace(found, **{name: torch.tensor(value, dtype=torch.float64) for name, value in variances.items()})


def test_number_of_raters_by_hand():
    # (1 + 2) / 4 * t / (1 - t): .75 * 3 = 2.25, .75 * 1 = .75, .75 * 9 = 6.75
    table = raters_needed({"all": fit_with(4.0, 1.0, 2.0)}, [0.75, 0.5, 0.9])
    assert table["raters"].tolist() == [3, 1, 7]


def test_a_whole_quotient_is_not_rounded_up():
    assert raters_needed({"all": fit_with(1.0, 0.1, 0.1)}, [1 - 1 / 11])["raters"].tolist() == [2]


def test_no_number_has_a_reason():
    row = raters_needed({"all": fit_with(0.0, 1.0, 1.0)}, [0.9]).iloc[0]
    assert math.isnan(row["raters"])
    assert row["reason"] == "the variance of images' extents is estimated as 0"


def test_extents_without_blank_masks(data):
    places = np.arange(560).reshape(20, 28)
    masks = [np.stack([places < 30 + 20 * i + 15 * r * (i % 3) for r in range(3)]) for i in range(12)]
    masks[3][2] = False
    blank = RaterData.from_arrays([np.zeros((1, *m.shape[1:])) for m in masks], masks, raters=RATERS)
    whole = study(blank, QUICK, progress=False)
    table = whole.across.set_index("measure")
    there = np.ones((12, 3), bool)
    there[3, 2] = False
    marked = [[mask.sum() for mask in m] for m in masks]
    expected = extent_icc(marked, [m[0].size for m in masks], present=there)
    row = table.loc["extent_icc_marked"]
    assert row["title"] == "Extent ICC without 1 mask that marks nothing or everything"
    assert row["value"] == pytest.approx(float(expected.icc), abs=1e-12)
    assert row["low"] < row["value"] < row["high"]
    assert row["value"] > table.loc["extent_icc", "value"]
    needed = whole.raters_needed.pivot(index="target", columns="masks", values="raters")
    noise = float(expected.var_rater + expected.var_residual) / float(expected.var_image)
    assert needed["without masks that mark nothing or everything"].tolist() == [
        max(1, math.ceil(noise * t / (1 - t))) for t in needed.index
    ]
    assert (needed["all masks"] > needed["without masks that mark nothing or everything"]).all()
    assert "extent_icc_marked" not in set(study(data, QUICK, progress=False).across["measure"])


def test_extents_by_loops(found):
    data = found.data
    extents = measure_extents(count_images(data, StudyOptions(cells=[2])))
    for i in range(3):
        masks, roi = data.masks(i), data.roi(i)
        assert extents.total[i] == roi.sum()
        for r in range(3):
            others = np.delete(masks, r, axis=0)[:, roi].sum(0)
            assert extents.marked[i, r] == masks[r][roi].sum()
            assert extents.consensus[i, r] == (others > 1).sum() + (others == 1).sum() / 2


def test_extent_icc_and_forms_are_those_of_the_masks(found):
    data = found.data
    marked = [[(m & data.roi(i)).sum() for m in data.masks(i)] for i in range(len(data))]
    total = [data.roi(i).sum() for i in range(len(data))]
    values = found.across.set_index("measure")["value"]
    assert values["extent_icc"] == pytest.approx(extent_icc(marked, total).icc.item())
    logits = np.log((np.array(marked) + 1) / (np.array(total)[:, None] - marked + 1))
    for name, form in shrout_fleiss(logits).items():
        assert values[name] == pytest.approx(form.value)
    interval = found.across.set_index("measure").loc["extent_icc", ["low", "high"]]
    assert interval["low"] < values["extent_icc"] < interval["high"]


def test_one_image_has_no_extent_icc_and_says_so():
    masks = np.random.default_rng(0).random((1, 3, 6, 8)) < 0.5
    found = study(RaterData.from_arrays([np.zeros((1, 6, 8))], list(masks)), QUICK, progress=False)
    table = found.across.set_index("measure")
    assert table.loc["extent_icc", "reason"] == "fewer than two images"
    assert table.loc["ICC(2,1)", "reason"] == "fewer than two images that all raters drew"
    assert math.isnan(table.loc["extent_icc", "value"])
    assert found.correlations["r"].isna().all()


def test_joint_shares_are_one_model_of_all_images(found, monkeypatch):
    counted = count_images(found.data, StudyOptions(cells=[2]))
    fit = joint_icc(counted.patterns())
    table = found.joint.set_index("part")
    assert table.loc["icc_pixel", "laplace"] == pytest.approx(fit.icc_pixel.item(), abs=1e-6)
    for engine in ("laplace", "quadrature"):
        assert table[engine].iloc[1:].sum() == pytest.approx(1)
    monkeypatch.setattr(across_module, "MAX_PATTERNS", 10)
    assert joint_table(counted, OPTIONS)["reason"].unique().tolist() == ["more than 10 vote patterns"]


def test_rater_table_by_loops(found):
    data = found.data
    for r, row in enumerate(found.raters.to_dict("records")):
        gaps, own, consensus = [], [], []
        for i in range(len(data)):
            masks, roi = data.masks(i), data.roi(i)
            own.append(masks[r][roi].mean())
            consensus.append(np.delete(masks, r, axis=0)[:, roi].mean())  # of two others, whose ties count half
            gaps.append(own[-1] - consensus[-1])
        assert row["rater"] == RATERS[r]
        assert row["rmse"] == pytest.approx(math.sqrt(np.mean(np.square(gaps))))
        assert row["bias"] == pytest.approx(np.mean(gaps))
        interval = clustered_mean(gaps, data.groups, level=OPTIONS.level)
        assert (row["bias_low"], row["bias_high"]) == pytest.approx((interval.low, interval.high))
        assert row["bias_low"] < row["bias"] < row["bias_high"]
        assert row["rmse_relative"] == pytest.approx(row["rmse"] / np.mean(consensus))
    assert found.raters["sensitivity"].between(0, 1).all()
    assert found.raters["iou"].mean() == pytest.approx(found.scores.set_index("score").loc["iou", "ceiling"])


def test_raters_who_mark_alike_in_extent_differ_from_nobodys_majority():
    # Three raters mark 100 pixels each at three places: no pixel has two votes, and nobody marks more than the others.
    masks = [np.stack([(np.arange(400) // 100 == r + i % 2).reshape(20, 20) for r in range(3)]) for i in range(6)]
    table = study(RaterData.from_arrays([np.zeros((1, 20, 20))] * 6, masks), QUICK, progress=False).raters
    assert table["bias"].tolist() == [0, 0, 0]
    assert table["rmse"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("raters", "of_the_first", "of_the_last"), [(3, 10, 20), (4, 0, 20), (5, 0, 10)])
def test_ties_of_the_others_count_half(raters, of_the_first, of_the_last):
    # The first two raters mark the same 20 pixels. Their votes are 1 or 2 among 2, 3 or 4 others.
    masks = np.zeros((1, raters, 10, 10), bool)
    masks[0, :2, :2] = True
    extents = measure_extents(
        count_images(RaterData.from_arrays([np.zeros((1, 10, 10))], list(masks)), StudyOptions(cells=[2]))
    )
    assert extents.consensus[0, [0, -1]].tolist() == [of_the_first, of_the_last]


def test_score_table_by_hand():
    # Three raters, four pixels: A 1100, B 1100, C 1000. C's reference is 1100; that of A and B ties on the second
    # pixel, and is read as 1000 and as 1100.
    masks = np.array([[[[1, 1, 0, 0]], [[1, 1, 0, 0]], [[1, 0, 0, 0]]]], bool)
    found = study(RaterData.from_arrays([np.zeros((1, 1, 4))], list(masks)), QUICK, progress=False)
    scores = found.scores.set_index("score")
    assert scores.loc["iou", ["ceiling", "floor", "blank"]].tolist() == pytest.approx(
        [(0.75 + 0.75 + 0.5) / 3, (0.375 + 0.375 + 0.5) / 3, 0]
    )
    # blank: the share of background, 3/4 of 1000 and 2/4 of 1100
    assert scores.loc["accuracy", "blank"] == pytest.approx((0.625 + 0.625 + 0.5) / 3)
    assert scores.loc["tpr", ["floor", "blank"]].tolist() == [1, 0]


def test_which_score_to_monitor(found):
    scores = found.scores.set_index("score")
    gap = found.per_image["iou_ceiling"] - found.per_image["iou_floor"]
    assert scores.loc["iou", "gap_in_sd"] == pytest.approx(gap.mean() / gap.std())
    chosen = scores.index[scores["monitor"]].tolist()
    assert len(chosen) == 1
    assert not record(chosen[0]).one_sided
    eligible = scores[[not record(name).one_sided for name in scores.index]]["margin_in_sd"]
    assert eligible.idxmax() == chosen[0]


@pytest.mark.parametrize(("ceilings", "starred"), [([0.5, 0.6, 0.7, 0.6], True), ([0.9, 0.1, 0.15, 0.1], False)])
def test_a_star_needs_an_interval_above_both_careless_masks(ceilings, starred):
    floor, blank = np.full(4, 0.2), np.full(4, 0.05)
    candidates = {"ceiling": {"iou": np.array(ceilings)}, "floor": {"iou": floor}, "blank": {"iou": blank}}
    row = score_table(candidates, range(4)).iloc[0]
    assert row["margin_in_sd"] > 0
    assert row["monitor"] == starred


def test_a_score_of_which_less_is_better_is_judged_by_its_gain(data, monkeypatch):
    share_wrong = Score("error", "Error", lambda t: (t.fp + t.fn) / t.total, higher_is_better=False)
    distance = Score("distance", "Distance", lambda t: t.fp + t.fn, higher_is_better=False, range=(0.0, math.inf))
    for score in (share_wrong, distance):
        monkeypatch.setitem(SCORES, score.name, score)
    found = study(data, replace(QUICK, scores=["accuracy", "error", "distance"]), progress=False)
    scores = found.scores.set_index("score")
    assert scores.loc["error", "ceiling"] == pytest.approx(1 - scores.loc["accuracy", "ceiling"])
    for column in ("gap", "gap_sd", "gap_in_sd", "margin_in_sd"):
        assert scores.loc["error", column] == pytest.approx(scores.loc["accuracy", column])
        assert scores.loc["distance", column] > 0
    summary = found.summary.set_index("measure")
    assert summary.loc["distance_ceiling", "high"] > 1
    assert np.isnan(summary.loc["distance_ceiling", ["under_half", "over_nine_tenths"]].astype(float)).all()


def test_accuracy_of_small_lesions_is_no_score_to_monitor():
    masks = np.zeros((8, 3, 20, 20), bool)
    rng = np.random.default_rng(0)
    for image in masks:
        for mask in image:
            y, x = rng.integers(8, 10, 2)
            mask[y : y + 3, x : x + 3] = True
    data = RaterData.from_arrays([np.zeros((1, 20, 20))] * 8, list(masks))
    scores = study(data, replace(QUICK, exclude_below=0), progress=False).scores.set_index("score")
    assert scores.loc["accuracy", "gap_in_sd"] > scores.loc["iou", "gap_in_sd"]
    assert scores.index[scores["monitor"]].tolist() == ["iou"]


def test_pairs_by_scikit_learn(data, found):
    from sklearn.metrics import cohen_kappa_score

    region = data.roi(0)
    kappas = [cohen_kappa_score(*(data.masks(place)[r][region] for r in (0, 2))) for place in range(len(data))]
    row = found.pairs[(found.pairs["first"] == "anna") & (found.pairs["second"] == "cem")].iloc[0]
    expected = clustered_mean(kappas, data.groups)
    assert (row["n"], row["kappa"], row["se"]) == (24, pytest.approx(expected.mean), pytest.approx(expected.se))
    assert len(found.pairs) == 3


def test_without_a_rater_all_measures_are_means_over_the_same_images():
    masks = [np.stack([np.arange(400).reshape(20, 20) < 100 + 10 * i + 5 * r for r in range(3)]) for i in range(12)]
    present = np.ones((12, 3), bool)
    present[0, 0] = False
    data = RaterData.from_arrays([np.zeros((1, 20, 20))] * 12, masks, raters=RATERS, present=present)
    table = study(data, QUICK, progress=False).leave_one_out
    numbers = table[table["measure"].isin(["prevalence", "alpha", "unanimous"])].groupby("left_out")["n"].unique()
    assert {name: found.tolist() for name, found in numbers.items()} == {
        "": [12],
        "anna": [12],
        "ben": [11],
        "cem": [11],
    }


def test_a_study_prints_as_the_table_of_its_measures(found):
    lines = repr(found).splitlines()
    assert lines[0].startswith(f"Study of {len(found.raters)} raters on {found.n_images} images")
    assert lines[1].split() == ["measure", "n", "mean", "sd", "low", "high"]
    assert found.to_frame().equals(found.tables["measures"])
    assert found._repr_html_().count("<tr") <= 12
