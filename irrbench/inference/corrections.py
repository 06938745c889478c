"""Several tests at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from irrbench.inference.resampling import Floats


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down correction: keeps the chance of a single false rejection among all at the level.

    Args:
        p_values: ``(M,)``.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return _in_place_of(order, np.minimum(1.0, stepped))


def benjamini_yekutieli(p_values: ArrayLike) -> Floats:
    """Benjamini and Yekutieli's correction: keeps the expected share of false among all rejections, however dependent.

    Args:
        p_values: ``(M,)``.

    Source: Benjamini and Yekutieli 2001, doi 10.1214/aos/1013699998.

    Example:
        >>> benjamini_yekutieli([0.01, 0.04, 0.03]).round(4).tolist()
        [0.055, 0.0733, 0.0733]
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    ranks = np.arange(1, len(p) + 1)
    stepped = p[order] * len(p) * (1 / ranks).sum() / ranks
    return _in_place_of(order, np.minimum(1.0, np.minimum.accumulate(stepped[::-1])[::-1]))


def _in_place_of(order: np.ndarray[tuple[int, ...], np.dtype[np.intp]], values: Floats) -> Floats:
    corrected = np.empty_like(values)
    corrected[order] = values
    return corrected
