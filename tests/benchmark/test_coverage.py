"""The simulation: its truth, and that it sees an interval or a test that is off."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from studies import coverage
from studies.coverage import measure, to_table
from studies.simulated import CEILING, FLOOR, MODEL, Simulation, draw, true_mean

SCRIPT = Path(__file__).parents[2] / "scripts" / "coverage.py"


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return measure(Simulation(datasets=400, resamples=399, seed=1), [10, 40])


@pytest.mark.parametrize("kind", [CEILING, MODEL, FLOOR])
def test_the_truth_by_drawing(kind):
    drawn = draw([kind], Simulation(datasets=2000, resamples=1), 100, np.random.default_rng(0))
    assert drawn.mean(0).estimates.mean() == pytest.approx(true_mean(kind), abs=0.002)


def found(frame: pd.DataFrame, quantity: str, method: str, groups: int) -> float:
    chosen = frame.query("quantity == @quantity and method == @method and groups == @groups")
    return chosen["found"].item()


def test_students_interval_is_near_its_level_and_the_quantiles_are_not(frame):
    for quantity in ("mean of a model", "model - ceiling", "normalized score"):
        for method in ("hall", "student"):
            assert 0.91 < found(frame, quantity, method, 10) < 0.98
        assert found(frame, quantity, "percentile", 10) < found(frame, quantity, "student", 10) - 0.02
        assert found(frame, quantity, "percentile", 40) > 0.9


def test_false_positives(frame):
    holm = "any of 6 pairs of equal models (Holm)"
    assert found(frame, holm, "student", 10) < 0.09
    assert found(frame, holm, "percentile", 10) > 0.08
    assert found(frame, "non-inferiority at the margin", "student", 40) < 0.06
    assert found(frame, "non-inferiority at the margin", "hall", 40) < 0.05
    assert found(frame, "alternative annotator: one rater", "student", 40) < 0.09
    assert found(frame, "alternative annotator: any of 4 raters (corrected)", "student", 40) < 0.06


def test_the_best_of_ten_needs_simultaneous_intervals(frame):
    quantity = "best of 10 models as good as the ceiling, interval above 0"
    assert found(frame, quantity, "separate", 40) > 0.08
    assert found(frame, quantity, "simultaneous", 40) < 0.06


def test_shares_of_failures_by_patients(frame):
    for share in (0.02, 0.1):
        assert found(frame, f"share of failures {share:g}", "by patients", 40) > 0.93


def test_a_wrong_truth_is_seen(monkeypatch):
    monkeypatch.setattr(coverage, "true_mean", lambda kind: true_mean(kind) + 0.05)
    off = measure(Simulation(datasets=100, resamples=99), [40])
    assert found(off, "mean of a model", "student", 40) < 0.5


def test_the_same_seed_gives_the_same_table():
    small = [measure(Simulation(datasets=20, resamples=49, seed=s), [6]) for s in (1, 1, 2)]
    pd.testing.assert_frame_equal(small[0], small[1])
    assert not small[0].equals(small[2])


def test_the_script_prints_and_writes(tmp_path, capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location("coverage_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    output = tmp_path / "c.csv"
    monkeypatch.setattr(
        sys, "argv", ["c", "--datasets", "20", "--resamples", "49", "--groups", "6", "--output", str(output)]
    )
    module.main()
    assert "student" in capsys.readouterr().out
    written = pd.read_csv(output)
    assert to_table(written).row_count == len(written)
