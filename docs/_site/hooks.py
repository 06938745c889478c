"""What pages cannot hold themselves: the help of each command, as its parser prints it; how notebooks are run."""

import contextlib
import io
import os
import re
from pathlib import Path

import irrbench
from irrbench.commands.parsing import parse

PLACE = re.compile(r"<!-- help: ?([\w -]*?) ?-->")
SOURCE = re.compile(r'href="((?!https?:)[^"#]+)\.(?:md|ipynb)\b')
MERMAID = re.compile(
    r"<script type=.module.>\s*document.addEventListener.*?<!-- End of mermaid configuration -->", re.DOTALL
)
CONFIGS = str(Path(irrbench.__file__).parent / "configs")


def on_startup(**_):
    """Read `jupyter_nbconvert_config.json` beside this file: kernels say errors only, not that they have open ports."""
    os.environ["JUPYTER_CONFIG_PATH"] = str(Path(__file__).parent)


def on_page_markdown(markdown, **_):
    """Put the help of a command in the place of `<!-- help: command -->`."""
    return PLACE.sub(lambda place: f"```text\n{help_of(place[1].split())}\n```", markdown)


def on_post_page(output, page, **_):
    """Mend pages of notebooks: links to sources lead to pages, and the loader of Mermaid, on another server, goes."""
    if not page.file.src_uri.endswith(".ipynb"):
        return output
    return SOURCE.sub(r'href="\1.html', MERMAID.sub("", output))


def help_of(words):
    """What `irrbench WORDS --help` prints on a terminal of 88 columns, without this machine's paths."""
    text = io.StringIO()
    columns, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "88"
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            parse([*words, "--help"])
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    return text.getvalue().replace(CONFIGS, "irrbench/configs").strip()
