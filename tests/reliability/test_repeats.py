"""A rater's second drawings: the same measures, within the rater."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from irrbench import VotePatterns, krippendorff_alpha
from irrbench.data.rater_data import pack_masks
from irrbench.reliability import study
from tests.reliability.conftest import QUICK, make_data


def with_repeats(change):
    """Anna drew images 0 to 9 again, changed by a function of the image's index and her mask."""
    data = make_data()
    again = [pack_masks([change(i, data.masks(i)[0])], data.roi(i)) if i < 10 else None for i in range(len(data))]
    return replace(data, repeats=("anna@2",), repeated=tuple(again))


@pytest.fixture(scope="module")
def copied():
    return study(with_repeats(lambda i, mask: mask), QUICK, progress=False)


@pytest.fixture(scope="module")
def moved():
    return study(with_repeats(shifted), QUICK, progress=False)


def shifted(i, mask):
    return np.roll(mask, 1 + i % 2, axis=1)


def test_drawing_the_same_again_is_perfect(copied):
    table = copied.within.set_index("measure")
    assert set(copied.within["rater"]) == {"anna"}
    assert (table["n"] == 10).all()
    for name in ("alpha", "percent_agreement", "cohen_kappa", "pixel_icc", "iou_ceiling", "extent_icc"):
        assert table.loc[name, "within"] == pytest.approx(1)
    assert table.loc["alpha", "low"] > 0
    assert table.loc["alpha", "difference"] == pytest.approx(1 - table.loc["alpha", "between"])


def test_a_study_says_that_repeats_are_copies(copied, moved):
    (text,) = [text for text in copied.remarks if "anna@2 is equal to anna on 10 of 10 marked images" in text]
    assert text in copied.warnings
    assert not [text for text in moved.remarks if "anna@2" in text]


def test_within_is_the_measure_between_the_drawings_and_between_is_that_of_the_same_images(moved):
    data, found = with_repeats(shifted), moved
    expected = []
    for i in range(10):
        pair = torch.from_numpy(np.stack([data.masks(i)[0], shifted(i, data.masks(i)[0])]))[None]
        roi = torch.from_numpy(data.roi(i))[None]
        expected.append(krippendorff_alpha(VotePatterns.from_masks(pair, roi=roi)).item())
    row = found.within.set_index("measure").loc["alpha"]
    assert row["within"] == pytest.approx(np.mean(expected))
    assert row["between"] == pytest.approx(found.per_image["alpha"][:10].mean())
    assert row["difference"] == pytest.approx(row["within"] - row["between"])


def test_repeats_leave_the_rest_of_the_study_alone(found):
    again = study(with_repeats(lambda i, mask: ~mask), QUICK, progress=False)
    np.testing.assert_array_equal(again.per_image["alpha"], found.per_image["alpha"])
    assert again.raters["rater"].tolist() == ["anna", "ben", "cem"]


def test_without_repeats_there_is_nothing(found):
    assert found.within.empty
