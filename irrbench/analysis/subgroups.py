"""Bounds and models in subgroups of the images, by any column of the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from irrbench.analysis.candidates import Candidates
from irrbench.analysis.tables import leaderboard_frame
from irrbench.stats import MIN_IMAGES_OF_SUBGROUP

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
    cut = ""
    if is_number and numbers.nunique() > quantiles:
        known = numbers.dropna().to_numpy(dtype=float)
        # An edge is a value that occurs, so that equal values stay in one group.
        edges = np.unique(np.quantile(known, np.arange(1, quantiles) / quantiles, method="inverted_cdf"))
        edges = edges[edges < known.max()]
        above, below = [f"above {edge:g}" for edge in edges], [f"up to {edge:g}" for edge in edges]
        order = [", ".join(filter(None, ends)) or "all" for ends in zip(["", *above], [*below, ""], strict=True)]
        texts = [order[place] for place in np.searchsorted(edges, numbers.to_numpy(dtype=float), side="left")]
        parts = _PARTS.get(quantiles, f"{quantiles} quantile groups")
        cut = f"{parts} of the scored images, cut at {' and '.join(f'{edge:g}' for edge in edges)}"
        labels = [MISSING if pd.isna(value) else text for value, text in zip(values, texts, strict=True)]
    else:
        texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        labels = [MISSING if pd.isna(value) else text for value, text in zip(values, texts, strict=True)]
        order = sorted(set(labels) - {MISSING}, key=_by_size)
    return Subgroups(labels, [*order, *[MISSING] * (MISSING in labels)], cut)


def _by_size(label: str) -> tuple[bool, float, str]:
    """Sort numbers by size, then words."""
    try:
        return False, float(label), label
    except ValueError:
        return True, 0.0, label


def subgroups_frame(
    candidates: Candidates, covariates: pd.DataFrame, columns: Sequence[str], *, quantiles: int = 3
) -> pd.DataFrame:
    """Bounds and models in each subgroup of each column.

    Every subgroup has bounds of its own. Differences between subgroups are described, not tested.

    Args:
        candidates: models and bounds.
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
    frames = []
    for column in columns:
        groups = cut_column(scored[column], quantiles=quantiles)
        for label in groups.order:
            part = candidates.subset([place for place, found in enumerate(groups.labels) if found == label])
            count = len(part.image_ids)
            warning = f"only {count} images" if count < MIN_IMAGES_OF_SUBGROUP else ""
            facts = {"column": column, "subgroup": label, "cut": groups.cut, "n_groups": len(set(part.groups))}
            board = leaderboard_frame(part)
            frames.append(pd.concat([pd.DataFrame(facts | {"warning": warning}, index=board.index), board], axis=1))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
