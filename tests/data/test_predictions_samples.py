"""Finished predictions with several samples an image: how they are told from others, read and kept."""

from __future__ import annotations

import numpy as np
import pytest

from irrbench.data import DataError, choose_threshold, load_folder, load_predictions
from irrbench.data.predictions import MasksAloneError
from tests.data.toys import SIZES, save

NUM = 4


@pytest.fixture
def data(folder):
    return load_folder(folder)


def drawn(image_id, number):
    return np.random.default_rng([ord(image_id), number]).random(SIZES[image_id]).astype(np.float32)


def write(root, *, num=NUM, masks=False, ids=SIZES):
    for image_id in ids:
        for number in range(num):
            values = drawn(image_id, number)
            save(
                root / f"{image_id}_s{number}.{'png' if masks else 'npy'}",
                (values > 0.6).astype(np.uint8) if masks else values,
            )
    return root


def test_the_mask_is_the_mean_and_each_sample_is_cut(data, tmp_path):
    loaded = load_predictions(write(tmp_path / "net"), data, threshold=0.6, keep_probabilities=True)
    assert loaded.num_samples == NUM
    assert loaded.values == f"probabilities, float, {NUM} samples an image"
    for index, image_id in enumerate(data.image_ids):
        samples = np.stack([drawn(image_id, number) for number in range(NUM)])
        np.testing.assert_array_equal(loaded.samples(index), samples > np.float32(0.6))
        np.testing.assert_array_equal(loaded.prediction(index), samples.mean(0) > np.float32(0.6))
        np.testing.assert_allclose(loaded.probability(index), samples.mean(0), atol=1e-5)


@pytest.mark.parametrize(("threshold", "least"), [(0.2, 1), (0.25, 2), (0.5, 3), (0.75, 4)])
def test_masks_vote_and_a_share_at_the_threshold_is_background(data, tmp_path, threshold, least):
    loaded = load_predictions(write(tmp_path / "net", masks=True), data, threshold=threshold)
    assert loaded.values == f"masks 0/1, {NUM} samples an image"
    for index, image_id in enumerate(data.image_ids):
        samples = np.stack([drawn(image_id, number) > 0.6 for number in range(NUM)])
        np.testing.assert_array_equal(loaded.samples(index), samples)
        np.testing.assert_array_equal(loaded.prediction(index), samples.sum(0) >= least)


def test_a_threshold_is_chosen_by_the_mean_of_samples(folder, tmp_path):
    (folder / "manifest.csv").write_text("image_id,split\na,val\nb,val\nc,val\nd,test\ne,test\n")
    data = load_folder(folder)
    means = tmp_path / "means"
    for image_id in SIZES:
        save(means / f"{image_id}.npy", np.mean([drawn(image_id, number) for number in range(NUM)], 0))
    chosen = choose_threshold(write(tmp_path / "net"), data)
    alone = choose_threshold(means, data)
    assert chosen.threshold == alone.threshold
    np.testing.assert_allclose(chosen.means, alone.means)
    # The share of masks can be cut, too, and of a single one there is nothing to cut.
    assert 0 < choose_threshold(write(tmp_path / "votes", masks=True), data).threshold < 1
    with pytest.raises(MasksAloneError):
        choose_threshold(write(tmp_path / "one", masks=True, num=1), data)


def test_one_sample_is_a_prediction(data, tmp_path):
    loaded = load_predictions(write(tmp_path / "net", num=1, masks=True), data)
    assert (loaded.num_samples, loaded.values) == (1, "masks 0/1")
    for index, image_id in enumerate(data.image_ids):
        np.testing.assert_array_equal(loaded.samples(index), loaded.prediction(index)[None])
        np.testing.assert_array_equal(loaded.prediction(index), drawn(image_id, 0) > 0.6)


def test_an_id_that_ends_like_a_sample_is_an_id(folder, tmp_path):
    for path in [*folder.rglob("b.*")]:
        path.rename(path.with_name(f"a_s0{path.suffix}"))
    (folder / "manifest.csv").unlink(missing_ok=True)
    data = load_folder(folder)
    net = tmp_path / "net"
    for image_id in data.image_ids:
        save(net / f"{image_id}.npy", np.zeros(data.shape(data.image_ids.index(image_id)), bool))
    assert load_predictions(net, data).num_samples == 1
    for image_id in data.image_ids:  # what could be meant in two ways is refused, also where all are samples
        (net / f"{image_id}.npy").rename(net / f"{image_id}_s0.npy")
        save(net / f"{image_id}_s1.npy", np.zeros(data.shape(data.image_ids.index(image_id)), bool))
    with pytest.raises(DataError, match="a_s0"):
        load_predictions(net, data)


def test_names_are_samples_only_where_all_are(data, tmp_path):
    net = write(tmp_path / "net")
    (net / "c_s0.npy").rename(net / "c.npy")
    found = r"found samples \(a_s0, a_s1, a_s2, .*\) beside files that are the only one of their image \(c\)"
    with pytest.raises(DataError, match=rf"{found}; expected samples <id>_s<number> of each image") as caught:
        load_predictions(net, data)
    assert len(caught.value.problems) == 1


def test_numbers_that_differ_are_named_with_their_images(data, tmp_path):
    net = write(tmp_path / "net")
    (net / "c_s1.npy").unlink()
    with pytest.raises(
        DataError,
        match=r"found 4 samples of a, b, d, ... \(4\) and 3 samples of c; expected as many samples of each image",
    ):
        load_predictions(net, data)


def test_of_other_splits_nothing_is_asked(folder, tmp_path):
    (folder / "manifest.csv").write_text("image_id,split\na,train\nb,train\nc,test\nd,test\ne,test\n")
    data = load_folder(folder)
    net = write(tmp_path / "net")
    (net / "a_s1.npy").unlink()
    for number in range(NUM):
        (net / f"b_s{number}.npy").unlink()
    loaded = load_predictions(net, data, split="test")
    assert (len(loaded), loaded.num_samples) == (3, NUM)


def test_a_sample_that_is_damaged_or_no_probability_is_named(data, tmp_path):
    net = write(tmp_path / "net")
    save(net / "b_s2.npy", np.zeros((3, 3)))
    (net / "d_s1.npy").write_bytes(b"nothing")
    with pytest.raises(DataError) as caught:
        load_predictions(net, data)
    assert {problem.file.rpartition("/")[2] for problem in caught.value.problems} == {"b_s2.npy", "d_s1.npy"}
    save(net / "b_s2.npy", drawn("b", 2))
    save(net / "d_s1.npy", drawn("d", 1) * 100)
    with pytest.raises(DataError, match=r"d_s1.npy"):
        load_predictions(net, data)


def test_an_empty_sample_among_probabilities_of_eight_bit_is_one(data, tmp_path):
    net = write(tmp_path / "net")
    for path in net.iterdir():
        save(path.with_suffix(".png"), np.round(np.load(path) * 255).astype(np.uint8))
        path.unlink()
    save(net / "a_s1.png", np.ones(SIZES["a"], np.uint8))  # alone a mask; among these next to nothing
    loaded = load_predictions(net, data)
    assert loaded.values == f"probabilities, 8 bit, {NUM} samples an image"
    assert not loaded.samples(0)[1].any()
