"""Random crops, and windows that slide over an image."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from irrbench._files import read_frame
from irrbench.config import ConfigError, load_config
from irrbench.data import RaterData
from irrbench.grid_config import TrainConfig
from irrbench.training.batches import TrainingSet, make_loaders
from irrbench.training.failures import explain
from irrbench.training.models import create_module
from irrbench.training.windows import Windows, random_crop, slide, slide_windows, starts, window_weights, windows_of
from tests.training.conftest import run_recorded, small_config
from tests.training.study import write_study
from tests.training.test_resume import killed_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:sqlalchemy")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", range(24))
def test_windows_are_those_of_monai(case):
    inferers = pytest.importorskip("monai.inferers", reason="MONAI is not installed (extra: peers)")
    rng = np.random.default_rng(case)
    axes = 3 if case % 4 == 3 else 2
    size, window = (tuple(rng.integers(low, high, axes).tolist()) for low, high in ((3, 40), (2, 24)))
    batch, overlap = int(rng.integers(1, 4)), float(rng.choice([0, 0.25, 0.5, 0.8]))
    weighting, at_once = ("gaussian", "constant")[case % 2], int(rng.integers(1, 7))
    images = torch.randn(batch, 2, *size, generator=torch.Generator().manual_seed(case))
    layer = nn.Conv2d if axes == 2 else nn.Conv3d
    torch.manual_seed(case)
    predict = layer(2, 3, 3, padding=1)
    with torch.no_grad():
        expected = inferers.sliding_window_inference(images, window, at_once, predict, overlap, mode=weighting)
        found = slide(predict, images, window=window, overlap=overlap, weighting=weighting, batch_size=at_once)
    assert found.shape == expected.shape == (batch, 3, *size)
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_pixel_has_the_weighted_mean_of_the_windows_that_hold_it():
    """By a loop over pixels and windows, with a prediction that depends on the place in the window."""
    size, window = (7, 9), (4, 5)
    marks = torch.arange(20.0).view(1, 1, *window)
    weights = window_weights(window, "gaussian")
    found = slide(lambda x: marks.expand(len(x), -1, -1, -1), torch.zeros(1, 1, *size), window=window, overlap=0.5)
    for y, x in np.ndindex(*size):
        inside = [
            (weights[y - top, x - left], marks[0, 0, y - top, x - left])
            for top in starts(7, 4, 0.5)
            for left in starts(9, 5, 0.5)
            if 0 <= y - top < 4 and 0 <= x - left < 5
        ]
        expected = sum(w * value for w, value in inside) / sum(w for w, _ in inside)
        assert found[0, 0, y, x] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("size", "window", "overlap"), [(10, 4, 0.25), (4, 4, 0.5), (100, 7, 0.9), (33, 32, 0.0)])
def test_windows_cover_an_axis_and_stay_within(size, window, overlap):
    found = starts(size, window, overlap)
    held = {pixel for start in found for pixel in range(start, start + window)}
    assert held == set(range(size))
    assert found == sorted(set(found))


def test_no_more_windows_at_once_than_asked_for():
    seen = []
    slide(lambda x: seen.append(tuple(x.shape)) or x, torch.zeros(2, 1, 40, 50), window=(16, 16), batch_size=5)
    assert max(shape[0] for shape in seen) == 5
    assert {shape[1:] for shape in seen} == {(1, 16, 16)}


@pytest.mark.parametrize("class_path", [None, "tiny_nets.Net", "tiny_nets.OnPlateau"])
def test_any_model_slides_outside_of_training_alone(with_nets, class_path):
    options = {} if class_path is None else {"class_path": class_path}
    module = create_module(in_channels=3, **options)
    names = list(module.state_dict())
    slide_windows(module, Windows((32, 64), batch_size=2))
    assert list(module.state_dict()) == names
    seen = []
    inner = module.net if class_path == "tiny_nets.OnPlateau" else module.network
    inner.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    with torch.no_grad():
        assert module.eval()(torch.zeros(1, 3, 50, 100)).shape == (1, 1, 50, 100)
        assert set(seen) <= {(1, 3, 32, 64), (2, 3, 32, 64)}
        module.train()(torch.zeros(2, 3, 64, 96))
    assert seen[-1] == (2, 3, 64, 96)


def make_item(size=(60, 90), *, roi=None, mark=(40, 70)):
    rng = np.random.default_rng(0)
    label = torch.zeros(1, *size)
    if mark is not None:
        label[0, mark[0] : mark[0] + 3, mark[1] : mark[1] + 2] = 1
    region = torch.ones(size, dtype=torch.bool) if roi is None else roi
    place = torch.arange(size[0] * size[1]).view(1, *size).float()
    return {"image": place, "label": label, "masks": (place > 3).to(torch.uint8), "roi": region}, rng


PLANES = ("image", "label", "masks", "roi")


def crops(item, window, foreground, count=300):
    return [
        random_crop(item, PLANES, window, foreground=foreground, rng=np.random.default_rng([1, k]))
        for k in range(count)
    ]


@pytest.mark.parametrize("foreground", [0.0, 0.5, 1.0])
def test_a_stated_share_of_crops_holds_a_mark(foreground):
    item, _ = make_item()
    found = crops(item, (16, 24), foreground)
    share = np.mean([bool(crop["label"].any()) for crop in found])
    by_chance = (16 + 2) * (24 + 1) / (45 * 67)  # windows that touch the mark
    expected = foreground + (1 - foreground) * by_chance
    assert share == pytest.approx(expected, abs=3 * np.sqrt(0.25 / 300))
    assert len({float(crop["image"][0, 0, 0]) for crop in found}) > 50


def test_all_planes_are_cut_alike_and_crops_stay_within_the_image():
    item, _ = make_item()
    for crop in crops(item, (16, 24), 0.5, count=40):
        first = int(crop["image"][0, 0, 0])
        y, x = divmod(first, 90)
        for key in PLANES:
            assert torch.equal(crop[key], item[key][..., y : y + 16, x : x + 24])
            assert crop[key].is_contiguous()


def test_other_crops_hold_something_of_the_roi():
    roi = torch.zeros(60, 90, dtype=torch.bool)
    roi[50:58, 3:9] = True
    item, _ = make_item(roi=roi)  # the mark lies outside of it, and counts for nothing
    assert all(crop["roi"].any() for crop in crops(item, (16, 24), 0.5, count=60))


@pytest.mark.parametrize("size", [(10, 90), (10, 12), (60, 12)])
def test_images_smaller_than_the_crop_are_padded_outside_the_roi(size):
    item, _ = make_item(size, mark=(2, 3))
    for crop in crops(item, (32, 64), 0.5, count=10):
        assert all(crop[key].shape[-2:] == (32, 64) for key in PLANES)
        assert int(crop["roi"].sum()) == min(size[0], 32) * min(size[1], 64)
        assert not crop["image"][0][~crop["roi"]].any()


def test_an_empty_label_and_an_empty_roi():
    item, _ = make_item(mark=None)
    assert len(crops(item, (16, 24), 1.0, count=5)) == 5
    item, _ = make_item(roi=torch.zeros(60, 90, dtype=torch.bool))
    assert len(crops(item, (16, 24), 1.0, count=5)) == 5


def make_data(splits, sizes):
    rng = np.random.default_rng(0)
    ids = [f"i{n}" for n in range(len(splits))]
    manifest = pd.DataFrame({"split": splits}, index=pd.Index(ids, name="image_id"))
    images = [rng.random((1, *size)).astype(np.float32) for size in sizes]
    masks = [rng.random((2, *size)) < 0.5 for size in sizes]
    return RaterData.from_arrays(images, masks, image_ids=ids, manifest=manifest, name="toy")


def test_batches_of_crops_are_equal_in_size_and_images_are_tested_in_their_own():
    data = make_data(
        ["train"] * 3 + ["val", "test", "test"], [(40, 50), (70, 33), (20, 90), (45, 37), (64, 50), (30, 33)]
    )
    train = TrainConfig(batch_size=4, crop=[32, 64], crops_per_image=3)
    loaders = make_loaders(data, label="majority", seed=0, train=train)
    for epoch in range(3):
        loaders.set_epoch(epoch)
        batches = list(loaders.train)
        assert [tuple(batch["image"].shape) for batch in batches] == [(4, 1, 32, 64)] * 2
    assert [tuple(b["image"].shape) for b in loaders.val] == [(1, 1, 45, 37)]
    assert [tuple(b["image"].shape) for b in loaders.test] == [(1, 1, 64, 50), (1, 1, 30, 33)]


def test_crops_depend_on_seed_epoch_and_index_alone():
    data = make_data(["train"] * 2, [(40, 50), (70, 40)])
    drawn = {}
    for seed in (0, 0, 1):
        training = TrainingSet(data, label="majority", seed=seed, train=TrainConfig(crop=32, crops_per_image=2))
        for epoch in (1, 0):
            training.set_epoch(epoch)
            crops_ = [training[i]["image"].flatten().tolist() for i in (3, 0, 2, 1)]
            assert drawn.setdefault((seed, epoch), crops_) == crops_
    assert len({json.dumps(each) for each in drawn.values()}) == 4
    assert [training[i]["id"] for i in range(4)] == ["i0", "i0", "i1", "i1"]


def test_a_batch_size_for_testing_alone():
    data = make_data(["train"] * 4 + ["val"] * 3 + ["test"] * 3, [(40, 50)] * 4 + [(33, 20), (70, 31), (31, 32)] * 2)
    loaders = make_loaders(data, label="majority", seed=0, train=TrainConfig(batch_size=4, eval_batch_size=1))
    assert [tuple(b["image"].shape) for b in loaders.train] == [(4, 1, 64, 64)]
    assert [tuple(b["image"].shape[2:]) for b in loaders.test] == [(64, 32), (96, 32), (32, 32)]
    assert windows_of(TrainConfig()) is None
    assert windows_of(TrainConfig(crop=64, batch_size=3)) == Windows((64, 64), 0.25, "gaussian", 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train.crop", "250"], r"train.crop must be a side, or \[height, width\], in multiples of 32.*found 250"),
        (["--train.crop", "[64, 64, 64]"], r"train.crop must be a side"),
        (["--train.crop", "0"], r"train.crop must be a whole number of 1 or more, or a list"),
        (["--train.crops", "64"], r"unknown flag '--train.crops'. Did you mean '--train.crop'"),
        (["--train.crop_foreground", "2"], r"train.crop_foreground must be a number from 0 to 1; found .2"),
        (["--train.window_overlap", "1"], r"train.window_overlap must be a number from 0 to below 1"),
        (["--train.window_weighting", "gauss"], r"train.window_weighting must be one of gaussian, constant"),
        (["--train.eval_batch_size", "0"], r"train.eval_batch_size must be a whole number of 1 or more, or null"),
    ],
)
def test_wrong_options(flags, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, flags)


def test_right_options():
    train = load_config(None, ["--train.crop", "[64, 96]", "--train.eval_batch_size", "2"]).train
    assert (train.crop, train.eval_batch_size) == ([64, 96], 2)


def test_a_grid_on_crops(with_nets, store, tmp_path):
    study = write_study(tmp_path / "study")
    changes = {"models": [{"class_path": "tiny_nets.Net"}], "labels": ["random"], "train.crop": 32}
    changes |= {"train.crops_per_image": 2, "train.max_epochs": 3, "train.lr": 0.05}
    grid = run_recorded(small_config(study, tmp_path / "out", store, **changes))
    assert grid.code == 0
    (folder,) = (tmp_path / "out" / "cells").iterdir()
    assert read_frame(folder / "per_image.csv")["iou"].notna().all()
    assert json.loads((folder / "done.json").read_text())["config"]["train"]["crop"] == 32


def test_a_killed_cell_on_crops_gives_the_same_results(with_nets, store, tmp_path):
    study = write_study(tmp_path / "study")
    changes = {"models": [{"class_path": "tiny_nets.Net"}], "labels": ["random"], "train.crop": 32}
    changes |= {"train.crops_per_image": 2, "train.max_epochs": 3}
    tables = []
    for name, killed in (("whole", False), ("killed", True)):
        config = small_config(study, tmp_path / name, store, experiment=name, **changes)
        if killed:
            killed_run(config, epoch=1)
        assert run_recorded(config).code == 0
        (folder,) = (tmp_path / name / "cells").iterdir()
        tables.append([(folder / file).read_bytes() for file in ("per_image.csv", "curve.csv")])
    assert tables[0] == tables[1]


def test_loading_processes_draw_the_same_crops():
    data = make_data(["train"] * 5 + ["val", "test"], [(40, 50), (70, 33)] * 3 + [(64, 64)])
    drawn = []
    for workers in (0, 2):
        train = TrainConfig(batch_size=2, crop=32, crops_per_image=2, num_workers=workers)
        loaders = make_loaders(data, label="random", seed=0, train=train)
        loaders.set_epoch(1)
        drawn.append([(batch["id"], batch["image"].sum((1, 2, 3)).tolist()) for batch in loaders.train])
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 5


@pytest.mark.parametrize(("images", "batch_size", "crops", "sizes"), [(1, 8, 1, [1]), (1, 8, 4, [4]), (3, 2, 1, [2])])
def test_few_training_images(images, batch_size, crops, sizes):
    data = make_data(["train"] * images + ["val", "test"], [(40, 50)] * (images + 2))
    train = TrainConfig(batch_size=batch_size, crop=32, crops_per_image=crops)
    loaders = make_loaders(data, label="soft", seed=0, train=train)
    assert [len(batch["id"]) for batch in loaders.train] == sizes


def test_one_image_at_a_time_that_batch_normalization_does_not_take():
    with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
        create_module("unet", in_channels=1).train()(torch.zeros(1, 1, 32, 32))
    assert "Set train.batch_size to 2 or more, with two training images or train.crops_per_image: 2" in explain(
        caught.value
    )


def test_transforms_come_after_the_crop():
    data = make_data(["train"], [(90, 70)])
    noise = {"class_path": "torchvision.transforms.v2.RandomHorizontalFlip", "init_args": {"p": 1.0}}
    plain, flipped = (
        TrainingSet(data, label="soft", seed=0, train=TrainConfig(crop=[32, 64], transforms=transforms))[0]
        for transforms in ([], [noise])
    )
    assert torch.equal(flipped["image"], plain["image"].flip(-1))
    assert torch.equal(flipped["masks"], plain["masks"].flip(-1))
