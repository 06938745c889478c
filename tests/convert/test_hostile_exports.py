"""Exports made to hang, to fill the memory or to end in a traceback: each is named, or converted rightly."""

from __future__ import annotations

import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from irrbench.convert import convert_coco, convert_cvat, convert_label_studio, convert_labelbox, exports, shapes
from irrbench.convert.exports import parse_json
from irrbench.data import DataError, load_folder
from irrbench.data.readers import Problem
from tests.convert.encoders import (
    coco_image,
    coco_note,
    cvat_image,
    cvat_shape,
    cvat_xml,
    fill_polygon,
    studio_annotation,
    studio_region,
    studio_task,
)
from tests.data.toys import save

SIZE = (1000, 1000)
TRIANGLE = [1, 1, 9, 1, 9, 9]


@pytest.fixture
def convert(tmp_path):
    """Converts the content of an export, or a file, by the tool's name."""
    save(tmp_path / "photos" / "a.png", np.zeros(SIZE, np.uint8))
    tools = {"COCO": convert_coco, "Label Studio": convert_label_studio, "CVAT": convert_cvat}
    tools["Labelbox"] = convert_labelbox

    def run(tool, content, **options):
        path = tmp_path / "export"
        if isinstance(content, Path):
            path = content
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        source = {"anna": path, "ben": path} if tool == "CVAT" else path
        options = {"images": tmp_path / "photos", "overwrite": True, "progress": False} | options
        return tools[tool](source, tmp_path / "data", **options)

    return run


TOOLS = ("COCO", "Label Studio", "CVAT", "Labelbox")


def coco(*segmentations, people=("anna", "ben"), **fields):
    notes = [coco_note(1, each, annotator=who) for who in people for each in segmentations]
    return {"images": [coco_image(1, "a.png", SIZE, **fields)], "annotations": notes}


def labelbox(points):
    polygon = {"polygon": [{"x": x, "y": y} for x, y in points], "feature_id": "f"}
    labels = [{"label_details": {"created_by": who}, "annotations": {"objects": [polygon]}} for who in ("anna", "ben")]
    return {"data_row": {"id": "i", "global_key": "a"}, "projects": {"p": {"labels": labels}}}


def outlines(points):
    """One outline in the exports of all tools; Label Studio counts in percent."""
    percent = [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in points]
    region = studio_region(SIZE, "polygon", points=percent)
    shape = cvat_shape("polygon", points=";".join(f"{x},{y}" for x, y in points))
    return {
        "COCO": coco([[value for point in points for value in point]]),
        "Label Studio": [studio_task("a.png", studio_annotation(1, region), studio_annotation(2, region))],
        "CVAT": cvat_xml(cvat_image("a.png", SIZE, shape)),
        "Labelbox": labelbox(points),
    }


@pytest.mark.parametrize("tool", TOOLS)
def test_an_outline_of_many_points_is_filled_or_refused(convert, tmp_path, tool):
    turns = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    circle = np.stack([500 + 300 * np.cos(turns), 500 + 300 * np.sin(turns)], axis=1).tolist()
    convert(tool, outlines(circle)[tool])
    down, right = np.mgrid[:1000, :1000] + 0.5
    expected = (down - 500) ** 2 + (right - 500) ** 2 < 300**2
    assert (load_folder(tmp_path / "data").masks(0) != expected).sum() < 20
    zigzag = [(i / 20, 1000 * (i % 2)) for i in range(20_000)]
    with pytest.raises(
        DataError, match=r"an outline that crosses 20,000,000 rows of pixels; expected at most 16,777,216"
    ):
        convert(tool, outlines(zigzag)[tool])


def test_many_parts_and_many_shapes_take_the_memory_of_one(convert, tmp_path):
    beside, size = [20, 20, 29, 20, 29, 29], (300, 300)
    export = coco(*[[TRIANGLE, beside]] * 20, [TRIANGLE] * 301, height=300, width=300)
    tracemalloc.start()
    try:
        convert("COCO", export, images=None)
        assert tracemalloc.get_traced_memory()[1] < 100 * 300 * 300
    finally:
        tracemalloc.stop()
    expected = np.logical_or(*(fill_polygon(np.reshape(each, (3, 2)), size) for each in (TRIANGLE, beside)))
    np.testing.assert_array_equal(load_folder(tmp_path / "data").masks(0), [expected, expected])


def test_many_raters_take_the_memory_of_one(convert, tmp_path):
    people = [f"r{number:02d}" for number in range(60)]
    export = coco([TRIANGLE], people=people, height=300, width=300)
    tracemalloc.start()
    try:
        convert("COCO", export, images=None)
        assert tracemalloc.get_traced_memory()[1] < 30 * 300 * 300
    finally:
        tracemalloc.stop()
    assert len(list((tmp_path / "data" / "masks").iterdir())) == 60


def test_an_image_with_a_bad_shape_leaves_nothing_behind(convert, tmp_path):
    export = coco([TRIANGLE])
    export["images"].append(coco_image(2, "b.png", (9, 9)))
    notes = [coco_note(2, [TRIANGLE], annotator=who) for who in ("anna", "cem")]
    export["annotations"] += [*notes, coco_note(2, [[0, 0, np.nan, 1, 1, 1]], annotator="dan")]
    done = convert("COCO", export, images=None)
    assert (done.images, len(done.left_out)) == (1, 1)
    found = {path.relative_to(done.root).as_posix() for path in done.root.rglob("*")} - {
        "conversion.json",
        "manifest.csv",
    }
    assert found == {"images", "images/a.png", "masks"} | {
        f"masks/{p}" for p in ("anna", "anna/a.png", "ben", "ben/a.png")
    }


RUNS = {
    "negative": [-5, 10**6 + 5],
    "huge": [10**30, 10**6],
    "too many": [0] * 10**5,
    "fractions": [0.5, 999_999.5],
    "nested": [[10**6]],
}


@pytest.mark.parametrize("name", RUNS)
def test_run_lengths_that_no_image_has_are_refused(convert, name):
    with pytest.raises(DataError, match="run lengths that do not fit the image"):
        convert("COCO", coco({"size": list(SIZE), "counts": RUNS[name]}))


def test_compressed_run_lengths_without_an_end_are_refused(convert, monkeypatch):
    monkeypatch.setattr(shapes, "MAX_CHARACTERS", 10**4)
    with pytest.raises(DataError, match="a compressed RLE of 10,002 characters; expected at most 10,000"):
        convert("COCO", coco({"size": list(SIZE), "counts": "00" * 5001}))


def test_sizes_that_no_image_has_are_refused(convert):
    far = 10**9
    region = studio_region((far, far), rle=[0] * 9)
    tasks = [studio_task("a.png", studio_annotation(1, region), studio_annotation(2, region))]
    for tool, export in (
        ("COCO", coco([TRIANGLE], height=far, width=far)),
        ("Label Studio", tasks),
        ("CVAT", cvat_xml(cvat_image("a.png", (far, far)))),
    ):
        with pytest.raises(
            DataError, match=r"found height '?1000000000'? and width '?1000000000'?; expected whole numbers"
        ):
            convert(tool, export)
    with pytest.raises(DataError, match="no segmentation of the image's size"):
        convert("COCO", coco({"size": [far, far], "counts": [far**2]}))
    row = labelbox([(1, 1), (9, 1), (9, 9)]) | {"media_attributes": {"height": far, "width": far}}
    with pytest.raises(DataError, match="found size 1000 x 1000; expected size 1000000000 x 1000000000"):
        convert("Labelbox", row)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308])
def test_coordinates_beyond_any_image_are_refused(convert, tool, value):
    with pytest.raises(DataError, match="an outline with absurd coordinates"):
        convert(tool, outlines([(1, 1), (9, 1), (value, 9)])[tool])


PLACES = (
    ("COCO", '{"images": [{"id": 1, "file_name": "a.png", "height": @, "width": 5}], "annotations": []}'),
    ("COCO", '{"images": [{"id": @, "file_name": @}, {"id": @, "file_name": 1}], "annotations": []}'),
    (
        "COCO",
        '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id": @, "image_id": @, "annotator": @}]}',
    ),
    ("COCO", '{"images": [{"id": 1, "file_name": "a.png", "annotators": {"x": @}}], "annotations": []}'),
    ("COCO", '{"images": [], "annotations": [], "categories": [{"id": @, "name": @}, {"id": 1, "name": @}]}'),
    ("Label Studio", '[{"id": @, "data": {"image": "a.png"}, "annotations": [{"completed_by": @, "result": @}]}]'),
    (
        "Label Studio",
        '[{"annotations": [{"completed_by": 1, "result": [{"image_rotation": @}]}], "data": {"image": "a.png"}}]',
    ),
    (
        "Labelbox",
        '{"data_row": {"id": @}, "projects": {"p": {"name": @, "labels": [{"label_details": {"created_by": @}}]}}}',
    ),
)


@pytest.mark.parametrize(("tool", "text"), PLACES)
@pytest.mark.parametrize("depth", [200, 700, 100_000])
@pytest.mark.parametrize("pair", ["[]", '{"id":}'])
def test_deep_nesting_is_named_wherever_it_stands(convert, tool, text, depth, pair):
    start, end = pair[:-1], pair[-1]
    with pytest.raises(DataError) as error:
        convert(tool, text.replace("@", start * depth + "1" + end * depth))
    assert len(str(error.value)) < 2500


@pytest.mark.parametrize("tool", TOOLS)
def test_empty_entries_are_counted(convert, tool):
    many = ",".join(["{}"] * 20_000)
    content = {
        "COCO": f'{{"images": [{many}], "annotations": [{many}]}}',
        "Label Studio": f"[{many}]",
        "CVAT": cvat_xml(*["<image/>"] * 20_000),
        "Labelbox": "{}\n" * 20_000,
    }[tool]
    message = "no field 'annotator' nor any other .* in 20000 of 20000" if tool == "COCO" else "[24]0000 times"
    with pytest.raises(DataError, match=message):
        convert(tool, content)


@pytest.mark.parametrize("tool", TOOLS)
def test_what_is_no_file_is_not_read(convert, tmp_path, tool):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "large").open("wb") as file:
        file.truncate(3 * 2**30)  # a sparse file: nothing is written
    found = {
        "pipe": "it is no regular file",
        "device": "it is no regular file",
        "folder": "it is no regular file",
        "loop": "symbolic links",
        "large": r"a file of absurd size \(3,221,225,472 bytes\); expected at most 1,073,741,824",
    }
    for name, message in found.items():
        with pytest.raises(DataError, match=rf"{name}: found .*{message}.* Remedy: "):
            convert(tool, tmp_path / name)


def test_archives_are_not_unpacked_beyond_the_limit(convert, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "MAX_BYTES", 10**6)
    with zipfile.ZipFile(tmp_path / "e.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", "[" + " " * 10**6)
    with pytest.raises(DataError, match=r"e\.zip: found a file of absurd size \(1,000,001 bytes\)"):
        convert("Label Studio", tmp_path / "e.zip")


@pytest.mark.parametrize(("tool", "entry"), [("COCO", "[],"), ("COCO", "{},"), ("COCO", "999,"), ("CVAT", "<a/>")])
def test_small_entries_that_take_much_memory_are_refused(convert, monkeypatch, tool, entry):
    monkeypatch.setattr(exports, "MAX_VALUES", 10**4)
    with pytest.raises(DataError, match="found too many values; expected at most some 1,250 entries"):
        convert(tool, entry * 10**5)


def test_halves_of_characters_are_question_marks(convert, tmp_path):
    export = coco([TRIANGLE], people=("a\ud800", "ben"), site="\udfff", city="\U0001f600")
    done = convert("COCO", export)
    assert done.raters == {"a": "a?", "ben": "ben"}
    frame = load_folder(tmp_path / "data").manifest
    assert (frame.loc["a", "site"], frame.loc["a", "city"]) == ("?", "\U0001f600")
    assert parse_json(r'["\\ud800", "\ud83d\ude00"]') == [r"\ud800", "\U0001f600"]


def test_of_many_kinds_some_are_named(convert):
    export = coco([TRIANGLE])
    export["annotations"] += [coco_note(1, [TRIANGLE], annotator="anna", category_id=i) for i in range(2, 40)]
    export["categories"] = [{"id": i, "name": f"c{i}"} for i in range(40)]
    notes = convert("COCO", export).notes
    assert "several are joined in one mask: c1, c10, c11" in notes[0]
    assert len(notes[0]) < 250
    notes = convert("COCO", export, categories=["c1"]).notes
    assert notes[20] == "18 more of 18 other kinds left out"


def test_messages_stay_short_and_are_made_at_once():
    """A name without a dot cost the square of its length."""
    problem = Problem("f" * 10**5, "x" * 10**5, "y" * 10**5, "z" * 10**5)
    assert len(str(problem)) < 2200
    text = str(DataError([problem, problem._replace(file="g" * 10**5)]))
    assert "2 times: " in text
    assert len(text) < 3000
