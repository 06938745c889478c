"""Bounds and models in subgroups of the images, by any column of the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from irrbench.analysis.candidates import Candidates
from irrbench.analysis.tables import leaderboard_frame

FEW_IMAGES = 10
MISSING = "not stated"
_NOT_GROUPS = ("split",)
_PARTS = {2: "halves", 3: "thirds", 4: "quarters", 5: "fifths"}


class Subgroups(NamedTuple):
    """A column cut into subgroups."""

    labels: list[str]  # of each image
    order: list[str]  # of the labels
    cut: str  # how numbers were cut, or empty


def check_columns(columns: Sequence[str], manifest: pd.DataFrame) -> None:
    """Refuse columns that the manifest lacks.

    Raises:
        ValueError: naming those that there are.
    """
    known = [str(column) for column in manifest.columns if column not in _NOT_GROUPS]
    missing = [column for column in columns if column not in known]
    if missing:
        raise ValueError(
            f"subgroups: the manifest has no column {', '.join(map(repr, missing))}; found "
            f"{', '.join(known) or 'none beside the split'}. Add it to manifest.csv or leave it out."
        )


def cut_column(values: pd.Series, *, quantiles: int = 3) -> Subgroups:
    """Subgroups of a column: its values, or quantile groups of numbers.

    Args:
        values: of each image.
        quantiles: into how many groups of about equal size numbers are cut; numbers with no more distinct values than
            that are taken as they are.

    Example:
        >>> groups = cut_column(pd.Series([1.0, 5.0, 2.0, 8.0, None, 3.0]), quantiles=2)
        >>> groups.labels
        ['up to 3', 'above 3', 'up to 3', 'above 3', 'not stated', 'up to 3']
        >>> groups.cut
        'halves of the scored images, cut at 3'
    """
    numbers = pd.to_numeric(values, errors="coerce")
    is_number = numbers.notna().any() and bool((numbers.notna() | values.isna()).all()) and values.dtype != bool
    if is_number and numbers.nunique() > quantiles:
        return _cut_numbers(numbers, quantiles)
    labels = [MISSING if pd.isna(value) else _text(value) for value in values]
    order = sorted({label for label in labels if label != MISSING}, key=_natural)
    return Subgroups(labels, [*order, *[MISSING] * (MISSING in labels)], "")


def _cut_numbers(numbers: pd.Series, quantiles: int) -> Subgroups:
    known = numbers.dropna().to_numpy(dtype=float)
    # An edge is a value that occurs, so that equal values are never parted.
    shares = np.arange(1, quantiles) / quantiles
    edges = np.unique(np.quantile(known, shares, method="inverted_cdf"))
    edges = edges[edges < known.max()]
    names = [_between(*ends) for ends in zip([None, *edges], [*edges, None], strict=True)]
    places = np.searchsorted(edges, numbers.to_numpy(dtype=float), side="left")
    labels = [MISSING if pd.isna(value) else names[place] for value, place in zip(numbers, places, strict=True)]
    parts = _PARTS.get(quantiles, f"{quantiles} quantile groups")
    cut = f"{parts} of the scored images, cut at {' and '.join(f'{edge:g}' for edge in edges)}"
    return Subgroups(labels, [*names, *[MISSING] * (MISSING in labels)], cut)


def subgroups_frame(
    candidates: Candidates, covariates: pd.DataFrame, columns: Sequence[str], *, quantiles: int = 3
) -> pd.DataFrame:
    """Bounds and models in each subgroup of each column.

    Every subgroup has bounds of its own. Differences between subgroups are described, not tested.

    Args:
        candidates: everybody.
        covariates: the manifest, one row an image, with the ids as its index.
        columns: those to cut by.
        quantiles: see :func:`cut_column`.

    Returns:
        ``column``, ``subgroup``, ``cut``, ``n_groups`` (patients), ``warning`` below 10 images, and the leaderboard's
        columns.

    Raises:
        ValueError: if a column is not in the manifest, or an image is not.
    """
    check_columns(columns, covariates)
    known = covariates.set_axis(covariates.index.astype(str), axis=0)
    lacking = [image_id for image_id in candidates.image_ids if image_id not in known.index]
    if lacking:
        raise ValueError(f"subgroups: the manifest lacks {len(lacking)} scored images, first {lacking[0]!r}.")
    scored = known.loc[list(candidates.image_ids)]
    frames = [
        _subgroup(candidates, column, label, groups)
        for column, groups in ((c, cut_column(scored[c], quantiles=quantiles)) for c in columns)
        for label in groups.order
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _subgroup(candidates: Candidates, column: str, label: str, groups: Subgroups) -> pd.DataFrame:
    part = candidates.subset([place for place, found in enumerate(groups.labels) if found == label])
    board = leaderboard_frame(part)
    count = len(part.image_ids)
    facts: dict[str, str | int] = {
        "column": column,
        "subgroup": label,
        "cut": groups.cut,
        "n_groups": len(set(part.groups)),
        "warning": f"only {count} images" if count < FEW_IMAGES else "",
    }
    for place, (name, value) in enumerate(facts.items()):
        board.insert(place, name, value)
    return board


def _between(low: float | None, high: float | None) -> str:
    parts = ([] if low is None else [f"above {low:g}"]) + ([] if high is None else [f"up to {high:g}"])
    return ", ".join(parts) or "all"


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _natural(label: str) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label
