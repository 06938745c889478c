"""A score where lower is better and one without a limit, through every table: mirrored and scaled, nothing else."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from irrbench.analysis.blind import fit_blind
from irrbench.analysis.candidates import Resampling, make_candidates
from irrbench.analysis.subgroups import subgroups_frame
from irrbench.analysis.tables import (
    alternative_frame,
    leaderboard_frame,
    normalize,
    per_image_frame,
    seeds_frame,
    separation_frame,
)
from irrbench.analysis.verdicts import comparisons_frame, verdicts_frame
from irrbench.data import RaterData
from irrbench.scores import SCORES, Score

N, R = 22, 3
SCALE = 30.0  # of the score without a limit
MARGIN = 0.03
OPTIONS = [
    Resampling(),
    Resampling(interval="percentile", resamples=999),
    Resampling(generalize="all", resamples=999),
    Resampling({f"i{i:02}": i // 2 for i in range(N)}),
]


@pytest.fixture(autouse=True)
def scores(monkeypatch: pytest.MonkeyPatch) -> None:
    error = Score(
        "error", "Error rate", lambda t: (t.fp + t.fn) / t.total, higher_is_better=False, counts_background=True
    )
    odds = Score(
        "odds", "Odds", lambda t: (t.tp + t.tn) / (t.fp + t.fn + 1), range=(0, math.inf), counts_background=True
    )
    for score in (error, odds):
        monkeypatch.setitem(SCORES, score.name, score)


def tables() -> dict[str, pd.DataFrame]:
    """Models from far below to above the average rater, the last two seeds of one; columns of ``accuracy``."""
    rng = np.random.default_rng(0)
    ceiling, floor = rng.uniform(0.6, 0.8, N), rng.uniform(0, 0.1, N)
    others = {"blank": floor / 2, "ceiling_of_two": ceiling - 0.1}
    others |= {"majority": ceiling + rng.uniform(0, 0.1, N), "upper": ceiling + 0.15}
    made = {}
    for number, shift in enumerate((-0.62, -0.2, 0.0, 0.05, 0.09, 0.095)):
        columns = {"": ceiling + shift + 0.04 * rng.normal(size=N), "_floor": floor, "_ceiling": ceiling}
        columns |= {f"_{role}": values for role, values in others.items()}
        for name, values in list(columns.items()):
            noise = 0.0 if name else 0.02
            for r in range(R):
                columns[f"{name}_fold{r}"] = values + 0.01 * (r - 1) + noise * rng.normal(size=N)
                columns[f"{name}_without{r}"] = values + 0.002 * (1 - r) + noise * rng.normal(size=N)
        frame = pd.DataFrame({f"accuracy{name}": values for name, values in columns.items()})
        frame.loc[3] = math.nan
        made[f"m{number}"] = frame.assign(image_id=[f"i{i:02}" for i in range(N)])
    return made


def of_score(made: dict[str, pd.DataFrame], score: str) -> dict[str, pd.DataFrame]:
    """The same results in another unit: ``error = 1 - accuracy``, ``odds = 30 accuracy``."""
    turned = {}
    for name, frame in made.items():
        values = frame.drop(columns="image_id")
        values = 1 - values if score == "error" else SCALE * values
        turned[name] = values.rename(columns=lambda column: column.replace("accuracy", score)).assign(
            image_id=frame["image_id"]
        )
    return turned


def candidates(score: str, options: Resampling):
    made = tables() if score == "accuracy" else of_score(tables(), score)
    blind = made.pop("m0")
    return make_candidates(made, options, models={"m4": "net", "m5": "net"}, blind=blind)


def assert_same(found: pd.DataFrame, expected: pd.DataFrame, columns: list[str]) -> None:
    pd.testing.assert_frame_equal(found[columns], expected[columns], atol=1e-9)


def assert_turned(found, expected, score: str, *, is_difference: bool = False) -> None:
    """Values of another unit; of a score where lower is better the ends of an interval change places."""
    value, low, high = (np.asarray(expected[column], float) for column in ("value", "low", "high"))
    if score == "odds":
        turned = [SCALE * value, SCALE * low, SCALE * high]
    else:
        turned = [-value, -high, -low] if is_difference else [1 - value, 1 - high, 1 - low]
    for column, wanted in zip(("value", "low", "high"), turned, strict=True):
        np.testing.assert_allclose(np.asarray(found[column], float), wanted, atol=1e-9)


def renamed(frame: pd.DataFrame, stem: str, value: str = "") -> pd.DataFrame:
    return frame.rename(columns={value or stem: "value", f"{stem}_low": "low", f"{stem}_high": "high"})


@pytest.mark.parametrize("options", OPTIONS, ids=["student", "percentile", "all", "patients"])
@pytest.mark.parametrize("score", ["error", "odds"])
class TestTables:
    def test_leaderboard(self, score, options):
        expected, found = (leaderboard_frame(candidates(s, options)) for s in ("accuracy", score))
        assert_same(found, expected, ["name", "role", "n_images", "rank"])
        assert found.loc[found["role"] == "model", "name"].tolist() == ["net", "m3", "m2", "m1"]
        assert_same(
            found.rename(columns=lambda c: c.replace(score, "accuracy")),
            expected,
            ["accuracy_normalized", "accuracy_normalized_low", "accuracy_normalized_high"],
        )
        free = renamed(expected, "accuracy")  # no end is cut at the range here
        assert ((free[["low", "high"]] > 0) & (free[["low", "high"]] < 1)).all(axis=None)
        assert_turned(renamed(found, score), free, score)
        bounds = {role: found.loc[found["role"] == role, score].item() for role in ("floor", "ceiling")}
        for role, value in bounds.items():
            assert found[f"{score}_{role}"].tolist() == pytest.approx([value] * len(found))

    def test_comparisons(self, score, options):
        expected, found = (comparisons_frame(candidates(s, options)) for s in ("accuracy", score))
        assert_same(found, expected, ["name", "versus", "p", "p_holm", "normalized_difference"])
        assert_turned(*(f.rename(columns={"value": "_", "difference": "value"}) for f in (found, expected)), score,
                      is_difference=True)  # fmt: skip
        sides = ("better", "worse") if score == "error" else ("above", "below")
        words = {"no verdict"} if options.spread_over_raters else {*sides, "not distinguishable"}
        assert words == set(found["verdict"])
        assert_same(found.replace(dict(zip(sides, ("above", "below"), strict=True))), expected, ["verdict"])

    def test_verdicts(self, score, options):
        margins = {"accuracy": MARGIN, "error": MARGIN, "odds": SCALE * MARGIN}
        expected, found = (verdicts_frame(candidates(s, options), margins) for s in ("accuracy", score))
        same = ["name", "floor_p", "floor_p_holm", "ceiling_p", "ceiling_p_holm", "floor_verdict", "ceiling_verdict"]
        assert_same(found, expected, [*same, "normalized", "normalized_low", "normalized_high"])
        for role in ("floor", "ceiling"):
            stem = f"{role}_difference"
            both = (renamed(f.drop(columns=["value", "low", "high"]), stem) for f in (found, expected))
            assert_turned(*both, score, is_difference=True)

    def test_alternative_annotator_test(self, score, options):
        expected, found = (
            alternative_frame(candidates(s, options), epsilon=0.1, min_images=9) for s in ("accuracy", score)
        )
        tested = ["name", "rater", "n_images", "n_groups", "advantage", "rater_advantage", "p", "p_corrected", "wins"]
        assert_same(found, expected, [*tested, "winning_rate", "average_advantage", "verdict"])
        assert set(found["wins"]) == {True, False}
        for column in ("value", "rater_value", "floor"):
            values = 1 - expected[column] if score == "error" else SCALE * expected[column]
            np.testing.assert_allclose(found[column], values)

    def test_separation(self, score, options):
        expected, found = (separation_frame(candidates(s, options)) for s in ("accuracy", score))
        assert_same(found, expected, ["n_images", "separation", "remark"])
        assert_turned(renamed(found, "gap"), renamed(expected, "gap"), score, is_difference=True)

    def test_seeds(self, score, options):
        expected, found = (seeds_frame(candidates(s, options)) for s in ("accuracy", score))
        assert_same(found, expected, ["name", "n_seeds", "normalized"])
        ends = {c: {"mean": "value", "lowest": "low", "highest": "high"} for c in (score, "accuracy")}
        assert_turned(found.rename(columns=ends[score]), expected.rename(columns=ends["accuracy"]), score)

    def test_subgroups(self, score, options):
        manifest = pd.DataFrame({"site": ["a", "b"] * (N // 2)}, index=[f"i{i:02}" for i in range(N)])
        expected, found = (subgroups_frame(candidates(s, options), manifest, ["site"]) for s in ("accuracy", score))
        assert_same(found, expected, ["column", "subgroup", "n_groups", "n_images", "name", "role", "rank", "warning"])
        found = found.rename(columns=lambda c: c.replace(score, "accuracy"))
        assert_same(found, expected, ["accuracy_normalized", "accuracy_normalized_low", "accuracy_normalized_high"])


def test_an_interval_ends_where_the_score_does():
    frame = pd.DataFrame({"image_id": ["a", "b", "c"], "error": [0.1, 0.9, 1.0]})
    frame = frame.assign(error_floor=1.0, error_blank=1.0, error_ceiling=[0.01, 0.0, 0.0], error_ceiling_of_two=0.01)
    frame = frame.assign(error_majority=0.0, error_upper=0.0)
    board = leaderboard_frame(make_candidates({"m": frame})).set_index("role")
    assert board.loc["model", ["error_low", "error_high"]].tolist() == [0, 1]
    scaled = frame.rename(columns=lambda c: c.replace("error", "odds"))
    scaled[["odds", "odds_ceiling"]] *= 50
    board = leaderboard_frame(make_candidates({"m": scaled})).set_index("role")
    assert board.loc["model", "odds_low"] == 0
    assert board.loc["model", "odds_high"] > 50
    assert per_image_frame(make_candidates({"m": scaled}))["odds"].max() == 50


def test_a_naive_rater_with_a_lower_error_has_no_band_above_it():
    frame = pd.DataFrame({"image_id": ["a", "b", "c"], "error": 0.5, "error_floor": 0.1, "error_blank": 0.1})
    frame = frame.assign(error_ceiling=[0.2, 0.3, 0.2], error_ceiling_of_two=0.3, error_majority=0.2, error_upper=0.1)
    found = normalize(make_candidates({"m": frame}), "error")
    assert {one.reason for one in found} == {"the naive rater scores at least as well as the average rater"}


def test_the_blind_threshold_makes_an_error_small():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:9, :11]
    masks = [np.stack([np.hypot(y - 4, x - 5) < rng.uniform(1.5, 4) for _ in range(R)]) for _ in range(12)]
    data = RaterData.from_arrays([np.zeros((1, 9, 11), np.float32)] * 12, masks)
    by_accuracy, by_error, by_odds = (fit_blind(data, score=score) for score in ("accuracy", "error", "odds"))
    assert by_error.threshold == by_accuracy.threshold
    assert by_error.score == pytest.approx(1 - by_accuracy.score)
    assert by_odds.score > 1
    assert by_odds.threshold == by_accuracy.threshold
    assert torch.from_numpy(by_odds.mask).any()
