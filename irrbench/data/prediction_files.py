"""The files of finished predictions: found by their names, one an image or several samples, and read in threads."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from irrbench.data.foreground import Facts, Foreground, Kind, Known, Reading, decide_predictions, read_foreground
from irrbench.data.formats import extension, reader_of, stem
from irrbench.data.image_files import FolderImage
from irrbench.data.io import Files, files_by_id, in_threads
from irrbench.data.layout import level_problem
from irrbench.data.naming import check_names, relate_names
from irrbench.data.nnunet import EXTRAS, FILES, Archive, in_image_axes, read_labels, reorients
from irrbench.data.problems import DataError, Problem, ReadError, collecting, many, some_text
from irrbench.data.rater_data import RaterData

Result = TypeVar("Result")
Classes = Sequence[int] | None
Use = Callable[[Iterator[Foreground], int], Result]  # what is made of an image's files, read in turn, and its index
Groups = dict[str, tuple[Path, ...]]
_SAMPLE = re.compile(r"(.+)_s(\d+)")


def read_all(
    root: Path,
    data: RaterData,
    wanted: RaterData,
    use: Use[Result],
    classes: Classes,
    *,
    progress: bool,
    lacking: tuple[str, str] = ("a prediction for each image", "predict it too"),
) -> tuple[list[Result], Reading]:
    """Read the predictions of ``wanted``, a part of ``data``, and ``use`` each with its index; none is kept.

    Each file is read once, as it would be alone. Those that mean something else in this folder are read again.

    Args:
        root: the folder.
        data: the raters' data.
        wanted: the part of it that must be complete.
        use: what to make of an image: a function of its files' foregrounds, one after another, and its index.
        classes: the class numbers that are foreground.
        progress: whether to show a bar where it takes over two seconds.
        lacking: what to say of an image without a file: expected, remedy.

    Raises:
        DataError: with every problem of every file.
    """
    is_nnunet = any((root / name).is_file() for name in FILES)
    named, problems = _find_files(root, data.image_ids, is_nnunet=is_nnunet)
    groups = _group_samples(root, named, data.image_ids)
    files = {name: paths[0] for name, paths in groups.items()}
    if _mean_no_wanted(files, data.image_ids, wanted.image_ids):
        found = f"names that are no ids of the data ({some_text(list(files))})"
        expected = f"those of the images: {some_text(wanted.image_ids)}"
        remedy = "name each file by the id of the image that was predicted; a position in a list is none"
        raise DataError([*problems, Problem(str(root), found, expected, remedy)])
    problems += check_names(
        files,
        data.image_ids,
        place=str(root),
        shown=str,
        unknown=("a prediction for an unknown image", "the ids of the data", "rename or remove it"),
        lacking=lacking,
        wanted=wanted.image_ids,
    )
    numbers = {name: len(groups[name]) for name in wanted.image_ids if name in groups}
    problems += _unequal_numbers(root, numbers)
    labels: dict[int, str] = {}
    with collecting(problems, str(root / FILES[0])):
        labels = read_labels(root / FILES[0]) if is_nnunet else {}
    known = Known.of(classes, labels)
    indices = [i for i, name in enumerate(wanted.image_ids) if name in files]
    archives = _archives(files, wanted) if is_nnunet else {}
    volumes = [archive for i, archive in archives.items() if len(wanted.packed[i].shape) == 3]
    library, unknown = reorients(root, volumes) if volumes else (None, [])
    problems += [problem for problem in unknown if problem not in problems]

    def read(index: int, kind: Kind | None = None) -> tuple[Result, dict[str, Facts]] | Problem:
        paths, affine, source = groups[wanted.image_ids[index]], wanted.affine(index), wanted.sources[index]
        axes = partial(in_image_axes, affine=affine, library=library) if index in archives else None
        turn, exif = (source.turn, source.exif) if isinstance(source, FolderImage) else (1, None)
        facts: dict[str, Facts] = {}

        def samples() -> Iterator[Foreground]:
            for path in paths:
                found, facts[str(path)] = read_foreground(
                    path, wanted.packed[index], known, kind, archive_axes=axes, like=affine, turn=turn, exif=exif
                )
                yield found

        try:
            return use(samples(), index), facts
        except ReadError as error:
            return error.at(str(paths[len(facts)]))

    results = dict(
        zip(indices, in_threads(read, indices, label=f"reading {root.name}", progress=progress), strict=True)
    )
    facts = {i: result[1] for i, result in results.items() if not isinstance(result, Problem)}
    of_files = {name: fact for found in facts.values() for name, fact in found.items()}
    reading, contradictions = decide_predictions(str(root), of_files, known)
    problems += contradictions
    odd = [i for i, found in facts.items() if not all(fact.means(reading.kind) for fact in found.values())]
    again = [] if problems else odd
    results |= {i: read(i, reading.kind) for i in again}
    problems += [result for result in results.values() if isinstance(result, Problem)]
    if problems:
        raise DataError(problems)
    num = next(iter(numbers.values()), 1)
    if num > 1:
        reading = reading._replace(text=f"{reading.text}, {num} samples an image", num_samples=num)
    return [result[0] for result in results.values() if not isinstance(result, Problem)], reading


def _group_samples(root: Path, files: Files, known: Collection[str]) -> Groups:
    """The files of each image: one, or its samples where all names are ``<id>_s<number>`` and none is an id itself.

    Raises:
        DataError: where some are samples and others are named by the id alone.
    """
    found = {name: _SAMPLE.fullmatch(name) for name in files}
    ids = {match[1] for match in found.values() if match}
    samples = [name for name, match in found.items() if match and match[1] in known and name not in known]
    if samples and (alone := [name for name in files if name in known]):
        mixed = f"samples ({some_text(samples)}) beside files that are the only one of their image ({some_text(alone)})"
        expected = "samples <id>_s<number> of each image, or one file <id> of each"
        raise DataError([Problem(str(root), mixed, expected, "name a single sample <id>_s0, or remove one kind")])
    if not all(found.values()) or ids.isdisjoint(known) or not found.keys().isdisjoint(known):
        return {name: (path,) for name, path in files.items()}
    groups: Groups = {}
    for name, match in found.items():
        if match:
            groups[match[1]] = (*groups.get(match[1], ()), files[name])
    return groups


def _unequal_numbers(root: Path, numbers: Mapping[str, int]) -> list[Problem]:
    """A problem where images have different numbers of samples."""
    by_number: dict[int, list[str]] = {}
    for name, number in numbers.items():
        by_number.setdefault(number, []).append(name)
    if len(by_number) < 2:
        return []
    found = " and ".join(f"{many(number, 'sample')} of {some_text(names)}" for number, names in by_number.items())
    return [Problem(str(root), found, "as many samples of each image", "add or remove some: scores depend on it")]


def _mean_no_wanted(files: Files, ids: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether no name is an id, and those that resemble ids mean images that are not asked for, by chance."""
    meant = {relation.image_id for relation in relate_names(files, ids).values()}
    return bool(meant) and meant.isdisjoint(wanted) and set(files).isdisjoint(ids)


def _archives(files: Files, wanted: RaterData) -> dict[int, Archive]:
    """The archives by image's index whose axes are in reverse."""
    sources = [source if isinstance(source, FolderImage) else None for source in wanted.sources]
    return {
        i: Archive(files[name], wanted.affine(i))
        for i, (name, source) in enumerate(zip(wanted.image_ids, sources, strict=True))
        if source and name in files and extension(files[name].name) == ".npz"
        if reader_of(source.path).axes_reversed(len(wanted.packed[i].shape))
    }


def _find_files(root: Path, known: Sequence[str], *, is_nnunet: bool) -> tuple[Files, list[Problem]]:
    """The files by image id, and what their names alone show to be wrong.

    In nnU-Net's folders a case has the id of its image (one of ``known``) with or without the channel (``_0000``),
    probabilities (npz) are taken where there are masks too, and what nnU-Net writes beside them is skipped.
    """
    archives = {path.name[:-4] for path in root.glob("*.npz")}

    def skip(name: str) -> bool:
        has_archive = extension(name) not in (None, ".npz") and stem(name) in archives
        return is_nnunet and (name in EXTRAS or name.endswith(".pkl") or has_archive)

    inner = level_problem(root.parent, root)
    if inner is not None:
        raise DataError(
            [inner._replace(file=str(root), expected="files <id>.*", remedy="give the folder of the files")]
        )
    files, problems = files_by_id(root, root, purpose="one prediction for each image", skip=skip)
    if is_nnunet:
        cases = {name.removesuffix("_0000"): name for name in known}
        files = {name if name in known else cases.get(name, name): path for name, path in files.items()}
    return files, [problem._replace(file=str(root / problem.file)) for problem in problems]
