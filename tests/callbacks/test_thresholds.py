"""A threshold chosen on validation images while training, and used in testing only where the user says so."""

from __future__ import annotations

import math

import mlflow
import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger

from irrbench import SegmentationBounds
from irrbench.callbacks import RaterBoundsMonitor
from irrbench.evaluation import CSVSink, Evaluator
from tests.callbacks.toys import Module, Toy, loader, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def monitor(**kwargs):
    options = {"scores": ("iou", "brier"), "choose_threshold": True, "print_link": False, "verbose": False}
    return RaterBoundsMonitor(roi="roi", image_id="id", **options | kwargs)


def score_at(module, threshold, toy):
    metric = SegmentationBounds(["iou"], threshold=threshold)
    with torch.no_grad():
        metric.update(module(toy.image), toy.masks, toy.roi, toy.names)
    return metric.compute()["iou"].item()


def test_every_validation_epoch_chooses_and_the_scores_stay_at_the_given_threshold(tmp_path):
    watcher = monitor(threshold=0.6)
    best = ModelCheckpoint(tmp_path, monitor="val/iou_at_best_threshold", mode="max", save_weights_only=True)
    early = EarlyStopping("val/iou_at_best_threshold", mode="max", patience=9)
    torch.manual_seed(0)
    module = Module()
    run = trainer([watcher, best, early], tmp_path, max_epochs=3, enable_checkpointing=True)
    run.fit(module, loader(), loader(seed=1))
    assert len(watcher.history) == 3
    for row in watcher.history:
        assert row["val/iou_threshold"] == 0.6
        assert row["val/iou_at_best_threshold"] >= row["val/iou"]
        assert "val/brier_best_threshold" not in row
    last = watcher.history[-1]
    tried = {i / 100: score_at(module, i / 100, Toy(seed=1)) for i in range(1, 100)}
    most = max(tried.values())
    assert last["val/iou_at_best_threshold"] == pytest.approx(most, abs=1e-12)
    nearest = min((t for t, x in tried.items() if x >= most - 1e-12), key=lambda t: abs(t - 0.5))
    assert last["val/iou_best_threshold"] == nearest
    assert last["val/iou"] == pytest.approx(tried[0.6], abs=1e-12)
    assert run.callback_metrics["val/iou_best_threshold"] == pytest.approx(nearest)
    assert float(best.best_model_score) == pytest.approx(max(x["val/iou_at_best_threshold"] for x in watcher.history))
    (table,) = watcher.tables.values()
    assert not [c for c in table if "threshold" in c]


def test_test_images_never_choose(tmp_path):
    watcher = monitor()
    (values,) = trainer([watcher], tmp_path).test(Module(), loader(seed=2), verbose=False)
    assert values["test/iou_threshold"] == 0.5
    assert not [key for key in values if "best" in key]
    (evaluator,) = watcher._evaluators["test"]
    assert evaluator.thresholds.best is None
    assert len(evaluator.thresholds.curve) == 99  # to be looked at
    for split in ("test", "test/0", "train", "holdout"):
        assert Evaluator(split, choose_threshold=True).thresholds._chooses is False


def test_the_weights_that_are_tested_are_cut_where_their_own_validation_said(tmp_path, capsys):
    watcher = monitor(test_at_chosen=True, verbose=True)
    best = ModelCheckpoint(tmp_path, monitor="val/iou_at_best_threshold", mode="max", save_top_k=-1)
    torch.manual_seed(0)
    module = Module()
    run = trainer([watcher, best], tmp_path, max_epochs=4, enable_checkpointing=True)
    run.fit(module, loader(), loader(seed=1))
    by_epoch = {row["epoch"]: row["val/iou_best_threshold"] for row in watcher.history}
    assert len(set(by_epoch.values())) > 1
    for path in best.best_k_models:
        epoch = torch.load(path, weights_only=False)["epoch"]
        capsys.readouterr()
        (values,) = run.test(module, loader(seed=2), ckpt_path=path, verbose=False)
        assert values["test/iou_threshold"] == pytest.approx(by_epoch[epoch])
        assert values["test/iou"] == pytest.approx(score_at(module, by_epoch[epoch], Toy(seed=2)))
        assert f"; cut at {by_epoch[epoch]:g}" in capsys.readouterr().out
    torch.manual_seed(5)
    with pytest.raises(
        ValueError, match=r"no threshold was chosen for the weights that are tested\. Call trainer\.val"
    ):
        run.test(Module(), loader(seed=2), verbose=False)
    other = Module()
    run.validate(other, loader(seed=1), verbose=False)
    (values,) = run.test(other, loader(seed=2), verbose=False)
    assert values["test/iou_threshold"] == pytest.approx(watcher.history[-2]["val/iou_best_threshold"])


def test_of_several_validation_loaders_none_chooses_for_the_test(tmp_path):
    watcher = monitor(test_at_chosen=True)
    run, module = trainer([watcher], tmp_path), Module()
    (first, second) = run.validate(module, [loader(seed=1), loader(seed=3)], verbose=False)
    assert {"val/0/iou_best_threshold"} <= first.keys()
    assert {"val/1/iou_best_threshold"} <= second.keys()
    with pytest.raises(ValueError, match=r"no threshold was chosen .* on one loader"):
        run.test(module, loader(seed=2), verbose=False)


def test_options_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="`test_at_chosen` needs choose_threshold=True and the stage 'validate'"):
        monitor(choose_threshold=False, test_at_chosen=True)
    with pytest.raises(ValueError, match="by a score of votes such as iou; found the scores nsd, brier"):
        monitor(scores=("nsd", "brier"))
    with pytest.raises(ValueError, match=r"cuts probabilities of one class, .* found num_classes=3"):
        monitor(num_classes=3)
    evaluator = Evaluator("val", scores=["iou"], choose_threshold=True)
    toy = Toy()
    with pytest.raises(ValueError, match=r"found torch\.bool, a mask\. For masks leave out .*`choose_threshold`"):
        evaluator.update(toy.image[:, 0] > 0, toy.masks)
    assert Evaluator("val", scores=["nsd", "f1", "iou"], choose_threshold=True).thresholds.score == "f1"


def test_the_keys_are_the_monitors(tmp_path):
    class Logs(Module):
        def validation_step(self, batch, index):
            self.log("val/iou_best_threshold", 0.4)
            return super().validation_step(batch, index)

    with pytest.raises(ValueError, match=r"`val/iou_best_threshold` is logged by Logs\.validation_step"):
        trainer([monitor()], tmp_path).validate(Logs(), loader(), verbose=False)
    assert monitor().owns("test/iou_threshold")
    assert not monitor(choose_threshold=False).owns("val/iou_best_threshold")


def test_a_diverged_model_chooses_nothing(caplog):
    toy = Toy()
    evaluator = Evaluator("val", scores=["iou"], choose_threshold=True)
    evaluator.update(torch.full_like(toy.image, math.nan), toy.masks, roi=toy.roi)
    values = evaluator.finish()
    assert math.isnan(values["val/iou"])
    assert "val/iou_best_threshold" not in values
    assert evaluator.pictures() == {}
    assert "Predictions must be finite" in caplog.text
    evaluator.update(toy.image, toy.masks, roi=toy.roi)
    assert 0 < evaluator.finish()["val/iou_best_threshold"] < 1


def test_mlflow_has_keys_tables_and_pictures(tmp_path, uri):
    logger = MLFlowLogger("toys", tracking_uri=uri, artifact_location=(tmp_path / "artifacts").as_uri())
    watcher = monitor()
    trainer([watcher], tmp_path, logger=logger).fit(Module(), loader(), loader(seed=1))
    client = mlflow.MlflowClient(uri)
    points = client.get_metric_history(logger.run_id, "val/iou_best_threshold")
    assert [p.value for p in points] == [row["val/iou_best_threshold"] for row in watcher.history]
    assert client.get_metric_history(logger.run_id, "val/iou_at_best_threshold")
    names = {f.path for f in client.list_artifacts(logger.run_id)}
    assert {"thresholds", "reliability", "images"} <= names
    shown = " ".join(f.path for f in client.list_artifacts(logger.run_id, "images"))
    assert "thresholds" in shown
    assert "reliability" in shown
    path = client.download_artifacts(logger.run_id, "thresholds/val.csv", str(tmp_path))
    assert open(path).readline().strip().split(",")[:2] == ["threshold", "iou"]  # noqa: PTH123, SIM115


def test_tensorboard_and_csv_files_have_them_too(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoardLogger(tmp_path)
    trainer([monitor()], tmp_path, logger=board, max_epochs=1).fit(Module(), loader(), loader(seed=1))
    events = EventAccumulator(board.log_dir).Reload()
    assert {"val_pictures/thresholds", "val_pictures/reliability"} <= set(events.Tags()["images"])
    toy = Toy()
    evaluator = Evaluator("val", scores=["iou"], choose_threshold=True, sinks=[CSVSink(tmp_path / "csv")])
    evaluator.update(toy.image, toy.masks, roi=toy.roi)
    evaluator.finish()
    evaluator.close()
    written = np.genfromtxt(tmp_path / "csv" / "thresholds" / "val.csv", delimiter=",", names=True)
    assert written["threshold"].tolist() == [i / 100 for i in range(1, 100)]
    assert (tmp_path / "csv" / "reliability" / "val.csv").is_file()
