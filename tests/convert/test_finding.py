"""Each image gets its own file, or none: never that of another image whose name is alike."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from irrbench.convert import convert_coco, convert_cvat, convert_label_studio, convert_labelbox
from irrbench.convert.finding import ImageFolder
from irrbench.convert.writing import safe_name, safe_names
from irrbench.data import DataError, load_folder
from irrbench.data.readers import ReadError
from tests.convert.encoders import coco_image, coco_note, cvat_image, cvat_xml, studio_annotation, studio_task
from tests.data.toys import save

SIZE = (12, 20)
SQUARE = [[1, 1, 9, 1, 9, 9, 1, 9]]


class OneEach(ImageFolder):
    merges = False


def folder(root, files, images, kind=ImageFolder):
    for name in files:
        save(root / name, np.zeros((1, 1), np.uint8))
    found = kind(root)
    for image, names in images.items():
        found.expect(names, image)
    return found


# What is on disk, what the export calls its images, and the file of the first of them; None: refused.
NAMES = {
    "as exported": (["x/a.png"], ["x/a.png"], "x/a.png"),
    "without ending": (["x/a.png"], ["a"], "x/a.png"),
    "folders dropped on disk": (["a.png"], ["data/x/a.png"], "a.png"),
    "folders dropped in the export": (["data/x/a.png"], ["x/a.png"], "data/x/a.png"),
    "one folder dropped of several": (["x/a.png", "y/a.png"], ["data/x/a.png", "data/y/a.png"], "x/a.png"),
    "separators of Windows": (["x/a.png"], ["D:\\x\\a.png"], "x/a.png"),
    "exact beside longer": (["a.png", "x/a.png"], ["a.png", "x/a.png"], "a.png"),
    "another folder": (["y/a.png"], ["x/a.png"], None),
    "a longer base name": (["xa.png"], ["a.png"], None),
    "two on disk": (["x/a.png", "y/a.png"], ["a.png"], None),
    "two endings on disk": (["a.png", "a.jpg"], ["a"], None),
    "two in the export": (["a.png"], ["x/a.png", "y/a.png"], None),
    "two in the export, one exact": (["x/a.png"], ["a.png", "x/a.png", "y/a.png"], None),
    "two depths in the export": (["a.png"], ["x/y/a.png", "z/y/a.png"], None),
    "hidden": (["._a.png"], ["a.png"], None),
}


@pytest.mark.parametrize("kind", [ImageFolder, OneEach])
@pytest.mark.parametrize("case", NAMES)
def test_a_file_is_found_where_no_other_can_be_meant(tmp_path, case, kind):
    files, names, expected = NAMES[case]
    found = folder(tmp_path, files, {name: [name] for name in names}, kind)
    if expected is None:
        with pytest.raises(ReadError, match=r"found (no file|.* and .* for|.* for .*, which may be that of)"):
            found.find([names[0]])
    else:
        assert found.find([names[0]]) == tmp_path / expected


def test_exports_that_call_one_file_differently_mean_one_image_or_none(tmp_path):
    names = {"a.png": ["a.png"], "x/a.png": ["x/a.png"]}
    assert folder(tmp_path, ["x/a.png"], names).find(["a.png"]) == tmp_path / "x/a.png"
    with pytest.raises(ReadError, match=r"found x/a\.png for 'a\.png', which may be that of 'x/a\.png'"):
        folder(tmp_path, ["x/a.png"], names, OneEach).find(["a.png"])


def test_a_name_of_two_images_leads_nowhere(tmp_path):
    found = folder(tmp_path, ["a.png", "k3.png"], {"k1": ["k1", "a.png"], "k2": ["k2", "a.png"], "k3": ["k3"]}, OneEach)
    with pytest.raises(ReadError, match=r"found a\.png for 'a\.png', which may be that of two images"):
        found.find(["k1", "a.png"])
    assert found.find(["k3"]).name == "k3.png"


def test_with_and_without_ending_are_two_images(tmp_path):
    found = folder(tmp_path, ["a.png"], {"a": ["a"], "a.png": ["a.png"]}, OneEach)
    assert found.find(["a.png"]).name == "a.png"
    with pytest.raises(ReadError, match=r"found a\.png for 'a', which may be that of 'a\.png'"):
        found.find(["a"])


def test_many_images_of_one_base_name_are_found_without_comparing_all(tmp_path):
    names = [f"p{i}/image.png" for i in range(5_000)]
    found = folder(tmp_path, ["image.png"], {name: [name] for name in names})
    for name in names:
        with pytest.raises(ReadError, match="which may be that of"):
            found.find([name])


def write_exports(root, names):
    """The same images, drawn by two people, as each tool exports them."""
    notes = [coco_note(i, SQUARE, annotator=who) for i, _ in enumerate(names) for who in ("anna", "ben")]
    coco = {"images": [coco_image(i, name, SIZE) for i, name in enumerate(names)], "annotations": notes}
    tasks = [studio_task(f"s3://bucket/{name}", studio_annotation(1), studio_annotation(2)) for name in names]
    labels = [{"label_details": {"created_by": who}, "annotations": {"objects": []}} for who in ("anna", "ben")]
    projects = {"p": {"name": "n", "labels": labels}}
    rows = [{"data_row": {"id": f"i{i}", "global_key": name}, "projects": projects} for i, name in enumerate(names)]
    contents = {"coco": json.dumps(coco), "studio": json.dumps(tasks), "box": "\n".join(map(json.dumps, rows))}
    contents |= {who: cvat_xml(*(cvat_image(name, SIZE) for name in names)) for who in ("anna", "ben")}
    for name, text in contents.items():
        (root / name).write_text(text)
    return {
        "COCO": (convert_coco, root / "coco"),
        "Label Studio": (convert_label_studio, root / "studio"),
        "CVAT": (convert_cvat, {who: root / who for who in ("anna", "ben")}),
        "Labelbox": (convert_labelbox, root / "box"),
    }


@pytest.mark.parametrize("tool", ["COCO", "Label Studio", "CVAT", "Labelbox"])
def test_every_image_has_its_own_patients_picture(tmp_path, tool):
    sites = ("Site", "site", "site/a b", "site/a-b", "site/a_b")
    names = [f"{site}/{'p' * (i // 5) * 12}{i // 10}.png" for i in range(60) for site in [sites[i % 5]]]
    for i, name in enumerate(names):
        if name != "site/0.png":
            save(tmp_path / "photos" / name, np.full(SIZE, i, np.uint8))
    convert, export = write_exports(tmp_path, names)[tool]
    done = convert(export, tmp_path / "data", images=tmp_path / "photos", progress=False)
    data = load_folder(tmp_path / "data")
    assert (done.images, done.problems) == (59, ())
    assert [str(left).partition(";")[0] for left in done.left_out] == [
        "site/0.png: found no file (but Site/0.png, in another folder)"
    ]
    sources = data.manifest["source"].tolist()
    assert sorted(sources) == sorted({*names} - {"site/0.png"})
    for number, source in enumerate(sources):
        assert names.index(source) == np.rint(data.image(number) * 255).max()
    assert len({image_id.casefold() for image_id in data.image_ids}) == 59


def test_copies_of_an_image_are_one_and_different_files_are_not(tmp_path):
    """Label Studio keeps uploads of two projects under names of their own."""
    for who, name in ((1, "0a1b2c3d-a.png"), (2, "ffffffff-a.png")):
        task = studio_task(f"/data/upload/{who}/{name}", studio_annotation(who))
        (tmp_path / f"{who}.json").write_text(json.dumps([task]))
        save(tmp_path / "photos" / name, np.zeros(SIZE, np.uint8))
    options = {"images": tmp_path / "photos", "overwrite": True, "progress": False}
    assert convert_label_studio([tmp_path / "1.json", tmp_path / "2.json"], tmp_path / "data", **options).images == 1
    save(tmp_path / "photos" / name, np.ones(SIZE, np.uint8))
    with pytest.raises(
        DataError, match=r"a\.png: found 0a1b2c3d-a\.png and ffffffff-a\.png, which differ; .*one image"
    ):
        convert_label_studio([tmp_path / "1.json", tmp_path / "2.json"], tmp_path / "data", **options)


def test_a_name_stays_the_same_whatever_stands_beside_it():
    names = ["a/b", "a b", *("x" * 90 + str(i) for i in range(5))]
    chosen = safe_names(names)
    assert chosen == safe_names(reversed(names))
    assert chosen["a/b"] == safe_names(["a/b", "A-B", "c"])["a/b"]
    assert len({each.casefold() for each in chosen.values()}) == len(names)
    with pytest.raises(DataError, match="which give one file name; expected a name for each"):
        safe_names([*names, chosen["a b"]])


def test_names_fit_file_systems(tmp_path):
    for name in ("語" * 90, "é" * 90, unicodedata.normalize("NFD", "é" * 90), "𠀀" * 90, "con", "COM¹.x", "a.", "a. "):
        place = tmp_path / f"{safe_name(name)}-0123456789ab.nii.gz"
        place.touch()
        assert not place.name.startswith((".", "con", "COM"))
    assert safe_name("a. ") == "a"
    assert all(len(path.name.encode()) <= 255 for path in Path(tmp_path).iterdir())
