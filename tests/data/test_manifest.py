"""Tables that nearly are the manifest: spellings are read, other names are one problem, and nothing is ignored."""

from __future__ import annotations

import re

import pytest

from irrbench.data import check_folder, load_folder
from irrbench.data.overview import cautions, count_marks
from irrbench.data.problems import summarize_problems
from tests.data.toys import SIZES

SPLITS = {"a": "train", "b": "val", "c": "test", "d": "train", "e": "test"}
GROUPS = {"a": "p1", "b": "p2", "c": "p3", "d": "p1", "e": "p3"}


def table(head, row):
    return "\n".join([head, *(row(image_id) for image_id in SIZES)]) + "\n"


SPELLINGS = {
    "capitals": table("Image_ID,Split,Group", lambda i: f"{i},{SPLITS[i]},{GROUPS[i]}"),
    "no separators": table("imageID,split,PatientID", lambda i: f"{i},{SPLITS[i]},{GROUPS[i]}"),
    "blanks": table("image id, Split ,Patient ID", lambda i: f"{i},{SPLITS[i]},{GROUPS[i]}"),
    "hyphens": table("image-id,SPLIT,patient", lambda i: f"{i},{SPLITS[i]},{GROUPS[i]}"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_columns_are_read(folder, name):
    (folder / "manifest.csv").write_text(SPELLINGS[name])
    data = load_folder(folder)
    assert data.has_splits
    assert data.manifest["split"].to_dict() == SPLITS
    assert data.groups == list(GROUPS.values())


@pytest.mark.parametrize(
    "words", ["Train Val Test", "training validation testing", "TRAIN valid TEST", "train VAL test "]
)
def test_spellings_of_splits_are_read(folder, words):
    spelled = dict(zip(("train", "val", "test"), words.split(" "), strict=False))
    (folder / "manifest.csv").write_text(table("image_id,split", lambda i: f"{i},{spelled[SPLITS[i]]}"))
    assert load_folder(folder).manifest["split"].to_dict() == SPLITS


def test_a_column_named_for_groups_keeps_its_spelling(folder):
    (folder / "manifest.csv").write_text(table("image_id,Patient,split", lambda i: f"{i},{GROUPS[i]},{SPLITS[i]}"))
    assert load_folder(folder, group_column="Patient").group_column == "Patient"
    (line,) = map(str, check_folder(folder, group_column="patientt"))
    assert line.endswith("Remedy: did you mean 'patient'.")


TABLES = {
    "set": (
        table("image_id,set", lambda i: f"{i},{SPLITS[i]}"),
        "column 'set' with test, train, val, and no colu",
    ),
    "subset": (table("image_id,Subset", lambda i: f"{i},{SPLITS[i].title()}"), "Remedy: rename 'Subset' to split"),
    "typing mistake": (table("image_id,spilt", lambda i: f"{i},{SPLITS[i]}"), "rename 'spilt' to split"),
    "plural": (table("image_id,splits", lambda i: f"{i},{ord(i)}"), "column 'splits', and no .* did you mean split"),
    "numbers": (
        table("image_id,split", lambda i: f"{i},{ord(i) % 3}"),
        "5 times: .* split '1' for image 'a'; expect",
    ),
    "other words": (table("image_id,split", lambda i: f"{i},dev"), "5 times: .* split 'dev' for image 'a'"),
    "file names": (
        table("filename,split", lambda i: f"{i}.png,{SPLITS[i]}"),
        "rename 'filename', which holds them",
    ),
    "paths": (table("split,image", lambda i: f"{SPLITS[i]},images/{i}.png"), "rename 'image', which holds them, to"),
    "endings": (
        table("image_id,split", lambda i: f"{i}.png,{SPLITS[i]}"),
        "5 times: .* image_id 'a.png': suffix '.png'",
    ),
    "paths as ids": (table("image_id", lambda i: f"images/{i}.png"), "5 times: .* expected 'a', without a path"),
    "suffix": (table("image_id", lambda i: f"{i}_img"), "5 times: .* image_id 'a_img': suffix '_img' behind"),
    "capital ids": (table("image_id", lambda i: i.upper()), "5 times: .* image_id 'A': another spelling"),
    "two of a name": (
        table("image_id,Split,split", lambda i: f"{i},train,val"),
        "columns 'Split', 'split', which",
    ),
    "semicolons": (table("image_id;split", lambda i: f"{i};val"), "a comma between columns"),
}


@pytest.mark.parametrize("name", TABLES)
def test_columns_and_ids_that_nearly_fit_are_one_line(folder, name):
    text, message = TABLES[name]
    (folder / "manifest.csv").write_text(text)
    (line,) = summarize_problems(check_folder(folder))
    assert re.search(message, line), line


OTHER_TABLES = {
    "Manifest.csv": table("image_id,split", lambda i: f"{i},{SPLITS[i]}"),
    "metadata.csv": table("image_id,age", lambda i: f"{i},40"),
    "study.csv": table("name,Split", lambda i: f"{i},{SPLITS[i]}"),
    "clinic.csv": table("image,patient id", lambda i: f"{i}.png,{GROUPS[i]}"),
    "manifest.xlsx": "no text",
    "manifest.tsv": table("image_id\tsplit", lambda i: f"{i}\t{SPLITS[i]}"),
}


@pytest.mark.parametrize("name", OTHER_TABLES)
def test_a_manifest_under_another_name_is_not_ignored(folder, name):
    (folder / name).write_text(OTHER_TABLES[name])
    (line,) = map(str, check_folder(folder))
    assert line.startswith(f"{name}: found a table and no manifest.csv; expected splits and groups in manifest.csv.")
    (folder / "manifest.csv").write_text(table("image_id", str))
    assert not check_folder(folder)


def test_other_tables_beside_the_images_do_not_matter(folder):
    (folder / "results.csv").write_text(table("image_id,iou", lambda i: f"{i},.5"))
    (folder / "notes.csv").write_text("a;b\n1,2,3\n")
    (folder / "others.csv").write_text("patient,split\nx,train\n")
    assert not check_folder(folder)
    assert not load_folder(folder).has_splits


@pytest.mark.parametrize("column", ["patient", "Patient ID", "group"])
def test_an_empty_group_is_a_problem_that_names_the_row(folder, column):
    rows = [f"{name},train,{'' if name in 'bd' else 'p1'}" for name in SIZES]
    (folder / "manifest.csv").write_text("\n".join([f"image_id,split,{column}", *rows]) + "\n")
    found = check_folder(folder)
    assert [problem.found.rpartition(" for ")[2] for problem in found] == ["image 'b'", "image 'd'"]
    assert "expected one in each row, or in none" in str(found[0])


def test_a_column_of_groups_without_any_does_not_group(folder):
    rows = [f"{name},train,, ,p1" for name in SIZES]
    (folder / "manifest.csv").write_text("\n".join(["image_id,split,group,patient,site", *rows]) + "\n")
    data = load_folder(folder)
    assert data.group_column is None
    lines = cautions(data, count_marks(data), splits=False)
    for name in ("group", "patient"):
        assert any(line.startswith(f"Column {name!r} is empty: images are not grouped by it") for line in lines)
    assert len(check_folder(folder, group_column="patient")) == len(SIZES)  # asked for, it is a problem


def test_the_first_column_with_groups_groups(folder):
    rows = [f"{name},train,,p{number // 2}" for number, name in enumerate(SIZES)]
    (folder / "manifest.csv").write_text("\n".join(["image_id,split,group,patient", *rows]) + "\n")
    assert load_folder(folder).groups == ["p0", "p0", "p1", "p1", "p2"]
