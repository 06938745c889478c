"""Which images are left out, and what is said about them."""

from __future__ import annotations

import numpy as np
import pytest

from irrbench.data import DataError, RaterData
from irrbench.reliability import StudyOptions, study
from irrbench.reliability.counting import count_images
from irrbench.reliability.study import exclude, remark

PIXELS = 400


def images(*shares: tuple[float, ...], present=None) -> RaterData:
    """One image per tuple: each rater marks that share of its 20 x 20 pixels, from the first pixel on."""
    masks = [np.stack([np.arange(PIXELS).reshape(20, 20) < round(PIXELS * share) for share in s]) for s in shares]
    return RaterData.from_arrays([np.zeros((1, 20, 20))] * len(masks), masks, present=present)


def reasons(data: RaterData, **options: float) -> list[str]:
    listed = exclude(count_images(data, StudyOptions(cells=[2])), data.image_ids, StudyOptions(**options)).set_index(
        "place"
    )
    return [listed["reason"].get(place, "") for place in range(len(data))]


ABOVE = "more than half of the raters marked over 95% of the ROI"
BELOW = "more than half of the raters marked under 5% of the ROI"


@pytest.mark.parametrize(
    ("shares", "reason"),
    [
        ((0.5, 0.5, 0.5), ""),
        ((1.0, 1.0, 0.5), ABOVE),
        ((1.0, 0.5, 0.5), ""),
        ((0.95, 0.95, 0.95), ""),  # not over
        ((0.0, 0.04, 0.5), BELOW),
        ((0.05, 0.05, 0.05), ""),  # not under
        ((0.0, 1.0, 0.5), ""),
        ((1.0, 1.0, 0.5, 0.5), ""),  # half is not more than half
    ],
)
def test_the_rule_of_the_majority(shares, reason):
    assert reasons(images(shares)) == [reason]


def test_thresholds_are_options():
    data = images((0.01, 0.02, 0.01), (1.0, 1.0, 1.0))
    assert reasons(data, exclude_below=0, exclude_above=1) == ["", ""]
    assert reasons(images((0.6, 0.6, 0.1)), exclude_above=0.5) == [ABOVE.replace("95", "50")]


def test_absent_raters_are_no_part_of_the_majority():
    present = np.array([[True, True, False], [True, False, False]])
    assert reasons(images((0.0, 0.0, 0.5), (0.5, 0.5, 0.5), present=present)) == [BELOW, "fewer than two raters"]
    assert reasons(images((0.0, 0.5, 0.5), present=np.array([[True, True, False]]))) == [""]


def test_an_empty_region_has_its_own_reason():
    data = RaterData.from_arrays([np.zeros((1, 4, 4))], [np.ones((2, 4, 4), bool)], rois=[np.zeros((4, 4), bool)])
    assert reasons(data) == ["the region of interest is empty"]


def test_few_left_out_are_counted():
    data = images((0.01, 0.01), *[(0.5, 0.4)] * 4)
    listed = exclude(count_images(data, StudyOptions(cells=[2])), data.image_ids, StudyOptions())
    assert remark(listed, 5, StudyOptions()) == f"1 of 5 images left out: 1 because {BELOW}."
    assert remark(listed.iloc[:0], 5, StudyOptions()) == ""


def test_disputed_images_left_out_are_said():
    data = images((0.0, 0.0, 0.3), (0.0, 0.0, 0.0), *[(0.5, 0.4, 0.5)] * 4)
    listed = exclude(count_images(data, StudyOptions(cells=[2])), data.image_ids, StudyOptions())
    assert listed["disputed"].tolist() == [True, False]
    assert "In 1 of these some raters marked something and others nothing" in remark(listed, 6, StudyOptions())


@pytest.mark.parametrize(
    ("share", "remedy"),
    [(0.01, "keep all images with --exclude-below 0, or give a region of interest"), (1.0, "--exclude-above 1")],
)
def test_most_left_out_is_said_with_a_remedy(share, remedy):
    data = images((share, share), (share, share), (0.5, 0.4))
    listed = exclude(count_images(data, StudyOptions(cells=[2])), data.image_ids, StudyOptions())
    text = remark(listed, 3, StudyOptions())
    assert "2 of 3 images left out" in text
    assert remedy in text


def test_a_study_of_nothing_is_refused_with_the_remedy():
    with pytest.raises(DataError, match=r"no image to study \(2 of 2 images left out: .* --exclude-below 0"):
        study(images((0.01, 0.01), (0.0, 0.02)), progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude_below": 0.6, "exclude_above": 0.5}, "must be 0 <= exclude_below < exclude_above <= 1"),
        ({"cells": [1]}, r"cells must be distinct whole numbers from 2 on, found \[1\]"),
        ({"cells": [4, 4]}, "cells must be distinct"),
        ({"targets": [1.0]}, r"targets and level must lie between 0 and 1, found targets \[1.0\]"),
        ({"targets": []}, r"targets and level must lie between 0 and 1, found targets \[\]"),
        ({"level": 0.0}, "level must lie between 0 and 1"),
        ({"resamples": 0}, "resamples must be 1 or more"),
        ({"min_images": 0}, "min_images must be 1 or more, found 0"),
        ({"scores": ["iuo"]}, "`scores` must be distinct names"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        study(images((0.5, 0.5)), StudyOptions(**options), progress=False)
