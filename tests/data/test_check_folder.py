"""Each way a folder can be broken is found, named and explained; all at once."""

from __future__ import annotations

import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from irrbench.data import DataError, Problem, check_folder, load_folder
from irrbench.data.problems import summarize_problems
from tests.data.toys import SIZES, draw, save


def only(problems: list[Problem]) -> str:
    assert len(problems) == 1, [str(problem) for problem in problems]
    return str(problems[0])


def break_text(root, name):
    (root / name).write_text("not an image")


def truncate(root, name):
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[: len(content) // 2])


def huge_png(root, name):
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"0")), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    (root / name).write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def huge_npy(root, name):
    np.save(root / name, np.zeros((2, 2)))
    content = (root / name).read_bytes().replace(b"(2, 2), }          ", b"(80000, 80000), }  ")
    assert b"80000" in content
    (root / name).write_bytes(content)


BROKEN = {
    "text as image": (
        lambda root: break_text(root, "images/a.png"),
        r"images/a\.png: found a file that cannot be read",
    ),
    "truncated image": (
        lambda root: truncate(root, "images/a.png"),
        r"images/a\.png: found a file that cannot be read",
    ),
    "truncated mask": (lambda root: truncate(root, "masks/ben/c.png"), r"masks/ben/c\.png: found a file that cannot"),
    "empty file": (
        lambda root: (root / "images/a.png").write_bytes(b""),
        r"images/a\.png: found a file that cannot be",
    ),
    "huge declared size": (
        lambda root: huge_png(root, "images/a.png"),
        r"images/a\.png: found an absurd declared size",
    ),
    "size of mask": (
        lambda root: save(root / "masks/ben/a.png", np.zeros((20, 12), np.uint8)),
        r"masks/ben/a\.png: found size 20 x 12; expected 12 x 20, the size of its image",
    ),
    "grey mask": (
        lambda root: save(root / "masks/ben/a.png", np.arange(240, dtype=np.uint8).reshape(12, 20)),
        r"masks/ben/a\.png: found 240 values \(0, 1, 2, 3, \.\.\.\); expected two values with 0 as background",
    ),
    "mask without background": (
        lambda root: save(root / "masks/ben/a.png", 1 + draw("a", "ben").astype(np.uint8)),
        r"found values 1, 2; expected 0/255, as 4 of the 5 masks here\. Remedy: export them alike, or name the values",
    ),
    "colourful mask": (
        lambda root: save(
            root / "masks/ben/a.png", np.random.default_rng(0).integers(0, 2, (12, 20, 3)).astype(np.uint8)
        ),
        r"found values 0, #000001, #000100, .*; expected 0/255, as 4 of the 5 masks here",
    ),
    "missing mask": (
        lambda root: (root / "masks/ben/a.png").unlink(),
        r"masks/ben/a: found no file; expected a mask by each rater .* allow_missing=True",
    ),
    "foreign mask": (
        lambda root: save(root / "masks/ben/zz.png", draw("a", "ben")),
        r"masks/ben/zz\.png: found no image of that id",
    ),
    "double id": (
        lambda root: Image.new("L", (20, 12)).save(root / "images/a.jpg"),
        r"images/a\.png: found the same id as a\.jpg",
    ),
    "unknown type": (
        lambda root: break_text(root, "images/notes.txt"),
        r"images/notes\.txt: found an entry of unknown",
    ),
    "empty roi": (
        lambda root: [save(root / f"roi/{k}.png", np.full(s, k != "b", np.uint8)) for k, s in SIZES.items()],
        r"roi/b\.png: found no marked pixel",
    ),
    "missing roi": (
        lambda root: [save(root / f"roi/{k}.png", np.ones(s, np.uint8)) for k, s in SIZES.items() if k != "c"],
        r"roi/c: found no file; expected an ROI for each image",
    ),
    "stack of pages": (
        lambda root: (
            (root / "images/a.png").unlink(),
            Image.new("L", (20, 12)).save(
                root / "images/a.tif", save_all=True, append_images=[Image.new("L", (20, 12), 9)]
            ),
        ),
        r"images/a\.tif: found several pages; expected one page",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_one_broken_file_is_named(folder, name):
    damage, message = BROKEN[name]
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        load_folder(folder)
    assert list(caught.value.problems) == check_folder(folder)


NUMPY = {
    "pickled": (lambda p: np.save(p, np.array([[{}]]), allow_pickle=True), "elements of type object|cannot be read"),
    "huge": (lambda p: huge_npy(p.parent, p.name), "cannot be read|absurd declared size"),
    "one axis": (lambda p: np.save(p, np.zeros(5)), r"two or three axes"),
    "five axes": (lambda p: np.save(p, np.zeros((2, 2, 2, 2, 2))), r"found shape \(2, 2, 2, 2, 2\)"),
    "complex": (lambda p: np.save(p, np.zeros((12, 20), complex)), "elements of type complex128"),
    "NaN": (lambda p: np.save(p, np.full((12, 20), np.nan)), "found NaN or infinite pixels"),
    "no pixels": (lambda p: np.save(p, np.zeros((0, 4))), "cannot be read|declared size of 0"),
}


@pytest.mark.parametrize("name", NUMPY)
def test_unusable_arrays_are_named(folder, name):
    write, message = NUMPY[name]
    (folder / "images" / "a.png").unlink()
    write(folder / "images" / "a.npy")
    with pytest.raises(DataError, match=rf"images/a\.npy: .*({message})"):
        load_folder(folder)


def test_nan_in_a_mask(folder):
    (folder / "masks/ben/a.png").unlink()
    save(folder / "masks/ben/a.npy", np.where(draw("a", "ben"), np.nan, 0.0))
    assert "values (0, nan)" in only(check_folder(folder))


def test_channels_that_do_not_go_together(folder):
    (folder / "images/a.png").unlink()
    save(folder / "images/a.npy", np.zeros((12, 20, 4), np.uint8))
    assert "images of 1 and 4 channels" in only(check_folder(folder))


def test_declared_size_is_refused_without_a_warning(folder, recwarn):
    for name in "ab":
        Image.new("1", (100, 100)).save(folder / "images" / f"{name}.png")
        huge_png(folder, f"images/{name}.png")
    assert len(check_folder(folder)) == 2
    assert not recwarn.list


MANIFESTS = {
    "semicolons": ("image_id;split\na;train\n", "one column 'image_id;split'; expected a comma between columns"),
    "no id column": ("name,split\na,train\n", "found columns name, split; expected a column image_id"),
    "unknown id": ("image_id\na\nb\nc\nd\ne\nf\n", "image_id 'f', unknown"),
    "no row": ("image_id\na\nb\nc\nd\n", "no row for image 'e'"),
    "double row": ("image_id\na\nb\nc\nd\ne\na\n", "image_id 'a' more than once"),
    "parent folder": ("image_id\na\nb\nc\nd\ne\n../a\n", r"image_id '\.\./a', which leaves the folder"),
    "absolute": ("image_id\na\nb\nc\nd\ne\n/etc/passwd\n", "image_id '/etc/passwd', which leaves the folder"),
    "split name": ("image_id,split\na,train\nb,dev\nc,val\nd,test\ne,test\n", "found split 'dev' for image 'b'"),
    "no split": ("image_id,split\na,train\nb,\nc,val\nd,test\ne,test\n", "found split '' for image 'b'"),
    "straddling": (
        "image_id,split,group\na,train,p1\nb,test,p1\nc,val,p2\nd,test,p3\ne,test,p3\n",
        "found group 'p1' in splits test and train",
    ),
    "too many fields": ("image_id,split\na,train,1,2\nb,val\n", "a table that cannot be read"),
    "nothing": ("", "a table that cannot be read"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_problems_are_named(folder, name):
    text, message = MANIFESTS[name]
    (folder / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match=rf"manifest\.csv: .*{message}"):
        load_folder(folder)


def test_group_column_that_is_not_there(folder):
    with pytest.raises(DataError, match=r"no column 'site' \(columns: no manifest\)"):
        load_folder(folder, group_column="site")


def test_links_that_lead_outside(folder, tmp_path):
    save(tmp_path / "secret.png", np.zeros(SIZES["a"], np.uint8))
    (folder / "images/a.png").unlink()
    (folder / "images/a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"images/a\.png: found a link that leads outside"):
        load_folder(folder)


def test_rater_folder_that_leads_outside(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder / "masks/dora").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="masks/dora: found a link that leads outside"):
        load_folder(folder)


def test_links_within_the_folder_are_fine(folder):
    (folder / "masks/ben/a.png").unlink()
    (folder / "masks/ben/a.png").symlink_to(folder / "masks/anna/a.png")
    np.testing.assert_array_equal(load_folder(folder).masks(0)[1], draw("a", "anna"))


@pytest.mark.parametrize(
    ("raters", "message"),
    [
        (["anna"], r"masks: found 1 rater \(anna\); expected 2 to 16"),
        (["anna", "../anna"], r"raters: found '\.\./anna', unknown"),
        (["anna", "zoe"], "raters: found 'zoe', unknown; expected some of anna, ben, cem"),
        (["anna", "anna"], "masks: found 2 raters .* expected 2 to 16 different raters"),
    ],
)
def test_rater_choices_are_checked(folder, raters, message):
    with pytest.raises(DataError, match=message):
        load_folder(folder, raters=raters)


def test_seventeen_raters_are_over_the_limit(folder):
    for extra in range(14):
        for image_id in SIZES:
            save(folder / "masks" / f"x{extra}" / f"{image_id}.png", draw(image_id, "anna"))
    message = only(check_folder(folder))
    assert "found 17 raters" in message
    assert "raters=..." in message


def test_an_image_that_nobody_drew(folder):
    for rater in ("anna", "ben", "cem"):
        (folder / "masks" / rater / "d.png").unlink()
    assert "images/d.png: found no mask by any rater" in only(check_folder(folder, allow_missing=True))


def test_folders_that_are_not_there(tmp_path):
    assert "nothing; expected a data folder" in only(check_folder(tmp_path / "none"))
    (tmp_path / "images").mkdir()
    found = [str(problem) for problem in check_folder(tmp_path)]
    assert any(line.startswith("images: found an empty folder") for line in found)
    assert any(line.startswith("masks: found no such folder") for line in found)


def test_all_problems_come_at_once_and_those_of_one_kind_in_one_line(folder):
    truncate(folder, "images/a.png")
    for image_id in SIZES:
        for rater in ("ben", "cem"):
            save(folder / "masks" / rater / f"{image_id}.png", np.zeros((3, 3), np.uint8))
    for extra in range(20):
        save(folder / "masks/anna" / f"x{extra}.png", np.zeros((3, 3), np.uint8))
    problems = check_folder(folder)
    assert len(problems) == 1 + 8 + 20  # the sizes of masks on the unreadable image cannot be judged
    with pytest.raises(DataError, match=r"29 problems of 3 kinds(\n.*){3}$") as caught:
        load_folder(folder)
    assert caught.value.problems == tuple(problems)
    assert pickle.loads(pickle.dumps(caught.value)).problems == tuple(problems)  # noqa: S301


def test_problems_of_one_kind_are_one_line():
    sizes = [Problem(f"masks/r1/{name}.png", f"size {n} x 5", "6 x 5", "draw again") for n, name in enumerate("abcde")]
    rows = [Problem("manifest.csv", f"image_id '{name}', unknown", "ids of files", "remove it") for name in "xy"]
    lacks = [Problem(f"masks/{r}/a", "no file", "a mask", "declare it", cause=r) for r in ("r1", "r2")]
    several, two, *single = summarize_problems([*sizes, *rows, *lacks])
    assert several.startswith("5 times: masks/r1/a.png: found size 0 x 5; expected 6 x 5. Remedy: draw again. Also ")
    assert several.endswith(" Also masks/r1/b.png (size 1 x 5); masks/r1/c.png (size 2 x 5); ...")
    assert two.startswith("2 times: manifest.csv: found image_id 'x', unknown; expected ids of files. Remedy: ")
    assert two.endswith(" Also image_id 'y', unknown")
    assert single == [
        "masks/r1/a: found no file; expected a mask. Remedy: declare it.",
        "masks/r2/a: found no file; expected a mask. Remedy: declare it.",
    ]
