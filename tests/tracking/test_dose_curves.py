from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pandas as pd
import pytest

from irrbench.tracking import Run, save_chart_view
from irrbench.tracking.charts import decode
from irrbench.tracking.dose_curves import log_dose_curves

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # inside MLflow

NAN = float("nan")
CEILING, FLOOR = "average rater · lidc · ties average", "naive rater · lidc · ties average"
GCE = {"boundary": {0: 0.7, 0.5: 0.69, 2: 0.6}, "flip": {0: 0.7, 0.25: 0.68, 2: NAN}}
CE = {"boundary": {0: 0.72, 0.5: 0.66, 2: 0.5}}


def frame(**recipes) -> pd.DataFrame:
    rows = [
        {"recipe": recipe, "noise": noise, "dose": dose, "reached": dose, "iou": value, "iou_low": value - 0.1}
        for recipe, curves in recipes.items()
        for noise, curve in curves.items()
        for dose, value in curve.items()
    ]
    return pd.DataFrame(rows)


def new_model(store) -> Run:
    """A trained model with bounds of its own on validation and test images."""
    model = Run.new(store.uri, "nodules", key="a model")
    model.create(run_name="unet gce")
    for split, digest in (("val", "1f"), ("test", "9c")):
        model.join_bounds(split, digest)
        model.log_bounds(split, digest, {"data": "lidc", "ties": "average"})
    return model


def log(store, curves: pd.DataFrame, bounds: tuple[float, float] = (0.2, 0.65)) -> dict[str, Run]:
    return log_dose_curves(curves, "iou", beside=new_model(store), bounds=bounds)


def send(store, curves: pd.DataFrame, **options) -> dict[str, Run]:
    runs = log(store, curves, **options)
    assert next(iter(runs.values())).drain(limit=120) == 0
    return runs


def points(store, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in store.client.get_metric_history(run_id, key))


def by_name(store) -> dict[str, str]:
    runs = store.client.search_runs([store.experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run.info.run_id for run in runs}


def test_a_recipe_has_a_line_for_each_noise_and_the_bounds_are_level(store) -> None:
    runs = send(store, frame(gce=GCE, ce=CE))
    found = by_name(store)
    assert list(runs) == ["gce", "ce"]
    assert sorted(found) == [CEILING, "ce over dose", "gce over dose", FLOOR, "unet gce"]
    gce = runs["gce"].run_id
    assert gce == found["gce over dose"]
    assert points(store, gce, "robustness/boundary/iou") == [(0, 0.7), (500, 0.69), (2000, 0.6)]
    assert points(store, gce, "robustness/flip/iou") == [(0, 0.7), (250, 0.68)]
    for run_id in (gce, found[CEILING], found[FLOOR]):
        assert points(store, run_id, "robustness/dose") == [(0, 0.0), (250, 0.25), (500, 0.5), (2000, 2.0)]
    for name, value in ((CEILING, 0.65), (FLOOR, 0.2)):
        for noise in GCE:
            line = [(step, value) for step in (0, 250, 500, 2000)]
            assert points(store, found[name], f"robustness/{noise}/iou") == line


def test_curves_are_in_no_chart_of_models(store) -> None:
    run = send(store, frame(gce=GCE))["gce"]
    stored = store.client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert set(stored.data.metrics) == {"robustness/dose", "robustness/boundary/iou", "robustness/flip/iou"}
    assert stored.data.tags["irrbench.role"] == "robustness"
    assert stored.data.tags["irrbench.bounds_id"] == "test:9c"
    models = store.client.search_runs([store.experiment_id], "tags.`irrbench.role` = 'model'")
    assert [model.info.run_name for model in models] == ["unet gce"]


def test_a_second_call_changes_nothing(store) -> None:
    def everything() -> list[tuple[str, str, list[tuple[int, float]]]]:
        runs = store.client.search_runs([store.experiment_id])
        return sorted((r.info.run_id, key, points(store, r.info.run_id, key)) for r in runs for key in r.data.metrics)

    send(store, frame(gce=GCE, ce=CE))
    before = everything()
    send(store, frame(gce=GCE, ce=CE))
    assert everything() == before


def test_other_values_take_the_place_of_earlier_ones(store) -> None:
    first = send(store, frame(gce=GCE, ce=CE))
    more_seeds = {noise: {dose: value - 0.01 for dose, value in curve.items()} for noise, curve in GCE.items()}
    second = send(store, frame(gce=more_seeds, ce=CE))
    assert set(by_name(store)) >= {"gce over dose", "ce over dose"}
    assert second["ce"].run_id == first["ce"].run_id
    assert by_name(store)["gce over dose"] == second["gce"].run_id != first["gce"].run_id
    assert store.client.get_run(first["gce"].run_id).info.lifecycle_stage == "deleted"
    back = send(store, frame(gce=GCE))["gce"]
    assert by_name(store)["gce over dose"] == back.run_id
    assert points(store, back.run_id, "robustness/boundary/iou") == [(0, 0.7), (500, 0.69), (2000, 0.6)]


def test_a_recipe_with_other_noise_stays(store) -> None:
    first = send(store, frame(gce={"shift": {0: 0.7, 1: 0.6}}))["gce"]
    second = send(store, frame(gce=GCE))["gce"]
    states = [store.client.get_run(run.run_id).info.lifecycle_stage for run in (first, second)]
    assert states == ["active", "active"]


def test_earlier_runs_go_whatever_their_noise_is_called(store) -> None:
    noises = ("boundary renewed", 'grow "5 %", twice', "flip")
    first = send(store, frame(gce={noise: {0: 0.7, 1: 0.6} for noise in noises[:2]}))["gce"]
    assert json.loads(store.client.get_run(first.run_id).data.tags["irrbench.noises"]) == [*noises[:2]]
    second = send(store, frame(gce={noise: {0: 0.7, 1: 0.5} for noise in noises}))["gce"]
    states = [store.client.get_run(run.run_id).info.lifecycle_stage for run in (first, second)]
    assert states == ["deleted", "active"]


@pytest.mark.parametrize("tag", ["boundary", '"boundary"', ""])
def test_a_run_whose_noises_are_not_known_stays(store, tag) -> None:
    first = send(store, frame(ce=CE))["ce"]
    store.client.set_tag(first.run_id, "irrbench.noises", tag)
    send(store, frame(ce={"boundary": {0: 0.7}}))
    assert store.client.get_run(first.run_id).info.lifecycle_stage == "active"


def test_noises_that_mlflow_does_not_take_have_keys_of_their_own_in_all_runs(store) -> None:
    """Recipes with one of them each, whose names differ in characters that MLflow replaces."""
    names = ("grow 5_ _a_", "grow 5% (a)", "grow 5% [a]", "w" * 150, "w" * 151)
    curves = {f"r{place}": {name: {0: 0.7, 1: 0.1 * place}} for place, name in enumerate(names)}
    runs = send(store, frame(**curves))
    keys = {}
    for place, name in enumerate(names):
        run_id = runs[f"r{place}"].run_id
        (keys[name],) = set(store.client.get_run(run_id).data.metrics) - {"robustness/dose"}
        assert points(store, run_id, keys[name]) == [(0, 0.7), (1000, pytest.approx(0.1 * place))]
    assert len(set(keys.values())) == 5
    assert keys["grow 5_ _a_"] == "robustness/grow 5_ _a_/iou"
    drawn = set(store.client.get_run(by_name(store)[CEILING]).data.metrics)
    assert drawn == {"robustness/dose", *keys.values()}


def test_an_undefined_bound_has_no_line(store) -> None:
    send(store, frame(ce=CE), bounds=(NAN, 0.65))
    found = by_name(store)
    assert set(store.client.get_run(found[FLOOR]).data.metrics) == {"robustness/dose"}
    assert "robustness/boundary/iou" in store.client.get_run(found[CEILING]).data.metrics


def test_a_store_that_is_down_gets_everything_later(store, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("irrbench.tracking.delivery.ASK_SECONDS", 0.5)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        run = log(store, frame(gce=GCE))["gce"]
        assert run.drain() > 0
        assert run.run_id is None
    assert run.drain(limit=120) == 0
    assert points(store, run.run_id, "robustness/flip/iou") == [(0, 0.7), (250, 0.68)]


def test_a_model_without_bounds_gives_curves_without_them(store) -> None:
    model = Run.new(store.uri, "nodules", key="a model")
    model.create(run_name="unet gce")
    run = log_dose_curves(frame(ce=CE), "iou", beside=model, bounds=(0.2, 0.65))["ce"]
    assert run.drain(limit=120) == 0
    assert sorted(by_name(store)) == ["ce over dose", "unet gce"]
    assert points(store, run.run_id, "robustness/boundary/iou") == [(0, 0.72), (500, 0.66), (2000, 0.5)]


def test_a_run_without_a_key_is_refused(store) -> None:
    with pytest.raises(ValueError, match="a model with a key"):
        log_dose_curves(frame(ce=CE), "iou", beside=store.new_run(), bounds=(0.2, 0.65))


def test_a_frame_without_the_score_is_refused(store) -> None:
    with pytest.raises(KeyError, match="iou"):
        log(store, frame(gce=GCE).drop(columns="iou"))


def test_the_view_has_the_score_over_the_dose_in_front(store) -> None:
    model = new_model(store)
    model.log_scores({"test/iou": 0.6, "test/f1": 0.7, "noise/dose": 2, "noise/reached": 2.01}, step=0)
    model.drain(limit=120)
    send(store, frame(gce=GCE, ce=CE))
    assert save_chart_view(store.client, store.experiment_id, scores=("iou", "f1"))
    tags = store.client.get_experiment(store.experiment_id).tags
    state, alone = (decode(tags[f"mlflow.sharedViewState.irrbench{end}"]) for end in ("", "-doses"))
    boundary, flip, each, *others = state["compareRunCharts"]
    assert [chart["metricKey"] for chart in (boundary, flip)] == ["robustness/boundary/iou", "robustness/flip/iou"]
    assert {(chart["xAxisKey"], chart["selectedXAxisMetricKey"]) for chart in (boundary, flip)} == {
        ("metric", "robustness/dose")
    }
    assert (each["type"], each["xaxis"]["key"], each["yaxis"]["key"]) == ("SCATTER", "noise/dose", "test/iou")
    assert [chart["metricKey"] for chart in others if not chart["deleted"]] == ["test/iou", "test/f1"]
    hidden = {chart["metricKey"] for chart in others if chart["deleted"]}
    assert hidden == {"robustness/dose", "noise/dose", "noise/reached"}
    assert [section["name"] for section in state["compareRunSections"]] == [
        "iou over the dose of noise",
        "iou between floor and ceiling",
        "test",
    ]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`robustness/boundary/iou`", False)
    assert "SCATTER" not in {chart["type"] for chart in alone["compareRunCharts"]}
    assert [section["display"] for section in alone["compareRunSections"]] == [True, False, False]
    shown = store.client.search_runs(
        [store.experiment_id], alone["searchFilter"], order_by=["metrics.`robustness/boundary/iou` DESC"]
    )
    assert [run.info.run_name for run in shown] == [
        CEILING,
        "gce over dose",
        "ce over dose",
        FLOOR,
    ]
    note = tags["mlflow.note.content"].splitlines()
    assert note[1].startswith("- [Charts: score over the dose of label noise](#/experiments/")
