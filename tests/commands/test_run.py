"""Whole benchmarks on a small study: real trainings, a real sqlite store."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from irrbench import VotePatterns, segmentation_bounds
from irrbench._files import read_frame
from irrbench.commands import ConfigError, load_config
from irrbench.data import DataError, load_folder
from irrbench.tracking import open_store
from irrbench.training.fit import run_cell
from irrbench.training.grid import check_bounds
from irrbench.training.results import load_cell
from tests.training.conftest import run_recorded, small_config
from tests.training.study import ids, save, write_predictions, write_study

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:sqlalchemy")
NAMES = ["fpn-resnet18 majority", "fpn-resnet18 random"]
BOUNDS_RUNS = {  # and what their rows are called in tables
    "average rater · study · ties average": "average rater (ceiling)",
    "naive rater · study · ties average": "naive rater (floor)",
}


def cells(output: Path) -> dict[str, Path]:
    return {json.loads((f / "done.json").read_text())["name"]: f for f in (output / "cells").iterdir()}


def runs(uri: str, config) -> list:
    client, experiment_id = open_store(uri, config.experiment or "irrbench: study")
    return client.search_runs([experiment_id])


def test_a_grid_ends_well_and_leaves_its_files(grid):
    assert grid.code == 0
    found = {path.name for path in grid.output.iterdir()}
    tables = {"leaderboard", "per_image", "comparisons", "verdicts", "failures", "alternative", "separation"}
    tables = {*(f"{name}.csv" for name in tables)}
    assert found == {"cells", "config.yaml", "figures", "report.html", "results.json", *tables}
    board = pd.read_csv(grid.output / "leaderboard.csv")
    above, below = ["upper", "majority", "ceiling", "ceiling_of_two"], ["blank", "floor"]
    assert board["role"].tolist() == [*above, "model", "model", *below]
    assert sorted(board["name"][4:6]) == NAMES
    assert board["n_images"].tolist() == [5] * 8
    assert load_config(grid.output / "config.yaml") == grid.config
    figures = {path.name for path in (grid.output / "figures").iterdir()}
    assert {f"{name}{ending}" for name in ("band", "agreement") for ending in (".png", ".svg", ".pdf")} <= figures


def test_the_terminal_shows_bounds_models_files_and_the_link(grid):
    for text in ("average rater", "naive rater", "fpn-resnet18", "report.html", "irrbench ui", "[2/2]"):
        assert text in grid.text


def test_scores_are_those_of_the_stored_predictions(grid, study):
    table = pd.read_csv(grid.output / "per_image.csv", converters={"image_id": str})
    data = load_folder(study).split("test")
    for name, folder in cells(grid.output).items():
        result = load_cell(name, folder)
        for i, image_id in enumerate(data.image_ids):
            mask = torch.from_numpy(result.prediction(image_id))[None]
            patterns = VotePatterns.from_masks(torch.from_numpy(data.masks(i))[None], preds=mask)
            bounds = segmentation_bounds(patterns)
            for row, part in ((name, bounds.model), ("average rater (ceiling)", bounds.ceiling)):
                found = table[(table["name"] == row) & (table["image_id"] == image_id)].iloc[0]
                expected = [float(part[score]) for score in grid.config.scores]
                assert found[grid.config.scores].tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_every_model_and_both_bounds_are_runs_with_the_same_keys(grid):
    found = {run.info.run_name: run for run in runs(grid.config.tracking_uri, grid.config)}
    assert set(found) == {*NAMES, *BOUNDS_RUNS}
    for run in found.values():
        assert {"test/iou", "val/iou"} <= set(run.data.metrics)
        assert all("/" in key for key in run.data.metrics)
        assert run.info.status == "FINISHED"
    assert len({found[name].data.tags["mlflow.runColor"] for name in NAMES}) == 2
    client, _ = open_store(grid.config.tracking_uri, "irrbench: study")
    run_id = found[NAMES[0]].info.run_id
    assert [m.step for m in client.get_metric_history(run_id, "train/loss")] == [0, 1]
    assert {a.path for a in client.list_artifacts(run_id, "benchmark")} >= {"benchmark/report.html"}


def test_the_best_epoch_is_tested(grid):
    for name, folder in cells(grid.output).items():
        result = load_cell(name, folder)
        assert result.facts["best_epoch"] == int(result.curve["iou"].to_numpy().argmax())
        assert result.curve["epoch"].tolist() == [0, 1]


def test_the_report_is_one_file_with_pictures(grid):
    page = (grid.output / "report.html").read_text()
    assert page.count("data:image/png") >= 3
    assert "http" not in page.partition("<svg")[0].replace("http-equiv", "")
    assert "Krippendorff" in page


@pytest.mark.slow
def test_finished_cells_are_skipped_and_give_the_same(grid, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(grid.output, output)
    before = {path: path.stat().st_mtime_ns for path in (output / "cells").rglob("*")}
    again = run_recorded(replace(grid.config, output=str(output)))
    assert again.code == 0
    assert again.text.count("finished before") == 2
    assert {path: path.stat().st_mtime_ns for path in (output / "cells").rglob("*")} == before
    for name in ("leaderboard.csv", "per_image.csv", "comparisons.csv"):
        assert (output / name).read_bytes() == (grid.output / name).read_bytes()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_leaves_the_callers_generator(grid, study, store, tmp_path):
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    config = small_config(study, tmp_path / "out", store, labels=["random"])
    assert run_recorded(config).code == 0
    assert torch.equal(torch.rand(3), expected)
    one, two = (cells(output)[NAMES[1]] for output in (grid.output, tmp_path / "out"))
    pd.testing.assert_frame_equal(read_frame(one / "per_image.csv"), read_frame(two / "per_image.csv"))
    assert one.name == two.name


@pytest.mark.slow
def test_another_configuration_leaves_finished_cells_alone(grid, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(grid.output, output)
    changes = {"output": str(output), "labels": ["soft"]}
    other = run_recorded(replace(grid.config, **changes))
    assert other.code == 0
    board = pd.read_csv(output / "leaderboard.csv")
    assert board.query("role == 'model'")["name"].tolist() == ["fpn-resnet18 soft"]
    assert sorted(cells(output)) == sorted([*NAMES, "fpn-resnet18 soft"])


@pytest.mark.slow
def test_a_failing_cell_is_reported_and_the_others_stand(study, store, tmp_path, monkeypatch):
    def breaks(cell, *args):
        if cell.config.label == "majority":
            raise RuntimeError("out of luck")
        run_cell(cell, *args)

    config = small_config(study, tmp_path / "out", store, **{"train.max_epochs": 1})
    monkeypatch.setattr("irrbench.training.grid.run_cell", breaks)
    result = run_recorded(config)
    assert result.code == 1
    assert "[1/2] fpn-resnet18 majority: failed: RuntimeError: out of luck" in result.text
    assert "Traceback" in result.text
    assert "Failed (1): fpn-resnet18 majority. The other results are complete." in result.text
    lost = "1 of 2 failed and are not shown: fpn-resnet18 majority."
    assert lost in " ".join(result.text.split())
    assert lost in (tmp_path / "out" / "report.html").read_text()
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert board.query("role == 'model'")["name"].tolist() == ["fpn-resnet18 random"]
    monkeypatch.undo()
    again = run_recorded(config)
    assert again.code == 0
    assert "fpn-resnet18 random: test iou" in again.text
    assert again.text.count("finished before") == 1
    assert len(cells(tmp_path / "out")) == 2


def test_all_cells_failing_leaves_no_leaderboard(study, store, tmp_path):
    config = small_config(study, tmp_path / "out", store, labels=["majority"], **{"train.lr": 1e20})
    result = run_recorded(config)
    assert result.code == 1
    assert "Lower train.lr" in result.text
    assert not (tmp_path / "out" / "leaderboard.csv").exists()
    assert runs(store, config)[0].info.status == "FAILED"


@pytest.mark.slow
def test_an_unfinished_cell_starts_again_and_replaces_its_run(study, store, tmp_path):
    config = small_config(study, tmp_path / "out", store, labels=["majority"], **{"train.max_epochs": 1})
    run_recorded(config)
    (folder,) = cells(tmp_path / "out").values()
    (folder / "done.json").unlink()
    (folder / "per_image.csv").write_text("half a fi")
    assert run_recorded(config).code == 0
    models = [run for run in runs(store, config) if run.data.tags["irrbench.role"] == "model"]
    assert len(models) == 1
    assert models[0].info.run_id == json.loads((folder / "done.json").read_text())["run_id"]


def test_cells_with_other_bounds_are_not_compared(grid):
    results = [load_cell(name, folder) for name, folder in sorted(cells(grid.output).items())]
    check_bounds(results)
    results[1] = results[1]._replace(facts={"bounds": {"test": "0123"}})
    with pytest.raises(ConfigError, match=r"found 2: fpn-resnet18 majority: \w+; fpn-resnet18 random: 0123"):
        check_bounds(results)


def test_finished_predictions_on_the_test_split(study, store, tmp_path):
    folders = {
        "good": str(write_predictions(tmp_path / "good", [*ids("test"), *ids("val")])),
        "wide": str(write_predictions(tmp_path / "wide", ids("test"), wider=6)),
    }
    config = small_config(study, tmp_path / "out", store, predictions=folders)
    result = run_recorded(config)
    assert result.code == 0
    assert "on the 5 test images" in result.text
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert board.query("role == 'model'")["name"].tolist() == ["good", "wide"]
    assert board["n_images"].tolist() == [5] * 8
    found = {run.info.run_name: run for run in runs(store, config)}
    assert set(found) == {"good", "wide", *BOUNDS_RUNS}
    means = board.set_index("name")["iou"]
    for name, run in found.items():
        assert run.data.metrics["test/iou"] == pytest.approx(means[BOUNDS_RUNS.get(name, name)])
    client, _ = open_store(store, "irrbench: study")
    paths = {a.path for a in client.list_artifacts(found["good"].info.run_id, "per_image")}
    assert "per_image/test.json" in paths
    assert not (tmp_path / "out" / "cells").exists()


def test_predictions_share_the_bounds_with_trained_cells(grid, study, tmp_path):
    folder = write_predictions(tmp_path / "good", ids("test"))
    config = replace(grid.config, output=str(tmp_path / "out"), predictions={"finished": str(folder)})
    run_recorded(config)
    names = [run.info.run_name for run in runs(config.tracking_uri, config)]
    assert [names.count(name) for name in BOUNDS_RUNS] == [1, 1]
    one, two = (pd.read_csv(output / "leaderboard.csv") for output in (grid.output, tmp_path / "out"))
    for role in ("ceiling", "ceiling_of_two", "floor", "blank", "majority", "upper"):
        columns = ["name", "role", "n_images", "iou", "iou_low", "iou_high"]
        first, second = (board.loc[board["role"] == role, columns].iloc[0] for board in (one, two))
        pd.testing.assert_series_equal(first, second, check_names=False)


def test_all_images_are_scored_where_nobody_made_splits(store, tmp_path):
    root = write_study(tmp_path / "study", manifest=False)
    every = [i for split in ("train", "val", "test") for i in ids(split)]
    folder = write_predictions(tmp_path / "good", every)
    config = small_config(root, tmp_path / "out", store, predictions={"good": str(folder)})
    assert "on all 16 images (there is no column split)" in run_recorded(config).text
    assert pd.read_csv(tmp_path / "out" / "leaderboard.csv")["n_images"].tolist() == [16] * 7


@pytest.mark.parametrize("bad", ["missing", "unknown", "nan", "size"])
def test_unusable_predictions(study, store, tmp_path, bad):
    folder = write_predictions(tmp_path / "p", ids("test"))
    messages = {
        "missing": "p/test0: found no file; expected a prediction for each image",
        "unknown": "a prediction for an unknown image",
        "nan": "test0.npy: found NaN or infinite values",
        "size": "size 7 x 5; expected 32 x 40",
    }
    if bad == "unknown":
        save(folder / "stranger.png", np.zeros((32, 40), np.uint8))
    else:
        (folder / "test0.png").unlink()
    if bad == "nan":
        np.save(folder / "test0.npy", np.full((32, 40), np.nan))
    if bad == "size":
        save(folder / "test0.png", np.zeros((7, 5), np.uint8))
    config = small_config(study, tmp_path / "out", store, predictions={"p": str(folder)})
    with pytest.raises(DataError) as caught:
        run_recorded(config)
    assert messages[bad] in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": "unett"}, "There is no architecture 'unett' .* Did you mean .unet"),
        ({"labels": ["median"]}, r"label='median': expected one of majority"),
        ({"predictions": {"naive rater (floor)": "x"}}, "is the name of a bound"),
        ({"predictions": {"best blind guess (blind)": "x"}}, "is the name of a bound"),
        ({"tracking_uri": "nonsense://x"}, "tracking_uri: .*nonsense"),
    ],
)
def test_unusable_values(study, store, tmp_path, changes, message):
    config = small_config(study, tmp_path / "out", store, labels=["majority"])
    if changes.pop("models", None):
        config = replace(config, models=[replace(config.models[0], architecture="unett")])
    with pytest.raises(ConfigError, match=message):
        run_recorded(replace(config, **changes))


def test_a_single_rater(store, tmp_path):
    root = write_study(tmp_path / "study", raters=("anna",))
    with pytest.raises(DataError, match="rater"):
        run_recorded(small_config(root, tmp_path / "out", store))


def test_a_missing_folder(store, tmp_path):
    with pytest.raises(DataError, match="nowhere: found nothing; expected a data folder"):
        run_recorded(small_config(tmp_path / "nowhere", tmp_path / "out", store))


def test_an_output_that_is_a_file(study, store, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match=r"out cannot be written: it is no folder.*--output"):
        run_recorded(small_config(study, tmp_path / "out", store))


def test_the_stored_configuration_is_plain_yaml(grid):
    stored = yaml.safe_load((grid.output / "config.yaml").read_text())
    assert stored["train"]["max_epochs"] == 2
