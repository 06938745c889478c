"""What is said, and that its limits are said too."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from irrbench.data import RaterData
from irrbench.reliability import study
from irrbench.report.raters import findings, grade, headline, limits
from irrbench.report.terminal import reliability_table
from irrbench.report.text import alpha_word, icc_word, percent_of
from tests.other_scores import register
from tests.reliability.conftest import QUICK, make_data


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
    """With other values in the table of measures, of 40 groups of images and with a narrow interval about each."""
    summary = found.summary.assign(units=40)
    for key, value in values.items():
        if key.endswith("__mean"):
            rows = summary["measure"] == key.removesuffix("__mean")
            summary.loc[rows, ["low", "high"]] = [value - 0.002, value + 0.002]
    for key, value in values.items():
        measure, _, column = key.partition("__")
        summary.loc[summary["measure"] == measure, column] = value
    return replace(found, summary=summary)


def test_the_headline_has_the_main_numbers(found):
    rows = found.summary.set_index("measure")["mean"]
    text = headline(found)
    assert text.startswith("24 images, 3 raters: Krippendorff's alpha ")
    # The nearly exact value first, Laplace's beside it.
    exact, laplace = rows["pixel_icc_quadrature"], rows["pixel_icc"]
    assert abs(exact - laplace) > 0.05
    assert f"{rows['alpha']:.2f}, pixel ICC {exact:.2f} (Laplace's approximation: {laplace:.2f}), extent ICC" in text


def test_without_quadrature_the_headline_calls_the_value_an_approximation(found):
    rows = found.summary[found.summary["measure"] != "pixel_icc_quadrature"]
    text = headline(replace(found, summary=rows))
    assert f"pixel ICC {rows.set_index('measure').loc['pixel_icc', 'mean']:.2f} (Laplace's approximation), " in text
    text = " ".join(findings(replace(found, summary=rows)))
    assert "This is Laplace's approximation, as in the paper; the nearly exact value was not asked for." in text
    assert "by quadrature" not in text


def test_the_headline_says_what_is_missing(found):
    drawn = found.per_image.assign(n_raters=[2, 2, *found.per_image["n_raters"][2:]])
    text = headline(replace(found, per_image=drawn, n_images=25))
    assert text.startswith("24 of 25 images (22 drawn by all), 3 raters: ")


@pytest.mark.parametrize(("change", "low", "said"), [(0.08, 0.01, True), (0.04, 0.01, False), (0.08, -0.01, False)])
def test_who_draws_least_like_the_others(found, change, low, said):
    table = found.leave_one_out.copy()
    row = (table["measure"] == "alpha") & (table["left_out"] == "cem")
    table.loc[row, ["mean", "change", "change_low", "change_high"]] = [0.9, change, low, 0.2]
    table.loc[(table["measure"] == "alpha") & ~row, ["change", "change_low", "change_high"]] = [-0.05, -0.06, -0.04]
    text = "Without cem alpha would be 0.90, higher by 0.08 (0.01 to 0.20): cem draws least like the others"
    changed_study = replace(found, leave_one_out=table)
    assert any(sentence.startswith(text) for sentence in findings(changed_study)) == said
    slots = replace(changed_study, options=replace(found.options, raters_are_slots=True))
    assert not any("draws least" in sentence for sentence in findings(slots))


def test_least_like_the_others_needs_an_interval_above_everybody_elses(found):
    table = found.leave_one_out.copy()
    for rater, change in (("anna", 0.1), ("cem", 0.09)):
        row = (table["measure"] == "alpha") & (table["left_out"] == rater)
        table.loc[row, ["change", "change_low", "change_high"]] = [change, change - 0.01, change + 0.01]
    changed_study = replace(found, leave_one_out=table)
    text = " ".join(findings(changed_study))
    assert "the others agree more with each other than with anna, which does not say who is right." in text
    assert "draws least" not in text
    table.loc[row, "change_high"] = 0.085
    assert "anna draws least like the others, which" in " ".join(findings(changed_study))


def test_a_change_over_all_images_does_not_rank_a_rater_who_drew_part_of_them(found):
    table = found.leave_one_out.copy()
    row = (table["measure"] == "alpha") & (table["left_out"] == "cem")
    table.loc[table["measure"] == "alpha", ["change", "change_low", "change_high"]] = [-0.05, -0.06, -0.04]
    table.loc[row, ["change", "change_low", "change_high"]] = [0.1, 0.09, 0.11]
    text = " ".join(findings(replace(found, leave_one_out=table, raters=found.raters.assign(n=[24, 20, 24]))))
    assert "the others agree more with each other than with cem" in text
    assert "draws least" not in text


def test_who_drew_few_images(found):
    few = found.raters.assign(n=[24, 12, 11])
    said = [sentence for sentence in findings(replace(found, raters=few)) if " drew " in sentence]
    assert said == ["cem drew 11 of these 24 images: all values of this rater come from these images alone."]


def test_images_left_out_are_among_the_findings_but_not_twice(found):
    assert findings(replace(found, remarks=("1 of 25 left out.",)))[-1] == "1 of 25 left out."
    twice = replace(found, remarks=("most left out.",), warnings=("most left out.",))
    assert "most left out." not in findings(twice)


def test_findings_follow_the_numbers(found):
    text = " ".join(findings(changed(found, alpha__mean=0.7, pixel_icc_quadrature__mean=0.4)))
    assert "good for tentative conclusions only" in text
    assert "on average: poor" in text
    assert "Furthest from careless masks: " in text
    assert "Raters alone do not tell which score separates models best." in text
    assert "by the variances found here, an estimate without an interval: " in text


class TestGrades:
    """A word needs the lower end of an interval, and 30 images or groups."""

    @pytest.mark.parametrize(
        ("low", "high", "units", "word"),
        [
            (0.91, 0.95, 30, "excellent"),
            (0.91, 0.95, 29, ""),
            (0.91, 0.99, 2, ""),
            (0.76, 0.95, 100, "at least good"),
            (0.55, 0.95, 100, "at least moderate"),
            (0.1, 0.95, 100, ""),
            (0.1, 0.4, 100, "poor"),
            (np.nan, np.nan, 100, ""),
            (-np.inf, np.inf, 100, ""),
        ],
    )
    def test_of_icc(self, low, high, units, word):
        assert grade(icc_word, low, high, units) == word

    @pytest.mark.parametrize(
        ("low", "high", "word"),
        [
            (0.81, 0.83, "reliable"),
            (0.79, 0.83, "at least good for tentative conclusions"),
            (0.7, 0.75, "good for tentative conclusions only"),
            (0.6, 0.7, ""),
            (0.5, 0.6, "not reliable"),
        ],
    )
    def test_of_alpha(self, low, high, word):
        assert grade(alpha_word, low, high, 30) == word

    def test_two_images_are_never_excellent(self):
        masks = [np.stack([np.arange(400).reshape(20, 20) < 60 + 100 * i + r for r in range(3)]) for i in range(2)]
        two = study(RaterData.from_arrays([np.zeros((1, 20, 20))] * 2, masks), QUICK, progress=False)
        assert two.across.set_index("measure").loc["extent_icc", "value"] > 0.99
        text = " ".join(findings(two))
        for word in ("excellent", "good", "moderate", "poor", "reliable"):
            assert f": {word}" not in text
            assert f", {word}" not in text

    def test_the_rule_is_among_the_limits(self, found):
        assert "the word of the lower end of its interval, and no word from fewer than 30 groups of images" in " ".join(
            limits(found)
        )


def test_the_interval_of_the_extent_icc_is_for_these_raters(found):
    text = " ".join(findings(found))
    assert "The interval is for these raters and images like these. For raters in general it is too narrow" in text
    across = found.across.assign(low=np.nan, high=np.nan)
    assert "The interval is for" not in " ".join(findings(replace(found, across=across)))


def test_agreement_between_two_people_is_that_of_pairs_not_the_ceiling(found):
    rows = changed(found, pairwise_iou__mean=0.41, iou_ceiling__mean=0.77)
    (sentence,) = [s for s in findings(rows) if "Two raters' masks" in s]
    assert "Two raters' masks have an IoU of 0.41 (0.41 to 0.41) on average over all pairs." in sentence
    assert "0.77" not in sentence


def test_two_raters_have_no_rates_by_staple_and_the_report_says_why():
    data = make_data(6)
    two = RaterData.from_arrays([data.image(i) for i in range(6)], [data.masks(i)[:2] for i in range(6)])
    pair = study(two, QUICK, progress=False)
    assert pair.raters[["sensitivity", "specificity"]].isna().all(axis=None)
    assert set(pair.raters["reason"]) == {"STAPLE: two raters: their votes do not identify sensitivity and specificity"}
    assert any("the agreement of this pair" in sentence for sentence in findings(pair))


def test_three_raters_are_no_pair(found):
    assert found.raters[["sensitivity", "specificity"]].notna().all(axis=None)
    assert set(found.raters["reason"]) == {""}
    assert not any("pair. " in sentence for sentence in findings(found))


@pytest.mark.parametrize("blank", [False, True])
def test_the_number_of_raters_is_given_with_and_without_blank_masks(found, blank):
    table = found.raters_needed
    if blank:
        other = table.assign(masks="without masks that mark nothing or everything", raters=[1, 3, 7])
        table = pd.concat([table.assign(raters=[4, 12, 25]), other])
    (text,) = [s for s in findings(replace(found, raters_needed=table)) if s.startswith("Raters whose mean extent")]
    if blank:
        assert text.endswith(
            "all masks: 4 for 0.75, 12 for 0.9, 25 for 0.95; "
            "without masks that mark nothing or everything: 1 for 0.75, 3 for 0.9, 7 for 0.95."
        )
    else:
        numbers = ", ".join(f"{row.raters} for {row.target:g}" for row in table.itertuples())
        assert text.endswith(f"found here, an estimate without an interval: {numbers}.")


def test_blocks_are_described_as_what_they_are(found):
    text = " ".join(findings(changed(found, area_icc_4__mean=0.13, block_share_icc_4__mean=0.95)))
    assert "The share that a rater marks of a block of the image has a reliability of 0.95 (4x4)" in text
    assert "The area ICC, the block's share of the variance of single marks, is 0.13 (4x4)" in text


@pytest.mark.parametrize(("laplace", "said"), [(0.52, False), (0.6, True)])
def test_engines_that_differ_are_said(found, laplace, said):
    sentences = findings(changed(found, pixel_icc_quadrature__mean=0.5, pixel_icc__mean=laplace))
    assert any("approximation matters" in sentence for sentence in sentences) == said


def test_nearly_unanimous_images_are_said(found):
    text = " ".join(findings(changed(found, unanimous__mean=0.995, unmarked__mean=0.981)))
    assert "agree on 99.5 % of the pixels that count in an image, and nobody marks 98.1 % of them" in text
    assert "near 1 because of the background, whatever raters do elsewhere" in text
    assert not any("agree on" in s for s in findings(changed(found, unanimous__mean=0.6)))


def test_agreement_on_large_lesions_is_not_put_down_to_the_background(found):
    text = " ".join(findings(changed(found, unanimous__mean=0.97, unmarked__mean=0.1)))
    assert "agree on 97.0 % of the pixels that count in an image, and nobody marks 10.0 % of them" in text
    assert "background" not in text


def test_a_high_pixel_icc_of_much_background_is_no_praise(found):
    praised = " ".join(findings(changed(found, pixel_icc_quadrature__mean=0.95, unanimous__mean=0.6)))
    warned = " ".join(findings(changed(found, pixel_icc_quadrature__mean=0.95, unanimous__mean=0.99)))
    assert "on average: excellent; " in praised
    assert "excellent" not in warned
    assert "it depends on these more than on those that they disagree about, so no word is given to it" in warned
    assert "no word is given" not in praised


def test_where_lower_is_better_the_average_rater_is_below_the_careless_masks(found, monkeypatch):
    register(monkeypatch)
    chosen = found.scores[found.scores["monitor"]].assign(score="error", title="Error rate")
    text = " ".join(findings(replace(found, scores=chosen)))
    assert "Furthest from careless masks: Error rate." in text
    assert "furthest below a mask that marks everything" in text
    assert "furthest above a mask that marks everything" in " ".join(findings(found))


def test_one_image_names_no_score(found):
    undefined = replace(found, scores=found.scores.assign(monitor=False, margin_in_sd=np.nan))
    assert not any("careless" in sentence for sentence in findings(undefined))


def test_an_undefined_measure_is_not_judged(found):
    text = " ".join(findings(changed(found, alpha__mean=np.nan, pixel_icc_quadrature__mean=np.nan)))
    assert "nan" not in text
    assert "Krippendorff" not in text


def test_no_score_to_monitor_is_said(found):
    text = " ".join(findings(replace(found, scores=found.scores.assign(monitor=False))))
    assert "is the average rater shown to be better than both careless masks" in text
    assert "Furthest" not in text


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


@pytest.mark.parametrize("column", ["group", None])
def test_the_forms_take_images_for_independent_which_matters_where_there_are_groups(found, column):
    text = " ".join(limits(replace(found, data=replace(found.data, group_column=column))))
    assert ("the six forms of the extent ICC, which take images for independent" in text) == (column is not None)
    assert "about these raters, but for those of ICC(1,...) and ICC(2,...)" in text


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
