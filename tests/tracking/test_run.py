from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from mlflow.entities import ViewType
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from irrbench.plots import MODEL_COLOURS
from irrbench.tracking import Run, RunAddress, palette_beside
from irrbench.tracking.calls import perform
from irrbench.tracking.connection import Connection, History
from irrbench.tracking.records import Request

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # inside MLflow


@pytest.fixture
def run(store) -> Run:
    return store.new_run()


def stored(run: Run, store) -> Any:
    """Return the run as it is in the store, when everything has arrived."""
    assert run.drain() == 0
    return store.client.get_run(run.run_id)


def tags(run: Run, store) -> dict[str, str]:
    return stored(run, store).data.tags


def frame(*scores: float) -> pd.DataFrame:
    ids = [f"nodule{index}" for index in range(len(scores))]
    return pd.DataFrame({"name": "unet", "role": "model", "image_id": ids, "iou": scores, "f1": np.sqrt(scores)})


def test_scores_are_logged_at_their_step_and_undefined_ones_reported(run, store) -> None:
    skipped = run.log_scores({"val/iou": 0.5, "val/kappa": float("nan"), "val/f1": float("inf")}, step=7)
    assert skipped == ("val/kappa", "val/f1")
    assert set(stored(run, store).data.metrics) == {"val/iou"}
    (point,) = store.client.get_metric_history(run.run_id, "val/iou")
    assert (point.step, point.value) == (7, 0.5)


def test_a_creation_that_the_store_has_performed_twice_leaves_one_run(store, monkeypatch) -> None:
    """As when MLflow's client repeats what a dying server has done but not answered."""
    create = mlflow.MlflowClient.create_run

    def create_twice(*args, **kwargs):
        create(*args, **kwargs)
        return create(*args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", create_twice)
    run = Run.new(store.uri, "nodules")
    run.create(run_name="unet")
    run.log_scores({"val/iou": 0.5}, step=0)
    assert run.drain() == 0
    (left,) = store.client.search_runs([store.experiment_id])
    assert (left.info.run_id, left.data.metrics) == (run.run_id, {"val/iou": 0.5})
    deleted = store.client.search_runs([store.experiment_id], run_view_type=ViewType.DELETED_ONLY)
    assert [twin.data.metrics for twin in deleted] == [{}]


def test_the_same_predictions_scored_by_two_processes_at_once_are_one_run(store, tmp_path, read_together) -> None:
    """The second process looks for run, point and picture when the first has written them."""
    for name in ("search_runs", "get_run"):
        read_together(name, 2)
    read_together("list_artifacts", 2, LocalArtifactRepository)
    runs = [Run.new(store.uri, "nodules", key="k1", spool=tmp_path / f"spool{number}") for number in range(2)]
    for run in runs:
        run.create(run_name="unet")
        run.log_scores({"test/iou": 0.5}, step=0)
        run.log_panel("test/a", np.zeros((4, 4, 3), np.uint8), step=0)
        run.finish()
        time.sleep(0.002)  # equal points of one millisecond are one
    assert [run.drain(limit=60) for run in runs] == [0, 0]
    (found,) = store.client.search_runs([store.experiment_id], run_view_type=ViewType.ALL)
    assert found.info.status == "FINISHED"
    assert len(store.client.get_metric_history(found.info.run_id, "test/iou")) == 1
    assert len(store.client.list_artifacts(found.info.run_id, "images")) == 2  # the picture and its thumbnail


def test_a_point_that_another_process_has_written_since_is_not_written_again(store, tmp_path) -> None:
    first, second = (Run.new(store.uri, "nodules", key="k1", spool=tmp_path / name) for name in ("a", "b"))
    first.create()
    assert first.drain() == 0
    second.create()
    for run in (second, first, second):
        run.log_scores({"test/iou": 0.5, "test/f1": 0.6}, step=0)
        run.log_scores({"test/f1": 0.7}, step=1)
        assert run.drain() == 0
        time.sleep(0.002)
    counts = {key: len(store.client.get_metric_history(first.run_id, key)) for key in ("test/iou", "test/f1")}
    assert counts == {"test/iou": 1, "test/f1": 2}


class Writer:
    """One process that writes the run k1."""

    def __init__(self, uri: str) -> None:
        self.connection, self.address = Connection(uri), RunAddress("", "k1", "nodules")
        perform(self.connection, [Request("create", self.address, {"run_name": "unet"})])

    def write(self, step: int, *, after: int, **values: float) -> None:
        request = Request("metrics", self.address, {"values": values, "step": step}, created=after + step)
        perform(self.connection, [request])

    def points(self, key: str) -> list[tuple[int, float]]:
        run_id, _ = self.connection.known["k1"]
        return sorted((p.step, p.value) for p in self.connection.client.get_metric_history(run_id, key))


def test_steps_that_come_again_ask_for_a_history_once_and_what_another_process_writes_is_seen(store, monkeypatch):
    first, second, asked = Writer(store.uri), Writer(store.uri), []
    read = mlflow.MlflowClient.get_metric_history
    for step in range(6):
        first.write(step, after=100, iou=step / 10)
    monkeypatch.setattr(
        mlflow.MlflowClient, "get_metric_history", lambda *args: [asked.append(args[2]), read(*args)][1]
    )
    for step in range(2, 6):
        second.write(step, after=200, iou=0.9 if step == 3 else step / 10)
    assert asked == ["iou"]  # not by the first one, whose steps all came later
    for step in (6, 7):
        first.write(step, after=300, iou=step / 10)
        second.write(step, after=400, iou=step / 10)
    first.write(1, after=500, iou=0.1)
    assert len(asked) <= 4
    assert first.points("iou") == [
        (0, 0.0),
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
        (3, 0.9),
        (4, 0.4),
        (5, 0.5),
        (6, 0.6),
        (7, 0.7),
    ]


def test_a_point_that_did_not_arrive_is_written_by_the_next_attempt(store, monkeypatch) -> None:
    writer, batch, fails = Writer(store.uri), mlflow.MlflowClient.log_batch, [False, False, True, False]

    def log_batch(*args, **kwargs):
        if fails.pop(0):
            raise ConnectionError("gone")
        return batch(*args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", log_batch)
    writer.write(5, after=0, iou=0.5)
    writer.write(5, after=10, iou=0.6)
    with pytest.raises(ConnectionError):
        writer.write(5, after=20, iou=0.7)
    writer.write(5, after=30, iou=0.7)
    assert writer.points("iou") == [(5, 0.5), (5, 0.6), (5, 0.7)]


def test_values_that_a_database_cannot_hold_stand_once(store) -> None:
    values = {"nan": math.nan, "inf": math.inf, "negative": -math.inf, "whole": 2**60 + 1}
    for time_of in (0, 100):
        writer = Writer(store.uri)
        for step in (0, 1):
            writer.write(step, after=time_of, **values)
    assert [len(writer.points(key)) for key in values] == [2] * 4
    writer.write(1, after=200, nan=-math.inf, inf=math.nan)
    assert [len(writer.points(key)) for key in values] == [3, 3, 2, 2]


def test_few_histories_are_kept(store, monkeypatch) -> None:
    monkeypatch.setattr("irrbench.tracking.connection.MAX_POINTS", 5)
    writer = Writer(store.uri)
    for step in (0, 0, *range(1, 9)):
        writer.write(step, after=step, iou=0.5, f1=0.5)
        assert len(writer.connection.histories) <= 1
    writer.connection.keep_histories("another", {"iou": History(0, dict.fromkeys(range(6), 0.5))})
    assert writer.connection.histories == {}


def test_of_two_runs_created_at_once_on_a_server_the_older_stays_and_takes_everything(store, tmp_path, monkeypatch):
    """A server has no locks: both find no run, and the younger one is there, with a score, before the older one."""
    monkeypatch.setattr("irrbench.tracking.connection.local_place", lambda _: None)
    older, younger = (Run.new(store.uri, "nodules", key="k1", spool=tmp_path / name) for name in ("a", "b"))
    create, ids = mlflow.MlflowClient.create_run, []

    def create_run(*args, **kwargs):
        if not ids:
            ids.append("")
            time.sleep(0.002)
            younger.create(run_name="unet")
            younger.log_scores({"test/iou": 0.5}, step=0)
            assert younger.drain() == 0
            ids[0] = younger.run_id
        return create(*args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", create_run)
    older.create(run_name="unet")
    assert older.drain() == 0
    younger.log_scores({"test/f1": 0.6}, step=0)
    younger.finish()
    older.log_scores({"test/iou": 0.5}, step=0)
    assert (younger.drain(), older.drain()) == (0, 0)
    (left,) = store.client.search_runs([store.experiment_id])
    assert older.run_id == younger.run_id == left.info.run_id != ids[0]
    assert (left.info.status, left.data.metrics) == ("FINISHED", {"test/iou": 0.5, "test/f1": 0.6})
    (deleted,) = store.client.search_runs([store.experiment_id], run_view_type=ViewType.DELETED_ONLY)
    assert (deleted.info.run_id, deleted.info.status) == (ids[0], "KILLED")


def test_on_a_server_points_that_two_processes_write_at_once_stand_once(store, tmp_path, monkeypatch, read_together):
    """Both have looked before either writes: the points are equal, also in their time, and MLflow keeps one."""
    monkeypatch.setattr("irrbench.tracking.connection.local_place", lambda _: None)
    runs = [Run.new(store.uri, "nodules", key="k1", spool=tmp_path / f"spool{number}") for number in range(2)]
    for run in runs:
        run.create(run_name="unet", tags={"irrbench.predictions": "/data/unet"})
        assert run.drain() == 0
    read_together("get_run", 2)
    read_together("list_artifacts", 2, LocalArtifactRepository)
    for run in runs:
        run.log_scores({"test/iou": 0.5, "test/f1": 0.6}, step=0)
        run.log_panel("test/a", np.zeros((4, 4, 3), np.uint8), step=0)
        time.sleep(0.002)
    assert [run.drain(limit=60) for run in runs] == [0, 0]
    (found,) = store.client.search_runs([store.experiment_id])
    (point,) = store.client.get_metric_history(found.info.run_id, "test/iou")
    assert point.timestamp == found.info.start_time
    assert len(store.client.list_artifacts(found.info.run_id, "images")) == 2


def test_only_undefined_scores_send_nothing(tmp_path) -> None:
    run = Run("sqlite:////no/such/mlflow.db", RunAddress(run_id="none"), tmp_path / "spool")
    assert run.log_scores({"val/iou": float("nan")}, step=0) == ("val/iou",)
    assert not (tmp_path / "spool").exists()


def test_a_palette_beside_other_models_begins_with_free_colours(store) -> None:
    for name in ("unet", "fpn", "mine"):
        run = store.new_run(name)
        run.set_role("model")
    assert run.drain() == 0
    palette = palette_beside(store.client, store.experiment_id, ["mine"])
    assert palette == [*MODEL_COLOURS[2:], *MODEL_COLOURS[:2]]
    assert palette_beside(store.client, store.experiment_id, ["unet", "fpn", "mine"]) == list(MODEL_COLOURS)


def test_models_get_the_least_used_colour_and_keep_it(store) -> None:
    runs = [store.new_run() for _ in range(3)]
    for run in (*runs, runs[0]):
        run.set_role("model", bounds_id="val:1f")
    assert [tags(run, store)["mlflow.runColor"] for run in runs] == list(MODEL_COLOURS[:3])
    assert tags(runs[0], store)["irrbench.role"] == "model"
    assert tags(runs[0], store)["irrbench.bounds_id"] == "val:1f"


def test_a_palette_that_is_used_up_starts_again(store) -> None:
    assert len(set(MODEL_COLOURS)) == len(MODEL_COLOURS) >= 6
    for colour in MODEL_COLOURS:
        store.new_run().set_role("model", colour=colour)
    run = store.new_run()
    run.set_role("model")
    assert tags(run, store)["mlflow.runColor"] == MODEL_COLOURS[0]


def test_a_given_colour_wins(run, store) -> None:
    run.set_role("model", colour="#123456")
    run.set_role("ceiling")
    assert tags(run, store)["mlflow.runColor"] == "#123456"


def test_reference_roles_have_fixed_colours(store) -> None:
    for role, colour in (("ceiling", "#000000"), ("floor", "#888888")):
        run = store.new_run()
        run.set_role(role)
        assert tags(run, store)["mlflow.runColor"] == colour


def test_an_unknown_role_is_refused(run) -> None:
    with pytest.raises(ValueError, match="expected a role out of model, ceiling, floor, majority, upper, found 'roof'"):
        run.set_role("roof")


def test_bounds_of_splits_stand_beside_each_other(run, store) -> None:
    for split, digest in (("val", "1f"), ("test", "9c"), ("val", "2a")):
        run.join_bounds(split, digest)
    assert tags(run, store)["irrbench.bounds_id"] == "test:9c val:2a"
    assert tags(run, store)["irrbench.role"] == "model"


def test_per_image_table_is_replaced_not_appended(run, store) -> None:
    run.log_per_image("test", frame(0.1, 0.2, 0.3))
    run.log_per_image("test", frame(0.4, np.nan))
    announced = json.loads(tags(run, store)["mlflow.loggedArtifacts"])
    assert announced == [{"path": "per_image/test.json", "type": "table"}]
    table = store.read_table(run.run_id, "test")
    assert list(table.columns) == ["image", "iou", "f1"]
    assert list(table["image"]) == ["nodule0", "nodule1"]
    np.testing.assert_allclose(table["iou"].astype(float), [0.4, np.nan])
    parquet = pd.read_parquet(store.client.download_artifacts(run.run_id, "per_image/test.parquet"))
    assert list(parquet["iou"])[:1] == [0.4]


def test_each_loader_of_a_split_has_its_table(run, store) -> None:
    for loader, score in (("a", 0.1), ("b", 0.2)):
        run.log_per_image(f"val/{loader}", frame(score))
    assert run.drain() == 0
    assert [store.read_table(run.run_id, f"val/{loader}")["iou"].item() for loader in "ab"] == [0.1, 0.2]


def test_a_table_without_image_ids_is_refused(run) -> None:
    with pytest.raises(ValueError, match=r"column 'image'.*found \['iou'\]"):
        run.log_per_image("test", pd.DataFrame({"iou": [0.1]}))


def test_panels_are_kept_by_key_and_step(run, store) -> None:
    run.log_panel("val/nodule 1", np.full((5, 7, 3), 200, dtype=np.uint8), step=3)
    assert run.drain() == 0
    names = [file.path for file in store.client.list_artifacts(run.run_id, "images")]
    assert any("step+3" in name and name.endswith(".png") for name in names)


@pytest.mark.parametrize("picture", [np.zeros((5, 7, 3)), np.zeros((5, 7), dtype=np.uint8)])
def test_a_panel_that_is_no_picture_is_refused(run, picture) -> None:
    with pytest.raises(ValueError, match=r"uint8 picture of shape \(height, width, 3\), found"):
        run.log_panel("val/nodule1", picture, step=0)


def test_config_file_and_figure_are_artifacts(run, store, tmp_path) -> None:
    run.log_config({"model": {"encoder": "resnet18"}, "seed": 1})
    run.log_config({"seed": 1}, "options.json")
    (tmp_path / "report.html").write_text("<p>")
    run.log_file(tmp_path / "report.html", "report")
    run.log_figure(Figure(), "figures/band.png")
    assert run.drain() == 0
    config = store.client.download_artifacts(run.run_id, "config.yaml")
    assert yaml.safe_load(Path(config).read_text()) == {"model": {"encoder": "resnet18"}, "seed": 1}
    options = store.client.download_artifacts(run.run_id, "options.json")
    assert json.loads(Path(options).read_text()) == {"seed": 1}
    found = [file.path for folder in ("report", "figures") for file in store.client.list_artifacts(run.run_id, folder)]
    assert found == ["report/report.html", "figures/band.png"]
    figure = store.client.download_artifacts(run.run_id, "figures/band.png")
    assert Path(figure).read_bytes().startswith(b"\x89PNG")


def test_data_sets_are_listed_with_split_and_a_digest_that_fits(run, store) -> None:
    run.log_dataset(frame(0.1, 0.2), name="nodules", digest="a" * 64, split="val")
    run.log_dataset({"raters": 4, "images": "rendered"}, name="nodules", digest="b1", split="test")
    inputs = {item.tags[0].value: item.dataset for item in stored(run, store).inputs.dataset_inputs}
    assert json.loads(inputs["val"].profile)["num_rows"] == 2
    assert len(inputs["val"].digest) == 36
    assert inputs["test"].digest == "b1"
    assert json.loads(inputs["test"].source) == {"raters": 4, "images": "rendered"}


def test_a_data_set_that_another_process_makes_at_the_same_moment_is_listed(run, store, monkeypatch) -> None:
    log_inputs, refused = mlflow.MlflowClient.log_inputs, []

    def refuse_once(*args, **kwargs):
        if not refused:
            refused.append(args)
            raise mlflow.MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed", BAD_REQUEST)
        return log_inputs(*args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, "log_inputs", refuse_once)
    run.log_dataset("four raters", name="lidc", digest="b1", split="test")
    assert [item.dataset.digest for item in stored(run, store).inputs.dataset_inputs] == ["b1"]
    assert len(refused) == 1


def test_a_run_that_is_cut_off_while_it_is_created_can_be_recognised(store, monkeypatch) -> None:
    def cut_off(*_):
        raise ConnectionError("killed")

    given = {"mlflow.user": "ada", "irrbench.role": "reliability", "who?": "me", "long": "x" * 9000}
    monkeypatch.setattr("irrbench.tracking.calls.log_tags", cut_off)
    run = Run.new(store.uri, "nodules", key="k1")
    run.create(run_name="raters", tags=given)
    assert run.drain() == 1
    (found,) = store.client.search_runs([store.experiment_id], "tags.`irrbench.run_key` = 'k1'")
    assert {"mlflow.user": "ada", "irrbench.role": "reliability"}.items() <= found.data.tags.items()
    assert (found.info.user_id, found.info.run_name, len(found.data.tags["long"])) == ("ada", "raters", 8000)
    monkeypatch.undo()
    while run.drain(limit=60):
        pass
    assert tags(run, store)["who_"] == "me"
    assert len(store.client.search_runs([store.experiment_id])) == 1


def test_a_name_among_the_tags_is_the_runs_name(store) -> None:
    run = Run.new(store.uri, "nodules")
    run.create(run_name="unet", tags={"mlflow.runName": "my unet"})
    assert stored(run, store).info.run_name == "my unet"


def test_finish_sets_the_status(run, store) -> None:
    run.finish("FAILED")
    assert stored(run, store).info.status == "FAILED"
