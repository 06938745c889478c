"""Stages, parts of epochs, several loaders, resuming within an epoch."""

import mlflow
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import MLFlowLogger

from irrbench import VotePatterns, segmentation_bounds
from irrbench.callbacks import RaterBoundsMonitor
from tests.callbacks.toys import Module, N, Toy, loader, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def monitor(**kwargs):
    return RaterBoundsMonitor(roi="roi", image_id="id", print_link=False, **kwargs)


def score(module, seed=0):
    data = Toy(seed=seed)
    with torch.no_grad():
        preds = module(data.image).float().squeeze(1) > 0
    patterns = VotePatterns.from_masks(data.masks, roi=data.roi, preds=preds)
    return segmentation_bounds(patterns, ["iou"]).model["iou"].nanmean().item()


def splits(watcher):
    return [next(key for key in row if key.endswith("n_images")).removesuffix("/n_images") for row in watcher.history]


def test_all_stages_of_a_fit_with_checks_within_the_epoch(tmp_path):
    watcher = monitor(stages=("train", "validate", "test"))
    run = trainer(watcher, tmp_path, max_epochs=1, val_check_interval=2)
    run.fit(Module(), loader(16), loader())
    run.test(Module(), loader(), verbose=False)
    assert splits(watcher) == ["val", "val", "train", "test"]
    # A check in the middle takes nothing from the training images, before or after it.
    assert [row[key] for row in watcher.history for key in row if key.endswith("n_images")] == [N, N, 16, N]


class Predicts(Module):
    def predict_step(self, batch, _):
        return self(batch["image"])


@pytest.mark.parametrize("stages", [("train",), ("validate",), ("test",), ()])
def test_only_the_stages_that_are_asked_for(tmp_path, stages):
    watcher = monitor(stages=stages)
    run = trainer(watcher, tmp_path, max_epochs=1)
    run.fit(Module(), loader(), loader())
    run.validate(Module(), loader(), verbose=False)
    run.test(Module(), loader(), verbose=False)
    run.predict(Predicts(), loader())
    assert splits(watcher) == {"train": ["train"], "validate": ["val", "val"], "test": ["test"]}.get(
        "".join(stages), []
    )


@pytest.mark.parametrize("give", [list, lambda pair: {"a": pair[0], "b": pair[1]}, tuple])
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_each_loader_has_its_own_numbers(tmp_path, give, stage):
    watcher, module = monitor(), Module()
    loaders = give([loader(), loader(seed=5)])
    getattr(trainer(watcher, tmp_path), stage)(module, loaders, verbose=False)
    prefix = {"validate": "val", "test": "test"}[stage]
    names = ["a", "b"] if isinstance(loaders, dict) else ["0", "1"]
    for row, name, seed in zip(watcher.history, names, (0, 5), strict=True):
        assert row[f"{prefix}/{name}/iou"] == pytest.approx(score(module, seed), abs=1e-9)
    assert list(watcher.tables) == [f"{prefix}/{name}" for name in names]


def test_one_loader_in_a_list_needs_no_name(tmp_path):
    watcher = monitor()
    trainer(watcher, tmp_path).validate(Module(), [loader()], verbose=False)
    assert list(watcher.tables) == ["val"]


@pytest.mark.parametrize("limit", [1, 0.67])
def test_limits_of_every_stage_show_in_the_number_of_images(tmp_path, limit):
    watcher = monitor(stages=("train", "validate", "test"))
    options = {f"limit_{stage}_batches": limit for stage in ("train", "val", "test")}
    run = trainer(watcher, tmp_path, max_epochs=1, **options)
    run.fit(Module(), loader(12), loader(12))
    run.test(Module(), loader(12), verbose=False)
    expected = 4 if limit == 1 else 8
    assert [v for row in watcher.history for k, v in row.items() if k.endswith("n_images")] == [expected] * 3


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint.*")
def test_resuming_within_an_epoch(tmp_path):
    def fit(folder, **kwargs):
        torch.manual_seed(0)
        watcher = monitor(stages=("train", "validate"))
        saver = ModelCheckpoint(tmp_path / folder, save_top_k=-1, every_n_train_steps=2, filename="{step}")
        run = trainer([watcher, saver], tmp_path, max_epochs=2, enable_checkpointing=True)
        run.fit(Module(), loader(16), loader(), **kwargs)
        return watcher.history

    whole = fit("whole")
    rest = fit("rest", ckpt_path=tmp_path / "whole" / "step=6.ckpt")  # in the middle of the second epoch
    assert [row["epoch"] for row in rest] == [1, 1]
    assert rest[0] == pytest.approx(whole[2], nan_ok=True)  # validation at the end of the epoch
    assert rest[1]["train/n_images"] == 8  # what was left of it


class Fails(Module):
    """Its fifth training batch fails."""

    fails = True

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        if self.fails and self.global_step == 4:
            raise RuntimeError("out of memory")
        return loss


@pytest.mark.parametrize("ids", ["id", None])
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint.*")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_batches_of_an_attempt_that_failed_are_no_part_of_the_next_one(tmp_path, ids):
    watcher = RaterBoundsMonitor(image_id=ids, stages=("train", "validate"), verbose=False)
    saver = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    module, options = Fails(), {"max_epochs": 2, "enable_checkpointing": True}
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer([watcher, saver], tmp_path, **options).fit(module, loader(12), loader())
    assert watcher._sample is None
    module.fails = False
    found = []
    for x in (watcher, RaterBoundsMonitor(image_id=ids, stages=("train", "validate"), verbose=False)):
        x.history.clear()
        trainer(x, tmp_path, max_epochs=2).fit(module, loader(12), loader(), ckpt_path=tmp_path / "step=4.ckpt")
        found.append([row["train/iou"] for row in x.history if "train/iou" in row])
        assert [row["train/n_images"] for row in x.history if "train/iou" in row] == [8]
    assert found[0] == found[1]


class Skips(Module):
    """Has nothing for its second batch."""

    def __init__(self, nothing=None):
        super().__init__()
        self.nothing = nothing

    def training_step(self, batch, index):
        return self.nothing if index == 1 else super().training_step(batch, index)

    def validation_step(self, batch, index):
        return self.nothing if index == 1 else super().validation_step(batch, index)


@pytest.mark.parametrize("nothing", [None, {}])
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_that_skips_its_batch_is_left_out_and_says_so_once(tmp_path, caplog, nothing):
    watcher = monitor(stages=("train", "validate"))
    run = trainer(watcher, tmp_path)
    if nothing is None:
        run.fit(Skips(), loader(), loader())
    else:
        run.validate(Skips(nothing), loader(), verbose=False)
    assert {v for row in watcher.history for k, v in row.items() if k.endswith("n_images")} == {N - 4}
    assert caplog.text.count("val: a step ran no forward and returned nothing") == 1


def test_a_first_batch_without_predictions_is_an_error(tmp_path):
    class Nothing(Module):
        def validation_step(self, *_):
            return {}

    with pytest.raises(ValueError, match="the step returned an empty dict, and no forward call was seen"):
        trainer(monitor(), tmp_path).validate(Nothing(), loader(), verbose=False)


def test_a_test_alone_reaches_mlflow(tmp_path, uri):
    logger = MLFlowLogger("toys", tracking_uri=uri, artifact_location=(tmp_path / "artifacts").as_uri())
    watcher, module = monitor(), Module()
    trainer(watcher, tmp_path, logger=logger).test(module, loader(), verbose=False)
    client = mlflow.MlflowClient(uri)
    runs = {r.data.tags["irrbench.role"]: r for r in client.search_runs([logger.experiment_id])}
    assert set(runs) == {"model", "ceiling", "floor"}
    assert runs["model"].data.metrics["test/iou"] == pytest.approx(score(module), abs=1e-9)
    for role in ("ceiling", "floor"):
        assert runs[role].data.metrics["test/iou"] == watcher.history[0][f"test/iou_{role}"]


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "bf16-mixed"])
def test_precisions(tmp_path, precision):
    watcher, module = monitor(), Module()
    trainer(watcher, tmp_path, precision=precision).validate(module, loader(), verbose=False)
    assert watcher.history[0]["val/n_images"] == N
    assert 0 <= watcher.history[0]["val/iou"] <= 1
