"""Reads the files of one image of a data folder, and says of all images together what their values mean."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from irrbench.data.io import read_header, read_image, read_mask, shown_path
from irrbench.data.problems import DataError, Problem, ReadError, collecting
from irrbench.data.rater_data import PackedMasks, pack_masks, small_shape
from irrbench.data.readers import Affine, Exif, Header, Mask, check_shape
from irrbench.data.values import Facts, Marks, Rule, can_be_void, decide, guess_classes, is_nameable, is_opposite

Classes = Sequence[int] | Mapping[str, Sequence[int]] | None
ROI = "roi"
_MANY = re.compile(r"((?:\d+, ){3}\d+)((?:, \d+)+)")  # numbers of which the first four are shown
_DRAWN_ON: Mapping[Exif, str] = {"upright": "as viewers show it", "stored": "as it is stored"}


class MaskFile(NamedTuple):
    """A rater's drawing of an image, or its ROI: where, whose, how its values are read, the file (None: not drawn)."""

    folder: str
    rater: str
    rule: Rule
    path: Path | None


class Drawn(NamedTuple):
    """What one image's files hold; no masks where there are problems, and the facts of each mask by file."""

    header: Header | None
    problems: list[Problem]
    facts: dict[str, tuple[str, Facts]]
    affine: Affine | None = None
    packed: PackedMasks | None = None
    repeated: PackedMasks | None = None


def rules_of(raters: Collection[str], classes: Classes, void: int | None) -> tuple[dict[str, Rule], list[Problem]]:
    """How each rater's values are read, and a problem for each unknown rater whose ``classes`` are given."""
    by_rater = classes if isinstance(classes, Mapping) else dict.fromkeys(raters, classes)
    named = {rater: by_rater.get(rater) for rater in raters}
    expected = f"some of {', '.join(raters)}"
    unknown = [name for name in by_rater if name not in named]
    problems = [Problem("classes", f"{name!r}, unknown", expected, "correct the name") for name in unknown]
    by_name = isinstance(classes, Mapping)
    rules = {rater: Rule(None if some is None else tuple(some), void, by_name) for rater, some in named.items()}
    return rules, problems


def read_files(
    root: Path,
    image: Path,
    first: Sequence[MaskFile],
    repeats: Sequence[MaskFile],
    roi: MaskFile,
    *,
    decode: bool,
    max_side: int | None,
    exif: Exif | None = None,
) -> Drawn:
    """Read the files of one image, each once; runs in several threads.

    Masks that say where their voxels lie are brought to the order of the image's axes, or to that of the first mask
    that says so; those without a turn of their own are turned with their image where ``exif`` or their size says so.
    Pixels that are void to anybody are no part of the ROI.
    """
    problems: list[Problem] = []
    header: Header | None = None
    with collecting(problems, shown_path(root, image)):
        header = read_header(image, decode=decode)
    affine = header.affine if header is not None else None
    found: list[Marks | None] = []
    facts: dict[str, tuple[str, Facts]] = {}
    for file in (*first, *repeats, roi):
        marks = None
        if file.path is not None:
            shown = f"{file.folder}/{file.path.name}"
            with collecting(problems, shown):
                shape, turn = (header.shape[1:], header.turn) if header else ((), 1)
                marks = read_mask(file.path, file.rule, like=affine, shape=shape, turn=turn, exif=exif)
                facts[shown] = (file.rater, marks.facts)
                affine = marks.affine if affine is None else affine
                if header is not None:
                    _check_size(marks.marked.shape, header, image)
        found.append(marks)
    _compare((*first, *repeats), found, len(first), facts)
    region = _region(found)
    if region is not None and not region.any() and not problems:
        name = shown_path(root, roi.path or image)
        problems.append(Problem(name, "no marked pixel", "a region that counts", "redraw or remove it"))
    if problems:
        return Drawn(header, problems, facts, affine)
    packed, repeated = (
        pack_masks([None if marks is None else marks.marked for marks in part], region, max_side=max_side)
        if any(marks is not None for marks in part)
        else None
        for part in (found[: len(first)], found[len(first) : -1])
    )
    return Drawn(header, problems, facts, affine, packed, repeated)


def _compare(
    files: Sequence[MaskFile], found: Sequence[Marks | None], raters: int, facts: dict[str, tuple[str, Facts]]
) -> None:
    """Add to the facts of masks of most pixels whether the other raters marked what these leave out."""
    for file, marks in zip(files, found, strict=False):
        if file.path is None or marks is None or marks.facts.share <= 0.5:
            continue
        others = [
            other.marked
            for by, other in zip(files[:raters], found, strict=False)
            if other is not None and by.rater != file.rater and 0 < other.facts.share < 1
            if other.marked.shape == marks.marked.shape
        ]
        opposite = is_opposite(marks.marked, others, framed=bool(marks.facts.framed))
        facts[f"{file.folder}/{file.path.name}"] = file.rater, marks.facts._replace(opposite=opposite)


def _check_size(shape: tuple[int, ...], header: Header, image: Path) -> None:
    channels, *sides = header.shape
    remedy = "draw it on the image's own pixels"
    if header.turn > 1:
        remedy = f"draw it on {image.name} as viewers show it (its EXIF turns it), or remove the turn from the image"
    elif channels == 1 and shape == tuple(sides[:-1]):
        remedy = f"save {image.name} with 1, 3 or 4 channels last, or as one channel; its last axis is taken for slices"
    elif shape == (*sides, channels):
        remedy = f"save {image.name} as .nii.gz: its last axis is taken for colours, not for slices"
    elif shape == tuple(reversed(sides)):
        remedy = "turn its axes, which are those of the image in another order"
    check_shape(shape, tuple(sides), remedy)


def _region(found: Sequence[Marks | None]) -> Mask | None:
    """The ROI, which is the last of the masks, without void pixels; None where all pixels count."""
    roi = found[-1]
    voids = [marks.void for marks in found if marks is not None and marks.void is not None]
    if not voids or len({void.shape for void in voids}) > 1:
        return None if roi is None else roi.marked
    counts = ~np.logical_or.reduce(voids)
    return counts if roi is None or roi.marked.shape != counts.shape else np.asarray(roi.marked & counts)


def decide_all(
    items: Sequence[Drawn], rules: Mapping[str, Rule], exif: Exif | None = None
) -> tuple[dict[str, str], list[Problem]]:
    """What the values of each rater (with repeats), of ROIs and of images mean, and which files contradict it."""
    facts: dict[str, dict[str, Facts]] = {}
    for item in items:
        for file, (rater, fact) in item.facts.items():
            facts.setdefault(rater, {})[file] = fact
    values: dict[str, str] = {}
    problems: list[Problem] = []
    voids = can_be_void(fact for rater in rules for fact in facts.get(rater, {}).values())
    guesses = {rater: guess_classes(facts.get(rater, {}), rule, voids) for rater, rule in rules.items()}
    for rater in sorted(facts):
        folder = rater if rater == ROI else f"masks/{rater}"
        guess = guesses.get(rater)
        alike = [name for name, rule in rules.items() if guess and guesses[name] == guess and not rule.by_name]
        flag = None if rater == ROI else partial(_classes_flag, guesses, (*alike, rater))
        values[rater], found = decide(folder, facts[rater], rules.get(rater, Rule()), flag, voids)
        problems += found
    headers = [item.header for item in items if item.header is not None]
    scales = Counter(header.scale for header in headers).most_common()
    texts = [scale if len(scales) == 1 else f"{scale} ({count})" for scale, count in scales]
    turned = sum(header.turn > 1 for header in headers)
    drawn = "" if exif is None else f", masks without a turn drawn on it {_DRAWN_ON[exif]}"
    values["images"] = "; ".join(texts + ([f"{turned} turned as EXIF says{drawn}"] if turned else []))
    return values, problems


def _classes_flag(
    guesses: Mapping[str, Sequence[float] | None], raters: Sequence[str], classes: Sequence[float]
) -> str:
    """The option that says which values of some raters are marked, with what is said or proposed for the others.

    Example:
        >>> _classes_flag({"anna": None, "ben": (1,), "cem": (2,)}, ["ben"], (255.0, 0))
        "--folder.classes '{ben: [0, 255], cem: [2]}'"
    """
    named = {**guesses, **dict.fromkeys(raters, classes)}
    numbers = {name: sorted(map(int, some)) for name, some in named.items() if some and is_nameable(some)}
    text = yaml.safe_dump(numbers, default_flow_style=True, width=math.inf).strip()
    text = _MANY.sub(lambda found: f"{found[1]}, ... {found[2].count(', ')} more", text)
    return f"--folder.classes {shlex.quote(text)}"


@dataclass(frozen=True)
class FolderImage:
    """Reads one image when called, with the channels of its data set and no side over ``max_side``.

    ``turn`` is what its EXIF declares, ``exif`` on what masks and predictions without a turn of their own were drawn.
    """

    path: Path
    channels: int
    max_side: int | None
    turn: int = 1
    exif: Exif | None = None

    def __call__(self) -> NDArray[np.float32]:
        """The image, float32 ``(C, *S)`` in [0, 1]."""
        try:
            image = read_image(self.path)
        except ReadError as error:
            raise DataError([error.at(str(self.path))]) from error
        shape = small_shape(image.shape[1:], self.max_side)
        if image.shape[1:] != shape:  # each pixel becomes the mean of those that it covers
            batch = torch.from_numpy(np.ascontiguousarray(image))[None]
            image = torch.nn.functional.interpolate(batch, size=shape, mode="area")[0].numpy()
        return image if len(image) == self.channels else np.repeat(image, self.channels, axis=0)
