"""The section about label noise: its sentences, tables and figures; and that noisy models are never the best."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from irrbench.analysis.results import Questions, Resampling
from irrbench.plots.style import MODEL_COLOURS
from irrbench.report.benchmark import benchmark_page, findings, headline
from irrbench.report.figures import draw_figures
from irrbench.report.page import render
from irrbench.report.robustness import recipe_colours, robustness_findings, robustness_section
from irrbench.scores import SCORES, Score
from tests.analysis.test_robustness import DOSES, build, grid, record
from tests.report.frames import leaderboard, results

GCE = {0: 0.75, 1: 0.74, 2: 0.73, 4: 0.71}
TWO = {("bce", "boundary"): DOSES, ("gce", "boundary"): GCE}
BOTH = TWO | {("bce", "shrink"): {dose: mean - 0.0201 * dose for dose, mean in DOSES.items()}}
SEEDS = (
    "Intervals and tests count images and not seeds: they are about these networks. About recipes they are with "
    "several seeds and statistics.generalize: seeds."
)


def found(curves, **labels):
    return replace(build(grid(curves, **labels))[0], name="made up")


def test_sentences_by_hand():
    said = robustness_findings(found(BOTH, **{"rater:r1": 0.69}))
    assert said[0] == (
        "Under boundary: unet majority gce has the best mean IoU over doses of 2 recipes, 0.730 (105 % of the way from "
        "the naive to the average rater). Its lead over the next is distinguishable from chance."
    )
    assert said[1] == (
        "Under shrink: unet majority bce has a mean IoU over doses of 0.607 (85 % of the way from the naive to the "
        "average rater)."
    )
    assert said[2].startswith(
        "Recipes fall below the average rater under boundary at a dose of 1.3 (unet majority bce, 1."
    )
    assert "), under shrink at a dose of 1 (unet majority bce, " in said[2]
    assert said[2].endswith(
        "The others are below it without noise, or stay above it at all doses: the table says which."
    )
    # .0201 a dose
    assert said[3].startswith(
        "At dose 1, noise that changes the marked area (shrink) costs 0.020 more IoU than noise that keeps it "
        "(boundary; 95 % interval 0.01"
    )
    assert said[4].startswith(
        "unet bce: Training on rater:r1 instead of majority costs as much as 1.5 doses of boundary noise ("
    )
    assert ") or as much as 1.1 doses of shrink noise (" in said[4]
    assert said[5:] == [SEEDS]


def test_a_lead_that_may_be_chance_and_one_that_is_not():
    near = {dose: mean + 0.001 for dose, mean in GCE.items()}
    curves = TWO | {("sce", "boundary"): near, ("bce", "shrink"): DOSES, ("sce", "shrink"): near}
    said = robustness_findings(found(curves))[0]
    assert said.startswith("Under boundary, shrink: unet majority sce has the best mean IoU over doses of 3 recipes, ")
    assert said.endswith("Its lead over the next is distinguishable from chance under shrink, not under boundary.")


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (0.5, "No recipe falls below the average rater within the doses that were trained."),
        (-0.1, "All recipes are below the average rater without label noise already."),
    ],
)
def test_where_no_dose_is_between(shift, words):
    moved = {key: {dose: mean + shift for dose, mean in curve.items()} for key, curve in TWO.items()}
    assert words in robustness_findings(found(moved))


def without_clean(curves):
    return {key: {dose: mean for dose, mean in curve.items() if dose} for key, curve in curves.items()}


def test_without_clean_models_nothing_is_said_of_them():
    low = {key: {dose: mean - 0.1 for dose, mean in curve.items()} for key, curve in TWO.items()}
    said = robustness_findings(made := found(without_clean(low)))
    assert said == ["All recipes are below the average rater at their smallest dose of noise already.", SEEDS]
    drawn = draw_figures(made)
    assert "tolerance" not in drawn
    assert "without noise" not in drawn["doses"].caption
    assert "no model without noise" in render(benchmark_page(made))


def test_without_clean_models_falls_are_said():
    curves = TWO | {("sce", "boundary"): {dose: mean - 0.1 for dose, mean in DOSES.items()}}
    said = robustness_findings(found(without_clean(curves)))[0]
    assert said.startswith("Recipes fall below the average rater under boundary at a dose of 1.3 (unet majority bce, 1")
    assert said.endswith(
        "The others are below it at their smallest dose, or stay above it at all doses: the table says which."
    )


def test_areas_over_other_doses_are_not_compared():
    means = grid(TWO)
    means |= {record(label="random", noise="boundary" if dose else "", dose=dose): 0.8 for dose in (0, 1)}
    said = robustness_findings(build(means)[0])
    assert said[0].startswith(
        "Under boundary (0, 1, 2, 4): unet majority gce has the best mean IoU over doses of 2 recipes"
    )
    assert said[1].startswith("Under boundary (0, 1): unet random bce has a mean IoU over doses of 0.800 (")


def test_each_real_label_has_a_sentence():
    said = " ".join(robustness_findings(found(BOTH, soft=0.5, random=0.72, **{"rater:r1": 0.69, "rater:r2": 0.6})))
    assert [said.count(f"Training on {label} ") for label in ("random", "rater:r1", "rater:r2", "soft")] == [1, 1, 1, 0]


def test_the_report_says_which_models_a_correction_is_over():
    for made, is_said in ((found(TWO), True), (build({record("bce"): 0.7, record("gce"): 0.6})[0], False)):
        page = " ".join(render(benchmark_page(replace(made, name="made up"))).split())
        assert ("(those without label noise and those with it apart): is it better" in page) == is_said
        assert ("correction (models without label noise and those with it apart). The" in page) == is_said


def test_seeds_that_count_need_no_remark():
    made, _ = build(grid(TWO), Resampling(generalize="seeds"), seeds=2)
    assert SEEDS not in robustness_findings(made)
    assert made.counts_seeds


def test_without_noise_there_is_no_section():
    made = replace(build({record("bce"): 0.7, record("gce"): 0.6})[0], name="made up")
    assert robustness_findings(made) == []
    assert robustness_section(made, {}).has_content is False
    assert {"doses", "tolerance"}.isdisjoint(draw_figures(made))
    assert "label noise" not in headline(made)
    assert "label noise" not in render(benchmark_page(made))


def test_the_best_model_is_one_without_noise():
    """Though one with noise has a better score, and pairs are of the same noise and dose."""
    lucky = {("bce", "boundary"): {0: 0.7, 1: 0.9}, ("gce", "boundary"): {0: 0.65, 1: 0.6}}
    made = found(lucky)
    board = made.leaderboard[made.leaderboard["role"] == "model"]
    assert board["name"].iloc[0] == "unet majority bce boundary 1"
    assert board.dropna(subset=["rank"])["name"].tolist() == ["unet majority bce", "unet majority gce"]
    assert made.best["name"] == made.shown == "unet majority bce"
    assert headline(made).startswith("The best of 2 models without label noise, unet majority bce, reaches IoU 0.70")
    said = " ".join(findings(made))
    assert "It is the best of 2; intervals that hold for all of them at once" in said
    assert "over the next, unet majority gce," in said


def test_tables_and_figures_of_clean_models_leave_noisy_ones_out():
    made = found(BOTH, random=0.7)
    page = render(benchmark_page(made))
    board = page[page.index('id="leaderboard"') : page.index('id="robustness"')]
    shown, _, folded = board.partition("<summary>Models with label noise (9)</summary>")
    assert "unet majority bce</bdi>" in shown
    assert "boundary" not in shown.partition("<tbody>")[2]
    assert folded.count("boundary") == 6
    band = draw_figures(made)["band"]
    assert band.caption.endswith("Models with noisy labels are left out. The numbers are in the leaderboard.")
    assert not any("boundary" in label.get_text() for label in band.figure.axes[0].get_yticklabels())


def test_the_section_has_figures_and_tables():
    section = robustness_section(made := found(BOTH, random=0.72), draw_figures(made))
    figures = [part.figure.caption for part in section.parts if part.figure]
    assert len(figures) == 2
    assert "Marks on the axis: training on other labels" in figures[0]
    page = render(benchmark_page(made))
    for title in ("What each recipe stands", "What other labels cost, in doses", "Biased beside unbiased noise"):
        assert title in page
    assert "<summary>Pairs of recipes at each dose (5 rows)</summary>" in page
    assert "dose below clean score less margin" in page
    assert "(statistics.margins)" not in page


def test_few_groups_show_no_tests():
    made, _ = build(grid(BOTH), images=9)
    tables = [part.parts[0].shown_columns for part in robustness_section(made, {}).parts if part.parts]
    assert all({"p_holm", "verdict", "first_below_ceiling"}.isdisjoint(columns) for columns in tables)
    said = " ".join(robustness_findings(made))
    assert "chance" not in said
    assert "noise that changes the marked area" not in said


def test_no_margin_is_said():
    made, _ = build(grid(TWO), questions=Questions())
    (text, *_) = [part.text for part in robustness_section(made, {}).parts if part.title == "What each recipe stands"]
    assert text.endswith("says from which dose on a recipe is worse than without noise.")


def test_recipes_have_the_colours_of_their_clean_models():
    made = found(TWO)
    colours = {"unet majority bce": "#111111", "unet majority gce": "#222222"}
    assert recipe_colours(replace(made, colours=colours)) == colours
    assert recipe_colours(replace(made, colours=dict.fromkeys(made.models, MODEL_COLOURS[0]))) == {}


def test_names_of_all_noisy_models_leave_something_to_show():
    """Where every clean model failed, noisy ones are what there is."""
    frame = pd.DataFrame({"name": ["a", "b"], "dose": [1.0, 2.0], "recipe": "r", "noise": "shift"})
    made = results(leaderboard({"a": 0.6, "b": 0.5}), robustness=frame)
    assert made.best["name"] == "a"
    assert made.rivals == ["a", "b"]
    assert len(made.without_noise(made.leaderboard)) == len(made.leaderboard)
    assert "without label noise" not in headline(made)


def test_costs_of_a_score_where_lower_is_better(monkeypatch):
    monkeypatch.setitem(SCORES, "error", Score("error", "Error", lambda t: t.fp, higher_is_better=False))
    curves = {("bce", "boundary"): {0: 0.3, 1: 0.35}, ("bce", "shrink"): {0: 0.3, 1: 0.5}}
    said = " ".join(robustness_findings(build(grid(curves, soft=0.4), score="error")[0]))
    assert (
        "noise that changes the marked area (shrink) costs 0.150 more Error than noise that keeps it (boundary;" in said
    )
    assert (
        "Training on soft instead of majority costs more than 1 dose of boundary noise or as much as 0.5 doses of "
        "shrink noise (" in said
    )
    less = {("bce", "shrink"): curves["bce", "boundary"], ("bce", "boundary"): curves["bce", "shrink"]}
    assert "costs 0.150 less Error" in " ".join(robustness_findings(build(grid(less), score="error")[0]))
