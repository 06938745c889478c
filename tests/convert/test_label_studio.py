"""Label Studio's exports, made here in the documented format, become data folders."""

from __future__ import annotations

import json

import numpy as np
import pytest

from irrbench.convert import convert_label_studio
from irrbench.convert.shapes import decode_packed_runs
from irrbench.data import DataError, load_folder
from irrbench.data.readers import ReadError
from tests.convert.encoders import (
    brush,
    pack,
    studio_annotation,
    studio_region,
    studio_task,
    write_json,
)
from tests.data.toys import save

SIZE = (12, 20)
SPOT = np.zeros(SIZE, bool)
SPOT[2:7, 3:9] = True
UPLOADED = "/data/upload/3/0a1b2c3d-a.png"


def region(mask=SPOT, **fields):
    return studio_region(SIZE, format="rle", rle=brush(mask), **fields)


@pytest.fixture
def convert(tmp_path):
    for name in ("a.png", "site1/c.png", "site2/c.png"):
        save(tmp_path / "photos" / name, np.random.default_rng(2).integers(0, 256, SIZE, dtype=np.uint8))

    def run(*tasks, **options):
        export = write_json(tmp_path / "export.json", tasks)
        options = {"images": tmp_path / "photos", "progress": False, "overwrite": True} | options
        return convert_label_studio(export, tmp_path / "data", **options)

    return run


@pytest.fixture
def masks(tmp_path):
    def read(i=0, **options):
        data = load_folder(tmp_path / "data", **options)
        return dict(zip(data.raters, data.masks(i), strict=True))

    return read


# --- the packed runs ---------------------------------------------------------------------------------------------


def test_packed_runs_of_label_studios_own_encoder():
    """What label-studio-converter 0.0.59 (mask2rle, encode_rle) writes of two small arrays."""
    packed = [0, 0, 0, 140, 57, 27, 254, 35, 0, 191, 255, 108, 2, 255, 254, 31, 0, 143, 255, 11, 128, 0]
    expected = np.zeros((5, 7), bool)
    expected[1:3, 2:6] = expected[4, 0] = True
    values = decode_packed_runs(packed, 140).reshape(5, 7, 4)
    np.testing.assert_array_equal(values, np.repeat(expected[..., None] * 255, 4, axis=-1))
    colours = [0, 0, 0, 20, 57, 27, 252, 64, 0, 127, 196, 0, 7, 252, 64, 0, 127, 128, 18, 0, 64, 0, 224, 3, 0, 18, 0]
    values = decode_packed_runs([*colours, 64, 0, 224, 3, 0], 20)
    assert values.tolist() == [0, 0, 0, 255] * 3 + [9, 8, 7, 6] * 2


@pytest.mark.parametrize("word", [1, 5, 8, 16, 32])
@pytest.mark.parametrize("widths", [(3, 4, 8, 16), (1, 2, 3, 4), (16, 16, 16, 16)])
@pytest.mark.parametrize("literal", [False, True])
def test_packed_runs_of_any_width_and_word(word, widths, literal):
    rng = np.random.default_rng(word)
    values = np.repeat(rng.integers(0, 2**word, 60), rng.integers(1, 40, 60))
    np.testing.assert_array_equal(
        decode_packed_runs(pack(values, word=word, widths=widths, literal=literal), len(values)), values
    )


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        ("abc", "no list of bytes"),
        ([1, 2, 300], "no list of bytes"),
        ([1.0, 2], "no list of bytes"),
        (None, "no list of bytes"),
        ([], "truncated"),
        ([0, 0, 0, 12], "truncated"),
        (pack([7] * 12)[:-1], "truncated"),
        (pack([7] * 13), "a brush mask of 13 values"),
        ([255] * 40, "a brush mask of 4294967295 values"),
    ],
)
def test_damaged_packed_runs_are_refused(packed, message):
    with pytest.raises(ReadError, match=message):
        decode_packed_runs(packed, 12)


# --- who drew what -----------------------------------------------------------------------------------------------


def test_each_annotator_becomes_a_rater_whatever_names_them(convert, masks):
    corner = np.eye(*SIZE, dtype=bool)
    done = convert(
        studio_task(
            UPLOADED,
            studio_annotation(0, region()),
            studio_annotation({"id": 5, "email": "ben@clinic.org"}, region(corner)),
            studio_annotation({"id": 6, "first_name": "", "username": "cem"}),
            studio_annotation(7, region(), was_cancelled=True),
            studio_annotation({"id": 8}, region(), skipped=True),
            predictions=[{"result": [region()], "model_version": "m"}],
        )
    )
    found = masks()
    assert list(found) == ["0", "ben-clinic.org", "cem"]
    np.testing.assert_array_equal(found["0"], SPOT)
    np.testing.assert_array_equal(found["ben-clinic.org"], corner)
    assert not found["cem"].any()
    assert {name: tuple(counts) for name, counts in done.drawn.items()} == {
        "0": (1, 0, 0),
        "ben-clinic.org": (1, 0, 0),
        "cem": (1, 1, 0),
    }
    assert "2 annotations cancelled: not drawn" in done.notes
    assert "1 tasks with predictions, which are no drawings" in done.notes
    assert load_folder(done.root).image_ids == ("a",)


def test_a_second_annotation_by_one_person_is_a_repeat_in_order_of_time(convert, tmp_path):
    late = studio_annotation(1, region(), created_at="2024-05-02T00:00:00Z")
    early = studio_annotation(1, created_at="2024-05-01T00:00:00Z")
    done = convert(studio_task(UPLOADED, late, early, studio_annotation(2, region())))
    drawings, there = load_folder(tmp_path / "data").drawings(0, "1")
    assert there.tolist() == [True, True]
    np.testing.assert_array_equal(drawings, [np.zeros(SIZE, bool), SPOT])
    assert done.drawn["1"] == (2, 1, 1)


def test_two_tasks_of_one_image_are_one_image(convert, masks):
    tasks = [studio_task(UPLOADED, studio_annotation(who, region()), id=who) for who in (1, 2)]
    assert convert(*tasks).images == 1
    assert list(masks()) == ["1", "2"]


def test_ground_truth_counts_as_its_makers_unless_left_out(convert):
    task = studio_task(UPLOADED, *(studio_annotation(who, region(), ground_truth=who == 3) for who in (1, 2, 3)))
    done = convert(task)
    assert list(done.drawn) == ["1", "2", "3"]
    assert "1 annotations marked as ground truth count (--no-ground-truth leaves them out)" in done.notes
    assert list(convert(task, ground_truth=False).drawn) == ["1", "2"]


def test_json_min_names_its_annotator(convert, masks):
    value = {
        "format": "rle",
        "rle": brush(SPOT),
        "brushlabels": ["lesion"],
        "original_width": 20,
        "original_height": 12,
    }
    common = {"image": UPLOADED, "id": 1, "created_at": "2024", "lead_time": 3.2}
    records = [
        common | {"tag": [value], "annotator": 0, "annotation_id": 4},
        common | {"annotator": "ben@clinic.org", "annotation_id": 5},
    ]
    assert convert(*records).images == 1
    found = masks()
    np.testing.assert_array_equal(found["0"], SPOT)
    assert not found["ben-clinic.org"].any()


def test_older_exports_call_annotations_completions(convert, masks):
    task = studio_task(UPLOADED)
    del task["annotations"]
    convert(task | {"completions": [studio_annotation(who, region()) for who in (1, 2)]})
    assert list(masks()) == ["1", "2"]


def test_a_file_for_each_annotator(convert, tmp_path, masks):
    (tmp_path / "e").mkdir()
    files = {}
    for number, name in enumerate(("anna", "ben")):
        task = studio_task(UPLOADED, studio_annotation(number, region()))
        files[name] = write_json(tmp_path / "e" / f"{name}.json", [task])
    convert_label_studio(files, tmp_path / "data", images=tmp_path / "photos", progress=False)
    assert list(masks()) == ["anna", "ben"]
    both = studio_task(UPLOADED, studio_annotation(1), studio_annotation(2))
    files["ben"] = write_json(tmp_path / "e" / "ben.json", [both])
    with pytest.raises(DataError, match=r"ben\.json: found drawings by 2 people \(1, 2\); expected those of ben alone"):
        convert_label_studio(files, tmp_path / "data", images=tmp_path / "photos", overwrite=True)


def test_nothing_leads_back_to_anonymous_annotators(convert, tmp_path):
    files = {
        name: write_json(tmp_path / f"{name}.json", [studio_task(UPLOADED, studio_annotation(1))])
        for name in ("anna", "ben")
    }
    convert_label_studio(files, tmp_path / "data", images=tmp_path / "photos", anonymize=True, progress=False)
    for path in (tmp_path / "data").rglob("*"):
        assert "anna" not in path.name
        assert not path.is_file() or b"anna" not in path.read_bytes()


# --- shapes ------------------------------------------------------------------------------------------------------


def inside(shape, test):
    rows, columns = np.indices(shape) + 0.5
    return test(columns, rows)


def test_outlines_are_in_percent_of_the_image(convert, masks):
    ellipse = {"x": 50, "y": 50, "radiusX": 30, "radiusY": 25, "rotation": 0}
    polygon = {"points": [[10, 0], [50, 0], [50, 50], [10, 50]], "closed": True}
    convert(
        studio_task(
            UPLOADED,
            studio_annotation(1, studio_region(SIZE, "polygon", **polygon)),
            studio_annotation(2, studio_region(SIZE, "ellipse", **ellipse)),
        )
    )
    found = masks()
    np.testing.assert_array_equal(found["1"], inside(SIZE, lambda x, y: (x > 2) & (x < 10) & (y < 6)))
    np.testing.assert_array_equal(found["2"], inside(SIZE, lambda x, y: ((x - 10) / 6) ** 2 + ((y - 6) / 3) ** 2 < 1))


def test_rectangles_turn_around_their_upper_left_corner_and_ellipses_around_their_centre(convert, masks):
    tall = {"x": 50, "y": 25, "width": 30, "height": 25, "rotation": 90}  # 6 x 3 pixels become 3 x 6, left of x = 10
    slant = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 10, "rotation": 30}
    convert(
        studio_task(
            UPLOADED,
            studio_annotation(1, studio_region(SIZE, "rectangle", **tall)),
            studio_annotation(2, studio_region(SIZE, "ellipse", **slant)),
        ),
        boxes=True,
    )
    found = masks()
    np.testing.assert_array_equal(found["1"], inside(SIZE, lambda x, y: (x > 7) & (x < 10) & (y > 3) & (y < 9)))
    turn = np.radians(30)

    def test(x, y):
        along = (x - 10) * np.cos(turn) + (y - 6) * np.sin(turn)
        across = (y - 6) * np.cos(turn) - (x - 10) * np.sin(turn)
        return (along / 5) ** 2 + (across / 1.2) ** 2 < 1

    np.testing.assert_array_equal(found["2"], inside(SIZE, test))


def test_shapes_without_an_outline_are_counted_and_are_no_empty_drawing(convert, masks):
    box = studio_region(SIZE, "rectangle", x=1, y=1, width=9, height=9)
    point = studio_region(SIZE, "keypoint", x=1, y=1, width=0.3)
    answer = {"type": "choices", "from_name": "q", "to_name": "image", "value": {"choices": ["good"]}}
    task = studio_task(
        UPLOADED,
        studio_annotation(1, region(), box),
        studio_annotation(2, point),
        studio_annotation(3, answer),
        studio_annotation(4, region()),
    )
    done = convert(task)
    assert set(done.notes) == {
        "1 of kind keypoint left out: they have no outline",
        "1 of kind rectangle left out: they have no outline (--boxes fills them)",
        "1 drawings without any outline count as not drawn",
    }
    found = masks()
    assert list(found) == ["1", "3", "4"]
    np.testing.assert_array_equal(found["1"], SPOT)
    assert not found["3"].any()


def test_labels_are_chosen_and_others_show_who_looked(convert, masks):
    task = studio_task(
        UPLOADED,
        studio_annotation(1, region(label="vessel")),
        studio_annotation(2, region(), region(~SPOT, label="vessel")),
    )
    done = convert(task, labels=["lesion"])
    assert done.notes == ("2 of label vessel left out: lesion counts",)
    found = masks()
    assert not found["1"].any()
    np.testing.assert_array_equal(found["2"], SPOT)
    with pytest.raises(DataError, match=r"found no label 'cyst'; expected some of vessel, lesion"):
        convert(task, labels=["cyst"])


def test_shape_and_label_may_be_two_results_of_one_region(convert, masks):
    value = {"format": "rle", "rle": brush(SPOT)}
    parts = [
        {"id": "x", "type": "brush", "value": value},
        {"id": "x", "type": "labels", "value": value | {"labels": ["lesion"]}},
    ]
    task = studio_task(UPLOADED, studio_annotation(1, *parts), studio_annotation(2, *parts))
    assert convert(task, labels=["lesion"]).notes == ()
    np.testing.assert_array_equal(masks()["1"], SPOT)


# --- images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (UPLOADED, "a"),
        ("https://x.test/deep/a.png?X-Amz-Signature=1", "a"),
        ("s3://bucket/site1/c.png", "site1-c"),
        ("/data/local-files/?d=dir/site2/c.png", "site2-c"),
        ("site1%2Fc.png", "site1-c"),
    ],
)
def test_the_image_is_found_by_its_address(convert, tmp_path, address, expected):
    done = convert(studio_task(address, studio_annotation(1), studio_annotation(2)))
    assert done.left_out == ()
    assert load_folder(tmp_path / "data").image_ids == (expected,)


def test_two_images_of_one_name_stay_two(convert, tmp_path):
    tasks = [
        studio_task(f"s3://b/{site}/c.png", studio_annotation(1), studio_annotation(2)) for site in ("site1", "site2")
    ]
    assert convert(*tasks).images == 2
    assert load_folder(tmp_path / "data").image_ids == ("site1-c", "site2-c")


def test_two_names_that_lead_to_one_file_are_refused(convert):
    tasks = [studio_task(f"s3://b/{site}/a.png", studio_annotation(1), studio_annotation(2)) for site in ("x", "y")]
    with pytest.raises(DataError, match=r"found a\.png for 'x/a\.png', which may be that of 'y/a\.png'"):
        convert(*tasks)


def test_black_images_stand_for_those_not_given(convert, tmp_path):
    done = convert(studio_task(UPLOADED, studio_annotation(1, region()), studio_annotation(2)), images=None)
    data = load_folder(tmp_path / "data")
    assert data.shape(0) == SIZE
    assert not data.image(0).any()
    assert "no folder of images: black ones" in done.notes[0]
    assert json.loads((tmp_path / "data/conversion.json").read_text())["images_given"] is False
    with pytest.raises(DataError, match=r"a\.png: found no size; .*--images DIR"):
        convert(studio_task(UPLOADED, studio_annotation(1), studio_annotation(2)), images=None)


def test_plain_data_of_a_task_become_columns(convert, tmp_path):
    task = studio_task(UPLOADED, studio_annotation(1), studio_annotation(2))
    task["data"] |= {"patient_id": "p1", "split": "Train", "list": [1]}
    convert(task)
    frame = load_folder(tmp_path / "data").manifest
    assert frame.loc["a", "patient_id"] == "p1"
    assert frame.loc["a", "split"] == "train"
    assert "image" not in frame


turned = region() | {"image_rotation": 90}
REFUSED = {
    "turned": (studio_task(UPLOADED, studio_annotation(1, turned)), "task 1: found an image turned by 90 degrees"),
    "pages": (studio_task(UPLOADED, studio_annotation(1, region() | {"item_index": 1})), "a task of several pages"),
    "two images": (
        studio_task(UPLOADED, studio_annotation(1, region(), region() | {"to_name": "second"})),
        "drawings on several images of a task",
    ),
    "two addresses": (
        studio_task(UPLOADED, studio_annotation(1)) | {"data": {"one": "a.png", "two": "c.png"}},
        r"2 images in a task \(one, two\); .*--image-field",
    ),
    "nobody": (studio_task(UPLOADED, studio_annotation(None, region())), "an annotation without completed_by"),
    "other size": (
        studio_task(UPLOADED, studio_annotation(1, studio_region((5, 6), rle=[1]))),
        r"a\.png: found size 12 x 20; expected size 5 x 6, as declared",
    ),
    "two sizes": (
        studio_task(UPLOADED, studio_annotation(1, region()), studio_annotation(2, studio_region((5, 6), rle=[1]))),
        "found sizes 5 x 6 and 12 x 20",
    ),
    "absurd size": (
        studio_task(UPLOADED, studio_annotation(1, region() | {"original_height": 1e300})),
        r"height 1e\+300 and width 20; expected whole numbers",
    ),
    "cut off": (
        studio_task(UPLOADED, studio_annotation(1, studio_region(SIZE, rle=brush(SPOT)[:20]))),
        r"a\.png: found region \w+: a truncated brush mask",
    ),
    "not a number": (
        studio_task(
            UPLOADED, studio_annotation(1, studio_region(SIZE, "polygon", points=[[0, 0], [float("nan"), 1], [1, 0]]))
        ),
        "absurd coordinates",
    ),
    "no radius": (
        studio_task(
            UPLOADED, studio_annotation(1, studio_region(SIZE, "ellipse", x=1, y=1, radiusX=0, radiusY=float("inf")))
        ),
        "absurd coordinates",
    ),
    "text": (
        studio_task(UPLOADED, studio_annotation(1, studio_region(SIZE, "ellipse", x="a", y=1, radiusX=1, radiusY=2))),
        "a damaged shape",
    ),
    "no file": (studio_task("/data/upload/3/zz.png", studio_annotation(1, region())), r"zz\.png: found no file"),
    "no task": ({"id": 3, "data": {}}, "task 3: found neither annotations nor an annotator"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_named_and_the_rest_goes_on(convert, tmp_path, name):
    task, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        convert(task)
    assert not (tmp_path / "data").exists()
    good = studio_task("site1/c.png", studio_annotation(1), studio_annotation(2), id=9)
    done = convert(task, good)
    assert (done.images, len(done.left_out)) == (1, 1)


def test_one_cause_is_named_once(convert):
    tasks = [studio_task(f"n{i}.png", studio_annotation(1), id=i) for i in range(30)]
    with pytest.raises(DataError) as error:
        convert(*tasks)
    assert "30 times: n0.png: found no file" in str(error.value)
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize("text", ["{", "{}", "[]", "[1]", '"x"', "[" * 100000])
def test_files_that_are_no_export_are_named(tmp_path, text):
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(DataError, match=r"e\.json: found (no tasks|a file that cannot be read)"):
        convert_label_studio(tmp_path / "e.json", tmp_path / "data")
