"""How often models fail: by hand, over seeds and references, where lower is better, and without references."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from irrbench.analysis.results import Questions, Resampling, build_results
from irrbench.stats.failures import clopper_pearson
from tests.analysis.test_leaderboard import CEILING, table

N = 20


def models(**values: list[float]) -> dict[str, pd.DataFrame]:
    bounds = {"ceiling": [0.7, 0.8] * (N // 2), "floor": [0.1] * N}
    made = {name: table(model, **bounds) for name, model in values.items()}
    for name, frame in made.items():
        for r in range(3):
            frame[f"iou_fold{r}"] = values[name]
    return made


def test_by_hand():
    failing = [0.0] * 2 + [0.2] * 3 + [0.3] * 5 + [0.8] * 10
    found = build_results(models(m=failing), questions=Questions(failure={"iou": 0.3})).failures
    assert found["name"].tolist() == [CEILING, "m", CEILING, "m"]
    assert found["role"].tolist() == ["ceiling", "model"] * 2
    assert found["failure"].tolist() == ["score of 0", "score of 0", "score under 0.3", "score under 0.3"]
    assert found["limit"].tolist() == [0, 0, 0.3, 0.3]
    assert found["share"].tolist() == [0, 2 / N, 0, 5 / N]
    lower = build_results(models(m=failing), Resampling(level=0.8), questions=Questions(failure={"iou": 0.3})).failures
    for place, failed in enumerate([0, 2, 0, 5]):
        row = found.loc[place]
        assert (row["share_low"], row["share_high"]) == pytest.approx(clopper_pearson(failed, N))
        assert lower.loc[place, ["share_low", "share_high"]].tolist() == pytest.approx(
            clopper_pearson(failed, N, level=0.8)
        )
        assert (row["n_images"], row["n_groups"], row["effective_n"]) == (N, N, pytest.approx(N))


def test_images_of_one_patient_count_for_less():
    failing = [0.0] * 4 + [0.8] * (N - 4)
    groups = {f"image{i}": i // 2 for i in range(N)}
    alone, grouped = (build_results(models(m=failing), Resampling(g)).failures.loc[1] for g in (None, groups))
    assert alone["share"] == grouped["share"] == 4 / N
    assert grouped["n_groups"] == N / 2
    assert grouped["effective_n"] < N / 2 < alone["effective_n"]
    assert grouped["share_high"] > alone["share_high"]


def test_each_seed_and_each_reference_counts():
    made = models(m0=[0.0] * 2 + [0.8] * 18, m1=[0.0] * 1 + [0.8] * 19)
    made["m1"].loc[5, "iou_fold0"] = 0.0
    found = build_results(made, models={"m0": "m", "m1": "m"}).failures
    assert found["name"].tolist() == [CEILING, "m"]
    assert found["share"].tolist() == pytest.approx([0, (2 + 1 + 1 / 3) / 2 / N])


def test_the_average_rater_fails_as_single_raters_do():
    made = models(m=[0.8] * N)
    made["m"].loc[:3, "iou_ceiling_fold1"] = 0.1
    found = build_results(made, questions=Questions(failure={"iou": 0.3})).failures.query(
        "failure == 'score under 0.3'"
    )
    assert found.set_index("name")["share"].to_dict() == pytest.approx({CEILING: 4 / 3 / N, "m": 0.0})


def test_other_scores_are_counted_where_they_have_a_limit():
    made = models(m=[0.0] + [0.8] * 19)["m"]
    other = table([0.0] + [0.9] * 19, ceiling=[0.8] * N, floor=[0.1] * N, score="f1")
    both = made.join(other[[c for c in other if c.startswith("f1")]])
    assert set(build_results({"m": both}).failures["score"]) == {"iou"}
    found = build_results({"m": both}, questions=Questions(failure={"f1": 0.95})).failures
    assert found[["score", "failure"]].drop_duplicates().to_numpy().tolist() == [
        ["iou", "score of 0"],
        ["f1", "score of 0"],
        ["f1", "score under 0.95"],
    ]
    assert found.iloc[-1]["share"] == 1


def test_where_lower_is_better_a_limit_is_passed_from_below():
    rate = [0.0] * 15 + [1.0] * 5
    made = table(rate, ceiling=[0.2] * N, floor=[1.0] * N, score="false_alarm")
    for r in range(3):
        made[f"false_alarm_fold{r}"] = rate
    found = build_results({"m": made}, questions=Questions(failure={"false_alarm": 0.5})).failures
    assert found["failure"].tolist() == ["score of 1", "score of 1", "score over 0.5", "score over 0.5"]
    assert found.query("name == 'm'")["share"].tolist() == [5 / N] * 2


def test_tables_without_references_count_images():
    made = models(m=[0.0] * 2 + [0.8] * 18)["m"]
    bare = made.drop(columns=[c for c in made if "_fold" in c])
    assert build_results({"m": bare}).failures["share"].tolist() == [0, 2 / N]


def test_images_that_do_not_count_are_left_out():
    made = models(m=[0.0] * 2 + [0.8] * 18)
    made["m"].loc[[0, 7], [c for c in made["m"] if c.startswith("iou")]] = np.nan
    found = build_results(made).failures.loc[1]
    assert (found["n_images"], found["share"]) == (18, 1 / 18)
