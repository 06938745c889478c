"""A linear model of each measure on the manifest's covariates."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from irrbench.reliability.covariates import IMAGES_PER_TERM, Design, independent_columns

Floats = NDArray[np.float64]
ALONE = "one image or group alone determines it"
_SINGULAR = 1e-9
COLUMNS = ["measure", "covariate", "contrast", "estimate", "low", "high", "p", "n", "units", "reason"]


class Estimate(NamedTuple):
    """A coefficient, its interval and p-value; NaN with a reason."""

    value: float
    low: float
    high: float
    p: float
    reason: str


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
    kept, reasons = independent_columns(x)
    reason = _too_few(len(x), units, len(kept), y)
    fitted = {} if reason else _fit(x[kept], y, labels, level)
    nothing = Estimate(math.nan, math.nan, math.nan, math.nan, "")
    rows = []
    for name, term in design.terms.items():
        found = fitted.get(name, nothing)
        why = reason or reasons.get(name) or found.reason
        rows.append(dict(zip(COLUMNS, (measure, *term, *found[:4], len(x), units, why), strict=True)))
    return rows


def _too_few(n: int, units: int, terms: int, y: Floats) -> str:
    if min(n, units) < IMAGES_PER_TERM * (terms + 1):
        what = f"{n} images" if n == units else f"{n} images of {units} groups"
        return f"{what} for {terms} terms, expected {IMAGES_PER_TERM} or more for each and for the intercept"
    return "the measure does not vary" if np.ptp(y) == 0 else ""


def _fit(x: pd.DataFrame, y: Floats, groups: Sequence[Hashable], level: float) -> dict[str, Estimate]:
    import statsmodels.api as sm  # noqa: PLC0415 (seconds)

    table = sm.add_constant(x.to_numpy(float), has_constant="add")
    codes = pd.factorize(np.array(groups, dtype=object))[0]
    model, alone = sm.OLS(y, table), _resting_on_one_group(table, codes)
    with np.errstate(all="ignore"):  # where one image determines a term, HC3 divides by zero
        if len(set(groups)) < len(groups):
            fitted = model.fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
        else:
            fitted = model.fit(cov_type="HC3", use_t=True)
        ends = fitted.conf_int(alpha=1 - level)
        columns = np.column_stack([fitted.params, ends, fitted.pvalues])[1:]
    return {
        str(name): Estimate(value, math.nan, math.nan, math.nan, ALONE) if lone else Estimate(value, low, high, p, "")
        for name, (value, low, high, p), lone in zip(x.columns, columns.tolist(), alone[1:], strict=True)
    }


def _resting_on_one_group(table: Floats, codes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which columns one group alone tells apart from the others: nothing says how much such a coefficient varies."""
    whole = table.T @ table
    scale = np.sqrt(np.diag(whole))
    alone = np.zeros(table.shape[1], bool)
    parts = [table[codes == code] for code in range(codes.max() + 1)]
    without = np.array([whole - part.T @ part for part in parts]) / np.outer(scale, scale)
    values, vectors = np.linalg.eigh(without)
    for value, vector in zip(values, vectors, strict=True):
        alone |= (np.abs(vector[:, value < _SINGULAR]) > _SINGULAR**0.5).any(1)
    return alone
