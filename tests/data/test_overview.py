"""What is said of a data set, against plain numpy; what looks odd is said, and nothing where nothing is odd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from irrbench.data import RaterData, load_folder
from irrbench.data.overview import cautions, count_marks, overview
from irrbench.data.resemblance import FEWEST_PIXELS
from tests.data.toys import RATERS, SIZES, draw, save


def some_data(raters=3, images=4, *, seed=0, **options):
    rng = np.random.default_rng(seed)
    shapes = [(6 + i, 5) for i in range(images)]
    masks = [rng.random((raters, *shape)) < 0.4 for shape in shapes]
    return RaterData.from_arrays([rng.random((1, *shape)) for shape in shapes], masks, **options)


def said(data, **options):
    return cautions(data, count_marks(data), **options)


@pytest.mark.parametrize("raters", [3, 16])  # with an ROI, 17 bits: codes of four bytes
@pytest.mark.parametrize("has_roi", [False, True])
def test_marks_agree_with_plain_numpy(raters, has_roi):
    rng = np.random.default_rng(raters)
    masks = [rng.random((raters, 6, 5 + i)) < 0.5 for i in range(4)]
    masks[2][1] = masks[2][0]
    masks[3][:3] = False
    rois = [rng.random(stack.shape[1:]) < 0.6 if has_roi else None for stack in masks]
    present = np.ones((4, raters), bool)
    present[1, 2] = False
    images = [np.zeros((1, *stack.shape[1:])) for stack in masks]
    marks = count_marks(RaterData.from_arrays(images, masks, rois=rois, present=present))
    equal, both = np.zeros((2, raters, raters), int)
    for i, (stack, roi) in enumerate(zip(masks, rois, strict=True)):
        inside = np.ones(stack.shape[1:], bool) if roi is None else roi
        shares = np.where(present[i], stack[:, inside].mean(1), np.nan)
        np.testing.assert_allclose(marks.shares[i], shares)
        assert marks.roi[i] == pytest.approx(inside.mean())
        for r in range(raters):
            for s in range(raters):
                drawn = present[i, r] and present[i, s]
                is_large = max(stack[r][inside].sum(), stack[s][inside].sum()) >= FEWEST_PIXELS
                both[r, s] += drawn and bool(is_large)
                equal[r, s] += drawn and bool(is_large and (stack[r] == stack[s])[inside].all())
    np.testing.assert_array_equal(marks.alike.equal, equal)
    np.testing.assert_array_equal(marks.alike.drawn, both)


def test_a_rater_has_no_share_of_an_empty_roi():
    rois = [np.zeros((6, 5), bool), np.ones((6, 5), bool)]
    marks = count_marks(RaterData.from_arrays([np.zeros((1, 6, 5))] * 2, [np.ones((3, 6, 5), bool)] * 2, rois=rois))
    assert np.isnan(marks.shares[0]).all()
    assert (marks.shares[1] == 1).all()
    assert marks.roi.tolist() == [0, 1]


def test_nothing_is_odd_about_sound_data():
    frame = pd.DataFrame({"split": ["train", "train", "test", "test"]}, index=[f"image{i:05d}" for i in range(4)])
    assert not said(some_data(manifest=frame))


def test_what_was_understood(folder):
    rows = "image_id,split,patient,site\na,train,p1,x\nb,train,p1,x\nc,val,p2,y\nd,test,p3,y\ne,test,p3,x\n"
    (folder / "manifest.csv").write_text(rows)
    (folder / "masks/ben/b.png").unlink()
    save(folder / "masks/cem/a.png", np.zeros(SIZES["a"], np.uint8))
    save(folder / "masks/anna@2/a.png", draw("a", "anna"))
    data = load_folder(folder, allow_missing=True)
    found = dict(overview(data, count_marks(data)))
    assert found["images"] == "5 images of 9 x 11 to 12 x 20 (height x width), 1 channel; 3 raters: anna, ben, cem"
    assert found["splits"] == "2 train (1 groups), 1 val (1), 2 test (1), by column split; groups: patient"
    assert found["raters"] == "2 raters on 1 images, 3 on 4 (train: 2 on 1, 3 on 1; val: 3 on 1; test: 3 on 2)"
    anna = np.median([draw(name, "anna").mean() for name in SIZES])
    cem = np.median([draw(name, "cem").mean() for name in "bcde"])
    assert found["marked"].startswith(f"anna {anna:.1%}, ben ")
    assert f"cem {cem:.1%} (20% of masks empty)" in found["marked"]
    assert (found["ROI"], found["repeats"], found["covariates"]) == ("none: all pixels count", "anna@2 on 1", "site")


def test_without_a_column_of_splits_a_hash_is_named(folder):
    data = load_folder(folder, max_side=10)
    found = dict(overview(data, count_marks(data)))
    assert found["splits"].endswith("by a hash of image_id (no column split)")
    assert "scaled down to 10 at most" in found["images"]


def test_spacing_is_said_where_files_have_it(tmp_path):
    nib = pytest.importorskip("nibabel")
    for name, side in (("a", 0.5), ("b", 0.75)):
        for place in ("images", "masks/r1", "masks/r2"):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            volume = np.random.default_rng(len(place)).integers(0, 2, (5, 6, 4)).astype(np.uint8)
            nib.save(nib.Nifti1Image(volume, np.diag([side, side, 3, 1])), tmp_path / place / f"{name}.nii.gz")
    data = load_folder(tmp_path)
    found = dict(overview(data, count_marks(data)))
    assert found["spacing"] == "0.5 x 0.5 x 3 to 0.75 x 0.75 x 3 mm"
    assert found["images"] == "2 images of 5 x 6 x 4, 1 channel; 2 raters: r1, r2"


def copied(masks, rater):
    masks[:, 1] = masks[:, 0]
    return [f"{rater[1]} is equal to {rater[0]} on 5 of 5 marked images (100%)"]


def half_copied(masks, rater):
    masks[:3, 2] = masks[:3, 1]
    return [f"{rater[2]} is equal to {rater[1]} on 3 of 5 marked images (60%)"]


def shifted_and_copied(masks, rater):
    masks[:, 2] = np.roll(masks[:, 1], 1, -1)  # not equal: nothing to say
    return []


def one_equal(masks, _rater):
    masks[0, 1] = masks[0, 0]
    return []


def equal_where_empty(masks, _rater):
    masks[:4, :2] = False
    return []


def nothing(masks, rater):
    masks[:, 2] = False
    return [f"{rater[2]} marks nothing on any of 5 images"]


def everything(masks, rater):
    masks[1:, 0] = True
    return [f"{rater[0]} marks over 95% of the pixels on 4 of 5 images: are the masks inverted?"]


@pytest.mark.parametrize(
    "change", [copied, half_copied, shifted_and_copied, one_equal, equal_where_empty, nothing, everything]
)
def test_odd_raters_are_named(change):
    masks = np.random.default_rng(3).random((5, 3, 8, 9)) < 0.3
    expected = change(masks, RATERS)
    frame = pd.DataFrame({"split": ["train"] * 5}, index=[f"image{i:05d}" for i in range(5)])
    found = said(RaterData.from_arrays([np.zeros((1, 8, 9))] * 5, list(masks), raters=RATERS, manifest=frame))
    assert len(found) == len(expected), found
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize("split", ["aaaba", "aaabc", "baaaa", "abcaa"])
def test_one_picture_everywhere_is_shown_out_of_each_split(split):
    names = {"a": "train", "b": "val", "c": "test"}
    frame = pd.DataFrame({"split": [names[each] for each in split]}, index=[f"image{i:05d}" for i in range(5)])
    data = replace(some_data(images=5, manifest=frame), pictures=(b"same",) * 5)
    (line,) = [line for line in said(data) if "picture" in line]
    for each in set(split):
        assert f"image{split.index(each):05d} ({names[each]})" in line


def test_few_raters_are_said():
    present = np.ones((4, 3), bool)
    present[0, 1:] = present[1, 2:] = False
    few, different, *_ = said(some_data(present=present))
    assert few == "1 of 4 images have one rater (image00000): no bounds and no scores there."
    assert "(1 on 1, 2 on 1, 3 on 2)" in different


def test_one_picture_under_two_ids(folder):
    (folder / "images/b.png").write_bytes((folder / "images/a.png").read_bytes())
    for rater in RATERS:
        save(folder / f"masks/{rater}/b.png", draw("a", rater))
    splits = dict.fromkeys(SIZES, "train") | {"e": "val", "c": "test", "d": "test"}
    write = (folder / "manifest.csv").write_text
    write("image_id,split\n" + "".join(f"{name},{split}\n" for name, split in splits.items()))
    assert said(load_folder(folder))[0] == "1 picture under several ids (a = b): copies count more than once."
    splits["b"] = "test"
    write("image_id,split\n" + "".join(f"{name},{split}\n" for name, split in splits.items()))
    assert said(load_folder(folder))[0].startswith(
        "1 picture in several splits under different ids (a (train) = b (test))"
    )
    assert said(load_folder(folder), splits=False)[0].startswith("1 picture under several ids (a = b)")
    assert not [line for line in said(load_folder(folder, check_images=False)) if "picture" in line]


def test_the_same_pixels_in_another_format_are_the_same_picture(folder):
    pixels = np.random.default_rng(ord("a")).integers(0, 256, SIZES["a"], np.uint8)
    (folder / "images/d.png").unlink()
    save(folder / "images/d.tif", pixels)
    (line,) = [line for line in said(load_folder(folder), splits=False) if "picture" in line]
    assert "(a = d)" in line


def test_splits_of_one_image_and_columns_like_patients_are_said(folder):
    rows = "image_id,split,Subject ID\na,train,s1\nb,train,s2\nc,val,s2\nd,test,s3\ne,test,s3\n"
    (folder / "manifest.csv").write_text(rows)
    patients, alone = said(load_folder(folder))
    assert patients.startswith(
        "Column 'Subject ID' looks like patients, but images are not grouped by it; 1 of 3 are in"
    )
    assert "--folder.group_column 'Subject ID'" in patients
    assert alone.startswith("One image alone in val")


def test_real_data_are_not_suspected(real_data):
    for name in ("lidc", "lidc_mixed"):  # 49 of the 856 images of lidc have two equal masks
        data = load_folder(real_data / name, progress=False)
        assert not said(data), name
        assert len(set(data.pictures)) == len(data)


def speckled(share, *, raters=4, images=3, seed=5):
    """Masks that agree but for a twentieth of the pixels, of specks all over the image."""
    rng = np.random.default_rng(seed)
    truth = [rng.random((20, 24)) < share for _ in range(images)]
    return [np.stack([mask ^ (rng.random(mask.shape) < 0.05) for _ in range(raters)]) for mask in truth]


def of_masks(masks, **options):
    return RaterData.from_arrays([np.zeros((1, *stack.shape[1:])) for stack in masks], masks, **options)


def inverted_said(data):
    return [text for text in said(data, splits=False) if "[0]" in text]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
@pytest.mark.parametrize("raters", [2, 3, 4])
@pytest.mark.parametrize("images", [1, 2, 6])
def test_a_rater_whose_background_agrees_with_the_others_is_named(share, raters, images):
    masks = speckled(share, raters=raters, images=images)
    assert inverted_said(of_masks(masks)) == []
    for stack in masks:
        stack[1] = ~stack[1]
    (text,) = inverted_said(of_masks(masks))
    assert text.startswith("The background of r2 agrees better with the other raters than the marks, on ")
    assert text.endswith(
        f"on {images} of {images} images: if these are dark on white, say --folder.classes '{{r2: [0]}}'."
    )


def test_half_of_a_raters_masks_are_enough():
    masks = speckled(0.2, images=4)
    masks[0][2], masks[1][2] = ~masks[0][2], ~masks[1][2]
    (text,) = inverted_said(of_masks(masks))
    assert "The background of r3" in text
    assert "on 2 of 4 images" in text
    masks[1][2] = ~masks[1][2]
    assert inverted_said(of_masks(masks)) == []


def test_inverted_masks_are_seen_in_a_region_and_beside_absent_raters():
    masks = speckled(0.2)
    for stack in masks:
        stack[0] = ~stack[0]
    roi = np.zeros((20, 24), bool)
    roi[4:-4, 4:-4] = True
    present = np.ones((3, 4), bool)
    present[:, 3] = present[0, 2] = False
    (text,) = inverted_said(of_masks(masks, rois=[roi] * 3, present=present))
    assert "The background of r1" in text
    assert "on 3 of 3 images" in text


def test_raters_who_mark_much_or_another_place_are_not_inverted():
    masks = [np.zeros((3, 20, 20), bool) for _ in range(3)]
    for stack in masks:
        stack[0, 2:18, 1:18] = True  # far too much, around what the others mark
        stack[1, 8:11, 8:12] = True
        stack[2, 8:12, 8:11] = True
    assert inverted_said(of_masks(masks)) == []
    for stack in masks:
        stack[0] = False
        stack[0, :3, :3] = True  # another place
    assert inverted_said(of_masks(masks)) == []
    assert inverted_said(of_masks([stack & False for stack in masks])) == []


def test_all_raters_dark_on_white_are_a_caution(tmp_path):
    masks = speckled(0.2, images=2)
    (text,) = inverted_said(of_masks([~stack for stack in masks]))
    assert text.startswith("The marks of every rater take most of the pixels and of the border on most images")
    assert text.endswith("say --folder.classes '[0]'.")
    for i, stack in enumerate(masks):
        save(tmp_path / f"images/i{i}.png", np.full(stack.shape[1:], 9 * i, np.uint8))
        for rater, mask in enumerate(stack):
            save(tmp_path / f"masks/r{rater}/i{i}.png", np.where(mask, 0, 255).astype(np.uint8))
    assert len(inverted_said(load_folder(tmp_path))) == 1
    assert inverted_said(load_folder(tmp_path, classes=[0])) == []
    assert inverted_said(load_folder(tmp_path, classes=[255])) == []  # it was said


def test_no_real_rater_is_called_inverted(real_data):
    for name in ("lidc", "lidc_mixed", "bubil"):
        if (real_data / name).is_dir():
            data = load_folder(real_data / name, allow_missing=True, check_images=False)
            assert inverted_said(data) == []
            marks = count_marks(data)
            assert not marks.inverted.any()
            assert not marks.outside.any()
