"""Results as JSON: every number of the tables, None for what is undefined, the same keys whatever is missing."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from irrbench.report.record import benchmark_record, plain
from tests.report.frames import comparisons, leaderboard, results

MODELS = {"unet <b>": 0.6, "fpn": 0.5}


def strict(value):
    return json.loads(json.dumps(value, allow_nan=False))


def test_a_candidate_has_its_numbers_by_score():
    found = strict(benchmark_record(results(leaderboard(MODELS), comparisons=comparisons(MODELS)), ["numpy"]))
    unet = next(candidate for candidate in found["candidates"] if candidate["name"] == "unet <b>")
    assert unet["role"] == "model"
    assert unet["rank"] == 1
    iou, tpr = unet["scores"]["iou"], unet["scores"]["tpr"]
    assert (iou["mean"], iou["low"], iou["high"]) == (0.6, pytest.approx(0.58), pytest.approx(0.63))
    assert iou["normalized"] == pytest.approx((0.6 - 0.04) / (0.71 - 0.04))
    assert tpr["normalized"] is None  # floor above ceiling
    assert [score["name"] for score in found["scores"]] == ["iou", "tpr"]
    assert len(found["comparisons"]) == 6  # by two scores: against the average rater, and of each other
    assert found["comparisons"][0]["versus"] == "average rater (ceiling)"
    assert found["versions"]["numpy"] == np.__version__


def test_settled_values_reach_rules_scores_and_data():
    frame = leaderboard(MODELS).rename(columns=lambda name: name.replace("iou", "nsd").replace("tpr", "hd95"))
    settled = {"split": "test", "distance_unit": "mm", "rules": {"ties": "average", "tolerance": 1.25}}
    made = results(frame, scores=("nsd", "hd95"), settled=settled, titles={"nsd": "NSD at 1.25 mm"})
    found = strict(benchmark_record(made, []))
    assert found["rules"] == {"ties": "average", "tolerance": 1.25}
    assert (found["data"]["split"], found["data"]["distance_unit"]) == ("test", "mm")
    nsd, hd95 = found["scores"]
    assert (nsd["title"], nsd["tolerance"], nsd["unit"], nsd["range"]) == ("NSD at 1.25 mm", 1.25, None, [0.0, 1.0])
    assert (hd95["tolerance"], hd95["unit"], hd95["higher_is_better"]) == (None, "mm", False)
    assert hd95["range"] == [0.0, None]  # no limit


def test_keys_are_there_where_tables_are_empty():
    found = strict(benchmark_record(results(leaderboard({})), []))
    assert found["verdicts"] == found["comparisons"] == found["failures"] == []
    assert found["tables"] == {}
    full = benchmark_record(results(leaderboard(MODELS), comparisons=comparisons(MODELS)), [])
    assert list(found) == list(full)


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan"), pd.NA, pd.NaT, None])
def test_what_is_no_number_is_null(value):
    assert plain([value]) == [None]


def test_values_become_those_of_json():
    frame = pd.DataFrame({"n": pd.array([1, None], dtype="Int64"), "yes": [True, False], "text": ["a", "b"]})
    assert strict(plain(frame.to_dict("records"))) == [
        {"n": 1, "yes": True, "text": "a"},
        {"n": None, "yes": False, "text": "b"},
    ]
    assert plain({"when": pd.Timestamp("2026-01-02")}) == {"when": "2026-01-02 00:00:00"}
