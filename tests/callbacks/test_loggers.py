"""Loggers of both namespaces, alone, together or none; and those that only seem to be one."""

import importlib
import logging
from types import SimpleNamespace

import mlflow
import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger

from irrbench.callbacks import RaterBoundsMonitor
from irrbench.callbacks.trainers import find_sinks
from irrbench.evaluation.mlflow_sink import is_mlflow
from tests.callbacks.toys import Module, Steps, loader, trainer
from tests.evaluation.fake_wandb import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def monitor(**kwargs):
    return RaterBoundsMonitor("masks", roi="roi", image_id="id", image="image", print_link=False, **kwargs)


def make(kind, loggers, path, uri):
    if kind == "mlflow":
        return loggers.MLFlowLogger("x", tracking_uri=uri, artifact_location=(path / "artifacts").as_uri())
    if kind == "tensorboard":
        pytest.importorskip("tensorboard")
        return loggers.TensorBoardLogger(path)
    return loggers.CSVLogger(path)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("namespace", ["pytorch_lightning", pytest.param("lightning.pytorch", marks=SLOW)])
@pytest.mark.parametrize(
    "kinds",
    [
        [],
        ["csv"],
        ["tensorboard"],
        pytest.param(["mlflow"], marks=SLOW),
        ["csv", "mlflow"],
        pytest.param(["mlflow", "tensorboard"], marks=SLOW),
    ],
)
def test_every_logger_gets_the_scores(tmp_path, uri, namespace, kinds):
    lightning, loggers = importlib.import_module(namespace), importlib.import_module(f"{namespace}.loggers")
    made = [make(kind, loggers, tmp_path, uri) for kind in kinds]
    seen = {id(x): [] for x in made}
    for x in made:
        spy(x, seen[id(x)])
    watcher = monitor()
    run = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=watcher,
        logger=made,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    run.fit(type("Theirs", (Steps, lightning.LightningModule), {})(), loader(), loader())
    assert len(watcher.history) == 2
    assert run.callback_metrics["val/iou"].item() == pytest.approx(watcher.history[-1]["val/iou"], abs=1e-6)
    for kind, x in zip(kinds, made, strict=True):
        found = from_mlflow(x, uri) if kind == "mlflow" else [m["val/iou"] for m in seen[id(x)] if "val/iou" in m]
        assert found == pytest.approx([row["val/iou"] for row in watcher.history], abs=1e-6)
        if kind == "csv":
            assert "val/iou_ceiling" in seen[id(x)][-1]
        elif kind == "tensorboard":  # a line in the plot of the score, at its steps, and no plot of its own
            assert not any("val/iou_ceiling" in metrics for metrics in seen[id(x)])
            model, *bounds = (scalars(f"{x.log_dir}/{run}", "val/iou") for run in (".", "ceiling", "floor"))
            assert [step for step, _ in model] == [2, 5]
            for name, points in zip(("ceiling", "floor"), bounds, strict=True):
                expected = pytest.approx(watcher.history[-1][f"val/iou_{name}"], abs=1e-6)
                assert points == [(step, expected) for step, _ in model]


def scalars(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return [(x.step, x.value) for x in found.Scalars(tag)]


def spy(made, seen):
    log = made.log_metrics

    def log_metrics(metrics, step=None):
        seen.append(dict(metrics))
        log(metrics, step)

    made.log_metrics = log_metrics


def from_mlflow(made, uri):
    points = mlflow.MlflowClient(uri).get_metric_history(made.run_id, "val/iou")
    assert [p.step for p in points] == [0, 1]
    return [p.value for p in points]


def test_fast_dev_run_writes_nothing(tmp_path, uri, spool, caplog):
    watcher, store = monitor(), MLFlowLogger("x", tracking_uri=uri)
    with caplog.at_level(logging.WARNING, "irrbench"):
        trainer(watcher, tmp_path, fast_dev_run=True, logger=[store, CSVLogger(tmp_path)]).fit(
            Module(), loader(), loader()
        )
    assert len(watcher.history) == 1
    assert not [record for record in caplog.records if record.name.startswith("irrbench")]
    assert not spool.exists()
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("x")
    assert experiment is None or not client.search_runs([experiment.experiment_id])
    assert not list(tmp_path.rglob("metrics.csv"))


class Unreachable:
    """An MLflow logger whose store cannot be asked."""

    @property
    def run_id(self):
        raise ConnectionError("no server")


class TakesEverything:
    def __getattr__(self, _):
        return lambda *_, **__: None


class OfAnotherKind:
    experiment = object()


def test_loggers_are_known_by_what_they_have(uri, caplog):
    assert is_mlflow(MLFlowLogger("x", tracking_uri=uri))
    assert not is_mlflow(TakesEverything())
    assert not is_mlflow(OfAnotherKind())
    assert "irrbench" not in caplog.text
    assert not is_mlflow(Unreachable())
    assert "irrbench cannot use the logger Unreachable and leaves it out: ConnectionError('no server')" in caplog.text


def test_nothing_of_the_sanity_check_is_kept_or_logged(tmp_path):
    watcher, found = monitor(), []

    class Looks(pl.Callback):
        def on_sanity_check_end(self, trainer, _):
            found.append((dict(trainer.callback_metrics), watcher.tables, list(watcher.history)))

    trainer([watcher, Looks()], tmp_path, max_epochs=1, num_sanity_val_steps=2).fit(Module(), loader(), loader())
    assert found == [({}, {}, [])]
    assert watcher.history[0]["val/n_images"] == 10  # the two batches of the check are not counted twice


class Server(pl.loggers.logger.DummyLogger):
    """W&B's logger by what it has: a run that takes everything and writes it down."""

    def __init__(self):
        super().__init__()
        self.run, self.lines = Run(), []

    experiment = property(lambda self: self.run)

    def log_metrics(self, metrics, step=None):
        self.run.log({**metrics, "trainer/global_step": step})


def test_wandb_gets_the_scores_once_and_the_bounds_as_runs(tmp_path, bounds_runs):
    server, watcher = Server(), monitor(scores=["iou"], num_panels=1)
    run = trainer(watcher, tmp_path, logger=[server, TensorBoardLogger(tmp_path)])
    run.fit(Module(), loader(), loader())
    run.test(Module(), loader(seed=1), verbose=False)
    rows = [row for row in server.run.rows.values() if "val/iou" in row]
    assert [(row["epoch"], row["trainer/global_step"]) for row in rows] == [(0, 2), (1, 5)]
    assert rows[-1]["val/iou_ceiling"] == pytest.approx(watcher.history[1]["val/iou_ceiling"])
    assert server.run.defined["val/iou"] == {"step_metric": "epoch", "hidden": False}
    assert {"val/per_image", "val/pictures", "test/per_image", "test/iou"} <= server.run.summary.keys()
    lines = [
        sorted((row["epoch"], key) for row in x.rows.values() for key in row if "/" in key)
        for x in bounds_runs.values()
    ]
    assert lines == [[(0, "val/iou"), (1, "val/iou")]] * 2 + [[(0, "test/iou")]] * 2
    assert not server.run.finished


def test_without_reference_runs_bounds_are_metrics_like_others(tmp_path, bounds_runs):
    server, board = Server(), TensorBoardLogger(tmp_path)
    watcher = monitor(scores=["iou"], reference_runs=False, log_tables=False)
    trainer(watcher, tmp_path, logger=[server, board]).fit(Module(), loader(), loader())
    assert not bounds_runs
    assert not server.run.defined["val/iou_floor"]["hidden"]
    assert "val/per_image" not in server.run.summary
    assert len(scalars(board.log_dir, "val/iou_ceiling")) == 2


def test_two_monitors_write_into_the_same_folders(tmp_path):
    board = TensorBoardLogger(tmp_path)
    watchers = [monitor(scores=["iou"], name=name) for name in ("a", "b")]
    trainer(watchers, tmp_path, logger=board, max_epochs=1).fit(Module(), loader(), [loader(), loader(seed=1)])
    for name in ("a", "b"):
        for i in range(2):
            ceiling = scalars(f"{board.log_dir}/ceiling", f"val/{name}/{i}/iou")
            assert [step for step, _ in ceiling] == [2]
    assert len(list((tmp_path / "lightning_logs").rglob("ceiling/*"))) == 1


class NotItself:
    """A logger that cannot even say what it is."""

    @property
    def experiment(self):
        raise ConnectionError("no server")


def test_a_logger_that_cannot_be_asked_is_left_out(caplog):
    run = SimpleNamespace(loggers=[NotItself()], is_global_zero=True, fast_dev_run=False)
    options = {"data_name": "data", "reference_runs": True, "owner": None}
    assert find_sinks(run, active=lambda: None, tables=True, **options) == []
    assert "irrbench cannot use the logger NotItself and leaves it out: ConnectionError('no server')" in caplog.text
