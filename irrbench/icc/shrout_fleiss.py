"""The six intraclass correlations of a complete table of ratings.

Axes: ``N`` targets (images), ``R`` raters.

Source: Shrout & Fleiss 1979, doi 10.1037/0033-2909.86.2.420; McGraw & Wong 1996, doi 10.1037/1082-989X.1.1.30.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from irrbench._results import Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class ICCForm(NamedTuple):
    """One of the six forms.

    Attributes:
        value: the intraclass correlation; may be negative.
        low: lower end of its confidence interval.
        high: upper end.
        f: F statistic of "the targets do not differ".
        df: degrees of freedom of its numerator and denominator.
        p: its p-value.
    """

    value: float
    low: float
    high: float
    f: float
    df: tuple[int, int]
    p: float


class ICCForms(Result, dict[str, ICCForm]):
    """The six forms by name; prints as a table."""

    heading = "Intraclass correlations (Shrout and Fleiss)"

    def to_frame(self) -> pd.DataFrame:
        """One row a form."""
        import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

        rows = ({"form": name, **form._asdict()} for name, form in self.items())
        return pd.DataFrame([{k: v for k, v in row.items() if k != "df"} | _degrees(row["df"]) for row in rows])

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Draw each form with its interval.

        Args:
            ax: where to draw; a new figure if not given.
        """
        from irrbench.plots.results import draw_named  # noqa: PLC0415 (imports matplotlib)

        return draw_named({name: (form.value, form.low, form.high) for name, form in self.items()}, label="ICC", ax=ax)


def _degrees(df: tuple[int, int]) -> dict[str, int]:
    return dict(zip(("df1", "df2"), df, strict=True))


class _Squares(NamedTuple):
    """Mean squares between targets, raters, of the residual, and within targets."""

    targets: float
    raters: float
    residual: float
    within: float


def shrout_fleiss(ratings: ArrayLike, *, level: float = 0.95) -> ICCForms:
    """The forms ``ICC(1,1)``, ``ICC(2,1)``, ``ICC(3,1)`` of one rating and ``ICC(1,k)`` .. of the raters' mean.

    The first digit is the design: 1, other raters for each target; 2, the same raters, taken as a sample of raters
    (absolute agreement); 3, the same raters, and these alone (consistency: a rater's constant shift does not count).

    Args:
        ratings: ``(N, R)``, complete: for missing ratings see :func:`~irrbench.icc.extent.extent_icc`.
        level: of confidence.

    Returns:
        By name. All NaN where all ratings are alike. Where targets do not differ, a form has no finite value for the
        raters' mean, and is NaN too.

    Raises:
        ValueError: if a rating is missing, or there are fewer than two targets or raters, or ``level`` is not between
            0 and 1.

    Example:
        >>> table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
        >>> {name: round(form.value, 2) for name, form in shrout_fleiss(table).items()}
        {'ICC(1,1)': 0.17, 'ICC(2,1)': 0.29, 'ICC(3,1)': 0.71, 'ICC(1,k)': 0.44, 'ICC(2,k)': 0.62, 'ICC(3,k)': 0.91}
    """
    y = np.asarray(ratings, float)
    if y.ndim != 2 or min(y.shape) < 2 or not np.isfinite(y).all():
        missing = f" with {np.sum(~np.isfinite(y))} missing" if y.ndim == 2 else ""
        raise ValueError(
            f"`ratings` must be a complete (N, R) table, at least two targets by two raters; found {y.shape}{missing}. "
            "Leave incomplete rows out, or use `extent_icc`."
        )
    if not 0 < level < 1:
        raise ValueError(f"Expected 0 < `level` < 1, found {level}.")
    n, k = y.shape
    squares = _mean_squares(y)
    single = {
        "1": _one_way(squares.targets, squares.within, (n - 1, n * (k - 1)), k, level),
        "2": _absolute(squares, n, k, level),
        "3": _one_way(squares.targets, squares.residual, (n - 1, (n - 1) * (k - 1)), k, level),
    }
    mean = {f"ICC({form},k)": _of_mean(one, k) for form, one in single.items()}
    return ICCForms({**{f"ICC({form},1)": one for form, one in single.items()}, **mean})


def _mean_squares(y: NDArray[np.float64]) -> _Squares:
    n, k = y.shape
    size = np.abs(y).max()
    y = y - y.mean()
    by_target, by_rater = y.mean(1, keepdims=True), y.mean(0)
    targets, raters = k * (by_target**2).sum(), n * (by_rater**2).sum()
    residual, within = ((y - by_target - by_rater) ** 2).sum(), ((y - by_target) ** 2).sum()
    nothing = 1e-24 * (y**2).sum() + 1e-30 * (size**2) * y.size  # rounding
    targets, raters, residual, within = (0.0 if x <= nothing else float(x) for x in (targets, raters, residual, within))
    return _Squares(targets / (n - 1), raters / (k - 1), residual / (n - 1) / (k - 1), within / n / (k - 1))


def _one_way(between: float, within: float, df: tuple[int, int], k: int, level: float) -> ICCForm:
    """Targets against one kind of error: forms 1 and 3, whose intervals are exact by the F distribution."""
    from scipy.stats import f as f_distribution  # noqa: PLC0415 (a third of the package's import time)

    statistic = _divide(between, within)
    tail = (1 + level) / 2
    low = statistic / float(f_distribution.ppf(tail, *df))
    high = statistic * float(f_distribution.ppf(tail, *df[::-1]))
    p = float(f_distribution.sf(statistic, *df))
    value, low, high = (_from_f(x, k) for x in (statistic, low, high))
    return ICCForm(value, low, high, statistic, df, p)


def _absolute(squares: _Squares, n: int, k: int, level: float) -> ICCForm:
    """Form 2: two kinds of error, whose mixture has the degrees of freedom of Satterthwaite."""
    from scipy.stats import f as f_distribution  # noqa: PLC0415

    targets, raters, residual, _ = squares
    error = k * raters + (k * n - k - n) * residual
    value = _divide(n * (targets - residual), n * targets + error)
    rest = residual * (n * (1 + (k - 1) * value) - k * value)
    # Multiplied by the squared residual, so that it may be 0.
    spread = (n - 1) * (k * value * raters) ** 2 + rest**2
    df = _divide((k - 1) * (n - 1) * (k * value * raters + rest) ** 2, spread) if spread > 0 else 1.0
    tail = (1 + level) / 2
    down, up = float(f_distribution.ppf(tail, n - 1, df)), float(f_distribution.ppf(tail, df, n - 1))
    low = _divide(n * (targets - down * residual), down * error + n * targets)
    high = _divide(n * (up * targets - residual), error + n * up * targets)
    against = _one_way(targets, residual, (n - 1, (n - 1) * (k - 1)), k, level)
    return against._replace(value=value, low=low, high=high)


def _of_mean(one: ICCForm, k: int) -> ICCForm:
    """Spearman and Brown: reliability of the mean of ``k`` ratings."""
    value, low, high = (_divide(k * x, 1 + (k - 1) * x) for x in (one.value, one.low, one.high))
    return one._replace(value=value, low=low, high=high)


def _from_f(statistic: float, k: int) -> float:
    return 1.0 if statistic == math.inf else (statistic - 1) / (statistic + k - 1)


def _divide(a: float, b: float) -> float:
    if b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)
    return a / b
