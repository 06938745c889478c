"""How finished predictions are read: several models in one folder, a threshold for each, class numbers."""

from __future__ import annotations

import io
import re

import mlflow
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from irrbench.commands import ConfigError, check, load_config
from irrbench.commands.loading import load_one, parse_predictions, score_predictions
from irrbench.config import FinishedConfig, RulesConfig
from irrbench.data import load_folder
from irrbench.tracking import open_store
from irrbench.tracking.delivery import delivery_for
from irrbench.training.cell import Tracking
from tests.training.conftest import run_recorded, small_config
from tests.training.study import SIZE, disk, ids, write_predictions, write_study


def write_maps(folder, *, sure):
    """Probabilities that are ``sure`` within what the raters draw, and a third of that around it."""
    folder.mkdir(parents=True)
    for image_id in [*ids("val"), *ids("test")]:
        halo = disk(image_id, 6) * (sure / 3)
        np.save(folder / f"{image_id}.npy", np.where(disk(image_id), sure, halo).astype(np.float32))
    return folder


def test_each_model_gets_its_own_threshold(study, store, tmp_path):
    parent = tmp_path / "models"
    for name, sure in (("bold", 0.9), ("shy", 0.3)):
        write_maps(parent / name, sure=sure)
    (parent / "drawn").mkdir()
    for image_id in [*ids("val"), *ids("test")]:
        np.save(parent / "drawn" / f"{image_id}.npy", disk(image_id))
    folders = parse_predictions([str(parent)])
    assert folders == {name: str(parent / name) for name in ("bold", "drawn", "shy")}
    config = small_config(study, tmp_path / "out", store, predictions=folders, finished=FinishedConfig("auto"))
    result = run_recorded(config)
    assert result.code == 0
    assert "bold: threshold 0.5, the best on the validation images" in result.text
    assert "shy: threshold 0.29, the best" in result.text
    assert "drawn: masks, no threshold needed" in result.text
    client = mlflow.MlflowClient(store)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    chosen = {run.info.run_name: run.data.params["threshold"] for run in runs if run.info.run_name in folders}
    assert chosen == {"bold": "0.5", "drawn": "none: masks", "shy": "0.29"}
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("name")
    assert board.loc["bold", "iou"] == pytest.approx(board.loc["shy", "iou"])
    assert board.loc["bold", "iou"] == pytest.approx(board.loc["drawn", "iou"])
    assert board.loc["bold", "iou"] > 0.7
    report = (tmp_path / "out" / "report.html").read_text()
    assert "the best iou on the validation images (bold 0.5, drawn (masks), shy 0.29)" in report


def test_a_mirrored_model_is_a_caution_of_the_check_and_of_the_benchmark(study, store, tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    for image_id in ids("test"):
        np.save(folder / f"{image_id}.npy", disk(image_id)[:, ::-1])
    config = small_config(study, tmp_path / "out", store, predictions={"net": str(folder)})
    stream = io.StringIO()
    assert check(config, console=Console(file=stream, width=1000)) == 0
    for text in (stream.getvalue(), run_recorded(config).text):
        (line,) = re.findall(r"Caution: net agrees with nobody.*", " ".join(text.split()))
        assert "Are the masks mirrored left to right?" in line


def test_a_given_threshold_and_class_numbers_are_taken(study, store, tmp_path):
    data = load_folder(study)
    maps = write_maps(tmp_path / "shy", sure=0.3)
    config = small_config(study, tmp_path / "out", store, finished=FinishedConfig(0.05))
    wide = load_one(str(maps), config, data, split="test")
    np.testing.assert_array_equal(wide.prediction(0), disk("test0", 6))
    assert not load_one(str(maps), small_config(study, tmp_path, store), data, split="test").prediction(0).any()
    for image_id in ids("test"):
        np.save(tmp_path / "shy" / f"{image_id}.npy", disk(image_id) * 2 + np.eye(*SIZE, dtype=int) * ~disk(image_id))
    config = small_config(study, tmp_path / "out", store, finished=FinishedConfig(classes=[2]))
    np.testing.assert_array_equal(load_one(str(maps), config, data, split="test").prediction(4), disk("test4"))


def test_no_threshold_is_chosen_on_the_images_that_are_scored(store, tmp_path):
    root = write_study(tmp_path / "study", manifest=False)
    folders = {"bold": str(write_maps(tmp_path / "bold", sure=0.9))}
    config = small_config(root, tmp_path / "out", store, predictions=folders, finished=FinishedConfig("auto"))
    with pytest.raises(ConfigError, match=r"expected a manifest with a column split, found none"):
        run_recorded(config)


def test_the_threshold_is_that_of_the_validation_images_where_the_test_images_want_another(study, store, tmp_path):
    maps = write_maps(tmp_path / "net", sure=0.9)
    for image_id in ids("test"):
        np.save(maps / f"{image_id}.npy", np.load(maps / f"{image_id}.npy") / 3)
    config = small_config(study, tmp_path / "out", store, finished=FinishedConfig("auto"))
    assert load_one(str(maps), config, load_folder(study), split="test").threshold == 0.5


@pytest.mark.parametrize(("value", "expected"), [("auto", "auto"), ("0.3", 0.3), ("null", None)])
def test_the_threshold_is_a_flag(value, expected):
    assert load_config(None, ["--finished.threshold", value]).finished.threshold == expected


@pytest.mark.parametrize("value", ["1", "0", "-0.2", "automatic"])
def test_other_thresholds_are_refused(value):
    with pytest.raises(ConfigError, match="threshold"):
        load_config(None, ["--finished.threshold", value])


def test_the_same_predictions_write_their_run_again(study, store, tmp_path):
    data, maps = load_folder(study), write_maps(tmp_path / "bold", sure=0.9)

    def scored(name="bold", **rules):
        config = small_config(study, tmp_path / "out", store)
        options = {"scores": ("iou",), "rules": RulesConfig(**rules), "folder": str(maps), "spool": tmp_path / "spool"}
        tracking = Tracking(store, "finished", "#000000", "irrbench benchmark --data x")
        return score_predictions(name, load_one(str(maps), config, data, split="test"), tracking=tracking, **options)

    first = scored().run_id
    assert scored().run_id == first
    others = [scored(name="other").run_id, scored(ties="negative").run_id]
    np.save(maps / "test0.npy", np.zeros(SIZE, np.float32))
    others.append(scored().run_id)
    assert len({first, *others}) == 4
    client, experiment_id = open_store(store, "finished")
    runs = client.search_runs([experiment_id], "tags.`irrbench.role` = 'model'")
    assert {run.info.run_id for run in runs} == {first, *others}
    tags = client.get_run(first).data.tags
    assert tags["irrbench.predictions"] == str(maps)
    assert tags["irrbench.command"] == "irrbench benchmark --data x"


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt, "KILLED"), (RuntimeError, "FAILED")])
def test_a_scoring_that_is_interrupted_ends_its_run_and_the_next_one_has_it(
    study, store, tmp_path, monkeypatch, stop, status
):
    folder = write_predictions(tmp_path / "maps", ids("test"))
    config = small_config(study, tmp_path / "out", store, predictions={"maps": str(folder)})

    def end(*_, **__):
        raise stop

    def statuses():
        assert delivery_for(store, tmp_path / "out" / "irrbench-spool").drain(limit=60) == 0
        client = mlflow.MlflowClient(store)
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
        return [run.info.status for run in runs if run.info.run_name == "maps"]

    with monkeypatch.context() as patch:
        patch.setattr("irrbench.evaluation.Evaluator.update", end)
        with pytest.raises(stop):
            run_recorded(config)
    assert statuses() == [status]
    assert run_recorded(config).code == 0
    assert statuses() == ["FINISHED"]
