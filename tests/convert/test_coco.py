"""COCO annotations by several people, made here in the documented format, become data folders."""

from __future__ import annotations

import json

import numpy as np
import pytest

from irrbench.convert import convert_coco
from irrbench.data import DataError, load_folder
from tests.convert.encoders import fill_polygon, zipped
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
    with pytest.raises(DataError, match="found no category 'cyst'; expected some of nodule, vessel"):
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
        "annotation 7: found no field 'annotator' nor any other known name of one in 1 of 1 annotations .*--annotator",
    ),
    "unknown image": ([image(1, "a.png")], [note(9, "anna", [SQUARE])], "annotation 7: found image_id 9, unknown"),
    "same id": ([image(1, "a.png"), image(1, "sub/b.png")], [], "image 1: found 2 images of that id"),
    "no size": (
        [{"id": 1, "file_name": "a.png"}],
        [note(1, "anna", [SQUARE])],
        "image 1: found height None and width None; expected whole numbers",
    ),
    "nobody": ([image(1, "a.png")], [], r"image a\.png: found no annotator; .* say who looked"),
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
    "box alone": (
        [image(1, "a.png")],
        [note(1, "anna", [], bbox=[1, 1, 2, 2])],
        "a.png: found no shape with an outline",
    ),
    "nothing": ([image(1, "a.png")], [note(1, "anna", [])], "annotation 7: no segmentation of the image's size"),
    "two names": (
        [image(1, "x/a.png"), image(2, "y/a.png")],
        [note(1, "anna", [SQUARE]), note(2, "ben", [SQUARE])],
        r"x/a\.png: found a\.png for 'x/a\.png', which may be that of 'y/a\.png'; expected a file for each image",
    ),
    "two sizes": (
        [image(1, "a.png"), image(2, "a.png", height=13)],
        [note(1, "anna", [SQUARE]), note(2, "ben", [SQUARE])],
        "found sizes 12 x 20 and 13 x 20; expected one size",
    ),
    "half a pixel": ([image(1, "a.png", height=12.5)], [note(1, "anna", [SQUARE])], "height 12.5 and width 20"),
    "endless": ([image(1, "a.png", width=float("inf"))], [note(1, "anna", [SQUARE])], "height 12 and width inf"),
    "absurd": ([image(1, "a.png", width=10**9)], [note(1, "anna", [SQUARE])], "expected whole numbers, at most"),
    "some without": (
        [image(1, "a.png")],
        [note(1, "anna", [SQUARE], created_by="boss"), note(1, "", [SQUARE], created_by="boss")],
        "found no field 'annotator' in 1 of 2 annotations",
    ),
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
    "looked names nobody": (
        [image(1, "a.png", annotators=["anna", None])],
        [],
        r"image 1: found annotators: \['anna', None\]; expected a list of names",
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


# --- exports as they come ----------------------------------------------------------------------------------------


def strip(annotation):
    return {key: value for key, value in annotation.items() if key != "annotator"}


def raters(folder, i=0):
    data = load_folder(folder, allow_missing=True)
    return {name: mask for name, mask, there in zip(data.raters, data.masks(i), data.present(i), strict=True) if there}


SQUARED = fill_polygon(pairs(SQUARE), SIZE)
FIELDS = {
    "0": lambda i: {"annotator": i},
    "numbers": lambda i: {"annotator_id": i},
    "text": lambda i: {"annotator": ("0", "1")[i]},
    "floats": lambda i: {"annotator": float(i)},
    "attributes": lambda i: {"attributes": {"annotator": i, "occluded": False}},
    "attributes' ids": lambda i: {"attributes": {"annotator_id": str(i)}},
    "a person": lambda i: {"created_by": {"id": i, "active": True}},
    "a maker": lambda i: {"completed_by": i},
    "creator": lambda i: {"creator": str(i), "user": None},
    "metadata": lambda i: {"metadata": {"rater": i}},
}


@pytest.mark.parametrize("name", FIELDS)
def test_who_drew_is_found_in_the_usual_fields(convert, tmp_path, name):
    done = convert([image(1, "a.png")], [strip(note(1, "", [SQUARE])) | FIELDS[name](i) for i in (0, 1)])
    assert list(done.raters) == ["0", "1"]
    assert all((mask == SQUARED).all() for mask in raters(tmp_path / "data").values())
    known = FIELDS[name](0).get("annotator") is not None
    assert ("names who drew" in "".join(done.notes)) != known


NUMBERS = {
    "floats": ([image(1.0, "a.png", height=12.0, width=20.0)], 1),
    "text": ([image("1", "a.png", height="12", width="20")], 1),
    "text in notes": ([image(1, "a.png")], "1"),
    "words": ([image("x y/z", "a.png")], "x y/z"),
    "zero": ([image(0, "a.png")], 0),
    "twice": ([image(3, "a.png"), image(3, "a.png")], 3),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_sizes_and_ids_are_read_however_they_are_written(convert, tmp_path, name):
    images, number = NUMBERS[name]
    done = convert(images, [note(number, who, [SQUARE]) for who in ("anna", "ben")])
    assert (done.images, done.left_out, done.missing) == (1, (), 0)
    assert all((mask == SQUARED).all() for mask in raters(tmp_path / "data").values())


def test_entries_of_one_file_are_one_image(convert, tmp_path):
    images = [
        image(1, "a.png", patient_id="p1"),
        image(2, "a.png", patient_id="p1"),
        image(3, "a.png", patient_id="p1"),
    ]
    done = convert(images, [note(1, "anna", [SQUARE]), note(2, "ben", [TRIANGLE])])
    assert (done.images, done.missing) == (1, 0)
    found = raters(tmp_path / "data")
    np.testing.assert_array_equal(found["anna"], SQUARED)
    np.testing.assert_array_equal(found["ben"], fill_polygon(pairs(TRIANGLE), SIZE))
    assert load_folder(tmp_path / "data").groups == ["p1"]


def test_entries_may_name_the_annotator_who_marked_nothing(convert, tmp_path):
    images = [image(1, "a.png", annotator_id=0), image(2, "a.png", annotator_id=1)]
    done = convert(images, [strip(note(1, "", [SQUARE]))])
    assert {name: mask.any() for name, mask in raters(tmp_path / "data").items()} == {"0": True, "1": False}
    assert "annotator_id" not in load_folder(done.root).manifest


SPLINTERS = {"in the first pixel": [0, 0, 0.5, 0, 0, 0.5], "of two points": [10, 10, 12, 11], "of one": [3, 3]}


@pytest.mark.parametrize("name", SPLINTERS)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_splinter_beside_an_outline_costs_nothing(convert, tmp_path, name, is_first):
    parts = [SPLINTERS[name], SQUARE] if is_first else [SQUARE, SPLINTERS[name]]
    done = convert([image(1, "a.png")], [note(1, "anna", parts), note(1, "ben", [SQUARE])])
    assert (done.images, done.left_out) == (1, ())
    assert all((mask == SQUARED).all() for mask in raters(tmp_path / "data").values())
    assert ("no area" in "".join(done.notes)) == (name != "in the first pixel")


def test_points_alone_are_no_outline(convert):
    done = convert(
        [image(1, "a.png"), image(2, "b.png")], [note(i, "anna", [SQUARE][: 2 - i] or [[3, 3]]) for i in (1, 2)]
    )
    assert done.images == 1
    assert "no outline" in str(done.left_out[0])


def test_a_second_entry_of_one_person_is_a_repeat(convert, tmp_path):
    notes = [note(1, "anna", [SQUARE]), note(2, "anna", [TRIANGLE]), note(1, "ben", [SQUARE])]
    done = convert([image(1, "a.png"), image(2, "a.png")], notes)
    drawings, _ = load_folder(tmp_path / "data").drawings(0, "anna")
    np.testing.assert_array_equal(drawings, [SQUARED, fill_polygon(pairs(TRIANGLE), SIZE)])
    assert done.drawn["anna"] == (2, 0, 1)


def write(path, images, notes):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": [strip(one) for one in notes], "categories": []}))
    return path


def test_a_file_for_each_annotator(convert, tmp_path):
    convert([image(1, "a.png")], [note(1, "x", [SQUARE])])  # the photos
    files = {
        "Anna Ö": write(tmp_path / "e" / "1.json", [image(1, "a.png"), image(2, "b.png")], [note(1, "", [SQUARE])]),
        "ben": write(tmp_path / "f" / "1.json", [image(7, "job/a.png")], [note(7, "", [TRIANGLE])]),
    }
    done = convert_coco(files, tmp_path / "data", images=tmp_path / "photos", overwrite=True, progress=False)
    assert done.raters == {"Anna-Ö": "Anna Ö", "ben": "ben"}
    assert {name: tuple(counts) for name, counts in done.drawn.items()} == {"Anna-Ö": (2, 1, 0), "ben": (1, 0, 0)}
    assert load_folder(tmp_path / "data", allow_missing=True).image_ids == ("a", "sub-b")
    np.testing.assert_array_equal(raters(tmp_path / "data")["ben"], fill_polygon(pairs(TRIANGLE), SIZE))
    both = [note(1, "anna", [SQUARE]), note(1, "ben", [SQUARE])]
    files["ben"].write_text(json.dumps({"images": [image(1, "a.png")], "annotations": both}))
    with pytest.raises(DataError, match=r"found drawings by 2 people \(anna, ben\); expected those of ben alone"):
        convert_coco(files, tmp_path / "data", images=tmp_path / "photos", overwrite=True)


def test_the_archive_of_an_export_is_read_as_it_is(convert, tmp_path):
    convert([image(1, "a.png")], [note(1, "x", [SQUARE])])
    text = json.dumps({"images": [image(1, "a.png")], "annotations": [strip(note(1, "", [SQUARE]))]})
    files = {
        name: zipped(tmp_path / f"{name}.zip", **{"annotations/instances_default.json": text, "__MACOSX/._x.json": "x"})
        for name in ("anna", "ben")
    }
    options = {"images": tmp_path / "photos", "overwrite": True, "progress": False}
    assert list(convert_coco(files, tmp_path / "data", **options).raters) == ["anna", "ben"]
    zipped(files["ben"], **{"train/a.json": text, "valid/a.json": text})
    with pytest.raises(DataError, match=r"ben\.zip: found 2 files \*\.json in the archive; expected one"):
        convert_coco(files, tmp_path / "data", **options)


def test_categories_that_are_joined_are_named(convert):
    notes = [note(1, "anna", [SQUARE], category=i) for i in (1, 2)]
    done = convert([image(1, "a.png")], [*notes, note(1, "ben", [SQUARE])])
    assert done.notes == ("several are joined in one mask: nodule, vessel (--category chooses)",)


def test_no_two_images_nor_raters_share_a_name(tmp_path):
    names = ["x/a.png", "x-a.png", "X/A.png", "a.png", "a.tif"]
    for i, name in enumerate(names):
        save(tmp_path / "photos" / name, np.full(SIZE, i, np.uint8))
    images = [image(i, name) for i, name in enumerate(names)]
    people = ["a/b", "a b", "../up", "CON", "anna@2"]
    files = {who: write(tmp_path / f"{i}.json", images, [note(i, "", [SQUARE])]) for i, who in enumerate(people)}
    done = convert_coco(files, tmp_path / "data", images=tmp_path / "photos", progress=False)
    assert done.problems == ()
    data = load_folder(tmp_path / "data")
    assert done.raters == {
        "up": "../up",
        "_CON": "CON",
        "a-b-c8687a08aa5d": "a b",
        "a-b-c14cddc033f6": "a/b",
        "anna-2": "anna@2",
    }
    assert (len(data), sorted(data.raters)) == (5, sorted(done.raters))
    for i, image_id in enumerate(data.image_ids):
        number = names.index(data.manifest.loc[image_id, "source"])
        assert np.rint(data.image(i) * 255).max() == number
        drew = [name for name, mask in zip(data.raters, data.masks(i), strict=True) if mask.any()]
        assert [done.raters[name] for name in drew] == [people[number]]


def test_several_files_may_name_their_annotators(convert, tmp_path):
    convert([image(1, "a.png")], [note(1, "x", [SQUARE])])
    files = []
    for name in ("anna", "ben"):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps({"images": [image(1, "a.png")], "annotations": [note(1, name, [SQUARE])]}))
    done = convert_coco(files, tmp_path / "data", images=tmp_path / "photos", overwrite=True, progress=False)
    assert list(done.raters) == ["anna", "ben"]


def test_holes_are_filled_and_said_so_unless_cut_out(convert, tmp_path):
    hole = [4, 2, 8, 2, 8, 4, 4, 4]
    notes = [note(1, "anna", [TRIANGLE, hole]), note(1, "ben", [TRIANGLE, SQUARE])]
    done = convert([image(1, "a.png")], notes)
    triangle = fill_polygon(pairs(TRIANGLE), SIZE)
    np.testing.assert_array_equal(raters(tmp_path / "data")["anna"], triangle)
    assert set(done.notes) == {
        "1 annotations have a polygon within another: filled, as COCO's tools do (--holes cuts it out)",
    }
    done = convert([image(1, "a.png")], notes, holes=True, overwrite=True)
    found = raters(tmp_path / "data")
    np.testing.assert_array_equal(found["anna"], triangle & ~fill_polygon(pairs(hole), SIZE))
    np.testing.assert_array_equal(found["ben"], triangle | SQUARED)
    assert done.notes == ()


SEGMENTATIONS = {
    "flat, as VIA writes it": SQUARE,
    "float size of runs": {"size": [12.0, 20.0], "counts": runs(SQUARED)},
    "crowd": {"size": list(SIZE), "counts": runs(SQUARED)},
}


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_segmentations_as_tools_write_them(convert, tmp_path, name):
    convert([image(1, "a.png")], [note(1, who, SEGMENTATIONS[name], iscrowd=1) for who in ("anna", "ben")])
    np.testing.assert_array_equal(raters(tmp_path / "data")["anna"], SQUARED)


def test_boxes_alone_are_counted_and_are_no_empty_drawing(convert, tmp_path):
    notes = [note(1, "anna", [], bbox=[16, 8, 4, 4]), note(1, "ben", [SQUARE]), note(1, "cem", [SQUARE])]
    notes.append(note(1, "ben", [], keypoints=[1, 1, 2]))
    done = convert([image(1, "a.png")], notes)
    assert set(done.notes) == {
        "1 of kind box left out: they have no outline (--boxes fills them)",
        "1 of kind keypoints left out: they have no outline",
        "1 drawings without any outline count as not drawn",
    }
    assert list(raters(tmp_path / "data")) == ["ben", "cem"]
    convert([image(1, "a.png")], notes, boxes=True, overwrite=True)
    np.testing.assert_array_equal(raters(tmp_path / "data")["anna"], SQUARED)


def test_roboflow_renames_files_in_every_export(tmp_path):
    files = {}
    for name, code in (("anna", "1f"), ("ben", "2e")):
        entry = image(0, f"a_png.rf.{code}.png", extra={"name": "a.png"})
        files[name] = write(tmp_path / name / "_annotations.coco.json", [entry], [note(0, "", [SQUARE])])
        save(tmp_path / "photos" / f"a_png.rf.{code}.png", np.zeros(SIZE, np.uint8))
    done = convert_coco(files, tmp_path / "data", images=tmp_path / "photos", progress=False)
    assert (done.images, done.missing, list(done.raters)) == (1, 0, ["anna", "ben"])
    assert load_folder(tmp_path / "data").image_ids == ("a",)
    augmented = [image(i, f"a.rf.{i}.png", extra={"name": "a.png"}) for i in (1, 2)]
    write(files["ben"], augmented, [note(1, "", [SQUARE])])
    with pytest.raises(DataError, match=r"found a\.rf\.1\.png and a\.rf\.2\.png, which lead to one image"):
        convert_coco(files, tmp_path / "none", images=tmp_path / "photos", progress=False)


def test_marks_that_all_lie_in_the_first_hundred_pixels_of_large_images_are_named(tmp_path):
    def convert(size, square):
        entry = image(1, "a.png") | {"height": size[0], "width": size[1]}
        notes = [note(1, who, [square]) for who in ("anna", "ben")]
        (tmp_path / "c.json").write_text(json.dumps({"images": [entry], "annotations": notes}))
        done = convert_coco(tmp_path / "c.json", tmp_path / "data", overwrite=True, progress=False)
        return [text for text in done.notes if "percent" in text]

    near, far = [10, 10, 90, 10, 90, 90, 10, 90], [10, 10, 120, 10, 120, 90, 10, 90]
    assert convert((500, 400), near) == [
        "all marks lie in the first 100 x 100 pixels of large images: percent in place of pixels?"
    ]
    assert convert((500, 399), near) == convert((500, 400), far) == []


def test_black_images_stand_for_those_not_given(tmp_path):
    notes = [note(1, who, [SQUARE]) for who in ("anna", "ben")]
    (tmp_path / "c.json").write_text(json.dumps({"images": [image(1, "a.png")], "annotations": notes}))
    done = convert_coco(tmp_path / "c.json", tmp_path / "data", progress=False)
    assert not load_folder(tmp_path / "data").image(0).any()
    assert set(done.notes) == {
        "no folder of images: black ones of the declared sizes stand for them (--images gives others)",
    }


def test_what_a_spreadsheet_would_compute_is_text_in_the_manifest_and_read_as_it_was(convert):
    images = [image(1, "a.png", site="=cmd()", depth="-2.5"), image(2, "sub/b.png", site="'@x", depth="3")]
    drawings = [note(number, annotator, [TRIANGLE]) for number in (1, 2) for annotator in ("anna", "ben")]
    done = convert(images, drawings)
    text = (done.root / "manifest.csv").read_text()
    assert "'=cmd()" in text
    assert "''@x" in text
    manifest = load_folder(done.root).manifest
    assert manifest["site"].tolist() == ["=cmd()", "'@x"]
    assert manifest["depth"].tolist() == [-2.5, 3.0]
