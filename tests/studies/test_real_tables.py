"""The study on real tables: its null hypotheses, its tests by hand, and that it sees a test that is off."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from studies.real_tables import (
    VERDICT,
    Population,
    _bootstrap_t,
    _p_values,
    measure_tables,
    measure_together,
    over_tables,
    read_populations,
)

from irrbench.stats import Ratios

SCRIPT = Path(__file__).parents[2] / "scripts" / "coverage.py"


def write(folder: Path, model: np.ndarray, ceiling: np.ndarray, *, name: str = "m", patients: int = 0) -> Path:
    frame = pd.DataFrame({"image_id": [f"i{k}" for k in range(len(model))], "iou": model})
    frame = frame.assign(iou_ceiling=ceiling, iou_floor=0.1)
    if patients:
        frame["group"] = np.arange(len(model)) % patients
    frame.to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture
def failing(tmp_path) -> list[Population]:
    """Near the average rater, but for 1 image in 25, where it has 0."""
    rng = np.random.default_rng(0)
    ceiling = rng.uniform(0.65, 0.85, 400)
    model = np.where(np.arange(400) % 25 == 0, 0.0, ceiling + rng.normal(0, 0.08, 400))
    return read_populations(write(tmp_path, model, ceiling))


def test_tables_become_sums_of_patients(tmp_path):
    write(tmp_path, np.array([0.0, 0.4, 0.6]), np.array([0.7, 0.7, 0.9]), patients=2)
    (found,) = read_populations(tmp_path)
    assert found.sums == pytest.approx(np.array([[0.6, 0.4], [1.6, 0.7], [0.2, 0.1], [2, 1]]))
    assert (found.failures, found.worst) == (pytest.approx(1 / 3), 0.0)
    rarer = found.with_rare_failures()
    assert rarer.weights == pytest.approx([0.2, 0.8])
    assert rarer.failures == pytest.approx(0.2 * 1 / (0.2 * 2 + 0.8 * 1))
    top, bottom, worst = rarer.quantities()["model - ceiling"]
    assert (top.tolist(), bottom.tolist()) == (pytest.approx([-1.0, -0.3]), [2, 1])
    assert worst == pytest.approx(-(0.2 * 1.6 + 0.8 * 0.7) / 1.2)


def test_tables_without_the_columns_are_refused(tmp_path):
    pd.DataFrame({"image_id": ["a"], "iou": [0.5]}).to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(ValueError, match="must hold CSV tables with columns such as iou, iou_ceiling and iou_floor"):
        read_populations(tmp_path)


def test_p_values_by_hand():
    values = np.random.default_rng(1).gamma(0.5, size=(20, 2)) * [1, -1]
    ratios = Ratios(values, np.ones_like(values), np.empty((0, 2)))
    t = (values.mean(axis=0) - 0.1) / stats.sem(values)
    k = stats.skew(values) / math.sqrt(20)
    assert _p_values(ratios, 0.1, -3.0, "johnson") == pytest.approx(stats.t.sf(t + k / 6 + k * t**2 / 3, 19))
    one_more = stats.ttest_1samp(np.vstack([values, [-3.0, -3.0]]), 0.1, alternative="greater").pvalue
    assert _p_values(ratios, 0.1, -3.0, "one more") == pytest.approx(one_more)
    both = np.maximum(one_more, _p_values(ratios, 0.1, -3.0, "hall"))
    assert _p_values(ratios, 0.1, -3.0, VERDICT) == pytest.approx(both)


def test_the_studentized_bootstrap_of_normal_values_is_near_students_test():
    values = np.random.default_rng(2).normal(size=(40, 6))
    ratios = Ratios(values, np.ones_like(values), np.empty((0, 6)))
    found = _bootstrap_t(ratios, 0.0, resamples=4000, rng=np.random.default_rng(0))
    assert found == pytest.approx(stats.ttest_1samp(values, 0, alternative="greater").pvalue, abs=0.03)


def test_failures_mislead_students_test_and_not_the_verdicts(failing):
    frame = measure_tables([*failing, failing[0].with_rare_failures()], [20], datasets=800, resamples=49)
    wrong = frame.query("measure == 'false positives' and quantity == 'model - ceiling'")
    student, verdict = (wrong[wrong["method"] == method]["found"] for method in ("student", VERDICT))
    assert (student > 0.05).all()
    assert (verdict <= 0.035).all()
    assert (frame.query("quantity == 'model - ceiling'")["skewness"] < -2).all()


def test_scores_without_failures_mislead_no_test(tmp_path):
    rng = np.random.default_rng(3)
    ceiling = rng.uniform(0.5, 0.8, 300)
    populations = read_populations(write(tmp_path, ceiling + rng.normal(0, 0.1, 300), ceiling))
    frame = measure_tables(populations, [50], datasets=1000, resamples=99)
    for method in ("student", "hall", "johnson", "bootstrap-t"):
        rows = frame[(frame["method"] == method) & (frame["quantity"] == "model - ceiling")]
        assert 0.01 < rows[rows["measure"] == "false positives"]["found"].item() < 0.05
    coverage = frame.query("measure == 'coverage' and method == 'hall'")
    assert set(coverage["quantity"]) >= {"mean of a model", "normalized score"}
    assert coverage["found"].between(0.925, 0.975).all()


def test_models_of_the_same_images_need_simultaneous_intervals(tmp_path):
    rng = np.random.default_rng(5)
    ceiling = rng.uniform(0.6, 0.8, 200)
    for number in range(6):
        write(tmp_path, ceiling + rng.normal(0, 0.1, 200), ceiling, name=f"m{number}")
    write(tmp_path, ceiling, ceiling + 0.1, name="other")
    found = measure_together(read_populations(tmp_path), [40], datasets=300)
    assert found["models"].tolist() == [6, 6]
    separate, simultaneous = found["found"]
    assert separate < 0.87
    assert 0.91 < simultaneous < 0.99


def test_tables_together_show_the_worst(tmp_path):
    rows = [
        {"table": name, "quantity": "q", "skewness": s, "groups": 10, "method": "m", "measure": measure, "found": found}
        for name, s, wrong, held in (("a", -1.0, 0.02, 0.95), ("b", 0.5, 0.04, 0.91))
        for measure, found in (("false positives", wrong), ("coverage", held), ("power, 0.1 better", wrong))
    ]
    found = over_tables(pd.DataFrame(rows))
    assert found.set_index("measure")[10].to_dict() == pytest.approx(
        {"false positives": 0.04, "coverage": 0.91, "power, 0.1 better": 0.03}
    )
    assert found["skewness"].unique().tolist() == ["-1.0 to 0.5"]


def test_the_script_reads_tables_prints_and_writes(failing, tmp_path, capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location("coverage_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    output = tmp_path / "found" / "c.csv"
    output.parent.mkdir()
    flags = [
        "--tables",
        str(tmp_path),
        "--datasets",
        "20",
        "--resamples",
        "9",
        "--groups",
        "6",
        "--output",
        str(output),
    ]
    monkeypatch.setattr(sys, "argv", ["c", *flags])
    module.main()
    assert VERDICT in capsys.readouterr().out
    assert set(pd.read_csv(output)["table"]) == {"m", "m, failures rarer"}
