"""What is said, and that its limits are said too."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from irrbench.report.raters import findings, headline, limits
from irrbench.report.terminal import reliability_table
from irrbench.report.text import alpha_word, icc_word, percent_of
from tests.other_scores import register


@pytest.mark.parametrize(
    ("value", "word"),
    [(-0.1, "poor"), (0.499, "poor"), (0.5, "moderate"), (0.75, "good"), (0.9, "excellent"), (1, "excellent")],
)
def test_bands_of_icc(value, word):
    assert icc_word(value) == word


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.8, "reliable"),
        (0.799, "good for tentative conclusions only"),
        (0.667, "good for tentative conclusions only"),
        (0.6, "not reliable"),
    ],
)
def test_bands_of_alpha(value, words):
    assert alpha_word(value) == words


@pytest.mark.parametrize(
    ("part", "text"), [(0, "0 %"), (0.001, "<1 %"), (0.204, "20 %"), (0.995, ">99 %"), (1, "100 %")]
)
def test_percent_of(part, text):
    assert percent_of(part) == text


def changed(found, **values):
    summary = found.summary.copy()
    for key, value in values.items():
        measure, _, column = key.partition("__")
        summary.loc[summary["measure"] == measure, column] = value
    return replace(found, summary=summary)


def test_the_headline_has_the_main_numbers(found):
    rows = found.summary.set_index("measure")["mean"]
    text = headline(found)
    assert text.startswith("24 images, 3 raters: Krippendorff's alpha ")
    assert f"{rows['alpha']:.2f}, pixel ICC {rows['pixel_icc']:.2f}, extent ICC" in text


def test_the_headline_says_what_is_missing(found):
    drawn = found.per_image.assign(n_raters=[2, 2, *found.per_image["n_raters"][2:]])
    text = headline(replace(found, per_image=drawn, n_images=25))
    assert text.startswith("24 of 25 images (22 drawn by all), 3 raters: ")


@pytest.mark.parametrize(("change", "said"), [(0.08, True), (0.04, False)])
def test_who_draws_least_like_the_others(found, change, said):
    table = found.leave_one_out.copy()
    row = (table["measure"] == "alpha") & (table["left_out"] == "cem")
    table.loc[row, ["mean", "change", "change_low", "change_high"]] = [0.9, change, 0.01, 0.2]
    text = "Without cem alpha would be 0.90, higher by 0.08 (0.01 to 0.20): cem draws least like the others"
    changed_study = replace(found, leave_one_out=table)
    assert any(sentence.startswith(text) for sentence in findings(changed_study)) == said
    slots = replace(changed_study, options=replace(found.options, raters_are_slots=True))
    assert not any("draws least" in sentence for sentence in findings(slots))


def test_who_drew_few_images(found):
    few = found.raters.assign(n=[24, 12, 11])
    said = [sentence for sentence in findings(replace(found, raters=few)) if " drew " in sentence]
    assert said == ["cem drew 11 of these 24 images: all values of this rater come from these images alone."]


def test_images_left_out_are_among_the_findings_but_not_twice(found):
    assert findings(replace(found, remarks=("1 of 25 left out.",)))[-1] == "1 of 25 left out."
    twice = replace(found, remarks=("most left out.",), warnings=("most left out.",))
    assert "most left out." not in findings(twice)


def test_findings_follow_the_numbers(found):
    text = " ".join(findings(changed(found, alpha__mean=0.7, pixel_icc__mean=0.4)))
    assert "good for tentative conclusions only" in text
    assert "on average: poor" in text
    assert "To monitor: " in text
    assert "Raters whose mean extent has a given reliability: " in text


@pytest.mark.parametrize(("laplace", "said"), [(0.52, False), (0.6, True)])
def test_engines_that_differ_are_said(found, laplace, said):
    sentences = findings(changed(found, pixel_icc_quadrature__mean=0.5, pixel_icc__mean=laplace))
    assert any("approximation matters" in sentence for sentence in sentences) == said


def test_nearly_unanimous_images_are_said(found):
    assert any("agree on 99.5 % of an image's pixels" in s for s in findings(changed(found, unanimous__mean=0.995)))
    assert not any("agree on" in s for s in findings(changed(found, unanimous__mean=0.6)))


def test_a_high_pixel_icc_of_much_background_is_no_praise(found):
    praised = " ".join(findings(changed(found, pixel_icc__mean=0.95, unanimous__mean=0.6)))
    warned = " ".join(findings(changed(found, pixel_icc__mean=0.95, unanimous__mean=0.99)))
    assert "on average: excellent; " in praised
    assert "excellent by the usual convention, which masks with much background reach too easily" in warned


def test_where_lower_is_better_the_average_rater_is_below_the_careless_masks(found, monkeypatch):
    register(monkeypatch)
    chosen = found.scores[found.scores["monitor"]].assign(score="error", title="Error rate")
    text = " ".join(findings(replace(found, scores=chosen)))
    assert "To monitor: Error rate." in text
    assert "furthest below a mask that marks everything" in text
    assert "furthest above a mask that marks everything" in " ".join(findings(found))


def test_one_image_names_no_score(found):
    undefined = replace(found, scores=found.scores.assign(monitor=False, margin_in_sd=np.nan))
    assert not any("score" in sentence for sentence in findings(undefined))


def test_an_undefined_measure_is_not_judged(found):
    text = " ".join(findings(changed(found, alpha__mean=np.nan, pixel_icc__mean=np.nan)))
    assert "nan" not in text
    assert "Krippendorff" not in text


def test_no_score_to_monitor_is_said(found):
    text = " ".join(findings(replace(found, scores=found.scores.assign(monitor=False))))
    assert "no score can be trusted here on its own" in text


def test_limits_are_always_said(found):
    text = " ".join(limits(found))
    for part in (
        "are conventions",
        "not independent of each other",
        "groups of images (group)",
        "Other raters",
    ):
        assert part in text
    assert "slots" not in text


def test_slots_are_no_persons(found):
    text = " ".join(limits(replace(found, options=replace(found.options, raters_are_slots=True))))
    assert "slots here, not persons" in text
    assert "ICC(1,...) fits" in text


def test_the_terminal_shows_measures_intervals_and_the_note(found):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(reliability_table(found.summary, found.across, note="rendered [images]"))
    text = console.export_text()
    alpha = found.summary.set_index("measure").loc["alpha"]
    line = next(line for line in text.splitlines() if "Krippendorff" in line)
    assert line.split()[2:4] == ["24", f"{alpha['mean']:.3f}"]
    assert "rendered [images]" in text
    extent = found.across.iloc[0]
    assert f"{extent['low']:.3f} to {extent['high']:.3f}" in text
