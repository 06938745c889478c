"""The page holds everything it shows, says it in words, and lets nothing of the labels through as markup."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from PIL import Image

from irrbench.config import ConfigError
from irrbench.plots.words import DASH, MINUS
from irrbench.report import Gallery, Picture, benchmark_page, write_page
from irrbench.report.page import Column, Section, Stroke, picture_uri, render
from irrbench.report.page import Page as PageContent
from tests.report.frames import comparisons, curves, leaderboard, per_image, results, subgroups, verdicts

MODELS = {"unet": 0.6, "fpn": 0.5}
EVIL = "<script>alert('&')</script>"


LIGHT = {"curves": None, "agreement": None, "galleries": [], "subgroups": pd.DataFrame()}


def own_scripts(parsed):
    """Attributes of all scripts, of which the last one may run."""
    scripts = [attributes for tag, attributes in parsed.tags if tag == "script"]
    assert set(scripts[-1]) == {"nonce"}
    assert all(attributes.get("type") == "application/json" for attributes in scripts[:-1])
    return scripts


def assert_no_markup_of_texts(text, parsed):
    """Whatever texts say, there is no tag but the page's own: neither in the page nor within its data."""
    own_scripts(parsed)
    assert text.count("<script") == text.count("</script>") == len(own_scripts(parsed))
    assert "<img src=x" not in text


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


def content(models=MODELS, **changes):
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    return {
        "name": "Nodules",
        "note": "rendered images",
        "frame": leaderboard(models),
        "per_image": per_image(models),
        "comparisons": comparisons(models),
        "verdicts": verdicts(models, margin=0.02),
        "subgroups": subgroups(models, {"A": 100, "B": 20}),
        "curves": curves(models),
        "galleries": [Gallery("ranked", "Worst", "by rank", {}, [Picture("worst image", picture)])],
        "raters": ["anna", "ben"],
        "agreement": pd.Series({f"i{image}": image / 7 for image in range(7)}, name="alpha"),
        "rules": {"Ties": "background"},
        "digests": {"data": "0123abcd"},
        "config": {"seed": 3},
        "command": "python scripts/benchmark.py",
        "unit": "patient",
    } | changes


def write(tmp_path, models=MODELS, **changes):
    parts = content(models, **changes)
    galleries = parts.pop("galleries")
    page = benchmark_page(results(**parts), galleries=galleries)
    path = write_page(tmp_path / "deep" / "report.html", page)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The page of the plain results, and its parts."""
    return write(tmp_path_factory.mktemp("report"))


def test_everything_is_there(whole):
    text, parsed = whole
    for part in (
        "Nodules",
        "worst image",
        "anna",
        "Ties",
        pd.__version__,
        "0123abcd",
        "seed: 3",
        "scripts/benchmark.py",
    ):
        assert part in parsed.text + text
    assert text.count("<svg") == 5  # two models have no map of pairs
    assert {
        *("band", "leaderboard", "verdicts", "comparisons", "subgroups", "curves", "agreement"),
        *("images", "rules", "reproduce"),
    } <= {attributes.get("id") for _, attributes in parsed.tags}


def test_the_result_with_its_uncertainty_comes_first(whole):
    _, parsed = whole
    start = (
        "The best of 2 models, unet, reaches IoU 0.60 (95 % interval 0.58 to 0.63) on 120 images of 60 groups (patient)"
    )
    assert start in parsed.text
    assert parsed.text.index(start) < parsed.text.index("Between the naive and the average rater")


def test_every_table_and_figure_says_the_note(whole):
    text, parsed = whole
    tables = [tag for tag, _ in parsed.tags if tag == "table"]
    plain = 2  # versions and digests have no results
    assert text.count("<caption>rendered images</caption>") == len(tables) - plain
    assert text.count(">rendered images</text>") == text.count("<svg")
    assert '<p class="remark">rendered images</p>' in text


def test_curves_are_of_the_validation_images_and_drawn_on_their_own_bounds(whole):
    text, _ = whole
    section = text[text.index('id="curves"') :]
    section = section[: section.index("</section>")] if "</section>" in section else section
    assert "Validation images, with their own naive and average rater." in section
    assert "0.77" in section  # the validation ceiling; the test images' is another


def test_nothing_is_loaded_and_only_the_pages_own_script_runs(whole):
    text, parsed = whole
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in parsed.tags}
    data, script = own_scripts(parsed)
    assert data == {"type": "application/json", "id": "data-of-images"}
    assert f"script-src 'nonce-{script['nonce']}';" in text
    assert "unsafe-inline'; script" not in text
    assert "style-src 'unsafe-inline'; img-src data:; script-src" in text
    for tag, attributes in parsed.tags:
        for key in ("src", "href", "xlink:href", "action", "data"):
            # A link to the documentation loads nothing by itself.
            assert (attributes.get(key) or "#").startswith(
                ("#", "data:", "https://irrbench.github.io/irrbench/")[: 3 if tag == "a" else 2]
            )
        assert not any(key.startswith("on") for key in attributes)
    assert "@import" not in text
    assert "url(http" not in text
    assert "default-src 'none'" in text


def test_texts_are_escaped(tmp_path):
    fields = ("name", "note", "command")
    texts = {field: f"{field} {EVIL}" for field in fields}
    text, parsed = write(tmp_path, **LIGHT, **texts, config={"config": f"config {EVIL}"})
    assert_no_markup_of_texts(text, parsed)
    for field in (*fields, "config"):
        assert f"{field} {EVIL}" in parsed.text


def test_labels_are_escaped(tmp_path):
    text, parsed = write(
        tmp_path,
        models={EVIL: 0.5, '"><img src=x>': 0.4},
        galleries=[Gallery("g", EVIL, EVIL, {}, [Picture(EVIL, np.zeros((3, 3, 3), np.uint8))])],
        raters=[EVIL],
        notes=(EVIL,),
        digests={EVIL: EVIL},
        unit=EVIL,
        subgroups=subgroups({EVIL: 0.5}, {EVIL: 3}).assign(column=EVIL, cut=EVIL, warning=EVIL),
        rules={EVIL: EVIL},
        config={EVIL: EVIL},
        comparisons=comparisons({EVIL: 0.5}),
        verdicts=verdicts({EVIL: 0.5}).assign(floor_verdict=EVIL),
        agreement=pd.Series({"i0": 0.5}, name=EVIL),
        per_image=per_image({EVIL: 0.5, '"><img src=x>': 0.4}).replace({"image_id": {"i0": EVIL, "i1": "</script>"}}),
    )
    assert_no_markup_of_texts(text, parsed)
    assert {attributes["src"][:10] for tag, attributes in parsed.tags if tag == "img"} == {"data:image"}
    assert EVIL in parsed.cells
    assert EVIL in parsed.text
    assert f"<bdi>{escape(EVIL)}</bdi>" in text  # names keep their own direction


def test_every_text_of_a_section_is_escaped():
    table = pd.DataFrame({EVIL: [EVIL], "value": [1.0], "role": ["model"], "name": [EVIL]})
    section = Section(
        "evil",
        EVIL,
        note=EVIL,
        text=EVIL,
        style=f'"{EVIL}',
        key=[Stroke([f'"{EVIL}'], EVIL)],
        code=EVIL,
        pairs=[(EVIL, EVIL)],
        table=table,
        columns={"name": Column(EVIL, "text"), EVIL: Column(EVIL, "text"), "value": Column(EVIL)},
        label=f'"{EVIL}',
        colours={EVIL: f'"{EVIL}'},
        items=[EVIL],
        pictures=[Picture(f'"{EVIL}', np.zeros((3, 3, 3), np.uint8))],
        parts=[Section(title=EVIL, text=EVIL), Section(title=EVIL, text=EVIL, is_folded=True)],
    )
    page = PageContent(title=EVIL, note=EVIL, headline=EVIL, findings=EVIL, cautions=[EVIL], sections=[section])
    text = render(page)
    parsed = Page(text)
    assert_no_markup_of_texts(text, parsed)
    tags = [tag for tag, _ in parsed.tags]
    assert set(tags) <= {
        "script",
        *("html", "head", "meta", "title", "style", "body", "main", "h1", "p", "nav", "a", "section", "h2", "h3"),
        *("span", "bdi", "pre", "dl", "dt", "dd", "div", "table", "caption", "thead", "tbody", "tr", "th", "td"),
        *("ul", "li", "figure", "img", "figcaption", "details", "summary"),
    }
    assert parsed.text.count(EVIL) >= 20
    assert next(attributes for tag, attributes in parsed.tags if tag == "img")["alt"] == f'"{EVIL}'


def test_table_prints_mean_interval_and_normalized(whole):
    _, parsed = whole
    place = parsed.cells.index("unet")
    assert parsed.cells[place + 1] == "0.600 84 %0.580 to 0.63079 % to 88 %"
    assert parsed.cells[place + 2] == f"0.700 {DASH}0.680 to 0.730"
    assert parsed.cells[place + 3 : place + 5] == ["120", "60"]
    assert parsed.cells[parsed.cells.index("naive rater (floor)") + 1] == "0.040 0.020 to 0.070"


def test_reading_explains_every_row(whole):
    _, parsed = whole
    terms = "".join(
        dt for dt in parsed.text.split("How to read this")[-1].split("Better than the naive rater, as good")[:1]
    )
    for words in (
        *("Average rater (ceiling)", "Naive rater (floor), blank mask", "One rater on one other", "Majority of raters"),
        *("Best possible (upper)", "Detection and false alarms", "Best blind guess", "agreement of the pair"),
        *("level with", "What you may conclude", "luck", "a real result or a leak"),
        "no test mask was used in training",
        *("no caution is no proof", "another mask for each score and for each image"),
    ):
        assert words in terms
    for words in ("no longer", "honest", "can pass this line", "should not be used to choose", "can be a real result"):
        assert words not in parsed.text


def test_reading_names_the_scores_at_hand_and_what_a_distance_to_nothing_is(whole):
    _, parsed = whole
    assert "What leaves empty references out, unless the rules below say otherwise: IoU and TPR. That" in parsed.text
    assert (
        "where the candidate is empty, the diagonal of\nthe smallest box around the region of interest" in parsed.text
    )


def test_columns_of_a_score_of_small_values_have_its_digits():
    frame = pd.DataFrame({"score": ["iou", "brier"], "floor": [0.27, 0.02694]})
    section = Section(table=frame, columns={"score": Column("score", "score"), "floor": Column("naive rater")})
    assert [cells[1].text for _, _, cells in section.rows()] == ["0.270", "0.0269"]


def test_remarks_of_the_statistics_are_shown(tmp_path):
    _, parsed = write(tmp_path, **LIGHT, notes=("No normalized tpr: because.", "iou is defined on 3 of 4 test images."))
    assert "iou is defined on 3 of 4 test images." in parsed.text
    assert "No normalized score for" not in parsed.text  # said once


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    board = leaderboard(MODELS).assign(n_groups=9)
    alternative = pd.DataFrame(
        [
            {"name": name, "score": "iou", "rater": "anna", "value": 0.5, "rater_value": 0.6, "floor": 0.1}
            | {"n_images": 9, "n_groups": 9, "advantage": 0.4, "rater_advantage": 0.6, "p_corrected": 0.2}
            | {
                "wins": True,
                "winning_rate": 1.0,
                "average_advantage": 0.4,
                "epsilon": 0.2,
                "verdict": "may stand in",
            }
            for name in MODELS
        ]
    )
    return write(tmp_path_factory.mktemp("thin"), frame=board, alternative=alternative)


class TestFewGroups:
    def test_are_a_caution_before_everything_else(self, thin):
        text, parsed = thin
        assert "Only 9 independent groups of images (patient): with fewer than 10" in parsed.text
        assert text.index('class="caution"') < text.index('id="band"')

    def test_have_no_p_values_and_no_verdicts(self, thin):
        _, parsed = thin
        titles = set(parsed.cells)
        assert not {"p (Holm)", "p (corrected)", "verdict", "wins", "raters it wins against"} & titles
        words = (
            "better than the naive rater",
            "inconclusive",
            "not distinguishable",
            "may stand in",
            "0.012",
            "lead of",
        )
        assert [word for word in words if word in parsed.text.replace("It may stand in for a rater", "")] == []

    def test_keep_differences_with_their_intervals(self, thin):
        _, parsed = thin
        assert f"{MINUS}0.110{MINUS}0.130 to {MINUS}0.090" in parsed.cells

    def test_ten_groups_are_enough(self, tmp_path):
        text, parsed = write(tmp_path, **LIGHT, frame=leaderboard(MODELS).assign(n_groups=10))
        assert 'class="caution"' not in text
        assert {"p (Holm)", "verdict"} <= set(parsed.cells)


class TestSections:
    def test_verdicts_stand_in_the_leaderboards_order(self, whole):
        text, _ = whole
        section = Page(text[text.index('id="verdicts"') : text.index('id="comparisons"')])
        rows = section.cells[section.cells.index("unet") :]
        assert rows[: len(rows) // 2].index("unet") < rows[: len(rows) // 2].index("fpn")
        assert "inconclusive" in rows
        assert "< 0.001" in rows

    def test_without_a_margin_nothing_is_said_of_it(self, tmp_path):
        _, parsed = write(tmp_path, **LIGHT, verdicts=verdicts(MODELS))
        assert "margin" not in parsed.cells
        assert "no margin declared" not in parsed.cells

    def test_pairs_of_many_models_are_folded(self, tmp_path):
        models = {f"m{place}": 0.5 for place in range(7)}
        _, parsed = write(tmp_path, models, **LIGHT)
        assert "All 21 pairs of models" in parsed.text

    def test_small_subgroups_are_a_caution_and_have_one_in_their_rows(self, tmp_path):
        _, parsed = write(tmp_path, **LIGHT | {"subgroups": subgroups(MODELS, {"A": 100, "B": 9})})
        assert "Subgroups of fewer than 10 images are weak evidence: site B (9)." in parsed.text
        assert parsed.cells.count("only 9 images") == len(MODELS)

    def test_large_subgroups_are_none(self, whole):
        text, parsed = whole
        assert 'class="caution"' not in text
        assert "caution" not in parsed.cells

    def test_of_many_models_the_best_are_drawn_and_all_are_in_the_table(self, tmp_path):
        models = {f"m{place}": 0.6 - place / 100 for place in range(7)}
        text, parsed = write(tmp_path, models, **LIGHT | {"subgroups": subgroups(models, {"A": 100})})
        assert "The best 5 models are drawn; the table has all." in parsed.text
        section = text[text.index('id="subgroups"') :]
        assert {f"m{place}" for place in range(7)} <= set(Page(section).cells)

    def test_which_score_separates_and_how_much_seeds_matter(self, tmp_path):
        separation = pd.DataFrame(
            {"score": ["iou"], "separation": [8.4], "gap": [0.7], "gap_sd": [0.1], "remark": [""]}
        )
        spread = pd.DataFrame({"name": ["unet"], "score": ["iou"], "n_seeds": [3], "seed_sd": [0.0123], "mean": [0.6]})
        _, parsed = write(tmp_path, **LIGHT, separation=separation, seeds=spread)
        assert {"neighbours apart, in standard errors", "8.400", "SD of seeds", "0.0123"} <= set(parsed.cells)
        assert "remark" not in parsed.cells


def test_formula_stands_once(whole):
    text, _ = whole
    assert text.count("(mean model \N{MINUS SIGN} mean floor)") == 1


def test_parts_without_data_are_left_out(tmp_path):
    frame, nothing = leaderboard({}), pd.DataFrame()
    text, parsed = write(tmp_path, models={}, frame=frame, comparisons=nothing, verdicts=nothing, note="", **LIGHT)
    assert not {"curves", "comparisons", "verdicts", "subgroups", "agreement", "images"} & {
        attributes.get("id") for _, attributes in parsed.tags
    }
    assert '<p class="note"' not in text
    assert "No model has a defined IoU" in parsed.text


def test_pictures_are_png_inside_the_page(whole):
    _, parsed = whole
    (source,) = [attributes["src"] for tag, attributes in parsed.tags if tag == "img"]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    np.testing.assert_array_equal(picture, np.arange(60, dtype=np.uint8).reshape(4, 5, 3))


def test_large_photographs_are_jpeg_with_every_pixels_colour():
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    uri = picture_uri(noise)
    assert uri.startswith("data:image/jpeg")
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert picture.size == (400, 300)
    assert picture.layer[0][1:3] == picture.layer[1][1:3] == (1, 1)  # sampling of brightness and of colour


def test_same_input_same_bytes(whole, tmp_path):
    assert write(tmp_path)[0] == whole[0]


def test_scores_decide_which_one_counts(tmp_path):
    _, parsed = write(tmp_path, scores=("tpr",), **LIGHT)
    assert "reaches TPR (sensitivity) 0.70" in parsed.text
    assert "IoU" not in parsed.cells


def test_a_failed_write_leaves_the_old_report_and_no_rest(tmp_path, monkeypatch):
    write(tmp_path, **LIGHT)
    path = tmp_path / "deep" / "report.html"
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        write(tmp_path, name="new", **LIGHT)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_refuses_a_frame_without_scores():
    with pytest.raises(ValueError, match="must have a score column; found name, role"):
        results(leaderboard(MODELS)[["name", "role"]])


def test_names_neither_turn_a_line_nor_hide_on_the_page(tmp_path):
    name = "ab\u202egnp.exe\x1b[2J\x07"
    text, parsed = write(tmp_path, name=name, models={name: 0.6, "fpn": 0.5}, notes=(name,))
    assert not set(text) & {"\u202e", "\x1b", "\x07"}
    assert text.partition("<title>")[2].startswith("Benchmark: ab\\u202egnp.exe\\x1b[2J\\x07")
    assert "ab\\u202egnp.exe\\x1b[2J\\x07" in " ".join(parsed.cells)
