"""What the page's own script does, in a real browser: sorting, filtering, columns, dots, the viewer, switches."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from irrbench.report import Gallery, Picture, benchmark_page
from irrbench.report.galleries import OTHERS
from irrbench.report.page import render
from irrbench.report.views import Layer, View, picture_uri
from tests.report.frames import leaderboard, per_image, results, row

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run --window-size=390,900"
NAME = "<img src=x onerror=alert(1)> \"a' مرحبا " + "x" * 80
MODELS = {"unet": 0.6, NAME: 0.5, "fpn": 0.4}
CLICKS = """
const found = {}, note = (name, value) => { found[name] = value; };
const names = (root) => [...root.querySelectorAll("tbody tr")].filter((row) => !row.hidden)
  .map((row) => row.querySelector("th").textContent);
const board = document.querySelector("#leaderboard table");
const title = (text, root = board) =>
  [...root.querySelectorAll("thead th")].find((th) => th.textContent.includes(text));
const shown = () => document.querySelector("dialog strong bdi").textContent;
const dialog = document.querySelector("dialog");
const press = (key) => dialog.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const type = (field, text) => { field.value = text; field.dispatchEvent(new Event("input", { bubbles: true })); };

note("overflow", document.documentElement.scrollWidth - document.documentElement.clientWidth);
note("before", names(board));
title("IoU").querySelector("button").click();
title("IoU").querySelector("button").click();
note("ascending", [names(board), title("IoU").getAttribute("aria-sort")]);
title("name").querySelector("button").click();
note("by name", [names(board), title("name").getAttribute("aria-sort"), title("IoU").getAttribute("aria-sort")]);
const tools = board.closest(".box").previousElementSibling;
type(tools.querySelector("input[type=search]"), "UNET");
note("filtered", [names(board), tools.querySelector("output").textContent]);
note("narrow", title("TPR").hidden);
tools.querySelector("input[type=checkbox]").click();
note("column", title("TPR").hidden);

const table = document.querySelector("#all-images .screen table");
note("rows", names(table));
title("average rater", table).querySelector("button").click();
title("naive", table).querySelector("button").click();
note("dots", document.querySelectorAll("#all-images circle").length);
type(document.querySelector("#all-images .screen input[type=search]"), "i4");
note("one row", names(table));
type(document.querySelector("#all-images .screen input[type=search]"), "");

const dot = [...document.querySelectorAll("#all-images svg a")].find((a) => a.textContent.startsWith("i2:"));
dot.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
note("opened", [document.querySelector("dialog").open, shown(), location.hash]);
const frame = document.querySelector("dialog .frame");
const visible = () => [...frame.querySelectorAll("path")].filter((path) => getComputedStyle(path).display !== "none")
  .map((path) => path.getAttribute("class").split(" ")[1]);
note("lines", visible());
const ticks = [...dialog.querySelectorAll(".tick")];
ticks.find((label) => label.textContent.includes("anna")).querySelector("input").click();
note("without anna", visible());
press("1");
note("without model", visible());
press("1");
const chooser = document.querySelector("dialog select");
chooser.value = "1";
chooser.dispatchEvent(new Event("change"));
const other = document.querySelector("#images .key select").value;
note("other model", [visible(), other, table.querySelectorAll("thead th")[2].textContent]);
press("ArrowRight");
note("next", shown());
press("ArrowLeft"); press("ArrowLeft");
note("previous", shown());
note("gallery", getComputedStyle(document.querySelector("figure .rater0")).display);
document.querySelector("dialog .close").click();
note("closed", document.querySelector("dialog").open);
document.querySelector("figure#image-i1 a").click();
note("from picture", [document.querySelector("dialog").open, shown()]);
note("markup", document.querySelectorAll("img[src=x]").length);
document.body.append(Object.assign(document.createElement("pre"), { id: "found", textContent: JSON.stringify(found) }));
"""


def view(image_id):
    layers = [Layer("model", number, "#F0F", "M1 1h4v4h-4z") for number in (0, 1)]
    layers += [Layer("rater", number, "#0FF", "M2 2h4v4h-4z") for number in (0, 1)]
    return View(image_id, 30, 20, picture_uri(np.zeros((20, 30), np.uint8)), layers)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the clicks found."""
    pictures = [Picture(f"Worst: {name}. {NAME}", np.zeros((2, 2, 3), np.uint8), view(name)) for name in ("i1", "i3")]
    galleries = [
        Gallery("ranked", "Worst, median, best", NAME, {}, pictures),
        Gallery(OTHERS, "", "", {}, views=[view("i2"), view("i4")]),
    ]
    board = pd.concat([leaderboard(MODELS), pd.DataFrame([row("blind", "blind", {"iou": 0.2, "tpr": 0.5})])])
    agreement = pd.Series({f"i{image}": 1 - image / 7 for image in range(7)}, name="alpha")
    content = results(board, per_image=per_image(MODELS), agreement=agreement, raters=("anna", NAME), name=NAME)
    text = render(benchmark_page(content, galleries=galleries))
    nonce = re.search(r'<script nonce="(\w+)"', text).group(1)
    foreign = '<script>document.body.dataset.foreign = "ran"</script><p onclick="1"></p>'
    folder = tmp_path_factory.mktemp("page")
    page = folder / "report.html"
    page.write_text(text.replace("</body>", f'{foreign}<script nonce="{nonce}">{CLICKS}</script></body>'))
    command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "data-foreign" not in done.stdout  # the policy stops it
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL).group(1)))


def test_rows_of_models_change_places_and_references_stay(found):
    above = ["best possible (upper)", "majority of raters", "average rater (ceiling)", "one rater on one other"]
    below = ["blank mask", "naive rater (floor)", "blind"]
    assert found["before"] == [*above, *MODELS, *below]
    assert found["ascending"] == [[*above, "fpn", NAME, "unet", *below], "ascending"]
    assert found["by name"] == [[*above, NAME, "fpn", "unet", *below], "ascending", None]


def test_rows_are_filtered_and_columns_hidden(found):
    names, count = found["filtered"]
    assert "unet" in names
    assert "fpn" not in names
    assert "naive rater (floor)" in names
    assert count == "1 of 3 rows"
    assert (found["narrow"], found["column"]) == (True, False)  # on a phone other scores are hidden until asked for


def test_the_table_of_images_is_sorted_and_filtered(found):
    assert found["rows"] == [f"i{image}" for image in range(7)]  # the worst first
    assert found["one row"] == ["i4"]
    assert found["dots"] == 14  # of the model and of the average rater


def test_a_dot_opens_its_image_and_keys_move_on(found):
    assert found["opened"] == [True, "i2", ""]
    assert (found["next"], found["previous"]) == ("i3", "i1")
    assert found["from picture"] == [True, "i1"]
    assert not found["closed"]


def test_lines_are_switched_on_and_off_everywhere(found):
    assert found["lines"] == ["model0", "rater0", "rater1"]
    assert found["without anna"] == ["model0", "rater1"]
    assert found["without model"] == ["rater1"]
    assert found["other model"] == [["model1", "rater1"], "1", NAME]
    assert found["gallery"] == "none"


def test_nothing_is_wider_than_a_phone_and_no_name_is_markup(found):
    assert found["overflow"] <= 0
    assert found["markup"] == 0
