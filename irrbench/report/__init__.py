"""Results for people: one HTML page that needs no network, and a table in the terminal."""

from __future__ import annotations

from irrbench.report.benchmark import write_report
from irrbench.report.content import Gallery, Picture, Report
from irrbench.report.terminal import terminal_table

__all__ = ["Gallery", "Picture", "Report", "terminal_table", "write_report"]
