"""Monitor, stopping and logger out of the YAML of a LightningCLI."""

import importlib
from pathlib import Path

import pytest
import yaml
from torch.utils.data import DataLoader

from irrbench.callbacks import ForwardAgain, RaterBoundsMonitor, SpoolingMLFlowLogger
from tests.callbacks.toys import Steps, Toy

pytest.importorskip("jsonargparse")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
MONITOR = {
    "masks": "masks",
    "roi": "roi",
    "image_id": "id",
    "present": None,
    "image": "image",
    "label": None,
    "predictions": {"class_path": "irrbench.callbacks.ForwardAgain", "init_args": {"image": "image"}},
    "scores": ["f1", "iou"],
    "num_classes": None,
    "from_logits": True,
    "threshold": 0.4,
    "ties": "negative",
    "empty_reference": "score",
    "name": "lesion",
    "stages": ["train", "validate", "test"],
    "log_references": True,
    "log_normalized": False,
    "reference_runs": False,
    "reliability": False,
    "num_panels": 1,
    "data_name": "toys",
    "print_link": False,
    "verbose": False,
}


def run_cli(namespace, folder, monitor, *, logger=None, subcommand="fit", **trainer):
    lightning, cli = importlib.import_module(namespace), importlib.import_module(f"{namespace}.cli")
    module = type("Theirs", (Steps, lightning.LightningModule), {})
    data = type("Data", (lightning.LightningDataModule,), {})
    data.train_dataloader = data.val_dataloader = data.test_dataloader = lambda _: DataLoader(Toy(), batch_size=4)
    base = "irrbench.callbacks"
    stopping = {"class_path": f"{base}.CeilingStopping", "init_args": {"margin": 5.0, "patience": 1, "min_groups": 2}}
    options = {
        "callbacks": [{"class_path": f"{base}.RaterBoundsMonitor", "init_args": monitor}, stopping],
        "logger": logger or False,
        "max_epochs": 3,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(folder),
    } | trainer
    path = folder / "given.yaml"
    path.write_text(yaml.safe_dump({"seed_everything": 1, "trainer": options}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["theirs.py", subcommand, "--config", str(path)])
        return cli.LightningCLI(module, data).trainer


def predict(module, batch, outputs):
    return module(batch["image"])


@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize("subcommand", ["fit", "test"])
def test_every_option_out_of_yaml(tmp_path, monkeypatch, namespace, subcommand):
    monkeypatch.chdir(tmp_path)
    trainer = run_cli(namespace, tmp_path, MONITOR, subcommand=subcommand, enable_checkpointing=False)
    watcher = next(x for x in trainer.callbacks if isinstance(x, RaterBoundsMonitor))
    assert watcher.finder.predictions == ForwardAgain("image")
    assert (watcher.scores, watcher.stages, watcher.name) == (("f1", "iou"), ("train", "validate", "test"), "lesion")
    prefix = "test" if subcommand == "test" else "val"
    assert f"{prefix}/lesion/f1" in watcher.history[0]
    assert [row["epoch"] for row in watcher.history] == ([0] if subcommand == "test" else [0, 0])  # stopped at once


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predictions": {"class_path": "irrbench.callbacks.ForwardAgain", "init_args": {"imag": 1}}}, "imag"),
        ({"ties": "sometimes"}, "sometimes"),
        ({"stages": ["val"]}, "val"),
        ({"treshold": 0.4}, "treshold"),
    ],
)
def test_wrong_options_are_refused(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run_cli("pytorch_lightning", tmp_path, MONITOR | options)
    assert message in capsys.readouterr().err


def test_predictions_by_a_key_or_by_the_name_of_a_function(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_name = run_cli("pytorch_lightning", tmp_path, {"predictions": f"{__name__}.predict"}, subcommand="validate")
    assert next(x for x in by_name.callbacks if isinstance(x, RaterBoundsMonitor)).finder.predictions is predict
    (tmp_path / "config.yaml").unlink()  # Lightning writes over none
    with pytest.raises(ValueError, match="`predictions='preds'` is not in what the step returned"):
        run_cli("pytorch_lightning", tmp_path, {"predictions": "preds"}, subcommand="validate")


def test_the_logger_has_a_place_for_the_configuration_and_for_checkpoints(tmp_path, monkeypatch, uri):
    monkeypatch.chdir(tmp_path)
    for save_dir in (None, None, "mine"):  # two runs do not meet
        options = {"experiment_name": "toys", "tracking_uri": uri} | ({"save_dir": save_dir} if save_dir else {})
        logger = {"class_path": "irrbench.callbacks.SpoolingMLFlowLogger", "init_args": options}
        made = run_cli("pytorch_lightning", tmp_path, MONITOR, logger=logger).logger
        assert isinstance(made, SpoolingMLFlowLogger)
        assert made.save_dir == (save_dir or f"irrbench-runs/{made.version}")
        saved = yaml.safe_load(Path(made.save_dir, "config.yaml").read_text())
        assert saved["trainer"]["callbacks"][0]["init_args"]["predictions"] == MONITOR["predictions"]
        assert Path(made.log_dir) == Path(made.save_dir, "toys", made.version)
        assert list(Path(made.log_dir, "checkpoints").glob("*.ckpt"))
