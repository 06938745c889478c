"""What values of predictions mean: decided for a model's folder, said, and contradicted by no file without a word."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from irrbench.data import DataError, MasksAloneError, choose_threshold, load_folder, load_predictions
from irrbench.data.nnunet import read_labels
from tests.data.toys import SIZES, draw, save

IDS = tuple(SIZES)
RNG = np.random.default_rng(5)
MAPS = {name: RNG.random(size) for name, size in SIZES.items()}
NUMBERS = {name: RNG.integers(0, 3, size).astype(np.uint8) for name, size in SIZES.items()}


@pytest.fixture
def data(folder):
    return load_folder(folder)


def write(root, arrays, ending=".png"):
    for name, array in arrays.items():
        save(root / f"{name}{ending}", np.asarray(array))
    return root


def found(root, data, **options):
    """The only kind of problem, as text, and the files that have it."""
    with pytest.raises(DataError) as caught:
        load_predictions(root, data, **options)
    problems = caught.value.problems
    assert len({problem.kind for problem in problems}) == 1, str(caught.value)
    return str(problems[0]), [problem.file.rpartition("/")[2] for problem in problems]


def iou(mask, raters):
    """The mean over the held-out raters' references, a tie of the two others read both ways."""
    folds = []
    for held_out in range(3):
        one, other = np.delete(raters, held_out, axis=0)
        folds += [np.mean([(mask & ref).sum() / (mask | ref).sum() for ref in (one & other, one | other)])]
    return np.mean(folds)


def masks_of(loaded):
    return {name: loaded.prediction(i) for i, name in enumerate(loaded.data.image_ids)}


def test_class_numbers_are_no_probabilities(tmp_path, data):
    root = write(tmp_path / "net", NUMBERS)
    text, files = found(root, data)
    assert "found values 0, 1, 2 (8 bit); expected one value beside 0 (the folder holds 0, 1, 2)" in text
    assert "name the foreground's class numbers (--finished.classes [1])" in text
    assert files == [f"{name}.png" for name in IDS]
    loaded = load_predictions(root, data, classes=[1])
    for name, mask in masks_of(loaded).items():
        np.testing.assert_array_equal(mask, NUMBERS[name] == 1)
    assert loaded.values == "classes 0, 1, 2: 1 as foreground"


def test_where_no_file_holds_0_the_smallest_number_is_proposed_as_background(tmp_path, data):
    root = write(tmp_path / "net", {name: np.minimum(array, 1) + np.uint8(1) for name, array in NUMBERS.items()})
    text, _ = found(root, data)
    assert "found values 1, 2 (8 bit); expected one value beside 0 (the folder holds 1, 2)" in text
    assert "(--finished.classes [2] if 1 is background)" in text


@pytest.mark.parametrize("others", [(0, 1), (0, 2), (0, 3), (0, 2, 3)])
def test_one_file_with_more_classes_shows_that_all_hold_class_numbers(tmp_path, data, others):
    root = write(tmp_path / "net", {name: np.minimum(array, 1) for name, array in NUMBERS.items()})
    save(root / "b.png", np.resize(np.array(others, np.uint8), SIZES["b"]))
    if others == (0, 1):
        assert load_predictions(root, data).values == "masks 0/1"
        return
    text, files = found(root, data)
    assert files == ["b.png"]
    assert f"found values {'/'.join(map(str, others)) if len(others) == 2 else '0, 2, 3'} (8 bit)" in text


@pytest.mark.parametrize("sets", [[0, 85, 170, 255], [0, 128, 255], [0, 1, 2, 255], [0, 50, 100], [0, 1, 2, 4]])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64])
def test_few_values_are_asked_about(tmp_path, data, sets, kind):
    arrays = {name: np.resize(np.array(sets, kind), size) for name, size in SIZES.items()}
    assert "found values 0, " in found(write(tmp_path / "net", arrays, ".npy"), data)[0]


def test_numbers_of_many_classes_are_asked_about(tmp_path, data):
    arrays = {name: (np.arange(np.prod(size)) % 100).astype(np.uint8).reshape(size) for name, size in SIZES.items()}
    assert "found many values up to 99 (8 bit)" in found(write(tmp_path / "net", arrays), data)[0]


def test_a_map_of_zero_and_one_among_probabilities_is_a_probability(tmp_path, data):
    eight = {name: np.round(array * 255).astype(np.uint8) for name, array in MAPS.items()}
    eight["b"] = draw("b", "ben").astype(np.uint8)  # of probability 1 / 255
    eight["c"] = draw("c", "ben").astype(np.uint8) * 200
    eight["d"] = draw("d", "ben").astype(np.uint8) * 255
    root = write(tmp_path / "net", eight)
    loaded = load_predictions(root, data, threshold=0.6)
    for name, mask in masks_of(loaded).items():
        np.testing.assert_array_equal(mask, eight[name] / 255 > 0.6)
    assert loaded.values == "probabilities, 8 bit"
    assert load_predictions(root, data, threshold=0.8).prediction(2).sum() == 0
    assert load_predictions(root, data, threshold=0.001).prediction(1).sum() == draw("b", "ben").sum()
    candidates = (0.002, 0.5, 0.9)
    choice = choose_threshold(root, data, split="train", candidates=candidates)
    for threshold, mean in zip(candidates, choice.means, strict=True):
        loaded = load_predictions(root, data, split="train", threshold=threshold)
        scores = [iou(loaded.prediction(i), loaded.data.masks(i)) for i in range(len(loaded))]
        assert mean == pytest.approx(np.mean(scores))


@pytest.mark.parametrize("kind", [np.float32, np.uint16])
def test_a_mask_of_another_type_beside_probabilities_is_a_problem(tmp_path, data, kind):
    top = 1 if kind == np.float32 else 65535
    root = write(tmp_path / "net", {name: (array * top).astype(kind) for name, array in MAPS.items()}, ".npy")
    (root / "b.npy").unlink()
    save(root / "b.png", draw("b", "ben").astype(np.uint8))
    text, files = found(root, data)
    assert files == ["b.png"]
    assert f"found values 0/1 (8 bit); expected probabilities, {'float' if top == 1 else '16 bit'}" in text
    save(root / "b.png", draw("b", "ben").astype(np.uint8) * 255)  # certain either way
    np.testing.assert_array_equal(load_predictions(root, data).prediction(1), draw("b", "ben"))


MASKS = {
    "masks 0/1": lambda mask: mask.astype(np.uint8),
    "masks 0/255": lambda mask: mask.astype(np.uint8) * 255,
    "masks, bool": lambda mask: mask,
    "masks 0/65535": lambda mask: mask.astype(np.uint16) * 65535,
    "masks 0/1 ": lambda mask: mask.astype(np.float32),
    "masks 0/7": lambda mask: mask.astype(np.int64) * 7,
    "masks 0, which mark nothing on any image": lambda mask: np.zeros(mask.shape, np.uint8),
}


@pytest.mark.parametrize("text", MASKS)
def test_masks_are_said_and_have_no_threshold(tmp_path, data, text):
    masks = {name: draw(name, "ben") for name in SIZES}
    root = write(tmp_path / "net", {name: MASKS[text](mask) for name, mask in masks.items()}, ".npy")
    loaded = load_predictions(root, data, threshold=0.9)
    assert loaded.values == text.strip()
    for name, mask in masks_of(loaded).items():
        np.testing.assert_array_equal(mask, masks[name] & ("nothing" not in text))
    with pytest.raises(MasksAloneError):
        choose_threshold(root, data, split="train")


def test_full_masks_of_two_types_are_the_same(tmp_path, data):
    root = write(tmp_path / "net", {name: draw(name, "ben").astype(np.uint8) * 255 for name in IDS[1:]})
    save(root / "a.tif", draw("a", "ben").astype(np.uint16) * 65535)
    np.testing.assert_array_equal(load_predictions(root, data).prediction(0), draw("a", "ben"))


@pytest.mark.parametrize("odd", [0, 1])
def test_masks_of_two_kinds_in_a_folder_are_a_problem(tmp_path, data, odd):
    root = write(tmp_path / "net", {name: draw(name, "ben").astype(np.uint8) * (255, 1)[odd] for name in SIZES})
    save(root / "c.png", draw("c", "ben").astype(np.uint8) * (1, 255)[odd])
    text, files = found(root, data)
    assert files == ["c.png"]
    assert "expected one value beside 0 (the folder holds 0, 1, 255)" in text


ABOVE = {np.float16: 1 + 2**-10, np.float32: np.float32(1 + 2**-23), np.float64: 1 + 1e-9}


@pytest.mark.parametrize("kind", ABOVE)
@pytest.mark.parametrize("classes", [False, True])
def test_one_rounding_above_one_is_one(tmp_path, data, kind, classes):
    arrays = {name: array.astype(kind) for name, array in MAPS.items()}
    arrays["a"][0, :2] = ABOVE[kind], -np.finfo(kind).tiny
    if classes:
        arrays = {name: np.stack([1 - array, array]) for name, array in arrays.items()}
    mask = load_predictions(write(tmp_path / "net", arrays, ".npy"), data).prediction(0)
    np.testing.assert_array_equal(mask[0, :2], [True, False])
    choose_threshold(tmp_path / "net", data, split="train")
    arrays["a"] = arrays["a"] + kind(0.01)
    assert "found values from" in found(write(tmp_path / "net", arrays, ".npy"), data)[0]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("kind", [np.float32, np.uint8, np.bool_])
def test_classes_have_an_axis_before_or_after_the_pixels(tmp_path, data, last, count, kind):
    numbers = {name: np.random.default_rng(1).integers(0, count, size) for name, size in SIZES.items()}
    one_hot = {name: np.stack([array == k for k in range(count)]) for name, array in numbers.items()}
    arrays = {name: (array * (255 if kind == np.uint8 else 1)).astype(kind) for name, array in one_hot.items()}
    if last:
        arrays = {name: np.moveaxis(array, 0, -1) for name, array in arrays.items()}
    root = write(tmp_path / "net", arrays, ".npy")
    if count > 2:
        assert f"found {count} classes; expected which of them are foreground" in found(root, data)[0]
    loaded = load_predictions(root, data, classes=[1])
    for name, mask in masks_of(loaded).items():
        np.testing.assert_array_equal(mask, numbers[name] == 1)
    assert loaded.values == f"probabilities, {count} classes"


def test_as_many_classes_in_all_files(tmp_path, data):
    arrays = {name: np.stack([1 - array, array]) for name, array in MAPS.items()}
    arrays["b"] = np.stack([1 - MAPS["b"], MAPS["b"] / 2, MAPS["b"] / 2])
    text, files = found(write(tmp_path / "net", arrays, ".npy"), data, classes=[1])
    assert files == ["b.npy"]
    assert "found 3 classes; expected probabilities, 2 classes. Remedy: save all files alike" in text


def test_probabilities_beside_class_numbers_are_a_problem(tmp_path, data):
    root = write(tmp_path / "net", NUMBERS, ".npy")
    save(root / "b.npy", MAPS["b"])
    text, _ = found(root, data, classes=[1])
    assert "expected probabilities, float" in text


def test_class_numbers_as_floats(tmp_path, data):
    root = write(tmp_path / "net", {name: array.astype(np.float32) for name, array in NUMBERS.items()}, ".npy")
    text, _ = found(root, data)
    assert "found values from 0 to 2" in text
    assert "name the foreground's class numbers" in text
    np.testing.assert_array_equal(load_predictions(root, data, classes=[2]).prediction(0), NUMBERS["a"] == 2)


def test_jpegs_are_probabilities_unless_they_are_dark(tmp_path, data):
    root = tmp_path / "net"
    root.mkdir()
    for name in SIZES:
        Image.fromarray(draw(name, "ben").astype(np.uint8) * 255).save(root / f"{name}.jpg", quality=95)
    loaded = load_predictions(root, data)
    assert loaded.values == "probabilities, 8 bit"
    np.testing.assert_array_equal(loaded.prediction(0), draw("a", "ben"))
    for name in SIZES:
        Image.fromarray(NUMBERS[name]).save(root / f"{name}.jpg", quality=95)
    assert "expected one value beside 0" in found(root, data)[0]


LABELS = {
    "version 2": {"background": 0, "lesion": 1},
    "version 1": {"0": "background", "1": "lesion"},
    "ignore": {"background": 0, "lesion": 1, "ignore": 2},
}


@pytest.mark.parametrize("name", LABELS)
def test_the_only_class_of_dataset_json_is_foreground(tmp_path, data, name):
    root = write(tmp_path / "net", {name: array % 2 for name, array in NUMBERS.items()})
    (root / "dataset.json").write_text(json.dumps({"labels": LABELS[name]}))
    loaded = load_predictions(root, data)
    assert loaded.values == "classes 0/1: 1 lesion as foreground"
    np.testing.assert_array_equal(loaded.prediction(0), NUMBERS["a"] == 1)
    save(root / "a.png", NUMBERS["a"])
    text, files = found(root, data)
    assert files == ["a.png"]
    assert "found values 0, 1, 2 (8 bit); expected those of dataset.json (1 lesion)" in text


def test_several_classes_of_dataset_json_are_named(tmp_path, data):
    root = write(tmp_path / "net", {name: array % 2 for name, array in NUMBERS.items()})
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "edema": 1, "core": 2}}))
    text, _ = found(root, data)
    assert "found masks, and classes in dataset.json (1 edema, 2 core); expected which are foreground" in text
    save(root / "b.png", NUMBERS["b"])
    text, _ = found(root, data)
    assert "class numbers (--finished.classes [1]) of 1 edema, 2 core in dataset.json, or save" in text
    save(root / "b.png", NUMBERS["b"] % 2)
    loaded = load_predictions(root, data, classes=[1, 2])
    assert loaded.values == "classes 0/1: 1 edema, 2 core as foreground"
    np.savez(root / "a.npz", probabilities=np.stack([MAPS["a"] / 2, MAPS["a"] / 2, 1 - MAPS["a"]])[:, None])
    with pytest.raises(DataError, match=r"found 3 classes \(dataset.json: 1 edema, 2 core\); expected which"):
        load_predictions(root, data)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"labels": 3}', '{"labels": {"a": [1, 2]}}', "\0", '{"labels": {"a": {}}}']
)
def test_a_dataset_json_without_names_says_nothing(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    assert read_labels(tmp_path / "dataset.json") == {}


def test_red_marks_on_black_are_a_mask(tmp_path, data):
    red = {name: np.stack([draw(name, "ben") * 255, *[np.zeros(size)] * 2], axis=-1) for name, size in SIZES.items()}
    loaded = load_predictions(
        write(tmp_path / "net", {name: array.astype(np.uint8) for name, array in red.items()}), data
    )
    np.testing.assert_array_equal(loaded.prediction(1), draw("b", "ben"))
    assert loaded.values == "masks 0/#ff0000"


def test_masks_that_look_dark_on_white_are_said(tmp_path, data, caplog):
    masks = {name: np.ones(size, np.uint8) for name, size in SIZES.items()}
    for mask in masks.values():
        mask[2:5, 2:5] = 0
    root = write(tmp_path / "net", masks)
    loaded = load_predictions(root, data)
    assert loaded.values.startswith("masks 0/1, which mark the border and most pixels (if marks are dark on white")
    assert "--finished.classes [0]" in caplog.text
    np.testing.assert_array_equal(load_predictions(root, data, classes=[0]).prediction(0), masks["a"] == 0)
