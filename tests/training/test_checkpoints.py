"""A checkpoint is data: nothing in it is run, and one that does not fit makes its cell start again, and say so."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from irrbench.training import checkpoints
from irrbench.training.checkpoints import (
    BEST,
    LAST,
    AtomicCheckpointIO,
    LastEpoch,
    best_weights,
    find_checkpoint,
    read_checkpoint,
)
from tests.training.conftest import run_recorded
from tests.training.test_resume import killed_run, only_cell, tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:sqlalchemy")
WEIGHTS = {
    "epoch": 1,
    "global_step": 4,
    "pytorch-lightning_version": "2.4.0",
    "state_dict": {"w": torch.ones(3)},
    "loops": {},
}
TRAINING = {**WEIGHTS, "callbacks": {"LastEpoch": {}}, "optimizer_states": [], "lr_schedulers": []}


class Command:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.place),)


def write(folder: Path, last: object = TRAINING, best: object = WEIGHTS) -> Path:
    torch.save(best, folder / BEST)
    torch.save(last, folder / LAST)
    return folder


def repacked(path: Path, change, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as packed:
        parts = {part.filename: change(part.filename, packed.read(part)) for part in packed.infolist()}
    with zipfile.ZipFile(path, "w", compression) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)


@pytest.mark.parametrize("name", [BEST, LAST])
@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_nothing_in_a_checkpoint_is_run(tmp_path, caplog, name, save):
    write(tmp_path)
    save({**TRAINING, "more": Command(tmp_path / "made")}, tmp_path / name)
    with pytest.raises(Exception, match=r"mkdir|zip"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / name)
    assert find_checkpoint(tmp_path) is None
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / LAST).exists()
    assert f"cannot go on from its checkpoint ({name}: " in caplog.text
    assert all(len(line) < 300 for line in caplog.messages)


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ({"epoch": 1}, "it lacks callbacks, global_step, loops, lr_schedulers"),
        ([1, 2], "it lacks callbacks"),
        ({**TRAINING, "callbacks": {}}, "it lacks the scores of the epochs so far"),
        ({**TRAINING, "epoch": "\x1b[2J"}, r"invalid literal for int\(\) with base 10: '\\x1b"),
        ({**TRAINING, "more": Path("x")}, r"it holds pathlib\S*, and only tensors and plain values are read"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(tmp_path, caplog, last, reason):
    assert find_checkpoint(write(tmp_path)) == (tmp_path / LAST, 2)
    assert find_checkpoint(write(tmp_path, last)) is None
    (line,) = caplog.messages
    assert re.search(rf"\(last.ckpt: {reason}.*\); it starts again", line)


def test_what_a_checkpoint_claims_to_hold_is_bounded_by_its_size(tmp_path, caplog):
    write(tmp_path)
    repacked(tmp_path / LAST, lambda name, content: bytes(2**24) if "/data/" in name else content, zipfile.ZIP_DEFLATED)
    assert (tmp_path / LAST).stat().st_size < 2**16
    assert find_checkpoint(tmp_path) is None
    assert "it claims to hold 16,7" in caplog.text
    write(tmp_path, {**TRAINING, "state_dict": torch.ones(200)})  # 200 is K\xc8, and 65,535 is M\xff\xff
    repacked(
        tmp_path / LAST,
        lambda name, content: content.replace(b"K\xc8", b"M\xff\xff") if "data.pkl" in name else content,
    )
    assert find_checkpoint(tmp_path) is None
    assert "it starts again" in caplog.messages[-1]


class Making:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call", [(bytearray, (3 * 10**9,)), (np.ndarray, ((10**5, 10**9),)), (torch.FloatTensor, (10**10,))]
)
def test_what_a_checkpoint_would_make_is_bounded_by_its_size(tmp_path, monkeypatch, call):
    write(tmp_path, {**TRAINING, "state_dict": {"x": Making(*call)}})
    monkeypatch.setattr(checkpoints, "_other_types", lambda _: pytest.fail("it is read"))
    with pytest.raises(ValueError, match="asks for more memory than the file has bytes"):
        read_checkpoint(tmp_path / LAST)


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), str])
def test_what_is_no_file_is_no_checkpoint(tmp_path, make):
    for name in (BEST, LAST):
        write(tmp_path)
        (tmp_path / name).unlink()
        make(tmp_path / name)
        assert find_checkpoint(tmp_path) is None
        shutil.rmtree(tmp_path / name) if (tmp_path / name).is_dir() else (tmp_path / name).unlink(missing_ok=True)


def test_what_trainings_store_is_read_again(tmp_path, caplog):
    values = {
        "n": [np.float32(1.5), np.arange(3), np.bool_(1), np.array(["a"])],
        "o": OrderedDict(a={1, 2}),
        "t": (None, 1j),
    }
    AtomicCheckpointIO().save_checkpoint({**TRAINING, **values}, tmp_path / LAST)
    found = read_checkpoint(tmp_path / LAST)
    assert found["o"] == values["o"]
    assert found["t"] == values["t"]
    assert [str(each) for each in found["n"]] == [str(each) for each in values["n"]]
    assert not caplog.messages


def test_types_of_a_users_own_are_said_at_once_and_read_by_the_process_that_wrote_them(tmp_path, caplog):
    here = AtomicCheckpointIO()
    for _ in range(2):
        here.save_checkpoint({**TRAINING, "mine": Path("a")}, tmp_path / LAST)
    (line,) = caplog.messages
    assert "its checkpoints hold pathlib" in line
    assert "a killed training starts again" in line
    assert here.load_checkpoint(tmp_path / LAST)["mine"] == Path("a")
    with pytest.raises(ValueError, match="it holds pathlib"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / LAST)
    torch.save({**TRAINING, "mine": Command(tmp_path / "made")}, tmp_path / LAST)  # another process did
    with pytest.raises(ValueError, match=r"it holds posix\.mkdir"):
        here.load_checkpoint(tmp_path / LAST)


def test_a_modules_arguments_are_left_out_where_they_are_objects(tmp_path, caplog):
    arguments = {"hparams_name": "kwargs", "hyper_parameters": {"loss": Path("a")}}
    AtomicCheckpointIO().save_checkpoint({**TRAINING, **arguments}, tmp_path / LAST)
    assert "hyper_parameters" not in read_checkpoint(tmp_path / LAST)
    AtomicCheckpointIO().save_checkpoint({**TRAINING, "hyper_parameters": {"width": 4}}, tmp_path / LAST)
    assert read_checkpoint(tmp_path / LAST)["hyper_parameters"] == {"width": 4}
    assert not caplog.messages


def test_no_path_in_a_checkpoint_is_removed(tmp_path):
    (tmp_path / "thesis").mkdir()
    AtomicCheckpointIO().remove_checkpoint(tmp_path / "thesis")
    assert (tmp_path / "thesis").exists()


def test_the_best_score_is_kept_where_the_folder_has_moved(tmp_path):
    best = best_weights(tmp_path / "now", "iou")
    then = {
        **best.state_dict(),
        "dirpath": "/then",
        "best_model_path": "/then/best.ckpt",
        "best_model_score": torch.ones(()),
    }
    best.load_state_dict(
        {**then, "best_k_models": {"/then/best.ckpt": torch.ones(())}, "kth_best_model_path": "/then/best.ckpt"}
    )
    assert best.best_model_path == best.kth_best_model_path == str(tmp_path / "now" / BEST)
    assert best.best_k_models == {best.best_model_path: torch.ones(())}
    assert best.best_model_score == 1
    assert best.state_key.startswith("ModelCheckpoint{")  # also in checkpoints of earlier versions


def test_scores_that_are_no_numbers_are_refused(tmp_path):
    best, last = best_weights(tmp_path, "iou"), LastEpoch(tmp_path, SimpleNamespace(history=[]))
    with pytest.raises(TypeError):
        best.load_state_dict({**best.state_dict(), "best_model_score": "much"})
    for history in ([{}], [{"epoch": 0, "val/iou": "much"}], ["x"], 3):
        with pytest.raises((TypeError, ValueError, KeyError)):
            last.load_state_dict({"history": history, "metrics": {}, "seconds": 1.0})


@pytest.mark.slow
def test_a_checkpoint_of_another_model_makes_its_cell_start_again(study, with_nets, store, tmp_path, caplog):
    undisturbed = tiny(study, tmp_path / "undisturbed", store, experiment="other")
    assert run_recorded(undisturbed).code == 0
    config = tiny(study, tmp_path / "out", store)
    killed_run(config, 2)
    folder = only_cell(tmp_path / "out")
    other = torch.load(folder / LAST, weights_only=True)
    other["state_dict"] = {key: torch.zeros(7) for key in other["state_dict"]}
    torch.save(other, folder / LAST)
    result = run_recorded(config)
    assert result.code == 0, result.text
    assert "it starts again" in caplog.text
    for name in ("leaderboard.csv", "per_image.csv", "comparisons.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name
    assert (folder / "curve.csv").read_bytes() == (only_cell(tmp_path / "undisturbed") / "curve.csv").read_bytes()
