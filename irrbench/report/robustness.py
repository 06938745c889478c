"""The section of a benchmark's report about label noise: its first sentences, figures and tables.

What is said is in the template ``benchmark.txt``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from irrbench.analysis.recipes import ALL_RECIPES, AREA, is_real
from irrbench.plots import dose_plot, tolerance_plot
from irrbench.plots.style import MODEL_COLOURS, Width
from irrbench.report.page import Column, Drawing, Section, choose_columns
from irrbench.report.text import sentence, sentences
from irrbench.scores import gain

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.analysis.results import Results

TEXTS = "benchmark.txt"
MOST_ROWS_SHOWN = 15  # at once; more are folded
_NOT_TESTED = ("undefined", "no verdict")
_TESTS = ("p_holm", "verdict", "first_below_ceiling", "first_below_clean")
COLUMNS = {
    "recipe": Column("recipe", "text"),
    "versus": Column("against", "text"),
    "noise": Column("noise", "text"),
    "bias": Column("bias", "text"),
    "label": Column("trained on", "text"),
    "dose": Column("dose", "text"),
    "doses": Column("doses", "text"),
    "area": Column("mean over doses", interval=("area_low", "area_high"), share="area_normalized"),
    "ceiling_words": Column("dose below average rater", "text"),
    "first_below_ceiling": Column("significantly from", "dose"),
    "clean_words": Column("dose below clean score less margin", "text"),
    "first_below_clean": Column("significantly from", "dose"),
    "difference": Column("difference", interval=("low", "high")),
    "value": Column("value"),
    "versus_value": Column("of the other"),
    "biased": Column("biased noise", "text"),
    "unbiased": Column("unbiased noise", "text"),
    "biased_value": Column("under biased"),
    "unbiased_value": Column("under unbiased"),
    "words": Column("costs as much as doses", "text"),
    "p_holm": Column("p (Holm)", "p"),
    "verdict": Column("verdict", "text"),
    "remark": Column("remark", "text"),
}
TABLES = {
    "tolerance": "recipe noise bias doses area ceiling_words first_below_ceiling clean_words first_below_clean remark",
    "recipes": "recipe versus noise dose value versus_value difference p_holm verdict",
    "biases": "recipe dose biased unbiased biased_value unbiased_value difference p_holm verdict",
    "equivalents": "label recipe noise words",
}


def robustness_section(results: Results, drawn: Mapping[str, Drawing]) -> Section:
    """Say and show how much label noise recipes stand; nothing where no labels were noisy."""
    if results.tolerance.empty:
        return Section()
    pairs = results.recipes
    areas = pairs[pairs["dose"] == AREA] if len(pairs) else pairs
    return Section(
        "robustness",
        "How much label noise the recipes stand",
        items=robustness_findings(results),
        style="lead",
        parts=[
            *(Section(figure=drawn[name]) for name in ("doses", "tolerance", "noise") if name in drawn),
            _table(results, results.tolerance, "tolerance", "What each recipe stands"),
            _table(results, results.equivalents, "equivalents", "What other labels cost, in doses"),
            _table(results, results.biases, "biases", "Biased beside unbiased noise"),
            _table(results, areas, "recipes", "Pairs of recipes, mean over doses"),
            _table(results, pairs, "recipes", "Pairs of recipes at each dose", is_folded=True),
        ],
    )


def _table(results: Results, frame: pd.DataFrame, name: str, title: str, *, is_folded: bool = False) -> Section:
    """A titled table, folded where it is long, without columns that say nothing here."""
    if frame.empty:
        return Section()
    columns = choose_columns(COLUMNS, TABLES[name])
    hidden = [key for key in ("dose", "doses") if key in frame and (frame[key] == frame[key].iloc[0]).all()]
    hidden += [column for column in columns if frame[column].isna().all() or (frame[column] == "").all()]
    hidden += _TESTS if results.has_few_groups or results.is_descriptive else ()
    shown = {key: column for key, column in columns.items() if key not in hidden}
    if "dose" in shown and frame["dose"].dtype == float:
        shown["dose"] = shown["dose"]._replace(kind="dose")
    table = Section(table=frame, columns=shown, label=title, note=results.note)
    is_long = is_folded or len(frame) > MOST_ROWS_SHOWN
    title = f"{title} ({len(frame)} rows)" if is_long else title
    return Section(title=title, text=sentence(TEXTS, f"{name}_table", results), parts=[table], is_folded=is_long)


def robustness_findings(results: Results) -> list[str]:
    """The first sentences: the best recipe, where recipes fall below the average rater, bias, and real labels."""
    frame = results.tolerance
    if frame.empty:
        return []
    return sentences(
        TEXTS,
        "robustness",
        results,
        _leaders(results, frame.dropna(subset=["area"])),
        [_falls(str(noise), rows) for noise, rows in frame.groupby("noise", sort=False)],
        _bias(results),
        _real_labels(results),
        results.counts_seeds,
    )


def _leaders(results: Results, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The best recipe of each noise by area, those noises together in which one recipe is the best.

    Areas are compared over the same doses, which are named where a noise has other doses for other labels.
    """
    found: dict[str, dict[str, Any]] = {}
    grids = frame.groupby("noise")["doses"].nunique().to_dict()
    for (noise, doses), rows in frame.groupby(["noise", "doses"], sort=False):
        order = (-gain(results.score, rows["area"].to_numpy(float))).argsort(kind="stable")
        best, *others = rows.iloc[order].to_dict("records")
        lists: dict[str, list[Any]] = {name: [] for name in ("noises", "areas", "shares", "apart", "level")}
        facts = found.setdefault(str(best["recipe"]), {"recipe": best["recipe"], "rivals": len(rows), **lists})
        name = f"{noise} ({doses})" if grids[noise] > 1 else str(noise)
        facts["noises"].append(name)
        facts["areas"].append(best["area"])
        facts["shares"] += [best["area_normalized"]] if math.isfinite(best["area_normalized"]) else []
        is_apart = _is_apart(results, str(noise), best, others[0]) if others else None
        if is_apart is not None:
            facts["apart" if is_apart else "level"].append(name)
    return list(found.values())


def _is_apart(results: Results, noise: str, one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool | None:
    """Whether the areas of two recipes are distinguishable; None where that is not tested."""
    rows = results.recipes
    rows = rows[(rows["noise"] == noise) & (rows["dose"] == AREA)]
    pair = {one["recipe"], other["recipe"]}
    verdicts = [row["verdict"] for row in rows.to_dict("records") if {row["recipe"], row["versus"]} == pair]
    if not verdicts or verdicts[0] in _NOT_TESTED:
        return None
    return bool(verdicts[0] != "not distinguishable")


def _falls(noise: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Where recipes fall below the average rater under one noise."""
    inside = rows.dropna(subset=["dose_below_ceiling"]).sort_values("dose_below_ceiling", kind="stable")
    starts = {words[:1] for words in rows["ceiling_words"]}
    return {
        "noise": noise,
        "inside": inside.to_dict("records"),
        "has_others": len(inside) < len(rows),
        "is_above": ">" in starts,
        "is_below_first": "<" in starts,
    }


def _bias(results: Results) -> dict[Any, Any] | None:
    """What biased noise costs more than unbiased at the dose nearest to 1, over all recipes or for the only one.

    At the largest doses nothing is left to be learnt under either. Nothing where that is not tested.
    """
    if results.biases.empty:
        return None
    frame = results.biases
    of_all = frame[frame["recipe"] == ALL_RECIPES]
    rows = of_all if len(of_all) else frame
    row = dict(rows.iloc[int((rows["dose"] - 1).abs().to_numpy().argmin())])
    if row["verdict"] in _NOT_TESTED:
        return None
    costs = [-gain(results.score, row[name]) for name in ("difference", "low", "high")]
    is_more = costs[0] >= 0
    cost, *ends = costs if is_more else [-value for value in costs]
    return {**row, "cost": cost, "low": min(ends), "high": max(ends), "is_more": is_more}


def _real_labels(results: Results) -> list[str]:
    """What it costs to train on real raters' labels, or else on other labels, with the best recipe; one for a label."""
    rows = results.equivalents
    if rows.empty:
        return []
    areas = results.tolerance.dropna(subset=["area"])
    areas = areas[areas["recipe"].isin(rows["recipe"])]
    if len(areas):
        best = areas["recipe"].iloc[int(gain(results.score, areas["area"].to_numpy(float)).argmax())]
        rows = rows[rows["recipe"] == best]
    real = rows[rows["label"].map(is_real)]
    return list(dict.fromkeys(map(str, (real if len(real) else rows)["sentence"])))


def recipe_colours(results: Results) -> dict[str, str]:
    """The colour of each recipe: that of its model without noise, where those differ."""
    frame = results.robustness.sort_values("dose", kind="stable").drop_duplicates("recipe")
    frame = frame.set_index("recipe").reindex(results.robustness["recipe"].drop_duplicates())
    own = {str(recipe): results.colours[str(name)] for recipe, name in frame["name"].items()}
    return own if len(set(own.values())) == min(len(own), len(MODEL_COLOURS)) else {}


def draw_robustness(results: Results) -> dict[str, Drawing]:
    """Draw score over dose, and the mean over doses."""
    if results.tolerance.empty:
        return {}
    look: dict[str, Any] = {"note": results.note, "colours": recipe_colours(results)}
    width: Width = "single" if len(set(results.robustness["noise"])) == 1 else "double"
    doses = dose_plot(results.robustness, score=results.score, equivalents=results.equivalents, width=width, **look)
    figures = {"doses": doses}
    if results.tolerance["area"].notna().any():
        figures["tolerance"] = tolerance_plot(results.tolerance, width="single", **look)
    return {name: Drawing(figure, *sentences(TEXTS, f"{name}_figure", results)) for name, figure in figures.items()}
