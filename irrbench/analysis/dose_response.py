"""Curves over doses, linear between them: their area, and the dose at which they fall below 0.

No curve is taken to fall steadily. ``D`` doses, from low to high.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from irrbench.stats import Floats


def dose_text(dose: float, largest: float, smallest: float = 0.0) -> str:
    """A dose with two digits, but no more than two after the point; of one outside of the doses tested, only that.

    Example:
        >>> dose_text(0.8333, 4.0), dose_text(3.946, 4.0), dose_text(0.0123, 4.0), dose_text(math.inf, 4.0)
        ('0.83', '3.9', '0.01', '>4')
        >>> dose_text(-math.inf, 4.0, smallest=0.5)
        '<0.5'
    """
    if math.isinf(dose):
        return f">{largest:g}" if dose > 0 else f"<{smallest:g}"
    return f"{dose:.2g}" if dose >= 0.1 else f"{round(dose, 2):g}"


class Crossing(NamedTuple):
    """The dose at which a curve first falls below 0.

    Attributes:
        dose: infinite where it is not below anywhere; where it is below from the smallest dose on, 0 if that is 0, else
            minus infinite.
        low: where the lower end of the curve's band first falls below 0; likewise.
        high: where its upper end does.
        largest: the largest dose.
        smallest: the smallest dose.
    """

    dose: float
    low: float
    high: float
    largest: float
    smallest: float = 0.0

    @property
    def is_inside(self) -> bool:
        """Whether the curve starts at 0 or above and falls below 0."""
        return 0 < self.dose < math.inf

    def in_words(self) -> str:
        """The dose and its interval as text; of a dose outside of those that were tested, only that.

        Example:
            >>> Crossing(0.8, 0.4, 1.3, largest=4.0).in_words()
            '0.8 (0.4 to 1.3)'
            >>> Crossing(math.inf, 2.1, math.inf, largest=4.0).in_words()
            '>4 (2.1 to >4)'
            >>> Crossing(math.inf, math.inf, math.inf, largest=4.0).in_words()
            '>4'
        """
        dose, low, high = (dose_text(end, self.largest, self.smallest) for end in self[:3])
        return dose if low == dose == high else f"{dose} ({low} to {high})"


def trapezoid_weights(doses: Sequence[float]) -> Floats:
    """Weights ``(D,)`` of sum 1 that give the mean of a curve over its doses, by the trapezoid rule.

    Example:
        >>> trapezoid_weights([0, 1, 4])
        array([0.125, 0.5  , 0.375])
    """
    steps = np.diff(np.asarray(doses, float))
    if not len(steps):
        return np.ones(1)
    return np.asarray((np.append(steps, 0) + np.append(0, steps)) / (2 * steps.sum()))


def first_below(doses: Sequence[float], values: Floats) -> float:
    """The dose at which a curve first falls below 0: infinite where it never does.

    Where it begins below 0 that is 0 if the first dose is, else minus infinite, as nobody knows where it fell.

    Args:
        doses: ``(D,)``.
        values: ``(D,)``; the ends of a band may be infinite.

    Example:
        >>> first_below([0, 1, 2], np.array([0.2, 0.1, -0.1]))
        1.5
        >>> first_below([0, 1], np.array([-0.2, 0.1])), first_below([0, 1], np.array([0.2, 0.0]))
        (0.0, inf)
        >>> first_below([1, 2], np.array([-0.2, 0.1]))
        -inf
    """
    below = np.flatnonzero(values < 0)
    if not len(below):
        return math.inf
    place = int(below[0])
    if place == 0:
        return 0.0 if doses[0] == 0 else -math.inf
    (left, right), (before, after) = doses[place - 1 : place + 1], values[place - 1 : place + 1]
    part = 1.0 if math.isinf(before) else before / (before - after)
    return float(left + (right - left) * part)


def crossing(doses: Sequence[float], values: Floats, low: Floats, high: Floats) -> Crossing:
    """Where a curve and the ends of its band ``(D,)`` first fall below 0."""
    dose, least, most = (first_below(doses, curve) for curve in (values, low, high))
    return Crossing(dose, least, most, largest=float(doses[-1]), smallest=float(doses[0]))


def first_of_the_rest(doses: Sequence[float], holds: Sequence[bool]) -> float:
    """The smallest dose from which on something holds at all doses; NaN where it does not at the largest.

    Example:
        >>> first_of_the_rest([0.5, 1, 2, 4], [True, False, True, True])
        2.0
    """
    found = math.nan
    for dose, is_so in zip(reversed(doses), reversed(holds), strict=True):
        if not is_so:
            break
        found = float(dose)
    return found
