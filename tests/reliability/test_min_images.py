"""Raters who drew few images are listed, and not described."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from irrbench.data import RaterData
from irrbench.reliability import Study, StudyOptions, study
from irrbench.report.raters import draw_figures, findings, rules_in_words, study_page
from tests.reliability.conftest import QUICK, make_data

IMAGES, FEW = 40, 8
NAMED = "than with dan"


@pytest.fixture(scope="module")
def four() -> RaterData:
    """Forty images by three raters; a fourth drew eight of them, and marked the mirror image."""
    three = make_data(IMAGES)
    masks = [np.concatenate([three.masks(i), three.masks(i)[:1, ::-1, ::-1]]) for i in range(IMAGES)]
    present = np.ones((IMAGES, 4), bool)
    present[FEW:, 3] = False
    images, raters = [three.image(i) for i in range(IMAGES)], (*three.raters, "dan")
    return RaterData.from_arrays(images, masks, raters=raters, present=present)


@pytest.fixture(scope="module")
def with_minimum(four: RaterData) -> Callable[[int], Study]:
    """The study with another minimum, once for each."""
    return cache(lambda number: study(four, replace(QUICK, min_images=number), progress=False))


def page_text(found: Study) -> dict[str, str]:
    page = study_page(found, draw_figures(found, pictures=0), config={}, command="")
    return {section.anchor: " ".join(section.items) for section in page.sections}


def test_a_rater_of_eight_images_is_not_named_although_the_interval_excludes_zero(with_minimum):
    # The images that dan did not draw enter the change as zeros, as if they were data about dan.
    named = with_minimum(FEW)
    row = named.leave_one_out.query("left_out == 'dan' and measure == 'alpha'").iloc[0]
    assert (row["n"], row["change_low"] > 0, row["change"] > 0.05) == (IMAGES, True, True)
    assert NAMED in " ".join(findings(named))

    enough = with_minimum(FEW + 1)
    assert not any("dan" in sentence for sentence in findings(enough))
    assert set(enough.leave_one_out["left_out"]) == {"", "anna", "ben", "cem"}


def test_the_rater_and_the_pairs_are_listed_with_number_and_reason(with_minimum):
    everybody, enough = with_minimum(1), with_minimum(FEW + 1)
    raters, pairs = enough.raters.set_index("rater"), enough.pairs.set_index(["first", "second"])
    reason = "8 images, fewer than 9 (min_images)"
    assert (raters.loc["dan", "n"], raters.loc["dan", "reason"]) == (FEW, reason)
    assert raters.loc["dan"].drop(["n", "reason"]).isna().all()
    assert pairs.loc[("ben", "dan"), "n"] == FEW
    assert pairs.loc[("ben", "dan"), "reason"] == reason
    assert pairs.loc[("ben", "dan"), ["kappa", "se", "low", "high"]].isna().all()

    # Nothing else changes: dan's votes count in the others' values.
    before = everybody.raters.set_index("rater")
    assert list(before.columns) == list(raters.columns)
    assert before.drop("dan").equals(raters.drop("dan"))
    assert everybody.pairs.query("second != 'dan'").equals(enough.pairs.query("second != 'dan'"))
    assert everybody.summary.equals(enough.summary)
    assert everybody.raters.query("rater == 'dan'")["bias"].notna().all()


def test_fewer_images_than_the_minimum_are_said_once(with_minimum):
    sentence = "With 40 images, fewer than 41, no single rater or pair of raters is compared with the others."
    sections = page_text(with_minimum(IMAGES + 1))
    assert sections["raters"].startswith(sentence)
    assert sum(text.count("no single rater") for text in sections.values()) == 1
    assert page_text(with_minimum(IMAGES))["raters"] == ""


def test_the_six_forms_say_of_how_many_images_they_are(with_minimum):
    forms = with_minimum(1).across.set_index("measure")
    assert forms.loc["ICC(2,1)", "reason"] == "of the 8 images that all raters drew"
    assert forms.loc["extent_icc", "reason"] == ""


def test_without_any_rater_there_is_no_figure_of_them(with_minimum):
    nobody = with_minimum(IMAGES + 1)
    assert "leave_one_out" not in draw_figures(nobody, pictures=0)
    assert set(nobody.leave_one_out["left_out"]) == {""}
    assert nobody.raters["reason"].tolist() == ["40 images, fewer than 41 (min_images)"] * 3 + [
        "8 images, fewer than 41 (min_images)"
    ]


def test_the_minimum_is_among_the_rules(with_minimum):
    assert rules_in_words(with_minimum(17))["Raters by name"] == (
        "compared from 17 images on, pairs from as many images that both drew"
    )


def test_thirty_images_by_default(four):
    found = study(four, replace(QUICK, min_images=StudyOptions().min_images), progress=False)
    assert found.raters["bias"].isna().tolist() == [False, False, False, True]
    assert found.raters["reason"].iloc[3] == "8 images, fewer than 30 (min_images)"
