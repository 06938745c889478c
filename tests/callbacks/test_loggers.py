"""Loggers of both namespaces, alone, together or none; and those that only seem to be one."""

import importlib
import logging

import mlflow
import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger

from irrbench.callbacks import RaterBoundsMonitor
from irrbench.evaluation.mlflow_sink import is_mlflow
from tests.callbacks.toys import Module, Steps, loader, trainer

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
        assert kind == "mlflow" or "val/iou_ceiling" in seen[id(x)][-1] or "val/iou_ceiling" in seen[id(x)][-2]


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
