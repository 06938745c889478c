"""Any frame as a table of the page: values, intervals, dashes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from irrbench.plots.words import DASH
from irrbench.report.page import Column, Page, Section, render

EVIL = "<script>alert('&')</script>"


def rendered(frame, columns, **more):
    section = Section("table", "A table", table=frame, columns=columns, label="t", **more)
    return render(Page(title="t", headline="h", sections=[section]))


FRAME = pd.DataFrame(
    {"name": [EVIL, "b"], "value": [0.12345, np.nan], "low": [0.1, np.nan], "high": [0.2, 1], "n": [3, 4]}
)


def test_values_intervals_and_dashes():
    columns = {
        "name": Column("name", "text"),
        "value": Column("value", interval=("low", "high")),
        "n": Column("n", "count"),
        "missing": Column("not there"),
    }
    text = rendered(FRAME, columns)
    assert EVIL not in text
    assert '0.123<br><span class="interval">0.100 to 0.200</span>' in text
    assert f"<td>{DASH}</td><td>4</td>" in text
    assert "not there" not in text


def test_percent_and_fine():
    text = rendered(FRAME, {"name": Column("", "text"), "value": Column("", "percent")})
    assert "12.35 %" in text
    tiny = rendered(FRAME.assign(value=[1e-9, 0.0]), {"name": Column("", "text"), "value": Column("", "percent")})
    assert "<td>&lt;0.01 %</td>" in tiny
    assert "<td>0.00 %</td>" in tiny
    assert "0.1235" in rendered(FRAME, {"n": Column(""), "value": Column("", "fine")})


def test_long_tables_are_cut_and_say_so():
    frame = pd.DataFrame({"name": [f"i{n}" for n in range(230)]})
    text = rendered(frame, {"name": Column("name", "text")})
    assert text.count('scope="row"') == 200
    assert "and 30 more rows" in text


def test_a_text_that_leads_to_an_empty_table_is_left_out():
    page = Page(
        title="t",
        headline="h",
        sections=[
            Section("empty", "Empty", text="leads on", table=FRAME.head(0)),
            Section(
                "parts", "Parts", text="leads on", parts=[Section("", "Folded", table=FRAME.head(0), is_folded=True)]
            ),
            Section("text", "Text", text="only a text"),
        ],
    )
    text = render(page)
    assert '<section id="text">' in text
    assert "leads on" not in text
    assert '<a href="#empty">' not in text
