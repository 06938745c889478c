"""Verdicts, the alternative annotator test, seeds, the spread over raters: by hand and against slow loops."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from irrbench.analysis.candidates import make_candidates
from irrbench.analysis.results import Questions, Resampling, Results, build_results, resampling_in_words
from irrbench.plots.words import score_title
from irrbench.scores import SCORES, Score
from irrbench.stats import alternative_annotator_test
from tests.analysis.test_leaderboard import CEILING, FLOOR, random_tables, row, table

N = 24


def tables(*shifts: float, seed: int = 0, noise: float = 0.05) -> dict[str, pd.DataFrame]:
    """Models that differ from the average rater by so much, on images of the same difficulty."""
    rng = np.random.default_rng(seed)
    ceiling = rng.uniform(0.6, 0.8, N)
    bounds = {"ceiling": ceiling.tolist(), "floor": rng.uniform(0, 0.1, N).tolist()}
    return {
        f"m{i}": table((ceiling + shift + noise * rng.normal(size=N)).tolist(), **bounds)
        for i, shift in enumerate(shifts)
    }


def one_sided(frame: pd.DataFrame, versus: str, null: float) -> float:
    difference = frame["iou"] - frame[f"iou_{versus}"]
    return stats.ttest_1samp(difference, null, alternative="greater").pvalue


def test_verdicts_are_one_sided_t_tests_with_holm():
    made = tables(0.0, -0.02, -0.2)
    questions = Questions(margins={"iou": 0.05})
    verdicts = build_results(made, Resampling(interval="student"), questions=questions).verdicts
    for versus, null in (("floor", 0.0), ("ceiling", -0.05)):
        p = np.array([one_sided(frame, versus, null) for frame in made.values()])
        assert verdicts[f"{versus}_p"].tolist() == pytest.approx(p)
        order = np.argsort(p)
        stepped = np.minimum(1, np.maximum.accumulate(p[order] * [3, 2, 1]))
        assert verdicts[f"{versus}_p_holm"].to_numpy()[order] == pytest.approx(stepped)
    difference = made["m1"]["iou"] - made["m1"]["iou_ceiling"]
    expected = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    found = row(verdicts, "m1")
    assert [found["ceiling_difference_low"], found["ceiling_difference_high"]] == pytest.approx(list(expected))
    assert found["ceiling_difference"] == pytest.approx(difference.mean())
    assert found["value"] == pytest.approx(made["m1"]["iou"].mean())


@pytest.mark.parametrize(
    ("shift", "margin", "verdict"),
    [
        (0.3, 0.05, "better than the average rater"),
        (0.0, 0.2, "non-inferior to the average rater"),
        (0.0, 0.05, "no verdict"),
        (-0.2, 0.05, "inferior to the average rater"),
        (-0.05, 0.05, "inconclusive"),
        (0.3, None, "no margin declared"),
    ],
)
def test_words_against_the_average_rater(shift, margin, verdict):
    questions = Questions(margins=None if margin is None else {"iou": margin})
    results = build_results(tables(shift), questions=questions)
    assert results.verdicts["ceiling_verdict"].tolist() == [verdict]
    reason = "one more image or group with the worst possible score would undo: non-inferior to the average rater"
    assert results.verdicts["reason"].tolist() == [reason if verdict == "no verdict" else ""]
    assert any("No margin is declared" in note for note in results.notes) == (margin is None)
    assert results.verdicts["margin"].isna().all() == (margin is None)


def test_a_margin_of_another_score_is_none():
    assert build_results(tables(0.0), questions=Questions(margins={"f1": 0.1})).verdicts["ceiling_verdict"][0] == (
        "no margin declared"
    )


def test_words_against_the_naive_rater():
    bounds = {"ceiling": [0.7] * 12, "floor": [0.1, 0.2] * 6}
    made = {
        "bad": table([0.2, 0.1, 0.1, 0.2, 0.2, 0.1] * 2, **bounds),
        "good": table([0.5, 0.6, 0.5, 0.4, 0.6, 0.5] * 2, **bounds),
        "lucky": table([0.12, 0.22] * 6, **bounds),
    }
    verdicts = build_results(made).verdicts.set_index("name")
    assert verdicts["floor_verdict"].to_dict() == {
        "bad": "not shown to be better than the naive rater",
        "good": "better than the naive rater",
        "lucky": "no verdict",
    }
    assert verdicts.loc["lucky", "reason"].endswith("would undo: better than the naive rater")


@pytest.mark.parametrize(
    ("question", "shift", "margin_at", "word"),
    [
        ("floor", None, None, "not shown to be better than the naive rater"),
        ("ceiling", -0.2, 1, "inconclusive"),
        ("equivalence", 0.05, -1, "not shown to be equivalent to the average rater"),
    ],
)
@pytest.mark.parametrize(
    ("level", "p", "is_shown"), [(0.95, 0.024, 1), (0.95, 0.026, 0), (0.9, 0.049, 1), (0.9, 0.051, 0)]
)
def test_each_verdict_is_one_sided_at_half_of_what_the_level_leaves(
    question, shift, margin_at, word, level, p, is_shown
):
    """Differences with exactly this p-value, by the shift against the naive rater, else by the margin."""
    rng = np.random.default_rng(4)
    noise = stats.zscore(rng.normal(size=N), ddof=1) * 0.05
    distance = stats.t.isf(p, N - 1) * 0.05 / math.sqrt(N)
    ceiling, floor = rng.uniform(0.6, 0.8, N), rng.uniform(0.2, 0.3, N)
    values = floor + distance + noise if shift is None else ceiling + shift + noise
    margin = 0.1 if margin_at is None else abs(shift) - margin_at * distance
    made = {"m": table(values.tolist(), ceiling=ceiling.tolist(), floor=floor.tolist())}
    options, questions = Resampling(interval="student", level=level), Questions(margins={"iou": margin})
    (found,) = build_results(made, options, questions=questions).verdicts[f"{question}_verdict"]
    assert (found != word) == is_shown


def test_one_more_failure_by_hand():
    """Student's test of 24 differences and one more, at which the model has 0 and the average rater the mean."""
    made = tables(0.0)["m0"]
    difference = (made["iou"] - made["iou_ceiling"]).tolist()
    one_more = [*difference, -made["iou_ceiling"].mean()]
    for margin in np.linspace(0.05, 0.15, 21):
        p = stats.ttest_1samp(one_more, -margin, alternative="greater").pvalue
        found = build_results({"m": made}, questions=Questions(margins={"iou": float(margin)})).verdicts
        word = "non-inferior to the average rater" if p < 0.025 else "no verdict"
        assert found["ceiling_verdict"].tolist() == [word]


def test_one_more_failure_at_a_score_without_limit_is_as_bad_as_the_worst_that_anybody_has(monkeypatch):
    """Here the worst is the naive rater on one image."""
    unlimited = {"range": (0, math.inf), "higher_is_better": False, "needs_positives": True}
    monkeypatch.setitem(SCORES, "distance", Score("distance", "Distance", lambda t: t.fp, **unlimited))
    rng = np.random.default_rng(6)
    ceiling, floor = rng.uniform(2, 4, N), rng.uniform(7, 9, N)
    model = ceiling + 0.1 * rng.normal(size=N)
    made = table(model.tolist(), ceiling=ceiling.tolist(), floor=floor.tolist(), score="distance")
    made["distance_blank"] = floor
    made.loc[3, "distance_ceiling_of_two"] = math.nan
    one_more = [*(ceiling - model), ceiling.mean() - floor.max()]
    found = set()
    for margin in np.linspace(0.3, 1.2, 13):
        p = stats.ttest_1samp(one_more, -margin, alternative="greater").pvalue
        (word,) = build_results({"m": made}, questions=Questions(margins={"distance": float(margin)})).verdicts[
            "ceiling_verdict"
        ]
        assert word == ("non-inferior to the average rater" if p < 0.025 else "no verdict")
        found.add(word)
    assert len(found) == 2
    questions = Questions(margins={"distance": 0.3})
    assert (
        build_results({"m": made}, questions=questions)
        .verdicts.loc[0, "reason"]
        .startswith("one more image or group with the worst score that anybody has here would undo: ")
    )


def test_few_groups_have_no_verdict():
    made = tables(0.3)
    questions = Questions(margins={"iou": 0.05})
    for patients, reason in ((9, "fewer than 10 independent images or groups"), (10, "")):
        groups = {name: i % patients for i, name in enumerate(made["m0"]["image_id"])}
        found = row(build_results(made, Resampling(groups), questions=questions).verdicts, "m0")
        assert found["reason"] == reason
        words = {found[f"{question}_verdict"] for question in ("floor", "ceiling", "equivalence")}
        assert (words == {"no verdict"}) == bool(reason)


@pytest.mark.parametrize("score", ["tpr", "ppv", "specificity"])
def test_a_score_of_one_kind_of_error_has_no_verdict(score):
    made = table([0.9] * 10 + [0.95] * 10, ceiling=[0.8] * 20, floor=[0.1] * 20, score=score)
    found = build_results({"m": made}, questions=Questions(margins={score: 0.1})).verdicts.loc[0]
    assert {found[f"{question}_verdict"] for question in ("floor", "ceiling", "equivalence")} == {"no verdict"}
    assert found["reason"].endswith("sees one kind of error only")


def test_a_score_that_counts_the_background_has_no_verdict():
    made = table([0.95, 0.97] * 10, ceiling=[0.97, 0.98] * 10, floor=[0.1, 0.11] * 10, score="accuracy")
    found = build_results({"m": made}, questions=Questions(margins={"accuracy": 0.3})).verdicts.loc[0]
    assert {found[f"{question}_verdict"] for question in ("floor", "ceiling", "equivalence")} == {"no verdict"}
    assert found["reason"] == "Accuracy counts the background, which every mask gets right"


@pytest.mark.parametrize(("score", "why"), [("accuracy", ", as the background counts"), ("f1", "")])
def test_a_blank_mask_near_the_average_rater_is_noted_with_its_cause(score, why):
    made = table([0.95, 0.97] * 10, ceiling=[0.97, 0.98] * 10, floor=[0.1, 0.11] * 10, score=score)
    made[f"{score}_blank"] = 0.9
    notes = " ".join(build_results({"m": made}).notes)
    assert f"The normalized {score_title(score)} says little{why}: a blank mask is at 9" in notes


@pytest.mark.parametrize("score", ["ged", "energy_score", "brier"])
def test_scores_whose_naive_rater_is_no_better_for_the_background_have_verdicts(score):
    made = table([0.3, 0.25] * 20, ceiling=[0.2, 0.25] * 20, floor=[0.9, 0.89] * 20, score=score)
    made[f"{score}_blank"] = 1.0
    found = build_results({"m": made}, questions=Questions(margins={score: 0.3})).verdicts.loc[0]
    assert found[["floor_verdict", "ceiling_verdict", "reason"]].tolist() == [
        "better than the naive rater",
        "non-inferior to the average rater",
        "",
    ]


@pytest.mark.parametrize(("blank", "reason"), [(0.5, "a blank mask has a better IoU than the naive rater"), (0.0, "")])
def test_a_score_on_which_a_blank_mask_beats_the_naive_rater_has_no_verdict(blank, reason):
    """As where most references mark nothing, and agreement on nothing counts as perfect."""
    made = table([0.7, 0.8] * 20, ceiling=[0.8, 0.75] * 20, floor=[0.1, 0.11] * 20)
    made["iou_blank"] = blank
    found = build_results({"m": made}, questions=Questions(margins={"iou": 0.3})).verdicts.loc[0]
    assert found["reason"] == reason
    assert found["floor_verdict"] == ("no verdict" if reason else "better than the naive rater")


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), images=st.integers(10, 60), fails=st.sampled_from([0.0, 0.05, 0.2]))
def test_a_word_needs_an_interval_that_excludes_what_it_denies(seed, images, fails):
    rng = np.random.default_rng(seed)
    ceiling = rng.uniform(0.6, 0.8, images)
    made = {}
    for i in range(3):
        model = np.where(rng.random(images) < fails, 0.0, ceiling + rng.normal(0.1 * i - 0.1, 0.05, images))
        made[f"m{i}"] = table(model.tolist(), ceiling=ceiling.tolist(), floor=[0.1] * images)
    margin = 0.08
    for found in build_results(made, questions=Questions(margins={"iou": margin})).verdicts.to_dict("records"):
        low, high = found["ceiling_difference_low"], found["ceiling_difference_high"]
        words = found["ceiling_verdict"]
        if words == "better than the average rater":
            assert low > 0
        elif words == "non-inferior to the average rater":
            assert low > -margin
        elif words == "inferior to the average rater":
            assert high < -margin
        if found["equivalence_verdict"] == "equivalent to the average rater":
            assert -margin < low <= high < margin
        if found["floor_verdict"] == "better than the naive rater":
            assert found["floor_difference_low"] > 0
        assert (found["reason"] != "") == (
            "no verdict" in [words, found["floor_verdict"], found["equivalence_verdict"]]
        )


def test_equivalence_is_two_one_sided_tests():
    made = tables(0.0, 0.02)
    options, questions = Resampling(interval="student"), Questions(margins={"iou": 0.1})
    verdicts = build_results(made, options, questions=questions).verdicts
    for name, frame in made.items():
        p, *_ = ttost_paired(frame["iou"].to_numpy(), frame["iou_ceiling"].to_numpy(), -0.1, 0.1)
        assert row(verdicts, name)["equivalence_p"] == pytest.approx(p)


@pytest.mark.parametrize(
    ("shift", "margin", "verdict"),
    [
        (0.0, 0.2, "equivalent to the average rater"),
        (0.0, 0.05, "no verdict"),
        (0.3, 0.2, "not shown to be equivalent to the average rater"),
        (-0.3, 0.2, "not shown to be equivalent to the average rater"),
        (0.0, None, "no margin declared"),
    ],
)
def test_words_of_equivalence(shift, margin, verdict):
    questions = Questions(margins=None if margin is None else {"iou": margin})
    found = build_results(tables(shift), questions=questions).verdicts
    assert found["equivalence_verdict"].tolist() == [verdict]


def test_simultaneous_intervals_hold_the_separate_ones():
    alone = build_results(tables(0.0)).verdicts.loc[0]
    ends = ["ceiling_difference_low", "ceiling_difference_high"]
    simultaneous = [f"{end}_simultaneous" for end in ends]
    assert alone["n_models"] == 1
    assert alone[simultaneous].tolist() == pytest.approx(alone[ends].tolist())
    many, again, of_other_seed = (
        build_results(tables(*[0.0] * 5), Resampling(interval="student", seed=seed)).verdicts for seed in (0, 0, 1)
    )
    assert many["n_models"].tolist() == [5] * 5
    pd.testing.assert_frame_equal(again, many, check_exact=True)
    assert (of_other_seed[simultaneous] != many[simultaneous]).all(axis=None)
    separate, together = (many[columns[1]] - many[columns[0]] for columns in (ends, simultaneous))
    ratio = (together / separate).to_numpy()
    bonferroni = stats.t.ppf(1 - 0.025 / 5, N - 1) / stats.t.ppf(0.975, N - 1)
    assert (ratio > 1.1).all()
    assert (ratio <= bonferroni * (1 + 1e-9)).all()


def test_a_score_that_no_image_defines_has_no_verdict():
    nothing = [math.nan] * 3
    verdicts = build_results({"m": table(nothing, ceiling=nothing, floor=nothing)}).verdicts
    columns = ["floor_verdict", "ceiling_verdict", "equivalence_verdict", "reason"]
    assert verdicts[columns].to_numpy().tolist() == [["undefined"] * 3 + [""]]


def test_the_normalized_interval_is_the_delta_method():
    made = tables(-0.1)["m0"]
    found = row(build_results({"m": made}, Resampling(interval="student")).leaderboard, "m")
    top, bottom = made["iou"] - made["iou_floor"], made["iou_ceiling"] - made["iou_floor"]
    value = top.mean() / bottom.mean()
    error = (top - value * bottom).std(ddof=1) / bottom.mean() / math.sqrt(N)
    half = stats.t.ppf(0.975, N - 1) * error
    assert found["iou_normalized"] == pytest.approx(value)
    ends = [found["iou_normalized_low"], found["iou_normalized_high"]]
    assert ends == pytest.approx([value - half, value + half])


def test_normalized_values_stand_beside_raw_ones_everywhere():
    results = build_results(tables(-0.1, 0.1), models={"m0": "m", "m1": "m"})
    assert {"floor", "ceiling", "normalized", "mean"} <= set(results.seeds)
    assert {"floor", "ceiling", "normalized", "value"} <= set(results.verdicts)
    assert {"floor", "ceiling", "value", "normalized_difference"} <= set(results.comparisons)
    pair = results.comparisons.iloc[0]
    gap = pair["ceiling"] - pair["floor"]
    assert pair["normalized_difference"] == pytest.approx(pair["difference"] / gap)
    assert pair["value"] - pair["versus_value"] == pytest.approx(pair["difference"])


def test_the_alternative_annotator_test_reads_the_folds():
    made = tables(0.02)["m0"]
    columns = [f"iou_fold{r}" for r in range(3)], [f"iou_ceiling_fold{r}" for r in range(3)]
    rng = np.random.default_rng(2)
    for column in columns[1]:
        made[column] += 0.05 * rng.normal(size=N)
    groups = {f"image{i}": i // 2 for i in range(N)}
    ordered = made.sort_values("image_id")  # results are sorted by id
    labels = [groups[i] for i in ordered["image_id"]]
    expected = alternative_annotator_test(
        ordered[columns[0]].to_numpy(), ordered[columns[1]].to_numpy(), epsilon=0.1, groups=labels
    )
    questions = Questions(alternative_margin=0.1, min_images=20, raters=["anna", "ben", "cem"])
    found = build_results({"m": made}, Resampling(groups), questions=questions).alternative
    assert found["rater"].tolist() == ["anna", "ben", "cem"]
    for name in ("p", "p_corrected", "advantage", "rater_advantage"):
        assert found[name].tolist() == pytest.approx(getattr(expected, name).tolist())
    assert found["winning_rate"].tolist() == [expected.winning_rate] * 3
    assert found["n_groups"].tolist() == [12] * 3
    stands = "may stand in for a rater" if expected.winning_rate >= 0.5 else "not shown to stand in for a rater"
    assert found["verdict"].unique().tolist() == [stands]


def test_tables_without_folds_say_so():
    made = tables(0.0)["m0"]
    bare = made.drop(columns=[c for c in made if "_fold" in c or "_without" in c])
    results = build_results({"m": bare})
    assert results.alternative.empty
    assert any(note.startswith("No alternative annotator test") for note in results.notes)
    assert "alternative" not in results.frames()
    with pytest.raises(ValueError, match=r"generalize='raters' needs the scores without each rater .*iou_without0"):
        build_results({"m": bare}, Resampling(generalize="raters"))


def test_seeds_are_averaged_and_their_spread_is_reported():
    made = tables(0.0, 0.05, 0.1, -0.2)
    results = build_results(made, models={"m0": "net", "m1": "net", "m2": "net"})
    board = results.leaderboard
    assert board.query("role == 'model'")["name"].tolist() == ["net", "m3"]
    means = [made[name]["iou"].mean() for name in ("m0", "m1", "m2")]
    assert row(board, "net")["iou"] == pytest.approx(np.mean(means))
    seeds = results.seeds
    assert seeds["name"].tolist() == ["net"]
    assert seeds.loc[0, ["n_seeds", "mean", "lowest", "highest"]].tolist() == pytest.approx(
        [3, np.mean(means), min(means), max(means)]
    )
    assert seeds.loc[0, "seed_sd"] == pytest.approx(np.std(means, ddof=1))
    assert results.members == {"net": ("m0", "m1", "m2"), "m3": ("m3",)}
    average = results.per_image.query("name == 'net'").set_index("image_id")["iou"]
    expected = sum(made[name].set_index("image_id")["iou"] for name in ("m0", "m1", "m2")) / 3
    pd.testing.assert_series_equal(average, expected.sort_index(), check_names=False)


def test_a_single_seed_has_no_spread():
    assert build_results(tables(0.0, 0.1)).seeds.empty


def test_seeds_drawn_anew_by_a_slow_loop():
    made = tables(0.0, 0.3, -0.1)
    options = Resampling(resamples=200, seed=3, generalize="seeds", interval="percentile", level=0.8)
    board = build_results(made, options, models={"m0": "a", "m1": "a"}).leaderboard
    values = [made[name].sort_values("image_id")["iou"].tolist() for name in ("m0", "m1")]
    images = np.random.default_rng(3).integers(N, size=(200, N)).tolist()
    rng = np.random.default_rng([3, 2])
    for _ in range(3):  # the bounds have one table each
        rng.multinomial(1, [1.0], size=200)
    times = rng.multinomial(2, [0.5, 0.5], size=200).tolist()
    samples = []
    for drawn, often in zip(images, times, strict=True):
        chosen = [s for s, count in enumerate(often) for _ in range(count)]
        samples.append(sum(values[s][i] for s in chosen for i in drawn) / (2 * N))
    found = row(board, "a")
    assert [found["iou_low"], found["iou_high"]] == pytest.approx(np.quantile(samples, [0.1, 0.9]).clip(0, 1).tolist())
    alone = row(build_results({"m2": made["m2"]}, options).leaderboard, "m2")
    assert row(board, "m2")[["iou_low", "iou_high"]].tolist() == pytest.approx(alone[["iou_low", "iou_high"]].tolist())


def test_other_seeds_by_default_add_their_own_variance():
    made = tables(0.0, 0.3, -0.1, 0.2, 0.5, 0.1)
    models = {"m0": "a", "m1": "a", "m2": "a", "m3": "b", "m4": "b"}
    results = build_results(made, Resampling(generalize="seeds", interval="student"), models=models)
    iou = {name: frame.sort_values("image_id")["iou"].to_numpy() for name, frame in made.items()}
    a, b = (np.stack([iou[name] for name in names]) for names in (["m0", "m1", "m2"], ["m3", "m4"]))
    of_a, of_b = (x.mean(axis=1).var(ddof=1) / len(x) for x in (a, b))

    images = a.mean(axis=0).var(ddof=1) / N
    degrees = (images + of_a) ** 2 / (images**2 / (N - 1) + of_a**2 / 2)
    half = stats.t.ppf(0.975, degrees) * math.sqrt(images + of_a)
    found = row(results.leaderboard, "a")
    assert [found["iou_low"], found["iou_high"]] == pytest.approx([a.mean() - half, min(a.mean() + half, 1)])

    images = (a.mean(axis=0) - b.mean(axis=0)).var(ddof=1) / N
    degrees = (images + of_a + of_b) ** 2 / (images**2 / (N - 1) + of_a**2 / 2 + of_b**2)
    half = stats.t.ppf(0.975, degrees) * math.sqrt(images + of_a + of_b)
    pair = results.comparisons.query("name in ('a', 'b') and versus in ('a', 'b')").iloc[0]
    assert (pair["high"] - pair["low"]) / 2 == pytest.approx(half)

    # One seed says nothing about others; bounds have none.
    alone = build_results(made, Resampling(interval="student"), models=models).leaderboard
    for name in ("m5", CEILING, FLOOR):
        assert row(results.leaderboard, name)["iou_low"] == pytest.approx(row(alone, name)["iou_low"])
    assert any(
        note.startswith("Trained from one seed only, so the spread between seeds is unknown: m5.")
        for note in results.notes
    )


@pytest.mark.parametrize("generalize", ["raters", "seeds", "all"])
def test_a_wider_claim_is_never_surer(generalize):
    made = tables(0.0, 0.3, -0.1, 0.2)
    models = {"m0": "a", "m1": "a", "m2": "b", "m3": "b"}
    patients = {f"{i:03d}": i % 4 for i in range(N)} | {name: i % 4 for i, name in enumerate(made["m0"]["image_id"])}
    narrow, wide = (
        build_results(made, Resampling(patients, generalize=g), models=models) for g in ("images", generalize)
    )
    for low, high, frame in (("iou_low", "iou_high", "leaderboard"), ("low", "high", "comparisons")):
        one, other = getattr(narrow, frame), getattr(wide, frame)
        assert ((other[high] - other[low]) >= (one[high] - one[low]) - 1e-12).all()
    if generalize == "seeds":
        assert (wide.comparisons["p"] >= narrow.comparisons["p"] - 1e-12).all()


def shifted(frame: pd.DataFrame, shifts: tuple[float, ...]) -> pd.DataFrame:
    """The same table, with all scores moved by so much without rater 0, 1, ..."""
    columns = [c for c in frame if str(c).rpartition("_without")[1]]
    moved = {c: frame[c.partition("_without")[0]] + shifts[int(c.rpartition("_without")[2])] for c in columns}
    return frame.assign(**moved)


def width(results: Results, name: str) -> float:
    found = row(results.leaderboard, name)
    return found["iou_high"] - found["iou_low"]


def test_the_spread_over_raters_by_hand():
    made = shifted(tables(0.0)["m0"], (-0.2, 0.0, 0.2))
    results = build_results({"m": made}, Resampling(generalize="raters", interval="student"))
    # Two thirds of the squared deviations without each rater; two degrees of freedom in all, as three raters have.
    half = stats.t.ppf(0.975, 2) * math.sqrt(made["iou"].var(ddof=1) / N + 2 / 3 * (0.2**2 + 0.2**2))
    difference = made["iou"] - made["iou_ceiling"]
    # All scores move together: a difference knows nothing of it but the degrees of freedom.
    alone = stats.t.ppf(0.975, 2) * difference.std(ddof=1) / math.sqrt(N)
    pair = results.comparisons.set_index("versus").loc[CEILING]
    assert (pair["high"] - pair["low"]) / 2 == pytest.approx(alone)
    raw = make_candidates({"m": made}, Resampling(generalize="raters", interval="student"))
    low, high = raw.interval(raw.means("iou"))
    assert (high[raw.models[0]] - low[raw.models[0]]) / 2 == pytest.approx(half)


def test_raters_and_seeds_add_up():
    made = {name: shifted(frame, (-0.02, 0.0, 0.02)) for name, frame in tables(0.0, 0.1, -0.1).items()}
    models = dict.fromkeys(made, "a")
    wide = {
        g: build_results(made, Resampling(generalize=g), models=models) for g in ("images", "raters", "seeds", "all")
    }
    assert width(wide["all"], "a") > max(width(wide["raters"], "a"), width(wide["seeds"], "a"))
    assert min(width(wide["raters"], "a"), width(wide["seeds"], "a")) > width(wide["images"], "a")


def test_the_spread_over_raters_is_called_a_description_and_nothing_is_tested():
    questions = Questions(margins={"iou": 0.3})
    images, raters = (
        build_results(tables(0.1, -0.2), Resampling(generalize=g), questions=questions) for g in ("images", "raters")
    )
    assert raters.cautions[0].startswith("What stands in the place of 95% intervals describes")
    assert not any("describes" in caution for caution in images.cautions)
    assert set(raters.comparisons["verdict"]) == {"no verdict"}
    assert "no verdict" not in set(images.comparisons["verdict"])
    assert raters.comparisons[["p", "p_holm"]].isna().all(axis=None)
    verdicts = raters.verdicts
    assert (verdicts[["floor_verdict", "ceiling_verdict", "equivalence_verdict"]] == "no verdict").all(axis=None)
    assert verdicts[["floor_p", "floor_p_holm", "ceiling_p", "equivalence_p_holm"]].isna().all(axis=None)
    assert set(verdicts["reason"]) == {"the spread over raters is described, not tested"}
    assert raters.interval_name == "descriptive range"
    assert images.interval_name == "95 % interval"


def test_two_raters_leave_nothing_to_describe():
    made = tables(0.0)["m0"]
    pair = made.drop(columns=[c for c in made if c.endswith("_fold2") or "_without" in c])
    board = build_results({"m": pair}, Resampling(generalize="raters")).leaderboard
    assert board["iou"].notna().all()
    assert board[["iou_low", "iou_high"]].isna().all(axis=None)


def test_a_model_that_lacks_an_image_loses_it_for_everybody():
    made = tables(0.0, 0.1)
    made["m1"].loc[3, "iou"] = math.nan
    results = build_results(made)
    rest = made["m0"].drop(index=3)
    assert row(results.leaderboard, "m0")["iou"] == pytest.approx(rest["iou"].mean())
    assert row(results.leaderboard, FLOOR)["iou"] == pytest.approx(rest["iou_floor"].mean())
    assert "iou is defined on 23 of 24 scored images." in results.notes


def test_too_few_resamples_are_named():
    many = random_tables(5, 30)
    notes = build_results(many, Resampling(resamples=99, interval="percentile")).notes
    assert any(note.startswith("10 comparisons of 5 models on 30 images") for note in notes)
    assert not any("comparisons of" in note for note in build_results(many, Resampling(resamples=99)).notes)


def test_choices_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match=r"must be one of auto, hall, student with .*: raters; found expanded"):
        Resampling(generalize="raters", interval="expanded")
    with pytest.raises(ValueError, match=r"hall, .* percentile with .*generalize: seeds; found bca"):
        Resampling(generalize="seeds", interval="bca")
    with pytest.raises(ValueError, match=r"`generalize` must be one of 'images', .*; found 'people'"):
        Resampling(generalize="people")
    with pytest.raises(ValueError, match=r"`interval` must be one of .*; found 'wide'"):
        Resampling(interval="wide")


def test_resampling_is_told_in_words():
    words = resampling_in_words(Resampling(resamples=50, generalize="seeds", interval="percentile"), unit="patients")
    assert words == "95%, bootstrap quantiles, 50 paired resamples of patients and of seeds"
    told = {
        g: resampling_in_words(Resampling(resamples=50, generalize=g), unit="patients") for g in ("seeds", "raters")
    }
    assert told["seeds"] == "95%, Hall's, by the spread and skewness over patients and over seeds"
    how = "Hall's, by the spread and skewness over patients and over raters (each left out)"
    assert told["raters"] == f"a description, no 95% interval: {how}"
