"""The remedies of masks' values work as they are written, and what was said but contradicts the files is a problem."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest

from irrbench.config import load_config
from irrbench.data import check_folder, load_folder
from irrbench.data.overview import cautions, count_marks
from irrbench.data.problems import summarize_problems
from tests.data.toys import RATERS, save


@pytest.fixture
def lesions(tmp_path):
    """Twelve images of one lesion each, drawn by three raters who nearly agree."""
    root, rng = tmp_path / "lesions", np.random.default_rng(3)
    for number in range(12):
        save(root / "images" / f"i{number}.png", rng.integers(0, 256, (24, 30), np.uint8))
        for rater, more in zip(RATERS, (0, 1, 2), strict=True):
            save(root / "masks" / rater / f"i{number}.png", lesion(number, more).astype(np.uint8) * 255)
    return root


def lesion(number, more):
    mask = np.zeros((24, 30), bool)
    mask[4 + number % 5 : 13 + more, 5 : 14 + number % 3 + more] = True
    return mask


def change(root, rater, make, count=12):
    for number in range(count):
        save(root / "masks" / rater / f"i{number}.png", make(lesion(number, RATERS.index(rater))).astype(np.uint8))


def follow(root, problem, **options):
    """Load the data with the first option that a remedy prints."""
    (_, value) = re.search(r"--folder.(classes|void) ('[^']*'|\d+)", problem.remedy).groups()
    name = "classes" if "classes" in problem.remedy.partition("--folder.")[2][:7] else "void"
    argument = shlex.split(f"--folder.{name} {value}")
    return load_folder(root, **{name: getattr(load_config(None, argument).folder, name)}, **options)


def test_what_a_remedy_says_of_one_rater_leaves_the_others_as_they_are(lesions):
    right = load_folder(lesions).digest()
    change(lesions, "ben", lambda mask: ~mask * 255)
    (problem,) = check_folder(lesions)
    assert follow(lesions, problem).digest() == right


def test_dark_marks_said_of_all_are_a_problem_of_those_who_draw_light_ones(lesions):
    right = load_folder(lesions).digest()
    change(lesions, "ben", lambda mask: ~mask * 255)
    problems = check_folder(lesions, classes=[0])
    assert [problem.file for problem in problems] == ["masks/anna", "masks/cem"]
    for problem in problems:
        assert "--folder.classes '{anna: [255], ben: [0], cem: [255]}' if the marks are light" in problem.remedy
        assert follow(lesions, problem).digest() == right


def test_all_raters_dark_are_one_remedy(lesions):
    right = load_folder(lesions).digest()
    for rater in RATERS:
        change(lesions, rater, lambda mask: ~mask)
    problems = check_folder(lesions)
    assert len(problems) == 3
    assert "'{anna: [0], ben: [0], cem: [0]}' if the marks are dark" in problems[1].remedy
    assert "'{anna: [1], ben: [1], cem: [1]}' if the marks are light" in problems[1].remedy
    assert follow(lesions, problems[2]).digest() == load_folder(lesions, classes=[0]).digest() == right


@pytest.mark.parametrize("said", [None, [1], [255]])
def test_two_scales_in_one_folder_are_a_problem_whatever_is_said(lesions, said):
    right = load_folder(lesions).digest()
    change(lesions, "ben", lambda mask: mask, count=6)
    problems = check_folder(lesions, classes=said and {"ben": said})
    assert len(problems) == 6
    assert len({problem.kind for problem in problems}) == 1
    assert follow(lesions, problems[0]).digest() == right
    problems = check_folder(lesions, classes=[1])
    assert {problem.file.split("/")[1] for problem in problems} == set(RATERS)


def test_a_file_of_both_scales_makes_no_other_file_empty(lesions):
    change(lesions, "ben", lambda mask: np.where(np.indices(mask.shape)[0] < 2, 255, mask), count=1)
    problems = check_folder(lesions, classes={"ben": [1]})
    assert len(problems) == 11
    assert "'{ben: [1, 255]}'), or --folder.void 255 if that does not count" in problems[0].remedy
    assert {problem.file for problem in check_folder(lesions, void=255)} == {"masks/anna", "masks/cem"}


def test_class_numbers_of_which_a_file_holds_none_are_fine(lesions):
    change(lesions, "ben", lambda mask: mask * 2)
    change(lesions, "ben", lambda mask: mask, count=3)
    assert load_folder(lesions, classes={"ben": [1]}).values["ben"] == "values 0, 1, 2: 1 is marked"
    change(lesions, "ben", lambda mask: mask * np.resize([17, 41, 49, 50, 53], mask.shape))
    change(lesions, "ben", lambda mask: mask * 53, count=3)
    assert not load_folder(lesions, classes={"ben": [17]}).masks(0)[1].any()


def grey(mask):
    return np.where(np.indices(mask.shape)[0] < 3, 128, mask * 255)


def test_remedies_of_grey_masks_name_their_values_and_work(lesions):
    right = load_folder(lesions)
    for rater in RATERS:
        change(lesions, rater, grey)
    problem = check_folder(lesions)[0]
    assert "all of them: --folder.classes '{anna: [128, 255], ben: [128, 255], cem: [128, 255]}'" in problem.remedy
    assert "--folder.void 128" in problem.remedy
    data = load_folder(lesions, void=128)
    for found in (data, follow(lesions, problem)):
        np.testing.assert_array_equal(found.masks(5), right.masks(5))
    np.testing.assert_array_equal(data.roi(0), np.indices((24, 30))[0] >= 3)


def test_the_same_values_of_all_raters_are_one_line(lesions):
    for rater in RATERS:
        change(lesions, rater, grey)
    (line,) = summarize_problems(check_folder(lesions))
    assert line.startswith("36 times: masks/anna/i0.png: found values 0, 128, 255; ")
    assert line.endswith("Also masks/ben/i0.png; masks/cem/i0.png; ...")


def test_where_no_mask_holds_0_the_smallest_value_is_proposed_as_background(lesions):
    right = load_folder(lesions).digest()
    for rater in RATERS:
        change(lesions, rater, lambda mask: mask + np.uint8(1))
    problem = check_folder(lesions)[0]
    assert "'{anna: [2], ben: [2], cem: [2]}' if 1 is the background)" in problem.remedy
    assert follow(lesions, problem).digest() == right


@pytest.mark.parametrize(("values", "remedy"), [(7, "'{ben: [1, 2, 3, 4, ... 1 more]}'; all of"), (20, "smoothing.")])
def test_of_many_values_few_are_shown(lesions, values, remedy):
    change(lesions, "ben", lambda mask: np.resize(np.arange(values), mask.shape))
    (line,) = summarize_problems(check_folder(lesions))
    assert remedy in line
    assert len(line) < 400


def test_a_void_of_more_pixels_than_the_marks_is_questioned(lesions, caplog):
    for rater in RATERS:
        change(lesions, rater, lambda mask: np.where(np.indices(mask.shape)[0] < 2, 128, mask * 255))
    load_folder(lesions, void=128)
    assert "is it a mark" not in caplog.text
    data = load_folder(lesions, void=255)
    question = "cem: 0/128, 255 is void (more pixels than the marks in 12 of 12 masks: is it a mark?)"
    assert question in caplog.text
    assert question in cautions(data, count_marks(data))


@pytest.mark.parametrize("count", range(1, 12))
def test_inverted_masks_of_a_rater_are_named(lesions, count):
    change(lesions, "ben", lambda mask: ~mask * 255, count=count)
    problems = check_folder(lesions)
    if count == 11:
        assert [problem.file for problem in problems] == ["masks/ben"]
        problems = check_folder(lesions, classes={"ben": [0]})  # now the other one contradicts
        assert [problem.file for problem in problems] == ["masks/ben/i11.png"]
        return
    assert {problem.file for problem in problems} == {f"masks/ben/i{number}.png" for number in range(count)}
    assert load_folder(lesions, classes={"ben": [255]}).masks(0)[1].mean() > 0.5  # if that is how it should be
    assert follow(lesions, problems[0]).masks(0)[1].mean() > 0.5


@pytest.mark.parametrize("raters", [2, 3])
@pytest.mark.parametrize("count", [1, 5])
def test_raters_who_all_mark_most_of_an_image_are_a_caution(lesions, raters, count):
    for rater in RATERS[:raters]:
        change(lesions, rater, lambda mask: ~mask * 255, count=count)
    data = load_folder(lesions, raters=RATERS[:raters])
    (line,) = [line for line in cautions(data, count_marks(data)) if "inverted" in line]
    assert line.startswith(f"On {count} image{'s' * (count > 1)} (i0 8")
    assert "of the pixels, elsewhere 1" in line


def test_two_inverted_masks_are_named_where_a_third_rater_marks_what_they_leave_out(lesions):
    for rater in RATERS[:2]:
        change(lesions, rater, lambda mask: ~mask * 255, count=1)
    assert {problem.file for problem in check_folder(lesions)} == {f"masks/{rater}/i0.png" for rater in RATERS[:2]}


def test_an_inverted_mask_that_no_other_rater_can_judge_is_named(lesions):
    change(lesions, "ben", lambda mask: ~mask * 255, count=1)
    for rater in ("anna", "cem"):
        change(lesions, rater, lambda mask: mask * 0, count=1)
    assert [problem.file for problem in check_folder(lesions)] == ["masks/ben/i0.png"]


@pytest.mark.parametrize("hole", [5, 13])
def test_raters_who_leave_out_the_same_hole_agree(lesions, hole):
    for rater, more in zip(RATERS, (0, 0, 1), strict=True):
        mask = np.ones((24, 30), np.uint8)
        mask[6 : 6 + hole, 9 : 9 + hole + more] = 0
        save(lesions / f"masks/{rater}/i3.png", mask * 255)
    assert check_folder(lesions) == []


def test_an_inverted_mask_of_a_lesion_at_the_border_is_named(lesions):
    for rater in RATERS:
        mask = np.zeros((24, 30), bool)
        mask[:, : 9 + RATERS.index(rater)] = True
        save(lesions / f"masks/{rater}/i4.png", (~mask if rater == "cem" else mask).astype(np.uint8) * 255)
    assert [problem.file for problem in check_folder(lesions)] == ["masks/cem/i4.png"]


def test_marks_that_fill_an_image_are_no_inverted_ones(lesions):
    for number in range(4):
        for rater in RATERS[: 1 + number]:
            mask = np.ones((24, 30), bool)
            mask[10:12, 10:12] = number % 2 == 0
            save(lesions / f"masks/{rater}/i{number}.png", mask.astype(np.uint8) * 255)
    assert check_folder(lesions) == []


def test_an_roi_may_take_the_border_and_has_no_option(lesions):
    for number in range(12):
        save(lesions / f"roi/i{number}.png", (~lesion(number, 0)).astype(np.uint8) * 255)
    assert check_folder(lesions) == []
    save(lesions / "roi/i3.png", np.where(lesion(3, 0), 1, 255).astype(np.uint8))
    (problem,) = check_folder(lesions)
    assert "--folder" not in problem.remedy


@pytest.mark.parametrize(("name", "allow_missing"), [("lidc", False), ("lidc_mixed", True), ("bubil", True)])
def test_no_real_mask_is_taken_for_an_inverted_one(real_data, name, allow_missing):
    assert check_folder(real_data / name, allow_missing=allow_missing) == []


def test_raters_who_agree_by_chance_alone_have_inverted_nothing(lesions):
    rng = np.random.default_rng(2)
    for number in range(12):
        for rater in RATERS:
            save(lesions / f"masks/{rater}/i{number}.png", rng.integers(0, 2, (24, 30), np.uint8) * np.uint8(255))
    assert check_folder(lesions) == []
