"""Exports in Labelbox's documented format, made here, become data folders."""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from irrbench._files import try_lock
from irrbench.convert import convert_labelbox
from irrbench.convert.labelbox import _key
from irrbench.data import DataError, load_folder
from tests.convert.encoders import fill_polygon
from tests.data.toys import save

SIZE = (12, 20)
ANNA, BEN = "anna@clinic.org", "Ben / second reader"
TRIANGLE = [(2.0, 1.0), (15.5, 1.0), (2.0, 10.25)]


def polygon(points=TRIANGLE, name="lesion"):
    return {
        "feature_id": "f0",
        "name": name,
        "value": name,
        "annotation_kind": "ImagePolygon",
        "classifications": [],
        "polygon": [{"x": x, "y": y} for x, y in points],
    }


def box(left, top, width, height):
    sides = {"left": left, "top": top, "width": width, "height": height}
    return {"feature_id": "f1", "name": "box", "annotation_kind": "ImageBoundingBox", "bounding_box": sides}


def label(creator, *objects, at="2024-02-19T19:45:24.000+00:00", skipped=False):
    return {
        "label_kind": "Default",
        "version": "1.0.0",
        "id": "l",
        "label_details": {"created_at": at, "created_by": creator},
        "performance_details": {"seconds_to_create": 9, "skipped": skipped},
        "annotations": {"objects": list(objects), "classifications": [], "relationships": []},
    }


def row(key, *labels, projects=None, size=SIZE, **data_row):
    return {
        "data_row": {"id": f"id-{key}", "global_key": key, "row_data": f"https://x.test/a%20b/{key}.png"} | data_row,
        "media_attributes": {"height": size[0], "width": size[1], "mime_type": "image/png", "exif_rotation": "1"},
        "projects": projects or {"p0": {"name": "nodules", "labels": list(labels)}},
    }


@pytest.fixture
def convert(tmp_path):
    for key in ("a", "b"):
        save(tmp_path / "photos" / f"{key}.png", np.random.default_rng(1).integers(0, 256, SIZE, dtype=np.uint8))

    def run(*rows, **options):
        export = tmp_path / "export.ndjson"
        export.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
        options = {"images": tmp_path / "photos", "progress": False} | options
        return convert_labelbox(export, tmp_path / "data", **options)

    return run


def test_labellers_become_raters_and_their_objects_one_mask(convert, tmp_path):
    second = [(16, 8), (20, 8), (20, 12), (16, 12)]
    done = convert(
        row("a", label(ANNA, polygon(), polygon(second)), label(BEN)), row("b", label(ANNA), label(BEN, polygon()))
    )
    assert (done.images, done.missing, done.left_out, done.notes, done.problems) == (2, 0, (), (), ())
    assert done.raters == {"anna-clinic.org": ANNA, "Ben-second-reader": BEN}
    data = load_folder(tmp_path / "data")
    assert data.raters == ("Ben-second-reader", "anna-clinic.org")
    assert data.image_ids == ("a", "b")
    expected = fill_polygon(TRIANGLE, SIZE) | fill_polygon(second, SIZE)
    np.testing.assert_array_equal(data.masks(0), [np.zeros(SIZE, bool), expected])
    np.testing.assert_array_equal(data.masks(1), [fill_polygon(TRIANGLE, SIZE), np.zeros(SIZE, bool)])
    assert (tmp_path / "data/images/a.png").read_bytes() == (tmp_path / "photos/a.png").read_bytes()
    facts = json.loads((tmp_path / "data/conversion.json").read_text())
    assert facts["format"] == "Labelbox"
    assert facts["raters"] == done.raters


def test_skipped_and_absent_labels_are_no_drawings(convert, tmp_path):
    done = convert(row("a", label(ANNA, polygon()), label(BEN, skipped=True)), row("b", label(ANNA), label(BEN)))
    assert (done.missing, done.problems) == (1, ())
    data = load_folder(tmp_path / "data", allow_missing=True)
    assert data.present(0).tolist() == [False, True]


def test_a_second_label_by_the_same_person_is_a_repeat_in_order_of_time(convert, tmp_path):
    late = label(ANNA, polygon(), at="2024-03-01T00:00:00.000+00:00")
    convert(row("a", late, label(ANNA), label(BEN)), row("b", label(ANNA), label(BEN)))
    drawings, there = load_folder(tmp_path / "data").drawings(0, "anna-clinic.org")
    assert there.tolist() == [True, True]
    np.testing.assert_array_equal(drawings, [np.zeros(SIZE, bool), fill_polygon(TRIANGLE, SIZE)])


def test_boxes_and_points_are_left_out_and_counted_unless_asked_for(convert, tmp_path):
    point = {"name": "p", "annotation_kind": "ImagePoint", "point": {"x": 1, "y": 1}}
    rows = (row("a", label(ANNA, box(2, 3, 5, 4), point), label(BEN, box(0, 0, 1, 1))),)
    with pytest.raises(DataError, match="a: found no shape with an outline"):
        convert(*rows)
    some = (row("a", label(ANNA, box(2, 3, 5, 4), point), label(BEN, polygon())), row("b", label(ANNA), label(BEN)))
    done = convert(*some)
    assert (done.images, done.missing) == (2, 1)
    assert done.notes == (
        "1 of kind ImageBoundingBox left out: they have no outline (--boxes fills them)",
        "1 of kind ImagePoint left out: they have no outline",
        "1 drawings without any outline count as not drawn",
    )
    convert(*rows, boxes=True, overwrite=True)
    mask = load_folder(tmp_path / "data").masks(0)[1]
    assert mask.sum() == 20
    assert mask[3:7, 2:7].all()


def test_objects_are_chosen_by_name(convert, tmp_path):
    convert(
        row("a", label(ANNA, polygon(name="vein"), polygon([(0, 0), (2, 0), (2, 2), (0, 2)])), label(BEN)),
        objects=["lesion"],
    )
    assert load_folder(tmp_path / "data").masks(0)[1].sum() == 4
    with pytest.raises(DataError, match="found no object 'leison'; expected some of lesion"):
        convert(row("a", label(ANNA, polygon()), label(BEN)), objects=["leison"], overwrite=True)


def test_masks_come_from_files(convert, tmp_path):
    whole = fill_polygon(TRIANGLE, SIZE)
    save(tmp_path / "masks" / "feat-5.png", whole.astype(np.uint8) * 255)
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[2:5, 3:9], colours[6:8, 1:4] = (142, 220, 196), (142, 220, 197)
    save(tmp_path / "masks" / "composite-1.png", colours)
    kind = {"name": "m", "annotation_kind": "ImageSegmentationMask"}
    single = kind | {"feature_id": "feat-5", "mask": {"url": "https://api.labelbox.com/api/v1/x/index/1/mask"}}
    url = "https://api.labelbox.com/api/v1/tasks/t/masks/composite-1/index/1"
    composite = kind | {"feature_id": "feat-6", "composite_mask": {"url": url, "color_rgb": [142, 220, 196]}}
    both = composite | {"mask": {"url": "https://api.labelbox.com/gone"}}
    done = convert(row("a", label(ANNA, single), label(BEN, composite), label("cem", both)), masks=tmp_path / "masks")
    assert done.left_out == ()
    masks = load_folder(tmp_path / "data").masks(0)
    expected = np.zeros(SIZE, bool)
    expected[2:5, 3:9] = True
    np.testing.assert_array_equal(masks, [expected, whole, expected])


@pytest.mark.parametrize("background", ["black", "transparent"])
def test_masks_may_be_in_colour_with_an_alpha(convert, tmp_path, background):
    whole = fill_polygon(TRIANGLE, SIZE)
    pixels = np.full((*SIZE, 4), 255, np.uint8)
    pixels[~whole] = (0, 0, 0, 255) if background == "black" else (255, 255, 255, 0)
    save(tmp_path / "masks" / "f.png", pixels)
    item = {"feature_id": "f", "mask": {"url": "https://x.test/f"}}
    convert(row("a", label(ANNA, item), label(BEN)), masks=tmp_path / "masks")
    np.testing.assert_array_equal(load_folder(tmp_path / "data").masks(0)[1], whole)
    pixels[0, :2] = [(9, 9, 9, 255), (8, 9, 9, 255)]
    save(tmp_path / "masks" / "f.png", pixels)
    with pytest.raises(DataError, match=r"a: found object f: f\.png of several colours"):
        convert(row("a", label(ANNA, item)), masks=tmp_path / "masks", overwrite=True)


def test_raters_are_made_anonymous_in_all_that_is_written(convert, tmp_path):
    done = convert(row("a", label(ANNA, polygon()), label(BEN)), anonymize=True)
    assert done.raters == {"r1": "r1", "r2": "r2"}
    for path in (tmp_path / "data").rglob("*"):
        assert "anna" not in str(path.relative_to(tmp_path))
        assert not path.is_file() or b"anna" not in path.read_bytes()


def test_metadata_become_columns_and_valid_is_val(convert, tmp_path):
    def fields(**values):
        return {"metadata_fields": [{"schema_name": key, "value": value} for key, value in values.items()]}

    labels = (label(ANNA), label(BEN))
    convert(row("a", *labels) | fields(split="valid", site="Ulm"), row("b", *labels) | fields(split="test"))
    frame = load_folder(tmp_path / "data").manifest
    assert frame["split"].tolist() == ["val", "test"]
    assert frame.loc["a", "site"] == "Ulm"
    assert frame["source"].tolist() == ["a", "b"]


def test_two_data_rows_of_one_name_are_refused(convert):
    rows = [row("a", label(ANNA), label(BEN)), row("b", label(ANNA), label(BEN))]
    with pytest.raises(DataError, match="a: found id-1 and id-2, which lead to one image; expected a file for each"):
        convert(*(row("a", label(ANNA), label(BEN), id=f"id-{number}") for number in (1, 2)))
    assert convert(*rows).images == 2


def test_ids_that_would_leave_the_folder_stay_inside(convert, tmp_path):
    for key in ("../../evil", "/etc/passwd"):
        save(tmp_path / "photos" / f"{key.rpartition('/')[2]}.png", np.zeros(SIZE, np.uint8))
    convert(row("../../evil", label(ANNA), label("../up")), row("/etc/passwd", label(ANNA), label("../up")))
    data = load_folder(tmp_path / "data")
    assert data.image_ids == ("etc-passwd", "evil")
    assert data.raters == ("anna-clinic.org", "up")
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "data", "export.ndjson"}


def test_photos_are_turned_as_people_saw_them(convert, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    stored = np.zeros((20, 12), np.uint8)
    stored[:10] = 255
    (tmp_path / "photos" / "a.png").unlink()
    Image.fromarray(stored).save(tmp_path / "photos" / "a.jpg", exif=exif, quality=95)
    done = convert(row("a", label(ANNA, polygon()), label(BEN)))
    assert done.left_out == ()
    image = load_folder(tmp_path / "data").image(0)
    assert image.shape == (1, *SIZE)
    assert image[0, :, :9].max() < 0.1
    assert image[0, :, 11:].min() > 0.9


LEFT_OUT = {
    "no image": ({"a": row("zz", label(ANNA))}, "zz: found no file; expected 'zz', 'id-zz'"),
    "no label": ({"a": row("a")}, "export.ndjson, line 1: found no label for a"),
    "no name": (
        {"a": row("a", {"annotations": {"objects": []}})},
        "line 1: found a label without label_details.created_by; .* Remedy: export with label_details",
    ),
    "other size": (
        {"a": row("a", label(ANNA), size=(5, 6))},
        "a: found size 12 x 20; expected size 5 x 6, as declared",
    ),
    "two points": (
        {"a": row("a", label(ANNA, polygon(TRIANGLE[:2])))},
        "a: found object f0: no outline; expected three or more",
    ),
    "no coordinate": (
        {"a": row("a", label(ANNA, polygon() | {"polygon": [{"x": 1}]}))},
        r"a: found object f0: a damaged shape \(KeyError\('y'\)\)",
    ),
    "no folder of masks": (
        {"a": row("a", label(ANNA, {"feature_id": "f", "mask": {"url": "https://x.test/f"}}))},
        "a: found object f: drawn as a mask, and no folder of masks; .* Remedy: give --masks DIR",
    ),
    "video": (
        {"a": row("a", {**label(ANNA), "annotations": {"frames": {"1": {}}}})},
        "line 1: found a label of a video",
    ),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_cannot_be_converted_is_listed_and_the_rest_goes_on(convert, name):
    rows, message = LEFT_OUT[name]
    with pytest.raises(DataError, match=message):
        convert(*rows.values())
    done = convert(*rows.values(), row("b", label(ANNA), label(BEN)))
    assert done.images == 1
    with pytest.raises(DataError, match=message):
        raise DataError(done.left_out)


def test_a_mask_file_of_another_size_is_named(convert, tmp_path):
    save(tmp_path / "masks" / "f.png", np.zeros((3, 4), np.uint8))
    item = {"feature_id": "f", "mask": {"url": "https://x.test/f"}}
    with pytest.raises(
        DataError, match=r"a: found object f: f\.png of size 3 x 4; expected 12 x 20, the size of its image"
    ):
        convert(row("a", label(ANNA, item)), masks=tmp_path / "masks")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found an empty file"),
        ('{"data_row": {}}\n', "line 1: found no data_row with projects"),
        ('\n{"data_row": ', "line 2: found no JSON"),
        ("[" * 100000, "line 1: found (JSON nested too deep|no JSON)"),
        ("[]", "line 1: found no data_row with projects"),
    ],
)
def test_unusable_exports_are_named_by_line(tmp_path, text, message):
    (tmp_path / "photos").mkdir()
    (tmp_path / "e.ndjson").write_text(text)
    with pytest.raises(DataError, match=message):
        convert_labelbox(tmp_path / "e.ndjson", tmp_path / "data", images=tmp_path / "photos")
    assert not (tmp_path / "data").exists()


def test_one_project_must_be_chosen(convert, tmp_path):
    projects = {"p0": {"name": "one", "labels": [label(ANNA), label(BEN)]}, "p1": {"name": "two", "labels": []}}
    rows = [row("a", projects=projects)]
    with pytest.raises(DataError, match=r"found an export of 2 projects \(one, two\); .* choose with --project"):
        convert(*rows)
    with pytest.raises(DataError, match="project: found 'three'; expected one of one, two"):
        convert(*rows, project="three")
    assert convert(*rows, project="one").images == 1


def test_an_output_in_use_is_left_alone(convert, tmp_path):
    rows = [row("a", label(ANNA), label(BEN))]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.docx").write_text("precious")
    with pytest.raises(DataError, match=r"data: found a folder in use; .* say --overwrite"):
        convert(*rows)
    with pytest.raises(DataError, match=r"found 'thesis\.docx', which no data folder holds"):
        convert(*rows, overwrite=True)
    assert (tmp_path / "data" / "thesis.docx").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_earlier_folder_stays_whole_when_a_conversion_fails(convert, tmp_path, monkeypatch):
    convert(row("a", label(ANNA), label(BEN)))
    monkeypatch.setattr("irrbench.convert.writing.save", partial(_full_disk))
    with pytest.raises(OSError, match="No space left"):
        convert(row("b", label(ANNA), label(BEN)), overwrite=True)
    assert load_folder(tmp_path / "data").image_ids == ("a",)
    assert not list(tmp_path.glob(".*"))


def test_what_killed_conversions_left_is_removed_and_what_others_write_is_not(convert, tmp_path):
    killed, living = tmp_path / ".data.partial-1", tmp_path / ".data.partial-2"
    for place in (killed, living):
        place.mkdir()
        (place / ".lock").touch()
    with try_lock(living / ".lock"):
        convert(row("a", label(ANNA), label(BEN)))
    assert not killed.exists()
    assert living.exists()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "conversion.json",
        "images",
        "manifest.csv",
        "masks",
    ]


def _full_disk(*_):
    raise OSError(28, "No space left on device")


class _Shop(BaseHTTPRequestHandler):
    pages: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Authorization")))
        content = self.pages.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def shop(tmp_path):
    server = HTTPServer(("127.0.0.1", 0), _Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Shop.asked.clear()
    save(tmp_path / "served.png", fill_polygon(TRIANGLE, SIZE).astype(np.uint8) * 255)
    _Shop.pages = {"/mask": (tmp_path / "served.png").read_bytes()}
    (tmp_path / "served.png").unlink()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_files_are_fetched_once_and_only_when_asked_for(convert, tmp_path, shop, monkeypatch):
    monkeypatch.setenv("LABELBOX_API_KEY", "secret")
    item = {"feature_id": "f7", "name": "m", "mask": {"url": f"{shop}/mask"}}
    rows = [row("a", label(ANNA, item), label(BEN, item))]
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="a: found object f7: no file; expected 'f7'"):
        convert(*rows, masks=tmp_path / "masks")
    assert _Shop.asked == []
    fetching = {"masks": tmp_path / "masks", "download": True, "internal_hosts": ["127.0.0.1"]}
    convert(*rows, **fetching)
    assert _Shop.asked == [("/mask", None)]  # the key goes to Labelbox alone
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["f7-9327ca99aaea.png"]
    np.testing.assert_array_equal(load_folder(tmp_path / "data").masks(0)[0], fill_polygon(TRIANGLE, SIZE))
    convert(*rows, **fetching, overwrite=True)
    assert len(_Shop.asked) == 1


def test_what_cannot_be_fetched_is_named(convert, tmp_path, shop):
    item = {"feature_id": "f8", "name": "m", "mask": {"url": f"{shop}/gone"}}
    with pytest.raises(
        DataError, match=r"a: found object f8: f8: a file that cannot be fetched \(HTTP status 404\).*LABELBOX_API_KEY"
    ):
        convert(row("a", label(ANNA, item)), masks=tmp_path / "masks", download=True, internal_hosts=["127.0.0.1"])
    assert list((tmp_path / "masks").iterdir()) == []


def test_the_key_goes_to_labelbox_alone(monkeypatch):
    monkeypatch.setenv("LABELBOX_API_KEY", "secret")
    for url in ("https://api.labelbox.com/api/v1/x", "https://labelbox.com/x"):
        assert _key(url) == {"Authorization": "Bearer secret"}
    for url in ("http://api.labelbox.com/x", "https://labelbox.com.evil.test/x", "https://evillabelbox.com/x"):
        assert _key(url) == {}
