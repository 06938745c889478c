"""Subgroups by columns of the manifest."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irrbench.analysis.results import Questions, Resampling, build_results
from irrbench.analysis.subgroups import check_columns, cut_column
from tests.analysis.test_leaderboard import random_tables


def manifest(images: int, **columns: list) -> pd.DataFrame:
    ids = pd.Index([f"image{i}" for i in range(images)], name="image_id")
    return pd.DataFrame({"split": "test", **columns}, index=ids)


def test_a_subgroup_is_a_leaderboard_of_its_images():
    made = random_tables(2, 26)
    sites = ["bern" if i % 3 else "ulm" for i in range(26)]
    groups = {f"image{i}": i // 2 for i in range(26)}
    questions = Questions(covariates=manifest(26, site=sites), subgroups=["site"])
    frame = build_results(made, Resampling(groups), questions=questions).subgroups
    assert frame["subgroup"].unique().tolist() == ["bern", "ulm"]
    for site in ("bern", "ulm"):
        chosen = [i for i, s in enumerate(sites) if s == site]
        alone = build_results({n: t.iloc[chosen] for n, t in made.items()}, Resampling(groups)).leaderboard
        part = frame[frame["subgroup"] == site].reset_index(drop=True)
        shared = [column for column in alone if column != "caution"]  # which is about all images
        pd.testing.assert_frame_equal(part[shared], alone[shared])
        assert part["n_images"].tolist() == [len(chosen)] * 8
        assert part["n_groups"].unique().tolist() == [len({i // 2 for i in chosen})]
        assert part["warning"].unique().tolist() == (["only 9 images"] if site == "ulm" else [""])


def test_numbers_are_cut_in_groups_of_about_equal_size_and_the_cut_is_said():
    sizes = [9.5, 1, 2, 3, 8, 4, 7, 6, 5]
    frame = build_results(
        random_tables(1, 9), questions=Questions(covariates=manifest(9, size=sizes), subgroups=["size"])
    ).subgroups
    assert frame["subgroup"].unique().tolist() == ["up to 3", "above 3, up to 6", "above 6"]
    assert frame["cut"].unique().tolist() == ["thirds of the scored images, cut at 3 and 6"]
    assert frame["n_images"].tolist() == [3] * 7 * 3


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 12) | st.none(), min_size=1, max_size=40), st.integers(2, 5))
def test_equal_values_stay_together_and_every_image_has_a_subgroup(values, quantiles):
    column = pd.Series(values, dtype=float)
    groups = cut_column(column, quantiles=quantiles)
    assert len(groups.labels) == len(values)
    assert set(groups.order) == set(groups.labels)
    assert len(groups.order) <= quantiles + 1
    by_value: dict[object, set[str]] = {}
    for value, label in zip(values, groups.labels, strict=True):
        by_value.setdefault(value, set()).add(label)
        assert (label == "not stated") == (value is None)
    assert all(len(labels) == 1 for labels in by_value.values())
    known = [(v, groups.order.index(label)) for v, label in zip(values, groups.labels, strict=True) if v is not None]
    places = [place for _, place in sorted(known)]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("values", "order", "cut"),
    [
        (["b", "a", None, "a"], ["a", "b", "not stated"], ""),
        ([10, 2, 2, 10], ["2", "10"], ""),  # few numbers are names: by size, not by letters
        ([True, False, True], ["False", "True"], ""),
        (["3", "1", "2", "4"], ["up to 2", "above 2"], "halves of the scored images, cut at 2"),
        ([math.nan, math.nan], ["not stated"], ""),
        ([1, 1, 1, 1, 5, 9], ["up to 1", "above 1"], "halves of the scored images, cut at 1"),
        (["1", "2", "3", "many"], ["1", "2", "3", "many"], ""),
    ],
)
def test_kinds_of_columns(values, order, cut):
    groups = cut_column(pd.Series(values), quantiles=2)
    assert groups.order == order
    assert groups.cut == cut


def test_one_image_has_no_interval():
    questions = Questions(covariates=manifest(9, site=["x", *["y"] * 8]), subgroups=["site"])
    frame = build_results(random_tables(1, 9), questions=questions).subgroups
    alone = frame[frame["subgroup"] == "x"]
    assert np.isinf(alone[["iou_low", "iou_high"]].to_numpy()).all()
    assert alone["iou_normalized"].isna().all()


def test_what_the_manifest_lacks_is_refused():
    with pytest.raises(ValueError, match=r"no column 'sight'; found site. Add it to manifest.csv"):
        check_columns(["site", "sight"], manifest(2, site=["a", "b"]))
    with pytest.raises(ValueError, match="found none beside the split"):
        check_columns(["split"], manifest(2))
    questions = Questions(covariates=manifest(4, site=["a"] * 4), subgroups=["site"])
    with pytest.raises(ValueError, match="lacks 5 scored images, first 'image4'"):
        build_results(random_tables(1, 9), questions=questions)
