"""Brings together what people drew on the same images, in one export or in a file for each of them."""

from __future__ import annotations

import filecmp
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irrbench.convert.finding import ImageFolder
from irrbench.convert.values import Shape, shown
from irrbench.convert.writing import MALFORMED, Converted, Source, attempt, write_folder
from irrbench.data.problems import some_text
from irrbench.data.readers import DataError, Mask, Problem, ReadError, size_text

_SHOWN = 20  # names, or kinds of what is left out
_LARGE = 400  # pixels of each side; in smaller images marks in the first 100 are nothing odd


class Mark(NamedTuple):
    """One thing that somebody drew.

    Attributes:
        labels: what it shows; after the name other ways to say the same, such as an id.
        kind: of shape, as the tool calls it.
        fill: marks it in a mask ``(H, W)``; None where its kind has no outline.
        name: of it, for messages.
    """

    labels: tuple[str, ...]
    kind: str
    fill: Callable[[Mask], None] | None
    name: str


class Drawing(NamedTuple):
    """What an export says of one image and one person.

    Attributes:
        export: the file.
        image: the image's name, the same in all exports.
        files: what its file may be called, the likeliest first.
        rater: who drew; None for an image of which the export says nothing more.
        marks: what was drawn; None for somebody who looked, and drew what other drawings say, or nothing.
        declared: the image's size.
        covariates: for the manifest.
        time: of the drawing; a person's later ones are repeats.
        url: of the image's file, for a folder that can fetch it.
    """

    export: str
    image: str
    files: tuple[str, ...]
    rater: str | None
    marks: tuple[Mark, ...] | None
    declared: Shape | None = None
    covariates: Mapping[str, object] = {}
    time: str = ""
    url: str = ""


class Gathering:
    """Sorts drawings by image, and keeps account of what it leaves out.

    Args:
        tool: whose exports they are.
        images: the folder of the images; without one, black images stand for them.
        labels: names of what counts; everything by default.
        word: what the tool calls a label.
        all_looked: whether everybody looked at every image.

    Attributes:
        found: what the exports say, and what could not be read.
        known: labels that they list, whether or not they occur.
        notes: what else should be known.
    """

    def __init__(
        self,
        tool: str,
        images: str | Path | ImageFolder | None,
        labels: Sequence[str] = (),
        *,
        word: str = "label",
        all_looked: bool = False,
    ) -> None:
        self._folder = ImageFolder(Path(images)) if isinstance(images, str | Path) else images
        self._tool, self._wanted, self._word = tool, frozenset(labels), word
        self._all_looked = all_looked
        self.found: list[Drawing | Problem] = []
        self.known: list[str] = []
        self._undrawn: set[tuple[Path | str, str]] = set()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.notes: list[str] = []
        self._in_corner: set[bool] = set()
        if images is None:
            self.notes.append(
                "no folder of images: black ones of the declared sizes stand for them (--images gives others)"
            )

    def add(self, label: str, make: Callable[[], Iterable[Drawing]]) -> None:
        """Take in the drawings that ``make`` gives, or what is wrong with the entry of that label."""
        made = attempt(label, lambda: list(make()))
        self.found += [made] if isinstance(made, Problem) else made

    def tally(self, text: str) -> None:
        """Count something for the notes, which name it with its number; threads may call this."""
        with self._lock:
            self._counts[text] += 1

    def _all_notes(self) -> Iterator[str]:
        yield from self.notes
        kinds = list(self._counts.items())
        yield from (f"{count} {text}" for text, count in kinds[:_SHOWN])
        if len(kinds) > _SHOWN:
            yield f"{sum(count for _, count in kinds[_SHOWN:])} more of {len(kinds) - _SHOWN} other kinds left out"
        if self._in_corner == {True}:
            yield "all marks lie in the first 100 x 100 pixels of large images: percent in place of pixels?"

    def write(self, output: str | Path, *, anonymize: bool, overwrite: bool, progress: bool) -> Converted:
        """Write a data folder of what the exports say.

        Args:
            output: the new data folder.
            anonymize: whether nothing may lead back to the raters' names, of which files have some.
            overwrite: as of :func:`~irrbench.convert.writing.write_folder`.
            progress: likewise.

        Raises:
            DataError: a label that counts and does not exist, or nothing to convert.
        """
        exports = {drawing.export: None for drawing in self._drawings}
        chosen = {"labels": sorted(self._wanted), "images_given": self._folder is not None}
        facts = {"format": self._tool, "source": len(exports) if anonymize else list(exports), **chosen}
        options: dict[str, Any] = {"overwrite": overwrite, "anonymize": anonymize, "progress": progress}
        return write_folder(self._sources(), Path(output), facts=facts, notes=self._all_notes(), **options)

    @property
    def _drawings(self) -> list[Drawing]:
        return [one for one in self.found if isinstance(one, Drawing)]

    def _sources(self) -> list[Source | Problem]:
        drawings = self._drawings
        self._check_labels()
        groups: dict[Path | str, list[Drawing]] = defaultdict(list)
        if self._folder is not None:
            for drawing in drawings:
                self._folder.expect((*drawing.files, drawing.image), drawing.image)
        for drawing in drawings:
            groups[self._key(drawing.image)].append(drawing)
        everyone = sorted({drawing.rater for drawing in drawings if drawing.rater is not None})
        problems: list[Source | Problem] = [one for one in self.found if isinstance(one, Problem)]
        looked = everyone if self._all_looked else []
        return problems + [
            attempt(f"{group[0].export}, image {group[0].image}", partial(self._source, key, group, looked))
            for key, group in groups.items()
        ]

    def _check_labels(self) -> None:
        marks = [mark for drawing in self._drawings for mark in drawing.marks or ()]
        labels = [mark.labels for mark in marks]
        joined = sorted({mark.labels[0] for mark in marks if mark.labels and mark.fill is not None})
        if len(joined) > 1 and not self._wanted:
            self.notes.append(f"several are joined in one mask: {some_text(joined, _SHOWN)} (--{self._word} chooses)")
        names = dict.fromkeys([*self.known, *(each[0] for each in labels if each)])
        missing = self._wanted - {*names, *(name for each in labels for name in each)}
        if missing:
            found, expected = f"no {self._word} {min(missing)!r}", f"some of {some_text(list(names), _SHOWN) or 'none'}"
            raise DataError([Problem("the exports", found, expected, "correct the name")])

    def _key(self, image: str) -> Path | str:
        """The file that an image's name leads to, so that one image stays one however exports call its folder."""
        try:
            return image if self._folder is None or not self._folder.merges else self._folder.find([image])
        except ReadError:
            return image

    def _source(self, key: Path | str, group: Sequence[Drawing], looked: Sequence[str]) -> Source:
        _check_files(group)
        name = group[0].image
        if self._folder is not None and isinstance(key, Path):
            name = key.relative_to(self._folder.root).as_posix()
        sizes = sorted({drawing.declared for drawing in group if drawing.declared is not None})
        if len(sizes) > 1:
            found = f"sizes {' and '.join(map(size_text, sizes[:2]))}"
            raise ReadError(found, "one size of an image in all its entries", "export them again")
        by_rater: dict[str, list[list[Mark]]] = defaultdict(list)
        for drawing in sorted(group, key=lambda drawing: drawing.time):
            if drawing.rater is not None and drawing.marks is not None:
                outlined = self._outlined(key, drawing.rater, drawing.marks)
                by_rater[drawing.rater] += [] if outlined is None else [outlined]
        for rater in (*(drawing.rater for drawing in group), *looked):
            if rater is not None and not by_rater[rater] and (key, rater) not in self._undrawn:
                by_rater[rater].append([])
        drawn = {rater: drawings for rater, drawings in by_rater.items() if drawings}
        if not by_rater:
            raise ReadError("no annotator", "one at least", "say who looked, or leave the image out")
        if not drawn:
            raise ReadError("no shape with an outline", "polygons, masks or ellipses", "use --boxes, or leave it out")

        def draw(shape: Shape) -> Iterator[tuple[str, list[Mask]]]:
            for rater, drawings in drawn.items():
                yield rater, [self._union(marks, shape) for marks in drawings]

        declared = sizes[0] if sizes else None
        files = tuple(dict.fromkeys((drawing.files, drawing.url) for drawing in group))
        return Source(name, tuple(drawn), _shared(group), partial(self._image, files, declared), draw, declared)

    def _outlined(self, key: Path | str, rater: str, marks: Sequence[Mark]) -> list[Mark] | None:
        """The marks that count; None where they are all of kinds without an outline."""
        counting = []
        for mark in marks:
            if self._wanted and not self._wanted & set(mark.labels):
                chosen = ", ".join(sorted(self._wanted))
                self.tally(f"of {self._word} {next(iter(mark.labels), 'none')} left out: {chosen} counts")
                continue
            counting.append(mark)
            if mark.fill is None:
                filled = " (--boxes fills them)" if mark.kind.lower().endswith(("box", "rectangle")) else ""
                self.tally(f"of kind {mark.kind} left out: they have no outline{filled}")
        outlined = [mark for mark in counting if mark.fill is not None]
        if not counting or outlined:
            return outlined
        self._undrawn.add((key, rater))
        self.tally("drawings without any outline count as not drawn")
        return None

    def _union(self, marks: Iterable[Mark], shape: Shape) -> Mask:
        mask = union(marks, shape)
        if min(shape) >= _LARGE and mask.any():
            self._in_corner.add(not mask[100:].any() and not mask[:, 100:].any())
        return mask

    def _image(
        self, files: Sequence[tuple[tuple[str, ...], str]], declared: Shape | None
    ) -> Path | NDArray[np.generic]:
        if self._folder is not None:
            return _find(files, self._folder)
        if declared is None:
            raise ReadError("no size", "images, or a declared size", "give --images DIR")
        return np.zeros(declared, np.uint8)


def _find(files: Iterable[tuple[tuple[str, ...], str]], folder: ImageFolder) -> Path:
    """The file of an image that exports may call otherwise; copies of it are one."""
    results = [attempt("", partial(folder.find, names, url)) for names, url in files]
    first, *others = dict.fromkeys(sorted(results, key=lambda result: isinstance(result, Problem)))
    if isinstance(first, Problem):
        raise ReadError(first.found, first.expected, first.remedy)
    for other in others:
        if isinstance(other, Path) and not filecmp.cmp(first, other, shallow=False):
            raise ReadError(f"{first.name} and {other.name}, which differ", "one image", "rename one in its export")
    return first


def union(marks: Iterable[Mark], shape: Shape) -> Mask:
    """All marks in one mask ``(H, W)``.

    Raises:
        ReadError: one that cannot be drawn, named.
    """
    mask, name = np.zeros(shape, bool), ""
    try:
        for mark in marks:
            name = mark.name
            if mark.fill is not None:
                mark.fill(mask)
    except ReadError as error:
        raise ReadError(f"{name}: {error.found}", error.expected, error.remedy) from error
    except MALFORMED as error:
        found = f"{name}: a damaged shape ({shown(error)})"
        raise ReadError(found, "the format as documented", "export again") from error
    return mask


def _check_files(group: Sequence[Drawing]) -> None:
    """Refuse an export that tells two files apart which are one here; other exports may call a file otherwise."""
    names: dict[str, dict[tuple[str, ...], None]] = defaultdict(dict)
    for drawing in group:
        names[drawing.export][drawing.files] = None
    for several in names.values():
        if len(several) > 1:
            one, other = list(several)[:2]
            first, second = (next((file for file in a if file not in b), a[0]) for a, b in ((one, other), (other, one)))
            found = f"{first} and {second}, which lead to one image"
            raise ReadError(found, "a file for each image", "keep the folders as exported, or rename one of them")


def _shared(group: Sequence[Drawing]) -> dict[str, object]:
    """Covariates on which all entries of an image agree."""
    first, *others = ({str(key): value for key, value in drawing.covariates.items()} for drawing in group)
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
