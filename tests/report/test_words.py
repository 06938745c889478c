"""The first sentences and the terminal table say what the numbers say."""

from __future__ import annotations

import io
import re
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from irrbench.plots.curves import trend_bins
from irrbench.plots.words import DASH, LESS, MINUS, show_titles
from irrbench.report import terminal_table
from irrbench.report.benchmark import benchmark_page, cautions, findings, headline
from irrbench.report.figures import draw_figures
from irrbench.report.page import render
from irrbench.report.terminal import wrap_name
from irrbench.report.text import sentences, share
from irrbench.scores import SCORES
from irrbench.stats import alternative_annotator_test
from tests.other_scores import register
from tests.report.frames import comparisons, leaderboard, per_image, results, subgroups, verdicts


def changed(frame, role, **values):
    for column, value in values.items():
        frame.loc[frame["role"] == role, column] = value
    return frame


class TestHeadline:
    def test_between_the_bounds(self):
        text = headline(results(leaderboard({"fpn": 0.5, "unet": 0.62})))
        assert text == (
            "The best of 2 models, unet, reaches IoU 0.62 (95 % interval 0.60 to 0.65) on 120 images of 60 groups "
            "(patient_id); the average rater reaches 0.71, the naive rater 0.04: 87 % (82 % to 91 %) of the way from "
            "the naive to the average rater."
        )

    def test_without_groups_intervals_and_counts(self):
        frame = leaderboard({"unet": 0.62})[["name", "role", "iou", "iou_normalized"]]
        assert headline(results(frame, unit="")) == (
            "The model, unet, reaches IoU 0.62; the average rater reaches 0.71, the naive rater 0.04: 87 % of the way "
            "from the naive to the average rater."
        )

    def test_the_spread_over_raters_is_called_no_interval(self):
        found = results(leaderboard({"fpn": 0.5, "unet": 0.62}), is_descriptive=True)
        assert "IoU 0.62 (descriptive range 0.60 to 0.65)" in headline(found)
        drawn = draw_figures(found)
        assert "the descriptive range of its mean" in drawn["band"].caption
        assert "%" not in headline(found).partition("descriptive")[2].partition(")")[0]

    def test_level_is_the_configurations(self):
        assert "(90 % interval 0.60" in headline(results(leaderboard({"unet": 0.62}), level=0.9))

    @pytest.mark.parametrize(
        ("reason", "end"),
        [
            (
                "the naive rater scores at least as well as the average rater",
                "No normalized score is given: the naive rater ",
            ),
            ("ceiling - floor has no interval", "No normalized score is given: ceiling - floor has no interval."),
        ],
    )
    def test_why_there_is_no_normalized_score(self, reason, end):
        frame = changed(leaderboard({"unet": 0.6}), "model", iou_normalized=np.nan)
        assert end in headline(results(frame, no_shares={"iou": reason}))
        assert "No normalized score" not in headline(results(leaderboard({"unet": 0.6}), no_shares={"tpr": reason}))

    def test_a_reason_of_another_score_is_none_of_this(self):
        frame = changed(leaderboard({"unet": 0.6}), "model", iou_normalized=np.nan)
        assert headline(results(frame, no_shares={"tpr": "x"})).endswith("0.04. No normalized score is given.")

    def test_undefined_models_are_not_the_best(self):
        frame = leaderboard({"unet": 0.6, "fpn": 0.5})
        frame.loc[frame["name"] == "unet", "iou"] = np.nan
        assert headline(results(frame)).startswith("The best of 2 models, fpn,")

    def test_endless_intervals_are_left_out(self):
        frame = changed(leaderboard({"unet": 0.6}), "model", iou_low=-np.inf, iou_high=np.inf)
        assert "reaches IoU 0.60 on 120 images" in headline(results(frame))


def placed(models, low, high, *, role="ceiling", n_groups=60, reason=""):
    """The headline where the differences of the models from a bound have this interval."""
    ends = {f"{role}_difference_low": low, f"{role}_difference_high": high}
    if role == "ceiling":
        ends |= {f"{name}_simultaneous": value for name, value in ends.items()}
    made = verdicts(models, margin=0.02).assign(reason=reason, **ends)
    return headline(results(leaderboard(models).assign(n_groups=n_groups), verdicts=made))


class TestPlace:
    """Above, below and level with need an interval."""

    ONE, TWO = {"unet": 0.73}, {"unet": 0.73, "fpn": 0.72}

    def test_above_where_the_interval_excludes_equality(self):
        text = placed(self.ONE, 0.01, 0.04)
        assert text.endswith(
            "103 % (98 % to 107 %) of the way from the naive to the average rater, above the average rater: a real "
            "result or a leak; check that no test mask was used in training."
        )

    def test_level_where_it_does_not_on_either_side(self):
        assert placed(self.ONE, -0.01, 0.04).endswith("rater, level with the average rater.")
        assert placed({"unet": 0.7}, -0.04, 0.01).endswith("rater, level with the average rater.")

    def test_no_word_without_an_interval(self):
        assert headline(results(leaderboard(self.ONE))).endswith("of the way from the naive to the average rater.")
        assert placed(self.ONE, -np.inf, np.inf).endswith("of the way from the naive to the average rater.")
        assert placed(self.ONE, np.nan, np.nan).endswith("of the way from the naive to the average rater.")

    def test_no_word_with_few_groups_or_where_a_verdict_is_withheld(self):
        assert placed(self.ONE, 0.01, 0.04, n_groups=9).endswith("of the way from the naive to the average rater.")
        reason = "TPR sees one kind of error only"
        assert placed(self.ONE, 0.01, 0.04, reason=reason).endswith("of the way from the naive to the average rater.")

    def test_the_best_of_several_is_above_by_the_interval_for_all(self):
        frame = verdicts(self.TWO, margin=0.02).assign(ceiling_difference_low=0.01, ceiling_difference_high=0.05)
        alone = frame.assign(ceiling_difference_low_simultaneous=-0.01, ceiling_difference_high_simultaneous=0.07)
        assert headline(results(leaderboard(self.TWO), verdicts=alone)).endswith(", level with the average rater.")
        assert ", above the average rater (also by intervals that hold for all 2 models at once)" in placed(
            self.TWO, 0.001, 0.06
        )

    def test_below_is_said_of_a_model_within_the_margin_too(self):
        text = placed({"unet": 0.7}, -0.013, -0.002)
        assert text.endswith("of the way from the naive to the average rater, below the average rater.")

    @pytest.mark.parametrize(
        ("low", "high", "end"),
        [(-0.05, -0.01, ", worse than the naive rater."), (-0.05, 0.02, ", level with the naive rater.")],
    )
    def test_near_the_floor(self, low, high, end):
        assert placed({"unet": 0.01}, low, high, role="floor").endswith(end)
        assert "worse" not in headline(results(leaderboard({"unet": 0.01})))


class TestCopiesAndLeaks:
    """A model whose masks are the raters' is no result, and one above the majority is checked before it is one."""

    MODELS: ClassVar = {"soft": 0.86, "unet": 0.62, "fpn": 0.5}

    def found(self, copies, models=None, **parts):
        return results(leaderboard(models or self.MODELS), copies=copies, **parts)

    def test_the_headline_says_what_is_left_out(self):
        text = headline(self.found(("soft",)))
        assert text.startswith("The best of 2 models, unet (leaving out soft, a copy of the masks), reaches IoU 0.62 ")
        assert "leaving out" not in headline(self.found(()))

    def test_one_model_is_not_the_best_of_several(self):
        text = headline(self.found(("soft", "unet")))
        assert text.startswith("The model, fpn (leaving out soft and unet, copies of the masks), reaches IoU 0.50 ")

    def test_nothing_but_copies(self):
        text = headline(self.found(tuple(self.MODELS)))
        assert "soft (a copy of the masks, not a prediction), reaches IoU 0.86" in text
        assert "leaving out" not in text

    def test_a_copy_is_no_rival(self):
        """Neither the one that is left out nor one in second place."""
        pairs = comparisons(self.MODELS)
        (lead,) = findings(self.found(("soft",), comparisons=pairs))
        assert lead.startswith("Its lead of 0.120 over the next, fpn, ")
        (lead,) = findings(self.found(("unet",), comparisons=pairs))
        assert lead.startswith("Its lead of 0.360 over the next, fpn, ")
        assert findings(self.found(("soft", "unet"), comparisons=pairs)) == []
        assert findings(self.found(tuple(self.MODELS), comparisons=pairs)) == []

    def test_the_best_of_those_that_are_no_copies_by_intervals_for_all(self):
        made = verdicts(self.MODELS, margin=0.02)
        (text,) = findings(self.found(("soft",), verdicts=made))
        assert "It is the best of 2; intervals that hold for all 3 models at once reach from" in text
        (text,) = findings(self.found(("soft", "unet"), verdicts=made))
        assert ". Intervals that hold for all 3 models at once reach from" in text

    def leaked(self, models, *, above=None, standing=(0.13, 0.17), **parts):
        frame = leaderboard(models).assign(caution="a caution of another kind.")
        parts["above_majority"] = tuple(models) if above is None else above
        ends = dict(zip(("ceiling_difference_low", "ceiling_difference_high"), standing, strict=True))
        ends |= {f"{name}_simultaneous": end for name, end in ends.items()}
        return headline(results(frame, verdicts=verdicts(models, margin=0.02).assign(**ends), **parts))

    END = "above the majority of all raters: exclude a leak first (caution below)."

    def test_above_the_majority_a_leak_comes_first(self):
        text = self.leaked({"unet": 0.9})
        assert text.endswith(f"rater, above the average rater and {self.END}")
        assert "real result" not in text
        assert self.leaked({"unet": 0.9}, standing=(-0.1, 0.2)).endswith(
            f"level with the average rater; it is {self.END}"
        )

    def test_and_without_a_share_or_with_few_groups(self):
        assert self.leaked({"unet": 0.9}, is_descriptive=True).endswith(self.END)
        frame = leaderboard({"unet": 0.9}).assign(iou_normalized=np.nan)
        assert headline(results(frame, above_majority=("unet",))).endswith(
            f"No normalized score is given; it is {self.END}"
        )

    def test_no_caution_no_such_words(self):
        assert "majority" not in self.leaked({"unet": 0.9}, above=())
        frame = leaderboard({"unet": 0.9}).assign(caution=np.nan)
        assert "majority" not in headline(results(frame))


class TestLowerIsBetter:
    """The same results as an error instead of a score."""

    @pytest.fixture(autouse=True)
    def _known(self, monkeypatch):
        register(monkeypatch)

    def frame(self, models):
        frame = leaderboard(models).drop(columns=["iou_low", "iou_high"])
        return frame.assign(error=1 - frame["iou"]).rename(columns={"iou_normalized": "error_normalized"})

    def test_the_best_has_the_lowest_value(self):
        found = results(self.frame({"fpn": 0.5, "unet": 0.62}), scores=("error",))
        assert found.best["name"] == "unet"
        assert headline(found).startswith("The best of 2 models, unet, reaches Error rate 0.38 (lower is better) on")
        assert not found.is_inverted("error")

    def test_distances_have_their_unit_behind_the_number(self):
        frame = leaderboard({"unet": 0.62}).rename(columns=lambda name: name.replace("iou", "hd95"))
        with show_titles({"hd95": "HD95 in mm"}):
            found = results(frame, scores=("hd95",))
            text = "reaches HD95 0.62 mm (lower is better; 95 % interval 0.60 to 0.65) on 120 images"
            assert text in headline(found)
            assert "(lower is better), naive rater" in " ".join(sentences("benchmark.txt", "scale", found))

    def test_how_to_set_a_limit_where_there_is_no_worst_value(self):
        frame = leaderboard({"unet": 0.62}).rename(columns=lambda name: name.replace("iou", "hd95"))
        said = "No limit is set for HD95, which has no worst value: statistics.failure: {hd95: 5}."
        rows = pd.DataFrame({"name": ["unet"], "score": ["tpr"], "failure": ["score of 0"], "share": [0.1]})
        for failures, is_said in (
            (pd.DataFrame(), True),
            (rows, True),
            (rows.assign(score="hd95"), False),
        ):
            found = results(frame, scores=("hd95", "tpr"), failures=failures)
            (part,) = [part for part in benchmark_page(found).sections if part.anchor == "failures"]
            assert (said in part.text) == is_said
            assert part.has_content
            assert ("A mean hides" in part.text) == bool(len(failures))

    def test_a_floor_below_the_ceiling_is_inverted(self):
        frame = changed(self.frame({"unet": 0.6}), "floor", error=0.1)
        assert results(frame, scores=("error",)).is_inverted("error")

    def test_no_word_that_means_two_things(self):
        frame = self.frame({"unet": 0.8})
        made = verdicts({"unet": 0.8}).assign(score="error", reason="").head(1)
        for low, high, word in ((-0.1, -0.05, "better than"), (-0.1, 0.05, "level with"), (0.05, 0.1, "worse than")):
            ends = {"ceiling_difference_low_simultaneous": low, "ceiling_difference_high_simultaneous": high}
            floor = {"floor_difference_low": -0.9, "floor_difference_high": -0.8}
            text = headline(results(frame, scores=("error",), verdicts=made.assign(**ends, **floor)))
            assert f", {word} the average rater" in text

    def test_small_values_have_all_their_digits(self):
        frame = self.frame({"unet": 0.6}).rename(columns=lambda column: column.replace("error", "brier"))
        frame["brier"] = frame["role"].map({"model": 0.02692, "ceiling": 0.02491, "floor": 0.07368})
        text = headline(results(frame, scores=("brier",)))
        assert "reaches Brier score 0.0269 (lower is better" in text
        assert "the average rater reaches 0.0249, the naive rater 0.0737" in text

    def test_the_caption_says_hatched_where_the_band_is(self):
        frame = self.frame({"unet": 0.6})
        assert "Hatched" not in draw_figures(results(frame, scores=("error",)))["band"].caption
        frame = changed(frame, "floor", error=0.1)
        assert (
            "Hatched: the naive rater is not worse" in draw_figures(results(frame, scores=("error",)))["band"].caption
        )


class TestSentences:
    @pytest.mark.parametrize(
        ("images", "text"),
        [(194, ". The lines join the medians of 5 groups of about 39 images."), (4, ": too few for a trend.")],
    )
    def test_say_what_dots_and_lines_are(self, images, text):
        found = results(leaderboard({}), agreement=per_image({})["iou"].rename("alpha"))
        alt, caption = sentences("benchmark.txt", "agreement_figure", found, images, trend_bins(images), 6)
        assert alt == "IoU per image against alpha."
        assert caption == f"One symbol per image ({images}), grey for the average rater{text}"

    def test_names_are_as_they_are(self):
        """Plain text is escaped where it enters a page, and once."""
        assert "<b>&amp;</b>" in headline(results(leaderboard({"<b>&amp;</b>": 0.6})))


class TestParagraphs:
    """What stands above tables and galleries."""

    def text(self, macro, *values):
        return " ".join(sentences("benchmark.txt", macro, *values))

    def test_no_margin_no_question_about_it(self):
        asked, unasked = (
            self.text("verdicts", results(leaderboard({"unet": 0.6}), verdicts=verdicts({"unet": 0.6}, margin=margin)))
            for margin in (0.02, np.nan)
        )
        assert "by less than the margin that was declared beforehand?" in asked
        assert "is not tested, as no margin was declared (statistics.margins)." in unasked
        assert "declared beforehand" not in unasked
        assert "not tested" not in asked
        assert "everything," in asked
        assert "everything?" in unasked

    def verdicts(self, frame, **parts):
        return self.text("verdicts", results(frame, verdicts=verdicts({"unet": 0.6}), **parts))

    def test_better_than_the_naive_rater_may_be_blind(self):
        frame = leaderboard({"unet": 0.6})
        words = "does not show that a model looks at the image"
        assert words in self.verdicts(frame)
        assert words not in self.verdicts(pd.concat([frame, frame.tail(1).assign(role="blind")]))

    def test_verdicts_are_about_references_that_mark_something(self):
        frame = leaderboard({"unet": 0.6})
        words = "are about the references that mark something"
        assert words not in self.verdicts(frame)
        frame["detection"] = 0.5
        assert words in self.verdicts(frame, scores=("iou",))
        rules = {"rules": {"empty_reference": "score"}}
        assert words not in self.verdicts(frame, scores=("iou",), config=rules)

    def test_inconclusive_is_about_the_margin(self):
        made = verdicts({"unet": 0.6}, margin=0.02)
        words = "Inconclusive is said of the margin"
        assert words in self.text("verdicts", results(leaderboard({"unet": 0.6}), verdicts=made))
        assert words not in self.verdicts(leaderboard({"unet": 0.6}))

    def test_one_image_has_no_interval(self):
        assert "with their intervals" in self.verdicts(leaderboard({"unet": 0.6}).assign(n_groups=2))
        text = self.verdicts(leaderboard({"unet": 0.6}).assign(n_groups=1), unit="")
        assert text.endswith("Differences without intervals and verdicts, for which one image is not enough.")
        for groups, is_said in ((1, False), (2, True)):
            found = results(leaderboard({"unet": 0.6}).assign(n_groups=groups))
            shown = benchmark_page(found, drawings={}).sections[1].text + self.text("band_figure", found, False, 12)
            assert shown.count("95 % interval") == 2 * is_said

    def test_a_win_is_shown_and_not_counted(self):
        """A share above the rater's less epsilon wins nothing while chance may explain it."""
        scores = np.random.default_rng(1).random((40, 3))
        found = alternative_annotator_test(np.repeat(scores[:, :1], 3, axis=1), scores, epsilon=0.2)
        close = found.advantage > found.rater_advantage - 0.2
        assert (close & ~np.asarray(found.wins, bool)).any()
        frame = pd.DataFrame({"name": ["unet"], "score": ["iou"], "epsilon": [0.2]})
        text = self.text("alternative", results(leaderboard({"unet": 0.6}), alternative=frame))
        assert "wins against a rater if its share is shown to be above the rater's less 0.2, " in text
        assert "at least half of those tested" in text
        assert "passes the same test" in text

    def test_a_failure_is_a_share_of_references(self):
        text = self.text("failures", results(leaderboard({"unet": 0.6})))
        assert "Mean share of an image's references on which it fails." in text
        assert "an approximation" in text
        assert "exact" not in text

    def test_counts_are_of_the_main_score(self):
        assert self.text("groups", results(leaderboard({}))).startswith("Images and groups are counted for IoU.")
        assert self.text("groups", results(leaderboard({}), unit="")).startswith("Images are counted for IoU.")

    def test_images_behind_the_raters_are_no_failures(self):
        (text,) = sentences("benchmark.txt", "failures_images", "iou", "unet", 3)
        assert "even the best of the 3 models is furthest behind the average rater" in text
        assert "the model is furthest behind" in self.text("failures_images", "iou", "unet", 1)
        for word in ("explain", "fail", "blame"):
            assert word not in text

    def test_a_low_ceiling_of_a_subgroup_is_not_put_down_to_the_raters_alone(self):
        found = results(leaderboard({"unet": 0.6}))
        assert "Small lesions lower every overlap" in self.text("subgroups_figure", found, 5)


class TestFindings:
    MODELS: ClassVar = {"unet": 0.62, "fpn": 0.5}

    def test_an_end_of_an_interval_next_to_0_keeps_its_side(self):
        made = verdicts({"unet": 0.72}, margin=0.02).assign(
            ceiling_difference_low=-0.004, ceiling_difference_high=0.0003
        )
        (found,) = findings(results(leaderboard({"unet": 0.72}), verdicts=made))
        assert f"(95 % interval {MINUS}0.004 to 0.0003)" in found

    @pytest.mark.parametrize(
        ("words", "reason", "end"),
        [
            ("better than the average rater", "", ": better than the average rater."),
            ("non-inferior to the average rater", "", ": non-inferior to the average rater (margin 0.02)."),
            ("no verdict", "it may be luck", ": no verdict (it may be luck)."),
        ],
    )
    def test_a_margin_is_no_lead_and_no_verdict_has_a_reason(self, words, reason, end):
        made = verdicts({"unet": 0.62}, margin=0.02).assign(ceiling_verdict=words, reason=reason)
        found = findings(results(leaderboard({"unet": 0.62}), verdicts=made))
        assert found[0].endswith(end)

    def test_say_how_far_from_the_ceiling_and_whether_the_lead_is_chance(self):
        found = findings(
            results(
                leaderboard(self.MODELS),
                verdicts=verdicts(self.MODELS, margin=0.02),
                comparisons=comparisons(self.MODELS),
            )
        )
        interval = f"95 % interval {MINUS}0.11 to {MINUS}0.07"
        distance, lead = found
        assert distance == (
            f"Its difference from the average rater is {MINUS}0.090 ({interval}): inconclusive about the margin "
            "(0.02). It is the best of 2; intervals that hold for all of them at once reach from "
            f"{MINUS}0.110 to {MINUS}0.070 for it."
        )
        assert lead == (
            "Its lead of 0.120 over the next, fpn, is not distinguishable from chance (p = 0.012 after Holm's "
            "correction)."
        )

    def test_a_lead_is_found_whichever_way_round_the_pair_stands(self):
        frame = comparisons({"fpn": 0.5, "unet": 0.62}).replace({"not distinguishable": "below"})
        (found,) = findings(results(leaderboard(self.MODELS), comparisons=frame.assign(p_holm=0.0002)))
        end = "is distinguishable from chance (p < 0.001 after Holm's correction)."
        assert found == f"Its lead of 0.120 over the next, fpn, {end}"

    def test_an_undefined_test_finds_no_lead(self):
        frame = comparisons(self.MODELS).assign(p_holm=np.nan, verdict="undefined")
        assert findings(results(leaderboard(self.MODELS), comparisons=frame)) == []

    def test_equal_models_have_no_lead(self):
        equal = comparisons({"unet": 0.62, "fpn": 0.62}).assign(p_holm=1.0)
        (found,) = findings(results(leaderboard({"unet": 0.62, "fpn": 0.62}), comparisons=equal))
        assert found == "It has the same mean as the next, fpn."

    def test_endless_intervals_for_all_are_left_out(self):
        made = verdicts(self.MODELS, margin=0.02).assign(ceiling_difference_low_simultaneous=-np.inf)
        assert "at once" not in findings(results(leaderboard(self.MODELS), verdicts=made))[0]

    def test_nothing_where_the_spread_over_raters_is_described(self):
        models = {"fpn": 0.5, "unet": 0.62}
        parts = {"verdicts": verdicts(models), "comparisons": comparisons(models)}
        assert findings(results(leaderboard(models), **parts))
        assert findings(results(leaderboard(models), **parts, is_descriptive=True)) == []

    def test_nothing_with_few_groups(self):
        thin = leaderboard(self.MODELS).assign(n_groups=9)
        assert findings(results(thin, comparisons=comparisons(self.MODELS))) == []


class TestCautions:
    def test_few_groups(self):
        (text,) = cautions(results(leaderboard({"unet": 0.6}).assign(n_groups=3)))
        assert text.startswith("Only 3 independent groups of images (patient_id): with fewer than 10")

    def test_few_images(self):
        (text,) = cautions(results(leaderboard({"unet": 0.6}).assign(n_groups=2), unit=""))
        assert text.startswith("Only 2 images: with fewer than 10")

    @pytest.mark.parametrize(
        ("images", "unit", "what"),
        [(1, "", "image"), (1, "patient_id", "image"), (5, "patient_id", "group of images (patient_id)")],
    )
    def test_one_image_has_no_interval_that_could_be_rough(self, images, unit, what):
        thin = leaderboard({"unet": 0.6}).assign(n_groups=1, n_images=images)
        assert cautions(results(thin, unit=unit)) == [f"One {what}: no interval, no test."]

    def test_none(self):
        assert cautions(results(leaderboard({"unet": 0.6}), subgroups=subgroups({"unet": 0.6}, {"A": 10}))) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.874, "87 %"), (0.9999, ">99 %"), (1.0, "100 %"), (1.001, ">100 %"), (-0.2, f"{MINUS}20 %"), (np.nan, DASH)],
)
def test_share(value, text):
    assert share(value) == text


def rendered(table, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


class TestTerminal:
    def test_rows_in_order_with_dash_formula_and_counts(self):
        text = rendered(terminal_table(leaderboard({"unet": 0.6, "fpn": 0.5}), note="rendered images"))
        parts = ("rendered images", "average rater", "unet", "fpn", "naive rater", "120 images of 60 groups", "mean")
        places = [text.index(part) for part in parts]
        assert places == sorted(places)
        lines = text.splitlines()
        place = next(place for place, line in enumerate(lines) if "unet" in line)
        assert lines[place].split() == ["1", "unet", "0.600", f"0.58{DASH}0.63", "0.700"]
        assert lines[place + 1].split() == ["84", "%", f"79{DASH}88", "%", DASH]

    def test_shares_stand_under_their_means_and_intervals_under_intervals(self):
        lines = rendered(terminal_table(leaderboard({"unet": 0.6}))).splitlines()
        place = next(place for place, line in enumerate(lines) if "unet" in line)
        mean, shares = lines[place], lines[place + 1]
        assert mean.index("0.600") + 5 == shares.index("84 %") + 4
        assert mean.index("0.63") + 4 == shares.index("88 %") + 4
        assert shares[shares.index("84 %") + 4 :].startswith("  ")

    @pytest.mark.parametrize(
        ("images", "groups", "counts"), [(1, 1, "1 image of 1 group."), (68, 55, "68 images of 55 groups.")]
    )
    def test_counts_are_of_the_main_score(self, images, groups, counts):
        frame = leaderboard({"unet": 0.6}).assign(n_images=images, n_groups=groups)
        assert f"For IoU: {counts}" in " ".join(rendered(terminal_table(frame)).split())

    def test_the_caption_names_the_level_where_there_are_intervals(self):
        frame = leaderboard({"unet": 0.6})
        for name, words in (("90 % interval", "Interval: the 90 %"), ("descriptive range", "Range: the descriptive")):
            text = " ".join(rendered(terminal_table(frame, interval=name)).split())
            assert f"{words} {name.split()[-1]} of the mean IoU." in text
        endless = frame.assign(iou_low=np.nan, iou_high=np.nan, iou_normalized_low=np.nan)
        assert "90 %" not in rendered(terminal_table(endless, interval="90 % interval"))

    @pytest.mark.parametrize(
        ("ends", "shown"), [((-0.021, -0.018), f"{MINUS}2 to {MINUS}2 %"), ((-0.021, 0.03), f"{MINUS}2{DASH}3 %")]
    )
    def test_no_dash_stands_before_a_minus_sign(self, ends, shown):
        frame = leaderboard({"unet": 0.6}).assign(iou_normalized_low=ends[0], iou_normalized_high=ends[1])
        text = rendered(terminal_table(frame))
        assert shown in text
        assert f"{DASH}{MINUS}" not in text

    def test_names_are_no_markup(self):
        assert "[red]x[/red]" in rendered(terminal_table(leaderboard({"[red]x[/red]": 0.6})))

    @pytest.mark.parametrize(
        "name",
        [
            "linknet-resnet18 random",
            "deeplabv3plus-efficientnet-b7 rater:first seed 3",
            "a_name_of_one_word_that_is_far_too_long_for_its_column",
            "日本語のモデルの名前はとても長い",
        ],
    )
    def test_fits_eighty_columns_with_five_scores_and_breaks_no_word(self, name):
        frame = leaderboard({name: 0.6, **{f"m{place}": 0.5 for place in range(11)}})
        for score in ("accuracy", "ppv", "f1"):
            frame[score] = 0.512
        text = rendered(terminal_table(frame, scores=["iou", "accuracy", "tpr", "ppv", "f1"]))
        assert text.count("0.512") == 3 * len(frame)
        assert max(map(cell_len, text.splitlines())) <= 80
        pieces = wrap_name(name).split("\n")
        assert all(piece in text for piece in pieces)
        ends = set(re.split(r"[ -]", name))
        words = [word for piece in pieces for word in re.split(r"[ -]", piece) if word and "…" not in word]
        assert set(words) <= ends

    def test_more_scores_are_named(self):
        frame = leaderboard({"unet": 0.6}).assign(**{f"score{place}": 0.5 for place in range(5)})
        text = rendered(terminal_table(frame))
        assert "Not shown: score3, score4." in " ".join(text.split())
        assert "score2" in text.split("Not shown")[0]

    def test_lower_is_better_has_an_arrow_and_a_caution_is_no_score(self):
        frame = leaderboard({"unet": 0.6}).assign(false_alarm=0.3, caution=np.nan)
        text = rendered(terminal_table(frame))
        assert "alarms ↓" in text
        assert "↓: lower is better." in " ".join(text.split())
        assert "caution" not in text
        assert "↓" not in rendered(terminal_table(leaderboard({"unet": 0.6})))

    def test_wide_numbers_cut_nothing(self):
        """An end near 0 keeps its sign, and the columns stay whole."""
        frame = leaderboard({"unet": 0.6}).assign(iou_low=-0.0042, iou_high=0.0031, false_alarm=0.3, detection=1.0)
        frame = frame.assign(iou_normalized_low=-1.24, iou_normalized_high=12.29)
        text = rendered(terminal_table(frame, scores=["iou", "detection", "false_alarm", "tpr"]))
        assert f"{MINUS}0.004{DASH}0.003" in text
        assert "…" not in text
        assert max(map(cell_len, text.splitlines())) <= 80


def test_scores_where_lower_is_better_are_marked_in_tables_and_explained():
    frame = leaderboard({"unet": 0.6})
    lower = frame.assign(brier=0.01, ece=0.02)
    page = render(benchmark_page(results(lower, scores=("iou", "brier"))))
    assert f'<th scope="col" data-column="score">Brier score {LESS}</th>' in page
    assert f"{LESS}: lower is better." in page
    assert "each rater&#39;s own mark" in page  # what Brier says
    assert "share of pixels that a rater marks" not in page  # ECE is not among the results
    plain = render(benchmark_page(results(frame)))
    assert LESS not in plain
    assert "Brier" not in plain
    explained = ["brier", "ece", "ged", "energy_score", "cldice", "lesion_recall", "lesion_precision", "lesion_f1"]
    assert [name for name in SCORES if sentences("benchmark.txt", "meaning", name)] == [
        name for name in SCORES if name in explained
    ]


def test_scores_of_probabilities_stand_beside_their_diagrams():
    frame = leaderboard({"unet": 0.6, "masks": 0.5}).assign(brier=0.01)
    steps = pd.DataFrame({"threshold": [0.3, 0.5, 0.7], "iou": [0.5, 0.6, 0.5], "name": "unet", "used": 0.5})
    steps = steps.assign(iou_floor=0.1, iou_ceiling=0.7)
    bins = pd.DataFrame({"probability": [0.1, 0.9], "share": [0.2, 0.8], "pixels": [90, 10], "name": "unet"})
    bins = bins.assign(source="model", used=0.5)
    found = results(frame, scores=("brier", "iou"), thresholds=steps, reliability=bins)
    drawn = dict.fromkeys(("reliability", "thresholds"), draw_figures(results(frame))["band"])
    (part,) = [part for part in benchmark_page(found, drawings=drawn).sections if part.anchor == "probabilities"]
    rows = part.parts[1].table
    assert rows["name"].tolist() == ["average rater (ceiling)", "unet", "naive rater (floor)"]
    assert list(part.parts[1].shown_columns) == ["name", "brier"]
    words = " ".join(sentences("benchmark.txt", "thresholds_figure", found, "iou", 1, 1))
    assert "Shown is IoU, as Brier score is no function of votes" in words
    same = " ".join(sentences("benchmark.txt", "thresholds_figure", results(frame), "iou", 1, 1))
    assert "Shown is" not in same


class TestStandings:
    """Who is above, level with and below the average rater is said without a margin."""

    MODELS: ClassVar = {"high": 0.8, "near": 0.71, "low": 0.6}

    def section(self, found):
        return next(part for part in benchmark_page(found, drawings={}).sections if part.anchor == "verdicts")

    def test_in_a_sentence_and_in_a_column(self):
        section = self.section(results(leaderboard(self.MODELS), verdicts=verdicts(self.MODELS)))
        assert section.text.startswith(
            "By IoU, high is above the average rater, near is level with it, low is below it. Level: the interval of "
            "the difference that holds for all models at once contains 0, which does not show that they are equal."
        )
        assert section.table["ceiling_standing"].tolist() == ["above", "level with it", "below"]
        assert "ceiling_standing" in section.columns

    def test_many_models_are_counted_and_none_is_said(self):
        models = {f"m{place}": 0.3 for place in range(5)}
        found = results(leaderboard(models), verdicts=verdicts(models))
        section = self.section(found)
        assert "no model is above the average rater, no model is level with it, 5 models are below it." in section.text

    def test_where_lower_is_better_it_says_better_and_worse(self):
        frame = leaderboard(self.MODELS).assign(hd95=3.0, hd95_floor=9.0, hd95_ceiling=2.0)
        table = verdicts(self.MODELS).replace({"score": {"iou": "hd95"}})
        found = results(frame, verdicts=table[table["score"] == "hd95"], scores=("hd95",))
        section = self.section(found)
        assert "low is better than the average rater, near is level with it, high is worse than it." in section.text
        assert section.table["ceiling_standing"].tolist() == ["worse", "level with it", "better"]

    def test_with_few_groups_nothing_is_said(self):
        frame = leaderboard(self.MODELS).assign(n_groups=9)
        found = results(frame, verdicts=verdicts(self.MODELS))
        section = self.section(found)
        assert "level with it" not in section.text
        assert "ceiling_standing" not in section.table
