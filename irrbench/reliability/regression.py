"""A linear model of each measure on the manifest's covariates."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from irrbench.reliability.covariates import IMAGES_PER_TERM, Design, independent_columns

COLUMNS = ["measure", "covariate", "contrast", "estimate", "low", "high", "p", "n", "units", "reason"]


def regress_all(
    per_image: pd.DataFrame, measures: Sequence[str], design: Design, groups: Sequence[Hashable], *, level: float
) -> pd.DataFrame:
    """Regress each measure on all covariates at once, by least squares.

    Intervals allow for images of one group (patient) to be alike (cluster-robust, Student's with one degree of freedom
    less than groups), and without groups for spread that differs between images (HC3). Images that lack a covariate or
    the measure are left out of that model.

    Args:
        per_image: a column for each measure, one row an image, in the order of the design's.
        measures: which.
        design: the right-hand side.
        groups: of the images.
        level: of the intervals.

    Returns:
        One row a measure and term: ``measure``, ``covariate``, ``contrast``, ``estimate``, ``low``, ``high``, ``p``,
        ``n``, ``units``, ``reason`` (why there is no estimate).
    """
    parts = [_regress(per_image[name], name, design, groups, level) for name in measures] if design.terms else []
    return pd.DataFrame([row for part in parts for row in part], columns=COLUMNS)


def _regress(
    values: pd.Series, measure: str, design: Design, groups: Sequence[Hashable], level: float
) -> list[dict[str, object]]:
    table = design.table.set_axis(range(len(values)))
    there = (values.notna().to_numpy()) & table.notna().all(axis=1).to_numpy()
    labels = [label for label, kept in zip(groups, there, strict=True) if kept]
    x, y = table[there], values.to_numpy(float)[there]
    units = len(set(labels))
    kept, dropped = independent_columns(x)
    reason = _too_few(len(x), units, len(kept), y)
    fitted = {} if reason else _fit(x[kept], y, labels, level)
    nothing = (math.nan,) * 4
    return [
        dict(
            zip(
                COLUMNS,
                (measure, *term, *fitted.get(name, nothing), len(x), units, reason or dropped.get(name, "")),
                strict=True,
            )
        )
        for name, term in design.terms.items()
    ]


def _too_few(n: int, units: int, terms: int, y: np.ndarray) -> str:
    if min(n, units) < IMAGES_PER_TERM * (terms + 1):
        what = f"{n} images" if n == units else f"{n} images of {units} groups"
        return f"{what} for {terms} terms, expected {IMAGES_PER_TERM} or more for each and for the intercept"
    return "the measure does not vary" if np.ptp(y) == 0 else ""


def _fit(
    x: pd.DataFrame, y: np.ndarray, groups: Sequence[Hashable], level: float
) -> Mapping[str, tuple[float, float, float, float]]:
    """Estimate, interval and p-value by term."""
    import statsmodels.api as sm  # noqa: PLC0415 (seconds)

    model = sm.OLS(y, sm.add_constant(x.to_numpy(float), has_constant="add"))
    codes = pd.factorize(np.array(groups, dtype=object))[0]
    if len(set(groups)) < len(groups):
        fitted = model.fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
    else:
        with np.errstate(all="ignore"):  # one image alone may determine a term: then HC3 has no variance for it
            fitted = model.fit(cov_type="HC3", use_t=True)
    ends = fitted.conf_int(alpha=1 - level)
    rows = zip(fitted.params[1:], ends[1:, 0], ends[1:, 1], fitted.pvalues[1:], strict=True)
    return {name: tuple(map(float, row)) for name, row in zip(x.columns, rows, strict=True)}  # type: ignore[misc]
