"""Results for people: one HTML page that needs no network, and a table in the terminal."""

from __future__ import annotations

from irrbench.report.benchmark import benchmark_page
from irrbench.report.galleries import Gallery, make_galleries
from irrbench.report.page import Picture, write_page
from irrbench.report.robustness import robustness_findings
from irrbench.report.terminal import noise_table, terminal_table

__all__ = [
    "Gallery",
    "Picture",
    "benchmark_page",
    "make_galleries",
    "noise_table",
    "robustness_findings",
    "terminal_table",
    "write_page",
]
