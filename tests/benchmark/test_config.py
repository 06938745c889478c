"""Configurations: YAML and flags, and what is said about those that cannot be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from irrbench.commands import BenchmarkConfig, ConfigError, ModelConfig, load_config, to_yaml
from irrbench.commands.loading import parse_predictions
from irrbench.config import RulesConfig, TrainConfig, slug
from irrbench.training.cell import CellConfig
from irrbench.training.grid import cell_colours, cell_names

CONFIGS = Path(__file__).parents[2] / "configs"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_yaml_then_flags_then_changes(tmp_path):
    file = write(
        tmp_path / "c.yaml", "train: {max_epochs: 7, batch_size: 3, lr: 1e-4}\nmodels: [{architecture: linknet}]\n"
    )
    config = load_config(
        file, ["--train.batch_size", "5", "--labels", "[soft]"], changes={"train.max_epochs": 2, "seeds": [4]}
    )
    assert config.train == TrainConfig(max_epochs=2, batch_size=5, lr=1e-4)
    assert config.models == [ModelConfig("linknet")]
    assert (config.labels, config.seeds) == (["soft"], [4])


def test_an_empty_file_is_the_defaults(tmp_path):
    assert load_config(write(tmp_path / "c.yaml", "# nothing\n")) == load_config() == BenchmarkConfig()


def test_what_is_stored_loads_again(tmp_path):
    config = load_config(None, ["--seeds", "[1, 2]"], changes={"predictions": {"a b": "x"}, "data": "d"})
    file = write(tmp_path / "c.yaml", yaml.safe_dump(config.as_dict()))
    assert load_config(file) == config


OWN = "[{class_path: a.B, init_args: {x: 1, y: {class_path: c.D, init_args: {z: [1, 2]}}}}, {encoder: resnet34}]"


@pytest.mark.parametrize("equals", [True, False])
def test_models_by_import_path_in_files_and_flags(tmp_path, equals):
    expected = [
        ModelConfig(class_path="a.B", init_args={"x": 1, "y": {"class_path": "c.D", "init_args": {"z": [1, 2]}}}),
        ModelConfig(encoder="resnet34"),
    ]
    flags = [f"--models={OWN}"] if equals else ["--models", OWN]
    assert load_config(None, flags).models == expected
    file = write(tmp_path / "c.yaml", f"models: {OWN}")
    assert load_config(file).models == expected
    assert load_config(file, ["--models", "[{class_path: e.F}]"]).models == [ModelConfig(class_path="e.F")]


def test_the_printed_configuration_is_the_same_configuration(tmp_path):
    blur = "[{class_path: torchvision.transforms.v2.GaussianBlur, init_args: {kernel_size: 3}}]"
    flags = ["--models", OWN, "--train.transforms", blur, "--train.devices", "2", "--statistics.margins", "{iou: 0.02}"]
    config = load_config(None, flags, changes={"predictions": {"a b": "x"}, "data": "é/d"})
    text = to_yaml(config)
    assert "é/d" in text
    assert load_config(write(tmp_path / "c.yaml", text)) == config
    assert to_yaml(load_config(tmp_path / "c.yaml")) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modles: []", "c.yaml: unknown key 'modles'. Did you mean 'models'?"),
        ("train: {max_epoch: 3}", "c.yaml: train: unknown key 'max_epoch'. Did you mean 'max_epochs'?"),
        ("models: [{architectur: unet}]", "c.yaml: models: unknown key 'architectur'. Did you mean 'architecture'?"),
        ("rules: {zzz: 1}", "unknown key 'zzz'. Known are ties, empty_reference, threshold."),
        ("train: 3", "c.yaml: train: expected keys and values, found int 3"),
        ("- a", "expected keys and values, found list"),
        ("a: [", "c.yaml is no valid YAML"),
        ("train: {batch_size: many}", "train.batch_size"),
        ("rules: {ties: maybe}", "rules.ties"),
        ("train: {max_epochs: 0}", "train.max_epochs must be 1 or more, found 0"),
        ("train: {lr: 0}", "train.lr must be greater than 0"),
        ("rules: {threshold: 1.5}", "rules.threshold must lie between 0 and 1, found 1.5"),
        ("scores: [dice]", "dice"),
        ("seeds: [-1]", "seeds must be 0 or more"),
        ("models: [{class_pth: a.B}]", "c.yaml: models: unknown key 'class_pth'. Did you mean 'class_path'?"),
        (
            "models: [{class_path: 3}]",
            "models: class_path must be an import path and init_args keys and values; found 3",
        ),
        ("models: [{class_path: a.B, init_args: [1]}]", "init_args keys and values; found 'a.B' and [1]"),
        ("models: [{architecture: [1]}]", "models: "),
        (
            "train: {transforms: [{class: a.B}]}",
            "train.transforms must be a list of {class_path: ..., init_args: {...}}",
        ),
        ("train: {transforms: [a.B]}", "train.transforms"),
        ("train: {devices: 0}", "train.devices must be 1 or more, or auto; found 0"),
        ("executor: slurm", "executor"),
    ],
)
def test_unusable_files(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path / "c.yaml", text))
    assert message in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.yaml cannot be read: No such file"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--train.batchsize", "unknown flag '--train.batchsize'. Did you mean '--train.batch_size'?"),
        ("--label", "unknown flag '--label'. Did you mean '--labels'?"),
    ],
)
def test_unknown_flags(flag, message):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [flag, "3"])
    assert str(caught.value) == message


@pytest.mark.parametrize("pair", ["unet", "unet=", "=folder", " = "])
def test_malformed_predictions(pair):
    with pytest.raises(ConfigError, match=r"--predictions must be NAME=DIR, such as unet=outputs/unet; found"):
        parse_predictions([pair])


def test_predictions_of_one_name():
    with pytest.raises(ConfigError, match="names 'a' twice"):
        parse_predictions(["a=x", "a=y"])


@pytest.mark.parametrize("name", ["default", "folder"])
def test_shipped_files_load(name):
    config = load_config(CONFIGS / f"{name}.yaml")
    assert len(cell_names(config)) >= 4


def test_the_default_file_is_the_default():
    assert load_config(CONFIGS / "default.yaml") == BenchmarkConfig()


def test_the_folder_file_explains_every_key():
    text = (CONFIGS / "folder.yaml").read_text()
    shipped = yaml.safe_load(text)
    known = BenchmarkConfig().as_dict()
    for key, value in known.items():
        if key == "lidc":  # has no place beside a folder
            continue
        assert f"{key}:" in text, key
        if isinstance(value, dict) and value:
            assert set(shipped[key]) == set(value), key


def test_names_of_cells():
    config = BenchmarkConfig(models=[ModelConfig(), ModelConfig(name="mine")], labels=["soft", "rater:a"])
    names = [name for name, *_ in cell_names(config)]
    own = BenchmarkConfig(models=[ModelConfig(class_path="a.b.Net")], labels=["soft"])
    assert cell_names(own)[0][0] == "Net soft"
    assert names == ["unet-resnet18 soft", "unet-resnet18 rater:a", "mine soft", "mine rater:a"]
    assert cell_names(replace(config, seeds=[0, 7]))[1][0] == "unet-resnet18 soft seed 7"


def test_the_seeds_of_a_model_share_a_colour_and_models_do_not():
    config = BenchmarkConfig(models=[ModelConfig(), ModelConfig(name="mine")], labels=["soft", "rater:a"], seeds=[0, 7])
    colours = cell_colours(config)
    assert list(colours) == [name for name, *_ in cell_names(config)]
    assert len(set(colours.values())) == 4
    assert len({colour for name, colour in colours.items() if name.startswith("mine soft")}) == 1
    assert list(cell_colours(replace(config, seeds=[3])).values()) == list(dict.fromkeys(colours.values()))


def test_an_empty_grid():
    with pytest.raises(ConfigError, match="at least one cell and each its own name; found none"):
        cell_names(BenchmarkConfig(labels=[]))


def test_two_cells_of_one_name():
    with pytest.raises(ConfigError, match="found two cells called 'unet-resnet18 soft'"):
        cell_names(BenchmarkConfig(models=[ModelConfig()], labels=["soft", "soft"]))


CELL = CellConfig(ModelConfig(), "soft", 0, TrainConfig(), ("iou",), RulesConfig(), "study", "abc", "1")


def test_the_digest_is_of_what_the_numbers_depend_on():
    renamed = [
        replace(CELL, data="other name"),
        replace(CELL, model=ModelConfig(name="x")),
        replace(CELL, train=TrainConfig(num_workers=2)),
    ]
    assert {cell.digest for cell in renamed} == {CELL.digest}
    changed = [
        replace(CELL, label="random"),
        replace(CELL, seed=1),
        replace(CELL, data_digest="abd"),
        replace(CELL, version="2"),
        replace(CELL, train=TrainConfig(lr=1.0)),
        replace(CELL, rules=RulesConfig(ties="positive")),
        replace(CELL, model=ModelConfig("fpn")),
        replace(CELL, scores=("f1",)),
        replace(CELL, code=(("a.B", "0123"),)),
        replace(CELL, model=ModelConfig(class_path="a.B")),
        replace(CELL, model=ModelConfig(init_args={"decoder_channels": [8]})),
        replace(CELL, train=TrainConfig(transforms=[{"class_path": "a.B"}])),
        replace(CELL, train=TrainConfig(precision="16-mixed")),
    ]
    assert len({CELL.digest, *(cell.digest for cell in changed)}) == len(changed) + 1


def test_file_names_hold_plain_characters():
    assert slug("../é b:c") == "b-c"
    assert slug("...") == "cell"
