"""Transforms of a configuration change image, label, masks and ROI alike; draws depend on seed, epoch and index."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch

from irrbench.commands import ConfigError
from irrbench.grid_config import TrainConfig
from irrbench.training.batches import TrainingSet, Transforms, make_loaders
from tests.training.test_batches import make_data

needs_albumentations = pytest.mark.skipif(
    importlib.util.find_spec("albumentations") is None, reason="needs pip install 'irrbench[augment]'"
)
V2 = "torchvision.transforms.v2"
OWN = """
import torch


class Brighter(torch.nn.Module):
    def __init__(self, by: float):
        super().__init__()
        self.by = by

    def forward(self, sample):
        return sample | {"image": sample["image"] + self.by * torch.rand(1)}


class Crop(torch.nn.Module):
    def forward(self, sample):
        return sample | {"image": sample["image"][..., 2:, :]}
"""
MOVES = [
    pytest.param({"class_path": f"{V2}.RandomAffine", "init_args": {"degrees": 0, "translate": [0.3, 0.3]}}, id="v2"),
    pytest.param(
        {
            "class_path": "albumentations.ShiftScaleRotate",
            "init_args": {"shift_limit": 0.3, "rotate_limit": 0, "scale_limit": 0, "p": 1.0},
        },
        id="albumentations",
        marks=[needs_albumentations, pytest.mark.filterwarnings("ignore:ShiftScaleRotate is a special case")],
    ),
    pytest.param({"class_path": f"{V2}.RandomCrop", "init_args": {"size": [5, 7]}}, id="v2 crop"),
    pytest.param(
        {"class_path": "albumentations.RandomCrop", "init_args": {"height": 5, "width": 7}},
        id="albumentations crop",
        marks=needs_albumentations,
    ),
]
COLOURS = [
    pytest.param({"class_path": f"{V2}.GaussianNoise", "init_args": {"sigma": 0.1}}, id="v2"),
    pytest.param(
        {"class_path": "albumentations.GaussNoise", "init_args": {"p": 1.0}},
        id="albumentations",
        marks=needs_albumentations,
    ),
]


def item(height: int = 12, width: int = 20, raters: int = 3) -> dict:
    """An image that says where its masks are: the first rater's is where it is bright."""
    rng = np.random.default_rng(3)
    masks = torch.from_numpy(rng.random((raters, height, width)) < 0.4).to(torch.uint8)
    return {
        "image": 0.25 + 0.5 * masks[:1].float(),
        "label": masks.float().mean(0, keepdim=True),
        "masks": masks,
        "roi": torch.ones(height, width, dtype=torch.bool),
        "present": torch.ones(raters, dtype=torch.bool),
        "id": "a",
    }


@pytest.mark.parametrize("move", MOVES)
def test_image_and_masks_move_alike_and_padded_pixels_leave_the_roi(move):
    before = item()
    for seed in range(5):
        after = Transforms([move])(dict(before), seed)
        assert {key: value.dtype for key, value in after.items() if key != "id"} == {
            key: value.dtype for key, value in before.items() if key != "id"
        }
        assert all(type(value) in (torch.Tensor, str) for value in after.values())
        assert after["masks"].shape[0] == 3
        inside = after["roi"]
        assert 0 < inside.sum() <= inside.numel()
        assert torch.equal((after["image"][0] > 0.5)[inside], after["masks"][0].bool()[inside])
        assert torch.allclose(after["label"][0][inside], after["masks"].float().mean(0)[inside])
        assert not after["masks"][:, ~inside].any()


@pytest.mark.parametrize("colour", COLOURS)
def test_noise_is_for_the_image_alone(colour):
    before = item()
    after = Transforms([colour])(dict(before), 1)
    assert not torch.equal(after["image"], before["image"])
    assert all(torch.equal(after[key], before[key]) for key in ("label", "masks", "roi"))


@pytest.mark.parametrize("transform", [*MOVES, *COLOURS])
def test_the_seed_alone_decides_and_the_callers_generator_stays(transform):
    one, other = Transforms([transform]), Transforms([transform])
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = one(item(), 7)["image"]
    other(item(), 8)
    again = other(item(), 7)["image"]
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(first, again)
    assert any(not torch.equal(one(item(), seed)["image"], first) for seed in range(8, 14))


@needs_albumentations
def test_libraries_can_be_mixed_in_any_order_and_images_have_channels():
    chain = [
        {"class_path": "albumentations.HorizontalFlip", "init_args": {"p": 1.0}},
        {"class_path": f"{V2}.RandomVerticalFlip", "init_args": {"p": 1.0}},
        {"class_path": "albumentations.VerticalFlip", "init_args": {"p": 1.0}},
    ]
    before = item()
    before["image"] = torch.cat([before["image"], torch.rand(2, 12, 20)])
    after = Transforms(chain)(dict(before), 0)
    for key in ("image", "label", "masks", "roi"):
        assert torch.equal(after[key], before[key].flip(-1)), key


def test_transforms_of_ones_own_and_nested_ones(tmp_path, monkeypatch):
    (tmp_path / "own_transforms.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    brighter = {"class_path": "own_transforms.Brighter", "init_args": {"by": 0.5}}
    choice = {"class_path": f"{V2}.RandomApply", "init_args": {"transforms": [brighter], "p": 1.0}}
    after = Transforms([choice])(item(), 2)
    assert 0 < float(after["image"].mean() - item()["image"].mean()) < 0.5
    with pytest.raises(ValueError, match=r"must change image and masks alike, found sizes .*'image': \(10, 20\)"):
        Transforms([{"class_path": "own_transforms.Crop"}])(item(), 2)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"class_path": f"{V2}.GausianBlur"}, "has no class 'GausianBlur'. Did you mean 'GaussianBlur'?"),
        ({"class_path": f"{V2}.GaussianBlur", "init_args": {"kernel": 3}}, "'kernel'. Did you mean 'kernel_size'?"),
        ({"class_path": f"{V2}.GaussianBlur", "init_args": {"kernel_size": 2}}, r"kernel_size=2\) cannot be made"),
        ({"class_path": "torchvision.transform.v2.X"}, "no module 'torchvision.transform'. Did you mean '.*transforms"),
        ({"class_path": "nowhere.X"}, "there is no module 'nowhere'. Install it, or put its folder on PYTHONPATH"),
    ],
)
def test_errors_name_what_is_nearest(transform, message):
    with pytest.raises(ConfigError, match=rf"train.transforms: .*{message}"):
        Transforms([transform])


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(ConfigError, match=r"needs albumentations: pip install 'irrbench\[augment\]'"):
        Transforms([{"class_path": "albumentations.HorizontalFlip"}])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_training_images_alone_change_and_anew_in_each_epoch(workers):
    data = make_data(["train"] * 4 + ["val"] * 2 + ["test"] * 2)
    noise = [{"class_path": f"{V2}.GaussianNoise", "init_args": {"sigma": 0.1}}]
    train = TrainConfig(batch_size=2, augment=False, transforms=noise, num_workers=workers)
    loaders = make_loaders(data, label="majority", seed=0, train=train)
    seen = []
    for epoch in (0, 1, 0):
        loaders.set_epoch(epoch)
        seen.append({name: x for batch in loaders.train for name, x in zip(batch["id"], batch["image"], strict=True)})
    plain = TrainingSet(data.split("train"), label="majority", seed=0, train=TrainConfig(augment=False))
    for i, name in enumerate(plain[i]["id"] for i in range(4)):
        assert torch.equal(seen[0][name], seen[2][name])
        assert not torch.equal(seen[0][name], seen[1][name])
        assert not torch.equal(seen[0][name][:, :6, :10], plain[i]["image"])
    (first, *_) = loaders.val
    assert torch.equal(first["image"][0, :, :6, :10], torch.from_numpy(data.image(4)))
