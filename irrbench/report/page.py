"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, NamedTuple

from irrbench.plots import band_plot, learning_curves, score_against_agreement
from irrbench.plots.rows import need_columns, score_columns
from irrbench.plots.style import model_styles
from irrbench.plots.text import score_title
from irrbench.report.pictures import figure_html, panels_html
from irrbench.report.style import CSS
from irrbench.report.tables import comparisons_table, leaderboard_table, pairs_table
from irrbench.report.words import FORMULA, HOW_TO_READ, dashes, headline

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

# The policy lets the page show what it holds and nothing else: no script runs, nothing is loaded.
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>$title</title>
<style>$css</style>
</head>
<body>
<main>
<h1>$title</h1>
$note
<p class="headline">$headline</p>
<nav aria-label="Sections">$links</nav>
$sections
</main>
</body>
</html>
""")


class Section(NamedTuple):
    """One part of the page; an empty body leaves it out."""

    anchor: str
    title: str
    body: str


def write_report(
    path: str | Path,
    *,
    title: str,
    note: str,
    leaderboard: pd.DataFrame,
    per_image: pd.DataFrame,
    comparisons: pd.DataFrame | None = None,
    curves: pd.DataFrame | None = None,
    panels: Sequence[tuple[str, NDArray[np.uint8]]] | None = None,
    agreement: pd.Series | None = None,
    rules: Mapping[str, str],
    versions: Mapping[str, str],
    config_yaml: str,
    command: str,
    scores: Iterable[str] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Path:
    """Write the report as one file and return its path; a reader never finds half a file.

    Args:
        path: of the HTML file.
        title: heading of the page.
        note: what every reader must know, such as "rendered images"; may be empty.
        leaderboard: ``name``, ``role``, ``n_images`` and per score ``s``, ``s_low``, ``s_high``, ``s_normalized``; one
            row with role ``floor`` and one with ``ceiling``.
        per_image: ``name``, ``role``, ``image_id`` and one column per score.
        comparisons: ``name``, ``versus``, ``score``, ``difference``, ``low``, ``high``, ``p``, ``p_holm``, ``verdict``.
        curves: ``name``, ``epoch``, scores on the validation images, and there ``<score>_floor``, ``<score>_ceiling``.
        panels: captions and pictures (H, W, 3) uint8.
        agreement: the raters' agreement by ``image_id``; its name labels the axis.
        rules: rule by name (ties, undefined scores, exclusions).
        versions: version by program.
        config_yaml: the resolved configuration.
        command: what makes this report again.
        scores: which, the one that counts first; all in the leaderboard by default.
        colours: colour by model; the palette in the leaderboard's order by default.

    Raises:
        ValueError: if a frame lacks a column or the bounds, or no score is left.
    """
    chosen = score_columns(leaderboard) if scores is None else tuple(scores)
    if not chosen:
        raise ValueError(f"`leaderboard` must have a score column; found {', '.join(map(str, leaderboard.columns))}.")
    need_columns(leaderboard, ("name", "role", *chosen), what="`leaderboard`")
    names = leaderboard.loc[leaderboard["role"] == "model", "name"]
    shown = {name: style.colour for name, style in model_styles(names, colours).items()}
    colours = {**(colours or {}), **shown}
    sections = [
        Section("band", "Between the naive and the average rater", _band(leaderboard, chosen, note, colours)),
        Section("leaderboard", "Leaderboard", _leaderboard(leaderboard, chosen, colours)),
        Section("reading", "How to read this", definitions(HOW_TO_READ)),
        Section("curves", "Learning curves", _curves(curves, chosen[0], colours)),
        Section("comparisons", "Comparisons", _comparisons(comparisons, chosen)),
        Section("agreement", "Score and agreement of the raters", _agreement(per_image, agreement, chosen[0], colours)),
        Section("images", "Images", panels_html(panels) if panels else ""),
        Section("rules", "Rules used", definitions(rules.items())),
        Section("reproduce", "How to reproduce", reproduce(command, config_yaml, versions)),
    ]
    return write_page(Path(path), render(title, note, headline(leaderboard, chosen[0]), sections))


def render(title: str, note: str, sentence: str, sections: Iterable[Section]) -> str:
    """Return the page; title, note and sentence are text, the sections' bodies HTML."""
    kept = [section for section in sections if section.body]
    return _PAGE.substitute(
        title=escape(title),
        css=CSS,
        note=f'<p class="note" role="note">{escape(note)}</p>' if note else "",
        headline=escape(sentence),
        links="".join(f'<a href="#{part.anchor}">{escape(part.title)}</a>' for part in kept),
        sections="\n".join(
            f'<section id="{part.anchor}"><h2>{escape(part.title)}</h2>\n{part.body}</section>' for part in kept
        ),
    )


def _band(leaderboard: pd.DataFrame, scores: Sequence[str], note: str, colours: Mapping[str, str]) -> str:
    figure = band_plot(leaderboard, scores=scores, note=note, colours=colours)
    alt = "Per score: the naive rater's and the average rater's mean, and each model's with its interval between them."
    return figure_html(figure, alt=alt, caption="Numbers: naive and average rater. All values are in the table below.")


def _leaderboard(leaderboard: pd.DataFrame, scores: Sequence[str], colours: Mapping[str, str]) -> str:
    reasons = "".join(f"<li>{escape(sentence)}</li>" for sentence in dashes(leaderboard, scores))
    reasons = f'<ul class="quiet">{reasons}</ul>' if reasons else ""
    return (
        '<p class="quiet lead">Mean over images, <span class="share">normalized score</span>, and under them '
        '<span class="interval">the confidence interval of the mean</span>.</p>'
        f'{leaderboard_table(leaderboard, scores, colours)}<p class="formula">{escape(FORMULA)}</p>{reasons}'
    )


def _curves(curves: pd.DataFrame | None, score: str, colours: Mapping[str, str]) -> str:
    if curves is None or curves.empty or score not in curves.columns:
        return ""
    floor, ceiling = (float(curves[f"{score}_{role}"].mean()) for role in ("floor", "ceiling"))
    figure = learning_curves(curves, floor, ceiling, score=score, colours=colours)
    return figure_html(
        figure,
        alt=f"{score_title(score)} of each model by epoch, between the naive and the average rater.",
        caption="Validation images, with their own bounds.",
    )


def _comparisons(comparisons: pd.DataFrame | None, scores: Sequence[str]) -> str:
    if comparisons is None or not comparisons["score"].isin(scores).any():
        return ""
    comparisons = comparisons[comparisons["score"].isin(scores)]
    main = comparisons["score"] == scores[0]
    first = comparisons_table(comparisons[main].drop(columns="score")) if main.any() else ""
    rest = f"<details><summary>Other scores</summary>{comparisons_table(comparisons[~main])}</details>"
    lead = f"{score_title(scores[0])}: model minus the one it is compared with, and the interval of the difference."
    return f'<p class="quiet lead">{escape(lead)}</p>{first}{"" if main.all() else rest}'


def _agreement(per_image: pd.DataFrame, agreement: pd.Series | None, score: str, colours: Mapping[str, str]) -> str:
    if agreement is None or not _has_pairs(per_image, agreement, score):
        return ""
    figure = score_against_agreement(per_image, agreement, score=score, colours=colours)
    caption = "One dot per image; the lines join the medians of five equally large groups of images."
    return figure_html(figure, alt=f"{score_title(score)} per image against {agreement.name}.", caption=caption)


def _has_pairs(per_image: pd.DataFrame, agreement: pd.Series, score: str) -> bool:
    scored = per_image.loc[(per_image["role"] == "model") & per_image[score].notna(), "image_id"]
    return bool(scored.isin(agreement.dropna().index).any())


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Return terms and their explanations, in words, as HTML."""
    rows = "".join(f"<dt>{escape(str(term))}</dt><dd>{escape(str(text))}</dd>" for term, text in pairs)
    return f"<dl>{rows}</dl>" if rows else ""


def reproduce(command: str, config_yaml: str, versions: Mapping[str, str]) -> str:
    """Return what makes the report again as HTML: command, configuration, versions."""
    return (
        f'<p class="lead">Run again with this configuration and these versions:</p><pre>{escape(command)}</pre>'
        f"<details><summary>Configuration</summary><pre>{escape(config_yaml)}</pre></details>"
        f"<details><summary>Versions</summary>{pairs_table(versions, label='Versions')}</details>"
    )


def write_page(path: Path, text: str) -> Path:
    """Write a file that is either whole or not there, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
