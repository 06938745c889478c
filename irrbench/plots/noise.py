"""Noisy labels of one image beside the masks of real raters."""

# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import irrbench.plots.style as style  # noqa: PLR0402 (the package imports this module)
import irrbench.plots.words as words  # noqa: PLR0402 (the same)
from irrbench.plots.panels import extent_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

_CLEAN, _OTHER = "#4C9BFF", "#D55E00"  # apart for colour-blind eyes, on images and on a white page
_GAP, _CAPTION, _NAME, _HEAD, _FOOT = 0.08, 0.19, 0.95, 0.1, 0.3  # inches
_MOST_RATERS = 4
_AROUND = 0.2  # of the marks' size, and
_LEAST = 4  # pixels at least
_MOST_OUTLINES = 12  # more of them hide the image
_FILL = 0.6


class _Panel(NamedTuple):
    caption: str
    mask: Mask


def noise_panels(
    image: NDArray[Any] | None,
    rater_masks: Mapping[str, Mask],
    noisy: Mapping[str, Mapping[float, Mask]],
    *,
    clean: Mask,
    width: style.Width = None,
) -> Figure:
    """Draw a row for the raters and one a noise model, a column a dose: each mask's outline over that of the clean one.

    Under each panel stands the IoU of the two masks.

    Args:
        image: ``(C, H, W)`` or ``(C, D, H, W)`` in [0, 1]; None: a white page. Of a volume the slice is shown on which
            the clean mask marks most.
        rater_masks: ``(*S)`` bool by rater; the first four are shown.
        noisy: by model and dose, masks of the same shape.
        clean: ``(*S)`` bool, the label without noise.
        width: see :func:`irrbench.plots.band_plot`.

    Raises:
        ValueError: if there is nothing to show, or shapes differ.
    """
    from matplotlib.figure import Figure as NewFigure

    rows = {name: [_Panel(f"dose {dose:g}", mask) for dose, mask in by_dose.items()] for name, by_dose in noisy.items()}
    shown = list(rater_masks.items())[:_MOST_RATERS]
    rows = {"raters": [_Panel(words.shorten(name, width=10), mask) for name, mask in shown], **rows}
    _check(image, [panel.mask for panels in rows.values() for panel in panels], clean)
    image, clean, rows = _flat(image, clean, rows)
    columns = max(map(len, rows.values()))
    layout = style.layout_width(width, screen=style.COMPACT_WIDTH)
    side = (layout - _NAME - _GAP * columns) / columns
    total = _HEAD + len(rows) * (side + _CAPTION) + _FOOT
    with style.figure_style(width):
        # At given places: names stand beside the rows, captions below the panels.
        figure = NewFigure(figsize=style.inches(layout, total))
        for row, (name, panels) in enumerate(rows.items()):
            bottom = total - _HEAD - row * (side + _CAPTION) - side
            figure.text(0.06 / layout, (bottom + side / 2) / total, name, va="center", fontsize=style.points(9))
            window = _window([clean, *(panel.mask for panel in panels)])
            is_filled = any(_num_components(panel.mask) > _MOST_OUTLINES for panel in panels)
            for column, panel in enumerate(panels):
                left = _NAME + column * (side + _GAP)
                place = (left / layout, bottom / total, side / layout, side / total)
                _draw(figure.add_axes(place), image, panel, clean, window, is_filled=is_filled)
        _write_key(figure)
    return figure


def _check(image: NDArray[Any] | None, masks: Sequence[Mask], clean: Mask) -> None:
    if not masks:
        raise ValueError("`rater_masks` or `noisy` must hold a mask, found none.")
    shapes = {mask.shape for mask in masks} | ({image.shape[1:]} if image is not None else set())
    if shapes != {clean.shape}:
        raise ValueError(f"image and masks must have the shape of `clean`, {clean.shape}; found {sorted(shapes)}.")


def _flat(
    image: NDArray[Any] | None, clean: Mask, rows: dict[str, list[_Panel]]
) -> tuple[NDArray[Any] | None, Mask, dict[str, list[_Panel]]]:
    """Of volumes the slice with the most marks."""
    if clean.ndim == 2:
        return image, clean, rows
    place = int(clean.sum(axis=(1, 2)).argmax())
    flat = {name: [_Panel(p.caption, p.mask[place]) for p in panels] for name, panels in rows.items()}
    return None if image is None else image[:, place], clean[place], flat


def _window(masks: Sequence[Mask]) -> tuple[slice, slice]:
    """A square around all marks and some of what is around them, within the image."""
    sizes = masks[0].shape
    extent = extent_of(masks) if any(mask.any() for mask in masks) else [(0, size - 1) for size in sizes]
    marked = max(last - first + 1 for first, last in extent)
    side = marked + 2 * max(_LEAST, round(_AROUND * marked))
    starts = (
        max(0, min((first + last + 1 - side) // 2, n - side)) for (first, last), n in zip(extent, sizes, strict=True)
    )
    rows, columns = (slice(start, min(n, start + side)) for start, n in zip(starts, sizes, strict=True))
    return rows, columns


def _num_components(mask: Mask) -> int:
    from scipy.ndimage import label

    return int(label(mask)[1])


def _draw(
    ax: Axes, image: NDArray[Any] | None, panel: _Panel, clean: Mask, window: tuple[slice, slice], *, is_filled: bool
) -> None:
    part = np.ones((1, *clean.shape)) if image is None else image
    part = np.clip(part[(slice(None), *window)], 0, 1)
    raster: dict[str, Any] = {"interpolation": "none"}  # its own pixels, which keeps SVG files small
    ax.imshow(np.moveaxis(part, 0, -1) if len(part) == 3 else part.mean(0), cmap="gray", vmin=0, vmax=1, **raster)
    ax.set(xticks=[], yticks=[], frame_on=image is None)
    first, second = clean[window], panel.mask[window]
    _outline(ax, first, _CLEAN, 1.8)
    if is_filled:
        filled = [*bytes.fromhex(_OTHER.removeprefix("#")), round(255 * _FILL)]
        ax.imshow(np.where(second[..., None], filled, 0).astype(np.uint8), **raster)
    else:
        _outline(ax, second, _OTHER, 1.1)
    union = int((clean | panel.mask).sum())
    iou = (clean & panel.mask).sum() / union if union else float("nan")
    said = f"{panel.caption}: IoU {words.number(iou, digits=2)}"
    ax.annotate(said, (0, 0), xytext=(0, -3), va="top", fontsize=style.points(7.5), color="#59636E",
                xycoords="axes fraction", textcoords="offset points", annotation_clip=False)  # fmt: skip


def _outline(ax: Axes, mask: Mask, colour: str, width: float) -> None:
    if mask.any() and not mask.all():
        ax.contour(mask.astype(float), levels=[0.5], colors=[colour], linewidths=width)


def _write_key(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    known = {"clean label": _CLEAN, "rater, or label with noise": _OTHER}
    handles = [Line2D([], [], color=colour, linewidth=1.6) for colour in known.values()]
    figure.legend(handles, list(known), loc="lower left", ncols=2, bbox_to_anchor=(0, 0), borderaxespad=0.2)
