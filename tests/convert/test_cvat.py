"""CVAT's exports ("CVAT for images 1.1"), made here in the documented format, become data folders."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from irrbench.convert import convert_cvat, exports
from irrbench.data import DataError, load_folder
from tests.convert.encoders import cvat_image, cvat_mask, cvat_shape, cvat_xml, fill_polygon, zipped
from tests.data.toys import save

SIZE = (12, 20)
SPOT = np.zeros(SIZE, bool)
SPOT[2:7, 3:9] = SPOT[4, 12] = True
SPOT[3, 5] = False
SQUARE = "16.00,8.00;20.00,8.00;20.00,12.00;16.00,12.00"
ANNA = (
    "<task><id>4</id><owner><username>boss</username></owner>"
    "<assignee><username>anna</username><email>a@b.c</email></assignee></task>"
)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "sub/b.png"):
        save(tmp_path / "photos" / name, np.random.default_rng(2).integers(0, 256, SIZE, dtype=np.uint8))
    return tmp_path


@pytest.fixture
def convert(folder):
    """Converts the images of each person by name, or whole documents in a list."""

    def run(people, **options):
        files = {}
        for name, images in people.items() if isinstance(people, dict) else enumerate(people):
            files[name] = folder / f"{name}.xml"
            files[name].write_text(images if isinstance(images, str) else cvat_xml(*images))
        options = {"images": folder / "photos", "progress": False, "overwrite": True} | options
        return convert_cvat(files if isinstance(people, dict) else list(files.values()), folder / "data", **options)

    return run


@pytest.fixture
def masks(folder):
    def read(i=0, **options):
        data = load_folder(folder / "data", **options)
        return dict(zip(data.raters, data.masks(i), strict=True))

    return read


def one(*shapes, name="a.png", **fields):
    return [cvat_image(name, SIZE, *shapes, **fields)]


def test_a_file_for_each_annotator(convert, masks, folder):
    polygon = cvat_shape("polygon", points=SQUARE)
    done = convert(
        {
            "anna": [*one(cvat_mask(SPOT)), *one(polygon, name="sub/b.png")],
            "ben": [*one(cvat_mask(SPOT), polygon), *one(name="sub/b.png")],
        }
    )
    assert (done.images, done.missing, done.left_out, done.notes, done.problems) == (2, 0, (), (), ())
    assert {name: tuple(counts) for name, counts in done.drawn.items()} == {"anna": (2, 0, 0), "ben": (2, 1, 0)}
    square = fill_polygon([(16, 8), (20, 8), (20, 12), (16, 12)], SIZE)
    np.testing.assert_array_equal(masks()["anna"], SPOT)
    np.testing.assert_array_equal(masks()["ben"], SPOT | square)
    np.testing.assert_array_equal(masks(1)["anna"], square)
    assert not masks(1)["ben"].any()
    assert load_folder(folder / "data").image_ids == ("a", "sub-b")


def test_runs_of_masks_go_row_after_row_in_their_box(convert, masks):
    mask = cvat_shape("mask", rle="2, 3, 1", left=5, top=7, width=3, height=2)
    convert({"anna": one(mask), "ben": one()})
    assert np.argwhere(masks()["anna"]).tolist() == [[7, 7], [8, 5], [8, 6]]


def test_the_assignee_is_the_rater_and_not_the_owner(convert, masks):
    job = "<job><id>9</id><assignee><username>ben</username></assignee></job>"
    convert([cvat_xml(*one(cvat_mask(SPOT)), meta=ANNA), cvat_xml(*one(), meta=job)])
    assert list(masks()) == ["anna", "ben"]
    with pytest.raises(DataError, match=r"0\.xml: found no assignee of the task or job; .*--from NAME=FILE"):
        convert([cvat_xml(*one())])


def test_a_project_holds_a_task_of_each_annotator(convert, masks):
    tasks = "".join(
        f"<task><id>{number}</id><assignee><username>{name}</username></assignee></task>"
        for number, name in ((7, "anna"), (8, "ben"))
    )
    images = [*one(cvat_mask(SPOT), subset="Train", task_id=7), *one(subset="Train", task_id=8)]
    done = convert([cvat_xml(*images, meta=f"<project><tasks>{tasks}</tasks></project>")])
    assert list(masks()) == ["anna", "ben"]
    assert load_folder(done.root).manifest.loc["a", "split"] == "train"
    with pytest.raises(DataError, match=r"cem\.xml: found drawings by 2 people \(anna, ben\); expected those of cem"):
        convert({"cem": cvat_xml(*images, meta=f"<project><tasks>{tasks}</tasks></project>")})
    images += one(name="sub/b.png", task_id=99)
    done = convert([cvat_xml(*images, meta=f"<project><tasks>{tasks}</tasks></project>")])
    assert "found no assignee of task 99" in str(done.left_out[0])


def test_a_second_task_of_one_person_is_a_repeat(convert, folder):
    done = convert([cvat_xml(*one(cvat_mask(SPOT)), meta=ANNA), cvat_xml(*one(), meta=ANNA)])
    assert done.drawn["anna"] == (2, 1, 1)


def test_rectangles_and_ellipses_turn_around_their_centre(convert, masks):
    tall = cvat_shape("box", xtl=6, ytl=4, xbr=14, ybr=8, rotation="90.00")  # 8 x 4 become 4 x 8
    ellipse = cvat_shape("ellipse", cx="10.00", cy="6.00", rx="5.00", ry="2.00", rotation="30.00")
    convert({"anna": one(tall), "ben": one(ellipse)}, boxes=True)
    rows, columns = np.indices(SIZE) + 0.5
    np.testing.assert_array_equal(masks()["anna"], (columns > 8) & (columns < 12) & (rows > 2) & (rows < 10))
    turn = np.radians(30)
    along = (columns - 10) * np.cos(turn) + (rows - 6) * np.sin(turn)
    across = (rows - 6) * np.cos(turn) - (columns - 10) * np.sin(turn)
    np.testing.assert_array_equal(masks()["ben"], (along / 5) ** 2 + (across / 2) ** 2 < 1)


def test_shapes_without_an_outline_are_counted_and_are_no_empty_drawing(convert, masks):
    box = cvat_shape("box", xtl=1, ytl=1, xbr=5, ybr=5)
    skeleton = '<skeleton label="lesion" z_order="0"><points label="1" points="1,1"></points></skeleton>'
    shapes = (cvat_shape("points", points="1,1"), cvat_shape("polyline", points="1,1;2,2"), skeleton, box)
    tag = '<tag label="good"><attribute name="a">b</attribute></tag>'
    done = convert({"anna": one(*shapes), "ben": one(tag), "cem": one(cvat_mask(SPOT), box), "dora": one()})
    assert list(masks()) == ["ben", "cem", "dora"]
    assert set(done.notes) == {
        "2 of kind box left out: they have no outline (--boxes fills them)",
        "1 of kind points left out: they have no outline",
        "1 of kind polyline left out: they have no outline",
        "1 of kind skeleton left out: they have no outline",
        "1 drawings without any outline count as not drawn",
    }


def test_labels_are_chosen_of_those_that_the_task_lists(convert, masks):
    meta = "<job><labels><label><name>lesion</name></label><label><name>cyst</name></label></labels></job>"
    people = {
        "anna": cvat_xml(*one(cvat_mask(SPOT, "vessel")), meta=meta),
        "ben": cvat_xml(*one(cvat_mask(SPOT), cvat_mask(~SPOT, "vessel")), meta=meta),
    }
    assert convert(people, labels=["lesion"]).notes == ("2 of label vessel left out: lesion counts",)
    assert not masks()["anna"].any()
    np.testing.assert_array_equal(masks()["ben"], SPOT)
    assert convert(people, labels=["cyst"]).drawn["ben"] == (1, 1, 0)
    with pytest.raises(DataError, match="found no label 'bone'; expected some of lesion, cyst, vessel"):
        convert(people, labels=["bone"])


def test_archives_are_read_and_nothing_of_them_is_unpacked(folder, masks):
    text = cvat_xml(*one(cvat_mask(SPOT)))
    files = {
        "anna": zipped(folder / "1.zip", **{"annotations.xml": text, "images/a.png": "x"}),
        "ben": zipped(folder / "2.zip", **{"../../annotations.xml": text}),
    }
    before = {path.name for path in folder.parent.iterdir()}
    convert_cvat(files, folder / "data", images=folder / "photos", progress=False)
    assert {path.name for path in folder.parent.iterdir()} == before
    np.testing.assert_array_equal(masks()["ben"], SPOT)


ENTITIES = '<!DOCTYPE x [<!ENTITY a "b"><!ENTITY c "&a;&a;">]>'
BAD = {
    "entities": (ENTITIES + "<annotations><image name='&c;'/></annotations>", "found XML with a document type"),
    "outside entity": ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotations/>', "found XML with a document type"),
    "undefined entity": ("<annotations>&a;</annotations>", "found a file that cannot be read .*undefined entity"),
    "no xml": ("hello", "cannot be read"),
    "empty": ("", "cannot be read"),
    "half": ("<annotations><image>", "cannot be read"),
    "other": ("<dataset/>", "found <dataset> without an <image>; expected an export in the format 'CVAT for images"),
    "no image": ("<annotations/>", "found <annotations> without an <image>"),
    "video": ('<annotations><track id="0" label="x"/></annotations>', "found tracks of a video"),
    "encoding": ('<?xml version="1.0" encoding="nothing"?><annotations/>', "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_export_are_named(convert, folder, name):
    text, message = BAD[name]
    with pytest.raises(DataError, match=rf"anna\.xml.*{message}"):
        convert({"anna": text})
    assert not (folder / "data").exists()


def test_damaged_archives_are_named(folder, monkeypatch):
    def convert(path, message):
        with pytest.raises(DataError, match=message):
            convert_cvat({"anna": path}, folder / "data", images=folder / "photos")

    text = cvat_xml(*one(cvat_mask(SPOT)))
    convert(
        zipped(folder / "none.zip", **{"other.xml": text}),
        r"none\.zip: found 0 files \*annotations\.xml in the archive",
    )
    convert(zipped(folder / "two.zip", **{"annotations.xml": text, "x/annotations.xml": text}), "found 2 files")
    whole = zipped(folder / "cut.zip", **{"annotations.xml": text})
    content = bytearray(whole.read_bytes())
    content[60:70] = b"\xff" * 10
    whole.write_bytes(content)
    convert(whole, r"cut\.zip: found a file that cannot be read")
    monkeypatch.setattr(exports, "MAX_BYTES", 100)
    convert(zipped(folder / "bomb.zip", **{"annotations.xml": text}), r"bomb\.zip: found a file of absurd size")
    assert zipfile.is_zipfile(folder / "bomb.zip")


def shape(kind, **fields):
    return one(cvat_shape(kind, **fields))


LEFT_OUT = {
    "runs": (shape("mask", rle="2, 3", left=0, top=0, width=3, height=2), r"shape 1 \(mask\): run lengths that do not"),
    "outside": (shape("mask", rle="0, 6", left=18, top=0, width=3, height=2), "a mask that leaves the image"),
    "negative": (shape("mask", rle="0, 6", left=-1, top=0, width=3, height=2), "a mask that leaves the image"),
    "absurd": (shape("mask", rle="0, 6", left=0, top=0, width=10**9, height=10**9), "a mask that leaves the image"),
    "no runs": (shape("mask", left=0, top=0, width=3, height=2), "no rle"),
    "text": (shape("mask", rle="a", left=0, top=0, width=3, height=2), "a damaged shape"),
    "two points": (shape("polygon", points="1,1;2,2"), r"shape 1 \(polygon\): no outline"),
    "nan": (shape("polygon", points="nan,1;2,2;3,3"), "absurd coordinates"),
    "radius": (shape("ellipse", cx="1", cy="1", rx="inf", ry="1"), "absurd coordinates"),
    "no radius": (shape("ellipse", cx="1", cy="1", rx="0", ry="1"), "an ellipse without radius"),
    "size": ([cvat_image("a.png", (5, 6))], r"a\.png: found size 12 x 20; expected size 5 x 6, as declared"),
    "no size": (['<image id="0" name="a.png"/>'], "height None and width None"),
    "no name": (['<image id="0" width="20" height="12"/>'], "image 0: found no name"),
    "no file": (one(name="../../x.png"), r"x\.png: found no file"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_cannot_be_converted_is_named_and_the_rest_goes_on(convert, folder, name):
    images, message = LEFT_OUT[name]
    with pytest.raises(DataError, match=message):
        convert({"anna": images})
    good = one(name="sub/b.png")
    done = convert({"anna": [*images, *good], "ben": good})
    assert (done.images, len(done.left_out)) == (1, 1)
    assert {path.name for path in folder.iterdir()} == {"photos", "data", "anna.xml", "ben.xml"}
