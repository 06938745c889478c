"""Configurations: YAML and flags, and what is said about those that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

import irrbench
from irrbench._settings import _expected, _fields, load_settings
from irrbench.config import (
    BenchmarkConfig,
    ConfigError,
    FinishedConfig,
    ReliabilityConfig,
    load_config,
    load_study_config,
    slug,
    to_yaml,
)
from irrbench.grid_config import ModelConfig, TrainConfig

CONFIGS = Path(irrbench.__file__).parent / "configs"


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
        ("models: [{architectur: unet}]", "c.yaml: models[0]: unknown key 'architectur'. Did you mean 'architecture'?"),
        ("rules: {zzz: 1}", "unknown key 'zzz'. Known are ties, empty_reference, threshold, tolerance, lesion_iou."),
        ("train: 3", "c.yaml: train: expected keys and values, found 3."),
        ("- a", "expected keys and values, found ['a']."),
        ("a: [", "c.yaml is no valid YAML"),
        ("train: {batch_size: many}", "train.batch_size must be a whole number of 1 or more; found 'many'."),
        ("rules: {ties: maybe}", "rules.ties must be one of average, negative, positive, exclude; found 'maybe'."),
        ("train: {max_epochs: 0}", "train.max_epochs must be a whole number of 1 or more; found 0."),
        ("train: {lr: 0}", "train.lr must be a number greater than 0; found 0."),
        ("rules: {threshold: 1.5}", "rules.threshold must be a number between 0 and 1; found 1.5."),
        ("scores: [dice]", "dice"),
        (
            "seeds: [-1]",
            "seeds must be a list in square brackets with entries that are each a whole number of 0 or more; found",
        ),
        ("models: [{class_pth: a.B}]", "c.yaml: models[0]: unknown key 'class_pth'. Did you mean 'class_path'?"),
        (
            "models: [{class_path: 3}]",
            "models[0].class_path must be text (in quotes if it looks like a number), or null; found 3.",
        ),
        ("models: [{class_path: a.B, init_args: [1]}]", "models[0].init_args must be keys and values; found [1]."),
        ("models: [{}, {architecture: [1]}]", "models[1].architecture must be text"),
        (
            "train: {transforms: [{class: a.B}]}",
            "train.transforms must be a list of {class_path: ..., init_args: {...}}",
        ),
        (
            "train: {transforms: [a.B]}",
            "train.transforms must be a list in square brackets with entries that are each keys and values",
        ),
        ("train: {devices: 0}", "train.devices must be a whole number of 1 or more, or auto; found 0."),
        ("executor: slurm", "executor must be one of loky, dask, ray; found 'slurm'."),
        ("data: 7", "data must be text (in quotes if it looks like a number), or null; found 7."),
        ("labels:", "labels must be a list in square brackets ([a, b]) with entries that are each text"),
        ("predictions: {a: 1}", "predictions must be keys and values, each value text"),
        ("finished: {threshold: 1}", "finished.threshold must be a number between 0 and 1, or auto, or null; found 1."),
        ("models: [null, 3]", "c.yaml: models[1]: expected keys and values, found 3."),
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


def test_all_problems_are_told_at_once(tmp_path):
    file = write(tmp_path / "c.yaml", "train: {batch_size: eight, epochs: 3}\nmodels: [{name: 1}]\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, ["--labels", "soft", "--seed=3"], changes={"workers": 0, "rules.tie": "x"})
    starts = [line.partition(" must be")[0] for line in str(caught.value).splitlines()]
    assert starts == [
        "train.batch_size",
        "c.yaml: train: unknown key 'epochs'. Did you mean 'max_epochs'?",
        "models[0].name",
        "labels",
        "unknown flag '--seed'. Did you mean '--seeds'?",
        "workers",
        "rules: unknown key 'tie'. Did you mean 'ties'?",
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["stray"], "expected flags, found 'stray'; see --help"),
        (["--labels", "[soft]", "stray"], "expected flags, found 'stray'; see --help"),
        (["--train.augment"], "--train.augment needs a value, such as --train.augment VALUE."),
        (["--quick"], "unknown flag '--quick'. "),
        (["--label+", "soft"], "unknown flag '--label+'. Did you mean '--labels'?"),
        (["--labels", "--seeds", "[1]"], "--labels needs a value, such as --labels VALUE."),
        (["--models", "[{"], "--models is no valid YAML: "),
        (["--train", "3"], "train: expected keys and values, found 3."),
        (["--data+", "x"], "data must be text"),
        (
            ["--statistics.margins.iou", "1"],
            "unknown flag '--statistics.margins.iou'. Did you mean '--statistics.margins'?",
        ),
    ],
)
def test_unusable_flags(flags, message):
    with pytest.raises(ConfigError) as caught:
        load_config(None, flags)
    assert str(caught.value).startswith(message)


def test_flags_append_to_lists_and_set_parts():
    config = load_config(None, ["--labels+", "soft", "--labels+=[staple]", "--models+", "{architecture: fpn}"])
    assert config.labels == ["majority", "random", "soft", "staple"]
    assert [model.architecture for model in config.models] == ["unet", "linknet", "fpn"]
    assert load_config(None, ["--folder.raters+", "anna"]).folder.raters == ["anna"]
    parts = load_config(None, ["--predictions.a", "x", "--predictions.b=y", "--train", "{lr: 1, augment: no}"])
    assert (parts.predictions, parts.train.lr, parts.train.augment) == ({"a": "x", "b": "y"}, 1.0, False)


def test_text_stays_text_and_numbers_are_plain_numbers(tmp_path):
    flags = ["--experiment", "2024", "--output", "a: b", "--data", "null", "--train.strategy", "1"]
    config = load_config(None, flags)
    assert (config.experiment, config.output, config.data, config.train.strategy) == ("2024", "a: b", None, "1")
    file = write(tmp_path / "c.yaml", "experiment: 2024-05-01\ntrain: {batch_size: '4', lr: 1e-4}\nfinished:\n")
    config = load_config(file, ["--seeds", "[1]"])
    assert (config.experiment, config.train.batch_size, config.train.lr) == ("2024-05-01", 4, 1e-4)
    assert [type(n) for n in (config.train.batch_size, config.train.lr, config.seeds[0])] == [int, float, int]
    init_args = (
        load_config(None, ["--models", "[{init_args: {lr: 1e-4, day: 2024-05-01, 1: true}}]"]).models[0].init_args
    )
    assert init_args == {"lr": 1e-4, "day": "2024-05-01", 1: True}


def test_dataclasses_are_values_too():
    changes = {"finished": FinishedConfig("auto"), "models": [ModelConfig(name="a")], "predictions": {"a v1.0": "x"}}
    config = load_config(changes=changes)
    assert (config.finished, config.models) == (FinishedConfig("auto"), [ModelConfig(name="a")])
    assert config.predictions == {"a v1.0": "x"}


def test_a_bare_name_is_a_shipped_file_unless_there_is_one_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("default") == load_config("folder") == BenchmarkConfig()
    assert load_study_config("reliability") == ReliabilityConfig()
    write(tmp_path / "default", "seeds: [7]")
    assert load_config("default").seeds == [7]
    names = "default, folder, label_noise, reliability"
    with pytest.raises(ConfigError, match=rf"x/default cannot be read: .* a name among {names}\."):
        load_config("x/default")


@pytest.mark.parametrize("name", ["default", "folder"])
def test_shipped_files_load(name):
    config = load_config(CONFIGS / f"{name}.yaml")
    assert len(config.models) * len(config.labels) * len(config.seeds) >= 4


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


def test_file_names_hold_plain_characters():
    assert slug("../é b:c") == "b-c"
    assert slug("...") == "cell"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["generalize=all", "interval=percentile"],
            "interval must be one of auto, hall, student with .*: all; found percentile",
        ),
        (["generalize=seeds", "interval=bca"], "auto, hall, student, expanded, percentile with .*: seeds; found bca"),
        (["min_images=0"], "min_images"),
        (["margins={iuo: 0.1}"], "margins must give scores .* found iuo: 0.1"),
        (["margins={iou: 0}"], "greater than 0, .* found iou: 0"),
        (["failure={iuo: 0.1}"], "failure must give scores .* found iuo: 0.1"),
        (["failure={iou: .nan}"], "failure must give scores .* found iou: nan"),
        (["margins={hd95: 1}"], "margins: hd95 is of a score that is not among scores; found iou, "),
        (["failure={iou: 0.3, hd95: 5}"], "failure: hd95 is of a score that is not among scores"),
        (["margins={iou: 1}"], "smaller than the range of the score, which is 1 for iou; found iou: 1"),
        (["failure={brier: 2}"], "values that scores can have, from 0 to 1 for brier; found brier: 2"),
        (["alternative_margin=1"], r"alternative_margin must be a number from 0 to below 1; found .1"),
        (["quantiles=1"], "quantiles must be a whole number of 2 or more; found .1"),
        (
            ["interval=wide"],
            "statistics.interval must be one of auto, hall, student, expanded, percentile, bca; found 'wide'",
        ),
    ],
)
def test_statistics_that_cannot_be_used_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, [f"--statistics.{flag}" for flag in flags])


def test_margins_and_failures_of_scores_that_are_there():
    flags = ["--statistics.margins", "{hd95: 1, ged: 1.5}", "--scores", "[hd95, ged]", "--predictions", "{unet: net}"]
    assert load_config(None, [*flags, "--finished.threshold", "0.5"]).statistics.failure == {"iou": 0.3}
    assert load_config(None, ["--statistics.failure", "{hd95: 5}", "--scores", "[hd95]"]).statistics.margins == {}


@pytest.mark.parametrize("kind", [BenchmarkConfig, ReliabilityConfig])
def test_every_field_says_what_it_takes(kind):
    assert all(_expected(hint) for hint in _fields(kind).values())
    for section in ("rules", "study"):
        if hasattr(kind(), section):
            with pytest.raises(
                ConfigError, match=rf"{section}.lesion_iou must be a number greater than 0 and at most 1"
            ):
                load_settings(kind, None, [f"--{section}.lesion_iou", "2"], {})


def test_secrets_are_not_stored_and_are_asked_for_again(tmp_path):
    flags = ["--executor_options", "{password: s3cret, tls: true}", "--models", "[{init_args: {hub: {token: s3cret}}}]"]
    stored = to_yaml(load_config(None, flags))
    assert "s3cret" not in stored
    assert yaml.safe_load(stored)["executor_options"] == {"password": "PASSWORD", "tls": True}
    file = write(tmp_path / "c.yaml", stored)
    for given, missing in (([], r"models\.0\.init_args\.hub\.token"), (flags[2:], r"executor_options\.password")):
        with pytest.raises(ConfigError, match=rf"^{missing}: found PASSWORD, .*Expected the value itself"):
            load_config(file, given)
    assert load_config(file, flags) == load_config(None, flags)


def test_models_of_any_name_keep_their_folders(tmp_path):
    config = load_config(None, ["--predictions", "{two-pass: a, my-secret: b, unet: c}"])
    assert load_config(write(tmp_path / "c.yaml", to_yaml(config)), []) == config


def test_values_that_do_not_go_together_are_told_with_all_others(tmp_path):
    (tmp_path / "c.yaml").write_text("train: {batchsize: 4}\nstatistics: {margins: {iuo: 0.1}}\nworkers: none\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.yaml")
    first, second, third = str(caught.value).split("\n")
    assert first == "c.yaml: train: unknown key 'batchsize'. Did you mean 'batch_size'?"
    assert second == "workers must be a whole number of 1 or more; found 'none'."
    assert third.startswith("statistics.margins must give scores")
    assert third.endswith("found iuo: 0.1.")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
HOSTILE = {
    f"{LAUGHS}labels: *h\n": "262,144 letters with its aliases",
    f"{LAUGHS}executor_options: {{x: *h}}\n": "262,144 letters with its aliases",
    "labels: &a [*a]\n": "262,144 letters with its aliases",
    "executor_options: &a {x: *a}\n": "262,144 letters with its aliases",
    f"labels: {'[' * 60}{']' * 60}\n": "over 50 levels",
    f"labels: {'[' * 30_000}": "(nest|over 50 levels)",  # as PyYAML was built
    f"folder: {{raters: [{'a, ' * 2000}]}}\n": "about 1000 values in one place",
    f"x: &x [{'1, ' * 18}]\nfolder: {{classes: {{{''.join(f'r{n}: *x, ' for n in range(499))}}}}}\n": "in one place",
    f"seeds: [{'9' * 5000}]\n": "digits",
    "seeds: [!!int '']\n": "no valid YAML",
    "data: !!timestamp 2020-99-99\n": "month",
    "train: {lr: !!float 'x'}\n": "could not convert",
    "train: {augment: !!bool 'x'}\n": "no valid YAML",
    "labels: !!python/object/apply:os.getcwd []\n": "could not determine a constructor",
    "# " + "x" * 70_000: "it holds 70,002 bytes; at most 65,536 are read",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_yaml_that_would_grow_or_never_end_is_refused_before_it_is_made(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"c\.yaml .*\n?.*{HOSTILE[text]}") as error:
        load_config(tmp_path / "c.yaml")
    assert len(str(error.value)) < 800


def test_aliases_and_merged_keys_of_an_ordinary_size_are_read(tmp_path):
    (tmp_path / "c.yaml").write_text("labels: &some [soft, majority]\nscores: [iou]\nfolder: {raters: *some}\n")
    config = load_config(tmp_path / "c.yaml")
    assert config.folder.raters == config.labels == ["soft", "majority"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_a_configuration_is_a_regular_file(tmp_path, make):
    make(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"c\.yaml cannot be read: it is no regular file"):
        load_config(tmp_path / "c.yaml")


def test_messages_of_very_many_or_very_long_problems_are_short(tmp_path):
    (tmp_path / "c.yaml").write_text("".join(f"{'k' * 1000}{number}: 1\n" for number in range(50)))
    with pytest.raises(ConfigError, match="and 30 more") as error:
        load_config(tmp_path / "c.yaml")
    assert len(str(error.value)) < 20_000
