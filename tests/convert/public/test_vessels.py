"""DRIVE, CHASE_DB1 and STARE: made files, with what goes wrong in downloads."""

import numpy as np
import pytest

from irrbench.convert import convert_public
from irrbench.data import DataError, load_folder
from tests.convert.public.makers import blob, photo, rows, same, write, written

SHAPE = (24, 30)


def drive(root, *, tests=2, trainings=10, observers=2):
    """DRIVE, in a folder level too many; masks by what they are written as."""
    made = {}
    for number in (*range(1, tests + 1), *range(21, 21 + trainings)):
        split = "test" if number < 21 else "training"
        folder = root / "DRIVE" / "DRIVE" / split
        write(folder / "images" / f"{number:02d}_{split}.tif", photo(SHAPE, number))
        write(folder / "mask" / f"{number:02d}_{split}_mask.gif", blob(SHAPE, 1, share=0.8))
        for observer in range(1, observers + 1 if split == "test" else 2):
            mask = blob(SHAPE, 10 * number + observer)
            name = {1: "1st_manual", 2: "2nd_manual"}[observer]
            write(folder / name / f"{number:02d}_manual{observer}.gif", mask)
            made[f"observer{observer}", f"{number:02d}_{split}"] = mask
    return made


def test_drive_keeps_its_split_and_the_training_images_of_one_observer(tmp_path):
    made = drive(tmp_path / "in")
    done = convert_public("drive", tmp_path / "in", tmp_path / "out", progress=False)
    assert same(written(tmp_path / "out"), made)
    assert not done.left_out
    manifest = rows(tmp_path / "out")
    splits = [manifest[name]["split"] for name in sorted(manifest)]
    assert splits.count("test") == 2
    assert splits.count("val") == 2  # every fifth of ten
    assert (manifest["25_training"]["split"], manifest["25_training"]["published_split"]) == ("val", "train")
    text = " ".join(done.notes)
    assert "test: 2 raters on 2 images" in text
    assert "train: 1 rater on 8 images" in text
    assert "all images have 24 x 30 pixels" in text
    assert "tie" in text
    assert "10.1109/TMI.2004.825627" in " ".join(done.terms)


def test_drive_reads_with_the_own_loader_and_its_field_of_view(tmp_path):
    made = drive(tmp_path / "in")
    convert_public("drive", tmp_path / "in", tmp_path / "out", progress=False)
    data = load_folder(tmp_path / "out", allow_missing=True, progress=False)
    place = data.image_ids.index("01_test")
    for rater, mask in zip(data.raters, data.masks(place), strict=True):
        assert np.array_equal(mask, made[rater, "01_test"])
    assert np.array_equal(data.roi(place), blob(SHAPE, 1, share=0.8))
    assert data.present(data.image_ids.index("21_training")).tolist() == [True, False]


def test_drive_without_manuals_of_the_test_images_says_so(tmp_path):
    drive(tmp_path / "in", observers=0)
    done = convert_public("drive", tmp_path / "in", tmp_path / "out", progress=False)
    assert done.images == 10
    assert any("2 images with no mask left out" in note for note in done.notes)
    assert any("Newer downloads have no manual segmentations" in note for note in done.notes)


def test_drive_needs_all_fields_of_view_or_none(tmp_path):
    drive(tmp_path / "in")
    masks = sorted((tmp_path / "in").rglob("*_mask.gif"))
    masks[0].unlink()
    done = convert_public("drive", tmp_path / "in", tmp_path / "out", progress=False)
    assert [problem.file for problem in done.left_out] == ["01_test"]
    assert "add mask/01_test_mask.gif" in done.left_out[0].remedy
    for path in masks[1:]:
        path.unlink()
    done = convert_public("drive", tmp_path / "in", tmp_path / "all", progress=False)
    assert (done.left_out, done.images) == ((), 12)
    assert "no fields of view (mask/) are there: all pixels count" in done.notes


def chase(root, suffix=".png"):
    made = {}
    for child in ("01", "02", "03"):
        for side in "LR":
            name = f"Image_{child}{side}"
            write(root / f"{name}.jpg", photo(SHAPE, int(child)))
            for number, word in ((1, "1stHO"), (2, "2ndHO")):
                made[f"observer{number}", name] = blob(SHAPE, hash((child, side, word)) % 1000)
                write(root / f"{name}_{word}{suffix}", made[f"observer{number}", name])
    return made


def test_chase_groups_the_eyes_of_a_child_and_ignores_what_macos_adds(tmp_path):
    made = chase(tmp_path / "in", suffix=".PNG")
    (tmp_path / "in" / "._Image_01L.jpg").write_bytes(b"\0\5\x16\7")
    write(tmp_path / "in" / "__MACOSX" / "Image_01L.jpg", photo((5, 5)))
    done = convert_public("chase", tmp_path / "in", tmp_path / "out", progress=False)
    assert not done.left_out
    assert same(written(tmp_path / "out"), made)
    manifest = rows(tmp_path / "out")
    assert {manifest[f"Image_02{side}"]["group"] for side in "LR"} == {"02"}
    assert manifest["Image_02L"]["eye"] == "left"
    assert "split" not in manifest["Image_02L"]
    assert any("without --roi DIR" in note for note in done.notes)


def test_a_field_of_view_is_taken_by_the_images_name(tmp_path):
    chase(tmp_path / "in")
    region = blob(SHAPE, 3, share=0.6)
    for child in ("01", "02", "03"):
        for side in "LR" if child != "03" else "L":
            write(tmp_path / "roi" / f"Image_{child}{side}_mask.png", region)
    done = convert_public("chase", tmp_path / "in", tmp_path / "out", roi=tmp_path / "roi", progress=False)
    assert [problem.file for problem in done.left_out] == ["Image_03R.jpg"]
    assert "no files of its field of view" in str(done.left_out[0])
    assert np.array_equal(load_folder(tmp_path / "out", progress=False).roi(0), region)


def stare(root, *, endings=(".ppm.gz", ".ppm.gz")):
    made = {}
    for number in ("0001", "0002", "0003"):
        write(root / "stare-images" / f"im{number}{endings[0]}", photo(SHAPE, int(number)))
        for rater in ("ah", "vk"):
            made[rater, f"im{number}"] = blob(SHAPE, int(number) + 50 * (rater == "vk"))
            write(root / f"labels-{rater}" / f"im{number}.{rater}{endings[1]}", made[rater, f"im{number}"])
    write(root / "stare-images" / "im0099.ppm", photo(SHAPE))  # one of the 377 without labels
    return made


@pytest.mark.parametrize("endings", [(".ppm.gz", ".ppm.gz"), (".ppm", ".PPM"), (".png", ".png")])
def test_stare_as_downloaded_and_as_unpacked(tmp_path, endings):
    made = stare(tmp_path / "in", endings=endings)
    done = convert_public("stare", tmp_path / "in", tmp_path / "out", progress=False)
    assert (done.images, done.left_out) == (3, ())
    assert same(written(tmp_path / "out"), made)
    assert load_folder(tmp_path / "out", progress=False).raters == ("ah", "vk")


def test_masks_that_are_no_masks_of_their_image_are_listed_and_the_others_stay(tmp_path):
    stare(tmp_path / "in", endings=(".png", ".png"))
    labels = tmp_path / "in" / "labels-vk"
    write(labels / "im0001.vk.png", blob((24, 31), 1))
    smooth = np.linspace(0, 255, 24 * 30).reshape(SHAPE).astype(np.uint8)
    write(labels / "im0002.vk.png", smooth)
    done = convert_public("stare", tmp_path / "in", tmp_path / "out", progress=False)
    assert {problem.file: problem.found for problem in done.left_out} == {
        "im0001 by vk": "size 24 x 31",
        "im0002 by vk": "256 values (0, 1, 2, 3, ...)",
    }
    assert list(rows(tmp_path / "out")) == ["im0003"]
    assert any("2 images with masks of fewer than two raters left out" in note for note in done.notes)


def test_values_are_decided_for_a_raters_masks_together(tmp_path):
    stare(tmp_path / "in", endings=(".png", ".png"))
    write(tmp_path / "in" / "labels-vk" / "im0002.vk.png", blob(SHAPE, 7).astype(np.uint8))
    done = convert_public("stare", tmp_path / "in", tmp_path / "out", progress=False)
    (problem,) = done.left_out
    assert problem.file == "im0002 by vk"
    assert "0/255, as 2 of the 3 masks here" in problem.expected


def test_two_files_for_one_are_named_and_a_damaged_image_is_left_out(tmp_path):
    stare(tmp_path / "in", endings=(".png", ".png"))
    write(tmp_path / "in" / "copy" / "im0001.ah.png", blob(SHAPE, 9))
    (tmp_path / "in" / "stare-images" / "im0002.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = convert_public("stare", tmp_path / "in", tmp_path / "out", progress=False)
    assert {problem.file for problem in done.left_out} == {"copy/im0001.ah.png and labels-ah/im0001.ah.png", "im0002"}
    assert list(rows(tmp_path / "out")) == ["im0003"]


def test_an_archive_that_is_not_unpacked_is_named(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "CHASEDB1.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"no image with masks among 1 files .* Remedy: unpack CHASEDB1.zip"):
        convert_public("chase", tmp_path / "in", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there_and_options_that_a_set_has_not(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        convert_public("chase", tmp_path / "in", tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="roi: no option of drive; expected no options"):
        convert_public("drive", tmp_path, tmp_path / "out", roi=tmp_path)
    with pytest.raises(ValueError, match=r"name='dirve': expected one of drive, chase"):
        convert_public("dirve", tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match=r"target=None: expected disc, cup, a target of riga"):
        convert_public("riga", tmp_path, tmp_path / "out")
