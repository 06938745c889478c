"""Names of files and folders that nearly fit: one line says what they have in common, and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irrbench.data import DataError, check_folder, load_folder
from irrbench.data.naming import relate_names
from irrbench.data.problems import summarize_problems
from tests.data.toys import RATERS, save

IDS = [f"case_{number:03d}" for number in range(1, 13)]


def number(image_id: str) -> int:
    return int(image_id[-3:])


def part(image_id: str) -> str:
    return ("train", "val")[number(image_id) % 2]


def of_image(image_id: str) -> str:
    return f"images/{image_id}.png"


def of_mask(rater: str, image_id: str) -> str:
    return f"masks/{rater}/{image_id}.png"


def write(root: Path, image=of_image, mask=of_mask) -> Path:
    for image_id in IDS:
        rng = np.random.default_rng(number(image_id))
        save(root / image(image_id), rng.integers(0, 256, (8, 10), np.uint8))
        for rater in RATERS:
            save(root / mask(rater, image_id), (rng.random((8, 10)) < 0.4).astype(np.uint8) * 255)
    return root


NAMES = {
    "suffix": ({"mask": lambda r, i: f"masks/{r}/{i}_seg.png"}, r"001_seg\.png: found suffix '_seg' behind the"),
    "other suffix": ({"mask": lambda r, i: f"masks/{r}/{i}-mask.png"}, "found suffix '-mask' behind the image's id"),
    "two endings": ({"mask": lambda r, i: f"masks/{r}/{i}.jpg.png"}, "found suffix '.jpg' behind the image's id"),
    "nnU-Net": ({"image": lambda i: f"images/{i}_0000.png"}, "lacks '_0000' .* take '_0000' off the images' names"),
    "longer images": ({"image": lambda i: f"images/{i}_img.png"}, "a name that lacks '_img' of the image's id"),
    "prefix": ({"mask": lambda r, i: f"masks/{r}/lesion_{i}.png"}, "'lesion_' in front of the image's id"),
    "both sides": ({"mask": lambda r, i: f"masks/{r}/gt_{i}_v2.png"}, "'gt_' in front of .* id and suffix '_v2'"),
    "two prefixes": (
        {"image": lambda i: f"images/img_{i[5:]}.png", "mask": lambda r, i: f"masks/{r}/mask_{i[5:]}.png"},
        r"names like 'mask_\.\.\.', and images' names like 'img_\.\.\.'",
    ),
    "case": ({"mask": lambda r, i: f"masks/{r}/{i.upper()}.png"}, "another spelling .* than in the image's id"),
    "zeros": ({"mask": lambda r, i: f"masks/{r}/case_{number(i)}.png"}, "another spelling .* than in the"),
    "numbers": (
        {"image": lambda i: f"images/{i[5:]}.png", "mask": lambda r, i: f"masks/{r}/{number(i)}.png"},
        r"masks/anna/1\.png: found another spelling .* expected masks/anna/001\.png",
    ),
    "separators": ({"mask": lambda r, i: f"masks/{r}/{i.replace('_', '-')}.png"}, "another spelling .* than in the"),
    "two at once": (
        {"mask": lambda r, i: f"masks/{r}/Case {number(i)} Mask.png"},
        "another spelling .* suffix '_mask'",
    ),
    "other images": (
        {"mask": lambda r, i: f"masks/{r}/scan{97 * number(i)}.png"},
        "found no image of that id; exp",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_differ_alike_are_one_line_and_all_findings(tmp_path, name):
    layout, message = NAMES[name]
    root = write(tmp_path / "study", **layout)
    with pytest.raises(DataError, match=rf"36 problems of 1 kind\n  36 times: .*{message}") as caught:
        load_folder(root)
    assert len({problem.file for problem in caught.value.problems}) == 36
    assert str(caught.value).count("\n") == 1


def test_a_near_miss_is_one_line_and_names_the_id(tmp_path):
    root = write(tmp_path / "study")
    for rater in RATERS:
        (root / of_mask(rater, "case_004")).rename(root / of_mask(rater, "cas_004"))
    (line,) = summarize_problems(check_folder(root))
    assert line.startswith("3 times: masks/anna/cas_004.png: found no image of that id (did you mean 'case_004'?); ")
    assert line.endswith(" Remedy: rename or remove it. Also masks/ben/cas_004.png; masks/cem/cas_004.png")


def test_what_raters_lack_is_said_by_rater_and_is_no_reason_to_draw_empty_masks(tmp_path):
    root = write(tmp_path / "study")
    for image_id in IDS[:5]:
        (root / of_mask("ben", image_id)).unlink()
    (root / of_mask("cem", "case_012")).unlink()
    problems = check_folder(root)
    assert [problem.file for problem in problems[:2]] == ["masks/ben/case_001", "masks/ben/case_002"]
    ben, cem = summarize_problems(problems)
    assert ben.startswith("5 times: masks/ben/case_001: found no file (masks/ben has none for 5 of 12 images); ")
    assert cem.startswith("masks/cem/case_012: found no file; ")
    assert "declare missing ratings: allow_missing=True (--folder.allow_missing true)" in ben
    assert not check_folder(root, allow_missing=True)


def test_letter_case_of_endings_does_not_matter(tmp_path):
    assert not check_folder(write(tmp_path / "study", mask=lambda r, i: f"masks/{r}/{i}.PNG"))


PLACES = {
    "masks twice": ({"mask": lambda r, i: f"masks/masks/{r}/{i}.png"}, r"move what masks/masks holds up one level"),
    "a folder of masks": (
        {"mask": lambda r, i: f"masks/v1/{r}/{i}.png"},
        r"masks: found folders \(v1\) that hold",
    ),
    "splits of a rater": (
        {"mask": lambda r, i: f"masks/{r}/{part(i)}/{i}.png"},
        r"3 times: masks/anna: found folders \(train, val\) in place of files; .* a column of manifest\.csv",
    ),
    "raters of a split": (
        {"mask": lambda r, i: f"masks/{part(i)}/{r}/{i}.png"},
        "move them to masks/<rater>/<id>",
    ),
    "splits of images": (
        {"image": lambda i: f"images/{part(i)}/{i}.png"},
        r"images: found folders \(train, val\) in",
    ),
    "a level more": (
        {"image": lambda i: f"data/images/{i}.png", "mask": lambda r, i: f"data/masks/{r}/{i}.png"},
        r"found no folder images, but one in data; .* give .*study/data\.",
    ),
    "two levels more": (
        {"image": lambda i: f"x/data/images/{i}.png", "mask": lambda r, i: f"x/data/masks/{r}/{i}.png"},
        r"found no folder images, but one in x/data; ",
    ),
    "splits of everything": (
        {"image": lambda i: f"{part(i)}/images/{i}.png", "mask": lambda r, i: f"{part(i)}/masks/{r}/{i}.png"},
        r"but one in train, val; .* merge them into one images/ and one masks/<rater>/",
    ),
    "other order": (
        {"mask": lambda r, i: f"masks/{i}/{r}.png"},
        r"found folders named as images \(case_001, .*\) with files by rater \(anna, ben, cem\); .*anna/case_001\.png",
    ),
    "no folders": (
        {"mask": lambda r, i: f"masks/{i}_{r}.png"},
        r"masks: found 36 files \(case_001_anna\.png, .* in p",
    ),
    "no masks": ({"mask": lambda r, i: f"{r}/{i}.png"}, r"masks: found no such folder; .* move anna, ben, cem into it"),
    "mask": (
        {"mask": lambda r, i: f"mask/{r}/{i}.png"},
        "masks: found no such folder, but mask; .* rename mask to m",
    ),
    "labels": ({"mask": lambda r, i: f"labels/{r}/{i}.png"}, "rename labels to masks"),
    "Images": ({"image": lambda i: f"Images/{i}.png"}, "images: found no such folder, but Images; .* rename Images to"),
    "imagesTr": ({"image": lambda i: f"imagesTr/{i}_0000.png"}, "rename imagesTr to images"),
}


@pytest.mark.parametrize("name", PLACES)
def test_folders_in_another_place_are_one_line(tmp_path, name):
    layout, message = PLACES[name]
    (line,) = summarize_problems(check_folder(write(tmp_path / "study", **layout)))
    assert re.search(message, line), line


def test_a_part_of_a_data_folder_names_the_whole(tmp_path):
    root = write(tmp_path / "study")
    for inner in ("images", "masks", "masks/anna"):
        (line,) = map(str, check_folder(root / inner))
        assert "found a part of a data folder" in line
        assert line.endswith(f"Remedy: give {root.resolve()}.")


def test_channels_in_files_of_their_own_are_refused_and_frames_are_not(tmp_path):
    root = write(tmp_path / "study", image=lambda i: f"images/{i}_0000.png")
    for image_id in IDS:
        save(root / f"images/{image_id}_0001.png", np.zeros((8, 10), np.uint8))
    assert any("a file for each channel (case_001_0000, case_001_0001, " in str(line) for line in check_folder(root))
    frames = {"image": lambda i: f"images/a_0{i[5:]}.png", "mask": lambda r, i: f"masks/{r}/a_0{i[5:]}.png"}
    assert not check_folder(write(tmp_path / "frames", **frames))


def test_a_region_of_interest_under_another_name_is_not_overlooked(tmp_path):
    root = write(tmp_path / "study")
    for image_id in IDS:
        save(root / f"ROI/{image_id}.png", np.ones((8, 10), np.uint8))
    assert "roi: found no such folder, but ROI; " in summarize_problems(check_folder(root))[0]


def test_files_that_are_not_read_are_one_line_a_type(tmp_path):
    root = write(tmp_path / "study")
    for image_id in IDS:
        (root / f"images/{image_id}.txt").write_text("x")
        (root / f"masks/anna/{image_id}.json").write_text("{}")
    (root / "masks/ben/old").mkdir()
    problems = check_folder(root)
    assert len(problems) == 25
    lines = summarize_problems(problems)
    assert [re.search(r"unknown type \(([^)]*)\)", line)[1] for line in lines] == [".txt", ".json", "a folder"]


names = st.text("ab0_-", min_size=1, max_size=6)


@given(st.sets(names, max_size=8), st.sets(names, max_size=8))
def test_relations_lead_to_ids_and_leave_out_names_that_fit(found, ids):
    relations = relate_names(found, ids)
    assert relations.keys() <= found - ids
    assert {relation.image_id for relation in relations.values()} <= ids


@given(st.sets(st.text("abcdef", min_size=2, max_size=5), min_size=4, max_size=8))
def test_a_common_suffix_is_found_on_any_ids(ids):
    relations = relate_names([f"{name}_seg" for name in ids], ids)
    assert {name: relation.image_id for name, relation in relations.items()} == {f"{name}_seg": name for name in ids}
    assert {relation.found for relation in relations.values()} == {"suffix '_seg' behind the image's id"}


def test_what_fits_by_chance_means_nothing():
    ids = [f"LIDC-IDRI-{number:04d}_n{number % 3}_s{number % 10:02d}" for number in range(900)]
    assert not relate_names([f"s{number}" for number in range(900)], ids)


@pytest.mark.parametrize("name", ["case\n[done] forged: 0.99", "case\x1b[2J", "case\r", "case\udcff"])
def test_a_name_with_a_control_character_is_a_problem_that_shows_it_harmless(tmp_path, name):
    write(tmp_path)
    (tmp_path / of_image(IDS[0])).rename(tmp_path / of_image(name))
    for rater in RATERS:
        (tmp_path / of_mask(rater, IDS[0])).rename(tmp_path / of_mask(rater, name))
    problems = check_folder(tmp_path)
    (line,) = summarize_problems(problems)
    places = ["images", *(f"masks/{rater}" for rater in RATERS)]
    assert sorted(problem.file.rpartition("/")[0] for problem in problems) == sorted(places)
    assert "found a name with a line break or another control character; expected a plain name. Remedy: rename" in line
    assert line.isprintable()
    (tmp_path / f"masks/{name}").mkdir()
    assert any(
        problem.file == f"masks/{name}" and problem[1:4] == problems[0][1:4] for problem in check_folder(tmp_path)
    )
