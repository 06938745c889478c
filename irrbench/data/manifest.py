"""manifest.csv: ids, splits, groups and covariates, or splits by a hash where it says nothing."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from irrbench.data.readers import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

SPLITS = ("train", "val", "test")
GROUP_COLUMNS = ("group", "patient_id", "patient")
TEXT_COLUMNS = ("image_id", "split", *GROUP_COLUMNS)
FILE = "manifest.csv"


class Manifest(NamedTuple):
    """The rows of the known images, in their order, and the column that groups them (or None)."""

    frame: pd.DataFrame
    group_column: str | None


def hashed_split(key: str) -> str:
    """The split of a group by its name alone: 60 % train, 15 % val, 25 % test, the same on every machine.

    Example:
        >>> hashed_split("LIDC-IDRI-0001"), hashed_split("LIDC-IDRI-0002")
        ('train', 'test')
    """
    percent = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100
    return "train" if percent < 60 else "val" if percent < 75 else "test"


def assign_splits(frame: pd.DataFrame, group_column: str | None) -> pd.DataFrame:
    """``frame`` (index ``image_id``) with a ``split`` column, hashed from the group or the id where it has none."""
    if "split" in frame:
        return frame
    keys = frame.index if group_column is None else frame[group_column]
    return frame.assign(split=[hashed_split(str(key)) for key in keys])


def read_manifest(
    root: Path, image_ids: Sequence[str], *, group_column: str | None = None
) -> tuple[Manifest, list[Problem]]:
    """The manifest of a folder restricted to ``image_ids``, and everything that is wrong with it."""
    path = root / FILE
    bare = pd.DataFrame(index=pd.Index(list(image_ids), name="image_id", dtype="str"))
    if not path.exists():
        problems = [] if group_column is None else [_no_column(group_column, ())]
        return Manifest(assign_splits(bare, None), None), problems
    frame, problems = _read_csv(path, group_column)
    if frame is None:
        return Manifest(assign_splits(bare, None), None), problems
    problems += _check_ids(list(frame["image_id"]), image_ids)
    column, found = _group_column(frame, group_column)
    problems += found
    rows = frame.drop_duplicates("image_id").set_index("image_id")
    if column is not None:
        rows[column] = rows[column].where(rows[column] != "", rows.index.to_series())
    if "split" in rows:
        problems += _check_splits(rows) + _check_groups(rows, column)
    return Manifest(assign_splits(rows.reindex(list(image_ids)), column), column), problems


def _read_csv(path: Path, group_column: str | None) -> tuple[pd.DataFrame | None, list[Problem]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            options: dict[str, Any] = {"index_col": False, "encoding": "utf-8-sig", "skipinitialspace": True}
            as_text: dict[str, Any] = options | {"dtype": str, "na_filter": False}
            names = pd.read_csv(path, header=None, nrows=1, **as_text).iloc[0].str.strip()
            typed, texts = pd.read_csv(path, **options), pd.read_csv(path, **as_text)
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        found = f"a table that cannot be read ({type(error).__name__}: {error})"
        return None, [Problem(FILE, found, "a comma-separated table in UTF-8", "export it again")]
    doubles = [name for name, times in Counter(names[names != ""]).items() if times > 1]
    if doubles:
        return None, [
            Problem(FILE, f"column {name!r} more than once", "one of a name", "rename it") for name in doubles
        ]
    typed.columns = texts.columns = texts.columns.str.strip()
    if "image_id" not in typed:
        columns = ", ".join(map(str, typed.columns[:8]))
        if len(typed.columns) == 1 and {";", "\t"}.intersection(columns):
            return None, [Problem(FILE, f"one column {columns!r}", "a comma between columns", "export it as CSV again")]
        return None, [Problem(FILE, f"columns {columns}", "a column image_id", "name the column of ids image_id")]
    for name in {*TEXT_COLUMNS, group_column}.intersection(typed.columns):
        typed[name] = texts[name].str.strip()  # "007" and "NA" are names here, not a number and a gap
    return typed, []


def _check_ids(listed: Sequence[str], image_ids: Sequence[str]) -> list[Problem]:
    problems = [
        Problem(FILE, f"image_id {name!r}, which leaves the folder", "a file name without its ending", "correct the id")
        for name in listed
        if escapes(name)
    ]
    problems += [
        Problem(FILE, f"image_id {name!r} more than once", "one row an image", "keep one of the rows")
        for name, times in Counter(listed).items()
        if times > 1
    ]
    unknown = sorted({name for name in listed if not escapes(name)} - set(image_ids))
    problems += [
        Problem(FILE, f"image_id {name!r}, unknown", "ids of files in images/", "add the image or remove the row")
        for name in unknown
    ]
    problems += [
        Problem(FILE, f"no row for image {name!r}", "a row for each image", "add the row or remove the image")
        for name in sorted(set(image_ids) - set(listed))
    ]
    return problems


def escapes(name: str) -> bool:
    """Whether a name could lead out of its folder.

    Example:
        >>> [escapes(name) for name in ("a", "../a", "/etc/a", "C:a", "..")]
        [False, True, True, True, True]
    """
    return name in ("", ".", "..") or name[1:2] == ":" or any(mark in name for mark in ("/", "\\", "\0"))


def _group_column(frame: pd.DataFrame, wanted: str | None) -> tuple[str | None, list[Problem]]:
    if wanted is not None:
        return (wanted, []) if wanted in frame else (None, [_no_column(wanted, frame.columns)])
    return next((name for name in GROUP_COLUMNS if name in frame), None), []


def _no_column(wanted: str, columns: Iterable[str]) -> Problem:
    found = ", ".join(columns) or "no manifest"
    return Problem(FILE, f"no column {wanted!r} (columns: {found})", "the column named by group_column", "correct one")


def _check_splits(rows: pd.DataFrame) -> list[Problem]:
    return [
        Problem(FILE, f"split {split!r} for image {name!r}", f"one of {', '.join(SPLITS)}", "correct the split")
        for name, split in rows["split"].items()
        if split not in SPLITS
    ]


def _check_groups(rows: pd.DataFrame, column: str | None) -> list[Problem]:
    if column is None:
        return []
    return [
        Problem(
            FILE,
            f"{column} {group!r} in splits {' and '.join(sorted(set(splits)))}",
            "each group in one split, or scores are too good",
            "move its images into one split",
        )
        for group, splits in rows.groupby(column)["split"]
        if len(set(splits)) > 1
    ]
