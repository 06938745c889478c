"""The report of a benchmark: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from irrbench.report.content import Report
from irrbench.report.drawings import Drawing, draw_figures
from irrbench.report.headline import cautions, findings, headline
from irrbench.report.page import Section, definitions, render, reproduce, write_page
from irrbench.report.pictures import figure_html, galleries_html
from irrbench.report.sections import alternative, comparisons, seeds, separation, subgroups, verdicts
from irrbench.report.tables import leaderboard_table
from irrbench.report.words import FORMULA, HOW_TO_READ, dashes, percent


def write_report(path: str | Path, report: Report, drawings: Mapping[str, Drawing] | None = None) -> Path:
    """Write the report as one file and return its path; a reader never finds half a file.

    Args:
        path: of the HTML file.
        report: what it is made of.
        drawings: its figures, where they have been drawn already.

    Raises:
        ValueError: if a frame lacks a column or the bounds.
    """
    drawings = draw_figures(report) if drawings is None else drawings
    pictures = {name: figure_html(d.figure, alt=d.alt, caption=d.caption) for name, d in drawings.items()}
    sections = [
        Section("band", "Between the naive and the average rater", pictures.get("band", "")),
        Section("leaderboard", "Leaderboard", _leaderboard(report)),
        Section("reading", "How to read this", definitions(HOW_TO_READ)),
        Section("verdicts", "Better than careless, as good as a careful person?", verdicts(report)),
        Section("comparisons", "Which differences are more than chance", comparisons(report)),
        Section("alternative", "May a model stand in for a rater?", alternative(report)),
        Section("separation", "Which score tells models apart", separation(report)),
        Section("subgroups", "Subgroups of the images", subgroups(report, pictures.get("subgroups", ""))),
        Section("seeds", "How much the seed matters", seeds(report)),
        Section("curves", "Learning curves", pictures.get("curves", "")),
        Section("agreement", "Score and agreement of the raters", pictures.get("agreement", "")),
        Section("images", "Images", galleries_html(report.galleries, raters=report.raters, note=report.note)),
        Section("rules", "Rules used", definitions(report.rules.items())),
        Section(
            "reproduce",
            "How to reproduce",
            reproduce(report.command, report.config_yaml, report.versions, report.digests),
        ),
    ]
    return write_page(Path(path), render(report.title, report.note, headline(report), sections, below=_below(report)))


def _below(report: Report) -> str:
    warnings = "".join(f'<p class="caution" role="note">{escape(text)}</p>\n' for text in cautions(report))
    more = " ".join(findings(report))
    return (f'<p class="findings">{escape(more)}</p>\n' if more else "") + warnings


def _leaderboard(report: Report) -> str:
    remarks = report.remarks or dashes(report.leaderboard, report.scores)
    lead = (
        '<p class="quiet lead">Mean over images and <span class="share">normalized score</span>; under them the '
        f'{escape(percent(report.level))} <span class="interval">interval of each</span>. '
        f"{escape(_what_groups_are(report))}</p>"
    )
    return f'{lead}{leaderboard_table(report)}<p class="formula">{escape(FORMULA)}</p>{_list(remarks)}'


def _what_groups_are(report: Report) -> str:
    if report.n_groups is None:
        return ""
    if not report.unit:
        return "Every image counts as independent: nobody said which belong to one patient."
    return f"Groups: images that belong together ({report.unit}); uncertainty is counted by group."


def _list(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="quiet">{items}</ul>' if items else ""
