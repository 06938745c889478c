"""Runs that MLflow's own functions have begun, without a logger."""

from __future__ import annotations

import mlflow
import pytest

from irrbench.callbacks import RaterBoundsMonitor

from .toys import Module, loader, trainer

pytestmark = pytest.mark.filterwarnings("ignore")  # of autologging, about versions, types and Lightning


@pytest.fixture
def client(tmp_path, monkeypatch, uri):
    monkeypatch.setenv("IRRBENCH_SPOOL", str(tmp_path / "spool"))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("toys", artifact_location=(tmp_path / "artifacts").as_uri())
    mlflow.set_experiment("toys")
    yield mlflow.MlflowClient(uri)
    mlflow.pytorch.autolog(disable=True)
    mlflow.set_tracking_uri(before)


def fit(tmp_path, **options):
    watcher, module = RaterBoundsMonitor(image_id="id", data_name="toys", **options), Module()
    run = trainer(watcher, tmp_path, max_epochs=2, logger=False)
    run.fit(module, loader(), loader())
    run.test(module, loader(seed=3), verbose=False)
    return watcher


def runs_of(client):
    found = client.search_runs([client.get_experiment_by_name("toys").experiment_id])
    return {run.data.tags.get("irrbench.role", "none"): run for run in found}


def steps(client, run, key):
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))


@pytest.mark.parametrize("how", ["autolog", "start_run"])
def test_a_run_that_mlflow_has_begun_stands_between_its_bounds(tmp_path, client, how) -> None:
    if how == "autolog":
        mlflow.pytorch.autolog(log_models=False)
        watcher = fit(tmp_path)
    else:
        with mlflow.start_run():
            watcher = fit(tmp_path)
    found = runs_of(client)
    assert found.keys() == {"model", "ceiling", "floor"}
    wanted = [(row["epoch"], row["val/iou"]) for row in watcher.history if "val/iou" in row]
    assert steps(client, found["model"], "val/iou") == wanted
    assert steps(client, found["model"], "test/iou") == [(0, watcher.history[-1]["test/iou"])]
    for role in ("ceiling", "floor"):
        assert found[role].data.metrics["val/iou"] == pytest.approx(watcher.history[0][f"val/iou_{role}"])
        assert {item.dataset.name for item in found[role].inputs.dataset_inputs} == {"toys"}
    assert found["model"].info.status == "FINISHED"


def test_without_a_run_nothing_is_made(tmp_path, client) -> None:
    fit(tmp_path)
    assert runs_of(client) == {}


def test_the_next_model_does_not_write_into_the_run_of_the_last(tmp_path, client) -> None:
    with mlflow.start_run():
        watcher = fit(tmp_path)
    before = runs_of(client)["model"].data.metrics
    run = trainer(watcher, tmp_path, max_epochs=1, logger=False)
    run.fit(Module(), loader(), loader())
    assert runs_of(client)["model"].data.metrics == before
