"""The headline and the terminal table say what the numbers say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from irrbench.plots.text import DASH, MINUS
from irrbench.report import terminal_table
from irrbench.report.words import dashes, headline, share
from tests.report.frames import leaderboard


def changed(frame, role, **values):
    for column, value in values.items():
        frame.loc[frame["role"] == role, column] = value
    return frame


class TestHeadline:
    def test_between_the_bounds(self):
        text = headline(leaderboard({"fpn": 0.5, "unet": 0.62}), "iou")
        assert text == (
            "The best model, unet, reaches IoU 0.62; the average rater reaches 0.71, the naive rater 0.04: "
            "87 % of the way from the naive to the average rater."
        )

    def test_above_the_ceiling(self):
        assert "passes the average rater (103 % of the way" in headline(leaderboard({"unet": 0.73}), "iou")

    def test_below_the_floor(self):
        assert "the model is below the naive rater" in headline(leaderboard({"unet": 0.01}), "iou")

    def test_floor_above_the_ceiling(self):
        text = headline(leaderboard({"unet": 0.6}), "tpr")
        assert text.endswith("No normalized score is given: the naive rater is not below the average rater.")

    def test_bounds_too_close(self):
        frame = changed(leaderboard({"unet": 0.6}), "model", iou_normalized=np.nan)
        assert "cannot be told from zero" in headline(frame, "iou")

    def test_undefined_bounds(self):
        frame = changed(leaderboard({"unet": 0.6}), "model", iou_normalized=np.nan)
        frame = changed(frame, "ceiling", iou=np.nan)
        assert "floor or ceiling is undefined on all images" in headline(frame, "iou")

    def test_undefined_models_are_not_the_best(self):
        frame = leaderboard({"unet": 0.6, "fpn": 0.5})
        frame.loc[frame["name"] == "unet", "iou"] = np.nan
        assert headline(frame, "iou").startswith("The best model, fpn,")


def test_reasons_are_grouped():
    frame = changed(leaderboard({"unet": 0.6}), "model", iou_normalized=np.nan)
    assert [sentence.split(":")[0] for sentence in dashes(frame, ["iou", "tpr"])] == [
        "No normalized score for IoU",
        "No normalized score for TPR (sensitivity)",
    ]
    assert dashes(leaderboard({"unet": 0.6}), ["iou"]) == []


@pytest.mark.parametrize(
    ("value", "text"), [(0.874, "87 %"), (0.9999, ">99 %"), (1.0, "100 %"), (-0.2, f"{MINUS}20 %"), (np.nan, DASH)]
)
def test_share(value, text):
    assert share(value) == text


def rendered(table, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


class TestTerminal:
    def test_rows_in_order_with_dash_and_formula(self):
        text = rendered(terminal_table(leaderboard({"unet": 0.6, "fpn": 0.5}), note="rendered images"))
        places = [
            text.index(part) for part in ("rendered images", "average rater", "unet", "fpn", "naive rater", "mean")
        ]
        assert places == sorted(places)
        lines = text.splitlines()
        place = next(place for place, line in enumerate(lines) if "unet" in line)
        assert lines[place].split() == ["1", "unet", "120", "0.600", f"0.58{DASH}0.63", "0.700"]
        assert lines[place + 1].split() == ["84", "%", DASH]

    def test_names_are_no_markup(self):
        assert "[red]x[/red]" in rendered(terminal_table(leaderboard({"[red]x[/red]": 0.6})))

    def test_fits_eighty_columns_with_five_scores(self):
        frame = leaderboard({"unet-resnet18-majority": 0.6})
        for score in ("accuracy", "ppv", "f1"):
            frame[score] = 0.512
        text = rendered(terminal_table(frame, scores=["iou", "accuracy", "tpr", "ppv", "f1"]))
        assert "…" not in text
        assert text.count("0.512") == 12
