"""Exports with junk in any place: converted, left out or refused in words; never another error, never half a folder."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irrbench.convert import convert_coco, convert_labelbox
from irrbench.data import DataError
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


def convert_content(root, content):
    (root / "export").write_text(json.dumps(content))
    return attempt(convert_coco, root, annotations=root / "export", categories=["n"])


def test_what_is_damaged_below_is_sound(photos):
    assert convert_row(photos, ROW).problems == ()
    assert convert_content(photos, COCO).problems == ()


@settings(max_examples=40, **quick)
@given(st.sampled_from(list(places(ROW))), JUNK)
def test_junk_in_a_labelbox_export(photos, place, junk):
    convert_row(photos, damaged(ROW, place, junk))


@settings(max_examples=40, **quick)
@given(st.sampled_from(list(places(COCO))), JUNK)
def test_junk_in_coco(photos, place, junk):
    convert_content(photos, damaged(COCO, place, junk))


@pytest.mark.slow
@settings(max_examples=1500, **quick)
@given(st.sampled_from(list(places(ROW))), st.sampled_from(list(places(COCO))), JUNK)
def test_junk_everywhere(photos, in_row, in_coco, junk):
    convert_row(photos, damaged(ROW, in_row, junk))
    convert_content(photos, damaged(COCO, in_coco, junk))
