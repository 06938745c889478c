"""The trainer's own results, steps of every logger, the terminal, pictures, and results out of spawned processes."""

import csv
import importlib
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger
from torch import nn

from irrbench.callbacks import RaterBoundsMonitor, SpoolingMLFlowLogger
from tests.callbacks.toys import Module, N, Steps, loader, trainer

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*Consider setting `persistent_workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
LINE = r"{} iou 0\.\d\d (?:below|between|above) 0\.\d\d \(naive\) and 0\.\d\d \(average rater\): -?\d+ %"


def monitor(**kwargs):
    return RaterBoundsMonitor(roi="roi", image_id="id", print_link=False, **{"scores": ("iou",)} | kwargs)


def mlflow_logger(kind, uri, path):
    return kind("toys", tracking_uri=uri, artifact_location=(path / "artifacts").as_uri())


def points(uri, made, key):
    if isinstance(made, SpoolingMLFlowLogger):
        made.experiment.drain()
    history = mlflow.MlflowClient(uri).get_metric_history(made.run_id, key)
    return [(p.step, pytest.approx(p.value, abs=1e-6)) for p in history]


@pytest.mark.parametrize("kind", [MLFlowLogger, SpoolingMLFlowLogger])
@pytest.mark.parametrize("more", [[], [CSVLogger]])
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_validate_and_test_return_and_print_the_scores_with_mlflow(tmp_path, uri, capsys, kind, more, stage):
    made = mlflow_logger(kind, uri, tmp_path)
    watcher = monitor()
    run = trainer(watcher, tmp_path, logger=[made, *(x(tmp_path) for x in more)])
    results = getattr(run, stage)(Module(), loader())
    prefix = {"validate": "val", "test": "test"}[stage]
    expected = {key: value for key, value in watcher.history[0].items() if key != "epoch"}
    assert results == [pytest.approx(expected, abs=1e-6)]
    printed = capsys.readouterr().out
    assert f"{prefix}/iou_ceiling" in printed
    assert len(re.findall(LINE.format(prefix), printed)) == 1
    assert points(uri, made, f"{prefix}/iou") == [(0, expected[f"{prefix}/iou"])]
    if not more:
        assert "epoch" not in mlflow.MlflowClient(uri).get_run(made.run_id).data.metrics  # nothing of Lightning's own
    assert "log_metrics" not in vars(made)


@pytest.mark.parametrize("loggers", [False, [CSVLogger]])
def test_results_of_several_loaders(tmp_path, loggers):
    watcher = monitor()
    run = trainer(watcher, tmp_path, logger=[x(tmp_path) for x in loggers or []])
    results = run.test(Module(), {"a": loader(), "b": loader(seed=5)}, verbose=False)
    expected = {k: v for row in watcher.history for k, v in row.items() if k != "epoch"}
    assert len(results) == 2
    for found in results:
        assert found == pytest.approx(expected, abs=1e-6)


class TwoOptimizers(Module):
    """Several steps of two optimizers a batch: Lightning counts each, and its own step of loggers the batches."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), 1e-3), torch.optim.SGD(self.parameters(), 1e-3)]

    def training_step(self, batch, _):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, _))
            optimizer.step()

    def validation_step(self, batch, index, dataloader_idx=0):
        super().validation_step(batch, index)
        self.log("val/own", 1.0, batch_size=1)


def steps_in_csv(path, key):
    rows = list(csv.DictReader(next(Path(path).rglob("metrics.csv")).open()))
    return [int(row["step"]) for row in rows if row.get(key)]


@pytest.mark.parametrize("kind", [MLFlowLogger, SpoolingMLFlowLogger])
@pytest.mark.parametrize("order", [1, -1])
def test_other_loggers_have_the_steps_of_any_metric_and_mlflow_has_epochs(tmp_path, uri, kind, order):
    made, table, board = mlflow_logger(kind, uri, tmp_path), CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path)
    watcher = monitor()
    run = trainer(watcher, tmp_path, logger=[made, table, board][::order], max_epochs=3)
    run.fit(TwoOptimizers(), loader(16), loader())
    assert run.global_step == 24
    assert steps_in_csv(tmp_path / "csv", "val/iou") == steps_in_csv(tmp_path / "csv", "val/own") == [3, 7, 11]
    assert scalars(board, "val/iou") == scalars(board, "val/own") == [3, 7, 11]
    assert points(uri, made, "val/iou") == [(row["epoch"], row["val/iou"]) for row in watcher.history]
    assert [step for step, _ in points(uri, made, "val/own")] == [3, 7, 11]


def scalars(board, key):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(board.log_dir)
    events.Reload()
    return [event.step for event in events.Scalars(key)]


def test_what_a_script_sends_to_mlflow_itself_still_arrives(tmp_path, uri):
    made = MLFlowLogger("toys", tracking_uri=uri, artifact_location=(tmp_path / "artifacts").as_uri())

    class Sends(pl.Callback):
        def on_train_epoch_end(self, trainer, _):
            made.log_metrics({"mine": 1.0, "epoch": 5.0}, step=7)

    trainer([monitor(), Sends()], tmp_path, logger=made, max_epochs=1).fit(Module(), loader(), loader())
    assert points(uri, made, "mine") == [(7, 1.0)]
    Sends.on_train_epoch_end = lambda *_: made.log_metrics({"val/iou": 0.1}, step=7)
    with pytest.raises(
        ValueError, match=r"`val/iou` is logged by .*\(test_results\.py:\d+\) and by RaterBoundsMonitor"
    ):
        trainer([monitor(), Sends()], tmp_path, logger=made, max_epochs=1).fit(Module(), loader(), loader())


# The terminal ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bar", [None, TQDMProgressBar, RichProgressBar])
def test_a_line_a_stage_stands_alone_on_the_terminal(tmp_path, capfd, bar):
    def fit(**kwargs):
        callbacks = [monitor(stages=("train", "validate"), **kwargs), *([bar()] if bar else [])]
        pl.Trainer(
            callbacks=callbacks,
            default_root_dir=tmp_path,
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=bar is not None,
            accelerator="cpu",
        ).fit(Module(), loader(), loader())
        said = capfd.readouterr()
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.out + said.err)

    lines = [line.strip() for part in fit().split("\n") for line in part.split("\r")]
    found = [line for line in lines if "average rater" in line]
    assert len(found) == 4
    assert all(re.fullmatch(LINE.format("(val|train)"), line) for line in found)
    assert "average rater" not in fit(verbose=False)


# Pictures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
def test_tensorboard_shows_pictures(tmp_path, namespace, caplog):
    lightning, loggers = importlib.import_module(namespace), importlib.import_module(f"{namespace}.loggers")
    board = loggers.TensorBoardLogger(tmp_path)
    run = lightning.Trainer(
        callbacks=monitor(image="image", num_panels=2, name="lesion"),
        logger=board,
        max_epochs=3,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        accelerator="cpu",
    )
    run.fit(type("Theirs", (Steps, lightning.LightningModule), {})(), loader(), loader())
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(board.log_dir)
    events.Reload()
    assert events.Tags()["images"] == ["val_pictures/lesion/worst", "val_pictures/lesion/disputed"]
    images = events.Images("val_pictures/lesion/worst")
    assert [image.step for image in images] == [3, 9]
    assert images[0].width > 8
    assert "image=" not in caplog.text


class Pictured(CSVLogger):
    """Has the method of W&B's logger."""

    def __init__(self, path):
        super().__init__(path)
        self.pictures = []

    def log_image(self, key, images, step=None, **_):
        self.pictures.append((key, step, images[0]))


def test_a_logger_with_log_image_shows_pictures(tmp_path, caplog):
    made = Pictured(tmp_path)
    run = trainer(monitor(image="image", num_panels=1), tmp_path, logger=made)
    run.fit(Module(), loader(), loader())
    run.test(Module(), loader(), verbose=False)
    assert [(key, step) for key, step, _ in made.pictures] == [
        ("val/worst", 3),
        ("val/worst", 6),
        ("test/worst", 6),
    ]
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for _, _, picture in made.pictures)
    assert "irrbench" not in caplog.text


class Broken(Pictured):
    def log_image(self, *_, **__):
        raise OSError("no space")


def test_a_logger_that_cannot_take_pictures_costs_one_warning(tmp_path, caplog):
    trainer(monitor(image="image"), tmp_path, logger=Broken(tmp_path)).fit(Module(), loader(), loader())
    assert caplog.text.count("irrbench cannot log to a logger of pictures; everything else goes on") == 1


@pytest.mark.parametrize(
    ("options", "loggers", "said"),
    [
        ({"image": "image"}, [CSVLogger], "`image=` shows nothing: .*TensorBoard and W&B; found CSVLogger"),
        ({"image": "image"}, [], "`image=` shows nothing: .*found no logger"),
        (
            {"reliability": True},
            [CSVLogger],
            "`reliability=` logs nothing: .*TensorBoard, found CSVLogger. They are in `tables`",
        ),
        ({"reliability": True}, [TensorBoardLogger], None),
        ({"reliability": True}, [], None),
        ({}, [CSVLogger], None),
    ],
)
def test_what_shows_nowhere_is_said_once(tmp_path, caplog, options, loggers, said):
    watcher = monitor(**options)
    run = trainer(watcher, tmp_path, logger=[x(tmp_path) for x in loggers])
    run.fit(Module(), loader(), loader())
    run.test(Module(), loader(), verbose=False)
    assert len(re.findall(said, caplog.text)) == 1 if said else "irrbench" not in caplog.text
    if "reliability" in options:
        assert "icc_pixel" in watcher.tables["val"]


# Nothing else moves ---------------------------------------------------------------------------------------------------


class Sampling(Module):
    """Dropout, batch statistics, and a forward that draws from every generator, in evaluation too."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Conv2d(4, 1, 1))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        import random

        self.calls = self.calls + 1  # another tensor at each call
        noise = torch.randn_like(x) + float(np.random.rand()) + random.random()  # noqa: NPY002
        return self.net(x + 0.1 * noise)

    def validation_step(self, batch, _, dataloader_idx=0):
        self.log("val/loss", self.loss(self(batch["image"]), batch), batch_size=1)


def left_in_another_mode(module, batch, _):
    module.eval()
    module.net[2].train()
    return module(batch["image"])


@pytest.mark.parametrize("stages", [("validate",), ("train", "validate")])
@pytest.mark.parametrize(
    "predictions",
    ["again", lambda module, batch, _: module(batch["image"]), left_in_another_mode],
    ids=["again", "function", "leaves another mode"],
)
def test_a_predictions_function_moves_no_random_number_no_buffer_and_no_mode(tmp_path, stages, predictions):
    from irrbench.callbacks import ForwardAgain

    predictions = ForwardAgain("image") if predictions == "again" else predictions

    def fit(callbacks):
        pl.seed_everything(0, verbose=False)
        module = Sampling()
        trainer(callbacks, tmp_path, max_epochs=3).fit(module, loader(shuffle=True), loader())
        return module

    alone, watcher = fit([]), monitor(predictions=predictions, stages=stages)
    watched = fit([watcher])
    assert len(watcher.history) == 3 * len(stages)
    for (name, value), other in zip(alone.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert [part.training for part in alone.modules()] == [part.training for part in watched.modules()]


# Processes that Lightning starts --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_results_come_back_from_spawned_processes(tmp_path, strategy):
    script = [sys.executable, "-W", "ignore", "-m", "tests.callbacks.spawned", strategy, str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "parent.json").read_text())
    assert [row["epoch"] for row in found["history"]] == [0, 1, 0]
    assert found["history"][1]["val/iou"] == pytest.approx(found["metrics"]["val/iou"], abs=1e-6)
    assert found["history"][2]["test/iou"] == pytest.approx(found["results"][0]["test/iou"], abs=1e-6)
    assert found["images"] == {"val": N, "test": 7}
    assert found["stopped"][0] == 1
    assert found["stopped"][1].startswith("val/iou: model - average rater")
    assert not list(tmp_path.glob("irrbench-*"))


class Fails(Module):
    """Ends badly after the monitor has the results of a stage."""

    def on_test_epoch_end(self):
        raise RuntimeError("somebody's bug")

    def on_validation_end(self):
        if self.trainer.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stage", ["test", "fit"])
def test_what_a_stage_has_found_is_written_though_the_trainer_fails(tmp_path, uri, stage):
    made = MLFlowLogger("toys", tracking_uri=uri, artifact_location=(tmp_path / "artifacts").as_uri())
    watcher = monitor()
    run = trainer(watcher, tmp_path, logger=made)
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        run.test(Fails(), loader()) if stage == "test" else run.fit(Fails(), loader(), loader())
    split = {"test": "test", "fit": "val"}[stage]
    assert len(watcher.tables[split]) == N
    client = mlflow.MlflowClient(uri)
    assert f"per_image/{split}.json" in [x.path for x in client.list_artifacts(made.run_id, "per_image")]


def test_results_that_another_user_left_are_not_loaded(tmp_path, monkeypatch):
    class Command:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = monitor()
    place = mine._file.path
    for content in (b"", pickle.dumps(Command()), bytes(32) + pickle.dumps(Command())):
        place.write_bytes(content)
        assert mine.history == []
        assert not list(tmp_path.iterdir())
    os.mkfifo(place)
    assert mine.history == []
    place.unlink()
    mine._file.write({"history": [{"epoch": 0.0}]})
    assert place.stat().st_mode & 0o777 == 0o600
    assert mine.history == [{"epoch": 0.0}]
    assert not list(tmp_path.iterdir())
