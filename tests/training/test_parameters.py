"""The parameters of a cell's run in MLflow."""

from __future__ import annotations

from types import SimpleNamespace

from irrbench.config import RulesConfig
from irrbench.grid_config import ModelConfig, TrainConfig
from irrbench.tracking import Run
from irrbench.training import create_module
from irrbench.training.cell import CellConfig
from irrbench.training.cell_run import CellLogger, parameters_of


def parameters(**model):
    return parameters_of(
        CellConfig(ModelConfig(**model), "soft", 3, TrainConfig(), ("iou",), RulesConfig(), "d", "1", "1")
    )


def test_what_the_module_says_too_is_logged_once(tmp_path, monkeypatch):
    config = CellConfig(ModelConfig(), "soft", 3, TrainConfig(), ("iou",), RulesConfig(), "d", "1", "1")
    cell = SimpleNamespace(
        config=config,
        name="unet",
        tracking=SimpleNamespace(colour="#000000", command="", experiment="e", uri="sqlite:///x.db"),
    )
    logged = {}
    monkeypatch.setattr(Run, "record", lambda *_, **__: None)  # no store
    monkeypatch.setattr(Run, "log_params", lambda _, values: logged.update(values))
    logger = CellLogger(cell, "1" * 32, tmp_path)
    logger.log_hyperparams(parameters_of(config))
    logger.log_hyperparams({"lr": 0.1, "loss": "dice_bce", "in_channels": 1})
    assert logged == {**parameters_of(config), "in_channels": 1}
    assert "train/lr" in logged


def test_an_architecture_is_named():
    found = parameters(architecture="linknet", encoder="resnet34", init_args={"decoder_channels": [8]})
    assert (found["architecture"], found["encoder"], found["encoder_weights"]) == ("linknet", "resnet34", None)
    assert found["init_args"] == '{"decoder_channels": [8]}'
    assert (found["label"], found["seed"], found["train/lr"]) == ("soft", 3, TrainConfig().lr)
    assert "class_path" not in found


def test_a_network_of_ones_own_is_no_unet():
    found = parameters(class_path="torch.nn.Conv2d", init_args={"out_channels": 1, "kernel_size": 1})
    assert found["class_path"] == "torch.nn.Conv2d"
    assert found["init_args"] == '{"out_channels": 1, "kernel_size": 1}'
    assert "train/lr" in found
    assert not {"architecture", "encoder", "encoder_weights"} & set(found)
    module = create_module(class_path="torch.nn.Conv2d", init_args={"out_channels": 1, "kernel_size": 1})
    assert not {"architecture", "encoder", "encoder_weights"} & set(module.hparams)


def test_a_training_of_ones_own_has_its_own_learning_rate():
    found = parameters(class_path="irrbench.training.SegmentationModule", init_args={"lr": 0.05})
    assert found["init_args"] == '{"lr": 0.05}'
    assert not {"train/lr", "train/weight_decay"} & set(found)
