"""Whose key it is: named monitors, and a clear error before anything is spent where somebody else logs under a key."""

import copy
import json
import pickle

import mlflow
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger
from torch._dynamo.utils import counters
from torchmetrics.classification import BinaryJaccardIndex

from irrbench.callbacks import CeilingStopping, RaterBoundsMonitor
from tests.callbacks.toys import Module, N, loader, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def monitor(**kwargs):
    options = {"roi": "roi", "image_id": "id", "print_link": False, "scores": ("iou", "f1")} | kwargs
    return RaterBoundsMonitor("masks", **options)


class Counting(Module):
    """Logs `value` under `key` in the hooks named, and counts its training steps."""

    def __init__(self, key="val/iou", where=("validation_step",), **options):
        super().__init__()
        self.key, self.where, self.options, self.steps = key, where, options, 0
        self.iou = BinaryJaccardIndex()

    def say(self, hook):
        if hook in self.where:
            self.log(self.key, torch.tensor(0.5), **self.options)

    def training_step(self, batch, index):
        self.steps += 1
        self.say("training_step")
        return super().training_step(batch, index)

    def validation_step(self, batch, index, dataloader_idx=0):
        self.say("validation_step")
        return super().validation_step(batch, index, dataloader_idx)

    def test_step(self, batch, index, dataloader_idx=0):
        self.say("test_step")
        return super().validation_step(batch, index, dataloader_idx)

    def on_validation_start(self):
        self.say("on_validation_start")

    def on_validation_epoch_end(self):
        self.say("on_validation_epoch_end")

    def on_test_epoch_end(self):
        self.say("on_test_epoch_end")

    def on_train_epoch_end(self):
        self.say("on_train_epoch_end")


@pytest.mark.parametrize("logger", [False, True])
@pytest.mark.parametrize("hook", ["validation_step", "on_validation_epoch_end", "on_validation_start"])
@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("val/iou", {}),
        ("val/iou", {"on_step": True, "on_epoch": True}),
        ("val/iou", {"prog_bar": True, "logger": False}),
        ("val/f1_ceiling", {}),
        ("val/iou_epoch", {}),
        ("val/iou/dataloader_idx_0", {"add_dataloader_idx": False}),
        ("val/n_images", {}),
    ],
)
def test_a_key_of_the_monitors_is_refused_in_the_sanity_check(tmp_path, key, options, hook, logger):
    if "on_step" in options and hook != "validation_step":
        pytest.skip("Lightning's own error")
    module = Counting(key, [hook], **options)
    found = rf"`{key}` is logged by Counting\.{hook} \(test_keys\.py:\d+\) and by RaterBoundsMonitor\(\), and one would"
    run = trainer(monitor(), tmp_path, logger=CSVLogger(tmp_path) if logger else False)
    with pytest.raises(ValueError, match=found.replace(hook, "say") + r".*pass RaterBoundsMonitor\(name='<name>'\)"):
        run.fit(module, loader(), loader())
    assert module.steps == 0
    assert "log" not in vars(module)


@pytest.mark.parametrize(
    ("key", "where"),
    [("val/iou", "validation_step"), ("val/iou", "training_step"), ("test/iou", "training_step")],
)
def test_without_a_sanity_check_at_the_first_batch(tmp_path, key, where):
    module = Counting(key, [where])
    with pytest.raises(ValueError, match=rf"`{key}` is logged by Counting"):
        trainer(monitor(), tmp_path, num_sanity_val_steps=0, val_check_interval=1).fit(module, loader(), loader())
    assert module.steps <= 1


@pytest.mark.parametrize("hook", ["test_step", "on_test_epoch_end"])
def test_in_testing_too(tmp_path, hook):
    run, module, watcher = None, Counting("test/iou", [hook]), monitor()
    run = trainer(watcher, tmp_path)
    run.fit(module, loader(), loader())  # not a key of this stage: a training is not lost
    with pytest.raises(ValueError, match="`test/iou` is logged by Counting"):
        run.test(module, loader(), verbose=False)
    named = monitor(name="lesion")
    results = trainer(named, tmp_path).test(module, loader(), verbose=False)
    assert results[0]["test/iou"] == 0.5
    assert results[0]["test/lesion/iou"] == pytest.approx(named.history[0]["test/lesion/iou"], abs=1e-6)


class Logs(pl.Callback):
    def on_validation_batch_end(self, trainer, pl_module, *_):
        pl_module.log_dict({"val/f1": 0.1})


class WithMetric(Module):
    def __init__(self):
        super().__init__()
        self.iou = BinaryJaccardIndex()

    def validation_step(self, batch, _, dataloader_idx=0):
        logits = self(batch["image"])
        self.iou(logits.squeeze(1), batch["masks"][:, 0].int())
        self.log("val/iou", self.iou)


@pytest.mark.parametrize("order", [1, -1])
def test_other_callbacks_and_metrics(tmp_path, order):
    with pytest.raises(ValueError, match=r"`val/f1` is logged by Logs\.on_validation_batch_end \(test_keys"):
        trainer([monitor(), Logs()][::order], tmp_path).fit(Module(), loader(), loader())
    with pytest.raises(ValueError, match=r"`val/iou` is logged by WithMetric\.validation_step \(test_keys"):
        trainer(monitor(), tmp_path).fit(WithMetric(), loader(), loader())


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("val/dice", {}),
        ("iou", {}),
        ("val/cup/iou", {}),
        ("val/iou_macro", {}),
        ("train/iou", {"stages": ("validate",)}),
        ("val/iou_floor", {"log_references": False}),
        ("val/iou", {"name": "lesion"}),
    ],
)
def test_keys_of_nobody_elses_are_the_users(tmp_path, key, options):
    module, watcher = Counting(key, ["validation_step"]), monitor(**options)
    run = trainer(watcher, tmp_path, max_epochs=1)
    run.fit(module, loader(), loader())
    assert run.callback_metrics[key] == 0.5
    assert module.steps == 3
    assert len(watcher.history) == 1


def test_several_loaders(tmp_path):
    loaders = {"clinic": loader(), "screening": loader(seed=5)}
    for key in ("val/iou", "val/screening/iou"):
        with pytest.raises(ValueError, match=f"`{key}` is logged by Counting"):
            trainer(monitor(), tmp_path).fit(Counting(key), loader(), loaders)
    plain, named = monitor(), monitor(name="lesion")
    trainer([plain, named], tmp_path, max_epochs=1).fit(Module(), loader(), loaders)
    for split in loaders:
        assert {f"val/{split}/iou", f"val/lesion/{split}/iou"} <= {
            k for x in (plain, named) for r in x.history for k in r
        }
    assert list(named.tables) == ["val/lesion/clinic", "val/lesion/screening"]


def test_two_monitors_need_two_names_where_they_share_a_stage(tmp_path):
    with pytest.raises(ValueError, match=r"Two RaterBoundsMonitor\(\) monitor the stage 'validate'.*Give each a name"):
        trainer([monitor(), monitor()], tmp_path).fit(Module(), loader(), loader())
    with pytest.raises(ValueError, match=r"Two RaterBoundsMonitor\(name='a'\) monitor the stage 'test'"):
        trainer([monitor(name="a"), monitor(name="a", stages=("test",))], tmp_path).test(Module(), loader())
    apart = [monitor(stages=("train",)), monitor()]
    trainer(apart, tmp_path, max_epochs=1).fit(Module(), loader(), loader())
    assert [len(x.history) for x in apart] == [1, 1]
    loaders = {"clinic": loader(), "home": loader()}
    found = r"`val/clinic/\w+` is logged by RaterBoundsMonitor\(name='clinic'\) and by RaterBoundsMonitor\(\)"
    with pytest.raises(ValueError, match=found):
        trainer([Claims(), monitor()], tmp_path, max_epochs=1).fit(Module(), loader(), loaders)


class Claims(RaterBoundsMonitor):
    """Of one loader's images alone, named like the loader."""

    def __init__(self):
        super().__init__(name="clinic", print_link=False)

    def begin(self, stage, loaders, pl_module):
        super().begin(stage, None, pl_module)

    def after_step(self, stage, trainer, pl_module, outputs, batch, index):
        super().after_step(stage, trainer, pl_module, outputs, batch, 0)


@pytest.mark.parametrize("name", ["", "a/b", "two words", "größe"])
def test_a_name_that_no_key_can_have_is_refused(name):
    with pytest.raises(ValueError, match="`name` must be of letters, digits"):
        monitor(name=name)


def test_a_label_of_label_maps_is_refused():
    with pytest.raises(ValueError, match=r"`label` is for binary masks, found it with num_classes=3"):
        monitor(label="label", num_classes=3)


def test_callbacks_watch_a_named_monitor(tmp_path):
    lesion, other = monitor(name="lesion"), monitor(name="other", predictions=lambda m, b, _: -m(b["image"]))
    stopper = EarlyStopping("val/lesion/iou", mode="max", patience=0, min_delta=2.0)
    saver = ModelCheckpoint(tmp_path, monitor="val/lesion/iou", mode="max")
    ceiling = CeilingStopping(monitor=other, margin=5.0, patience=1, min_groups=2)
    run = trainer([ceiling, stopper, saver, other, lesion], tmp_path, max_epochs=9, enable_checkpointing=True)
    run.fit(Module(), loader(), loader())
    assert run.current_epoch == 1
    assert (ceiling.split, ceiling.stopped_epoch) == ("val/other", 0)
    assert "val/other/iou: model - average rater" in ceiling.reason
    assert saver.best_model_score == pytest.approx(lesion.history[0]["val/lesion/iou"], abs=1e-6)
    assert lesion.history[0]["val/lesion/iou"] != other.history[0]["val/other/iou"]
    with pytest.raises(ValueError, match=r"2 monitors: RaterBoundsMonitor\(name='other'\), .*say which by"):
        trainer([CeilingStopping(), other, lesion], tmp_path).fit(Module(), loader(), loader())


def test_the_stopping_takes_the_split_of_the_only_monitor(tmp_path):
    ceiling = CeilingStopping(margin=5.0, patience=1, min_groups=2)
    trainer([ceiling, monitor(name="lesion")], tmp_path, max_epochs=9).fit(Module(), loader(), loader())
    assert (ceiling.split, ceiling.stopped_epoch) == ("val/lesion", 0)


def test_the_fit_to_labels_of_a_named_monitor(tmp_path, caplog):
    options = {"label": lambda batch: batch["masks"][:, 0], "stages": ("train", "validate")}
    watcher = monitor(name="lesion", **options)
    trainer(watcher, tmp_path, max_epochs=1).fit(Module(), loader(), loader())
    assert {"train/lesion/iou_noise_fit", "train/lesion/iou_label"} <= set(watcher.history[1])
    assert "train/lesion/f1_label" not in watcher.history[1]
    watcher = monitor(name="lesion", **options)
    trainer(watcher, tmp_path, max_epochs=1, limit_val_batches=0).fit(Module(), loader(), loader())
    assert "train/lesion/iou_noise_fit is not logged: no validation is monitored" in caplog.text
    assert "`label=` of RaterBoundsMonitor(name='lesion')" in caplog.text


@pytest.mark.parametrize("ties", ["average", "negative"])
def test_named_monitors_share_a_run_of_mlflow(tmp_path, uri, ties, caplog):
    made = MLFlowLogger("toys", tracking_uri=uri, artifact_location=(tmp_path / "artifacts").as_uri())
    lesion, other = monitor(name="lesion"), monitor(name="other", roi=None, ties=ties)
    trainer([lesion, other], tmp_path, logger=made).fit(Module(), loader(), loader())
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([made.experiment_id])
    tables = {run.info.run_id: names_of(client, run) for run in runs}
    assert {"per_image/val/lesion.json", "per_image/val/other.json"} <= tables[made.run_id]
    for watcher, name in ((lesion, "lesion"), (other, "other")):
        for role in ("model", "ceiling", "floor"):
            key, found = f"val/{name}/iou", watcher.history[-1]
            held = [run for run in runs if run.data.tags["irrbench.role"] == role and key in run.data.metrics]
            assert [run.data.metrics[key] for run in held] == [found[key if role == "model" else f"{key}_{role}"]]
            assert f"per_image/val/{name}.json" in tables[held[0].info.run_id]
            path = client.download_artifacts(held[0].info.run_id, f"per_image/val/{name}.json", str(tmp_path))
            assert len(json.loads(open(path).read())["data"]) == N  # noqa: PTH123, SIM115
            if role != "model":
                assert held[0].data.params[f"{name}/ties"] == (ties if name == "other" else "average")
    entries = client.get_run(made.run_id).data.tags["irrbench.bounds_id"].split()
    assert sorted(entry.partition(":")[0] for entry in entries) == ["val/lesion", "val/other"]
    assert "keeps its first value" not in caplog.text


def names_of(client, run):
    folders = ["per_image", "per_image/val"]
    return {x.path for folder in folders for x in client.list_artifacts(run.info.run_id, folder)}


class Copies(pl.Callback):
    """Copies and saves a module as a whole, as some scripts do between epochs."""

    def __init__(self):
        self.copies = []

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.trainer = None  # Lightning's own cannot be copied
        self.copies += [copy.deepcopy(pl_module), pickle.loads(pickle.dumps(pl_module))]  # noqa: S301
        pl_module.trainer = trainer


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_module_can_be_copied_and_saved_while_it_is_watched(tmp_path):
    copies = Copies()
    trainer([monitor(), copies], tmp_path, max_epochs=1).fit(Module(), loader(), loader())
    assert len(copies.copies) == 2
    for twin in copies.copies:
        assert twin.log.__self__ is twin
        twin.log("iou", 0.5)


def test_an_own_log_of_a_module_stays_its_own(tmp_path):
    module, said = Module(), []
    module.log = lambda name, *_, **__: said.append(name)
    mine = module.log
    trainer(monitor(), tmp_path, max_epochs=1).fit(module, loader(), loader())
    assert vars(module)["log"] is mine
    assert "val/iou" in said


class Announces(Module):
    def validation_step(self, batch, _, dataloader_idx=0):
        self.log("val/loss", self.loss(self.net(batch["image"]), batch), batch_size=1)
        self.log(self.key, 0.5, batch_size=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_module_is_guarded_too(tmp_path, monkeypatch):
    graphs = []
    for is_guarded in (True, False):
        if not is_guarded:
            monkeypatch.setattr("irrbench.callbacks.keys.put_before", lambda *_: lambda: None)
        torch._dynamo.reset()
        counters.clear()
        module = Announces()
        module.key = "val/own"
        run = trainer(monitor(), tmp_path)
        run.fit(torch.compile(module, backend="eager"), loader(), loader())
        assert run.callback_metrics["val/own"] == 0.5
        graphs.append(counters["stats"]["unique_graphs"])
    assert 0 < graphs[0] <= graphs[1]
    monkeypatch.undo()
    module = Announces()
    module.key = "val/iou"
    with pytest.raises(ValueError, match=r"`val/iou` is logged by Announces\.validation_step \("):
        trainer(monitor(), tmp_path).fit(torch.compile(module, backend="eager"), loader(), loader())
