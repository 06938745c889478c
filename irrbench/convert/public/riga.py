"""RIGA: the optic disc and cup, drawn as lines into copies of the photograph, become masks.

The lines are where a copy differs from the photograph. They must enclose two parts, one around the other: the inner one
is the cup, both are the disc. A pixel of a line belongs to the part that is nearest, so that the middle of the line is
the border.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from irrbench.convert.public.cases import Asked, Case, Drawing, Files, Listing, Packed, pack_mask
from irrbench.data.io import read_colours
from irrbench.data.readers import Mask, Problem, ReadError, check_shape

LEAST_DIFFERENCE = 20  # of 255: less is what saving changes
SMALLEST_PART = 1e-4  # of the pixels: smaller enclosed parts are gaps of a line
_REMEDY = "draw it again on the photograph, or leave this rater out there"
_EXPECTED = "two closed lines, one around the other"


def read_riga(files: Files, asked: Asked) -> Listing:
    """RIGA: ``imageNprime`` is the photograph, ``imageN-K`` the copy of ophthalmologist K in the same folder."""
    problems: list[Problem] = []
    ending = r"\.(?:jpe?g|tiff?|png)"
    photographs = files.by_key(rf"([^/]+)/image(\d+)prime{ending}", problems)
    copies = files.by_key(rf"([^/]+)/image(\d+)-([1-6]){ending}", problems)
    replaced = {folder for folder, *_ in (*photographs, *copies) if (f"{folder}-corrected") in _folders(photographs)}
    drawn: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for (folder, number, rater), path in copies.items():
        if folder not in replaced:
            drawn[folder, number][f"expert{rater}"] = path
    cases = []
    for (folder, number), by_rater in drawn.items():
        if (folder, number) not in photographs:
            found = f"copies {', '.join(sorted(by_rater))} and no photograph"
            problems.append(Problem(f"{folder}/image{number}", found, f"image{number}prime beside them", "download it"))
            continue
        photograph = photographs[folder, number]
        masks: dict[str, tuple[Drawing, ...]] = {
            rater: (partial(_read_copy, photograph, path, asked.target),) for rater, path in by_rater.items()
        }
        covariates = {"collection": _collection(folder), "folder": photograph.parent.name}
        cases.append(Case(f"{photograph.parent.name}-{number}", photograph, masks, covariates))
    notes = tuple(f"{folder} is left out: {folder}-corrected is there" for folder in sorted(replaced))
    return Listing(cases, problems, notes)


def _folders(keys: Any) -> set[str]:
    return {folder for folder, *_ in keys}


def _collection(folder: str) -> str:
    return next((name for name in ("MESSIDOR", "BinRushed", "Magrabi") if folder.startswith(name.lower())), folder)


def _read_copy(photograph: Path, copy: Path, target: str) -> Packed:
    plain, marked = (np.asarray(read_colours(path)) for path in (photograph, copy))
    check_shape(marked.shape, plain.shape, "download the copy again")
    if plain.dtype != np.uint8 or marked.dtype != np.uint8:
        raise ReadError(f"{plain.dtype} and {marked.dtype}", "photographs of 8 bit", "download them again")
    difference = np.abs(marked.astype(np.int16) - plain)
    lines = (difference if difference.ndim == 2 else difference.max(axis=-1)) > LEAST_DIFFERENCE
    disc, cup = fill_lines(lines)
    return pack_mask(disc if target == "disc" else cup)


def fill_lines(lines: Mask) -> tuple[Mask, Mask]:
    """The disc, cup included, and the cup ``(H, W)`` that two lines enclose.

    Raises:
        ReadError: not two enclosed parts, or not one around the other.

    Example:
        >>> lines = np.zeros((40, 40), bool)
        >>> lines[5:35, 5:35] = True
        >>> lines[6:34, 6:34] = False
        >>> lines[15:25, 15:25] = True
        >>> lines[16:24, 16:24] = False
        >>> disc, cup = fill_lines(lines)
        >>> int(disc.sum()), int(cup.sum())
        (896, 96)
    """
    parts, count = ndimage.label(~lines)  # across edges, as lines may be one pixel thin and go diagonally
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    borders = (parts[0], parts[-1], parts[:, 0], parts[:, -1])
    outside = set(np.unique(np.concatenate(borders)).tolist())
    least = max(SMALLEST_PART * lines.size, 4)
    inside = [part for part in range(1, count + 1) if part not in outside and sizes[part] >= least]
    if len(inside) != 2:
        raise ReadError(f"lines that enclose {len(inside)} parts", _EXPECTED, _REMEDY)
    window = _around(np.isin(parts, inside))
    near = parts[window]
    first, second = (near == part for part in inside)
    outer, inner = (first, second) if _surrounds(first, second) else (second, first)
    if not _surrounds(outer, inner):
        raise ReadError("two lines that touch, or lie side by side", _EXPECTED, _REMEDY)
    disc, cup = np.zeros_like(lines), np.zeros_like(lines)
    beyond = np.isin(near, list(outside))
    disc[window] = _with_half_line(outer | inner, beyond)
    cup[window] = _with_half_line(inner, beyond | outer)
    return disc, cup


def _around(mask: Mask) -> tuple[slice, ...]:
    """The window that holds the marked pixels and the lines around them."""
    spans = [np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1)]
    margins = [max((span[-1] - span[0]) // 4, 16) for span in spans]
    pairs = zip(spans, margins, strict=True)
    return tuple(slice(max(span[0] - margin, 0), span[-1] + 1 + margin) for span, margin in pairs)


def _surrounds(outer: Mask, inner: Mask) -> bool:
    filled: Mask = ndimage.binary_fill_holes(outer)
    return bool(filled[inner].all())


def _with_half_line(inside: Mask, outside: Mask) -> Mask:
    """The inside, with those pixels of the line between that are no farther from it than from the outside."""
    to_inside, to_outside = (ndimage.distance_transform_edt(~part) for part in (inside, outside))
    nearer: Mask = ~outside & (to_inside <= to_outside)
    return inside | nearer
