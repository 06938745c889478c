"""A finished cell whose files are damaged, or somebody else's, is found out before anything is read from it."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from irrbench._files import read_frame
from irrbench.config import BenchmarkConfig, RulesConfig
from irrbench.grid_config import ModelConfig
from irrbench.training.cell import Tracking, make_cells, unfinish_damaged
from irrbench.training.results import RESULTS, PackedMask, checksum, file_digest, find_damage, pack_masks
from tests.training.conftest import run_recorded, runs
from tests.training.test_batches import make_data
from tests.training.test_cells import write_first_version_cell
from tests.training.test_resume import only_cell, tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:sqlalchemy")
DATA = make_data(["train", "val", "test"])
SCORES = ["iou", "accuracy"]


def finish(folder: Path, **changes: object) -> None:
    """Let ``done.json`` say that the files are as they were written."""
    done = json.loads((folder / "done.json").read_text()) | changes
    done |= {"files": {name: file_digest(folder / name) for name in RESULTS}}
    (folder / "done.json").write_text(json.dumps(done | {"checksum": checksum(done)}))


@pytest.fixture(params=["with digests", "of an earlier version"])
def cell(tmp_path, request) -> Path:
    write_first_version_cell(tmp_path, "a", DATA, seed=0)
    folder = only_cell(tmp_path)
    if request.param == "with digests":
        finish(folder)
    assert find_damage(folder, SCORES, DATA.split("test")) == ""
    return folder


def damage(folder: Path) -> str:
    return find_damage(folder, SCORES, DATA.split("test"))


@pytest.mark.parametrize("name", ["done.json", *RESULTS])
def test_a_file_cut_short_at_any_byte_is_found(cell, name):
    content = (cell / name).read_bytes()
    for size in {*range(0, len(content), 7), len(content) - 1}:
        (cell / name).write_bytes(content[:size])
        assert name in damage(cell), size
    (cell / name).write_bytes(content)
    assert damage(cell) == ""


OTHERS = [
    b"",
    b"\0" * 99,
    b"\xff\xfe\x00",
    b"[]",
    b"null",
    b"NaN",
    b"{}",
    b'{"bounds": 1}',
    b"[" * 10**6,
    b"a,b\n1\n1,2,3\n",
]


@pytest.mark.parametrize("name", ["done.json", *RESULTS])
def test_whatever_is_in_a_files_place_is_found(cell, name):
    made = [lambda path, content=content: path.write_bytes(content) for content in OTHERS]
    made += [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)]
    made += [lambda path: path.symlink_to("/nowhere")]
    for make in made:
        shutil.rmtree(cell / name) if (cell / name).is_dir() else (cell / name).unlink(missing_ok=True)
        make(cell / name)
        assert f"{name}: " in damage(cell)
        assert len(damage(cell)) < 300 + len(str(cell))


@pytest.mark.parametrize("name", ["done.json", *RESULTS])
def test_an_edited_file_is_found(tmp_path, name):
    write_first_version_cell(tmp_path, "a", DATA, seed=0)
    folder = only_cell(tmp_path)
    finish(folder)
    content = (folder / name).read_bytes()
    if name == "done.json":
        edited = content.replace(b'"best_epoch": 1', b'"best_epoch": 0')
    else:
        edited = (
            content.replace(b"0.5", b"0.9").replace(b"0.2", b"0.9") if name != "predictions.npz" else content + b"\0"
        )
    assert edited != content
    (folder / name).write_bytes(edited)
    assert damage(folder) == f"{folder / name}: its content is not what was written"


def test_digests_that_fit_make_nothing_of_other_images_or_of_a_bomb(tmp_path):
    write_first_version_cell(tmp_path, "a", DATA, seed=0)
    folder = only_cell(tmp_path)
    finish(folder)
    table = (folder / "per_image.csv").read_text()
    for text, why in (
        (table + table.splitlines()[-1] + "\n", "its images are not the 1 of the test"),
        (table.replace("i2", "i3"), "its images are not the 1 of the test"),
        (table.replace("iou", "uoi"), "it lacks iou, iou_ceiling, iou_floor"),
        (table.replace("accuracy_floor", "accuracy_flo"), "it lacks accuracy_floor"),
        (table.replace("0.5", "much"), "could not convert string to float: 'much'"),
    ):
        (folder / "per_image.csv").write_text(text)
        finish(folder)
        assert damage(folder) == f"{folder / 'per_image.csv'}: {why}"
    (folder / "per_image.csv").write_text(table)
    with (
        zipfile.ZipFile(folder / "predictions.npz", "w", zipfile.ZIP_DEFLATED) as packed,
        packed.open("ids.npy", "w") as file,
    ):
        for _ in range(64):
            file.write(bytes(2**20))
    finish(folder)
    assert damage(folder) == f"{folder / 'predictions.npz'}: it claims to be larger than its masks"
    np.savez(folder / "predictions.npz", ids=np.array([{"i2": 1}], object), shapes=np.zeros((1, 2), int))
    finish(folder)
    assert "Object arrays cannot be loaded" in damage(folder)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda masks: {"bytes": masks["bytes"].astype(float)}, "it lacks masks"),
        (lambda masks: {"bytes": masks["bytes"][:-1]}, "it lacks masks"),
        (lambda masks: {"shapes": masks["shapes"].astype(float)}, "its sizes are no whole numbers"),
    ],
)
def test_masks_of_another_kind_are_no_masks(tmp_path, change, why):
    write_first_version_cell(tmp_path, "a", DATA, seed=0)
    folder, test = only_cell(tmp_path), DATA.split("test")
    shapes = [test.shape(index) for index in range(len(test))]
    packed = pack_masks(
        {
            i: PackedMask(s, np.zeros(-(-s[0] * s[1] // 8), np.uint8))
            for i, s in zip(test.image_ids, shapes, strict=True)
        }
    )
    for changes, expected in (({}, ""), (change(packed), f"{folder / 'predictions.npz'}: {why}")):
        np.savez(folder / "predictions.npz", **packed | changes)
        finish(folder)
        assert damage(folder) == expected


def test_a_damaged_cell_is_unfinished_and_said_once(tmp_path, caplog):
    for seed in (0, 3):
        write_first_version_cell(tmp_path, f"net-{seed}", DATA, seed=seed)
    rules = RulesConfig(ties="negative")
    config = BenchmarkConfig(models=[ModelConfig()], labels=["soft"], seeds=[0, 3], rules=rules, output=str(tmp_path))
    one, two = make_cells(config, DATA, Tracking("sqlite:///unused.db", "unused", "#000000"))
    (one.folder / "curve.csv").unlink()
    for _ in range(2):
        unfinish_damaged([one, two], DATA)
    reason = f"{one.folder / 'curve.csv'}: No such file or directory"
    assert caplog.messages == [f"{one.name} counts as unfinished and is trained again. {reason}"]
    assert not (one.folder / "done.json").exists()
    assert (two.folder / "done.json").exists()


@pytest.mark.slow
def test_a_damaged_cell_is_trained_again_in_the_same_run(study, with_nets, store, tmp_path, caplog):
    config = tiny(study, tmp_path / "out", store, **{"train.max_epochs": 2})
    assert run_recorded(config).code == 0
    folder = only_cell(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name in {"run.json", *RESULTS}}
    leaderboard = (tmp_path / "out" / "leaderboard.csv").read_bytes()
    lines = (folder / "per_image.csv").read_text().splitlines(keepends=True)
    (folder / "per_image.csv").write_text("".join(lines[:-2]))
    (folder / "curve.csv").unlink()
    (folder / "curve.csv").mkdir()
    (folder / "best.ckpt").unlink()
    (folder / "best.ckpt").mkdir()
    result = run_recorded(config)
    assert result.code == 0, result.text
    said = f"Net random counts as unfinished and is trained again. {folder / 'per_image.csv'}: "
    assert [line for line in caplog.messages if line.startswith(said)] == [said + "its content is not what was written"]
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
    assert (tmp_path / "out" / "leaderboard.csv").read_bytes() == leaderboard
    assert len(read_frame(folder / "per_image.csv")) == 5
    assert len(runs(store, config)) == 3
    caplog.clear()
    assert "finished before" in run_recorded(config).text
    assert not caplog.messages
