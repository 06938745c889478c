"""Reads ``manifest.csv``: splits, groups and covariates by image id.

Names of known columns and of splits may differ in letter case and separators (``Split``, ``PatientID``,
``Validation``). A column that holds ids or splits under another name is a problem, because splits by a hash would
silently stand in for it.
"""

from __future__ import annotations

import csv
import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from irrbench._display import unquote_formulas
from irrbench.data.formats import stem
from irrbench.data.io import escapes, read_inside
from irrbench.data.naming import relate_names
from irrbench.data.problems import Problem, ReadError, collecting
from irrbench.data.rater_data import SPLITS, assign_splits

MANIFEST = "manifest.csv"
MAX_BYTES = 2**26
MAX_COLUMNS = 2000
MAX_OTHER_ROWS = 10_000
GROUP_COLUMNS = ("group", "patient_id", "patient")
TEXT_COLUMNS = ("image_id", "split", *GROUP_COLUMNS)
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".parquet")
_MANIFEST_NAMES = ("manifest", "metadata", "meta", "split", "splits")
_PERSONS = ("patient", "subject", "participant", "person", "case", "donor", "animal")
Finding = tuple[str, str, str]  # what is found, what was expected, what to do


class Manifest(NamedTuple):
    """What is known of each image.

    Attributes:
        frame: a row an image (index ``image_id``), with ``split``.
        group_column: the column that groups images, or None.
        has_splits: whether the splits are those of a column, and no hash of names.
        problems: everything that is wrong with the table.
    """

    frame: pd.DataFrame
    group_column: str | None
    has_splits: bool
    problems: list[Problem]


def read_manifest(root: Path, image_ids: Sequence[str], *, group_column: str | None = None) -> Manifest:
    """The manifest of a folder: the rows of ``image_ids``, in their order.

    Without a table, or without its column ``split``, images are split by a hash of their groups' or their own names.
    """
    problems: list[Problem] = []
    frame, columns, column = pd.DataFrame({"image_id": image_ids}, dtype="str"), "no manifest", group_column
    if os.path.lexists(root / MANIFEST):
        column = None  # where the table cannot be read
        with collecting(problems, MANIFEST):
            frame = _read_csv(root, group_column, image_ids)
            columns, column = ", ".join(frame.columns), group_column
    else:
        problems += _misnamed_tables(root, image_ids)
    if column is None:
        column = next((name for name in GROUP_COLUMNS if name in frame and name not in empty_groups(frame)), None)
    elif column not in frame:
        close = get_close_matches(_plain(column), {_plain(name): name for name in frame}, n=1)
        nearest = next((name for name in frame if _plain(name) in close), None)
        remedy = "correct one" if nearest is None else f"did you mean {nearest!r}"
        found = f"no column {column!r} (columns: {columns})"
        problems.append(Problem(MANIFEST, found, "the column named by group_column", remedy))
        column = None
    rows = frame.drop_duplicates("image_id").set_index("image_id")
    problems += _check_ids(frame["image_id"], image_ids)
    problems += [] if column is None else _check_groups(rows, column)
    findings = _check_splits(rows, column) if "split" in rows else _find_splits(rows)
    problems += [Problem(MANIFEST, *finding) for finding in findings]
    return Manifest(assign_splits(rows.reindex(list(image_ids)), column), column, "split" in rows, problems)


def empty_groups(manifest: pd.DataFrame) -> list[str]:
    """Columns of groups without a group in any row, by which images are not grouped.

    Example:
        >>> empty_groups(pd.DataFrame({"patient": ["", ""], "site": ["", ""], "group": ["g1", ""]}))
        ['patient']
    """
    return [str(name) for name in manifest if name in GROUP_COLUMNS and (manifest[name] == "").all()]


def ungrouped_columns(manifest: pd.DataFrame) -> list[str]:
    """Columns that look like persons with several images each, by which images are not grouped.

    Example:
        >>> ungrouped_columns(pd.DataFrame({"Subject ID": ["s1", "s1", "s2"], "age": [50, 50, 60]}))
        ['Subject ID']
    """
    persons = [name for name in manifest if any(word in _plain(name) for word in _PERSONS)]
    return [str(name) for name in persons if 1 < manifest[name].nunique() < len(manifest)]


def _plain(name: object) -> str:
    return re.sub(r"[\W_]+", "", str(name)).casefold()


def _read_csv(root: Path, group_column: str | None, image_ids: Sequence[str]) -> pd.DataFrame:
    """The table, its names stripped; "007" and "NA" are names in columns of text, not a number and a gap."""
    typed, texts = _read_twice(root, MANIFEST, image_ids)
    known = {_plain(name): name for name in TEXT_COLUMNS}
    spelled = {name: known.get(_plain(name), name) if name != group_column else name for name in typed}
    doubles = [name for name, times in Counter(spelled.values()).items() if name and times > 1]
    if doubles:
        names = ", ".join(repr(name) for name in spelled if spelled[name] == doubles[0])
        raise ReadError(f"columns {names}, which name the same", f"one column {doubles[0]}", "remove or rename one")
    typed, texts = typed.rename(columns=spelled), texts.rename(columns=spelled)
    if "image_id" not in typed:
        columns = ", ".join(map(str, typed.columns[:8]))
        if len(typed.columns) == 1 and {";", "\t"}.intersection(columns):
            raise ReadError(f"one column {columns!r}", "a comma between columns", "export it as CSV again")
        likely = next((name for name in texts if _holds_ids(texts[name], image_ids)), None)
        remedy = (
            "name the column of ids image_id" if likely is None else f"rename {likely!r}, which holds them, to image_id"
        )
        raise ReadError(f"columns {columns}", "a column image_id", remedy)
    for name in {*TEXT_COLUMNS, group_column}.intersection(typed.columns):
        typed[name] = texts[name].str.strip()
    if "split" in typed:
        typed["split"] = typed["split"].map(lambda split: SPLIT_WORDS.get(split.casefold(), split))
    return typed


def _read_twice(root: Path, name: str, image_ids: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table of the folder with numbers as numbers, and with everything as text."""
    options: dict[str, Any] = {"index_col": False, "encoding": "utf-8-sig", "skipinitialspace": True}
    as_text: dict[str, Any] = options | {"dtype": str, "na_filter": False}
    content = read_inside(root, root / name, MAX_BYTES)
    try:
        _check_size(content.decode("utf-8-sig"), len(image_ids))
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            names = pd.read_csv(io.BytesIO(content), header=None, nrows=1, **as_text).iloc[0].str.strip()
            typed: pd.DataFrame = pd.read_csv(io.BytesIO(content), **options)
            texts: pd.DataFrame = pd.read_csv(io.BytesIO(content), **as_text)
    except (ValueError, csv.Error, pd.errors.ParserWarning) as error:
        found = f"a table that cannot be read ({type(error).__name__}: {error})"
        raise ReadError(found, "a comma-separated table in UTF-8", "export it again") from error
    doubles = names[(names != "") & names.duplicated()].unique()
    if len(doubles):
        raise ReadError(f"column {' and '.join(map(repr, doubles))} more than once", "one of a name", "rename it")
    typed.columns = texts.columns = texts.columns.str.strip()
    return (unquote_formulas(typed), unquote_formulas(texts)) if b"'" in content else (typed, texts)


def _check_size(text: str, images: int) -> None:
    """Refuse tables that take pandas, or the comparison of ids, minutes; csv's own limit is that of a cell."""
    expected = f"a row for each of {images} images, of at most {MAX_COLUMNS:,} columns"
    for number, row in enumerate(csv.reader(text.splitlines(keepends=True), skipinitialspace=True)):
        if len(row) > MAX_COLUMNS:
            raise ReadError(f"a row of {len(row):,} columns", expected, "leave out some columns")
        if number > images + MAX_OTHER_ROWS:
            raise ReadError(f"over {number - 1:,} rows", expected, "leave out the rows of other images")


def _base(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]


def _holds_ids(values: pd.Series[str], image_ids: Sequence[str]) -> bool:
    """Whether a column holds ids, or the images' paths."""
    names = {stem(_base(str(value).strip())) for value in values}
    return 2 * len(names.intersection(image_ids)) > len(image_ids)


def _holds_splits(values: pd.Series[Any]) -> bool:
    words = {str(value).strip().casefold() for value in values}
    return len(words) > 1 and words <= SPLIT_WORDS.keys()


def _misnamed_tables(root: Path, image_ids: Sequence[str]) -> Iterator[Problem]:
    """Tables beside the images that are called otherwise and hold splits or groups: they would silently be ignored."""
    for path in sorted(root.iterdir()):
        if path.suffix.lower() not in _TABLES or not path.is_file():
            continue
        is_named = path.stem.casefold() in _MANIFEST_NAMES
        if not is_named and path.suffix.lower() == ".csv":
            with collecting([], path.name):  # what cannot be read is no table of images
                texts = _read_twice(root, path.name, image_ids)[1]
                has_groups = "split" in map(_plain, texts) or ungrouped_columns(texts)
                is_named = bool(has_groups) and any(_holds_ids(texts[name], image_ids) for name in texts)
        if is_named:
            remedy = "rename it to" if path.suffix.lower() == ".csv" else "export it as"
            expected = f"splits and groups in {MANIFEST}"
            yield Problem(path.name, f"a table and no {MANIFEST}", expected, f"{remedy} {MANIFEST}, or move it")


def _check_ids(listed: Iterable[str], image_ids: Sequence[str]) -> Iterator[Problem]:
    """A problem for each id that is wrong, and for each image without a row."""
    times, known = Counter(listed), set(image_ids)
    related = relate_names([name for name in times if not escapes(name)], known)
    meant = {name: relation.image_id for name, relation in related.items()}
    meant |= {name: base for name in filter(escapes, times) if (base := stem(_base(name))) in known}
    for name in times:
        cause = ""
        if escapes(name):
            expected = "a file name without its ending" if name not in meant else f"{meant[name]!r}, without a path"
            finding = (f"image_id {name!r}, which leaves the folder", expected, "correct the id")
        elif name in related:
            cause = related[name].found
            finding = (f"image_id {name!r}: {cause}", f"{meant[name]!r}, as in images/", related[name].remedy)
        elif name not in known:
            finding = (f"image_id {name!r}, unknown", "ids of files in images/", "add the image or remove the row")
        elif times[name] > 1:
            finding = (f"image_id {name!r} more than once", "one row an image", "keep one of the rows")
        else:
            continue
        yield Problem(MANIFEST, *finding, cause=cause)
    for name in sorted(known - times.keys() - set(meant.values())):
        yield Problem(MANIFEST, f"no row for image {name!r}", "a row for each image", "add the row or remove the image")


def _check_groups(rows: pd.DataFrame, column: str) -> Iterator[Problem]:
    """A problem for each row without a group: its image would be a group of its own, whoever it belongs to."""
    for name in rows.index[rows[column] == ""]:
        remedy = "fill it in (an image that belongs to no other: its own id)"
        yield Problem(MANIFEST, f"no {column} for image {name!r}", "one in each row, or in none", remedy)


def _check_splits(rows: pd.DataFrame, group_column: str | None) -> Iterator[Finding]:
    for name, split in rows["split"].items():
        if split not in SPLITS:
            yield f"split {split!r} for image {name!r}", f"one of {', '.join(SPLITS)}", "correct the split"
    splits_of: dict[str, set[str]] = {}
    for group, split in () if group_column is None else zip(rows[group_column], rows["split"], strict=True):
        splits_of.setdefault(group, set()).add(split)
    for group, splits in sorted(splits_of.items()):
        if group != "" and len(splits) > 1:
            found = f"{group_column} {group!r} in splits {' and '.join(sorted(splits))}"
            yield found, "each group in one split, or scores are too good", "move its images into one split"


def _find_splits(rows: pd.DataFrame) -> Iterator[Finding]:
    """Columns of splits under another name: without a column split a hash of the names would stand in for them."""
    for name in rows:
        if _holds_splits(rows[name]):
            words = ", ".join(sorted({str(word) for word in rows[name]}))
            yield f"column {name!r} with {words}, and no column split", "a column split", f"rename {name!r} to split"
        elif get_close_matches(_plain(name), ["split"], cutoff=0.85):
            remedy = "did you mean split? Rename one that holds train, val, test, and any other to something else"
            yield f"column {name!r}, and no column split", "a column split", remedy
