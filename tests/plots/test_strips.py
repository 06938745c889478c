"""Legends say whose line is which, whatever the names and the width; titles fit; dashes run along lines."""

from __future__ import annotations

import numpy as np
import pytest

from irrbench.plots import MODEL_CONTOUR, RATER_COLOURS, contour_panel, image_panel
from irrbench.plots.strips import (
    AREA_ENTRIES,
    contour_entries,
    dashes_along,
    drawable,
    rater_look,
    with_words,
)

WORDY = [
    "<b>bold</b>",
    'Ben O\'Neil "x"',
    "\N{ARABIC LETTER AIN}\N{ARABIC LETTER LAM}",
    "\N{GRINNING FACE}",
    "a\nb",
    "",
]


def painted(panel, colour):
    return (panel == list(bytes.fromhex(colour[1:]))).all(axis=-1)


def disc(size, radius, centre=None):
    y, x = np.indices((size, size))
    middle = (size // 2, size // 2) if centre is None else centre
    return (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2


def test_a_legend_names_everybody_and_who_is_absent_or_marks_nothing():
    entries = contour_entries(["anna", "ben", "cleo"], absent=[1], empty=[1, 2], is_model_empty=True)
    assert [entry.label for entry in entries] == ["model: marks nothing", "anna", "ben: absent", "cleo: marks nothing"]
    assert [entry.is_missing for entry in entries] == [True, False, True, True]
    assert [(entry.colour, entry.dash) for entry in entries[1:]] == [rater_look(place) for place in range(3)]
    assert [entry.label for entry in contour_entries(2, has_model=False)] == ["rater 1", "rater 2"]


def test_more_raters_than_colours_have_one_line_each_and_their_majority():
    labels = [entry.label for entry in contour_entries(10, absent=[9], empty=[0, 9])]
    assert labels == ["model", "9 of 10 raters (1 mark nothing), a line each", "their majority"]


def test_names_that_letters_lack_become_numbers_and_markup_is_text():
    names = drawable(WORDY)
    assert names[0] == "<b>bold</b>"
    assert names[1] == 'Ben O\'Neil "x"'
    assert names[2] in (WORDY[2], "rater 3")  # by what sets Arabic on this machine
    assert names[4:] == ["a b", "rater 6"]
    assert all(len(name) <= 24 for name in drawable(["long " * 40]))


@pytest.mark.parametrize("shape", [(384, 384), (384, 60), (60, 384), (1024, 700), (20, 9)])
def test_words_fit_at_any_size(shape):
    picture = np.full((*shape, 3), 7, np.uint8)
    entries = contour_entries(WORDY, absent=[3])
    made = with_words(picture, title=f"worst: IoU 0.31. {WORDY[2]} {WORDY[3]} " + "x" * 200, entries=entries)
    assert made.dtype == np.uint8
    assert made.shape[1] >= 0.6 * max(shape) - 1
    assert (made == 7).all(axis=-1).sum() == picture[..., 0].size  # the picture itself is whole
    for colour in (MODEL_CONTOUR, *RATER_COLOURS[:6]):
        assert painted(made, colour).any()


def test_without_words_a_picture_stays_as_it_is():
    picture = np.zeros((5, 400, 3), np.uint8)
    assert with_words(picture) is picture


def test_letters_grow_with_the_picture():
    small, large = (
        with_words(np.zeros((side, side, 3), np.uint8), title="x", entries=AREA_ENTRIES) for side in (384, 768)
    )
    added = [made.shape[0] - made.shape[1] for made in (small, large)]
    assert added[1] == pytest.approx(2 * added[0], rel=0.1)


@pytest.mark.parametrize("side", [48, 96, 192, 700, 1024, 2000])
def test_lines_are_as_thick_as_they_are_shown(side):
    mask = disc(side, side / 3)
    panel = contour_panel(np.zeros((1, side, side)), np.zeros((2, side, side), bool), mask)
    middle = painted(panel, MODEL_CONTOUR)[len(panel) // 2]
    shown = middle[: len(middle) // 2].sum() * 320 / max(panel.shape)
    assert 2.5 <= shown <= 4
    panel = contour_panel(np.zeros((1, side, side)), mask[None])
    middle = painted(panel, RATER_COLOURS[0])[len(panel) // 2]
    assert 1 <= middle[: len(middle) // 2].sum() * 320 / max(panel.shape) <= 2.2


def test_dashes_leave_even_gaps_along_a_straight_line_and_none_of_the_first_rater():
    mask = np.zeros((120, 200), bool)
    mask[30:90, 20:180] = True
    masks = np.stack([np.zeros_like(mask), mask])
    row = painted(contour_panel(np.zeros((1, 120, 200)), masks, scale=1), RATER_COLOURS[1])[30, 25:175]
    steps = np.flatnonzero(np.diff(row.astype(int)))
    lengths = np.diff(steps)
    dash = rater_look(1)[1]
    assert set(lengths.tolist()) <= {*dash, *(part + 1 for part in dash), *(part - 1 for part in dash)}
    assert row.mean() == pytest.approx(dash[0] / sum(dash), abs=0.05)
    solid = painted(contour_panel(np.zeros((1, 120, 200)), mask[None], scale=1), RATER_COLOURS[0])
    assert solid[30, 20:180].all()
    assert not dashes_along(np.array([6.5]), (6, 3), 1).any()


def test_a_line_has_a_dark_edge_on_a_white_image():
    mask = disc(96, 30)
    panel = contour_panel(np.ones((1, 96, 96)), np.zeros((2, 96, 96), bool), mask)
    row = panel[len(panel) // 2, : panel.shape[1] // 2].astype(int)
    line = np.flatnonzero((row == list(bytes.fromhex(MODEL_CONTOUR[1:]))).all(1))
    assert row[line[0] - 1].max() < 80
    assert row[line[-1] + 1].max() < 80


def test_more_than_eight_raters_are_all_drawn_with_their_majority():
    masks = np.stack([disc(192, 30 + 3 * place) for place in range(9)])
    panel = contour_panel(np.zeros((1, 192, 192)), masks, scale=2)
    row = painted(panel, rater_look(3)[0])[192, :192]
    assert (np.diff(row.astype(int)) == 1).sum() >= 8
    majority = painted(panel, rater_look(0)[0])[192, :192]
    assert majority.any()
    expected = 192 - 2 * (30 + 3 * 4)
    assert abs(int(np.flatnonzero(majority)[0]) - expected) <= 2


def test_a_volumes_picture_says_which_slice_it_is():
    masks = np.zeros((2, 40, 30, 30), bool)
    masks[:, 11, 10:20, 10:20] = True
    masks[1, 11] = False
    masks[1, 3, 5, 5] = True
    image = np.zeros((1, 40, 30, 30))
    titled = contour_panel(image, masks, title="a", raters=["anna", "ben"])
    flat = contour_panel(image[:, 11], masks[:, 11], title="a, slice 12 of 40")
    height = len(flat)
    np.testing.assert_array_equal(titled[:height], flat)
    assert len(titled) > height


def test_a_legend_is_refused_that_names_others():
    masks = np.zeros((2, 9, 9), bool)
    with pytest.raises(ValueError, match="`raters` must name all 2 raters, or none; found 3 names"):
        contour_panel(np.zeros((1, 9, 9)), masks, raters=["a", "b", "c"])


def test_a_rater_keeps_colour_and_name_where_others_are_absent():
    masks = np.stack([disc(96, 10), disc(96, 20), disc(96, 30)])
    panel = image_panel(np.zeros((1, 96, 96)), masks, present=[False, True, True], raters=["a", "b", "c"])
    body = panel[:384]
    assert not painted(body, RATER_COLOURS[0]).any()
    assert painted(body, RATER_COLOURS[1]).any()
    assert painted(panel[384:], RATER_COLOURS[0]).any()
