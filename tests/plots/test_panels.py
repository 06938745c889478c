"""Contours lie where the masks end."""

from __future__ import annotations

import numpy as np
import pytest

from irrbench.plots import MODEL_CONTOUR, RATER_COLOURS, agreement_panel, contour_panel, image_panel
from irrbench.plots.panels import AREA_COLOURS

H, W = 9, 11


def rgb(colour):
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def box(top, bottom, left, right, shape=(H, W)):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def painted(panel, colour):
    return (panel == rgb(colour)).all(axis=-1)


def test_a_raters_contour_is_the_masks_outermost_pixels():
    mask = box(2, 7, 3, 8)
    panel = contour_panel(np.zeros((1, H, W)), mask[None], scale=1)
    expected = mask & ~box(3, 6, 4, 7)
    np.testing.assert_array_equal(painted(panel, RATER_COLOURS[0]), expected)
    assert (panel[~expected] == 0).all()


def test_an_enlarged_contour_follows_the_enlarged_pixels():
    panel = contour_panel(np.zeros((1, H, W)), box(2, 7, 3, 8)[None], scale=2)
    expected = box(4, 14, 6, 16, (18, 22)) & ~box(5, 13, 7, 15, (18, 22))
    np.testing.assert_array_equal(painted(panel, RATER_COLOURS[0]), expected)


def test_the_models_contour_is_thicker_and_under_the_raters():
    shape = (40, 40)
    image, rater, model = np.zeros((1, *shape)), box(2, 6, 2, 6, shape), box(4, 18, 4, 18, shape)
    panel = contour_panel(image, rater[None], model, scale=1)
    line = rater & ~box(3, 5, 3, 5, shape)
    np.testing.assert_array_equal(painted(panel, RATER_COLOURS[0]), line)
    np.testing.assert_array_equal(painted(panel, MODEL_CONTOUR), model & ~box(6, 16, 6, 16, shape) & ~line)


def test_a_contour_that_would_fill_the_picture_is_thin():
    stripes = np.zeros((40, 40), bool)
    stripes[:, 2::10] = stripes[:, 3::10] = stripes[:, 4::10] = stripes[:, 5::10] = True  # two of five pixels
    panel = contour_panel(np.zeros((1, 40, 40)), np.zeros((2, 40, 40)), stripes, scale=1)
    edges = stripes & ~(np.roll(stripes, 1, axis=1) & np.roll(stripes, -1, axis=1))
    np.testing.assert_array_equal(painted(panel, MODEL_CONTOUR), edges)


def test_a_model_that_marks_specks_all_over_is_faint_and_raters_stay_in_front_of_it():
    specks = np.indices((40, 40)).sum(axis=0) % 2 == 0
    rater = box(10, 20, 10, 20, (40, 40))
    panel = contour_panel(np.full((1, 40, 40), 0.5), rater[None], specks, scale=1)
    line = rater & ~box(11, 19, 11, 19, (40, 40))
    assert painted(panel, RATER_COLOURS[0])[line].all()
    assert not painted(panel, MODEL_CONTOUR).any()
    between = (np.array(rgb(MODEL_CONTOUR)) + 128) / 2
    np.testing.assert_allclose(panel[0, 0], between, atol=1)
    assert panel[0, 1].tolist() == [128, 128, 128]


def test_raters_who_agree_share_the_line():
    masks = np.stack([box(1, 40, 1, 40, (42, 42))] * 3)
    panel = contour_panel(np.zeros((1, 42, 42)), masks, scale=1)
    shares = [painted(panel, colour).sum() for colour in RATER_COLOURS[:3]]
    assert sum(shares) == 39 * 4 - 4
    assert min(shares) > 40


def test_an_empty_mask_and_a_full_mask_have_no_contour():
    masks = np.stack([np.zeros((H, W), bool), np.ones((H, W), bool)])
    assert (contour_panel(np.zeros((1, H, W)), masks, scale=1) == 0).all()


def test_outside_the_roi_it_is_darker():
    panel = contour_panel(np.ones((1, H, W)), np.zeros((2, H, W)), roi=box(0, H, 0, 4), scale=1)
    assert (panel[:, :4] == 255).all()
    assert (panel[:, 4:] < 128).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_three_channels_are_colours_others_grey(channels):
    image = np.zeros((channels, H, W))
    image[0] = 1
    panel = contour_panel(image, np.zeros((2, H, W)), scale=1)
    assert panel[0, 0].tolist() == ([255, 0, 0] if channels == 3 else [round(255 / channels)] * 3)


def test_values_outside_the_range_are_clipped_and_nan_is_black():
    image = np.array([[[-1.0, 2.0, np.nan]]])
    assert contour_panel(image, np.zeros((2, 1, 3)), scale=1)[0, :, 0].tolist() == [0, 255, 0]


def test_of_a_volume_the_slice_with_most_marks():
    image = np.zeros((1, 4, H, W))
    image[0, 2] = 1
    masks = np.zeros((2, 4, H, W), bool)
    masks[:, 2, 3, 3] = masks[0, 1, 3, 3] = True
    assert contour_panel(image, masks, masks[0], scale=1)[0, 0].tolist() == [255, 255, 255]


def test_margin_cuts_around_all_marks():
    panel = contour_panel(np.zeros((1, H, W)), box(4, 6, 5, 6)[None], box(4, 5, 5, 8), margin=1, scale=1)
    assert panel.shape == (4, 5, 3)


def test_small_images_are_enlarged_and_large_ones_thinned_out():
    assert contour_panel(np.zeros((1, 64, 48)), np.zeros((2, 64, 48))).shape == (384, 288, 3)
    assert contour_panel(np.zeros((1, 2100, 60)), np.zeros((2, 2100, 60))).shape == (700, 20, 3)


def test_a_thin_line_on_a_large_image_stays_whole():
    lines = np.zeros((1201, 2050), bool)
    lines[7, 5:1900] = lines[5:1100, 11] = True
    panel = agreement_panel(np.zeros((1, 1201, 2050)), np.stack([lines] * 3), lines)[:401]
    expected = np.zeros((401, 684), bool)
    expected[2, 1:634] = expected[1:367, 3] = True
    np.testing.assert_array_equal(nearest_area(panel) == 0, expected)


def test_the_title_stands_above_the_image():
    panel = contour_panel(np.ones((1, 64, 64)), np.zeros((2, 64, 64)), title="Δ very long " * 20)
    assert panel.shape[1] == 384
    assert (panel[-384:] == 255).all()
    assert panel[:-384].std() > 0


@pytest.mark.parametrize(
    ("image", "masks", "prediction", "message"),
    [
        ((H, W), (2, H, W), None, r"`image` must have shape \(C, H, W\).*found \(9, 11\)"),
        ((1, H, W), (2, W, H), None, r"`masks` must have the raters first.*\(9, 11\); found \(2, 11, 9\)"),
        ((1, H, W), (2, H, W), (1, H, W), r"`prediction` must have the image's shape \(9, 11\); found \(1, 9, 11\)"),
    ],
)
def test_refuses_shapes_that_do_not_fit(image, masks, prediction, message):
    with pytest.raises(ValueError, match=message):
        contour_panel(np.zeros(image), np.zeros(masks), None if prediction is None else np.zeros(prediction))


def nearest_area(panel):
    """For each pixel the place of its colour among the areas, -1 where it is grey."""
    colours = np.array([rgb(colour) for colour in AREA_COLOURS.values()], float)
    distances = np.abs(panel[..., None, :].astype(float) - colours).sum(-1)
    return np.where(np.ptp(panel, axis=-1) < 10, -1, distances.argmin(-1))


def test_areas_are_where_both_mark_or_one_of_them():
    first, second, third = box(1, 5, 1, 6), box(1, 5, 3, 8), box(2, 3, 2, 10)
    model = box(3, 8, 3, 9)
    votes = first.astype(int) + second + third
    for masks in ([first, second, third], [first, second, third, box(0, 0, 0, 0)]):
        majority = 2 * votes > len(masks)  # two of four are none
        panel = agreement_panel(np.full((1, H, W), 0.5), np.stack(masks), model, scale=1)[:H]
        expected = np.select([majority & model, majority & ~model, model & ~majority], [0, 1, 2], -1)
        np.testing.assert_array_equal(nearest_area(panel), expected)


def test_the_key_of_areas_takes_as_many_lines_as_it_needs():
    masks = np.zeros((2, 96, 96), bool)
    wide, narrow = (agreement_panel(np.zeros((1, 96, 96)), masks, masks[0], scale=scale) for scale in (4, 1))
    lines = [panel.shape[0] - 96 * scale for panel, scale in ((wide, 4), (narrow, 1))]
    assert lines[0] < lines[1]
    for panel, scale in ((wide, 4), (narrow, 1)):
        key = panel[96 * scale :]
        assert all(painted(key, colour).sum() > 100 for colour in AREA_COLOURS.values())


def grid(width, shape=(96, 96)):
    """Lines of this width, twenty pixels apart."""
    mask = np.zeros(shape, bool)
    for line in range(width):
        mask[10 + line :: 20] = mask[:, 10 + line :: 20] = True
    return mask


@pytest.mark.parametrize(("width", "is_thin"), [(1, True), (2, True), (4, False), (8, False)])
def test_what_contours_would_hide_is_coloured(width, is_thin):
    masks, model = np.stack([grid(width)] * 3), np.roll(grid(width), 1, 0)
    image = np.full((1, 96, 96), 0.5)
    draw = agreement_panel if is_thin else contour_panel
    np.testing.assert_array_equal(image_panel(image, masks, model), draw(image, masks, model))
    np.testing.assert_array_equal(image_panel(image, masks), contour_panel(image, masks))  # without a model


@pytest.mark.parametrize("width", [2, 8])
def test_a_rater_who_is_absent_is_not_drawn_and_has_no_vote(width):
    masks, image = (
        np.stack([grid(width), np.roll(grid(width), 1, 0), np.ones((96, 96), bool)]),
        np.full((1, 96, 96), 0.5),
    )
    model = grid(width)
    shown = image_panel(image, masks, model, present=[True, True, False])
    expected = agreement_panel(image, masks[:2], model) if width == 2 else contour_panel(image, masks[:2], model)
    np.testing.assert_array_equal(shown, expected)


def test_an_area_that_nobody_marks_is_no_thin_one():
    masks = np.zeros((3, H, W), bool)
    np.testing.assert_array_equal(
        image_panel(np.zeros((1, H, W)), masks, masks[0]), contour_panel(np.zeros((1, H, W)), masks, masks[0])
    )
