"""Score over the dose of label noise: by hand, against slow loops, and where cells, groups or margins are missing."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from irrbench.analysis.candidates import make_candidates
from irrbench.analysis.dose_response import Crossing, first_below, first_of_the_rest, trapezoid_weights
from irrbench.analysis.results import Questions, Resampling, Results, Trained, build_results
from irrbench.scores import SCORES, Score
from tests.analysis.test_leaderboard import table

N = 12
STUDENT = Resampling(interval="student")
MARGIN = Questions(margins={"iou": 0.05})
BIAS = {"boundary": "none", "shift": "none", "shrink": "smaller", "grow": "larger", "own": "unknown"}
# By hand: clean .76, the average rater .7, the naive rater .1.
DOSES = {0: 0.76, 1: 0.72, 2: 0.66, 4: 0.5}


def record(loss: str = "bce", label: str = "majority", noise: str = "", dose: float = 0.0) -> Trained:
    recipe = f"unet {label} {loss}"
    return Trained(recipe, "unet", label, loss, noise, BIAS.get(noise, ""), dose, dose, 2 * dose, "px", noise_fit=dose)


def name_of(one: Trained) -> str:
    return " ".join(filter(None, [one.recipe, one.noise, f"{one.dose:g}" if one.dose else ""]))


def grid(curves: dict[tuple[str, str], dict[float, float]], **labels: float) -> dict[Trained, float]:
    """Records and means: by loss and noise the mean at each dose, and clean models on other labels."""
    made = {}
    for (loss, noise), by_dose in curves.items():
        for dose, mean in by_dose.items():
            made[record(loss, noise=noise if dose else "", dose=dose)] = mean
    return made | {record(label=label): mean for label, mean in labels.items()}


def build(
    means: dict[Trained, float],
    resampling: Resampling = STUDENT,
    questions: Questions = MARGIN,
    *,
    spread: float = 0.01,
    images: int = N,
    seeds: int = 1,
    score: str = "iou",
) -> tuple[Results, dict[str, pd.DataFrame]]:
    """Tables with these means exactly, spread over images and seeds."""
    rng = np.random.default_rng(3)
    centred = [0.05 * (x - x.mean()) for x in rng.normal(size=(2, images))]
    bounds = {"ceiling": (0.7 + centred[0]).tolist(), "floor": (0.1 + 0.2 * centred[1]).tolist()}
    tables, models = {}, {}
    for one, mean in means.items():
        shifts = rng.normal(size=seeds) * 0.01
        for seed, shift in enumerate(shifts - shifts.mean()):
            noise = rng.normal(size=images)
            values = mean + shift + centred[0] + spread * (noise - noise.mean())
            tables[f"{name_of(one)} {seed}"] = table(values.tolist(), score=score, **bounds)
            models[f"{name_of(one)} {seed}"] = name_of(one)
    trained = {name_of(one): one for one in means}
    return build_results(tables, resampling, questions=questions, models=models, trained=trained), tables


def only(frame: pd.DataFrame, **wanted: object) -> pd.Series:
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


ONE = {("bce", "boundary"): DOSES}


def test_by_hand():
    results, _ = build(grid(ONE, soft=0.78, random=0.4, **{"rater:r1": 0.69}))
    found = results.robustness
    assert found["dose"].tolist() == [0, 1, 2, 4]
    assert found["noise"].tolist() == ["boundary"] * 4
    assert found["name"].tolist() == [f"unet majority bce{end}" for end in ("", *(f" boundary {d}" for d in (1, 2, 4)))]
    assert found["iou"].tolist() == pytest.approx([0.76, 0.72, 0.66, 0.5])
    assert found["iou_normalized"].tolist() == pytest.approx([1.1, 0.62 / 0.6, 0.56 / 0.6, 0.4 / 0.6])
    assert found["ceiling_difference"].tolist() == pytest.approx([0.06, 0.02, -0.04, -0.2])
    assert found["clean_difference"].tolist() == pytest.approx([0, -0.04, -0.1, -0.26])
    assert found["noise_fit"].tolist() == [0, 1, 2, 4]
    assert found["unit"].tolist() == ["px"] * 4
    row = results.tolerance.iloc[0]
    # (.74 + .69 + 2 * .58) / 4, and of that (. - .1) / .6
    assert row["area"] == pytest.approx(0.6475)
    assert row["area_normalized"] == pytest.approx(0.9125)
    assert row["dose_below_ceiling"] == pytest.approx(1 + 0.02 / 0.06)
    assert row["dose_below_clean"] == pytest.approx(1 + 0.01 / 0.06)
    assert (row["first_below_ceiling"], row["first_below_clean"], row["worst"]) == (2, 2, pytest.approx(0.5))
    assert (row["doses"], row["largest_dose"], row["margin"], row["remark"]) == ("0, 1, 2, 4", 4, 0.05, "")
    places = results.equivalents.set_index("label")
    assert places["dose"].to_dict() == {
        "soft": 0, "random": pytest.approx(math.nan, nan_ok=True), "rater:r1": pytest.approx(1.5)
    }  # fmt: skip
    assert places.loc["soft", "words"] == "0"
    assert places.loc["random", "words"] == ">4"
    assert places.loc["soft", "sentence"] == ("Training on soft is better than training on majority without noise.")
    assert places.loc["random", "sentence"] == (
        "Training on random instead of majority costs more than 4 doses of boundary noise."
    )
    low, high = (f"{places.loc['rater:r1', end]:.2g}" for end in ("low", "high"))
    assert places.loc["rater:r1", "sentence"] == (
        f"Training on rater:r1 instead of majority costs as much as 1.5 doses of boundary noise ({low} to {high})."
    )
    assert results.best["name"] == "unet soft bce"
    assert results.left_out == {f"unet majority bce boundary {dose}" for dose in (1, 2, 4)}


def test_without_noise_everything_is_as_before():
    means = {record("bce"): 0.7, record("gce"): 0.6}
    results, tables = build(means)
    models = {name: name[:-2] for name in tables}
    before = build_results(tables, STUDENT, questions=MARGIN, models=models)
    assert list(results.frames()) == list(before.frames())
    for name, frame in before.frames().items():
        pd.testing.assert_frame_equal(results.frames()[name], frame)


def test_pairs_of_models_have_the_same_noise_and_dose():
    results, _ = build(grid({(loss, noise): DOSES for loss in ("bce", "gce") for noise in ("boundary", "shrink")}))
    pairs = results.comparisons[results.comparisons["versus"].isin(results.models)]
    ends = [
        (one.partition("bce")[2], other.partition("gce")[2])
        for one, other in zip(pairs["name"], pairs["versus"], strict=True)
    ]
    assert sorted(one for one, _ in ends) == sorted(
        ["", *(f" {noise} {dose}" for noise in ("boundary", "shrink") for dose in (1, 2, 4))]
    )
    assert all(one == other for one, other in ends)
    assert len(results.comparisons) == 7 + 2 * 14


def slow_curve(tables: dict[str, pd.DataFrame], names: list[str], versus: str) -> list[tuple[float, float, float]]:
    """Paired differences by scipy's t-test: mean and interval for each model."""
    found = []
    for name in names:
        other = tables[name]["iou_ceiling"] if versus == "ceiling" else tables[versus]["iou"]
        difference = (tables[name]["iou"] - other).to_numpy()
        if not difference.any():
            found.append((0.0, 0.0, 0.0))
            continue
        ends = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
        found.append((difference.mean(), ends.low, ends.high))
    return found


def slow_crossing(doses: list[float], values: list[float], limit: float = 0.0) -> float:
    """Walk along the line in small steps until it is below the limit."""
    for dose in np.linspace(doses[0], doses[-1], 40_001):
        if np.interp(dose, doses, values) < limit:
            return float(dose)
    return math.inf


def test_against_slow_loops():
    by_dose = {0: 0.76, 0.5: 0.75, 1: 0.73, 2: 0.68, 4: 0.6}
    results, tables = build(grid({("bce", "boundary"): by_dose}, **{"rater:r1": 0.71}), spread=0.08, images=30)
    names = ["unet majority bce 0", *(f"unet majority bce boundary {dose:g} 0" for dose in list(by_dose)[1:])]
    doses, row = list(by_dose), results.tolerance.iloc[0]
    for versus, column, limit in (("ceiling", "ceiling", 0.0), (names[0], "clean", -0.05)):
        curve = slow_curve(tables, names, versus)
        for place, end in enumerate(("", "_low", "_high")):
            expected = slow_crossing(doses, [values[place] for values in curve], limit)
            assert row[f"dose_below_{column}{end}"] == pytest.approx(expected, abs=2e-4), (column, end)
        for place, end in enumerate(("", "_low", "_high")):
            found = results.robustness[f"{column}_difference{end}"]
            assert found.tolist() == pytest.approx([values[place] for values in curve])
    p = [stats.ttest_1samp(tables[name]["iou"] - tables[name]["iou_ceiling"], 0).pvalue for name in names]
    holm = multipletests(p, method="holm")[1]
    assert results.robustness["ceiling_p_holm"].tolist() == pytest.approx(holm.tolist())
    below = [
        q < 0.05 and tables[n]["iou"].mean() < tables[n]["iou_ceiling"].mean() for q, n in zip(holm, names, strict=True)
    ]
    first = next((dose for place, dose in enumerate(doses) if all(below[place:])), math.nan)
    assert row["first_below_ceiling"] == pytest.approx(first, nan_ok=True)
    margin = [stats.ttest_1samp(tables[n]["iou"] - tables[names[0]]["iou"], -0.05).pvalue for n in names[1:]]
    worse = multipletests(margin, method="holm")[0] & (results.robustness["clean_difference"].to_numpy()[1:] < -0.05)
    first = next((dose for place, dose in enumerate(doses[1:]) if all(worse[place:])), math.nan)
    assert row["first_below_clean"] == pytest.approx(first, nan_ok=True)
    # The area of each image's own curve, and a t-test of those.
    by_image = np.trapezoid([tables[name]["iou"] for name in names], doses, axis=0) / 4
    ends = stats.ttest_1samp(by_image, 0).confidence_interval(0.95)
    assert row[["area", "area_low", "area_high"]].tolist() == pytest.approx([by_image.mean(), ends.low, ends.high])
    real = slow_curve(tables, names, "unet rater:r1 bce 0")
    place = results.equivalents.iloc[0]
    for at, end in enumerate(("dose", "low", "high")):
        expected = slow_crossing(doses, [values[at] for values in real])
        assert place[end] == pytest.approx(expected, abs=2e-4)


def test_seeds_widen_areas_by_hand():
    """Each model's seeds add the variance of their means, times the square of the weight, over their number."""
    means = grid({("bce", "boundary"): {0: 0.76, 1: 0.7, 3: 0.6}})
    results, tables = build(means, Resampling(interval="student", generalize="seeds"), seeds=3, spread=0.03, images=20)
    doses, weights = (0, 1, 3), np.array([1, 3, 2]) / 6
    names = [[f"{name_of(one)} {seed}" for seed in range(3)] for one in means]
    by_seed = np.array([[tables[name]["iou"] for name in seeds] for seeds in names])  # doses, seeds, images
    by_image = np.tensordot(weights, by_seed.mean(axis=1), 1)
    assert trapezoid_weights(doses).tolist() == pytest.approx(weights.tolist())
    parts = [by_image.var(ddof=1) / 20, *(weights**2 * by_seed.mean(axis=2).var(axis=1, ddof=1) / 3)]
    degrees = min(19, sum(parts) ** 2 / sum(part**2 / df for part, df in zip(parts, (19, 2, 2, 2), strict=True)))
    half = stats.t.ppf(0.975, degrees) * math.sqrt(sum(parts))
    row = results.tolerance.iloc[0]
    assert row["area"] == pytest.approx(by_image.mean())
    assert [row["area_low"], row["area_high"]] == pytest.approx([by_image.mean() - half, by_image.mean() + half])


def test_pairs_of_recipes_by_hand():
    by_loss = {"bce": DOSES, "gce": {0: 0.75, 1: 0.73, 2: 0.7, 4: 0.6}, "sce": {0: 0.7, 1: 0.6, 2: 0.5, 4: 0.4}}
    results, tables = build(grid({(loss, "boundary"): doses for loss, doses in by_loss.items()}))
    found = results.recipes
    assert found["dose"].tolist() == [dose for dose in ("0", "1", "2", "4", "area") for _ in range(3)]
    pair = found[(found["recipe"] == "unet majority bce") & (found["versus"] == "unet majority gce")]
    # Areas .6475 and (.74 + .715 + 2 * .65) / 4
    assert pair["difference"].tolist() == pytest.approx([0.01, -0.01, -0.04, -0.1, 0.6475 - 0.68875])
    assert pair["normalized_difference"].tolist() == pytest.approx((pair["difference"] / 0.6).tolist())
    assert pair["value"].tolist() == pytest.approx([0.76, 0.72, 0.66, 0.5, 0.6475])
    assert found["p_holm"].tolist() == pytest.approx(multipletests(found["p"], method="holm")[1].tolist())
    assert set(pair["verdict"]) > {"below"}
    for row in found.to_dict("records"):
        word = "above" if row["difference"] > 0 else "below"
        assert row["verdict"] == (word if row["p_holm"] < 0.05 else "not distinguishable")
    at = only(found, recipe="unet majority bce", versus="unet majority gce", dose="2")
    one, other = (tables[f"unet majority {loss} boundary 2 0"]["iou"] for loss in ("bce", "gce"))
    assert at["p"] == pytest.approx(stats.ttest_rel(one, other).pvalue)


def test_biased_beside_unbiased_by_hand():
    curves = {
        (loss, noise): {dose: mean - cost - extra * dose for dose, mean in DOSES.items() if dose != missing}
        for loss, cost in (("bce", 0.0), ("gce", 0.02))
        for noise, extra, missing in (("boundary", 0, 9), ("shift", 0.01, 9), ("shrink", 0.04, 4), ("own", 0.1, 9))
    }
    results, _ = build(grid(curves))
    found = results.biases
    assert found["recipe"].tolist() == [
        name for name in ("unet majority bce", "unet majority gce", "all recipes") for _ in range(2)
    ]
    assert found["dose"].tolist() == [1, 2] * 3
    assert found["n_recipes"].tolist() == [1, 1, 1, 1, 2, 2]
    assert set(found["biased"]) == {"shrink"}
    assert set(found["unbiased"]) == {"boundary, shift"}
    assert found["difference"].tolist() == pytest.approx([-0.04 + 0.005, -0.08 + 0.01] * 3)  # of the mean of both
    assert found["biased_value"].tolist() == pytest.approx([0.68, 0.58, 0.66, 0.56, 0.67, 0.57])
    for recipe in set(found["recipe"]):
        rows = found[found["recipe"] == recipe]
        assert rows["p_holm"].tolist() == pytest.approx(multipletests(rows["p"], method="holm")[1].tolist())


def test_lower_is_better_is_the_same_upside_down(monkeypatch):
    """Every score taken from 1: what was above is below, and doses, areas and p-values are the same."""
    monkeypatch.setitem(SCORES, "error", Score("error", "Error", lambda t: 1 - t.iou, higher_is_better=False))
    means = grid({("bce", "boundary"): DOSES, ("gce", "shrink"): DOSES, ("gce", "boundary"): DOSES}, random=0.7)
    up, tables = build(means, Resampling(), spread=0.05)
    models = {name: name[:-2] for name in tables}
    turned = {}
    for name, frame in tables.items():
        scores = [column for column in frame if column.startswith("iou")]
        new = frame.drop(columns=scores).join((1 - frame[scores]).rename(columns=lambda c: c.replace("iou", "error")))
        turned[name] = new
    trained = {name_of(one): one for one in means}
    down = build_results(turned, questions=Questions(margins={"error": 0.05}), models=models, trained=trained)
    for column in [c for c in up.tolerance if c.startswith(("dose_", "first_", "area_norm"))]:
        assert down.tolerance[column].tolist() == pytest.approx(up.tolerance[column].tolist(), nan_ok=True), column
    assert down.tolerance["area"].tolist() == pytest.approx((1 - up.tolerance["area"]).tolist())
    assert down.tolerance["worst"].tolist() == pytest.approx((1 - up.tolerance["worst"]).tolist())
    assert down.equivalents["sentence"].tolist() == up.equivalents["sentence"].tolist()
    for name in ("recipes", "biases"):
        one, other = getattr(up, name), getattr(down, name)
        assert other["p_holm"].tolist() == pytest.approx(one["p_holm"].tolist())
        assert other["difference"].tolist() == pytest.approx((-one["difference"]).tolist())
        words = {"above": "better", "below": "worse"}
        assert other["verdict"].tolist() == [words.get(word, word) for word in one["verdict"]]


def test_orders_of_images_and_models_do_not_matter():
    means = grid({("bce", "boundary"): DOSES, ("gce", "boundary"): DOSES, ("gce", "shrink"): DOSES}, random=0.7)
    results, tables = build(means, Resampling(), spread=0.05)
    shuffled = {name: tables[name].sample(frac=1, random_state=3) for name in reversed(tables)}
    trained = {name_of(one): one for one in means}
    again = build_results(shuffled, questions=MARGIN, models={name: name[:-2] for name in tables}, trained=trained)
    for name, keys in {
        "robustness": ["name", "noise"],
        "tolerance": ["recipe", "noise"],
        "equivalents": ["name", "recipe", "noise"],
        "biases": ["recipe", "dose"],
    }.items():
        one, other = (
            frame.sort_values(keys, ignore_index=True) for frame in (getattr(results, name), getattr(again, name))
        )
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("lacking", [0.0, 1.0, 4.0])
def test_a_failed_cell_takes_the_area_and_leaves_the_rest(lacking):
    means = grid({("bce", "boundary"): DOSES, ("gce", "boundary"): DOSES})
    all_but_one = {one: mean for one, mean in means.items() if not (one.loss == "gce" and one.dose == lacking)}
    results, _ = build(all_but_one)
    whole, broken = (only(results.tolerance, recipe=f"unet majority {loss}") for loss in ("bce", "gce"))
    assert whole["area"] == pytest.approx(0.6475)
    assert math.isnan(broken["area"])
    assert math.isnan(broken["area_normalized_low"])
    assert broken["remark"] == f"no finished model at dose {lacking:g}"
    expected = {0.0: 1 + 0.02 / 0.06, 1.0: 2 * 0.06 / 0.1, 4.0: 1 + 0.02 / 0.06}[lacking]  # on the line that is left
    assert broken["dose_below_ceiling"] == pytest.approx(expected, nan_ok=True)
    assert "area" not in set(results.recipes["dose"])
    rows = results.robustness[results.robustness["recipe"] == "unet majority gce"]
    assert rows["clean_difference"].isna().all() == (lacking == 0)
    assert len(rows) == 3


def test_a_model_without_the_score_counts_as_failed():
    means = grid({("bce", "boundary"): DOSES})
    _, tables = build(means)
    name = "unet majority bce boundary 2 0"
    tables[name] = tables[name].assign(iou=math.nan)
    trained = {name_of(one): one for one in means}
    results = build_results(tables, STUDENT, models={n: n[:-2] for n in tables}, trained=trained)
    assert results.tolerance["remark"].tolist() == ["no finished model at dose 2; no margin declared"]
    assert results.robustness["dose"].tolist() == [0, 1, 4]


def test_all_noisy_models_failed():
    results, _ = build({record("bce"): 0.7, record("gce"): 0.7})
    assert results.robustness.empty
    assert results.tolerance.empty
    assert results.left_out == frozenset()


def test_no_margin_no_dose_but_the_first_that_is_worse():
    results, _ = build(grid(ONE), questions=Questions())
    row = results.tolerance.iloc[0]
    assert row[["margin", "dose_below_clean", "dose_below_clean_low"]].isna().all()
    assert (row["clean_words"], row["remark"], row["first_below_clean"]) == ("", "no margin declared", 1)


def test_below_from_the_start_and_never_below():
    low = {dose: mean - 0.2 for dose, mean in DOSES.items()}
    high = {dose: mean + 0.25 for dose, mean in DOSES.items()}
    results, _ = build(grid({("bce", "boundary"): low, ("gce", "boundary"): high}))
    starts, never = (only(results.tolerance, loss=loss) for loss in ("bce", "gce"))
    assert math.isnan(starts["dose_below_ceiling"])
    assert (starts["dose_below_ceiling_low"], starts["dose_below_ceiling_high"]) == (0, 0)
    assert (starts["ceiling_words"], starts["first_below_ceiling"]) == ("0", 0)
    assert starts["remark"] == "below the average rater without noise"
    assert math.isnan(never["dose_below_ceiling"])
    assert (never["dose_below_ceiling_low"], never["ceiling_words"]) == (math.inf, ">4")
    assert math.isnan(never["first_below_ceiling"])


def test_a_curve_that_rises_again_has_its_first_fall_and_no_dose_from_which_on_it_is_below():
    results, _ = build(grid({("bce", "boundary"): {0: 0.8, 1: 0.6, 2: 0.8, 4: 0.75}}))
    row = results.tolerance.iloc[0]
    assert row["dose_below_ceiling"] == pytest.approx(0.5)
    assert math.isnan(row["first_below_ceiling"])


def test_few_groups_have_no_tests():
    results, _ = build(grid({("bce", "boundary"): DOSES, ("gce", "boundary"): DOSES}), images=9)
    assert results.tolerance[["first_below_ceiling", "first_below_clean"]].isna().all(axis=None)
    assert results.tolerance["dose_below_ceiling"].notna().all()
    assert set(results.recipes["verdict"]) == {"no verdict"}
    assert results.tolerance["remark"].tolist() == ["fewer than 10 independent images or groups"] * 2


def test_one_image_has_doses_and_no_intervals():
    results, _ = build(grid(ONE, random=0.69), images=1)
    row = results.tolerance.iloc[0]
    assert row["dose_below_ceiling"] == pytest.approx(1 + 0.02 / 0.06)
    assert (row["dose_below_ceiling_low"], row["dose_below_ceiling_high"]) == (0, math.inf)
    assert results.equivalents["words"].tolist() == ["1.5 (0 to >4)"]
    assert results.equivalents["sentence"].item() == (
        "Training on random is not distinguishable from training on majority without noise; it may cost more than 4 "
        "doses of boundary noise."
    )


def test_the_spread_over_raters_is_described_and_not_tested():
    results, _ = build(
        grid({("bce", "boundary"): DOSES, ("gce", "boundary"): DOSES}), Resampling(generalize="all"), seeds=2
    )
    assert results.tolerance["area_low"].notna().all()
    assert results.tolerance["first_below_ceiling"].isna().all()
    assert results.recipes["p"].isna().all()
    assert results.robustness["ceiling_p_holm"].isna().all()
    assert set(results.recipes["verdict"]) == {"no verdict"}


@pytest.mark.parametrize("interval", ["percentile", "bca", "expanded"])
def test_intervals_of_resamples_hold_the_area(interval):
    results, _ = build(grid(ONE), Resampling(interval=interval, resamples=200), spread=0.05)
    row = results.tolerance.iloc[0]
    assert row["area_low"] < row["area"] < row["area_high"]
    assert row["dose_below_ceiling_low"] <= row["dose_below_ceiling"] <= row["dose_below_ceiling_high"]


class TestWhichLabelsHaveADose:
    def labels(self, noisy: tuple[str, ...], clean: tuple[str, ...]) -> set[tuple[str, str]]:
        means = {record(label=label, noise="shift", dose=1.0): 0.6 for label in noisy}
        means |= {record(label=label): 0.7 for label in (*noisy, *clean)}
        found = build(means)[0].equivalents
        return set(zip(found["label"], found["recipe"].str.split().str[1], strict=True)) if len(found) else set()

    def test_those_that_no_recipe_with_noise_has(self):
        assert self.labels(("majority",), ("soft", "rater:r1")) == {("soft", "majority"), ("rater:r1", "majority")}

    def test_where_all_have_noise_those_of_real_raters_beside_the_others(self):
        assert self.labels(("majority", "soft", "random"), ()) == {("random", "majority"), ("random", "soft")}

    def test_none_beside_itself(self):
        assert self.labels(("majority",), ()) == set()

    def test_only_beside_the_same_loss(self):
        results, _ = build(grid(ONE) | {record("gce", "random"): 0.7})
        assert results.equivalents.empty


def test_sentences_name_model_and_loss_where_there_are_several():
    means = grid({("bce", "boundary"): DOSES, ("gce", "boundary"): DOSES}) | {record("gce", "random"): 0.72}
    (sentence,) = build(means, spread=0.001)[0].equivalents["sentence"]
    assert sentence.startswith(
        "unet gce: Training on random instead of majority costs as much as 1 dose of boundary noise"
    )


def test_sentences_name_all_noises_of_a_recipe():
    steep = {0: 0.76, 1: 0.7, 2: 0.6}
    means = grid({("bce", "boundary"): DOSES, ("bce", "grow"): steep}, random=0.65)
    frame = build(means, spread=0.03)[0].equivalents.set_index("noise")
    assert frame["dose"].to_dict() == {"boundary": pytest.approx(2.125), "grow": pytest.approx(1.5)}
    (sentence,) = set(frame["sentence"])
    assert sentence == (
        f"Training on random instead of majority costs as much as {cost_of('boundary', frame)} or as much as "
        f"{cost_of('grow', frame)}."
    )


def cost_of(noise: str, frame: pd.DataFrame) -> str:
    dose, low, high = (f"{frame.loc[noise, column]:.2g}" for column in ("dose", "low", "high"))
    return f"{dose} doses of {noise} noise ({low} to {high})"


def test_labels_that_may_cost_nothing_are_not_distinguishable():
    """Whether the other labels seem better or worse: the interval holds 0."""
    for mean in (0.765, 0.755):
        means = grid({("bce", "boundary"): DOSES, ("bce", "grow"): {0: 0.76, 1: 0.755}}, random=mean)
        frame = build(means, spread=0.03)[0].equivalents.set_index("noise")
        assert (frame["low"] == 0).all()
        assert 0 < frame.loc["boundary", "high"] < 2
        assert math.isinf(frame.loc["grow", "high"])
        (sentence,) = set(frame["sentence"])
        assert sentence == (
            "Training on random is not distinguishable from training on majority without noise; it may cost up to "
            f"{frame.loc['boundary', 'high']:.2g} doses of boundary noise or more than 1 dose of grow noise."
        )


class TestDosesWithoutNone:
    """Where no model without noise was asked for."""

    @property
    def later(self) -> dict[float, float]:
        return {dose: mean for dose, mean in DOSES.items() if dose}

    def test_crossings_need_no_clean_model(self):
        results, tables = build(grid({("bce", "boundary"): self.later}), spread=0.05, images=30)
        row = results.tolerance.iloc[0]
        assert row["remark"] == "no model without noise"
        assert row[["area", "area_low", "area_normalized", "dose_below_clean", "first_below_clean"]].isna().all()
        names = [f"unet majority bce boundary {dose} 0" for dose in self.later]
        curve = slow_curve(tables, names, "ceiling")
        for place, end in enumerate(("", "_low", "_high")):
            values = [ends[place] for ends in curve]
            expected = slow_crossing(list(self.later), values) if values[0] >= 0 else -math.inf
            assert row[f"dose_below_ceiling{end}"] == pytest.approx(expected, abs=2e-4), end
        assert row["dose_below_ceiling"] == pytest.approx(1 + 0.02 / 0.06)
        assert row["ceiling_words"].startswith("1.3 (<1 to 1.")
        assert row["first_below_ceiling"] == 2

    def test_below_at_the_smallest_dose_is_nothing_about_smaller_ones(self):
        results, _ = build(grid({("bce", "boundary"): {1: 0.6, 2: 0.5}}))
        row = results.tolerance.iloc[0]
        assert math.isnan(row["dose_below_ceiling"])
        assert (row["dose_below_ceiling_low"], row["dose_below_ceiling_high"]) == (-math.inf, -math.inf)
        assert (row["ceiling_words"], row["first_below_ceiling"], row["remark"]) == ("<1", 1, "no model without noise")

    def test_pairs_have_no_areas(self):
        results, _ = build(grid({("bce", "boundary"): self.later, ("gce", "boundary"): self.later}))
        assert set(results.recipes["dose"]) == {"1", "2", "4"}

    def test_a_clean_model_of_other_labels_asks_for_none_of_these(self):
        results, _ = build(grid({("bce", "boundary"): self.later}, random=0.7))
        assert results.tolerance["remark"].tolist() == ["no model without noise"]


def test_labels_may_have_other_doses():
    """Of one noise; nothing is missing, and areas over other doses are not compared."""
    means = grid({("bce", "boundary"): DOSES, ("gce", "boundary"): DOSES})
    means |= {record(label="random", noise="boundary" if dose else "", dose=dose): 0.75 - dose / 10 for dose in (0, 1)}
    results, _ = build(means)
    assert results.tolerance["remark"].tolist() == [""] * 3
    assert results.tolerance["doses"].tolist() == ["0, 1, 2, 4"] * 2 + ["0, 1"]
    assert results.tolerance["area"].tolist() == pytest.approx([0.6475, 0.6475, 0.7])
    areas = results.recipes[results.recipes["dose"] == "area"]
    assert areas[["recipe", "versus"]].to_numpy().tolist() == [["unet majority bce", "unet majority gce"]]
    assert set(results.recipes[results.recipes["versus"].str.contains("random")]["dose"]) == {"0", "1"}


def test_a_dose_that_one_recipe_of_these_labels_lacks():
    means = grid({("bce", "boundary"): DOSES, ("gce", "boundary"): {0: 0.7, 1: 0.6}})
    means |= {record(label="random", noise="boundary" if dose else "", dose=dose): 0.6 for dose in (0, 3)}
    remarks = build(means)[0].tolerance.set_index("recipe")["remark"].to_dict()
    assert remarks["unet majority gce"].startswith("no finished model at dose 2, 4")
    assert "no finished" not in remarks["unet random bce"]


@pytest.mark.parametrize("score", ["iou", "masd"])
@pytest.mark.parametrize("resampling", [STUDENT, Resampling(generalize="seeds")])
def test_noise_changes_no_verdict_of_clean_models(score, resampling):
    """Nor p-values, simultaneous intervals, or pairs; even of a score without limit, whose worst value counts."""
    clean = {record("bce"): 0.71, record("gce"): 0.69, record("sce"): 0.64}
    noisy = {record(loss, noise=noise, dose=d): 0.9 - d for loss in ("bce", "gce") for noise in BIAS for d in (0.2, 5)}
    asked, options = Questions(margins={score: 0.03}), {"score": score, "spread": 0.1, "images": 30, "seeds": 2}
    alone, with_noise = (build(means, resampling, asked, **options)[0] for means in (clean, clean | noisy))
    pd.testing.assert_frame_equal(with_noise.without_noise(with_noise.verdicts), alone.verdicts)
    found = with_noise.without_noise(with_noise.comparisons).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, alone.comparisons)
    assert set(alone.verdicts["n_models"]) == {3}
    spoilt = with_noise.verdicts[with_noise.verdicts["name"].isin(with_noise.left_out)]
    assert set(spoilt["n_models"]) == {len(noisy)}
    assert spoilt["floor_p_holm"].tolist() == pytest.approx(multipletests(spoilt["floor_p"], method="holm")[1].tolist())
    against = with_noise.comparisons[with_noise.comparisons["name"].isin(with_noise.left_out)]
    for _, rows in against.groupby(against["versus"].where(~against["versus"].isin(with_noise.models), "a model")):
        assert rows["p_holm"].tolist() == pytest.approx(multipletests(rows["p"], method="holm")[1].tolist())


def test_models_with_noise_alone_are_one_family():
    means = {record(loss, noise="boundary", dose=1.0): 0.7 for loss in ("bce", "gce")}
    results, _ = build(means)
    assert results.verdicts["n_models"].tolist() == [2, 2]
    assert results.verdicts["name"].tolist() == list(map(name_of, means))


def test_verdicts_stand_in_the_order_of_models():
    means = {record("bce", noise="grow", dose=1.0): 0.6, record("bce"): 0.7, record("gce", noise="grow", dose=1.0): 0.5}
    results, _ = build(means)
    assert results.verdicts["name"].tolist() == list(map(name_of, means))
    assert results.verdicts["n_models"].tolist() == [2, 1, 2]


def test_the_area_of_labels_stands_beside_their_iou():
    means = {record("bce"): 0.7, record("bce", noise="grow", dose=1.0)._replace(label_iou=0.8, area=1.25): 0.6}
    found = build(means)[0].robustness
    assert found["area"].tolist() == pytest.approx([math.nan, 1.25], nan_ok=True)
    assert found.columns.tolist().index("area") == found.columns.tolist().index("label_iou") + 1


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.floats(-1, 1), min_size=2, max_size=6), steps=st.lists(st.floats(0.1, 2), min_size=6, max_size=6)
)
def test_the_first_dose_below_is_that_of_a_fine_grid(values, steps):
    doses = [0.0, *np.cumsum(steps[: len(values) - 1]).tolist()]
    found = first_below(doses, np.array(values))
    fine = np.linspace(0, doses[-1], 20_001)
    below = fine[np.interp(fine, doses, values) < -1e-9]
    if len(below):
        assert found <= below[0] + 1e-9
        assert np.interp(found, doses, values) <= 1e-9 or found == 0
        assert (np.interp(fine[fine < found - 1e-9], doses, values) >= -1e-9).all()
    else:
        assert math.isinf(found) or np.interp(found, doses, values) >= -1e-9


def test_words_of_doses():
    assert Crossing(0.0, 0.0, 0.42, largest=2.0).in_words() == "0 (0 to 0.42)"
    assert Crossing(1.5, -math.inf, math.inf, largest=2.0, smallest=1.0).in_words() == "1.5 (<1 to >2)"
    assert Crossing(0.004, 0.0, 1.0, largest=2.0).in_words() == "0 (0 to 1)"
    assert math.isnan(first_of_the_rest([1, 2], [True, False]))
    assert trapezoid_weights([3.0]).tolist() == [1.0]


def test_a_weighted_mean_asks_nothing_of_those_without_weight():
    """A candidate without a score has no say in a contrast that leaves it out."""
    made = build({record("bce"): 0.7, record("gce"): 0.6})[1]
    made["unet majority gce 0"] = made["unet majority gce 0"].assign(iou=math.nan)
    candidates = make_candidates(made)
    one, other = candidates.models
    weights = np.zeros((2, len(candidates.names)))
    weights[0, one], weights[1, [one, other]] = 2.0, 0.5
    assert candidates.contrast("iou", weights).estimates.tolist() == pytest.approx([1.4, math.nan], nan_ok=True)
