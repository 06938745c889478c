"""The result of a benchmark in a few sentences: the first thing on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from irrbench.plots.style import isolate, number, score_title
from irrbench.report.numbers import level_in_percent, p_value, share, to_float, two_digits
from irrbench.stats import MIN_GROUPS_FOR_TESTS, MIN_IMAGES_OF_SUBGROUP

if TYPE_CHECKING:
    from irrbench.analysis.results import Results


def headline(results: Results) -> str:
    """Say in one or two sentences how far the best model is between the naive and the average rater, and how sure."""
    score, best = results.score, results.best
    floor, ceiling = map(two_digits, results.bounds(score))
    title, bounds = score_title(score), f"the average rater reaches {ceiling}, the naive rater {floor}"
    if best is None:
        return f"No model has a defined {title}; {bounds}."
    who = f"The best of {len(results.models)} models" if len(results.models) > 1 else "The model"
    value = f"{two_digits(best[score])}{_interval(best, score, results.level)}"
    on = ""
    if results.n_images is not None:
        on = f" on {_count(results.n_images, 'image')}"
        if results.n_groups and results.unit:
            on += f" of {_count(results.n_groups, 'group')}" + (f" ({results.unit})" if results.unit != "group" else "")
    reached = f"{who}, {isolate(str(best['name']))}, reaches {title} {value}{on}"
    normalized = to_float(best.get(f"{score}_normalized"))
    if math.isnan(normalized):
        return f"{reached}; {bounds}. No normalized score is given: {why_no_share(results, score)}."
    return f"{reached}; {bounds}: {_position(normalized, best, score)}."


def _interval(row: Mapping[str, Any], column: str, level: float) -> str:
    low, high = (to_float(row.get(f"{column}_{end}")) for end in ("low", "high"))
    if not math.isfinite(low + high):
        return ""
    return f" ({level_in_percent(level)} interval {two_digits(low)} to {two_digits(high)})"


def _count(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _position(normalized: float, row: Mapping[str, Any], score: str) -> str:
    if normalized < 0:
        return "the model scores worse than the naive rater"
    low, high = (to_float(row.get(f"{score}_normalized_{end}")) for end in ("low", "high"))
    interval = f" ({share(low)} to {share(high)})" if math.isfinite(low + high) else ""
    if normalized > 1:
        way = f"{share(normalized)}{interval} of the way from naive to average"
        return f"the model passes the average rater ({way}), which can be a real result: see below"
    return f"{share(normalized)}{interval} of the way from the naive to the average rater"


def why_no_share(results: Results, score: str) -> str:
    """Say why a score has no normalized value."""
    floor, ceiling = results.bounds(score)
    if math.isnan(floor + ceiling):
        return "floor or ceiling is undefined on all images"
    if results.is_inverted(score):
        return "the naive rater is not worse than the average rater"
    return "on these images the difference between floor and ceiling cannot be distinguished from zero"


def no_shares(results: Results) -> list[str]:
    """Return one sentence for each reason why models have a value but no normalized value."""
    models = results.leaderboard[results.leaderboard["role"] == "model"]
    reasons: dict[str, list[str]] = {}
    for score in results.scores:
        normalized = models.get(f"{score}_normalized")
        if normalized is not None and (models[score].notna() & normalized.isna()).any():
            reasons.setdefault(why_no_share(results, score), []).append(score_title(score))
    return [f"No normalized score for {', '.join(titles)}: {reason}." for reason, titles in reasons.items()]


def cautions(results: Results) -> list[str]:
    """What makes the numbers weak, to be seen before them."""
    found = []
    if results.has_few_groups and results.n_groups is not None:
        count = _count(results.n_groups, "image")
        if results.unit:
            count = f"{_count(results.n_groups, 'independent group')} of images ({results.unit})"
        found.append(
            f"Only {count}: fewer than {MIN_GROUPS_FOR_TESTS} are too few to tell differences from chance, so no "
            "p-values and no verdicts are shown (the CSV files have them). Read the intervals as rough."
        )
    if not results.subgroups.empty:
        small = results.subgroups[results.subgroups["n_images"] < MIN_IMAGES_OF_SUBGROUP]
        rows = small.drop_duplicates(["column", "subgroup"]).to_dict("records")
        named = ", ".join(f"{row['column']} {row['subgroup']} ({int(row['n_images'])})" for row in rows)
        found += [f"Subgroups of fewer than {MIN_IMAGES_OF_SUBGROUP} images say little: {named}."] if rows else []
    return found


def findings(results: Results) -> list[str]:
    """What the tests say of the best model; nothing where there are too few groups."""
    best = results.best
    if best is None or results.has_few_groups:
        return []
    sentences = (_against_ceiling(results, best), _against_next(results, best))
    return [sentence for sentence in sentences if sentence]


def _against_ceiling(results: Results, best: Mapping[str, Any]) -> str:
    rows = [row for row in _rows(results, results.verdicts) if row["name"] == best["name"]]
    if not rows or not math.isfinite(float(rows[0]["ceiling_difference"])):
        return ""
    row, margin = rows[0], float(rows[0]["margin"])
    by = f"{number(row['ceiling_difference'])}{_interval(row, 'ceiling_difference', results.level)}"
    with_margin = f" (margin {margin:g})" if math.isfinite(margin) else ""
    return f"Its difference from the average rater is {by}: {row['ceiling_verdict']}{with_margin}."


def _against_next(results: Results, best: Mapping[str, Any]) -> str:
    """Say whether the lead of the best model over the next one is more than chance."""
    others = [name for name in results.models if name != best["name"]]
    pair = {str(best["name"]), *others[:1]}
    rows = [row for row in _rows(results, results.comparisons) if {row["name"], row["versus"]} == pair]
    if not others or not rows or not math.isfinite(float(rows[0]["difference"])):
        return ""
    p = p_value(float(rows[0]["p_holm"]))
    is_chance = rows[0]["verdict"] == "not distinguishable"
    chance = "is not distinguishable from chance" if is_chance else "is more than chance"
    return (
        f"Its lead of {number(abs(float(rows[0]['difference'])))} over the next, {isolate(others[0])}, {chance} "
        f"(p {p if p.startswith('<') else f'= {p}'} after Holm's correction)."
    )


def _rows(results: Results, frame: Any) -> list[dict[str, Any]]:
    """A frame's rows of the main score."""
    frame = results.of_scores(frame)
    rows: list[dict[str, Any]] = [] if frame.empty else frame[frame["score"] == results.score].to_dict("records")
    return rows
