"""Predictions as other frameworks lay them out: archives, class axes, nnU-Net's folders, several models."""

from __future__ import annotations

import json

import numpy as np
import pytest

from irrbench.data import DataError, load_folder, load_predictions
from irrbench.data.predictions import find_models
from tests.data.toys import SIZES, save

PROBABILITY = np.random.default_rng(8).random(SIZES["a"]).astype(np.float32)
MASK = PROBABILITY > 0.5


def softmax(probability, classes=2):
    rest = (1 - probability) / (classes - 1)
    return np.stack([rest, probability, *[rest] * (classes - 2)])


@pytest.fixture
def data(folder):
    return load_folder(folder)


@pytest.fixture
def predictions(tmp_path):
    root = tmp_path / "net"
    for image_id, size in SIZES.items():
        save(root / f"{image_id}.npy", np.zeros(size, np.float32))
    return root


def replace(predictions, **arrays):
    (predictions / "a.npy").unlink()
    np.savez_compressed(predictions / "a.npz", **arrays)


ARCHIVES = {
    "one array": {"anything": PROBABILITY},
    "numpy's name": {"arr_0": PROBABILITY},
    "both classes": {"probabilities": softmax(PROBABILITY)},
    "nnU-Net v1": {"softmax": softmax(PROBABILITY).astype(np.float16)},
    "a depth of one": {"probabilities": softmax(PROBABILITY)[:, None]},
    "beside a variance": {"probabilities": softmax(PROBABILITY), "variance_map": PROBABILITY},
    "classes last": {"arr_0": np.moveaxis(softmax(PROBABILITY), 0, -1)},
    "one channel": {"arr_0": PROBABILITY[None]},
    "a mask": {"mask": MASK},
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_hold_one_map_or_a_map_for_each_class(data, predictions, name):
    replace(predictions, **ARCHIVES[name])
    mask = load_predictions(predictions, data).prediction(0)
    assert (mask != MASK).sum() <= (name == "nnU-Net v1")  # half precision may round over the threshold


def test_classes_are_chosen_by_number(data, predictions):
    three = softmax(PROBABILITY, classes=3)
    replace(predictions, probabilities=three)
    with pytest.raises(DataError, match=r"a\.npz: found 3 classes; expected which of them are foreground"):
        load_predictions(predictions, data)
    chosen = load_predictions(predictions, data, classes=[1]).prediction(0)
    np.testing.assert_array_equal(chosen, MASK)
    both = load_predictions(predictions, data, classes=[1, 2], threshold=0.6).prediction(0)
    np.testing.assert_array_equal(both, three[1] + three[2] > np.float32(0.6))
    with pytest.raises(DataError, match=r"found 3 classes and the choice \[3\]"):
        load_predictions(predictions, data, classes=[3])


def test_class_numbers_become_a_mask(data, predictions):
    numbers = np.random.default_rng(1).integers(0, 3, SIZES["a"]).astype(np.uint8)
    (predictions / "a.npy").unlink()
    save(predictions / "a.png", numbers)
    np.testing.assert_array_equal(load_predictions(predictions, data, classes=[2]).prediction(0), numbers == 2)
    save(predictions / "a.png", (numbers == 2).astype(np.uint8) * 2)
    assert not load_predictions(predictions, data, classes=[1]).prediction(0).any()  # one class there, but another


BAD = {
    "several arrays": ({"x": MASK, "y": MASK}, r"a\.npz: found 2 arrays \(x, y\); expected one array"),
    "no array": ({}, r"a\.npz: found 0 arrays"),
    "logits": ({"probabilities": softmax(PROBABILITY) * 4}, r"found values from 0\.\d+ to \d+(\.\d+)?; expected prob"),
    "regions": ({"probabilities": np.stack([PROBABILITY] * 2)}, "found 2 channels whose values sum to .* sum to 1"),
    "NaN": ({"probabilities": softmax(PROBABILITY * np.float32(np.nan))}, "found NaN or infinite values"),
    "size": ({"probabilities": softmax(PROBABILITY)[:, :-1]}, "found size|found shape"),
    "objects": ({"x": np.array([[{}]], dtype=object)}, "elements of type object"),
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_archives_are_named(data, predictions, name):
    arrays, message = BAD[name]
    replace(predictions, **arrays)
    with pytest.raises(DataError, match=message):
        load_predictions(predictions, data)


def test_nnunets_own_files_are_skipped_and_probabilities_come_first(data, predictions):
    save(predictions / "a.png", ~MASK)
    replace(predictions, probabilities=softmax(PROBABILITY)[:, None])
    with pytest.raises(DataError, match=r"found the same id as a\.npz"):
        load_predictions(predictions, data)
    for name in ("dataset.json", "plans.json", "predict_from_raw_data_args.json", "summary.json"):
        (predictions / name).write_text("{}")
    (predictions / "a.pkl").write_bytes(b"properties")
    np.testing.assert_array_equal(load_predictions(predictions, data).prediction(0), MASK)


def test_cases_go_by_their_image_with_the_channel_in_its_name(folder, predictions):
    for path in [*folder.rglob("*.png")]:
        path.rename(path.with_name(f"{path.stem}_0000.png"))
    data = load_folder(folder)
    with pytest.raises(DataError, match=r"5 times: .*a name that lacks '_0000' of the image's id"):
        load_predictions(predictions, data)
    (predictions / "dataset.json").write_text("{}")
    save(predictions / "a.npy", PROBABILITY)
    np.testing.assert_array_equal(load_predictions(predictions, data).prediction(0), MASK)


@pytest.mark.parametrize("shape", [(5, 6, 7), (6, 6, 6)])
def test_nnunets_archives_have_the_axes_of_nifti_reversed(tmp_path, shape):
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")

    def write(path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)

    rng = np.random.default_rng(3)
    probability = rng.random(shape).astype(np.float32)
    write(tmp_path / "study/images/a.nii.gz", rng.random(shape).astype(np.float32))
    for rater in ("r1", "r2"):
        write(tmp_path / f"study/masks/{rater}/a.nii.gz", (rng.random(shape) > 0.7).astype(np.uint8))
    data = load_folder(tmp_path / "study")
    root = tmp_path / "net"
    write(root / "a.nii.gz", (probability > 0.5).astype(np.uint8))
    (root / "plans.json").write_text("{}")
    from_mask = load_predictions(root, data).prediction(0)
    np.savez(root / "a.npz", probabilities=softmax(probability.transpose(2, 1, 0)))
    np.testing.assert_array_equal(load_predictions(root, data).prediction(0), from_mask)
    np.testing.assert_array_equal(from_mask, probability > 0.5)


def test_a_folder_of_folders_is_several_models(predictions, tmp_path):
    assert find_models(predictions) == {"net": predictions}
    (tmp_path / "all").mkdir()
    with pytest.raises(DataError, match="all: found an empty folder; expected predictions, or a folder for each model"):
        find_models(tmp_path / "all")
    for name in ("unet", "nnunet"):
        (tmp_path / "all" / name).mkdir()
    (tmp_path / "all" / ".cache").mkdir()
    (tmp_path / "all" / "README.md").write_text("models")
    assert list(find_models(tmp_path / "all")) == ["nnunet", "unet"]
    with pytest.raises(DataError, match="none: found no such folder"):
        find_models(tmp_path / "none")


def test_masks_and_images_of_a_folder_may_be_archives(folder):
    for path in (folder / "masks" / "ben" / "a.png", folder / "images" / "a.png"):
        path.unlink()
        np.savez(path.with_suffix(".npz"), MASK if "masks" in str(path) else PROBABILITY)
    data = load_folder(folder)
    np.testing.assert_array_equal(data.masks(0)[1], MASK)
    assert data.image(0).shape == (1, *SIZES["a"])


WRITERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient")
ORIENTATIONS = ("RAS", "LPS", "LAS", "PIR", "SAL", "none")


def nnunet_case(tmp_path, codes, writer, *, shape=(5, 6, 7), angle=0.0, spoilt=False):
    """A study of one volume, a folder as nnU-Net writes it (here by the readers' own libraries), and the right mask."""
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    rng = np.random.default_rng([len(writer), *map(ord, codes)])
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes if codes != "none" else "LAS"), shape)
    affine[:2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]] @ affine[:2]

    def write(path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine if codes != "none" else None), path)

    probability = rng.random(shape).astype(np.float32)
    write(tmp_path / "study/images/a.nii.gz", rng.random(shape).astype(np.float32))
    for rater in ("r1", "r2"):
        write(tmp_path / f"study/masks/{rater}/a.nii.gz", (rng.random(shape) > 0.7).astype(np.uint8))
    mask = probability > 0.5
    write(tmp_path / "net/a.nii.gz", (rng.random(shape) > 0.5 if spoilt else mask).astype(np.uint8))
    write(tmp_path / "net.nii.gz", probability)
    if writer.startswith("Nibabel"):
        image = nib.load(tmp_path / "net.nii.gz")
        image = image.as_reoriented(nib.io_orientation(image.affine)) if writer.endswith("WithReorient") else image
        archive = np.asarray(image.dataobj).transpose(2, 1, 0)
    else:
        image = sitk.ReadImage(str(tmp_path / "net.nii.gz"))
        archive = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "RAS") if writer.endswith("WithReorient") else image)
    np.savez(tmp_path / "net/a.npz", probabilities=softmax(archive))
    (tmp_path / "net/dataset.json").write_text("{}")
    return load_folder(tmp_path / "study"), tmp_path / "net", mask


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("told", ["plans.json", "dataset.json", "by the mask"])
@pytest.mark.parametrize("shape", [(5, 6, 7), (6, 6, 6)])
def test_nnunets_archives_are_in_the_axes_of_its_reader(tmp_path, codes, writer, told, shape):
    data, root, mask = nnunet_case(tmp_path, codes, writer, shape=shape, angle=0.2 * (codes != "none"))
    if told == "plans.json":
        (root / told).write_text(json.dumps({"image_reader_writer": writer}))
        (root / "dataset.json").write_text(json.dumps({"overwrite_image_reader_writer": "NaturalImage2DIO"}))
    elif told == "dataset.json":
        (root / told).write_text(json.dumps({"overwrite_image_reader_writer": writer}))
    found = load_predictions(root, data)
    assert found.values == "probabilities, 2 classes"
    np.testing.assert_array_equal(found.prediction(0), mask)


@pytest.mark.parametrize("lacks", ["the mask", "a mask that agrees"])
def test_an_archive_in_unknown_axes_is_a_problem(tmp_path, lacks):
    data, root, _ = nnunet_case(tmp_path, "LPS", "NibabelIOWithReorient", spoilt=lacks != "the mask")
    if lacks == "the mask":
        (root / "a.nii.gz").unlink()
    with pytest.raises(DataError, match=r"unknown axes.*image_reader_writer in plans\.json.*copy plans\.json"):
        load_predictions(root, data)
    (root / "plans.json").write_text(json.dumps({"image_reader_writer": "NibabelIOWithReorient"}))
    assert load_predictions(root, data).values == "probabilities, 2 classes"


def test_in_the_orientation_that_nnunet_turns_to_nothing_is_to_be_known(tmp_path):
    data, root, mask = nnunet_case(tmp_path, "RAS", "SimpleITKIO")
    (root / "a.nii.gz").unlink()
    np.testing.assert_array_equal(load_predictions(root, data).prediction(0), mask)
