"""Predictions on another scale, inverted, in colour or named by position: what is said of them is of use."""

from __future__ import annotations

import numpy as np
import pytest

from irrbench.data import DataError, RaterData, load_folder, load_predictions
from tests.data.toys import SIZES, draw, save

RNG = np.random.default_rng(5)
MAPS = {name: RNG.random(size).astype(np.float32) for name, size in SIZES.items()}


@pytest.fixture
def data(folder):
    return load_folder(folder)


def write(root, make, ending=".npy"):
    for name in SIZES:
        save(root / f"{name}{ending}", np.asarray(make(name)))
    return root


def refused(root, data, **options):
    with pytest.raises(DataError) as caught:
        load_predictions(root, data, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda values: values * 100, "divide by 100 (percent)"),
        (lambda values: np.round(values * 100), "divide by 100 (percent)"),
        (lambda values: np.round(values * 100).astype(np.uint8), "divided by 100, if these are percent"),
        (lambda values: np.round(values * 10).astype(np.uint16) * 10, "divided by 100, if these are percent"),
        (lambda values: values * 255, "divide by 255"),
        (lambda values: values * 1000, "divide by 1000"),
        (lambda values: (values - 0.5) * 100, "apply a sigmoid to logits"),
        (lambda values: values * 8, "divide by the value of certainty, or apply a sigmoid or softmax"),
        (lambda values: np.round(values * 3), "name the foreground's class numbers"),
    ],
)
def test_values_of_another_scale_have_the_remedy_of_that_scale(tmp_path, data, make, remedy):
    text = refused(write(tmp_path / "net", lambda name: make(MAPS[name])), data)
    assert remedy in text
    assert ("sigmoid" in text) == ("sigmoid" in remedy)


AXES = {
    "last": lambda plane: plane[..., None],
    "first": lambda plane: plane[None],
    "batch and channel": lambda plane: plane[None, None],
    "batch and last": lambda plane: plane[None, ..., None],
    "within": lambda plane: plane[:, None],
}


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.uint8, bool])
def test_axes_of_length_one_are_left_out(tmp_path, data, axes, kind):
    values = {
        name: (draw(name, "ben") if kind is bool else (MAPS[name] * 255 if kind == np.uint8 else MAPS[name]))
        for name in SIZES
    }
    values = {name: array.astype(kind) for name, array in values.items()}
    loaded = load_predictions(write(tmp_path / "net", lambda name: AXES[axes](values[name])), data)
    for i, name in enumerate(SIZES):
        right = values[name] > (127.5 if kind == np.uint8 else 0.5)
        np.testing.assert_array_equal(loaded.prediction(i), right)


def test_classes_beside_axes_of_length_one(tmp_path, data):
    root = write(tmp_path / "net", lambda name: np.stack([1 - MAPS[name], MAPS[name]])[None])
    np.testing.assert_array_equal(load_predictions(root, data).prediction(1), MAPS["b"] > 0.5)


def test_channels_that_are_no_classes_are_said_with_their_sums(tmp_path, data):
    text = refused(write(tmp_path / "net", lambda name: np.stack([MAPS[name] * 0.25 + 0.5] * 2)), data)
    assert "found 2 channels whose values sum to 1" in text


def holed(size):
    mask = np.ones(size, bool)
    mask[2:5, 2:5] = False
    return mask


FULL = "which mark the border and most pixels (if they are those of the background: save 1 minus them)"
NOTHING = "which mark nothing on any image"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda mask: mask * np.float32(0.9) + np.float32(0.05), f"probabilities, float, {FULL}"),
        (
            lambda mask: np.where(mask, np.indices(mask.shape).sum(0) + 200, 7).astype(np.uint8),
            f"probabilities, 8 bit, {FULL}",
        ),
        (lambda mask: mask * np.float32(0.3), f"probabilities, float, {NOTHING} (is the threshold too high?)"),
        (lambda mask: mask & False, f"masks, bool, {NOTHING}"),
    ],
)
def test_probabilities_that_mark_most_or_nothing_are_said_as_masks_are(tmp_path, data, caplog, make, text):
    loaded = load_predictions(write(tmp_path / "net", lambda name: make(holed(SIZES[name]))), data)
    assert loaded.values == text
    assert text in caplog.text


def test_probabilities_that_mark_something_somewhere_are_not_questioned(tmp_path, data, caplog):
    write(tmp_path / "net", lambda name: holed(SIZES[name]) * np.float32(0.3))
    save(tmp_path / "net" / "a.npy", (~holed(SIZES["a"])).astype(np.float32))
    assert load_predictions(tmp_path / "net", data).values == "probabilities, float"
    assert caplog.text == ""


def test_pictures_in_colour_are_called_so(tmp_path, data):
    rng = np.random.default_rng(1)
    root = write(tmp_path / "net", lambda name: rng.integers(0, 256, (*SIZES[name], 3), np.uint8), ".png")
    text = refused(root, data)
    assert "found a colour picture" in text
    assert "save the mask alone" in text
    assert "e+0" not in text


IDS = [f"case{number:02d}" for number in range(12)]


@pytest.mark.parametrize("name", ["{}", "{:02d}", "pred_{}", "{}_mask"])
def test_names_by_position_are_no_ids(tmp_path, name):
    import pandas as pd

    splits = pd.DataFrame({"split": ["train"] * 9 + ["test"] * 3}, index=IDS)
    data = RaterData.from_arrays(
        [np.zeros((1, 6, 5))] * 12, [np.zeros((2, 6, 5), bool)] * 12, image_ids=IDS, manifest=splits
    )
    for number in range(3):
        save(tmp_path / "net" / f"{name.format(number)}.png", np.zeros((6, 5), np.uint8))
    text = refused(tmp_path / "net", data, split="test")
    assert "names that are no ids of the data" in text
    assert "case09, case10, case11" in text
    assert "case00" not in text
