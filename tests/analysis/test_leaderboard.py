"""The leaderboard by hand, against slow loops, and in its corner cases."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from irrbench.analysis.candidates import make_candidates
from irrbench.commands import Resampling, Results, build_results

CEILING, MAJORITY, FLOOR = "average rater (ceiling)", "majority of raters", "naive rater (floor)"
UPPER, PAIRS, BLANK = "best possible (upper)", "one rater on one other", "blank mask"
BELOW = ["blank", "floor"]  # the models, by role
ABOVE = ["upper", "majority", "ceiling", "ceiling_of_two"]


def table(model: list[float], *, ceiling: list[float], floor: list[float], score: str = "iou") -> pd.DataFrame:
    ids = [f"image{i}" for i in range(len(model))]
    columns = {score: model, f"{score}_floor": floor, **references(score, ceiling)}
    folds = {f"{name}_fold{r}": np.array(v) + 0.01 * (r - 1) for name, v in columns.items() for r in range(3)}
    folds |= {f"{name}_without{r}": np.array(v) + 0.01 * (1 - r) for name, v in columns.items() for r in range(3)}
    facts = {"image_id": ids, "n_raters": 3, "tied": 0.0, "empty": 0.0, "alpha": 0.5}
    return pd.DataFrame({**facts, "equals_rater": False, "equals_majority": False, **columns, **folds})


def references(score: str, ceiling: list[float]) -> dict[str, np.ndarray]:
    """Everybody but the naive rater, at fixed distances from the ceiling; a blank mask has 0."""
    known = np.array(ceiling)
    shifts = {"blank": -known, "ceiling": 0.0, "ceiling_of_two": -0.1, "majority": 0.1, "upper": 0.2}
    return {f"{score}_{role}": known + shift for role, shift in shifts.items()}


def random_tables(models: int, images: int, *, seed: int = 0) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    ceiling, floor = rng.uniform(0.6, 0.9, images).tolist(), rng.uniform(0, 0.1, images).tolist()
    return {
        f"m{i}": table(rng.uniform(0.2 * i, 0.2 * i + 0.4, images).tolist(), ceiling=ceiling, floor=floor)
        for i in range(models)
    }


def remarks(results: Results) -> list[str]:
    """The notes beyond those that small made-up data always get."""
    return [note for note in results.notes if not note.startswith(("Only ", "No margin is declared"))]


def row(frame: pd.DataFrame, name: str) -> pd.Series:
    return frame.set_index("name").loc[name]


def test_by_hand():
    bounds = {"ceiling": [0.8, 0.6, 0.7, 0.7], "floor": [0.1, 0.1, 0.2, 0.0]}
    results = build_results(
        {"weak": table([0.3, 0.3, 0.5, 0.3], **bounds), "strong": table([0.9, 0.5, 0.8, 0.6], **bounds)}
    )
    board = results.leaderboard
    assert board["name"].tolist() == [UPPER, MAJORITY, CEILING, PAIRS, "strong", "weak", BLANK, FLOOR]
    assert board["role"].tolist() == [*ABOVE, "model", "model", *BELOW]
    assert board["n_images"].tolist() == [4] * 8
    assert board["iou"].tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.7, 0.35, 0.0, 0.1])
    # (0.35 - 0.1) / (0.7 - 0.1) and so on; never a mean of ratios
    shares = [0.8 / 0.6, 0.7 / 0.6, 1.0, 0.5 / 0.6, 1.0, 0.25 / 0.6, -0.1 / 0.6, 0.0]
    assert board["iou_normalized"].tolist() == pytest.approx(shares)
    assert board["rank"].isna().tolist() == [True] * 4 + [False] * 2 + [True] * 2
    assert board["rank"].tolist()[4:6] == [1, 2]
    assert board["iou_floor"].tolist() == pytest.approx([0.1] * 8)
    assert board["iou_ceiling"].tolist() == pytest.approx([0.7] * 8)
    assert (board["caution"] == "").all()
    assert remarks(results) == []


def test_a_normalized_interval_does_not_contradict_those_of_differences():
    rng = np.random.default_rng(0)
    floor = 0.5 + 0.02 * rng.normal(size=12)
    ceiling = floor + 0.004 + 0.03 * rng.exponential(size=12) ** 2  # some images tell both apart, most do not
    model = 0.1 + 0.05 * rng.random(12)  # worse than the naive rater on every image
    tables = {"m": table(model.tolist(), ceiling=ceiling.tolist(), floor=floor.tolist())}
    candidates = make_candidates(tables)
    assert candidates.interval(candidates.normalized("iou"))[1][candidates.models[0]] > 10  # the ratio's own end
    found = row(build_results(tables).leaderboard, "m")
    assert found["iou_normalized_low"] < found["iou_normalized"] < found["iou_normalized_high"] == 0


def test_columns_are_those_that_scripts_rely_on():
    results = build_results(random_tables(2, 6))
    assert list(results.leaderboard) == [
        "name", "role", "n_images", "n_groups", "iou", "iou_low", "iou_high", "iou_floor", "iou_ceiling",
        "iou_normalized", "iou_normalized_low", "iou_normalized_high", "iou_n_images", "rank", "caution",
    ]  # fmt: skip
    assert list(results.per_image) == ["name", "role", "image_id", "iou"]
    assert list(results.comparisons) == [
        "name", "versus", "score", "difference", "low", "high", "p", "p_holm", "verdict",
        "value", "versus_value", "floor", "ceiling", "normalized_difference",
    ]  # fmt: skip


def test_rows_of_every_table_are_numbered_through():
    made = random_tables(2, 12)
    for name, frame in made.items():
        other = frame[[column for column in frame if column.startswith("iou")]]
        made[name] = frame.join(other.rename(columns=lambda column: column.replace("iou", "f1")))
    frames = build_results(made).frames()
    assert set(frames["verdicts"]["score"]) == {"iou", "f1"}
    for name, frame in frames.items():
        assert frame.index.tolist() == list(range(len(frame))), name


def slow_samples(columns: list[list[float]], groups: list[str], resamples: int, seed: int) -> list[list[float]]:
    """Draw groups with replacement, list their images, take the mean: no array operation but the draw."""
    names = list(dict.fromkeys(groups))
    draws = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    samples = []
    for drawn in draws.tolist():
        chosen = [i for place in drawn for i in where(groups, names[place])]
        means = []
        for column in columns:
            values = [column[i] for i in chosen if not math.isnan(column[i])]
            means.append(sum(values) / len(values) if values else math.nan)
        samples.append(means)
    return samples


def where(groups: list[str], name: str) -> list[int]:
    return [i for i, group in enumerate(groups) if group == name]


def slow_percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def test_intervals_and_differences_against_a_slow_loop():
    tables = random_tables(2, 9, seed=3)
    for frame in tables.values():
        frame.loc[4, [c for c in frame if c.startswith("iou")]] = math.nan
    groups = {f"image{i}": f"patient{i // 2}" for i in range(9)}
    results = build_results(tables, Resampling(groups, resamples=300, seed=5, level=0.9, interval="percentile"))
    order = ["iou_ceiling", "iou_majority", "iou_floor"]
    columns = [tables["m0"][c].tolist() for c in order] + [tables[m]["iou"].tolist() for m in ("m0", "m1")]
    samples = slow_samples(columns, list(groups.values()), 300, 5)
    for place, name in enumerate([CEILING, MAJORITY, FLOOR, "m0", "m1"]):
        found = row(results.leaderboard, name)
        ends = [slow_percentile([s[place] for s in samples], share) for share in (0.05, 0.95)]
        assert [found["iou_low"], found["iou_high"]] == pytest.approx(ends, abs=1e-9)
    differences = [s[3] - s[4] for s in samples]
    pair = results.comparisons.query("name == 'm0' and versus == 'm1'").iloc[0]
    ends = [slow_percentile(differences, share) for share in (0.05, 0.95)]
    assert [pair["low"], pair["high"]] == pytest.approx(ends, abs=1e-9)
    rarer = min(sum(d <= 0 for d in differences), sum(d >= 0 for d in differences))
    assert pair["p"] == pytest.approx(min(1, 2 * (rarer + 1) / 301))


def test_three_families_of_comparisons_each_with_holm():
    comparisons = build_results(random_tables(3, 12)).comparisons
    assert comparisons["versus"].value_counts()[[CEILING, FLOOR]].tolist() == [3, 3]
    between = comparisons[~comparisons["versus"].isin([CEILING, FLOOR])]
    assert list(zip(between["name"], between["versus"], strict=True)) == [("m0", "m1"), ("m0", "m2"), ("m1", "m2")]
    for _, family in comparisons.groupby(comparisons["versus"].where(comparisons["versus"].isin([CEILING, FLOOR]), "")):
        ordered = family.sort_values("p")
        stepped, worst = [], 0.0
        for rank, p in enumerate(ordered["p"]):
            worst = max(worst, min(1.0, p * (len(family) - rank)))
            stepped.append(worst)
        assert ordered["p_holm"].tolist() == pytest.approx(stepped)


def test_verdicts_follow_the_sign_and_the_corrected_p():
    results = build_results(random_tables(3, 30))
    verdict = {(c["name"], c["versus"]): c["verdict"] for c in results.comparisons.to_dict("records")}
    assert verdict["m0", CEILING] == "below"
    assert verdict["m2", FLOOR] == "above"
    assert verdict["m0", "m2"] == "below"


def test_identical_models_are_not_distinguishable_and_share_a_rank():
    one = random_tables(1, 12)["m0"]
    results = build_results({"a": one, "b": one.copy()})
    pair = results.comparisons.query("name == 'a' and versus == 'b'").iloc[0]
    assert (pair["difference"], pair["low"], pair["high"], pair["p"]) == (0, 0, 0, 1)
    assert pair["verdict"] == "not distinguishable"
    assert results.leaderboard["rank"].dropna().tolist() == [1, 1]


def test_no_normalized_score_where_the_naive_rater_is_as_good():
    results = build_results({"m": table([0.8, 0.9], ceiling=[0.9, 0.8], floor=[1.0, 1.0], score="tpr")})
    assert results.leaderboard["tpr_normalized"].isna().all()
    assert remarks(results) == [
        "No normalized TPR (sensitivity): the naive rater scores at least as well as the average rater."
    ]


def test_an_interval_of_a_mean_ends_where_the_score_does():
    made = table([0.1, 0.9, 1.0], ceiling=[0.99, 1.0, 1.0], floor=[0.0, 0.0, 0.01])
    frame = build_results({"m": made}, Resampling(interval="student")).leaderboard
    assert row(frame, "m")[["iou_low", "iou_high"]].tolist() == [0.0, 1.0]  # by the formula -.56 and 1.89
    assert row(frame, "average rater (ceiling)")["iou_high"] == 1.0
    assert row(frame, "average rater (ceiling)")["iou_low"] == pytest.approx(0.982324, abs=2e-6)
    assert row(frame, "naive rater (floor)")["iou_low"] == 0.0


def test_no_normalized_score_where_the_interval_of_the_gap_holds_0():
    results = build_results({"m": table([0.5] * 4, ceiling=[0.9, 0.1, 0.9, 0.2], floor=[0.1, 0.9, 0.2, 0.8])})
    assert results.leaderboard["iou_normalized"].isna().all()
    assert remarks(results) == ["No normalized IoU: the interval of ceiling - floor holds 0."]


def test_images_without_a_defined_score_are_counted_out():
    bounds = {"ceiling": [0.7, math.nan, 0.8], "floor": [0.1, math.nan, 0.2]}
    results = build_results({"m": table([0.5, math.nan, 0.6], **bounds)})
    assert results.leaderboard["n_images"].tolist() == [2] * 7
    assert row(results.leaderboard, "m")["iou"] == pytest.approx(0.55)
    assert remarks(results) == ["iou is defined on 2 of 3 scored images."]


def test_a_score_that_no_image_defines_is_nan_and_says_so():
    nothing = [math.nan] * 3
    results = build_results({"m": table(nothing, ceiling=nothing, floor=nothing)})
    assert results.leaderboard["iou"].isna().all()
    assert results.comparisons["verdict"].unique().tolist() == ["undefined"]
    assert "No normalized IoU: no image defines both bounds." in results.notes


def test_order_of_images_does_not_matter():
    tables = random_tables(2, 7)
    shuffled = {name: frame.sample(frac=1, random_state=1) for name, frame in tables.items()}
    pd.testing.assert_frame_equal(build_results(tables).leaderboard, build_results(shuffled).leaderboard)


def test_images_of_one_patient_count_as_one():
    tables = {name: pd.concat([frame] * 4, ignore_index=True) for name, frame in random_tables(1, 6).items()}
    for frame in tables.values():
        frame["image_id"] = [f"{i}" for i in range(len(frame))]
    groups = {f"{i}": i % 6 for i in range(24)}
    by_group, by_image = (Resampling(g, interval="student") for g in (groups, None))
    grouped, single = (row(build_results(tables, r).leaderboard, "m0") for r in (by_group, by_image))
    # four copies of each image tell nothing new: about twice as wide, and wider still as 6 patients are few
    ratio = (grouped["iou_high"] - grouped["iou_low"]) / (single["iou_high"] - single["iou_low"])
    assert ratio == pytest.approx(math.sqrt(138 / 30) * stats.t.ppf(0.975, 5) / stats.t.ppf(0.975, 23))


def test_models_on_different_images_are_refused():
    tables = random_tables(2, 5)
    tables["m1"] = tables["m1"].iloc[:4]
    with pytest.raises(ValueError, match=r"same images: 'm0' has 5, 'm1' has 4, 4 are common"):
        build_results(tables)


def test_no_model_is_refused():
    with pytest.raises(ValueError, match="at least one is needed"):
        build_results({})
