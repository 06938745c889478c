"""What a cell trains on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from irrbench.commands import ConfigError
from irrbench.data import RaterData
from irrbench.grid_config import TrainConfig
from irrbench.training.batches import TrainingSet, check_splits, image_facts, make_loaders, turned


def make_data(splits: list[str], *, shape: tuple[int, ...] = (6, 10), channels: int = 1) -> RaterData:
    rng = np.random.default_rng(0)
    ids = [f"i{n}" for n in range(len(splits))]
    manifest = pd.DataFrame({"split": splits}, index=pd.Index(ids, name="image_id"))
    images = [rng.random((channels, *shape)).astype(np.float32) for _ in ids]
    masks = [rng.random((3, *shape)) < 0.5 for _ in ids]
    return RaterData.from_arrays(images, masks, image_ids=ids, manifest=manifest, name="toy")


def test_eight_different_turns_and_the_first_is_none():
    plane = torch.arange(6).view(2, 3)
    seen = {tuple(turned(plane, turn).flatten().tolist()) + turned(plane, turn).shape for turn in range(8)}
    assert len(seen) == 8
    assert torch.equal(turned(plane, 0), plane)


def test_image_label_masks_and_roi_turn_together():
    data = make_data(["train"] * 5)
    plain, moved = (
        TrainingSet(data, label="majority", seed=1, train=TrainConfig(augment=augment)) for augment in (False, True)
    )
    for epoch in range(4):
        moved.set_epoch(epoch)
        for i in range(5):
            before, after = plain[i], moved[i]
            fits = [
                all(
                    turned(before[key], turn).shape == after[key].shape
                    and torch.equal(turned(before[key], turn), after[key])
                    for key in ("image", "label", "masks", "roi")
                )
                for turn in range(8)
            ]
            assert sum(fits) == 1


def test_turns_depend_on_seed_epoch_and_index_alone():
    data = make_data(["train"] * 6)
    sets = [TrainingSet(data, label="random", seed=seed, train=TrainConfig(augment=True)) for seed in (0, 0, 1)]
    drawn = []
    for training in sets:
        for epoch in (0, 1):
            training.set_epoch(epoch)
            drawn.append([training[i]["image"].flatten().tolist() for i in (range(6))])
    assert drawn[0] == drawn[2]
    assert drawn[1] == drawn[3]
    assert drawn[0] != drawn[1]
    assert drawn[0] != drawn[4]


def test_only_training_images_are_turned():
    data = make_data(["train"] * 4 + ["val"] * 2 + ["test"] * 3)
    loaders = make_loaders(data, label="majority", seed=0, train=TrainConfig(batch_size=2))
    (batch,) = [b for b in loaders.test if "i8" in b["id"]]
    assert torch.equal(batch["image"][0, :, :6, :10], torch.from_numpy(data.image(8)))
    assert [len(b["id"]) for b in loaders.train] == [2, 2]
    assert [len(b["id"]) for b in loaders.test] == [2, 1]


def test_statistics_of_the_training_images_alone():
    data = make_data(["train", "train", "test"], channels=3)
    facts = image_facts(data)
    pixels = np.concatenate([data.image(0).reshape(3, -1), data.image(1).reshape(3, -1)], axis=1)
    assert facts.channels == 3
    assert facts.mean == pytest.approx(pixels.mean(1), abs=1e-6)
    assert facts.std == pytest.approx(pixels.std(1), abs=1e-6)


@pytest.mark.parametrize(
    ("splits", "empty"), [(["train", "test"], "val"), (["val"], "train and test"), (["train", "val"], "test")]
)
def test_empty_splits(splits, empty):
    with pytest.raises(ConfigError, match=rf"toy: no images in {empty} \(found .*manifest.csv"):
        check_splits(make_data(splits))


def test_volumes():
    with pytest.raises(ConfigError, match=r"images have 3 axes; the built-in models train on 2-D images"):
        check_splits(make_data(["train", "val", "test"], shape=(4, 6, 8)))


def test_the_order_depends_on_seed_and_epoch_alone():
    data = make_data(["train"] * 12 + ["val"] * 2 + ["test"] * 2)
    train = TrainConfig(batch_size=5, augment=False)
    orders = {}
    for seed, epochs in ((0, (0, 1, 2)), (0, (2, 0, 1)), (1, (0, 1, 2))):
        loaders = make_loaders(data, label="soft", seed=seed, train=train)
        for epoch in epochs:
            loaders.set_epoch(epoch)
            ids = [name for batch in loaders.train for name in batch["id"]]
            assert len(set(ids)) == len(ids) == 10  # the last two would make a batch of their own
            assert orders.setdefault((seed, epoch), ids) == ids
    assert len({tuple(ids) for ids in orders.values()}) == 6


def test_loaders_leave_torchs_generator_alone():
    data = make_data(["train"] * 4 + ["val"] * 2 + ["test"] * 2)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    loaders = make_loaders(data, label="soft", seed=0, train=TrainConfig(batch_size=2))
    for loader in (loaders.train, loaders.val, loaders.test):
        assert list(loader)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("label", ["majority", "random", "soft", "staple", "rater:r2"])
def test_labels_of_every_strategy(label):
    data = make_data(["train"] * 3)
    item = TrainingSet(data, label=label, seed=0, train=TrainConfig(augment=False))[1]
    votes = data.masks(1)
    expected = {
        "majority": votes.mean(0) > 0.5,
        "soft": votes.mean(0),
        "rater:r2": votes[1],
    }
    if label in expected:
        assert item["label"][0].numpy() == pytest.approx(expected[label].astype(float))
    elif label == "random":
        assert sum(np.array_equal(item["label"][0].numpy(), vote) for vote in votes) == 1
    else:
        assert set(item["label"].unique().tolist()) <= {0.0, 1.0}


def test_staple_weighs_raters_inside_the_roi_alone():
    """Outside, the third rater is alone right; inside, all agree but for one pixel of the third."""
    rng = np.random.default_rng(0)
    inside = rng.random((8, 10)) < 0.5
    masks = np.stack([inside, inside, inside])
    roi = np.zeros((8, 10), bool)
    roi[:4] = True
    masks[2, 0, 0] = ~masks[2, 0, 0]
    masks[:2, 4:] = rng.random((2, 4, 10)) < 0.5
    data = RaterData.from_arrays([np.zeros((1, 8, 10), np.float32)], [masks], rois=[roi])
    label = (
        TrainingSet(data, label="staple", seed=0, train=TrainConfig(augment=False))[0]["label"][0].numpy().astype(bool)
    )
    assert np.array_equal(label[:4], inside[:4])
