"""Finished predictions: masks and probability maps in every encoding, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from irrbench.data import DataError, load_folder, load_predictions
from tests.data.toys import RATERS, SIZES, save

PROBABILITY = np.random.default_rng(8).random(SIZES["a"])


@pytest.fixture
def data(folder):
    return load_folder(folder)


@pytest.fixture
def predictions(tmp_path):
    root = tmp_path / "net"
    for image_id, size in SIZES.items():
        save(root / f"{image_id}.npy", np.zeros(size, np.float32))
    return root


ENCODINGS = {
    "bool": ("a.npy", PROBABILITY > 0.5),
    "0 and 1": ("a.png", (PROBABILITY > 0.5).astype(np.uint8)),
    "0 and 255": ("a.png", (PROBABILITY > 0.5).astype(np.uint8) * 255),
    "int64 mask": ("a.npy", (PROBABILITY > 0.5).astype(np.int64)),
    "float": ("a.npy", PROBABILITY.astype(np.float32)),
    "8 bit": ("a.png", np.round(PROBABILITY * 255).astype(np.uint8)),
    "16 bit": ("a.tif", np.round(PROBABILITY * 65535).astype(np.uint16)),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_gives_the_same_mask(data, predictions, name):
    file, array = ENCODINGS[name]
    (predictions / "a.npy").unlink()
    save(predictions / file, array)
    loaded = load_predictions(predictions, data)
    assert len(loaded) == 5
    np.testing.assert_array_equal(loaded.prediction(0), PROBABILITY > 0.5)
    assert loaded.prediction(0).dtype == bool
    assert not loaded.prediction(4).any()
    assert loaded.prediction(4).shape == SIZES["e"]


@pytest.mark.parametrize("name", ["float", "8 bit", "16 bit"])
def test_threshold_cuts_probabilities_only(data, predictions, name):
    file, array = ENCODINGS[name]
    (predictions / "a.npy").unlink()
    save(predictions / file, array)
    high = load_predictions(predictions, data, threshold=0.8).prediction(0)
    assert (high != (PROBABILITY > 0.8)).mean() < 0.01
    save(predictions / file, array > array.max() / 2)
    mask = load_predictions(predictions, data, threshold=0.8).prediction(0)
    np.testing.assert_array_equal(mask, array > array.max() / 2)


def test_a_probability_at_the_threshold_is_background(data, predictions):
    save(predictions / "a.npy", np.full(SIZES["a"], 0.5))
    assert not load_predictions(predictions, data).prediction(0).any()


def test_only_the_wanted_split_must_be_complete(folder, predictions):
    (folder / "manifest.csv").write_text("image_id,split\na,train\nb,val\nc,test\nd,test\ne,test\n")
    data = load_folder(folder)
    (predictions / "a.npy").unlink()
    save(predictions / "b.npy", np.zeros((2, 2)))
    loaded = load_predictions(predictions, data, split="test")
    assert loaded.data.image_ids == ("c", "d", "e")
    assert loaded.prediction(0).shape == SIZES["c"]
    with pytest.raises(DataError, match="net/a: found no file; expected a prediction for each image"):
        load_predictions(predictions, data)


def test_predictions_at_full_size_fit_shrunken_data(folder, predictions):
    data = load_folder(folder, max_side=10)
    save(predictions / "a.npy", PROBABILITY)
    np.testing.assert_array_equal(load_predictions(predictions, data).prediction(0), PROBABILITY[1::2, 1::2] > 0.5)


BAD = {
    "other id": ("zz.npy", np.zeros((2, 2)), r"zz\.npy: found a prediction for an unknown image"),
    "size": ("a.npy", np.zeros((20, 12)), r"a\.npy: found size 20 x 12; expected 12 x 20, the size of its image"),
    "NaN": ("a.npy", np.full(SIZES["a"], np.nan), r"a\.npy: found NaN or infinite values; expected probabilities"),
    "infinite": ("a.npy", np.full(SIZES["a"], np.inf), r"a\.npy: found NaN or infinite values"),
    "logits": (
        "a.npy",
        np.linspace(-3, 4, 240).reshape(12, 20),
        r"a\.npy: found values from -3 to 4; expected probabilities in \[0, 1\]\. Remedy: apply a sigmoid",
    ),
    "class numbers": ("a.npy", np.arange(240).reshape(12, 20), r"a\.npy: found many values up to 239 \(integers\)"),
    "double": ("a.png", np.zeros(SIZES["a"], np.uint8), r"net/a\.png: found the same id as a\.npy"),
    "unknown type": ("a.npz.txt", np.zeros((1, 1)), "found an entry of unknown type"),
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_predictions_are_named(data, predictions, name):
    file, array, message = BAD[name]
    if file.endswith(".txt"):
        (predictions / file).write_text("x")
    else:
        save(predictions / file, array)
    with pytest.raises(DataError, match=message):
        load_predictions(predictions, data)


def test_all_problems_come_at_once(data, predictions):
    (predictions / "b.npy").unlink()
    save(predictions / "a.npy", np.full(SIZES["a"], 2.0))
    save(predictions / "x.npy", np.zeros((2, 2)))
    with pytest.raises(DataError, match="3 problems"):
        load_predictions(predictions, data)


def test_arguments_are_checked(data, predictions, tmp_path):
    with pytest.raises(ValueError, match="threshold=1: expected a probability between 0 and 1"):
        load_predictions(predictions, data, threshold=1)
    with pytest.raises(DataError, match="none: found no such folder"):
        load_predictions(tmp_path / "none", data)


def test_a_raters_own_masks_are_predictions(folder, data):
    loaded = load_predictions(folder / "masks" / "ben", data)
    for i in range(len(data)):
        np.testing.assert_array_equal(loaded.prediction(i), data.masks(i)[RATERS.index("ben")])


@pytest.mark.parametrize(("name", "error"), [("float", 1 / 120000), ("8 bit", 0.0), ("16 bit", 0.0), ("bool", 0.0)])
def test_probabilities_are_kept_beside_the_masks(data, predictions, name, error):
    file, array = ENCODINGS[name]
    (predictions / "a.npy").unlink()
    save(predictions / file, array)
    save(predictions / "b.npy", np.full(SIZES["b"], 0.3, np.float32))  # else some folders hold masks
    scale = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
    for threshold in (0.5, 0.3):
        loaded = load_predictions(predictions, data, threshold=threshold, keep_probabilities=True)
        found = loaded.probability(0)
        assert found.dtype == np.float32
        assert np.abs(found - array.astype(np.float64) / scale).max() <= error + 1e-7  # of single precision
        for i in range(len(loaded)):
            np.testing.assert_array_equal(loaded.probability(i) > np.float32(threshold), loaded.prediction(i))
    assert not load_predictions(predictions, data).packed_probabilities


def test_masks_are_refused_where_probabilities_are_to_be_kept(data, predictions):
    with pytest.raises(
        DataError, match=r"probabilities, which brier and ece score.*leave out these scores or this model, or save"
    ):
        load_predictions(predictions, data, keep_probabilities=True)


def test_shares_of_votes_and_hundredths_stay_exact(data, predictions):
    shares = np.array([k / n for n in (3, 4, 5, 6, 8, 10, 12, 15, 16, 20, 100) for k in range(n + 1)], np.float32)
    array = np.resize(shares, SIZES["a"])
    np.save(predictions / "a.npy", array)
    loaded = load_predictions(predictions, data, threshold=0.3, keep_probabilities=True)
    kept = np.unique(array)[1:-1]
    found = np.unique(loaded.probability(0))[1:-1]
    np.testing.assert_array_equal(found[found != np.float32(0.3)], kept[kept != np.float32(0.3)])
