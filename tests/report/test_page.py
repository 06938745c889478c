"""The page holds everything it shows, says it in words, and lets nothing of the labels through as markup."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from irrbench.plots.text import DASH
from irrbench.report import page, write_report
from tests.report.frames import comparisons, curves, leaderboard, per_image

MODELS = {"unet": 0.6, "fpn": 0.5}
EVIL = "<script>alert('&')</script>"


LIGHT = {"curves": None, "agreement": None, "panels": None}


class Page(HTMLParser):
    """Tags with attributes, and the text of each table cell."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.text = [], [], ""
        self.open = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
            self.open = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.open = False

    def handle_data(self, data):
        self.text += data
        if self.open:
            self.cells[-1] += data


def write(tmp_path, models=MODELS, **changes):
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    content = {
        "title": "Nodules",
        "note": "rendered images",
        "leaderboard": leaderboard(models),
        "per_image": per_image(models),
        "comparisons": comparisons(models),
        "curves": curves(models),
        "panels": [("worst image", picture)],
        "agreement": pd.Series({f"i{image}": image / 7 for image in range(7)}, name="alpha"),
        "rules": {"Ties": "background"},
        "versions": {"torch": "2.4"},
        "config_yaml": "seed: 3\n",
        "command": "python scripts/benchmark.py",
    } | changes
    path = write_report(tmp_path / "deep" / "report.html", **content)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The page of the plain results, and its parts."""
    return write(tmp_path_factory.mktemp("report"))


def test_everything_is_there(whole):
    text, parsed = whole
    for part in ("Nodules", "rendered images", "worst image", "Ties", "2.4", "seed: 3", "scripts/benchmark.py"):
        assert part in parsed.text + text
    assert text.count("<svg") == 3
    assert {"band", "leaderboard", "curves", "comparisons", "agreement", "images", "rules", "reproduce"} <= {
        attributes.get("id") for _, attributes in parsed.tags
    }


def test_curves_are_of_the_validation_images_and_drawn_on_their_own_bounds(whole):
    text, _ = whole
    section = text[text.index('id="curves"') :]
    section = section[: section.index("</section>")] if "</section>" in section else section
    assert "Validation images, with their own bounds." in section
    assert "0.77" in section  # the validation ceiling; the test images' is another


def test_nothing_is_loaded_and_nothing_runs(whole):
    text, parsed = whole
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in parsed.tags}
    for _, attributes in parsed.tags:
        for key in ("src", "href", "xlink:href", "action", "data"):
            assert (attributes.get(key) or "#").startswith(("#", "data:"))
        assert not any(key.startswith("on") for key in attributes)
    assert "@import" not in text
    assert "url(http" not in text
    assert "default-src 'none'" in text


def test_texts_are_escaped(tmp_path):
    fields = ("title", "note", "config_yaml", "command")
    text, parsed = write(tmp_path, **LIGHT, **{field: f"{field} {EVIL}" for field in fields})
    assert "<script" not in text
    for field in fields:
        assert f"{field} {EVIL}" in parsed.text


def test_labels_are_escaped(tmp_path):
    text, parsed = write(
        tmp_path,
        models={EVIL: 0.5, '"><img src=x>': 0.4},
        panels=[(EVIL, np.zeros((3, 3, 3), np.uint8))],
        rules={EVIL: EVIL},
        versions={EVIL: EVIL},
        agreement=pd.Series({"i0": 0.5}, name=EVIL),
    )
    assert "<script" not in text
    assert {attributes["src"][:10] for tag, attributes in parsed.tags if tag == "img"} == {"data:image"}
    assert EVIL in parsed.cells
    assert EVIL in parsed.text


def test_table_prints_mean_interval_and_normalized(whole):
    _, parsed = whole
    place = parsed.cells.index("unet")
    assert parsed.cells[place + 1] == "0.600 84 %0.580 to 0.630"
    assert parsed.cells[place + 2] == f"0.700 {DASH}0.680 to 0.730"
    assert parsed.cells[place + 3] == "120"
    assert parsed.cells[parsed.cells.index("naive rater (floor)") + 1] == "0.040 0.020 to 0.070"
    assert "No normalized score for TPR (sensitivity): the naive rater is not below the average rater." in parsed.text


def test_formula_stands_once(whole):
    text, _ = whole
    assert text.count("(mean model \N{MINUS SIGN} mean floor)") == 1


def test_parts_without_data_are_left_out(tmp_path):
    frame = leaderboard({})
    text, parsed = write(
        tmp_path, models={}, leaderboard=frame, comparisons=None, curves=None, panels=[], agreement=None, note=""
    )
    assert not {"curves", "comparisons", "agreement", "images"} & {
        attributes.get("id") for _, attributes in parsed.tags
    }
    assert '<p class="note"' not in text
    assert "No model has a defined IoU" in parsed.text


def test_panels_are_png_inside_the_page(whole):
    _, parsed = whole
    (source,) = [attributes["src"] for tag, attributes in parsed.tags if tag == "img"]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    np.testing.assert_array_equal(picture, np.arange(60, dtype=np.uint8).reshape(4, 5, 3))


def test_same_input_same_bytes(whole, tmp_path):
    assert write(tmp_path)[0] == whole[0]


def test_scores_decide_which_one_counts(tmp_path):
    _, parsed = write(tmp_path, scores=["tpr"], **LIGHT)
    assert "reaches TPR (sensitivity) 0.70" in parsed.text
    assert "IoU" not in parsed.cells


def test_a_failed_write_leaves_the_old_report_and_no_rest(tmp_path, monkeypatch):
    write(tmp_path, **LIGHT)
    path = tmp_path / "deep" / "report.html"
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page.Path, "chmod", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, title="new", **LIGHT)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_refuses_a_frame_without_scores(tmp_path):
    with pytest.raises(ValueError, match="must have a score column; found name, role"):
        write(tmp_path, leaderboard=leaderboard(MODELS)[["name", "role"]])
