"""Writes a data folder: beside its place until it is whole, then checked as every data folder is."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from irrbench.convert.pictures import anonymous_names, place_image, safe_names, save_mask
from irrbench.data.folder import check_folder
from irrbench.data.io import in_threads
from irrbench.data.readers import DataError, Problem, ReadError, without_ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

_MALFORMED = (AttributeError, KeyError, TypeError, ValueError, OverflowError)
OURS = {"images", "masks", "roi", "manifest.csv", "conversion.json"}
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
Drawings = dict[str, "list[NDArray[np.bool_]]"]


class Picture(NamedTuple):
    """One image to write: its file (or its pixels), its size where the source declares one, and who drew what.

    ``draw`` makes each rater's masks for the image's shape: the first drawing, then the repeats.
    """

    file: Path | NDArray[np.generic]
    declared: tuple[int, int] | None
    draw: Callable[[tuple[int, int]], Drawings]


class Source(NamedTuple):
    """What a source says of one image before its pixels are read."""

    name: str
    raters: tuple[str, ...]
    covariates: Mapping[str, object]
    read: Callable[[], Picture]


class Options(NamedTuple):
    """How a folder is written."""

    output: Path
    overwrite: bool
    anonymize: bool
    progress: bool


@dataclass(frozen=True)
class Converted:
    """A written data folder.

    Attributes:
        root: the folder.
        images: how many images it holds.
        raters: the source's name of each rater by folder; the folder's own name where raters were made anonymous.
        missing: masks that are not there, because a rater did not draw an image.
        left_out: images that could not be converted, and why.
        notes: what else should be known.
        problems: what :func:`~irrbench.data.check_folder` says of the folder; nothing where it can be used.
    """

    root: Path
    images: int
    raters: dict[str, str]
    missing: int
    left_out: tuple[Problem, ...]
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]


def attempt(label: str, make: Callable[[], Source]) -> Source | Problem:
    """What ``make`` gives, or what it found wrong with ``label``."""
    try:
        return make()
    except ReadError as error:
        return error.at(label)
    except _MALFORMED as error:
        return _malformed(error).at(label)


def write_folder(
    entries: Sequence[Source | Problem],
    options: Options,
    *,
    facts: Mapping[str, object],
    notes: Iterable[str] = (),
) -> Converted:
    """Write and check a data folder.

    Args:
        entries: the images, and what was wrong with those that there are not.
        options: where and how.
        facts: about the source, for ``conversion.json``.
        notes: to pass on; read at the end.

    Raises:
        DataError: nothing could be converted, or the output folder is in use.
    """
    sources, left_out = _sort_out(entries)
    ids = safe_names((source.name for source in sources), shorten=without_ending)
    names = sorted({rater for source in sources for rater in source.raters})
    raters = anonymous_names(names) if options.anonymize else safe_names(names)
    with _new_folder(options) as root:
        write = partial(_write, root, ids, raters)
        results = in_threads(write, sources, label="converting", progress=options.progress)
        problems = [*left_out, *(result for result in results if isinstance(result, Problem))]
        written = [source for source, result in zip(sources, results, strict=True) if not isinstance(result, Problem)]
        if not written:
            raise DataError(
                problems or [Problem("the source", "no labelled image", "at least one", "check the export")]
            )
        _write_manifest(root / "manifest.csv", [(ids[source.name], source) for source in written])
        known = {folder: folder if options.anonymize else name for name, folder in raters.items()}
        about = {**facts, "images": len(written), "left_out": len(problems), "raters": known}
        (root / "conversion.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    missing = sum(len(names) - len(set(source.raters)) for source in written)
    found = check_folder(options.output, allow_missing=missing > 0, progress=options.progress)
    return Converted(options.output, len(written), known, missing, tuple(problems), tuple(notes), tuple(found))


def _malformed(error: Exception) -> ReadError:
    """What foreign JSON means that has something else where a value should be."""
    return ReadError(f"an entry of another form ({error!r})", "the format as documented", "export again")


def _sort_out(entries: Sequence[Source | Problem]) -> tuple[list[Source], list[Problem]]:
    sources = [entry for entry in entries if isinstance(entry, Source)]
    times = Counter(source.name for source in sources)
    problems = [entry for entry in entries if isinstance(entry, Problem)]
    problems += [
        Problem(name, f"{count} entries", "one for each image", "keep one")
        for name, count in times.items()
        if count > 1
    ]
    return [source for source in sources if times[source.name] == 1], problems


@contextmanager
def _new_folder(options: Options) -> Iterator[Path]:
    """A new folder beside the output, which takes its place when all went well and vanishes otherwise."""
    output = options.output
    _check_output(output, overwrite=options.overwrite)
    partial_folder = output.parent / f".{output.name}.partial-{os.getpid()}"
    partial_folder.mkdir(parents=True)
    try:
        yield partial_folder
        _check_output(output, overwrite=options.overwrite)
        if output.exists():
            shutil.rmtree(output)
        partial_folder.rename(output)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def _check_output(output: Path, *, overwrite: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir() or output.is_symlink():
        raise DataError([Problem(str(output), "a file or a link", "a new or an empty folder", "choose another output")])
    there = sorted(path.name for path in output.iterdir())
    if there and not overwrite:
        raise DataError(
            [Problem(str(output), "a folder in use", "a new or an empty folder", "choose another, or say --overwrite")]
        )
    foreign = [name for name in there if name not in OURS]
    if foreign:
        found = f"{foreign[0]!r}, which no data folder holds"
        raise DataError([Problem(str(output), found, "a data folder to overwrite", "choose another output")])


def _write(root: Path, ids: Mapping[str, str], raters: Mapping[str, str], source: Source) -> Problem | None:
    name = ids[source.name]
    try:
        picture = source.read()
        image = place_image(picture.file, root / "images", name, declared=picture.declared)
        drawings = picture.draw(image.shape)
    except ReadError as error:
        return error.at(source.name)
    except _MALFORMED as error:
        return _malformed(error).at(source.name)
    for rater, masks in drawings.items():
        for number, mask in enumerate(masks, start=1):
            folder = raters[rater] if number == 1 else f"{raters[rater]}@{number}"
            save_mask(mask, root / "masks" / folder / f"{name}.png")
    image.save()  # last, so that an image whose masks cannot be drawn leaves nothing behind
    return None


def _write_manifest(path: Path, rows: Sequence[tuple[str, Source]]) -> None:
    columns = dict.fromkeys(str(column).strip() for _, source in rows for column in source.covariates)
    renamed = {column: f"source_{column}" for column in columns if column in ("image_id", "source", "")}
    splits = [_SPLITS.get(str(source.covariates.get("split", "")).strip().lower()) for _, source in rows]
    if "split" in columns and None in splits:
        renamed["split"] = "source_split"
    repeated = [name for name, times in Counter(renamed.get(column, column) for column in columns).items() if times > 1]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        kept = [column for column in columns if renamed.get(column, column) not in repeated]
        writer.writerow(["image_id", "source", *(renamed.get(column, column) for column in kept)])
        for (name, source), split in zip(rows, splits, strict=True):
            values = {str(column).strip(): value for column, value in source.covariates.items()}
            if split is not None and "split" in values:
                values["split"] = split
            writer.writerow([name, source.name, *(values.get(column, "") for column in kept)])
