"""COCO annotations by several people, made here in the documented format, become data folders."""

from __future__ import annotations

import json

import numpy as np
import pytest

from irrbench.convert import convert_coco
from irrbench.convert.shapes import fill_polygon
from irrbench.data import DataError, load_folder
from tests.data.toys import save

SIZE = (12, 20)
TRIANGLE = [2.0, 1.0, 15.5, 1.0, 2.0, 10.25]
SQUARE = [16, 8, 20, 8, 20, 12, 16, 12]
CORNER = np.zeros(SIZE, bool)
CORNER[1:3, 2:5] = True


def pairs(flat):
    return [flat[i : i + 2] for i in range(0, len(flat), 2)]


def runs(mask):
    flat, counts, value = mask.T.ravel().tolist(), [0], False
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def note(image, annotator, segmentation, category=1, **fields):
    return (
        {"id": 7, "image_id": image, "category_id": category, "annotator": annotator, "iscrowd": 0}
        | fields
        | {"segmentation": segmentation}
    )


def image(number, name, **fields):
    return {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]} | fields


@pytest.fixture
def convert(tmp_path):
    for name in ("a.png", "sub/b.png"):
        save(tmp_path / "photos" / name, np.random.default_rng(2).integers(0, 256, SIZE, dtype=np.uint8))

    def run(images, annotations, **options):
        categories = [{"id": 1, "name": "nodule"}, {"id": 2, "name": "vessel"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "coco.json").write_text(json.dumps(content))
        options = {"images": tmp_path / "photos", "progress": False} | options
        return convert_coco(tmp_path / "coco.json", tmp_path / "data", **options)

    return run


def test_polygons_and_run_lengths_of_each_annotator(convert, tmp_path):
    rle = {"size": list(SIZE), "counts": runs(CORNER)}
    done = convert(
        [image(1, "a.png", patient_id="p1"), image(2, "sub/b.png", patient_id="p2")],
        [
            note(1, "anna", [TRIANGLE, SQUARE]),
            note(1, "ben", rle),
            note(1, "ben", [SQUARE]),
            note(2, "anna", rle, iscrowd=1),
            note(2, "ben", [TRIANGLE]),
        ],
    )
    assert (done.images, done.missing, done.left_out, done.problems) == (2, 0, (), ())
    data = load_folder(tmp_path / "data")
    assert (data.raters, data.image_ids) == (("anna", "ben"), ("a", "sub-b"))
    triangle, square = fill_polygon(pairs(TRIANGLE), SIZE), fill_polygon(pairs(SQUARE), SIZE)
    np.testing.assert_array_equal(data.masks(0), [triangle | square, CORNER | square])
    np.testing.assert_array_equal(data.masks(1), [CORNER, triangle])
    assert data.groups == ["p1", "p2"]
    assert data.manifest["source"].tolist() == ["a.png", "sub/b.png"]


def test_compressed_run_lengths(convert, tmp_path):
    text = ""  # of 12 x 20: 25 background pixels, then 2, 10, 2, 10, 2 and the rest
    for first, value in enumerate([25, 2, 10, 2, 10, 2, 189]):
        counts = [25, 2, 10, 2, 10, 2, 189]
        text += compressed(value - (counts[first - 2] if first > 2 else 0))
    convert([image(1, "a.png")], [note(1, "anna", {"size": list(SIZE), "counts": text}), note(1, "ben", [SQUARE])])
    np.testing.assert_array_equal(load_folder(tmp_path / "data").masks(0)[0], CORNER)


def compressed(value):
    """One number as COCO writes it: five bits a character, lowest first."""
    text = ""
    while True:
        bits, value = value & 31, value >> 5
        more = not ((value == 0 and not bits & 16) or (value == -1 and bits & 16))
        text += chr((bits | (32 if more else 0)) + 48)
        if not more:
            return text


def test_who_looked_and_marked_nothing_has_an_empty_mask(convert, tmp_path):
    images = [image(1, "a.png", annotators=["anna", "ben"]), image(2, "sub/b.png")]
    done = convert(images, [note(1, "anna", [SQUARE]), note(2, "ben", [SQUARE])])
    assert done.missing == 1
    data = load_folder(tmp_path / "data", allow_missing=True)
    assert [data.present(i).tolist() for i in range(2)] == [[True, True], [False, True]]
    assert not data.masks(0)[1].any()
    assert (
        convert(images, [note(1, "anna", [SQUARE]), note(2, "ben", [SQUARE])], all_looked=True, overwrite=True).missing
        == 0
    )


def test_categories_are_chosen_and_other_drawings_show_who_looked(convert, tmp_path):
    notes = [note(1, "anna", [SQUARE]), note(1, "anna", [TRIANGLE], category=2), note(1, "ben", [TRIANGLE], category=2)]
    convert([image(1, "a.png")], notes, categories=["nodule"])
    masks = load_folder(tmp_path / "data").masks(0)
    np.testing.assert_array_equal(masks, [fill_polygon(pairs(SQUARE), SIZE), np.zeros(SIZE, bool)])
    with pytest.raises(DataError, match=r"coco\.json: found no category 'cyst'; expected some of nodule, vessel"):
        convert([image(1, "a.png")], notes, categories=["cyst"])


def test_the_annotator_may_be_nested_and_anonymous(convert, tmp_path):
    notes = [note(1, None, [SQUARE], attributes={"who": {"name": name}}) for name in ("anna", "ben", "cem")]
    done = convert([image(1, "a.png")], notes, annotator="attributes.who.name", anonymize=True)
    assert done.raters == {"r1": "r1", "r2": "r2", "r3": "r3"}
    assert all(b"anna" not in path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())


BAD = {
    "no annotator": (
        [image(1, "a.png")],
        [note(1, None, [SQUARE])],
        "annotation 7: found no field 'annotator'; .*--annotator",
    ),
    "unknown image": ([image(1, "a.png")], [note(9, "anna", [SQUARE])], "annotation 7: found image_id 9, unknown"),
    "same id": ([image(1, "a.png"), image(1, "sub/b.png")], [], "image 1: found 2 images of that id"),
    "no size": (
        [{"id": 1, "file_name": "a.png"}],
        [note(1, "anna", [SQUARE])],
        "image 1: found no file_name, height or",
    ),
    "nobody": ([image(1, "a.png")], [], "image 1: found no annotator of a.png; .* list them in .* 'annotators'"),
    "no file": ([image(1, "c.png")], [note(1, "anna", [SQUARE])], "c.png: found no file; expected 'c.png' in"),
    "outside": ([image(1, "../x.png")], [note(1, "anna", [SQUARE])], r"\.\./x\.png: found no file"),
    "other size": (
        [image(1, "a.png") | {"height": 13}],
        [note(1, "anna", [SQUARE])],
        "a.png: found size 12 x 20; expected size 13 x 20",
    ),
    "odd polygon": (
        [image(1, "a.png")],
        [note(1, "anna", [[1, 2, 3]])],
        "a.png: found annotation 7: a polygon that is no list",
    ),
    "text polygon": ([image(1, "a.png")], [note(1, "anna", [["x"] * 6])], "a.png: found annotation 7: no outline"),
    "box alone": ([image(1, "a.png")], [note(1, "anna", [])], "annotation 7: no segmentation of the image's size"),
    "size of runs": (
        [image(1, "a.png")],
        [note(1, "anna", {"size": [20, 12], "counts": [240]})],
        "annotation 7: no segmentation of the image's size",
    ),
    "short runs": (
        [image(1, "a.png")],
        [note(1, "anna", {"size": list(SIZE), "counts": [239]})],
        "annotation 7: run lengths that do not fit the image; expected run lengths that cover 240 pixels",
    ),
    "looked is no list": (
        [image(1, "a.png", annotators="anna")],
        [],
        "image 1: found annotators: 'anna'; expected a list",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_converted_is_named(convert, tmp_path, name):
    images, annotations, message = BAD[name]
    with pytest.raises(DataError, match=message):
        convert(images, annotations)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read"), ("[]", "no list of images"), ('{"images": [1], "annotations": []}', "no list of images")],
)
def test_files_that_are_no_coco_are_named(tmp_path, text, message):
    (tmp_path / "photos").mkdir()
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DataError, match=message):
        convert_coco(tmp_path / "c.json", tmp_path / "data", images=tmp_path / "photos")


def test_two_files_of_one_name_are_no_guess(convert, tmp_path):
    for folder in ("x", "y"):
        save(tmp_path / "photos" / folder / "c.png", np.zeros(SIZE, np.uint8))
    annotations = [note(1, "anna", [SQUARE]), note(1, "ben", [SQUARE])]
    with pytest.raises(DataError, match=r"found x/c\.png and y/c\.png for 'c\.png'; expected one file"):
        convert([image(1, "c.png")], annotations)
    assert convert([image(1, "y/c.png")], annotations).images == 1


def test_a_damaged_image_is_left_out(convert, tmp_path):
    path = tmp_path / "photos" / "a.png"
    path.write_bytes(path.read_bytes()[:60])
    annotations = [note(number, name, [SQUARE]) for number in (1, 2) for name in ("anna", "ben")]
    done = convert([image(1, "a.png"), image(2, "sub/b.png")], annotations)
    assert (done.images, done.problems) == (1, ())
    assert "a.png: found a file that cannot be read" in str(done.left_out[0])


def test_one_annotator_alone_is_written_and_found_wanting(convert):
    done = convert([image(1, "a.png")], [note(1, "anna", [SQUARE])])
    assert "masks: found 1 rater (anna); expected 2 to 16" in str(done.problems[0])
