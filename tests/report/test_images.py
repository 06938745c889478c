"""Single images on the page: each once, all scores for the script, a table for paper."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from irrbench.report import Gallery, Picture, benchmark_page
from irrbench.report.galleries import OTHERS
from irrbench.report.page import Page, Section, render
from irrbench.report.text import report_date
from irrbench.report.views import Layer, View
from tests.other_scores import register
from tests.report.frames import leaderboard, per_image, results

EVIL = '</script><script>alert("&")</script>'
PIXELS = np.zeros((2, 2, 3), np.uint8)
AGREEMENT = pd.Series({f"i{image}": image / 7 for image in range(7)}, name="Krippendorff's alpha")


def view(image_id):
    layers = [Layer("model", 0, "#F0F", "M1 1h1v1h-1z"), Layer("rater", 0, "#0FF", "M2 1h1v1h-1z")]
    return View(image_id, 30, 20, "data:image/png;base64,AAAA", layers)


def picture(image_id, caption=""):
    return Picture(caption or f"{image_id}. IoU 0.5.", PIXELS, view(image_id))


def page_of(galleries=(), models=("unet", "fpn"), **changes):
    values = {name: 0.6 - place / 10 for place, name in enumerate(models)}
    found = {"per_image": per_image(values), "agreement": AGREEMENT, "raters": ("anna",)} | changes
    return benchmark_page(results(leaderboard(values), **found), galleries=galleries, drawings={})


def data_of(text):
    return json.loads(re.search(r'id="data-of-images">(.*?)</script>', text).group(1))


GALLERIES = [
    Gallery("ranked", "Worst, median, best", "by rank", {}, [picture("i1", "Worst: i1. IoU 0.1."), picture("i2")]),
    Gallery("disagreement", "Raters disagree", "hard", {}, [picture("i1"), picture("i3")]),
    Gallery(OTHERS, "", "", {}, views=[view("i4"), view("i5")]),
]


def test_an_image_in_two_galleries_is_on_the_page_once():
    text = render(page_of(GALLERIES))
    assert text.count('<img src="data:image/png;base64,AAAA"') == 3
    assert re.findall(r'<figure class="panel" id="([^"]*)"', text) == ["image-i1", "image-i2", "image-i3"]
    assert '<p class="quiet">Shown above: <a href="#image-i1">i1. IoU 0.5.</a></p>' in text


def test_other_images_are_for_the_script_alone():
    text = render(page_of(GALLERIES))
    data = data_of(text)
    assert [data["ids"][int(place)] for place in data["pictures"]] == ["i4", "i5"]
    found = data["pictures"]["4"]
    assert found["layers"][1] == {"kind": "rater", "number": 0, "colour": "#0FF", "d": "M2 1h1v1h-1z"}
    assert '<span id="image-i4"></span>' in text.partition("<noscript>")[2].partition("</noscript>")[0]


def test_data_have_each_models_score_and_the_bounds():
    data = data_of(render(page_of(GALLERIES)))
    assert data["models"] == ["unet", "fpn"]
    assert data["values"][1] == [0.5, 0.51, 0.52, 0.53, 0.54, 0.55, 0.56]
    assert data["ceiling"][:2] == [0.7, 0.71]
    assert data["floor"] == [None] * 7  # not in this frame
    assert data["agreement"][:3] == [0.0, 0.143, 0.286]
    assert [entry["key"] for entry in data["switches"]] == ["model", "rater0"]
    assert not data["lower"]


def test_undefined_and_endless_scores_are_nothing():
    frame = per_image({"unet": 0.6}).replace({"iou": {0.6: math.nan, 0.61: math.inf}})
    data = data_of(render(page_of(GALLERIES, ["unet"], per_image=frame)))
    assert data["values"][0][:3] == [None, None, 0.62]
    nothing = per_image({"unet": 0.6}).assign(iou=math.nan)
    assert data_of(render(page_of((), ["unet"], per_image=nothing)))["values"] == [[None] * 7]


def test_names_end_no_data_and_begin_no_script():
    frame = per_image({EVIL: 0.6}).replace({"image_id": {"i0": EVIL}})
    galleries = [Gallery("ranked", EVIL, EVIL, {}, [picture(EVIL)])]
    agreement = pd.Series({EVIL: 0.5}, name=EVIL)
    text = render(page_of(galleries, [EVIL], per_image=frame, agreement=agreement, raters=(EVIL,)))
    assert text.count("<script") == text.count("</script>") == 2
    data = data_of(text)
    assert EVIL in data["ids"]
    assert (data["models"], data["axis"], data["switches"][1]["label"]) == ([EVIL], EVIL, EVIL)


def test_a_name_that_hides_is_shown_as_it_is_written():
    frame = per_image({"unet": 0.6}).replace({"image_id": {"i0": "a\u202eb"}})
    data = data_of(render(page_of((), ["unet"], per_image=frame)))
    assert (data["ids"][0], data["anchors"][0]) == ("a\\u202eb", "image-a\u202eb")


def test_without_pictures_there_are_dots_and_a_table():
    text = render(page_of())
    assert data_of(text)["pictures"] == {}
    assert data_of(text)["switches"] == []
    assert "<figure class=" not in text


def test_where_lower_is_better_the_script_is_told(monkeypatch):
    register(monkeypatch)
    frame = leaderboard({"unet": 0.6}).assign(error=0.2)
    scores = per_image({"unet": 0.6}).assign(error=0.3)
    page = benchmark_page(results(frame, per_image=scores, scores=("error",)), drawings={})
    assert data_of(render(page))["lower"]


def test_with_very_many_images_only_the_best_models_are_on_the_page(monkeypatch):
    monkeypatch.setattr("irrbench.report.images.MOST_VALUES", 14)
    assert data_of(render(page_of((), ["a", "b", "c"])))["models"] == ["a", "b"]


def test_the_chosen_images_have_a_table_for_paper():
    text = render(page_of(GALLERIES))
    table = text.partition('<div id="all-images">')[2].partition("</table>")[0]
    assert '<a href="#image-i1"><bdi>i1</bdi></a></th><td class="text"><bdi>worst</bdi></td><td>0.610</td>' in table
    assert "<bdi>raters disagree</bdi>" in table
    assert "per_image.csv" in table


def test_a_study_has_sorting_and_no_images():
    text = render(Page(title="t", headline="h", sections=[Section("a", "A", text="only a text")]))
    assert "makeSortable" in text
    assert "data-of-images" not in text


def test_the_word_that_lets_the_script_run_depends_on_all_texts():
    pages = [Page(title="t", headline=text, sections=[]) for text in ("a", "b", "a")]
    words = [re.search(r'<script nonce="(\w+)"', render(page)).group(1) for page in pages]
    assert words[0] == words[2] != words[1]
    assert all(len(word) == 32 for word in words)


@pytest.mark.parametrize(("seconds", "day"), [("0", "1970-01-01"), ("1790000000", "2026-09-21")])
def test_the_date_may_be_given(monkeypatch, seconds, day):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", seconds)
    assert report_date() == day


def test_the_page_says_when_it_was_made_of_what_by_which_version():
    found = results(leaderboard({"unet": 0.6}), name="Nodules", raters=("a", "b"))
    facts = benchmark_page(found, drawings={}, made="2026-12-01").facts
    assert facts[:2] == ["data: Nodules (120 images, 2 raters)", "made on 2026-12-01"]
    assert facts[2].startswith("irrbench ")
    assert len(benchmark_page(found, drawings={}).facts) == 2
