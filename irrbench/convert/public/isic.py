"""IMA++: skin lesions by several annotators; a mask's name says who drew it, with which tool and skill."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from functools import partial
from pathlib import Path

from irrbench.convert.public.cases import Asked, Case, Files, Listing, read_packed
from irrbench.data.io import read_inside
from irrbench.data.readers import Problem, ReadError

_MASK = r"(isic_\d+)_(a\d+)_(t\d+)_(s\d+)_([0-9a-z]+)\.png"
_SPLITS = {"train": "train", "val": "val", "test": "test"}
_COVARIATES = ("age_approx", "sex", "anatom_site_general", "diagnosis_1", "benign_malignant")
_GROUPS = ("patient_id", "lesion_id")
_TABLE_BYTES = 2**26


def read_isic(files: Files, asked: Asked) -> Listing:
    """IMA++: masks and tables of Zenodo here, images of the archive here or in the folder ``images``."""
    problems: list[Problem] = []
    pictures = files if asked.images is None else Files(asked.images)
    images = pictures.by_key(r"(isic_\d+)\.(?:jpe?g|png)", problems)
    drawn: dict[str, dict[str, list[tuple[str, str, str, Path]]]] = defaultdict(lambda: defaultdict(list))
    for (name, annotator, tool, skill, number), path in files.by_key(_MASK, problems).items():
        drawn[name][annotator].append((number, tool, skill, path))
    facts, notes = _tables(files, problems)
    cases = []
    for name, by_rater in drawn.items():
        title = name.upper()
        if (name,) not in images:
            expected = f"{title}.JPG in {pictures.root}"
            problems.append(Problem(title, "masks and no image", expected, "download it, or say --images DIR"))
            continue
        masks = {
            rater.upper(): tuple(partial(read_packed, path) for *_, path in sorted(several))
            for rater, several in by_rater.items()
        }
        marks = [(rater.upper(), one) for rater, several in sorted(by_rater.items()) for one in sorted(several)]
        tools = {
            "tools": " ".join(f"{rater}:{one[1].upper()}" for rater, one in marks),
            "skills": " ".join(f"{rater}:{one[2].upper()}" for rater, one in marks),
        }
        cases.append(Case(title, images[name,], masks, facts.get(name, {}) | tools))
    grouped = any("group" in case.covariates for case in cases)
    if grouped:
        cases = [case._replace(covariates={"group": case.name, **case.covariates}) for case in cases]
    else:
        notes += ("no table names patients or lesions: several images of one may lie in several splits",)
    return Listing(cases, problems, notes)


def _tables(files: Files, problems: list[Problem]) -> tuple[dict[str, dict[str, object]], tuple[str, ...]]:
    """By image, its split and what the archive says of it; and which of the tables are not there."""
    facts: dict[str, dict[str, object]] = defaultdict(dict)
    lacking = []
    for word, split in _SPLITS.items():
        rows = _rows(files, rf"{word}\.csv", problems)
        lacking += [] if rows else [f"{word}.csv"]
        for row in rows:
            facts[_id(row)]["split"] = split
    rows = _rows(files, r"(?:imaplusplus_)?img_metadata\.csv", problems)
    lacking += [] if rows else ["img_metadata.csv"]
    for row in rows:
        group = next((row[column] for column in _GROUPS if row.get(column)), None)
        facts[_id(row)] |= {column: row[column] for column in _COVARIATES if row.get(column)}
        facts[_id(row)] |= {} if group is None else {"group": group}
    return facts, (f"not there, so their columns are not either: {', '.join(lacking)}",) * bool(lacking)


def _rows(files: Files, pattern: str, problems: list[Problem]) -> list[dict[str, str]]:
    """The rows of a table in which some column begins with an ISIC id."""
    rows: list[dict[str, str]] = []
    for _, path in files.match(pattern):
        try:
            text = read_inside(files.root, path, _TABLE_BYTES).decode("utf-8-sig", "replace")
            table = [_plain(row) for row in csv.DictReader(io.StringIO(text))]
        except (ReadError, csv.Error) as error:
            found = f"a table that cannot be read ({error})"
            problems.append(Problem(files.name(path), found, "CSV", "download it again"))
            continue
        rows += [row for row in table if _id(row)]
    return rows


def _plain(row: dict[str, str]) -> dict[str, str]:
    """A row with its columns in lower case; short and long rows have keys and values that are no text."""
    return {key.strip().lower(): value.strip() for key, value in row.items() if key and isinstance(value, str)}


def _id(row: dict[str, str]) -> str:
    """The id of a row's image in lower case; empty where there is none."""
    values = (row.get("isic_id"), row.get("image"), *row.values())
    return next((value[:12].lower() for value in values if value and value[:5].lower() == "isic_"), "")
