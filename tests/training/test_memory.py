"""What a training takes, and what is said where memory does not suffice."""

from __future__ import annotations

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from irrbench._display import SafeConsole
from irrbench.commands.checking import check
from irrbench.config import load_config
from irrbench.training.failures import explain
from irrbench.training.losses import LOSSES
from irrbench.training.memory import PROGRAM, Allocated, _dry_run, _recipes, _step, memory_estimate
from irrbench.training.models import create_module, make_module
from tests.training.conftest import run_recorded, small_config
from tests.training.test_windows import make_data

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:sqlalchemy")


def test_the_peak_of_tensors_that_are_alive_at_once():
    with Allocated() as allocated:
        first = torch.zeros(1000)
        second = first + 1  # both are alive
        view = second[10:]  # of the same storage
        del first, view
        third = second * 2
        del second, third
        torch.zeros(500)
    assert allocated.peak == 8000


def test_a_training_step_by_hand():
    """One layer: weights, gradients, and what backward needs; counted on tensors without content as on real ones."""
    peaks = []
    for device in ("meta", "cpu"):
        layer = nn.Linear(50, 40, bias=False, device=device)
        inputs = torch.zeros(8, 50, device=device)
        with Allocated() as allocated:
            layer(inputs).sum().backward()
        peaks.append(allocated.peak)
    assert peaks[0] == peaks[1]
    gradient, output = 50 * 40 * 4, 8 * 40 * 4
    assert gradient + output <= peaks[0] <= 3 * (gradient + output)


def config_of(**train):
    models = [{"class_path": "tiny_nets.Net"}]
    return load_config(None, [], changes={"models": models, **{f"train.{key}": value for key, value in train.items()}})


DATA = make_data(["train"] * 3 + ["val", "test"], [(40, 50), (70, 40), (64, 64), (300, 40), (90, 200)])


def test_the_largest_batches_count(with_nets):
    whole = memory_estimate(config_of(batch_size=2), DATA)
    assert (whole.batch, whole.largest) == ((2, 1, 96, 96), (1, 1, 320, 224))
    assert memory_estimate(config_of(augment=False, batch_size=2), DATA).batch == (2, 1, 96, 64)
    crops = memory_estimate(config_of(batch_size=8, crop=32), DATA)
    assert (crops.batch, crops.largest) == ((3, 1, 32, 32), (1, 1, 300, 200))
    assert crops.train < whole.train
    assert crops.test < whole.test


def test_memory_grows_with_the_batch_and_not_with_the_image_on_crops(with_nets):
    sizes = [(256, 256)] * 8
    small = make_data(["train"] * 6 + ["val", "test"], sizes)
    large = make_data(["train"] * 6 + ["val", "test"], [(512, 512)] * 8)
    steps = {}
    for name, data in (("small", small), ("large", large)):
        for crop in (None, 64):
            steps[name, crop] = memory_estimate(config_of(batch_size=4, crop=crop), data).train - PROGRAM
    assert steps["large", None] > 3 * steps["small", None]
    read = 2 * (512**2 - 256**2) * (4 + 2 + 5)  # what grows is the image that is cut
    assert steps["large", 64] - steps["small", 64] == read


def test_too_much_is_said_with_the_remedy(with_nets):
    found = memory_estimate(config_of(batch_size=2), DATA)._replace(available=1e6)
    text = " ".join(found.lines)
    assert "Net: about" in text
    assert "GB to train (batches 2 x 1 x 96 x 96)" in text
    assert all(key in text for key in ("train.batch_size", "train.crop", "folder.max_side"))


def test_a_module_that_needs_numbers_has_no_estimate(with_nets):
    config = load_config(None, [], changes={"models": [{"class_path": "tiny_nets.NeedsNumbers"}]})
    (line,) = memory_estimate(config, DATA).lines
    assert line.startswith("NeedsNumbers: no estimate (RuntimeError")
    config = load_config(
        None, [], changes={"models": [{"class_path": "tiny_nets.NeedsNumbers"}], "losses": ["gce", "bce"]}
    )
    (line,) = memory_estimate(config, DATA).lines
    assert line.startswith("NeedsNumbers gce, NeedsNumbers bce: no estimate (RuntimeError")


OWN = [{"class_path": "tiny_nets.Squares"}, {"class_path": "torch.nn.BCEWithLogitsLoss"}]  # with the ROI and without


@pytest.mark.parametrize("loss", [*LOSSES, *OWN], ids=str)
@pytest.mark.parametrize("label", ["majority", "annotators"])
def test_a_training_step_with_each_loss_takes_what_it_takes_on_real_tensors(with_nets, loss, label):
    models = [{"class_path": "torch.nn.Conv2d", "init_args": {"out_channels": 1, "kernel_size": 1}}]
    config = load_config(None, [], changes={"models": models, "losses": [loss], "labels": [label]})
    (recipe,) = _recipes(config)
    shape, raters = (2, 1, 32, 64), 3
    found, _ = _dry_run(recipe, config.train, shape, shape, raters)
    annotators = raters if label == "annotators" else None
    module = make_module(
        config.models[0], config.train, 1, [0.0], [1.0], loss=config.losses[0], num_annotators=annotators
    )
    module.log = lambda *_, **__: None
    expected = _step(module.train(), shape, raters)
    assert found == expected


@pytest.mark.parametrize("name", ["dice_bce", "lovasz"])
def test_the_network_of_the_first_releases_takes_what_it_took(name):
    data = make_data(["train"] * 20 + ["val", "test"], [(64, 64)] * 22)
    changes = {"models": [{"architecture": "unet", "encoder": "resnet18"}], "train.batch_size": 8}
    found = memory_estimate(load_config(None, [], changes={**changes, "train.loss": name}), data)
    assert not found.unknown
    assert found.train - PROGRAM == pytest.approx(246.6e6, rel=1e-3)
    assert found.test - PROGRAM == pytest.approx(59.4e6, rel=1e-3)


def test_the_most_demanding_loss_and_label_of_the_grid_count(with_nets):
    def estimate(**changes):
        return memory_estimate(
            load_config(None, [], changes={"models": [{"class_path": "tiny_nets.Net"}], **changes}), DATA
        )

    names = ["bce", "nr_dice"]
    alone = {name: estimate(losses=[name]).train for name in names}
    assert alone["bce"] < alone["nr_dice"]
    both = estimate(losses=names)
    assert (both.model, both.train) == ("Net nr_dice", alone["nr_dice"])
    raters = estimate(losses=names, labels=["soft", "annotators"])
    assert raters.model == "Net annotators nr_dice"
    assert raters.train == estimate(losses=names, labels=["annotators"]).train > both.train
    assert estimate(labels=["annotators"]).model == "Net annotators"


def test_an_estimate_draws_no_random_numbers(with_nets):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    memory_estimate(config_of(batch_size=1), DATA)
    assert torch.equal(torch.rand(2), expected)


def test_check_prints_it(study, capsys):
    assert (
        check(load_config(None, ["--data", str(study), "--models", "[{architecture: fpn}]"]), console=SafeConsole())
        == 0
    )
    assert "memory      fpn-resnet18: about" in capsys.readouterr().out


def exhausted(*_):
    return np.empty(2**60, dtype=np.uint8)


def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def error_of(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("no error")


@pytest.mark.parametrize(
    "function",
    [
        lambda: torch.empty(2**52),
        exhausted,
        lambda: bytearray(2**60),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")),
        lambda: (_ for _ in ()).throw(OSError(12, "Cannot allocate memory")),
    ],
)
def test_real_shortages_are_one_sentence_with_what_to_do(function):
    text = explain(error_of(function))
    assert "Memory did not suffice, it seems. Lower train.batch_size" in text
    assert all(key in text for key in ("train.crop: 256", "folder.max_side"))
    assert "\n" not in text
    assert len(text) < 400


def test_a_loading_process_that_is_killed():
    context = multiprocessing.get_context("fork")
    loader = DataLoader([0], num_workers=1, collate_fn=killed, multiprocessing_context=context)
    assert "Memory did not suffice" in explain(error_of(lambda: list(loader)))


def test_other_errors_are_left_to_their_traceback():
    assert explain(ValueError("out of range")) == ""
    assert explain(RuntimeError("size mismatch")) == ""


def test_cells_that_fail_so_say_it_and_keep_the_traceback_in_their_folder(study, with_nets, store, tmp_path):
    models = [{"class_path": f"tiny_nets.{net}"} for net in ("Greedy", "ThreeChannels", "Net")]
    changes = {"models": models, "labels": ["soft"], "train.max_epochs": 1}
    grid = run_recorded(small_config(study, tmp_path / "out", store, **changes))
    shown = " ".join(grid.text.split())
    assert grid.code == 1
    assert "Memory did not suffice, it seems. Lower train.batch_size (and train.eval_batch_size), train on" in shown
    assert "takes 3 channels and got 1. If it is the first layer, and the images have 1: let the class" in shown
    assert "Traceback (most recent call last)" not in shown
    assert "Failed (2): Greedy soft, ThreeChannels soft. The other results are complete." in shown
    logs = sorted((tmp_path / "out" / "cells").glob("*/failure.log"))
    assert len(logs) == 2
    assert all("Traceback (most recent call last)" in log.read_text() and log.parent.name in shown for log in logs)
    assert "tiny_nets.py" in logs[0].read_text()


def test_grey_images_for_a_network_of_three_channels():
    module = create_module("fpn", in_channels=1, init_args={"in_channels": 3}, mean=(0.5,), std=(0.1,)).eval()
    grey = torch.rand(2, 1, 32, 64)
    with torch.no_grad():
        assert torch.equal(module(grey), module.network(((grey - 0.5) / 0.1).repeat(1, 3, 1, 1)))
    with pytest.raises(ValueError, match=r"in_channels is 3, the images have 4 channels"):
        create_module("fpn", in_channels=4, init_args={"in_channels": 3})


def test_the_estimate_of_a_model_of_its_own_loss(with_nets):
    config = load_config(None, [], changes={"models": [{"class_path": "tiny_nets.OnPlateau"}]})
    found = memory_estimate(config, DATA)
    assert not found.unknown
    assert min(found.train, found.test) > PROGRAM
