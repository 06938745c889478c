"""Results as one JSON document, for other programs: ``results.json`` of a benchmark and of a study of raters.

Its keys are described in ``docs/reference/outputs.md``. A key may be added at any time; where one is renamed, removed
or means something else, :data:`FORMAT` grows by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from irrbench.plots.words import known_score, score_title
from irrbench.report.page import versions
from irrbench.report.text import report_moment

if TYPE_CHECKING:
    from irrbench.analysis.results import Results
    from irrbench.reliability.study import Study

FORMAT = 1
LONG_TABLES = ("per_image", "thresholds", "reliability")  # of a benchmark: a row an image or a level, in files alone
_OWN_KEYS = ("verdicts", "comparisons", "failures")
_NUMBERS = ("low", "high", "normalized", "normalized_low", "normalized_high", "n_images")


def benchmark_record(results: Results, packages: Sequence[str]) -> dict[str, Any]:
    """Return a benchmark as plain values, with None where a number is undefined.

    Args:
        results: of the benchmark.
        packages: whose versions are told.
    """
    tables = {
        name: rows(frame) for name, frame in results.frames().items() if name not in ("leaderboard", *LONG_TABLES)
    }
    return _plain_dict(
        {
            **_head("benchmark", results.command, packages),
            "data": {
                "name": results.name,
                "note": results.note,
                "digest": results.digests.get("data"),
                "n_images": results.n_images,
                "n_groups": results.n_groups,
                "group_column": results.unit or None,
                "raters": list(results.raters),
                **{name: results.settled.get(name) for name in ("split", "distance_unit")},
            },
            "rules": results.settled.get("rules", {}),
            "rules_in_words": results.rules,
            "level": results.level,
            "intervals": "range over raters" if results.is_descriptive else "confidence",
            "digests": results.digests,
            "scores": [_score(results, score) for score in results.scores],
            "candidates": [_candidate(results, row) for row in results.leaderboard.to_dict("records")],
            **{name: tables.get(name, []) for name in _OWN_KEYS},
            "tables": {name: table for name, table in tables.items() if name not in _OWN_KEYS},
            "cautions": results.cautions,
            "notes": results.notes,
        }
    )


def study_record(study: Study, packages: Sequence[str], *, command: str = "") -> dict[str, Any]:
    """Return a study of raters as plain values, with None where a number is undefined.

    Args:
        study: a finished study.
        packages: whose versions are told.
        command: that makes the report again.
    """
    data = study.data
    return _plain_dict(
        {
            **_head("reliability", command, packages),
            "data": {
                "name": data.name,
                "note": data.note,
                "digest": data.digest(),
                "n_images": len(data),
                "n_left_out": len(study.excluded),
                "n_groups": len(set(data.groups)),
                "group_column": data.group_column,
                "raters": list(data.raters),
                "distance_unit": data.unit,
            },
            "options": asdict(study.options),
            "measures": rows(study.summary),
            "tables": {
                name: rows(table) for name, table in study.tables.items() if name not in ("measures", "per_image")
            },
            "cautions": study.warnings,
            "notes": study.remarks,
        }
    )


def _head(kind: str, command: str, packages: Sequence[str]) -> dict[str, Any]:
    made = report_moment().isoformat(timespec="seconds")
    return {"format": FORMAT, "kind": kind, "created": made, "command": command, "versions": versions(packages)}


def _score(results: Results, name: str) -> dict[str, Any]:
    known = known_score(name)
    return {
        "name": name,
        "title": results.titles.get(name) or score_title(name),
        "higher_is_better": known.higher_is_better,
        "range": list(known.range),
        "unit": results.settled.get("distance_unit") if known.is_distance else None,
        "tolerance": results.settled.get("rules", {}).get(known.at) if known.at else None,
        "why_not_normalized": results.no_shares.get(name),
    }


def _candidate(results: Results, row: Mapping[Any, Any]) -> dict[str, Any]:
    """One row of the leaderboard, its columns grouped by score."""
    name = str(row["name"])
    scores = {
        score: {"mean": row[score], **{number: row.get(f"{score}_{number}") for number in _NUMBERS}}
        for score in results.scores
    }
    about = {"name": name, "role": row["role"], "rank": row.get("rank"), "caution": row.get("caution") or None}
    return {**about, "members": results.members.get(name, ()), "scores": scores}


def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table as a list of its rows, each by column."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers that are undefined or endless become None, what JSON lacks becomes text.

    >>> plain({"a": np.float64("nan"), "b": (np.int64(3), True, pd.NA), 4: math.inf})
    {'a': None, 'b': [3, True, None], '4': None}
    """
    if isinstance(value, Mapping):
        return _plain_dict(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _plain_dict(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): plain(value) for name, value in values.items()}
