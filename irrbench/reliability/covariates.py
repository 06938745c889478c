"""Linear models of each measure on the manifest's covariates.

A number is standardised: its coefficient is the change of the measure for one standard deviation. Anything else is a
category, coded by treatment: a coefficient is the difference from the most frequent category.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_float_dtype, is_numeric_dtype

from irrbench.stats import Floats

MAX_LEVELS = 10  # categories of a column that is a covariate by default
MIN_IMAGES_OF_CATEGORY = 5  # categories with fewer images are merged into one
IMAGES_PER_TERM = 5
OTHER = "(rare)"
_WORDS_OF_MASKS = re.compile(
    r"(?:^|_|\W)(agreement|alpha|areas?|consensus|dice|disagreement|extent|icc|iou|jaccard|kappa|marked|masks?|overlap|"
    r"pairs?|prevalence|votes?)(?=$|_|\W)",
    re.IGNORECASE,
)
MEASURES_OF_MASKS = ("prevalence", "alpha")
SHARED_RANKS = 0.8  # of the variance of ranks: a correlation of .89
ONE_GROUP_DETERMINES = "one image or group alone determines it"
COLUMNS = ["measure", "covariate", "contrast", "estimate", "low", "high", "p", "n", "units", "reason"]
_SINGULAR = 1e-9  # eigenvalues of a scaled cross product below this are 0


class Term(NamedTuple):
    """One column of the model: the covariate, and what a coefficient compares."""

    covariate: str
    contrast: str


class Design(NamedTuple):
    """The right-hand side of the model.

    Attributes:
        table: one row an image, a column for each term; NaN where the covariate is missing.
        terms: of the columns.
        skipped: by column of the manifest that is no covariate: the reason.
    """

    table: pd.DataFrame
    terms: dict[str, Term]
    skipped: dict[str, str]


def check_covariates(manifest: pd.DataFrame, wanted: Sequence[str] | None) -> None:
    """Refuse covariates that are not there.

    Raises:
        ValueError: naming the column, and those that there are.
    """
    unknown = [name for name in wanted or () if name not in manifest]
    if unknown:
        known = ", ".join(map(str, manifest.columns)) or "none"
        raise ValueError(f"covariates: no column {unknown[0]!r} in the manifest; its columns are {known}.")


def make_design(
    manifest: pd.DataFrame,
    wanted: Sequence[str] | None,
    *,
    raters: Sequence[str],
    group_column: str | None,
    measures: pd.DataFrame | None = None,
) -> Design:
    """Turn manifest columns into terms.

    Args:
        manifest: one row an image.
        wanted: columns; by default those for which neither :func:`why_no_covariate` nor :func:`why_of_masks` gives a
            reason.
        raters: names, as columns about single raters (``area_<rater>``) are no covariates by default.
        group_column: the column that groups the images.
        measures: of the same images, by which columns that were computed from the masks are known.

    Raises:
        ValueError: if a wanted column is not there.
    """
    check_covariates(manifest, wanted)
    columns: dict[str, pd.Series] = {}
    terms: dict[str, Term] = {}
    skipped: dict[str, str] = {}
    for name in manifest if wanted is None else ():
        reason = "groups the images" if name == group_column else why_no_covariate(manifest[name], raters)
        reason = reason or why_of_masks(manifest[name], measures)
        skipped |= {str(name): reason} if reason else {}
    for name in map(str, manifest.columns if wanted is None else wanted):
        levels = manifest[name].dropna().unique()
        if name in skipped or len(levels) < 2:
            skipped.setdefault(name, "one value only" if len(levels) else "no values")
            continue
        for contrast, column in _code(manifest[name]).items():
            columns[f"{name}: {contrast}"] = column
            terms[f"{name}: {contrast}"] = Term(name, contrast)
    return Design(pd.DataFrame(columns, index=manifest.index), terms, skipped)


def why_no_covariate(column: pd.Series, raters: Sequence[str]) -> str:
    """Why a column is no covariate by default: splits, names, columns about single raters; empty if it is one.

    Example:
        >>> why_no_covariate(pd.Series([101, 102, 103, 104], name="annotation"), [])
        'every image has its own whole number, as a name has'
        >>> why_no_covariate(pd.Series([61, 40, 18, 40], name="age"), [])
        ''
        >>> why_no_covariate(pd.Series(["61", "40", "18", "n.a."], name="age"), [])
        "numbers but for 1, such as 'n.a.': leave the cell empty where nothing is known"
    """
    name = str(column.name)
    if name in ("split", "group", "patient", "patient_id", "image_id"):
        return "says how images are used" if name == "split" else "a name"
    if any(name.endswith(f"_{rater}") for rater in raters):
        return "about a single rater"
    levels, images = column.nunique(), column.notna().sum()
    if is_numeric_dtype(column):
        is_number = is_float_dtype(column) or not levels == images > 0
        return "" if is_number else "every image has its own whole number, as a name has"
    texts = column.dropna().astype(str)
    wrong = texts[pd.to_numeric(texts, errors="coerce").isna()]
    if 0 < 2 * len(wrong) < len(texts):
        return f"numbers but for {len(wrong)}, such as {wrong.iloc[0]!r}: leave the cell empty where nothing is known"
    if levels > 0.5 * images:
        return "nearly every image has its own value"
    return f"{levels} categories, more than {MAX_LEVELS}" if levels > MAX_LEVELS else ""


def why_of_masks(column: pd.Series, measures: pd.DataFrame | None = None) -> str:
    """Why a column seems to be computed from the masks, which explains their agreement by itself; empty if not.

    Either a word of its name says so, or prevalence or alpha determines it nearly: its ranks share more than
    ``SHARED_RANKS`` of their variance with it (of a category: the ranks of the measure, with the categories).

    Args:
        column: one row an image.
        measures: columns ``prevalence`` and ``alpha``, one row an image.

    Example:
        >>> why_of_masks(pd.Series([0.8, 0.7], name="mean_pair_dice"))
        "computed from the masks, by its name ('pair'); --covariates takes it in"
    """
    remedy = "--covariates takes it in"
    if word := _WORDS_OF_MASKS.search(str(column.name)):
        return f"computed from the masks, by its name ({word[1]!r}); {remedy}"
    for name in MEASURES_OF_MASKS:
        if measures is None:
            break
        measure = measures[name].set_axis(column.index)
        defined = column.notna() & measure.notna()
        if (share := _shared_ranks(column[defined], measure[defined].rank())) > SHARED_RANKS:
            return f"probably computed from the masks: it shares {share:.0%} of its ranks with {name}; {remedy}"
    return ""


def _shared_ranks(column: pd.Series, ranks: pd.Series) -> float:
    """Share of the variance of ranks of a measure that a column determines."""
    if len(column) < MIN_IMAGES_OF_CATEGORY or column.nunique() < 2 or ranks.nunique() < 2:
        return 0.0
    if is_numeric_dtype(column) and not is_bool_dtype(column):
        return float(np.corrcoef(column.rank(), ranks)[0, 1]) ** 2
    rest = ranks - ranks.groupby(column.astype(str)).transform("mean")
    free = len(ranks) - column.nunique()  # many small categories explain ranks by chance
    return 1 - float((rest**2).sum() / free / ranks.var()) if free > 0 else 0.0


def _code(column: pd.Series) -> dict[str, pd.Series]:
    """The columns of the model by contrast."""
    if is_numeric_dtype(column) and not is_bool_dtype(column):
        numbers = column.astype(float).replace([np.inf, -np.inf], np.nan)
        sd = numbers.std()
        return {f"per SD ({sd:.3g})": (numbers - numbers.mean()) / sd}
    texts = column.astype("string")
    counts = texts.value_counts()
    rare = counts[counts < MIN_IMAGES_OF_CATEGORY].index
    texts = texts.mask(texts.isin(rare), OTHER) if len(rare) > 1 else texts
    reference, *levels = texts.value_counts().index
    return {f"{level} vs {reference}": (texts == level).astype(float).where(texts.notna()) for level in levels}


def independent_columns(table: pd.DataFrame) -> list[str]:
    """Columns that are linearly independent of the intercept and of those before them."""
    kept: list[str] = []
    if table.empty:
        return kept
    whole = np.ones((len(table), 1))
    for name in table.columns:
        wider = np.column_stack([whole, table[[name]].to_numpy(float)])
        if np.linalg.matrix_rank(wider) == wider.shape[1]:
            kept, whole = [*kept, name], wider
    return kept


def regress_all(per_image: pd.DataFrame, design: Design, groups: Sequence[Hashable], *, level: float) -> pd.DataFrame:
    """Regress each measure on all covariates at once, by least squares.

    Intervals allow for images of one group (patient) to be alike (cluster-robust, Student's with one degree of freedom
    less than groups), and without groups for a variance that differs between images (HC3). Images that lack a covariate
    or the measure are left out of that model.

    Args:
        per_image: a column for each measure, one row an image, in the order of the design's.
        design: the right-hand side.
        groups: of the images.
        level: of the intervals.

    Returns:
        One row a measure and term: ``measure``, ``covariate``, ``contrast``, ``estimate``, ``low``, ``high``, ``p``,
        ``n``, ``units``, ``reason`` (why there is no estimate).
    """
    rows: list[tuple[object, ...]] = []
    table = design.table.set_axis(range(len(per_image)))
    for measure, values in per_image.items() if design.terms else ():
        defined = values.notna().to_numpy() & table.notna().all(axis=1).to_numpy()
        labels = [label for label, there in zip(groups, defined, strict=True) if there]
        x, y, units = table[defined], values.to_numpy(float)[defined], len(set(labels))
        kept, reason = independent_columns(x), ""
        if min(len(x), units) < IMAGES_PER_TERM * (len(kept) + 1):
            what = f"{len(x)} images" if len(x) == units else f"{len(x)} images of {units} groups"
            expected = f"expected {IMAGES_PER_TERM} or more for each and for the intercept"
            reason = f"{what} for {len(kept)} terms, {expected}"
        elif np.ptp(y) == 0:
            reason = "the measure does not vary"
        fitted = {} if reason else _fit(x[kept], y, labels, level)
        missing = (*[math.nan] * 4, reason or "follows from the terms before it")
        for name, term in design.terms.items():
            *numbers, why = fitted.get(name, missing)
            rows.append((measure, *term, *numbers, len(x), units, why))
    return pd.DataFrame(rows, columns=COLUMNS)


def _fit(x: pd.DataFrame, y: Floats, groups: Sequence[Hashable], level: float) -> dict[str, tuple[float | str, ...]]:
    """By term: the coefficient, its interval, its p-value, and why there are no interval and p-value."""
    import statsmodels.api as sm  # noqa: PLC0415 (slow to import)

    table = sm.add_constant(x.to_numpy(float), has_constant="add")
    codes = pd.factorize(np.array(groups, dtype=object))[0]
    model = sm.OLS(y, table)
    with np.errstate(all="ignore"):  # where one image determines a term, HC3 divides by zero
        if len(set(groups)) < len(groups):
            fitted = model.fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
        else:
            fitted = model.fit(cov_type="HC3", use_t=True)
        rows = np.column_stack([fitted.params, fitted.conf_int(alpha=1 - level), fitted.pvalues])
    determined = _determined_by_one_group(table, codes)
    rows[determined, 1:] = math.nan
    reasons = np.where(determined, ONE_GROUP_DETERMINES, "")
    return {
        str(name): (*row, str(why)) for name, row, why in zip(x.columns, rows[1:].tolist(), reasons[1:], strict=True)
    }


def _determined_by_one_group(table: Floats, codes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Columns that are linearly dependent on the others without some one group: their variance cannot be estimated."""
    whole = table.T @ table
    scale = np.sqrt(np.diag(whole))
    alone = np.zeros(table.shape[1], bool)
    order = np.argsort(codes, kind="stable")
    parts = np.split(table[order], np.flatnonzero(np.diff(codes[order])) + 1)
    without = np.array([whole - part.T @ part for part in parts]) / np.outer(scale, scale)
    values, vectors = np.linalg.eigh(without)
    for value, vector in zip(values, vectors, strict=True):
        alone |= (np.abs(vector[:, value < _SINGULAR]) > _SINGULAR**0.5).any(1)
    return alone
