"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from irrbench.report.style import CSS
from irrbench.report.tables import pairs_table

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
$below<nav aria-label="Sections">$links</nav>
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


def render(title: str, note: str, sentence: str, sections: Iterable[Section], *, below: str = "") -> str:
    """Return the page; title, note and sentence are text, the sections' bodies and what is below the sentence HTML."""
    kept = [section for section in sections if section.body]
    return _PAGE.substitute(
        title=escape(title),
        css=CSS,
        note=f'<p class="note" role="note">{escape(note)}</p>' if note else "",
        headline=escape(sentence),
        below=below,
        links="".join(f'<a href="#{part.anchor}">{escape(part.title)}</a>' for part in kept),
        sections="\n".join(
            f'<section id="{part.anchor}"><h2>{escape(part.title)}</h2>\n{part.body}</section>' for part in kept
        ),
    )


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Return terms and their explanations, in words, as HTML."""
    rows = "".join(f"<dt>{escape(str(term))}</dt><dd>{escape(str(text))}</dd>" for term, text in pairs)
    return f"<dl>{rows}</dl>" if rows else ""


def reproduce(
    command: str, config_yaml: str, versions: Mapping[str, str], digests: Mapping[str, str] | None = None
) -> str:
    """Return what makes the report again as HTML: command, digests of what went in, configuration, versions."""
    same = pairs_table(digests, label="Digests") if digests else ""
    return (
        f'<p class="lead">Run again with this configuration and these versions:</p><pre>{escape(command)}</pre>{same}'
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
