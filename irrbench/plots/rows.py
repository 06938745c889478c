"""What a band figure shows, read from a leaderboard or from the metric's dictionary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from irrbench.plots.text import score_title

if TYPE_CHECKING:
    import pandas as pd

Number = Any  # a float, or what float() takes: a numpy scalar, a tensor of one value
NOT_SCORES = (
    *("name", "role", "n_images", "n_groups", "rank", "image_id", "epoch", "seed", "group"),
    *("column", "subgroup", "cut", "warning"),
)


@dataclass(frozen=True)
class Dot:
    """One model's value with its interval; NaN where there is none."""

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Row:
    """What one row shows: the band of one score and the models in it."""

    title: str
    floor: float
    ceiling: float
    upper: float = math.nan
    blind: float = math.nan
    dots: tuple[Dot, ...] = ()

    @property
    def is_upside_down(self) -> bool:
        """Whether the floor is at or above the ceiling."""
        return self.floor >= self.ceiling

    @property
    def means(self) -> tuple[float, ...]:
        """All finite means in the row."""
        values = (self.floor, self.ceiling, self.upper, self.blind, *(dot.value for dot in self.dots))
        return tuple(value for value in values if math.isfinite(value))

    @property
    def numbers(self) -> tuple[float, ...]:
        """All finite numbers in the row, the ends of intervals too."""
        ends = (end for dot in self.dots for end in (dot.low, dot.high))
        return (*self.means, *(value for value in ends if math.isfinite(value)))


def score_columns(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the scores of a frame: numeric columns that are not bounds, normalized values or counts."""
    endings = ("_low", "_high", "_normalized", "_floor", "_ceiling", "_upper")
    names = [str(column) for column in frame.select_dtypes("number").columns]
    return tuple(name for name in names if name not in NOT_SCORES and not name.endswith(endings))


def need_columns(frame: pd.DataFrame, columns: tuple[str, ...], *, what: str) -> None:
    """Refuse a frame that lacks a column.

    Raises:
        ValueError: naming the frame, the columns it needs, those it lacks and those it has.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        found = ", ".join(map(str, frame.columns))
        needed = ", ".join(columns)
        raise ValueError(f"{what} must have the columns {needed}; missing {', '.join(missing)}, found {found}.")


def rows_of_scores(values: Mapping[str, Number]) -> list[Row]:
    """Return one row per score that has a floor and a ceiling, by keys ``iou``, ``iou_floor``, ``iou_ceiling``.

    Raises:
        ValueError: if there is none.
    """
    names = (key.removesuffix("_floor") for key in values if key.endswith("_floor"))
    rows = [_mapped_row(values, name) for name in names if f"{name}_ceiling" in values]
    if not rows:
        found = ", ".join(map(str, values)) or "none"
        raise ValueError(
            f"a band needs a floor and a ceiling (keys such as iou_floor, iou_ceiling); found keys: {found}."
        )
    return rows


def _mapped_row(values: Mapping[str, Number], name: str) -> Row:
    floor, ceiling, upper = (float(values.get(f"{name}_{role}", math.nan)) for role in ("floor", "ceiling", "upper"))
    dots = (Dot("model", float(values[name])),) if name in values else ()
    return Row(score_title(name.rpartition("/")[2]), floor, ceiling, upper, dots=dots)


def row_of_leaderboard(leaderboard: pd.DataFrame, score: str, *, title: str | None = None) -> Row:
    """Return the row of one score; it is called as the score where no title is given.

    Raises:
        ValueError: if the frame lacks a column, or the row of the floor or the ceiling.
    """
    need_columns(leaderboard, ("name", "role", score), what="`leaderboard`")
    models = leaderboard[leaderboard["role"] == "model"]
    columns = [models.get(key) for key in (score, f"{score}_low", f"{score}_high")]
    filled = [[math.nan] * len(models) if column is None else column.astype(float) for column in columns]
    dots = tuple(Dot(str(name), *values) for name, *values in zip(models["name"], *filled, strict=True))
    floor, ceiling = (bound(leaderboard, score, role) for role in ("floor", "ceiling"))
    upper, blind = (bound(leaderboard, score, role, needed=False) for role in ("upper", "blind"))
    return Row(score_title(score) if title is None else title, floor, ceiling, upper, blind, dots)


def bound(leaderboard: pd.DataFrame, score: str, role: str, *, needed: bool = True) -> float:
    """Return the score of the one row with a role; NaN where it is not needed and not there.

    Raises:
        ValueError: if there is no such row, or more than one.
    """
    values = leaderboard.loc[leaderboard["role"] == role, score]
    if len(values) == 0 and not needed:
        return math.nan
    if len(values) != 1:
        raise ValueError(
            f"`leaderboard` must have one row with role {role!r}; found {len(values)}. Add it or keep one."
        )
    return float(values.iloc[0])
