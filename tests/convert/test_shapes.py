"""Outlines and run lengths as masks, against plain loops and COCO's own tools."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from irrbench.convert.shapes import decode_runs, expand_runs
from irrbench.convert.writing import anonymous_names, safe_name, safe_names
from irrbench.data.readers import ReadError
from tests.convert.encoders import fill_box, fill_ellipse, fill_polygon, fill_rectangle

COORDINATES = st.floats(-5, 20).map(lambda value: round(value, 3))
POLYGONS = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=9).filter(
    lambda points: max(map(max, points)) > 1.25  # else they look like shares of the image's sides
)
MASKS = arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 9)))


def inside(points, x, y):
    """Even-odd rule for one point, by walking the edges."""
    odd = False
    for edge in zip(points, [*points[1:], points[0]], strict=True):
        (x0, y0), (x1, y1) = sorted(edge, key=lambda corner: corner[1])  # both directions of an edge round alike
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * ((x1 - x0) / (y1 - y0)) <= x:
            odd = not odd
    return odd


@settings(max_examples=150, deadline=None)
@given(POLYGONS)
def test_a_polygon_holds_the_pixels_whose_centre_it_holds(points):
    expected = [[inside(points, x + 0.5, y + 0.5) for x in range(13)] for y in range(11)]
    np.testing.assert_array_equal(fill_polygon(points, (11, 13)), expected)


def test_a_triangle_by_hand():
    mask = fill_polygon([(0, 0), (4, 0), (0, 4)], (4, 5))  # centres on the long side are left of it
    np.testing.assert_array_equal(
        mask.astype(int), [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    )


@settings(max_examples=50, deadline=None)
@given(POLYGONS, st.integers(0, 8), st.booleans())
def test_where_an_outline_starts_and_which_way_it_runs_do_not_matter(points, start, backwards):
    start %= len(points)
    again = points[start:] + points[:start]
    mask = fill_polygon(again[::-1] if backwards else again, (11, 13))
    np.testing.assert_array_equal(mask, fill_polygon(points, (11, 13)))


@pytest.mark.parametrize(
    "fill",
    [
        partial(fill_polygon, [(0.2, 0.1), (0.9, 0.2), (0.5, 1.0)]),
        partial(fill_polygon, [(0.1, 0.1), (0.5, 0.1), (0.5, 1.2)]),  # drawn over the border
        partial(fill_rectangle, 0.25, 0.25, 0.5, 0.75),
        partial(fill_rectangle, 0, 0, 0.5, 1, degrees=30),
        partial(fill_ellipse, 0.5, 0.5, 0.25, 0.4),
    ],
)
def test_shares_of_the_sides_are_no_pixels(fill):
    with pytest.raises(ReadError, match="normalized coordinates"):
        fill((11, 13))
    assert fill((4, 5)).shape == (4, 5)  # so small an image may have such a mark


def test_the_first_pixel_may_be_marked():
    assert np.argwhere(fill_polygon([(0, 0), (1, 0), (1, 1), (0, 1)], (11, 13))).tolist() == [[0, 0]]


def test_halves_that_share_an_edge_share_no_pixel():
    left, right = (
        fill_polygon([(0, 0), (7, 0), (3, 9), (0, 9)], (9, 12)),
        fill_polygon([(7, 0), (12, 0), (12, 9), (3, 9)], (9, 12)),
    )
    assert not (left & right).any()
    assert (left | right).all()


def test_a_box_is_cut_off_at_the_image():
    mask = fill_box({"left": 3, "top": -2, "width": 9, "height": 4}, (4, 5))
    np.testing.assert_array_equal(mask.astype(int), [[0, 0, 0, 1, 1]] * 2 + [[0] * 5] * 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(-720, 720), st.tuples(*[st.floats(1, 8).map(lambda value: round(value, 2))] * 4))
def test_turned_boxes_and_ellipses_hold_the_pixels_that_turned_back_lie_inside(degrees, numbers):
    left, top, width, height = numbers
    x, y, turn = left + width / 2, top + height / 2, np.radians(degrees)
    box = fill_rectangle(left, top, width, height, (17, 19), degrees=degrees)
    ellipse = fill_ellipse(x, y, width / 2, height / 2, (17, 19), degrees=degrees)
    for row in range(17):
        for column in range(19):
            right, down = column + 0.5 - x, row + 0.5 - y
            along = (right * np.cos(turn) + down * np.sin(turn)) / (width / 2)
            across = (down * np.cos(turn) - right * np.sin(turn)) / (height / 2)
            if abs(max(abs(along), abs(across)) - 1) > 1e-9:  # a centre on the outline may be either
                assert box[row, column] == (max(abs(along), abs(across)) < 1)
            if abs(along**2 + across**2 - 1) > 1e-9:
                assert ellipse[row, column] == (along**2 + across**2 < 1)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_polygons_are_those_of_cocos_own_tools_but_for_pixels_on_the_outline():
    tools = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    rng, marked, ours_alone, theirs_alone = np.random.default_rng(0), 0, 0, 0
    for _ in range(60):
        turns = np.sort(rng.random(rng.integers(5, 30))) * 2 * np.pi
        radii = 15 + 15 * rng.random(len(turns))
        points = np.stack([40 + radii * np.cos(turns), 35 + radii * np.sin(turns)], axis=1).round(2)
        ours = fill_polygon(points, (70, 80))
        theirs = tools.decode(tools.frPyObjects([points.ravel().tolist()], 70, 80))[..., 0] > 0
        marked += ours.sum()
        ours_alone, theirs_alone = ours_alone + (ours & ~theirs).sum(), theirs_alone + (theirs & ~ours).sum()
    assert ours_alone + theirs_alone < 0.02 * marked
    assert abs(ours_alone - theirs_alone) < 0.002 * marked  # neither set is larger


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(0, 0), (1, 1)], "no outline"),
        ([], "no outline"),
        ("abc", "no outline"),
        ([(0, 0), (1, 1), (1, 0, 3)], "no outline"),
        ([(0, 0), (float("nan"), 1), (1, 0)], "absurd coordinates"),
        ([(0, 0), (1e300, 1), (1, 0)], "absurd coordinates"),
    ],
)
def test_what_outlines_nothing_is_refused(points, message):
    with pytest.raises(ReadError, match=message):
        fill_polygon(points, (4, 4))


def runs_of(mask):
    flat, runs, value = mask.T.ravel().tolist(), [0], False
    for pixel in flat:
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_run_lengths_give_the_mask_back(mask):
    np.testing.assert_array_equal(expand_runs(runs_of(mask), mask.shape), mask)


@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_compressed_run_lengths_are_those_of_cocos_own_tools(mask):
    tools = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    text = tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    np.testing.assert_array_equal(expand_runs(decode_runs(text), mask.shape), mask)


def test_long_runs_need_several_characters():
    tools = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    mask = np.zeros((700, 900), bool)
    mask[100:650, 3:800] = True
    text = tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    np.testing.assert_array_equal(expand_runs(decode_runs(text), mask.shape), mask)


@pytest.mark.parametrize("counts", [[1, 2], [7], [-1, 7], [3.0, 3], ["6"], [2**70], []])
def test_runs_that_do_not_cover_the_image_are_refused(counts):
    with pytest.raises(ReadError, match="run lengths that do not fit the image"):
        expand_runs(counts, (2, 3))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=12) | st.text("0123456789:;<=>?@OPQRSTUVWXYZ_`abcdefghijklmno", max_size=12))
def test_any_text_is_runs_of_the_image_or_refused(text):
    try:
        mask = expand_runs(decode_runs(text), (5, 7))
    except ReadError:
        return
    assert mask.shape == (5, 7)


@pytest.mark.parametrize("text", [";2300095", ";23000", "zzzzzzzz", "é", "o"])
def test_damaged_compressed_runs_are_refused(text):
    with pytest.raises(ReadError, match=r"damaged|truncated|do not fit"):
        expand_runs(decode_runs(text), (5, 7))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=100), max_size=6, unique=True))
def test_names_are_safe_and_different(names):
    safe = safe_names(names)
    assert list(safe) == names
    assert len({name.casefold() for name in safe.values()}) == len(names)
    for name in safe.values():
        assert name
        assert name[0] != "."
        assert not set(name) & set('/\\@:*?"<>|\0\n ')
        assert safe_name(name) == name


def test_anonymous_names_are_as_many_and_in_no_order():
    names = [f"reader {number}" for number in range(12)]
    drawn = [anonymous_names(names) for _ in range(20)]
    assert all(sorted(one.values()) == [f"r{number:02d}" for number in range(1, 13)] for one in drawn)
    assert len({one["reader 0"] for one in drawn}) > 1
