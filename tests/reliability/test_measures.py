"""Each column of a study is what its function gives for that image alone, and leaving raters out is exact."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch

from irrbench import VotePatterns, gwet_ac1, krippendorff_alpha, segmentation_bounds
from irrbench.config import StudyOptions
from irrbench.data import RaterData
from irrbench.icc import area_icc, block_counts, block_share_icc, pixel_icc
from irrbench.reliability import select_measures, study
from irrbench.reliability.counting import count_images
from irrbench.reliability.measures import fitted_images, measure_all
from tests.reliability.conftest import OPTIONS, QUICK, make_data


def patterns_of(data: RaterData, i: int) -> VotePatterns:
    masks, roi = torch.from_numpy(data.masks(i))[None], torch.from_numpy(data.roi(i))[None]
    return VotePatterns.from_masks(masks, roi=roi)


def test_columns_are_the_registry(found):
    assert [m.name for m in found.measures] == found.summary["measure"].tolist()
    assert list(found.per_image.columns) == ["image_id", "group", "n_raters", "roi_pixels", *found.summary["measure"]]


@pytest.mark.parametrize(
    ("name", "compute"),
    [
        ("alpha", krippendorff_alpha),
        ("ac1", gwet_ac1),
        ("pixel_icc", lambda p: pixel_icc(p).icc),
        ("pixel_icc_quadrature", lambda p: pixel_icc(p, engine="quadrature").icc),
        ("iou_ceiling", lambda p: segmentation_bounds(p, ["iou"]).ceiling["iou"]),
        ("tpr_floor", lambda p: segmentation_bounds(p, ["tpr"]).floor["tpr"]),
    ],
)
def test_values_are_those_of_each_image_alone(found, name, compute):
    alone = [compute(patterns_of(found.data, i)).item() for i in range(4)]
    np.testing.assert_allclose(found.per_image[name][:4], alone, atol=1e-6)


def test_area_icc_sees_the_blocks(found):
    masks, roi = torch.from_numpy(found.data.masks(1))[None], torch.from_numpy(found.data.roi(1))[None]
    assert found.per_image["area_icc_5"][1] == pytest.approx(area_icc(masks, roi=roi, cells=5).icc.item(), abs=1e-6)


def test_unanimous_pixels_and_prevalence_by_loops(found):
    for i in range(3):
        masks, roi = found.data.masks(i), found.data.roi(i)
        votes = [int(masks[:, y, x].sum()) for y, x in zip(*np.nonzero(roi), strict=True)]
        assert found.per_image["unanimous"][i] == pytest.approx(np.mean([v in (0, 3) for v in votes]))
        anyone = [v for v in votes if v]
        assert found.per_image["marked_by_all"][i] == pytest.approx(np.mean([v == 3 for v in anyone]))
        assert found.per_image["prevalence"][i] == pytest.approx(np.mean(votes) / 3)


def test_pairwise_iou_and_unmarked_pixels_by_loops(found):
    for i in range(3):
        masks, roi = found.data.masks(i), found.data.roi(i)
        inside = masks[:, roi]
        pairs = [(a & b).sum() / (a | b).sum() for a, b in combinations(inside, 2)]
        assert found.per_image["pairwise_iou"][i] == pytest.approx(np.mean(pairs))
        assert found.per_image["unmarked"][i] == pytest.approx((~inside.any(0)).mean())


def test_pairs_that_marked_nothing_and_absent_raters_have_no_iou():
    masks = np.zeros((2, 3, 1, 4), bool)
    masks[0, 0, 0, :2], masks[1, :, 0, :2] = True, [[1, 1], [1, 0], [0, 0]]
    data = RaterData.from_arrays(
        [np.zeros((1, 1, 4))] * 2, list(masks), present=np.array([[True, True, True], [True, True, False]])
    )
    measures = {m.name: m for m in select_measures(OPTIONS)}
    found = measures["pairwise_iou"].compute(next(iter(count_images(data, StudyOptions(cells=[2])).chunks())))[0]
    assert found.tolist() == [0, 0.5]  # (0 + 0 + undefined), and the pair that is there


def test_block_shares_are_those_of_the_masks(found):
    masks, roi = torch.from_numpy(found.data.masks(1))[None], torch.from_numpy(found.data.roi(1))[None]
    expected = block_share_icc(*block_counts(masks, roi=roi, cells=5)).icc.item()
    assert found.per_image["block_share_icc_5"][1] == pytest.approx(expected, abs=1e-9)


def test_unanimous_counts_present_raters_alone():
    masks = np.array([[[[1, 1, 0, 0]], [[1, 0, 0, 0]], [[0, 1, 1, 1]]]], bool)
    data = RaterData.from_arrays([np.zeros((1, 1, 4))], list(masks), present=np.array([[True, True, False]]))
    counted = count_images(data, StudyOptions(cells=[2]))
    measures = {m.name: m for m in select_measures(OPTIONS)}
    for name, value in (("unanimous", 0.75), ("marked_by_all", 0.5)):
        assert measures[name].compute(next(iter(counted.chunks())))[0].tolist() == [value]


def test_undefined_values_have_reasons():
    masks = np.zeros((2, 3, 6, 8), bool)
    masks[1, :, :2] = True
    data = RaterData.from_arrays([np.zeros((1, 6, 8))] * 2, list(masks))
    found = study(data, replace(QUICK, exclude_below=0), progress=False)
    why = found.reasons.set_index(["image_id", "measure"])["reason"]
    first = data.image_ids[0]
    assert why[first, "alpha"] == "nobody marked anything"
    assert why[first, "pixel_icc"] == "nobody marked anything"
    assert why[first, "iou_ceiling"] == "no reference defines it"
    assert why[data.image_ids[1], "pixel_icc"] == "all raters agree on every pixel: 1 by rule"
    assert found.summary.set_index("measure").loc["alpha", ["n", "n_undefined"]].tolist() == [1, 1]
    defined = found.per_image.set_index("image_id")
    missing = {(image, m.name) for m in found.measures for image in defined.index[defined[m.name].isna()]}
    assert missing
    assert missing <= set(why.index)


def test_leaving_a_rater_out_equals_never_having_had_them(found, data):
    masks = [np.delete(data.masks(i), 1, axis=0) for i in range(len(data))]
    rois = [data.roi(i) for i in range(len(data))]
    two = RaterData.from_arrays(
        [np.zeros((1, *m.shape[1:])) for m in masks], masks, rois=rois, raters=["anna", "cem"], image_ids=data.image_ids
    )
    without = study(two, QUICK, progress=False).summary.set_index("measure")
    table = found.leave_one_out[found.leave_one_out["left_out"] == "ben"].set_index("measure")
    shared = without.index.intersection(table.index)
    np.testing.assert_allclose(table.loc[shared, "mean"], without.loc[shared, "mean"], atol=1e-7)
    everybody = found.summary.set_index("measure")["mean"]
    np.testing.assert_allclose(table.loc[everybody.index, "change"], table.loc[everybody.index, "mean"] - everybody)


def test_two_raters_cannot_be_left_out():
    data = make_data(4)
    two = RaterData.from_arrays(
        [data.image(i) for i in range(4)], [data.masks(i)[:2] for i in range(4)], raters=["anna", "ben"]
    )
    found = study(two, QUICK, progress=False)
    assert set(found.leave_one_out["left_out"]) == {""}


def test_measuring_in_parts_changes_nothing(data, monkeypatch):
    counted = count_images(data, StudyOptions(cells=QUICK.cells))
    whole = measure_all(counted, QUICK, left_out=[2], progress=False)
    monkeypatch.setattr("irrbench.reliability.measures._PART", 7)
    parts = measure_all(counted, QUICK, left_out=[2], progress=False)
    for rater in (None, 2):
        pd.testing.assert_frame_equal(parts[rater].table, whole[rater].table, atol=1e-6)
        pd.testing.assert_frame_equal(parts[rater].reasons, whole[rater].reasons)


def test_of_many_images_models_are_fitted_to_those_that_are_drawn(data, monkeypatch):
    counted, drawn = (
        count_images(data, StudyOptions(cells=QUICK.cells)),
        fitted_images(len(data), replace(QUICK, fitted=5)),
    )
    whole = measure_all(counted, QUICK, left_out=[2], progress=False)
    fits = []
    pixel = "irrbench.reliability.measures.pixel_icc"
    monkeypatch.setattr(pixel, lambda patterns, **options: fits.append(len(patterns)) or pixel_icc(patterns, **options))
    some = measure_all(counted, replace(QUICK, fitted=5), left_out=[2], progress=False)
    assert fits == [5, 5]
    for rater in (None, 2):
        table, everything = some[rater].table, whole[rater].table
        assert table.columns.tolist() == everything.columns.tolist()
        for name in table:
            expected = everything[name].iloc[drawn] if "_icc" in name and "share" not in name else everything[name]
            pd.testing.assert_series_equal(table[name].loc[expected.index], expected, atol=1e-6)
        assert table["pixel_icc"].drop(index=drawn).isna().all()
        assert (some[rater].reasons.drop(index=drawn)["pixel_icc"] == "").all()


def test_a_study_says_that_models_are_of_some_images(data):
    found = study(data, replace(QUICK, fitted=5), progress=False)
    summary = found.summary.set_index("measure")
    assert summary.loc["pixel_icc", ["n", "n_undefined"]].tolist() == [5, 0]
    assert summary.loc["alpha", "n"] == len(found.data)
    text = f"of 5 of {len(found.data)} images, drawn at random"
    assert f"Pixel, area and joint ICC are {text} (study.fitted)." in found.remarks
    assert text in found.joint["reason"][0]
    assert not set(study(data, QUICK, progress=False).remarks) & set(found.remarks)


@pytest.mark.slow
def test_processes_change_nothing(data):
    counted = count_images(data, StudyOptions(cells=OPTIONS.cells))
    alone, several = (measure_all(counted, OPTIONS, left_out=[0], workers=n, progress=False) for n in (1, 2))
    pd.testing.assert_frame_equal(several[0].table, alone[0].table)
