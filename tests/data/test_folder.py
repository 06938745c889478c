"""What a sound folder gives: shapes, scales, splits, groups, digests."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from irrbench.data import DataError, check_folder, load_folder
from irrbench.data.rater_data import hashed_split
from tests.data.toys import RATERS, SIZES, draw, save


def test_masks_images_and_presence_come_as_stored(folder):
    data = load_folder(folder)
    assert (data.name, data.note, data.raters, data.image_ids) == ("study", "", RATERS, tuple(SIZES))
    assert data.group_column is None
    assert data.groups == list(SIZES)
    for i, image_id in enumerate(data.image_ids):
        stored = np.asarray(Image.open(folder / "images" / f"{image_id}.png"))
        image = data.image(i)
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, stored[None].astype(np.float32) / np.float32(255))
        np.testing.assert_array_equal(data.masks(i), np.stack([draw(image_id, rater) for rater in RATERS]))
        assert data.masks(i).dtype == bool
        assert data.present(i).tolist() == [True] * 3
        assert data.roi(i) is None


def test_sound_folder_has_no_problems(folder):
    assert check_folder(folder) == []


def test_raters_are_chosen_and_ordered(folder):
    data = load_folder(folder, raters=["cem", "anna"])
    assert data.raters == ("cem", "anna")
    np.testing.assert_array_equal(data.masks(1), np.stack([draw("b", "cem"), draw("b", "anna")]))


def test_repeat_drawings_are_no_raters(folder):
    save(folder / "masks" / "anna@2" / "a.png", np.zeros(SIZES["a"], np.uint8))
    assert load_folder(folder).raters == RATERS


def test_a_missing_mask_is_declared_and_an_empty_one_is_a_mask(folder):
    (folder / "masks" / "ben" / "b.png").unlink()
    save(folder / "masks" / "cem" / "b.png", np.zeros(SIZES["b"], np.uint8))
    data = load_folder(folder, allow_missing=True)
    assert data.present(1).tolist() == [True, False, True]
    assert data.masks(1).any((1, 2)).tolist() == [True, False, False]


def test_images_with_too_few_raters_are_left_out_and_counted(folder, caplog):
    (folder / "masks" / "ben" / "b.png").unlink()
    with caplog.at_level(logging.WARNING):
        data = load_folder(folder, allow_missing=True, min_raters=3)
    assert data.image_ids == ("a", "c", "d", "e")
    assert data.manifest.index.tolist() == ["a", "c", "d", "e"]
    assert "1 images by fewer than 3 raters left out" in caplog.text


def test_roi_is_read(folder):
    for image_id, size in SIZES.items():
        roi = np.zeros(size, np.uint8)
        roi[2:5, 1:4] = 1
        save(folder / "roi" / f"{image_id}.png", roi)
    data = load_folder(folder)
    assert data.roi(0).sum() == 9
    np.testing.assert_array_equal(data.masks(0)[1], draw("a", "ben"))


def test_sixteen_raters_with_roi_fit(folder):
    for image_id, size in SIZES.items():
        save(folder / "roi" / f"{image_id}.png", np.ones(size, np.uint8))
        for extra in range(13):
            save(folder / "masks" / f"x{extra:02d}" / f"{image_id}.png", draw(image_id, "q" * (extra + 1)))
    data = load_folder(folder)
    assert data.masks(4).shape == (16, 7, 30)
    assert data.roi(4).all()
    np.testing.assert_array_equal(data.masks(4)[15], draw("e", "q" * 13))


def test_splits_without_manifest_follow_the_hash_of_the_id(folder):
    data = load_folder(folder)
    assert data.manifest["split"].to_dict() == {name: hashed_split(name) for name in SIZES}
    parts = [data.split(name).image_ids for name in ("train", "val", "test")]
    assert sorted(sum(parts, ())) == sorted(SIZES)
    with pytest.raises(ValueError, match="split='dev': expected one of train, val, test"):
        data.split("dev")


def test_hash_splits_have_the_promised_shares():
    splits = [hashed_split(f"image{i}") for i in range(4000)]
    shares = [splits.count(name) / 4000 for name in ("train", "val", "test")]
    np.testing.assert_allclose(shares, [0.6, 0.15, 0.25], atol=0.02)


def test_manifest_gives_splits_groups_and_covariates(folder):
    rows = "image_id,split,group,age\nb,val,p2,40\na,train,007,50\nc,test,p3,\nd,train,007,51\ne,test,e,60\n"
    (folder / "manifest.csv").write_text(rows)
    data = load_folder(folder)
    assert data.group_column == "group"
    assert data.groups == ["007", "p2", "p3", "007", "e"]
    assert data.split("test").image_ids == ("c", "e")
    assert data.split("test").groups == ["p3", "e"]
    assert data.manifest.loc["d", "age"] == 51


@pytest.mark.parametrize("column", ["patient_id", "patient"])
def test_patients_group_images_where_no_group_is_given(folder, column, caplog):
    (folder / "manifest.csv").write_text(f"image_id,{column}\na,p1\nb,p1\nc,p2\nd,p2\ne,p1\n")
    with caplog.at_level(logging.INFO):
        data = load_folder(folder)
    assert data.group_column == column
    assert f"images are grouped by {column}" in caplog.text
    assert data.manifest["split"].tolist() == [hashed_split(patient) for patient in ("p1", "p1", "p2", "p2", "p1")]


def test_group_column_can_be_named(folder):
    (folder / "manifest.csv").write_text("image_id,patient,site\na,p1,1\nb,p1,1\nc,p2,2\nd,p2,2\ne,p1,1\n")
    assert load_folder(folder, group_column="site").groups == ["1", "1", "2", "2", "1"]


def test_numeric_looking_ids_stay_text(folder):
    for sub in ("images", *(f"masks/{rater}" for rater in RATERS)):
        (folder / sub / "a.png").rename(folder / sub / "007.png")
        (folder / sub / "b.png").rename(folder / sub / "NA.png")
    (folder / "manifest.csv").write_text("image_id,split\n007,train\nNA,val\nc,test\nd,train\ne,train\n")
    assert load_folder(folder).split("val").image_ids == ("NA",)


def test_grey_images_get_three_channels_beside_colour(folder):
    save(folder / "images" / "c.png", np.full((*SIZES["c"], 4), 51, np.uint8))
    data = load_folder(folder)
    assert [data.image(i).shape[0] for i in range(5)] == [3] * 5
    np.testing.assert_allclose(data.image(2), 0.2)
    np.testing.assert_array_equal(data.image(0)[0], data.image(0)[2])


def test_volumes_in_numpy_and_nifti(tmp_path):
    nib = pytest.importorskip("nibabel")
    volume = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    mask = volume > 0.5
    (tmp_path / "images").mkdir()
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "images" / "scan.nii.gz")
    for rater, marks in (("r1", mask), ("r2", ~mask)):
        (tmp_path / "masks" / rater).mkdir(parents=True)
        nib.save(nib.Nifti1Image(marks.astype(np.uint8), np.eye(4)), tmp_path / "masks" / rater / "scan.nii")
    save(tmp_path / "roi" / "scan.npy", np.ones((5, 6, 7), bool))
    data = load_folder(tmp_path, classes={"r2": [1]})  # the opposite of the other rater's
    assert data.image(0).shape == (1, 5, 6, 7)
    low, high = np.percentile(volume, (1, 99))
    np.testing.assert_allclose(data.image(0)[0], np.clip((volume - low) / (high - low), 0, 1), atol=1e-6)
    np.testing.assert_array_equal(data.masks(0), np.stack([mask, ~mask]))
    assert data.roi(0).all()


def test_large_images_shrink_with_their_masks(folder):
    data = load_folder(folder, max_side=10)
    assert data.image(0).shape == (1, 6, 10)
    assert data.image(2).shape == (1, 8, 10)
    stored = np.asarray(Image.open(folder / "images" / "a.png")) / 255
    np.testing.assert_allclose(data.image(0)[0], stored.reshape(6, 2, 10, 2).mean((1, 3)), atol=1e-6)
    np.testing.assert_array_equal(data.masks(0)[0], draw("a", "anna")[1::2, 1::2])


def test_digest_tells_masks_apart_but_not_orders(folder):
    data = load_folder(folder)
    assert data.digest() == load_folder(folder).digest()
    assert data.subset([4, 2, 0, 1, 3]).digest() == data.digest()
    assert data.subset([0, 1]).digest() != data.digest()
    save(folder / "images" / "a.png", np.zeros(SIZES["a"], np.uint8))
    assert load_folder(folder).digest() == data.digest()
    changed = draw("a", "anna")
    changed[0, 0] ^= True
    save(folder / "masks" / "anna" / "a.png", changed)
    assert load_folder(folder).digest() != data.digest()


def test_presence_counts_in_the_digest(folder):
    save(folder / "masks" / "ben" / "b.png", np.zeros(SIZES["b"], np.uint8))
    before = load_folder(folder).digest()
    (folder / "masks" / "ben" / "b.png").unlink()
    assert load_folder(folder, allow_missing=True).digest() != before


def test_data_reach_other_processes(folder):
    data = pickle.loads(pickle.dumps(load_folder(folder)))  # noqa: S301
    np.testing.assert_array_equal(data.image(3), load_folder(folder).image(3))


def test_an_image_that_vanishes_later_says_so(folder):
    data = load_folder(folder)
    (folder / "images" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: found a file that cannot be read \(FileNotFoundError"):
        data.image(0)


def test_real_ct_loads_as_an_ordinary_folder(real_data):
    data = load_folder(real_data / "lidc", progress=False)
    assert (len(data), data.raters, data.group_column) == (856, ("r1", "r2", "r3", "r4"), "patient_id")
    assert sum(len(item.data) for item in data.packed) / len(data) < 200  # bytes an image, masks of four raters
    areas = np.array([data.masks(i).sum((1, 2)) for i in range(len(data))])
    np.testing.assert_array_equal(areas, data.manifest[[f"area_r{r}" for r in range(1, 5)]])
    keys = data.manifest["patient_id"]
    assert (data.manifest["split"] == keys.map(hashed_split)).all()


def test_real_mixed_cases_keep_their_empty_masks(real_data):
    data = load_folder(real_data / "lidc_mixed", progress=False)
    drawn = [int(data.masks(i).any((1, 2)).sum()) for i in range(len(data))]
    assert drawn == data.manifest["raters_drew_slice"].tolist()
    assert all(data.present(i).all() for i in range(len(data)))
