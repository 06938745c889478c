"""Which manifest columns may explain a measure, and the table of numbers that a linear model is fitted on.

A number enters standardised: its coefficient is the change of the measure for one standard deviation. Anything else is
a category, coded by treatment: a coefficient is the difference from the most frequent category.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_float_dtype, is_numeric_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_LEVELS = 10
FEW = 5  # images below which a category is put together with other rare ones
OTHER = "(rare)"
IMAGES_PER_TERM = 5


class Term(NamedTuple):
    """One column of the model: the covariate, and what a coefficient compares."""

    covariate: str
    contrast: str


class Design(NamedTuple):
    """The right-hand side of the model.

    Attributes:
        table: one row an image, a column for each term; NaN where the covariate is missing.
        terms: of the columns.
        skipped: why by column of the manifest that is no covariate.
    """

    table: pd.DataFrame
    terms: dict[str, Term]
    skipped: dict[str, str]


def make_design(
    manifest: pd.DataFrame, wanted: Sequence[str] | None, *, raters: Sequence[str], group_column: str | None
) -> Design:
    """Turn manifest columns into terms.

    Args:
        manifest: one row an image.
        wanted: columns; by default those that look like covariates, see :func:`why_no_covariate`.
        raters: names, as columns about single raters (``area_<rater>``) are no covariates by default.
        group_column: which groups the images.

    Raises:
        ValueError: if a wanted column is not there.
    """
    unknown = [name for name in wanted or () if name not in manifest]
    if unknown:
        known = ", ".join(map(str, manifest.columns)) or "none"
        raise ValueError(f"covariates: no column {unknown[0]!r} in the manifest; its columns are {known}.")
    skipped = {} if wanted is not None else _unlikely(manifest, raters, group_column)
    columns: dict[str, pd.Series] = {}
    terms: dict[str, Term] = {}
    for name in manifest.columns if wanted is None else wanted:
        reason = skipped.get(name) or _no_contrast(manifest[name])
        if reason:
            skipped[name] = reason
            continue
        for term, column in _code(str(name), manifest[name]):
            columns[f"{term.covariate}: {term.contrast}"] = column
            terms[f"{term.covariate}: {term.contrast}"] = term
    return Design(pd.DataFrame(columns, index=manifest.index), terms, skipped)


def _unlikely(manifest: pd.DataFrame, raters: Sequence[str], group_column: str | None) -> dict[str, str]:
    reasons = {str(name): why_no_covariate(manifest[name], raters) for name in manifest}
    if group_column is not None:
        reasons[group_column] = "groups the images"
    return {name: why for name, why in reasons.items() if why}


def why_no_covariate(column: pd.Series, raters: Sequence[str]) -> str:
    """Why a column is left out unless it is asked for: splits, names, and what belongs to single raters.

    Example:
        >>> why_no_covariate(pd.Series([101, 102, 103, 104], name="annotation"), [])
        'every image has its own whole number, as a name has'
        >>> why_no_covariate(pd.Series([61, 40, 18, 40], name="age"), [])
        ''
        >>> why_no_covariate(pd.Series(["61", "40", "18", "n.a."], name="age"), [])
        "numbers but for 1, such as 'n.a.': leave the cell empty where nothing is known"
    """
    name = str(column.name)
    if name == "split":
        return "says how images are used"
    if name in ("group", "patient", "patient_id", "image_id"):
        return "a name"
    if any(name.endswith(f"_{rater}") for rater in raters):
        return "about a single rater"
    levels, images = column.nunique(), column.notna().sum()
    if is_numeric_dtype(column):
        counts_up = not is_float_dtype(column) and levels == images > 0
        return "every image has its own whole number, as a name has" if counts_up else ""
    many = f"{levels} categories, more than {MAX_LEVELS}" if levels > MAX_LEVELS else ""
    return _nearly_numbers(column) or ("nearly every image has its own value" if levels > 0.5 * images else many)


def _nearly_numbers(column: pd.Series) -> str:
    """Why a column of numbers is none, such as an 'n.a.' among them."""
    texts = column.dropna().astype(str)
    wrong = texts[pd.to_numeric(texts, errors="coerce").isna()]
    if not 0 < 2 * len(wrong) < len(texts):
        return ""
    return f"numbers but for {len(wrong)}, such as {wrong.iloc[0]!r}: leave the cell empty where nothing is known"


def _no_contrast(column: pd.Series) -> str:
    if column.notna().sum() == 0:
        return "no values"
    return "one value only" if len(column.dropna().unique()) == 1 else ""


def _code(name: str, column: pd.Series) -> Iterable[tuple[Term, pd.Series]]:
    if is_numeric_dtype(column) and not is_bool_dtype(column):
        numbers = column.astype(float).replace([np.inf, -np.inf], np.nan)
        sd = numbers.std()
        return [(Term(name, f"per SD ({sd:.3g})"), (numbers - numbers.mean()) / sd)]
    texts = column.astype("string")
    counts = texts.value_counts()
    rare = counts[counts < FEW].index
    texts = texts.mask(texts.isin(rare), OTHER) if len(rare) > 1 else texts
    reference, *levels = texts.value_counts().index
    return [
        (Term(name, f"{level} vs {reference}"), (texts == level).astype(float).where(texts.notna())) for level in levels
    ]


def independent_columns(table: pd.DataFrame) -> tuple[list[str], Mapping[str, str]]:
    """Columns that say something new beside the intercept and those before them, and why others are left out."""
    kept: list[str] = []
    dropped = {}
    whole = np.ones((len(table), 1))
    for name in table.columns:
        column = table[[name]].to_numpy(float)
        wider = np.column_stack([whole, column])
        if np.linalg.matrix_rank(wider) == wider.shape[1]:
            kept, whole = [*kept, name], wider
        else:
            dropped[name] = "follows from the terms before it"
    return kept, dropped


# A linear model of each measure on the manifest's covariates.


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
