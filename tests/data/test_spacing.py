"""The length of a pixel: from an option or a column where files do not say so, in every image or in none."""

from __future__ import annotations

import numpy as np
import pytest

from irrbench.callbacks.batch import read_batch
from irrbench.config import ConfigError, load_config
from irrbench.data import DataError, RaterData, SegmentationDataset, check_folder, collate, load_folder
from irrbench.data.dataset import check_spacings, references

IDS, SHAPE = ("a", "b", "c"), (6, 8)


@pytest.fixture
def root(tmp_path):
    root, rng = tmp_path / "study", np.random.default_rng(0)
    for name in IDS:
        for folder in ("images", "masks/r1", "masks/r2"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            np.save(root / folder / f"{name}.npy", rng.random(SHAPE) if folder == "images" else rng.random(SHAPE) < 0.5)
    return root


def write_column(root, values, column="mm"):
    rows = [f"{name},train,{value}" for name, value in zip(IDS, values, strict=True)]
    (root / "manifest.csv").write_text("\n".join([f"image_id,split,{column}", *rows]) + "\n")


def data_of(spacings):
    images, masks = [np.zeros((1, *SHAPE), np.float32)] * 3, [np.ones((2, *SHAPE), bool)] * 3
    return RaterData.from_arrays(images, masks, image_ids=IDS, spacings=spacings)


@pytest.mark.parametrize(("given", "lengths"), [(0.5, (0.5, 0.5)), ([0.5, 2], (0.5, 2.0)), ([3], (3.0, 3.0))])
def test_an_option_gives_all_images_their_spacing(root, given, lengths):
    data = load_folder(root, spacing=given)
    assert data.unit == "mm"
    assert {data.spacing(i) for i in range(3)} == {lengths}
    assert references(data, 1)["spacing"] == lengths
    assert load_folder(root).spacing(0) is None
    assert load_folder(root).unit == "px"


def test_a_column_gives_each_image_its_own(root):
    write_column(root, ["0.5", "0.5 x 2", "1;3"])
    data = load_folder(root, spacing="mm")
    assert [data.spacing(i) for i in range(3)] == [(0.5, 0.5), (0.5, 2.0), (1.0, 3.0)]
    assert data.subset([2, 0]).spacing(0) == (1.0, 3.0)
    assert load_folder(root).spacing(0) is None  # a column is read by its name alone
    small = load_folder(root, spacing="mm", max_side=4)
    assert small.shape(1) == (3, 4)
    assert small.spacing(1) == (1.0, 4.0)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "", "inf", "thin", "1 x 2 x 3"])
def test_a_value_that_is_no_length_is_a_problem(root, value):
    write_column(root, ["0.5", value, "0.5"])
    (problem,) = check_folder(root, spacing="mm")
    assert problem.file == "spacing of b"
    assert "expected 1 or 2 lengths in mm, greater than 0, such as 0.7 or 0.7 x 0.5" in str(problem)
    assert check_folder(root) == []


def test_a_column_that_is_not_there_is_a_problem(root):
    write_column(root, [1, 1, 1], column="spacing_mm")
    (problem,) = check_folder(root, spacing="spacing")
    assert str(problem) == (
        "folder.spacing: found no column 'spacing'; expected a column of lengths. Remedy: did you mean 'spacing_mm'."
    )


@pytest.mark.parametrize("value", ["0", "-0.5", "[0.7, 0]", "[.nan]", "[]"])
def test_the_configuration_takes_lengths_alone(value):
    with pytest.raises(ConfigError, match=r"folder.spacing must be millimetres .* such as 0.7 or \[0.7, 0.5\]"):
        load_config(None, ["--folder.spacing", value])
    assert load_config(None, ["--folder.spacing", "[0.7, 0.5]"]).folder.spacing == [0.7, 0.5]
    assert load_config(None, ["--folder.spacing", "mm"]).folder.spacing == "mm"


def test_files_that_say_otherwise_are_a_problem(root):
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    for path in root.rglob("*.npy"):
        array = np.load(path).astype(np.float32)[..., None]
        nib.save(nib.Nifti1Image(array, np.diag([0.5, 0.5, 3, 1])), path.with_suffix(".nii.gz"))
        path.unlink()
    assert load_folder(root).unit == "mm"
    assert load_folder(root, spacing=[0.5, 0.5, 3]).spacing(0) == pytest.approx((0.5, 0.5, 3))
    problems = check_folder(root, spacing=[0.5, 0.7, 3])
    assert len(problems) == 3
    assert str(problems[0]) == (
        "spacing of a: found 0.5 x 0.5 x 3 mm in its file; expected 0.5 x 0.7 x 3 mm, as folder.spacing says. "
        "Remedy: leave folder.spacing out."
    )


def test_where_distances_are_measured_all_images_have_a_spacing_or_none():
    check_spacings(data_of([(1.0, 2.0)] * 3), ["nsd"])
    check_spacings(data_of([]), ["nsd"])
    some = data_of([(1.0, 2.0), None, (1.0, 1.0)])
    assert some.unit == "px"
    check_spacings(some, ["iou", "lesion_f1"])
    with pytest.raises(DataError) as caught:
        check_spacings(some, ["iou", "nsd", "hd95"])
    (problem,) = caught.value.problems
    assert str(problem) == (
        "images/b: found no spacing; expected one, as 2 of 3 images have: else nsd, hd95 would mix millimetres and "
        "pixels. Remedy: give it by folder.spacing, or leave out such scores."
    )


@pytest.mark.parametrize("length", [0.0, np.nan, np.inf])
def test_a_spacing_in_a_file_that_is_none_is_a_problem_where_it_counts(length):
    broken = data_of([(1.0, 2.0), (1.0, length), (1.0, 1.0)])
    check_spacings(broken, ["iou"])
    with pytest.raises(DataError, match=rf"images/b: found spacing 1 x {length:g}; expected lengths greater than 0"):
        check_spacings(broken, ["masd"])


def test_items_and_batches_carry_it_on_the_host_in_full_precision():
    items = SegmentationDataset(data_of([(0.1, 0.7)] * 3))
    batch = collate([items[0], items[2]])
    assert isinstance(batch["spacing"], np.ndarray)
    assert batch["spacing"].tolist() == [[0.1, 0.7]] * 2
    sample = read_batch(batch, {"masks": "masks", "spacing": "spacing"})
    assert sample.spacing.tolist() == [[0.1, 0.7]] * 2
    assert "spacing" not in SegmentationDataset(data_of([]))[0]
    assert "spacing" not in SegmentationDataset(data_of([(0.1, 0.7), None, (1.0, 1.0)]))[0]
