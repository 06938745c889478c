"""Exports with junk in any place: converted, left out or refused in words; never another error, never half a folder."""

from __future__ import annotations

import copy
import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irrbench.convert import convert_coco, convert_cvat, convert_label_studio, convert_labelbox
from irrbench.data import DataError
from tests.convert import encoders
from tests.data.toys import save

SIZE = (6, 8)
JUNK = st.sampled_from(
    (
        None,
        True,
        0,
        -1,
        3.5,
        1e308,
        math.nan,
        math.inf,
        "",
        "x",
        "../x",
        [],
        [[]],
        {},
        {"x": 1},
        [None],
        10**30,
        "é\u0000",
        "\ud800",
        "x" * 3000,
        {"id": {"id": 3}},
    )
)
POLYGON = {
    "feature_id": "f",
    "name": "n",
    "annotation_kind": "ImagePolygon",
    "polygon": [{"x": 0, "y": 0}, {"x": 5, "y": 0}, {"x": 0, "y": 5}],
}
MASK = {"feature_id": "m", "name": "n", "annotation_kind": "ImageSegmentationMask", "mask": {"url": "https://x.test/m"}}
COMPOSITE = {
    "feature_id": "c",
    "annotation_kind": "ImageSegmentationMask",
    "composite_mask": {"url": "https://x.test/masks/c/index/1", "color_rgb": [1, 2, 3]},
}
BOX = {"annotation_kind": "ImageBoundingBox", "bounding_box": {"left": 1, "top": 1, "width": 2, "height": 2}}
LABEL = {
    "label_details": {"created_by": "anna", "created_at": "2024"},
    "performance_details": {"skipped": False},
    "annotations": {"objects": [POLYGON, MASK, COMPOSITE, BOX]},
}
ROW = {
    "data_row": {"id": "i", "global_key": "a", "external_id": "a.png", "row_data": "https://x.test/a.png"},
    "media_attributes": {"height": SIZE[0], "width": SIZE[1]},
    "metadata_fields": [{"schema_name": "split", "value": "train"}],
    "projects": {"p": {"name": "n", "labels": [LABEL, LABEL | {"label_details": {"created_by": "ben"}}]}},
}
COCO = {
    "images": [
        {"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1], "annotators": ["anna"], "site": "x"}
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "annotator": "anna", "segmentation": [[0, 0, 5, 0, 0, 5]]},
        {
            "id": 2,
            "image_id": 1,
            "category_id": 1,
            "annotator": "ben",
            "segmentation": {"size": [6, 8], "counts": "`1"},
        },
        {
            "id": 3,
            "image_id": 1,
            "category_id": 1,
            "annotator": "ben",
            "segmentation": {"size": [6, 8], "counts": [40, 8]},
        },
    ],
    "categories": [{"id": 1, "name": "n"}],
}
BRUSH = encoders.studio_region(SIZE, format="rle", rle=encoders.brush(np.eye(*SIZE)))
OUTLINES = (
    encoders.studio_region(SIZE, "polygon", points=[[0, 0], [50, 0], [0, 50]]),
    encoders.studio_region(SIZE, "ellipse", x=50, y=50, radiusX=20, radiusY=10, rotation=3),
    encoders.studio_region(SIZE, "rectangle", x=5, y=5, width=20, height=10, rotation=3),
)
TASK = encoders.studio_task(
    "/data/upload/1/0a1b2c3d-a.png",
    encoders.studio_annotation({"id": 1, "email": "anna"}, BRUSH, *OUTLINES, created_at="2024", ground_truth=False),
    encoders.studio_annotation(2),
    predictions=[{"result": []}],
)
RECORD = {
    "image": "/data/upload/1/0a1b2c3d-a.png",
    "id": 2,
    "annotator": "cem",
    "tag": [BRUSH["value"] | {"original_width": SIZE[1], "original_height": SIZE[0]}],
}
TASKS = [TASK, RECORD]
XML = encoders.cvat_xml(
    encoders.cvat_image(
        "a.png",
        SIZE,
        encoders.cvat_mask(np.eye(*SIZE) > 0),
        encoders.cvat_shape("polygon", points="0,0;5,0;0,5"),
        encoders.cvat_shape("box", xtl=1, ytl=1, xbr=3, ybr=3, rotation=3),
        encoders.cvat_shape("ellipse", cx=3, cy=3, rx=2, ry=1, rotation=3),
        '<tag label="x"/>',
        task_id=1,
    ),
    meta="<task><id>1</id><assignee><username>anna</username></assignee></task>",
)
TEXT_JUNK = st.sampled_from(
    ("", "x", "-1", "nan", "inf", "1e308", "0", "9" * 30, "../x", "1,2", "1,2;3", ";", "\u00e9")
)
quick = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def places(value, path=()):
    """Every place in nested lists and mappings."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def damaged(value, path, junk):
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = junk
    return changed


@pytest.fixture
def photos(tmp_path):
    save(tmp_path / "photos" / "a.png", np.zeros(SIZE, np.uint8))
    save(tmp_path / "masks" / "m.png", np.eye(*SIZE, dtype=np.uint8))
    save(tmp_path / "masks" / "c.png", np.full((*SIZE, 3), (1, 2, 3), np.uint8))
    return tmp_path


def attempt(convert, root, **options):
    try:
        done = convert(output=root / "data", images=root / "photos", overwrite=True, progress=False, **options)
    except DataError:
        return None
    finally:
        assert {path.name for path in root.iterdir()} <= {"photos", "masks", "data", "export"}
    assert done.images == 1
    return done


def convert_row(root, row):
    (root / "export").write_text(json.dumps(row) + "\n")
    return attempt(convert_labelbox, root, export=root / "export", masks=root / "masks", boxes=True)


def convert_tasks(root, tasks):
    (root / "export").write_text(json.dumps(tasks))
    return attempt(convert_label_studio, root, exports=root / "export", labels=["lesion"], boxes=True)


def convert_xml(root, text):
    (root / "export").write_bytes(text)
    return attempt(convert_cvat, root, exports=root / "export", boxes=True)


def damaged_xml(number, key, junk):
    """One element of the document with junk as an attribute, its text or its name."""
    root = ElementTree.fromstring(XML)  # noqa: S314  # our own
    elements = list(root.iter())
    element = elements[number % len(elements)]
    keys = [*element.keys(), "text", "tag", "remove"]
    match keys[key % len(keys)]:
        case "text":
            element.text = junk
        case "tag":
            element.tag = "thing"
        case "remove":
            for child in list(element):
                element.remove(child)
        case name:
            element.set(name, junk)
    return ElementTree.tostring(root)


def convert_content(root, content):
    (root / "export").write_text(json.dumps(content))
    return attempt(convert_coco, root, annotations=root / "export", categories=["n"])


def test_what_is_damaged_below_is_sound(photos):
    assert convert_row(photos, ROW).problems == ()
    assert convert_content(photos, COCO).problems == ()
    done = convert_tasks(photos, TASKS)
    assert (done.problems, len(done.drawn)) == ((), 3)
    done = convert_xml(photos, XML.encode())
    assert (done.left_out, len(done.drawn)) == ((), 1)


@settings(max_examples=40, **quick)
@given(st.sampled_from(list(places(ROW))), JUNK)
def test_junk_in_a_labelbox_export(photos, place, junk):
    convert_row(photos, damaged(ROW, place, junk))


@settings(max_examples=40, **quick)
@given(st.sampled_from(list(places(COCO))), JUNK)
def test_junk_in_coco(photos, place, junk):
    convert_content(photos, damaged(COCO, place, junk))


@settings(max_examples=60, **quick)
@given(st.sampled_from(list(places(TASKS))), JUNK)
def test_junk_in_label_studio(photos, place, junk):
    convert_tasks(photos, damaged(TASKS, place, junk))


@settings(max_examples=60, **quick)
@given(st.integers(0, 40), st.integers(0, 9), TEXT_JUNK)
def test_junk_in_cvat(photos, number, key, junk):
    convert_xml(photos, damaged_xml(number, key, junk))


@settings(max_examples=60, **quick)
@given(st.integers(0, len(XML)), st.binary(max_size=6))
def test_bytes_lost_or_changed_in_cvat(photos, place, junk):
    convert_xml(photos, XML.encode()[:place] + junk)
    convert_xml(photos, XML.encode()[:place] + junk + XML.encode()[place + len(junk) :])


@pytest.mark.slow
@settings(max_examples=300, **quick)
@given(
    st.sampled_from(list(places(ROW))), st.sampled_from(list(places(COCO))), st.sampled_from(list(places(TASKS))), JUNK
)
def test_junk_everywhere(photos, in_row, in_coco, in_tasks, junk):
    convert_row(photos, damaged(ROW, in_row, junk))
    convert_content(photos, damaged(COCO, in_coco, junk))
    convert_tasks(photos, damaged(TASKS, in_tasks, junk))
