"""The command line: flags, messages, exit codes."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from tests.training.study import ids, save, write_predictions, write_study

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("data") / "study")


HELP = {
    "script": [str(SCRIPT), "--help"],
    "command": ["-m", "irrbench", "benchmark", "--help"],
    "all": ["-m", "irrbench", "--help"],
    "reliability": [str(SCRIPT.with_name("reliability.py")), "--help"],
}


@pytest.mark.parametrize("arguments", HELP.values(), ids=HELP)
def test_help_is_printed(arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize("arguments", [HELP["script"], HELP["command"]])
def test_help_names_every_flag(arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    flags = ("config", "data", "predictions", "output", "tracking-uri", "max-epochs", "seed", "check", "resume")
    more = ("executor", "workers", "address", "cells", "print-config")
    assert all(f"--{flag}" in done.stdout for flag in (*flags, *more))


@pytest.mark.parametrize("name", ["benchmark", "reliability"])
def test_help_comes_at_once_because_it_loads_nothing_heavy(name):
    script = str(SCRIPT.with_name(f"{name}.py"))
    code = f"import runpy, sys; sys.argv = ['b', '--help']\ntry: runpy.run_path({script!r}, run_name='__main__')\n"
    code += "except SystemExit: print(sorted({'torch', 'numpy', 'pandas', 'mlflow', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["--train.batchsize", "3"], "unknown flag '--train.batchsize'. Did you mean '--train.batch_size'?"),
        (["--train.batch_size", "some"], "train.batch_size must be a whole number of 1 or more; found 'some'"),
        (["--max-epochs", "many"], "train.max_epochs must be a whole number of 1 or more; found 'many'"),
        (["--seed", "x"], "seeds must be a list in square brackets with entries that are each a whole number"),
        (["--executor", "slurm"], "executor must be one of loky, dask, ray; found 'slurm'"),
        (["study"], "expected flags, found 'study'"),
        (["--predictions", "folder"], "a folder that holds a folder for each model; there is no folder 'folder'"),
        (["--data", "nowhere"], "nowhere: found nothing; expected a data folder"),
        (["--max-epochs", "0"], "train.max_epochs must be a whole number of 1 or more; found '0'"),
        (["--cells", "3/2"], "--cells must be N/M with N from 1 to M, such as 1/8; found '3/2'"),
        (["--cells", "two"], "--cells must be N/M"),
        (["--address", "tcp://x:1"], "--address tcp://x:1 is that of a cluster; choose --executor dask or ray"),
    ],
)
def test_bad_usage_is_one_message_and_code_2(script, capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert script.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmark: ")
    assert message in error
    assert "Traceback" not in error


def test_the_printed_configuration_can_be_used_again(script, capsys, tmp_path):
    flags = [
        "--data",
        "d",
        "--max-epochs",
        "3",
        "--models",
        "[{class_path: a.B}]",
        "--executor",
        "dask",
        "--print-config",
    ]
    assert script.main(flags) == 0
    text = capsys.readouterr().out
    assert "max_epochs: 3" in text
    (tmp_path / "c.yaml").write_text(text)
    assert script.main(["--config", str(tmp_path / "c.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text


def test_check_of_a_sound_folder(script, capsys, study):
    assert script.main(["--check", "--data", str(study)]) == 0
    assert "no problems found" in capsys.readouterr().out


def test_check_lists_every_problem(script, capsys, tmp_path):
    root = write_study(tmp_path / "study")
    save(root / "masks" / "anna" / "test0.png", np.zeros((3, 4), np.uint8))
    (root / "masks" / "ben" / "val1.png").unlink()
    (root / "images" / "train2.png").write_bytes(b"no picture")
    assert script.main(["--check", "--data", str(root)]) == 2
    text = capsys.readouterr().out.replace("\n", "")
    assert all(part in text for part in ("anna/test0.png", "val1", "train2.png", "problems"))


def test_check_looks_at_predictions_too(script, capsys, study, tmp_path):
    folder = write_predictions(tmp_path / "p", ids("test")[1:])
    assert script.main(["--check", "--data", str(study), "--predictions", f"p={folder}"]) == 2
    assert "test0: found no file" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--models", "[{architecture: fpn}, {architecture: unett}]"], "models[1]: There is no architecture 'unett'"),
        (["--labels", "[median]"], "labels: label='median': expected one of majority"),
        (
            ["--train.loss", "dicebce"],
            "train.loss: There is no loss 'dicebce' among dice_bce, bce, dice,",
        ),
    ],
)
def test_check_looks_at_the_grid_too(script, capsys, study, flags, message):
    assert script.main(["--check", "--data", str(study), *flags]) == 2
    assert message in capsys.readouterr().out.replace("\n", " ")


def test_finished_predictions_by_flags(script, capsys, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [write_predictions(tmp_path / name, ids("test"), wider=w) for name, w in (("a", 0.5), ("b", 3))]
    flags = [flag for f in folders for flag in ("--predictions", f"{f.name} v1.0={f}")]
    assert script.main(["--data", str(study), *flags, "--statistics.resamples", "50"]) == 0
    board = pd.read_csv(tmp_path / "outputs" / "benchmark" / "leaderboard.csv")
    assert board.query("role == 'model'")["name"].tolist() == ["a v1.0", "b v1.0"]
    assert (tmp_path / "mlflow.db").exists()
    assert "v1.0" in (tmp_path / "outputs" / "benchmark" / "report.html").read_text()
    assert "average rater" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_by_the_command(study, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("models: [{architecture: fpn, encoder: resnet18}]\nlabels: [majority]\n")
    flags = ["--max-epochs", "1", "--seed", "3", "--config", config, "--data", study, "--train.batch_size", "4"]
    done = subprocess.run([sys.executable, SCRIPT, *flags], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "average rater" in done.stdout
    stored = (tmp_path / "outputs" / "benchmark" / "config.yaml").read_text()
    assert "max_epochs: 1" in stored
    assert "seeds:\n- 3" in stored


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_says_so(study, tmp_path, number):
    flags = ["--max-epochs", "5000", "--data", study, "--train.batch_size", "4", "--output", tmp_path / "out"]
    flags += ["--models", "[{architecture: fpn, encoder: resnet18}]", "--labels", "[majority]"]
    command = [sys.executable, SCRIPT, *flags]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # a shell may have started the tests with Ctrl-C ignored, which children inherit
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as running:
        try:
            deadline = time.monotonic() + 900  # a busy machine is slow, and that is no failure
            while not list(tmp_path.glob("out/cells/*/best.ckpt")) and time.monotonic() < deadline:
                time.sleep(0.2)
            running.send_signal(number)
            _, error = running.communicate(timeout=900)
        finally:
            running.kill()
    assert running.returncode == 130
    assert "interrupted; finished cells are kept and so are the epochs of the others" in error
    assert "Traceback" not in error
