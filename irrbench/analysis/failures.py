"""How often models fail, beside the average rater: a second endpoint, as a mean hides rare failures."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from irrbench.analysis.candidates import Candidates
from irrbench.scores import gain, record
from irrbench.stats.failures import clustered_share

COLUMNS = (
    *("name", "role", "score", "failure", "limit", "n_images", "n_groups"),
    *("share", "share_low", "share_high", "effective_n"),
)


def failures_frame(candidates: Candidates, limits: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Share of images with the worst possible score, and with one worse than a limit.

    A failure is counted on each rater's reference, and on each seed of a model; an image's value is the mean, for the
    average rater as for the models. The interval allows for groups
    (:func:`irrbench.stats.failures.clustered_share`).

    Args:
        candidates: models and bounds.
        limits: by score; the main score is counted without one, too.

    Returns:
        Average rater and models in turn: ``name``, ``role``, ``score``, ``failure`` in words, ``limit`` (the worst
        score where that is counted), ``n_images``, ``n_groups``, ``share`` with ``share_low`` and ``share_high``, and
        the ``effective_n`` independent images that the interval counts. Empty where no score has a worst value or a
        limit.
    """
    limits = limits or {}
    places = [candidates.place("ceiling"), *candidates.models]
    rows = []
    for score in (name for place, name in enumerate(candidates.scores) if place == 0 or name in limits):
        worst = record(score).worst
        failures = (
            {f"score of {worst:g}": (worst, _on_folds(candidates, score) == worst)} if math.isfinite(worst) else {}
        )
        if score in limits:
            side, limit = "under" if record(score).higher_is_better else "over", limits[score]
            is_worse = gain(score, _on_folds(candidates, score)) < gain(score, limit)
            failures[f"score {side} {limit:g}"] = limit, is_worse
        for (words, (limit, failed)), place in ((item, place) for item in failures.items() for place in places):
            values = _by_image(candidates, score, failed, place)
            found = clustered_share(values, candidates.groups, level=candidates.resampling.level)
            facts = (candidates.names[place], candidates.roles[place], score, words, limit, found.n, found.units)
            rows.append((*facts, found.share, found.low, found.high, found.effective_n))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _on_folds(candidates: Candidates, score: str) -> NDArray[np.float64]:
    """All tables on each rater's reference, ``(N, R, P)``; without those, on each image, ``(N, 1, P)``."""
    return candidates.folds[score] if candidates.folds else candidates.tables[score][:, None]


def _by_image(candidates: Candidates, score: str, failed: NDArray[np.bool_], place: int) -> NDArray[np.float64]:
    """Share of an image's references and of a candidate's seeds, ``(N,)``; NaN where the image does not count."""
    members = list(candidates.members[place])
    defined = ~np.isnan(_on_folds(candidates, score)[:, :, members])
    number = defined.sum(axis=(1, 2))
    shares = (failed[:, :, members] & defined).sum(axis=(1, 2)) / np.maximum(number, 1)
    return np.where(candidates.counted(score) & (number > 0), shares, math.nan)
