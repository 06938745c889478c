"""Writes a data folder: beside its place until it is whole, then checked as every data folder is."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import filelock
import numpy as np
from numpy.typing import NDArray

from irrbench._display import quote_formula
from irrbench._files import lock_descriptor, open_regular
from irrbench.convert.values import Shape, shown
from irrbench.data.folder import check_folder
from irrbench.data.formats import extension, stem
from irrbench.data.io import in_threads, read_both_ways, read_image
from irrbench.data.manifest import SPLIT_WORDS
from irrbench.data.readers import DataError, Mask, Problem, ReadError, check_shape, size_text

Made = TypeVar("Made")
MALFORMED = (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError)
_DATA_FOLDER = {"images", "masks", "roi", "manifest.csv", "conversion.json"}
_LOCK = ".lock"
_LONGEST_NAME, _MOST_BYTES = 80, 200  # characters; file systems count bytes
_UNSAFE = re.compile(r"[^\w.+-]+")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|(com|lpt)[\d¹²³])(\..*)?")


class Source(NamedTuple):
    """What a source says of one image.

    Attributes:
        name: of the image.
        raters: who annotated it.
        covariates: for the manifest.
        image: gives the file, or its pixels ``(H, W)`` of 8 or 16 bit.
        draw: makes each rater's masks for the image's shape, one rater after the other: the first drawing, then the
            repeats.
        declared: the image's size, where the source declares one.
        roi: reads the pixels ``(H, W)`` that count; all where there is none.
    """

    name: str
    raters: tuple[str, ...]
    covariates: Mapping[str, object]
    image: Callable[[], Path | NDArray[np.generic]]
    draw: Callable[[Shape], Iterable[tuple[str, list[Mask]]]]
    declared: Shape | None = None
    roi: Callable[[], Mask] | None = None


class Drawn(NamedTuple):
    """How many drawings of a rater were written; ``repeats`` of them are not the first of an image."""

    drawings: int
    empty: int
    repeats: int


@dataclass(frozen=True)
class Converted:
    """A written data folder.

    Attributes:
        root: the folder.
        images: how many images it holds.
        raters: the source's name of each rater by folder; the folder's own name where raters were made anonymous.
        drawn: by folder, how many masks each rater has.
        missing: how many masks are missing, because a rater did not draw an image.
        left_out: images that could not be converted, and why.
        notes: what else should be known.
        terms: the source's licence and citation.
    """

    root: Path
    images: int
    raters: dict[str, str]
    drawn: dict[str, Drawn]
    missing: int
    left_out: tuple[Problem, ...]
    notes: tuple[str, ...]
    terms: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What :func:`~irrbench.data.check_folder` says of the folder, read now; nothing where it can be used."""
        return tuple(check_folder(self.root, allow_missing=self.missing > 0, progress=False))


def attempt(label: str, make: Callable[[], Made]) -> Made | Problem:
    """What ``make`` gives, or what it found wrong with ``label``; foreign JSON may have any value anywhere."""
    try:
        return make()
    except ReadError as error:
        return error.at(label)
    except MALFORMED as error:
        return Problem(label, f"an entry of another form ({shown(error)})", "the format as documented", "export again")


def write_folder(
    entries: Sequence[Source | Problem],
    output: Path,
    *,
    facts: Mapping[str, object],
    overwrite: bool,
    anonymize: bool = False,
    progress: bool = True,
    notes: Iterable[str] = (),
    remedy: str = "check the export",
) -> Converted:
    """Write a data folder.

    Args:
        entries: the images, and a problem for each image that cannot be converted.
        output: the new folder.
        facts: about the source, for ``conversion.json``.
        overwrite: whether an earlier data folder at ``output`` is replaced.
        anonymize: whether raters become r1, r2, ...
        progress: whether to show a bar where it takes over two seconds.
        notes: to pass on; read at the end.
        remedy: where nothing could be converted.

    Raises:
        DataError: nothing could be converted, or the output folder is in use.
    """
    problems = [entry for entry in entries if isinstance(entry, Problem)]
    sources = [entry for entry in entries if isinstance(entry, Source)]
    times = Counter(source.name for source in sources)
    doubles = [name for name in times if times[name] > 1]
    problems += [Problem(name, f"{times[name]} entries", "one for each image", "keep one") for name in doubles]
    sources = [source for source in sources if times[source.name] == 1]
    ids = safe_names((source.name for source in sources), shorten=stem)
    names = sorted({rater for source in sources for rater in source.raters})
    raters = anonymous_names(names) if anonymize else safe_names(names)
    known = {folder: folder if anonymize else name for name, folder in raters.items()}
    with _new_folder(output, overwrite=overwrite) as root:
        write = partial(_write_image, root, ids, raters)
        results = in_threads(write, sources, label="converting", progress=progress)
        for folder in (root / "masks").glob("*"):
            with suppress(OSError):
                folder.rmdir()  # where nothing of a rater could be written
        problems += [result for result in results if isinstance(result, Problem)]
        counts = [result for result in results if not isinstance(result, Problem)]
        written = [source for source, result in zip(sources, results, strict=True) if not isinstance(result, Problem)]
        if not written:
            found = "; ".join(["no labelled image", *notes])
            raise DataError(problems or [Problem("the source", found, "one at least", remedy)])
        _write_manifest(root / "manifest.csv", [(ids[source.name], source) for source in written])
        about = {**facts, "images": len(written), "left_out": len(problems), "raters": known}
        (root / "conversion.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    missing = sum(len(names) - len(set(source.raters)) for source in written)
    drawn = {folder: _count([each[folder] for each in counts if folder in each]) for folder in raters.values()}
    return Converted(output, len(written), known, drawn, missing, tuple(problems), tuple(notes))


def _count(images: Sequence[Sequence[bool]]) -> Drawn:
    drawings = sum(map(len, images))
    return Drawn(drawings, drawings - sum(map(sum, images)), drawings - len(images))


@contextmanager
def _new_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A new folder beside the output, which takes its place when all went well and vanishes otherwise."""
    _check_output(output, overwrite=overwrite)
    for left in output.parent.glob(f".{glob.escape(output.name)}.partial-*"):
        with suppress(OSError), open_regular(left / _LOCK) as file:
            if filelock.lock_descriptor(file.fileno(), blocking=False):
                shutil.rmtree(left)  # of a process that was killed
    draft = output.parent / f".{output.name}.partial-{os.getpid()}"
    draft.mkdir(parents=True)
    try:
        with (draft / _LOCK).open("xb") as file:
            lock_descriptor(file.fileno())
            yield draft
        _check_output(output, overwrite=overwrite)
        (draft / _LOCK).unlink()
        if output.exists():
            shutil.rmtree(output)
        draft.rename(output)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check_output(output: Path, *, overwrite: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir() or output.is_symlink():
        raise DataError([Problem(str(output), "a file or a link", "a new or an empty folder", "choose another output")])
    content = sorted(path.name for path in output.iterdir())
    if content and not overwrite:
        remedy = "choose another, or say --overwrite"
        raise DataError([Problem(str(output), "a folder in use", "a new or an empty folder", remedy)])
    other = [name for name in content if name not in _DATA_FOLDER]
    if other:
        found = f"{other[0]!r}, which no data folder holds"
        raise DataError([Problem(str(output), found, "a data folder to overwrite", "choose another output")])


def _write_image(
    root: Path, ids: Mapping[str, str], raters: Mapping[str, str], source: Source
) -> dict[str, list[bool]] | Problem:
    """Write an image and its masks, or nothing; by rater's folder whether each mask marks anything."""
    written: list[Path] = []

    def write() -> dict[str, list[bool]]:
        drawn: dict[str, list[bool]] = {}
        image, drawings = _prepare(source)
        size: tuple[int, ...] = ()
        for rater, masks in drawings:
            folder, drawn[raters[rater]] = raters[rater], [bool(mask.any()) for mask in masks]
            for number, mask in enumerate(masks, start=1):
                place = root / "masks" / (folder if number == 1 else f"{folder}@{number}")
                written.append(save(_black_and_white(mask), place, ids[source.name]))
            size = masks[0].shape
        if source.roi is not None:
            roi = source.roi()
            check_shape(roi.shape, size, "give the field of view of this image", name="a field of view of ")
            written.append(save(_black_and_white(roi), root / "roi", ids[source.name]))
        save(image, root / "images", ids[source.name])
        return drawn

    made = attempt(source.name, write)
    for path in written if isinstance(made, Problem) else ():
        path.unlink()
    return made


def _black_and_white(mask: Mask) -> NDArray[np.uint8]:
    return mask.astype(np.uint8) * np.uint8(255)


def _prepare(source: Source) -> tuple[Path | NDArray[np.generic], Iterable[tuple[str, list[Mask]]]]:
    """The image to write, checked, and each rater's masks of it.

    Photos that carry a turn (EXIF orientation) are stored as viewers show them, which is what people draw on, unless
    only the stored pixels have the declared size.

    Raises:
        ReadError: an image that cannot be read, has another size than declared, or more than two axes.
    """
    image, declared = source.image(), source.declared
    shape = image.shape if isinstance(image, np.ndarray) else read_image(image).shape[1:]
    if len(shape) != 2:
        raise ReadError(f"an image of {len(shape)} axes", "a picture of height and width", "export single slices")
    ways = read_both_ways(image) if isinstance(image, Path) else None
    for way in ways or ():
        if declared in (None, way.shape[:2]):
            return way, source.draw((way.shape[0], way.shape[1]))
    if declared is not None and declared != shape:
        expected = f"size {size_text(declared)}, as declared"
        raise ReadError(f"size {size_text(shape)}", expected, "give the images that were annotated")
    return image, source.draw((shape[0], shape[1]))


def save(image: Path | NDArray[np.generic], folder: Path, name: str) -> Path:
    """Copy a file, or write pixels ``(H, W)`` as PNG, under a new name."""
    from PIL import Image  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(image, Path):
        return shutil.copyfile(image, folder / f"{name}{extension(image.name)}")
    Image.fromarray(image).save(folder / f"{name}.png")
    return folder / f"{name}.png"


def _write_manifest(path: Path, rows: Sequence[tuple[str, Source]]) -> None:
    """Covariates as columns; those whose name is taken or says something else get the prefix ``source_``."""
    covariates = [{str(column).strip(): value for column, value in source.covariates.items()} for _, source in rows]
    splits = [SPLIT_WORDS.get(str(values.get("split", "")).strip().lower()) for values in covariates]
    taken = {"image_id", "source", "", *(["split"] if None in splits else [])}
    columns = {name: f"source_{name}" if name in taken else name for values in covariates for name in values}
    times = Counter(columns.values())
    kept = {name: column for name, column in columns.items() if times[column] == 1}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(map(quote_formula, ["image_id", "source", *kept.values()]))
        for (name, source), values, split in zip(rows, covariates, splits, strict=True):
            known = values if split is None else values | {"split": split}
            cells = [name, source.name, *(known.get(column, "") for column in kept)]
            writer.writerow(quote_formula(cell) if isinstance(cell, str) else cell for cell in cells)


def safe_name(name: str) -> str:
    """``name`` as the name of a file on any system: no separators, no ``@`` (which marks repeats), no hidden files.

    Example:
        >>> safe_name("../Anna Ö@clinic.org"), safe_name("CON"), safe_name("///")
        ('Anna-Ö-clinic.org', '_CON', '_')
    """
    safe = _UNSAFE.sub("-", unicodedata.normalize("NFC", name)).strip("-.")[:_LONGEST_NAME]
    safe = safe.encode()[:_MOST_BYTES].decode(errors="ignore").rstrip("-.")
    return f"_{safe}" if not safe or _RESERVED.fullmatch(safe) else safe


def safe_names(names: Iterable[str], *, shorten: Callable[[str], str] = str) -> dict[str, str]:
    """A safe name for each different name; those that would be alike (letter case apart) get their digests.

    So a name never means something else where others are added or their order changes.

    ``shorten`` takes off what should not be in the safe name, such as a file's ending.

    Raises:
        DataError: two are alike nevertheless.

    Example:
        >>> safe_names(["a/b", "A b", "c"])
        {'a/b': 'a-b-c14cddc033f6', 'A b': 'A-b-a760b0e1e518', 'c': 'c'}
    """
    safe = {name: safe_name(shorten(name)) for name in dict.fromkeys(names)}
    times = Counter(each.casefold() for each in safe.values())
    chosen = {name: each if times[each.casefold()] == 1 else f"{each}-{digest(name)}" for name, each in safe.items()}
    taken = {each.casefold(): name for name, each in chosen.items()}
    for name, each in chosen.items():
        if taken[each.casefold()] != name:
            found = f"{name!r} and {taken[each.casefold()]!r}, which give one file name"
            raise DataError([Problem(each, found, "a name for each", "rename one of them")])
    return chosen


def digest(name: str) -> str:
    """What tells a name from all others."""
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:12]


def anonymous_names(names: Sequence[str]) -> dict[str, str]:
    """``r1``, ``r2``, ... in an order drawn anew each time, so that nothing leads back to the names.

    Example:
        >>> sorted(anonymous_names(["anna", "ben"]).values())
        ['r1', 'r2']
    """
    shuffled = list(dict.fromkeys(names))
    secrets.SystemRandom().shuffle(shuffled)
    digits = len(str(len(shuffled)))
    return {name: f"r{number:0{digits}d}" for number, name in enumerate(shuffled, start=1)}
