"""What the values of masks mean: decided for a rater's folder as a whole, out of the few values that each file holds.

A file is packed as it is read, by the rule that holds wherever a folder can be used: 0 is background, every other value
is marked, or the marked values are named. When all files are read, their :class:`Facts` show whether the folder's files
say the same; those that do not are problems.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irrbench.data.problems import Problem, ReadError
from irrbench.data.readers import Affine, Mask

Sort = Literal["numbers", "bool", "jpg"]
JPG_SLACK = 63  # how far from black or white a pixel of a JPEG mask may be; it is cut half way between them
COLOUR = 2**24  # what is added to a colour's number, so that it equals no other value
MOST_VALUES = 32  # more are those of a smooth picture
FRAME = 0.9  # share of the border, and of the masks, that marks take where they are dark on white
FEWEST_FRAMED = 3
_SMOOTH = "threshold it, or export one mask per structure without smoothing"


class Rule(NamedTuple):
    """What was said of a rater's values: which are marked (None: all but 0), and which take a pixel out of the ROI."""

    classes: tuple[int, ...] | None = None
    void: int | None = None


class Facts(NamedTuple):
    """What one mask holds.

    Attributes:
        sort: how values are stored.
        values: the distinct ones, ascending, without void.
        has_void: whether void is among them.
        framed: whether marks take the border and most of the image; None where all or nothing is marked.
    """

    sort: Sort
    values: tuple[float, ...]
    has_void: bool = False
    framed: bool | None = None

    @property
    def marks(self) -> tuple[float, ...]:
        """The values but 0."""
        return tuple(value for value in self.values if value)

    def text(self) -> str:
        """The values in words, such as ``0/255`` or ``0, 1, 2``."""
        return "bool" if self.sort == "bool" else values_text(self.values)


class Marks(NamedTuple):
    """A mask ``(*S)``, which of its pixels are void (None: none), what its file held, and where its voxels lie."""

    marked: Mask
    void: Mask | None
    facts: Facts
    affine: Affine | None = None


def values_text(values: Sequence[float]) -> str:
    """Values in words.

    Example:
        >>> values_text((0, 255)), values_text((0, 1, 2)), values_text((0, COLOUR + 0xFF0000))
        ('0/255', '0, 1, 2', '0/#ff0000')
    """
    shown = [f"{value:g}" if not value >= COLOUR else f"#{int(value) - COLOUR:06x}" for value in values[:4]]
    if len(values) == 2 and values[0] == 0 and math.isfinite(values[1]):
        return "/".join(shown)
    return ", ".join(shown) + (", ..." if len(values) > 4 else "")


def read_marks(plane: NDArray[Any], sort: Sort, rule: Rule) -> Marks:
    """The mask that a plane of values holds.

    Raises:
        ReadError: values that no folder can mean: not finite, or of a smooth picture.
    """
    plane = _cut_jpg(plane) if sort == "jpg" else plane
    void = None if rule.void is None else plane == rule.void
    if void is not None and not void.any():
        void = None
    if void is not None:
        plane = np.where(void, 0, plane)
    values = distinct(plane)
    if rule.classes is None and len(values) > MOST_VALUES:
        raise _smooth(values)
    if rule.classes is None:
        marked = np.asarray(plane != 0)
        framed = is_framed(marked) if 0 in values and len(values) > 1 else None
    else:
        marked, framed = np.isin(plane, rule.classes), None
    if void is not None:
        marked &= ~void
    return Marks(marked, void, Facts(sort, values, void is not None, framed))


def distinct(plane: NDArray[Any]) -> tuple[float, ...]:
    """The distinct values, ascending.

    Raises:
        ReadError: values that are not finite, or fractions.
    """
    top, low = plane.max(), plane.min()
    value = top if top != 0 else low
    if plane.dtype == np.bool_ or ((plane == 0) | (plane == value)).all():
        found: tuple[float, ...] = (float(low), float(top)) if low != top else (float(top),)
    else:
        found = all_values(plane)
    if not all(map(math.isfinite, found)):
        raise ReadError(f"values ({values_text(found)})", "two values with 0 as background (0/1 or 0/255)", _SMOOTH)
    if len(found) > 2 and any(value % 1 for value in found):
        raise _smooth(found)
    return found


def all_values(plane: NDArray[Any]) -> tuple[float, ...]:
    """The distinct values, ascending; of small types by a table, which takes a tenth of the time of sorting."""
    if plane.dtype in (np.uint8, np.uint16):
        seen = np.zeros(np.iinfo(plane.dtype).max + 1, bool)
        seen[plane] = True
        return tuple(np.flatnonzero(seen).tolist())
    return tuple(np.unique(plane).tolist())


def _smooth(values: Sequence[float]) -> ReadError:
    expected = "two values with 0 as background (0/1 or 0/255)"
    return ReadError(f"{len(values)} values ({values_text(values)})", expected, _SMOOTH)


def _cut_jpg(plane: NDArray[Any]) -> NDArray[np.uint8]:
    """The black and white of which a JPEG mask was made."""
    is_white = plane > 127
    if ((plane > JPG_SLACK) & (plane < 255 - JPG_SLACK)).any() or (plane.any() and not is_white.any()):
        found = f"a JPEG mask with values from {plane.min()} to {plane.max()}, not black and white alone"
        raise ReadError(found, "a mask that was saved without loss", "export it as PNG, TIFF, npy or NIfTI")
    return np.where(is_white, 255, 0).astype(np.uint8)


def is_framed(marked: Mask) -> bool:
    """Whether marks take nearly all of the border and more than half of the image."""
    if np.count_nonzero(marked[0]) < FRAME * marked[0].size:
        return False
    sides = [marked.take(end, axis) for axis in range(marked.ndim) for end in (0, -1)]
    border = sum(np.count_nonzero(side) for side in sides) / sum(side.size for side in sides)
    return bool(border >= FRAME and np.count_nonzero(marked) > marked.size / 2)


def decide(folder: str, facts: Mapping[str, Facts], rule: Rule) -> tuple[str, list[Problem]]:
    """What the values of a folder mean, and a problem for each file that says something else.

    Args:
        folder: its name, for messages.
        facts: what its files hold, by their names.
        rule: what was said of the values.
    """
    void = f", {rule.void} is void" if any(fact.has_void for fact in facts.values()) else ""
    if void and not any(any(fact.values) for fact in facts.values()):
        found, remedy = f"nothing but 0 and void ({rule.void})", "leave --folder.void out if that value is a mark"
        return "0" + void, [Problem(folder, found, "marks beside void", remedy)]
    if rule.classes is not None:
        text, problems = _decide_classes(folder, facts, rule.classes)
        return text + void, problems
    sorts = Counter((fact.marks, fact.sort) for fact in facts.values() if fact.marks and fact.sort != "bool")
    if not sorts:
        is_bool = any(fact.sort == "bool" for fact in facts.values())
        return ("bool" if is_bool else "0, nothing is marked") + void, _find_framed(folder, facts)
    (marks, sort), _ = sorts.most_common(1)[0]
    common = Facts(sort, (0, *marks)).text()
    count = sum(fact.marks == marks for fact in facts.values())
    holds = "0 and one other value" if len(marks) > 1 else f"{common}, as {count} of the {len(facts)} masks here"
    odd = {name: fact for name, fact in facts.items() if fact.sort != "bool" and fact.marks not in ((), marks)}
    if len(marks) > 1:
        odd |= {name: fact for name, fact in facts.items() if fact.marks == marks}
    problems = [_contradiction(name, fact, holds) for name, fact in odd.items()]
    is_jpg = any(fact.sort == "jpg" for fact in facts.values())
    return common + (", jpg cut at 127.5" if is_jpg else "") + void, problems or _find_framed(folder, facts)


def _contradiction(file: str, fact: Facts, holds: str) -> Problem:
    remedy = "name the marked values (--folder.classes [1]) or the one of pixels that do not count (--folder.void 255)"
    if fact.marks[-1] >= COLOUR:
        remedy = "export one mask per structure, of one colour on black"
    return Problem(file, f"values {fact.text()}", holds, remedy, f"values of {file.rpartition('/')[0]}")


def _decide_classes(folder: str, facts: Mapping[str, Facts], classes: tuple[int, ...]) -> tuple[str, list[Problem]]:
    """As :func:`decide`, where the marked values are named."""
    values = tuple(sorted({value for fact in facts.values() for value in fact.values}))
    named = ", ".join(map(str, classes))
    text = f"values {values_text(values)}: {named} {'is' if len(classes) == 1 else 'are'} marked"
    problems = []
    if any(fact.sort == "bool" for fact in facts.values()) and values not in ((0,), (0, 1), (1,)):
        problems = [
            Problem(name, "booleans", f"numbers of classes, as the other masks of {folder} hold", "export it as them")
            for name, fact in facts.items()
            if fact.sort == "bool"
        ]
    if not set(classes).intersection(values):
        text += ", in no mask"
        if 0 not in classes and max(values, default=0) > MOST_VALUES:
            remedy = "correct folder.classes, or give each rater's own (folder.classes: {rater: [1]})"
            problems.append(Problem(folder, f"values {values_text(values)}", f"some of the classes {named}", remedy))
    return text, problems


def _find_framed(folder: str, facts: Mapping[str, Facts]) -> list[Problem]:
    """A problem where the marks look like dark ones on white."""
    framed = [fact.framed for fact in facts.values() if fact.framed is not None]
    if not looks_inverted(framed):
        return []
    values = sorted({value for fact in facts.values() for value in fact.marks})
    found = f"{sum(framed)} of {len(framed)} masks that mark their border and most pixels, as dark marks on white do"
    light = values_text(values) or 1
    remedy = f"say --folder.classes [0] if the marks are dark, --folder.classes [{light}] if they are not"
    return [Problem(folder, found, "marks on a background of 0", remedy)]


def looks_inverted(framed: Sequence[bool | None]) -> bool:
    """Whether nearly all masks mark their border and most pixels, leaving out those that mark all or nothing."""
    known = [one for one in framed if one is not None]
    return len(known) >= FEWEST_FRAMED and sum(known) >= FRAME * len(known)
