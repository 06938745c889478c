"""Colours in pictures are apart, for eyes that lack a kind of cone, too, and so are lines without any colour."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from irrbench.plots import MODEL_CONTOUR, RATER_COLOURS
from irrbench.plots.strips import AREA_COLOURS, DASHES, dashes_along, rater_look

# Machado, Oliveira and Fernandes 2009, doi 10.1109/TVCG.2009.113, severity 1, on linear RGB.
VIEWS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
# Ten tones of skin from light to dark (Monk), and haematoxylin and eosin.
SKIN = ["#F6EDE4", "#F3E7DB", "#F7EAD0", "#EADABA", "#D7BD96", "#A07E56", "#825C43", "#604134", "#3A312A", "#292420"]
TISSUE = ["#5B3A8C", "#6E4FA0", "#8A6FB5", "#E8A9C9", "#D987B5", "#F2C9DE"]
GREYS = [f"#{level:02x}{level:02x}{level:02x}" for level in range(256)]


def lab(colours, view):
    linear = np.array([list(bytes.fromhex(colour[1:])) for colour in colours]) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.array(VIEWS[view]).T, 0, 1) @ TO_XYZ.T / TO_XYZ.sum(1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def least(ones, others, view):
    distances = np.linalg.norm(lab(ones, view)[:, None] - lab(others, view), axis=-1)
    return distances[~np.equal.outer(ones, others)].min()


def test_the_measure_on_known_colours():
    np.testing.assert_allclose(lab(["#ff0000", "#ffffff"], "normal"), [[53.24, 80.09, 67.2], [100, 0, 0]], atol=0.02)
    # Red and a dark yellowish green are alike without cones for middle wavelengths; the former magenta is grey.
    assert least(["#FF1F8F"], GREYS, "deuteranopia") < 7
    assert least(["#FF1F8F"], GREYS, "normal") > 80


@pytest.mark.parametrize("view", VIEWS)
def test_model_and_raters_are_apart_and_off_what_they_are_drawn_on(view):
    raters = list(RATER_COLOURS)
    assert least([MODEL_CONTOUR], raters, view) > 39
    assert least(raters[:4], raters[:4], view) > 42
    assert least(raters, raters, view) > 20
    assert least([MODEL_CONTOUR], GREYS, view) > 80
    assert least(raters, GREYS, view) > 13
    assert least([MODEL_CONTOUR], SKIN, view) > 59
    assert least(raters, SKIN, view) > 8.5
    assert least([MODEL_CONTOUR], TISSUE, view) > 38


@pytest.mark.parametrize("view", VIEWS)
def test_areas_are_apart(view):
    areas = list(AREA_COLOURS.values())
    assert least(areas, areas, view) > 33
    assert least(areas, GREYS, view) > 30


def test_every_line_is_light_beside_its_dark_edge():
    assert lab([MODEL_CONTOUR, *RATER_COLOURS], "normal")[:, 0].min() > 62


def test_dashes_tell_lines_apart_without_colour():
    drawn = [dashes_along(np.arange(52.0), dash, 2) for dash in DASHES]
    for one, other in itertools.combinations(drawn, 2):
        assert (one != other).mean() > 0.2
    assert drawn[0].all()
    assert len({rater_look(rater) for rater in range(8)}) == 8
    assert rater_look(8) == rater_look(0)
