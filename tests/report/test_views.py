"""Contours are the borders of marked pixels, and each image is on the page once."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from irrbench.report.views import View, make_view, outline, switches


def filled(path, shape):
    """A mask from its contour: a pixel is inside where an odd number of vertical steps lies left of it."""
    flips = np.zeros((shape[0], shape[1] + 1), int)
    for x, y, steps in re.findall(r"M(\d+) (\d+)([^M]*)", path):
        at_x, at_y = int(x), int(y)
        for letter, length in [*re.findall(r"([hv])(-?\d+)", steps)] + ([("z", "0")] if "z" in steps else []):
            if letter == "h":
                at_x += int(length)
            else:
                end = int(y) if letter == "z" else at_y + int(length)
                flips[min(at_y, end) : max(at_y, end), at_x] += 1
                at_y = end
    return flips[:, :-1].cumsum(axis=1) % 2 == 1


@pytest.mark.parametrize(
    ("rows", "path"),
    [
        (["000", "010", "000"], "M1 1h1v1h-1z"),
        (["0000", "0110", "0000"], "M1 1h2v1h-2z"),
        (["110", "110", "000"], "M2 0v2h-2"),  # no border along the frame
        (["000", "000"], ""),
        (["111", "111"], ""),
    ],
)
def test_outline_by_hand(rows, path):
    assert outline(np.array([[letter == "1" for letter in row] for row in rows])) == path


@pytest.mark.parametrize("seed", range(5))
def test_what_lies_within_the_outline_is_the_mask(seed):
    inner = np.random.default_rng(seed).random((9, 12)) < 0.5
    mask = np.pad(inner, 1)
    np.testing.assert_array_equal(filled(outline(mask), mask.shape), mask)


class Data:
    """As much of a data set as a view needs."""

    raters = ("anna", "ben", "eve")

    def __init__(self, image, masks, present=(True, True, True), roi=None):
        self._parts = image, masks, np.array(present), roi
        self.image_ids = ["i0"]

    def image(self, _):
        return self._parts[0]

    def masks(self, _):
        return self._parts[1]

    def present(self, _):
        return self._parts[2]

    def roi(self, _):
        return self._parts[3]


def blob(shape, top, left, size):
    mask = np.zeros(shape, bool)
    mask[top : top + size, left : left + size] = True
    return mask


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_a_view_has_the_image_in_its_own_size_and_a_path_for_each_rater_who_drew_and_each_model():
    masks = np.stack([blob((20, 30), 5, place, 6) for place in (4, 5, 6)])
    data = Data(np.full((1, 20, 30), 0.5), masks, present=(True, False, True))
    view = make_view(data, 0, [masks[0], masks[1]], margin=100)
    assert (view.width, view.height) == decoded(view.src).size == (30, 20)
    assert decoded(view.src).mode == "L"
    assert [(layer.kind, layer.number) for layer in view.layers] == [
        *(("model", 0), ("model", 1)),
        *(("rater", 0), ("rater", 2)),
    ]
    np.testing.assert_array_equal(filled(view.layers[0].d, (20, 30)), masks[0])
    assert not view.has_areas


def test_where_contours_would_hide_everything_areas_of_agreement_are_coloured():
    lines = np.zeros((200, 240), bool)
    lines[::8] = lines[1::8] = True
    moved = np.roll(lines, 1, axis=0)
    view = make_view(Data(np.zeros((3, 200, 240)), np.stack([lines] * 3)), 0, [moved], margin=300)
    assert view.has_areas
    areas = np.asarray(decoded(view.layers[0].src).convert("RGBA"))
    assert [*map(tuple, areas[:4, 0])] == [
        (58, 143, 217, 255),  # only the majority
        (240, 228, 66, 255),  # both
        (213, 94, 0, 255),  # only the model
        (0, 0, 0, 0),
    ]


def test_outside_of_the_region_of_interest_it_is_dark():
    roi = blob((20, 30), 0, 0, 10)
    data = Data(np.ones((3, 20, 30)), np.zeros((3, 20, 30), bool), roi=roi)
    pixels = np.asarray(decoded(make_view(data, 0, [roi], margin=100).src))
    assert pixels.shape == (20, 30, 3)
    assert (pixels[0, 0].tolist(), pixels[19, 29].tolist()) == ([255] * 3, [115] * 3)


def test_of_a_volume_the_slice_with_the_most_marks_is_shown():
    masks = np.zeros((3, 4, 20, 30), bool)
    masks[:, 2] = blob((20, 30), 3, 3, 5)
    image = np.zeros((1, 4, 20, 30))
    image[:, 2] = 1
    view = make_view(Data(image, masks), 0, [masks[0]], margin=100)
    assert np.asarray(decoded(view.src)).min() == 255


def test_switches_are_of_what_there_is():
    masks = np.stack([blob((20, 30), 5, 4, 6)] * 3)
    view = make_view(Data(np.zeros((1, 20, 30)), masks), 0, [masks[0]], margin=100)
    found = switches([view, View("none", 1, 1, "")], ["anna", "ben"])
    assert [(entry["key"], entry["label"]) for entry in found] == [
        *(("model", "the model"), ("rater0", "anna")),
        *(("rater1", "ben"), ("rater2", "rater 3")),
    ]
