"""The picture of noisy labels shows the masks it is given, and their IoU."""

from __future__ import annotations

import os

import numpy as np
import pytest

from irrbench.plots import save_figure
from irrbench.plots.noise import _OTHER, noise_panels


def square(first, last, shape=(30, 40)):
    mask = np.zeros(shape, bool)
    mask[first:last, first:last] = True
    return mask


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


NOISY = {"grow": {0.5: square(9, 21), 2.0: square(5, 25)}, "miss": {1.0: np.zeros((30, 40), bool)}}


def test_each_mask_has_a_panel_with_its_iou():
    figure = noise_panels(
        np.zeros((1, 30, 40)), {"r1": square(10, 20), "r2": square(10, 15)}, NOISY, clean=square(10, 20)
    )
    expected = ["r1: IoU 1.00", "r2: IoU 0.25", "dose 0.5: IoU 0.69", "dose 2: IoU 0.25", "dose 1: IoU 0.00"]
    assert texts(figure) == expected
    assert [text.get_text() for text in figure.texts] == ["raters", "grow", "miss"]


def outlines(ax):
    """Colour and extent of the outlines in axes."""
    return [(artist.get_edgecolor()[0], artist.get_paths()[0].get_extents().width) for artist in ax.collections]


def test_outlines_are_those_of_the_masks():
    figure = noise_panels(None, {}, NOISY, clean=square(10, 20))
    found = [outlines(ax) for ax in figure.axes]
    assert [[width for _, width in of_panel] for of_panel in found] == [[10, 12], [10, 20], [10]]
    from matplotlib.colors import to_rgba

    assert found[1][1][0] == pytest.approx(to_rgba(_OTHER))


def test_many_components_are_filled_as_their_outlines_would_hide_the_image():
    specks = square(10, 20)
    specks[::3, ::3] = True
    figure = noise_panels(np.full((3, 30, 40), 0.5), {}, {"flip": {1.0: specks}}, clean=square(10, 20))
    assert len(figure.axes[0].images) == 2
    assert len(figure.axes[0].collections) == 1
    assert (figure.axes[0].images[1].get_array()[..., 3] > 0).sum() == specks.sum()


def test_the_slice_with_the_most_marks_is_shown():
    clean = np.zeros((4, 30, 40), bool)
    clean[1], clean[2] = square(12, 14), square(10, 20)
    noisy = {"shift": {1.0: np.roll(clean, 2, axis=2)}}
    figure = noise_panels(np.zeros((1, 4, 30, 40)), {"anna": clean}, noisy, clean=clean)
    assert texts(figure) == ["anna: IoU 1.00", f"dose 1: IoU {80 / 120:.2f}"]


def test_rows_of_panels_lie_inside_the_figure(tmp_path):
    raters = {f"a very long name {r}": square(8 + r, 20) for r in range(6)}
    figure = noise_panels(np.zeros((1, 30, 40)), raters, NOISY, clean=square(10, 20))
    assert len(figure.axes) == 4 + 3
    boxes = [ax.get_position() for ax in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 < box.y0 < box.y1 <= 1 for box in boxes)
    path = save_figure(figure, tmp_path / "noise.svg")
    assert os.path.getsize(path) < 100_000  # noqa: PTH202
    assert path.read_bytes() == save_figure(figure, tmp_path / "again.svg").read_bytes()


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"must have the shape of `clean`, \(30, 40\)"):
        noise_panels(None, {"r1": square(1, 2, (9, 8))}, {}, clean=square(10, 20))
    with pytest.raises(ValueError, match="must hold a mask"):
        noise_panels(None, {}, {}, clean=square(10, 20))
