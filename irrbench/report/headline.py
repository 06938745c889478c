"""The result in a few sentences: the first thing on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from irrbench.plots.bands import bound
from irrbench.plots.style import isolate, number, score_title
from irrbench.report.content import FEW_GROUPS, FEW_IMAGES, Report, percent, share, why_no_share

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[Any, Any]


def headline(report: Report) -> str:
    """Say in one or two sentences how far the best model is between the naive and the average rater, and how sure."""
    floor, ceiling = (number(bound(report.leaderboard, report.score, role), digits=2) for role in ("floor", "ceiling"))
    title, bounds = score_title(report.score), f"the average rater reaches {ceiling}, the naive rater {floor}"
    best = _best(report)
    if best is None:
        return f"No model has a defined {title}; {bounds}."
    count = len(report.models)
    who = f"The best of {count} models" if count > 1 else "The model"
    interval = _ends(best, report.score, report.level, name=True)
    value = f"{number(best[report.score], digits=2)}{interval}"
    reached = f"{who}, {isolate(str(best['name']))}, reaches {title} {value}{_on(report)}"
    normalized = float(best.get(f"{report.score}_normalized", math.nan))
    if math.isnan(normalized):
        return f"{reached}; {bounds}. No normalized score is given: {why_no_share(report.leaderboard, report.score)}."
    return f"{reached}; {bounds}: {_way(normalized, best, report.score)}."


def _best(report: Report) -> Row | None:
    board = report.leaderboard
    models = board[board["role"] == "model"].dropna(subset=[report.score])
    if models.empty:
        return None
    best: Row = models.nlargest(1, report.score).to_dict("records")[0]
    return best


def _ends(row: Row, column: str, level: float, *, name: bool = False) -> str:
    low, high = (float(row.get(f"{column}_{end}", math.nan)) for end in ("low", "high"))
    if not math.isfinite(low + high):
        return ""
    kind = f"{percent(level)} interval " if name else ""
    return f" ({kind}{number(low, digits=2)} to {number(high, digits=2)})"


def _on(report: Report) -> str:
    images, groups = report.n_images, report.n_groups
    if images is None:
        return ""
    plural = "" if images == 1 else "s"
    return f" on {images} image{plural}" + (f" of {_groups(groups, report.unit)}" if groups and report.unit else "")


def _groups(count: int, unit: str) -> str:
    """Return how many groups, in the word that names their column.

    >>> _groups(87, "patient_id"), _groups(1, "patient"), _groups(3, "group")
    ('87 groups (patient_id)', '1 group (patient)', '3 groups')
    """
    plural = "" if count == 1 else "s"
    return f"{count} group{plural}" + (f" ({unit})" if unit != "group" else "")


def _way(normalized: float, row: Row, score: str) -> str:
    if normalized < 0:
        return "the model is below the naive rater"
    low, high = (float(row.get(f"{score}_normalized_{end}", math.nan)) for end in ("low", "high"))
    interval = f" ({share(low)} to {share(high)})" if math.isfinite(low + high) else ""
    if normalized > 1:
        way = f"{share(normalized)}{interval} of the way from naive to average"
        return f"the model passes the average rater ({way}), which can be honest: see below"
    return f"{share(normalized)}{interval} of the way from the naive to the average rater"


def cautions(report: Report) -> list[str]:
    """What makes the numbers weak, to be seen before them."""
    found = []
    if report.is_thin:
        found.append(
            f"Only {_independent(report)}: fewer than {FEW_GROUPS} are too few to tell differences from chance, so no "
            "p-values and no verdicts are shown (the CSV files have them). Read the intervals as rough."
        )
    small = {} if report.subgroups is None or report.subgroups.empty else _small_subgroups(report.subgroups)
    if small:
        named = ", ".join(f"{name} ({count})" for name, count in small.items())
        found.append(f"Subgroups of fewer than {FEW_IMAGES} images say little: {named}.")
    return found


def _independent(report: Report) -> str:
    plural = "" if report.n_groups == 1 else "s"
    if not report.unit:
        return f"{report.n_groups} image{plural}"
    return f"{report.n_groups} independent group{plural} of images ({report.unit})"


def _small_subgroups(subgroups: pd.DataFrame) -> dict[str, int]:
    small = subgroups[subgroups["n_images"] < FEW_IMAGES].drop_duplicates(["column", "subgroup"])
    return {f"{row['column']} {row['subgroup']}": int(row["n_images"]) for row in small.to_dict("records")}


def findings(report: Report) -> list[str]:
    """What the tests say of the best model; nothing where there are too few groups."""
    best = _best(report)
    if best is None or report.is_thin:
        return []
    sentences = (_against_ceiling(report, best), _against_next(report, best))
    return [sentence for sentence in sentences if sentence]


def _against_ceiling(report: Report, best: Row) -> str:
    verdicts = report.of_scores(report.verdicts)
    if verdicts is None:
        return ""
    rows = verdicts[(verdicts["name"] == best["name"]) & (verdicts["score"] == report.score)].to_dict("records")
    if not rows or not math.isfinite(float(rows[0]["ceiling_difference"])):
        return ""
    row = rows[0]
    by = f"{number(row['ceiling_difference'])}{_ends(row, 'ceiling_difference', report.level, name=True)}"
    margin = float(row["margin"])
    verdict = (
        f"{row['ceiling_verdict']}, by a margin of {margin:g}" if math.isfinite(margin) else row["ceiling_verdict"]
    )
    return f"Its difference from the average rater is {by}: {verdict}."


def _against_next(report: Report, best: Row) -> str:
    """Say whether the lead of the best model over the next one is more than chance."""
    comparisons = report.of_scores(report.comparisons)
    others = [name for name in report.models if name != best["name"]]
    if comparisons is None or not others:
        return ""
    pair = {str(best["name"]), others[0]}
    rows = comparisons[comparisons["score"] == report.score].to_dict("records")
    found = next((row for row in rows if {row["name"], row["versus"]} == pair), None)
    if found is None or not math.isfinite(float(found["difference"])):
        return ""
    lead = f"{number(abs(float(found['difference'])))}"
    p = float(found["p_holm"])
    chance = "is no more than chance may give" if found["verdict"] == "not distinguishable" else "is more than chance"
    return f"Its lead of {lead} over the next, {isolate(others[0])}, {chance} (p {_p(p)} after Holm's correction)."


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {number(p)}"
