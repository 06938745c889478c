"""What it costs, side by side with what it could cost: both measured in turns in one run, results compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from studies.performance import agreement, bounds, counting, files, icc, startup, study, surfaces, validation_epoch
from studies.performance.report import machine, to_frame, to_markdown, to_table
from studies.performance.scaling import exponents, points, scaling_figure
from studies.performance.timing import Budget, Row

__all__ = [
    "SECTIONS",
    "Budget",
    "Row",
    "exponents",
    "machine",
    "measure",
    "points",
    "scaling_figure",
    "to_frame",
    "to_markdown",
    "to_table",
]

SECTIONS = {
    "counting": counting.rows,
    "bounds": bounds.rows,
    "surfaces": surfaces.rows,
    "agreement": agreement.rows,
    "icc": icc.rows,
    "study": study.rows,
    "files": files.rows,
    "startup": startup.rows,
    "callback": validation_epoch.rows,
}


def measure(sections: Sequence[str] = tuple(SECTIONS), *, budget: Budget | None = None) -> Iterator[Row]:
    """Measure row by row.

    Args:
        sections: some of :data:`SECTIONS`.
        budget: of each row.

    Raises:
        ValueError: if there is no such section.
    """
    unknown = [name for name in sections if name not in SECTIONS]
    if unknown:
        raise ValueError(f"`sections` must be among {', '.join(SECTIONS)}; found {', '.join(unknown)}.")
    for name in sections:
        yield from SECTIONS[name](budget or Budget())
