"""A cell that trains in several processes gives what one process finds with the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch

from irrbench import VotePatterns, segmentation_bounds
from irrbench.commands import ConfigError, load_config
from irrbench.data import SegmentationDataset, collate, load_folder
from irrbench.grid_config import TrainConfig
from irrbench.tracking import open_store
from irrbench.training.batches import TrainingSet, image_facts
from irrbench.training.fit import has_processes
from irrbench.training.models import make_module
from irrbench.training.results import load_cell
from tests.training.conftest import run_recorded, small_config
from tests.training.study import write_study
from tests.training.test_cells import CELL

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:sqlalchemy")


@pytest.mark.parametrize(
    ("train", "several"),
    [
        (TrainConfig(), False),
        (TrainConfig(devices="1"), False),
        (TrainConfig(devices=2), True),
        (TrainConfig(devices="auto"), True),
        (TrainConfig(strategy="ddp"), True),
    ],
)
def test_when_a_cell_has_processes(train, several):
    assert has_processes(replace(CELL, train=train)) is several


@pytest.mark.parametrize("devices", ["0", "-2", "many"])
def test_unusable_devices(devices):
    with pytest.raises(
        ConfigError, match=rf"train.devices must be a whole number of 1 or more, or auto; found '{devices}'"
    ):
        load_config(None, ["--train.devices", devices])


def several(study, place: Path, store: str, **changes):
    given = {
        "models": [{"class_path": "tiny_nets.Net"}],
        "labels": ["soft"],
        "train.accelerator": "cpu",
        "train.devices": 2,
        "train.strategy": "ddp",
        **changes,
    }
    return small_config(study, place, store, **given)


@pytest.mark.slow
def test_two_processes_train_one_cell(study, with_nets, store, tmp_path):
    config = several(study, tmp_path / "out", store)
    result = run_recorded(config)
    assert result.code == 0, result.text
    (folder,) = (tmp_path / "out" / "cells").iterdir()
    cell = load_cell("Net soft", folder)
    data = load_folder(study).split("test")
    # 5 images for two processes: one of them was seen twice, and counts once.
    assert sorted(cell.table["image_id"]) == sorted(data.image_ids)
    assert cell.curve["epoch"].tolist() == [0, 1]
    module = make_module(config.models[0], CELL.train, *image_facts(load_folder(study)))
    module.load_state_dict(torch.load(folder / "best.ckpt", weights_only=False)["state_dict"])
    module.eval()
    for i, image_id in enumerate(data.image_ids):
        batch = collate([SegmentationDataset(data)[i]])
        with torch.no_grad():
            mask = module(batch["image"])[0, 0, :32, :40] > 0
        assert torch.equal(mask, torch.from_numpy(cell.prediction(image_id)))
        patterns = VotePatterns.from_masks(torch.from_numpy(data.masks(i))[None], preds=mask[None])
        row = cell.table.set_index("image_id").loc[image_id]
        assert row["iou"] == pytest.approx(float(segmentation_bounds(patterns).model["iou"]), abs=1e-12, nan_ok=True)
    client, experiment_id = open_store(store, "irrbench: study")
    names = sorted(run.info.run_name for run in client.search_runs([experiment_id]))
    assert names == ["Net soft", "average rater · study · ties average", "naive rater · study · ties average"]


@pytest.mark.slow
def test_two_processes_share_the_crops_of_an_epoch_and_a_resumed_training_draws_the_same(with_nets, store, tmp_path):
    study = write_study(tmp_path / "study")
    crops = {"train.crop": 32, "train.crops_per_image": 2, "train.batch_size": 4, "train.max_epochs": 3}
    epochs, steps = 3, 2  # 16 crops an epoch: two processes with 2 batches of 4
    init_args = {"notes": str(tmp_path / "notes"), "dies_at": 2 * steps}
    (tmp_path / "notes").mkdir()
    model = {"class_path": "tiny_nets.Noting", "init_args": init_args}
    config = several(study, tmp_path / "out", store, models=[model], labels=["random"], experiment="crops", **crops)
    assert [run_recorded(config).code for _ in range(2)] == [1, 0]
    notes = [
        [json.loads(line) for line in path.read_text().splitlines()] for path in sorted(tmp_path.glob("notes/*.notes"))
    ]
    data = load_folder(study)
    # What a training that nobody killed draws, in one process.
    facts, training = image_facts(data), TrainingSet(data.split("train"), label="random", seed=0, train=config.train)
    assert [len(batches) for batches in notes] == [epochs * steps] * 2
    for epoch in range(epochs):
        training.set_epoch(epoch)
        images = torch.stack([training[i]["image"] for i in range(len(training))]).double()
        expected = ((images - facts.mean[0]) / facts.std[0]).sum((1, 2, 3))
        one, other = (list(chain(*batches[steps * epoch : steps * (epoch + 1)])) for batches in notes)
        assert sorted(one + other) == pytest.approx(sorted(expected.tolist()), rel=1e-3)
        assert sorted(one) != sorted(other)
    assert notes[0][:steps] != notes[0][steps : 2 * steps]


@pytest.mark.slow
def test_what_the_processes_wrote_is_in_the_traceback(study, with_nets, store, tmp_path):
    changes = {"models": [{"class_path": "tiny_nets.Broken"}], "train.devices": 1}  # one, but a process of its own
    config = several(study, tmp_path / "out", store, **changes)
    result = run_recorded(config)
    assert result.code == 1
    assert "RuntimeError: out of luck" in result.text


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_processes_end_with_the_one_that_started_them(study, with_nets, store, tmp_path):
    flags = {"data": str(study), "output": str(tmp_path / "out"), "uri": store}
    code = (
        "import json, sys; from pathlib import Path; from tests.training.test_processes import several; "
        "from irrbench.commands import run_benchmark; f = json.loads(sys.argv[1]); "
        "run_benchmark(several(Path(f['data']), Path(f['output']), f['uri'], **{'train.max_epochs': 5000}))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(flags)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # by which its processes are known
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, env=environment
    ) as running:
        deadline = time.monotonic() + 200
        while not list(tmp_path.glob("out/cells/*/last.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert len(_helpers(tmp_path)) == 2
        os.kill(running.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while _helpers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _helpers(tmp_path)


def _helpers(place: Path) -> list[str]:
    """Processes of a cell whose data are in a folder, by what they inherited."""
    return [
        process.name for process in Path("/proc").iterdir() if process.name.isdigit() and _is_helper(process, place)
    ]


def _is_helper(process: Path, place: Path) -> bool:
    try:
        command, environment = ((process / name).read_bytes() for name in ("cmdline", "environ"))
    except OSError:  # it has just ended
        return False
    return b"irrbench.training.fit" in command and str(place).encode() in environment
