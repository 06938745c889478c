"""Items and batches for torch, and the label strategies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from irrbench.data import LABEL_STRATEGIES, DataError, RaterData, SegmentationDataset, collate, load_folder
from tests.data.toys import RATERS, SIZES, draw

VOTES = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0]], bool)[:, None]  # R = 4 on 1 x 4 pixels


def votes(present=(1, 1, 1, 1), **options):
    data = RaterData.from_arrays([np.zeros((1, 1, 4))], [VOTES], present=np.array([present], bool))
    return SegmentationDataset(data, **options)


def test_item_has_the_promised_types_and_shapes(folder):
    item = SegmentationDataset(load_folder(folder))[1]
    types = {key: (value.dtype, tuple(value.shape)) for key, value in item.items() if key != "id"}
    assert types == {
        "image": (torch.float32, (1, 16, 8)),
        "label": (torch.float32, (1, 16, 8)),
        "masks": (torch.uint8, (3, 16, 8)),
        "roi": (torch.bool, (16, 8)),
        "present": (torch.bool, (3,)),
    }
    assert item["id"] == "b"
    assert item["roi"].all()
    np.testing.assert_array_equal(item["masks"].numpy(), np.stack([draw("b", rater) for rater in RATERS]))


@pytest.mark.parametrize(
    ("label", "present", "expected"),
    [
        ("majority", (1, 1, 1, 1), [1, 0, 0, 0]),
        ("majority", (1, 1, 1, 0), [1, 1, 0, 0]),
        ("majority", (0, 1, 0, 1), [1, 0, 1, 0]),
        ("soft", (1, 1, 1, 1), [1, 0.5, 0.5, 0]),
        ("soft", (1, 1, 1, 0), [1, 2 / 3, 1 / 3, 0]),
        ("rater:r3", (1, 1, 1, 1), [1, 0, 0, 0]),
    ],
)
def test_labels_by_hand(label, present, expected):
    got = votes(present, label=label)[0]["label"]
    torch.testing.assert_close(got, torch.tensor([[expected]], dtype=torch.float32))


def test_random_rater_changes_with_the_epoch_and_the_seed_alone():
    def drawn(dataset):
        epochs = []
        for epoch in range(60):
            dataset.set_epoch(epoch)
            label = dataset[0]["label"][0].bool().numpy()
            epochs.append(next(r for r in range(4) if (VOTES[r] == label).all()))
        return epochs

    first = drawn(votes(label="random", seed=3))
    assert first == drawn(votes(label="random", seed=3))
    assert first != drawn(votes(label="random", seed=4))
    assert set(first) == {0, 1, 2, 3}
    assert set(drawn(votes((0, 1, 0, 1), label="random"))) == {1, 3}


def test_living_workers_see_the_epoch():
    count = 40
    data = RaterData.from_arrays(np.zeros((count, 1, 1, 4)), np.broadcast_to(VOTES, (count, *VOTES.shape)))
    dataset = SegmentationDataset(data, label="random")
    loader = DataLoader(dataset, batch_size=8, num_workers=1, persistent_workers=True, collate_fn=collate)
    seen = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        seen.append(torch.cat([batch["label"] for batch in loader]))
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("label", ["mode", "majority:r1", ""])
def test_unknown_strategy_names_the_known_ones(label):
    with pytest.raises(ValueError, match=r"expected one of majority, random, soft, rater:<name>"):
        votes(label=label)


def test_unknown_rater_names_the_raters():
    with pytest.raises(ValueError, match="label='rater:r9': expected rater:<name> with one of r1, r2, r3, r4"):
        votes(label="rater:r9")


def test_a_rater_who_lacks_images_is_no_label():
    with pytest.raises(DataError, match="masks/r2/image00000: found no mask; expected one by r2 for each image"):
        votes((1, 0, 1, 1), label="rater:r2")


def test_registry_holds_every_strategy():
    assert set(LABEL_STRATEGIES) >= {"majority", "random", "soft", "rater"}


def test_batches_are_padded_outside_the_roi(folder):
    data = load_folder(folder)
    batch = next(iter(DataLoader(SegmentationDataset(data), batch_size=5, collate_fn=collate)))
    assert batch["id"] == list(SIZES)
    assert batch["image"].shape == (5, 1, 32, 32)
    assert batch["masks"].shape == (5, 3, 32, 32)
    assert batch["masks"].dtype == torch.uint8
    assert batch["label"].shape == (5, 1, 32, 32)
    assert batch["present"].shape == (5, 3)
    for i, (height, width) in enumerate(SIZES.values()):
        assert batch["roi"][i, :height, :width].all()
        assert batch["roi"][i].sum() == height * width
        np.testing.assert_array_equal(batch["image"][i, :, :height, :width], data.image(i))
        np.testing.assert_array_equal(batch["masks"][i, :, :height, :width], data.masks(i))


def test_what_lies_outside_the_roi_never_counts():
    roi = np.array([[True, False, True, True]])
    data = RaterData.from_arrays([np.zeros((1, 1, 4))], [VOTES], rois=[roi])
    item = SegmentationDataset(data)[0]
    np.testing.assert_array_equal(item["roi"], roi)
    assert collate([item])["roi"].sum() == 3


def test_padding_takes_the_largest_and_leaves_what_fits():
    def item(height, width):
        data = RaterData.from_arrays([np.ones((3, height, width))], [np.ones((2, height, width), bool)])
        return SegmentationDataset(data)[0]

    assert collate([item(33, 10), item(5, 64)])["image"].shape == (2, 3, 64, 64)
    assert collate([item(32, 64)])["roi"].all()
    assert collate([item(5, 7)], multiple=4)["masks"].shape == (1, 2, 8, 8)


def test_volumes_are_padded_too():
    data = RaterData.from_arrays([np.ones((1, 3, 4, 5))], [np.ones((2, 3, 4, 5), bool)])
    batch = collate([SegmentationDataset(data)[0]], multiple=2)
    assert batch["image"].shape == (1, 1, 4, 4, 6)
    assert batch["roi"].sum() == 60
