"""The logger with a spool, beside Lightning's own."""

from __future__ import annotations

import shutil
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import mlflow
import pytest
import torch
from pytorch_lightning.loggers import MLFlowLogger

from irrbench.callbacks import SpoolingMLFlowLogger
from irrbench.tracking import open_store
from tests.callbacks.outages import Logging
from tests.callbacks.toys import Toy, loader, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PARAMS = {"lr": 0.1, "net": {"width": 4, "layers": [1, 2]}, "none": None}


@pytest.fixture(scope="module")
def empty(tmp_path_factory, empty_database):
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    shutil.copy(empty_database, path)
    open_store(f"sqlite:///{path}", "toys")
    return path


@pytest.fixture
def uri(empty, tmp_path):
    shutil.copy(empty, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def runs(uri):
    client = mlflow.MlflowClient(uri)
    return client, {
        run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("toys").experiment_id])
    }


def test_it_logs_what_lightnings_own_logs(tmp_path, uri) -> None:
    for kind in (MLFlowLogger, SpoolingMLFlowLogger):
        logger = kind("toys", run_name=kind.__name__, tracking_uri=uri, tags={"who": "me"}, prefix="p")
        torch.manual_seed(0)
        logger.log_hyperparams(PARAMS)
        logger.log_hyperparams(Namespace(seed=1))
        trainer([], tmp_path, logger=logger).fit(Logging(), loader(), loader())
    client, found = runs(uri)
    theirs, ours = found["MLFlowLogger"], found["SpoolingMLFlowLogger"]
    assert theirs.data.metrics.keys() == ours.data.metrics.keys() == {"p-train/loss", "p-epoch"}
    for key in theirs.data.metrics:
        points = [[(p.step, p.value) for p in client.get_metric_history(r.info.run_id, key)] for r in (theirs, ours)]
        assert points[0] == points[1]
    assert ours.data.params == theirs.data.params
    assert ours.info.status == theirs.info.status == "FINISHED"
    own = {"mlflow.runName", "irrbench.run_key", "irrbench.command", "irrbench.process", "mlflow.source.git.commit"}
    assert {k: v for k, v in ours.data.tags.items() if k not in own} == {
        k: v for k, v in theirs.data.tags.items() if k not in own
    }


@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
def test_trainers_of_both_namespaces_take_it(tmp_path, uri, namespace) -> None:
    pytest.importorskip(namespace)
    pl = import_module(namespace)

    class Plain(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Conv2d(1, 1, 1)

        def training_step(self, batch, _):
            loss = self.net(batch["image"]).square().mean()
            self.log("train/loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    logger = SpoolingMLFlowLogger("toys", "fit", uri, save_dir=tmp_path)
    assert isinstance(logger, pl.loggers.Logger)
    options = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 1}
    run = pl.Trainer(logger=[logger], log_every_n_steps=1, **options)
    run.fit(Plain(), torch.utils.data.DataLoader(Toy(), batch_size=4))
    assert run.checkpoint_callback.best_model_path.startswith(str(tmp_path / "toys" / logger.version))
    client, found = runs(uri)
    assert len(client.get_metric_history(found["fit"].info.run_id, "train/loss")) == 3
    assert logger.run_id == found["fit"].info.run_id
    assert logger.experiment_id == found["fit"].info.experiment_id


class _Broken(Logging):
    def training_step(self, batch, index):
        raise RuntimeError("broken")


def test_a_training_that_fails_is_a_failed_run(tmp_path, uri) -> None:
    logger = SpoolingMLFlowLogger("toys", "fit", uri)
    logger.log_hyperparams(PARAMS)
    with pytest.raises(RuntimeError, match="broken"):
        trainer([], tmp_path, logger=logger).fit(_Broken(), loader(), loader())
    assert runs(uri)[1]["fit"].info.status == "FAILED"


def test_files_and_a_run_that_goes_on(tmp_path, uri) -> None:
    (tmp_path / "notes.txt").write_text("first")
    logger = SpoolingMLFlowLogger("toys", "fit", uri)
    logger.log_artifact(tmp_path / "notes.txt", "texts")
    (tmp_path / "notes.txt").write_text("changed before it was sent")
    logger.finalize("success")
    client, found = runs(uri)
    run_id = found["fit"].info.run_id
    copy = client.download_artifacts(run_id, "texts/notes.txt", str(tmp_path))
    assert Path(copy).read_text() == "first"
    again = SpoolingMLFlowLogger("toys", tracking_uri=uri, run_id=run_id)
    assert again.run_id == again.version == run_id
    again.log_metrics({"later/loss": 0.25}, step=7)
    again.finalize("success")
    assert [p.step for p in client.get_metric_history(run_id, "later/loss")] == [7]
    with pytest.raises(FileNotFoundError, match="expected a file to log, found none at"):
        again.log_artifact(tmp_path / "missing")


def test_a_refused_parameter_holds_up_nothing_and_is_said_once(tmp_path, uri, caplog, spool) -> None:
    logger = SpoolingMLFlowLogger("toys", "fit", uri)
    logger.log_hyperparams({"lr": 1})
    logger.log_hyperparams({"lr": 2})
    logger.log_metrics({"a/loss": 0.5}, step=1)
    logger.finalize("success")
    _, found = runs(uri)
    assert (found["fit"].data.params, found["fit"].data.metrics) == ({"lr": "1"}, {"a/loss": 0.5})
    texts = [record.getMessage() for record in caplog.records if record.name.startswith("irrbench")]
    assert len(texts) == 1
    assert "keeps the first value of a parameter" in texts[0]
    assert "lr (kept 1, now 2)" in texts[0]
    assert not spool.exists()


def test_other_processes_write_nothing(uri, spool, monkeypatch) -> None:
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = SpoolingMLFlowLogger("toys", "fit", uri)
    logger.log_hyperparams(PARAMS)
    logger.log_metrics({"a/loss": 1.0}, step=0)
    logger.experiment.log_text("x", "y")
    logger.finalize("success")
    assert not spool.exists()
