"""What the values of masks mean: decided for a rater's folder as a whole, out of the few values that each file holds.

A file is packed as it is read, by the rule that holds wherever a folder can be used: 0 is background, every other value
is marked, or the marked values are named. When all files are read, their :class:`Facts` show whether the folder's files
say the same; those that do not are problems.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irrbench.data.problems import Problem, ReadError
from irrbench.data.readers import Affine, Mask

Sort = Literal["numbers", "bool", "jpg"]
JPG_SLACK = 63  # how far from black or white a pixel of a JPEG mask may be; it is cut half way between them
COLOUR = 2**24  # what is added to a colour's number, so that it equals no other value
MOST_VALUES = 32  # more are those of a smooth picture
MOST_CLASSES = 16  # of a folder; more values are those of smoothed masks
FRAME = 0.9  # share of the border, and of the masks, that marks take where they are dark on white
FEWEST_FRAMED = 3
CLASS_NUMBERS = 32  # values above are those of pictures where a folder holds few, and no class numbers beside 1 or 2
FEW_VALUES = 4
ALIKE = 4.0  # how many times larger or smaller than usual the unmarked part may be that would be the marks
OVERLAP = 0.6  # of the unmarked part with what another rater marked, where marks do not take the border
_QUESTION = ": is it a mark?)"
_SMOOTH = "threshold it, or export one mask per structure without smoothing"


class Rule(NamedTuple):
    """What was said of a rater's values: which are marked (None: all but 0), and which take a pixel out of the ROI."""

    classes: tuple[int, ...] | None = None
    void: int | None = None
    by_name: bool = False  # whether the classes were said for this rater alone


Flag = Callable[[Sequence[float]], str]  # the option that names the marked values of one rater


class Facts(NamedTuple):
    """What one mask holds.

    Attributes:
        sort: how values are stored.
        values: the distinct ones, ascending, without void.
        has_void: whether void is among them.
        framed: whether marks take the border and most of the image; None where all or nothing is marked.
        share: of the pixels that count, those that are marked.
        void: share of void pixels.
        opposite: whether others marked what this mask of most pixels leaves out; None where they cannot say.
    """

    sort: Sort
    values: tuple[float, ...]
    has_void: bool = False
    framed: bool | None = None
    share: float = 0.0
    void: float = 0.0
    opposite: bool | None = None

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
        ReadError: values that no folder can mean: not finite, fractions, or of a smooth picture.
    """
    plane = _cut_jpg(plane) if sort == "jpg" else plane
    void = None if rule.void is None else plane == rule.void
    if void is not None and not void.any():
        void = None
    if void is not None:
        plane = np.where(void, 0, plane)
    values = all_values(plane)
    is_broken = not all(map(math.isfinite, values)) or (len(values) > 2 and any(value % 1 for value in values))
    if is_broken or (rule.classes is None and len(values) > MOST_VALUES):
        expected = "two values with 0 as background (0/1 or 0/255)"
        raise ReadError(f"{len(values)} values ({values_text(values)})", expected, _SMOOTH)
    marked = np.asarray(plane != 0) if rule.classes is None else np.isin(plane, rule.classes)
    if void is not None:
        marked &= ~void
    count, counted = np.count_nonzero(marked), marked.size - (0 if void is None else np.count_nonzero(void))
    facts = Facts(sort, values, void is not None, share=count / max(counted, 1), void=1 - counted / marked.size)
    return Marks(marked, void, facts._replace(framed=is_framed(marked, void) if 0 < count < counted else None))


def all_values(plane: NDArray[Any]) -> tuple[float, ...]:
    """The distinct values, ascending; of two, and of small types by a table, in a tenth of the time of sorting."""
    low, top = plane.min(), plane.max()
    if plane.dtype == np.bool_ or ((plane == low) | (plane == top)).all():
        return tuple(dict.fromkeys((float(low), float(top))))
    if plane.dtype in (np.uint8, np.uint16):
        seen = np.zeros(np.iinfo(plane.dtype).max + 1, bool)
        seen[plane] = True
        return tuple(np.flatnonzero(seen).tolist())
    return tuple(np.unique(plane).tolist())


def _cut_jpg(plane: NDArray[Any]) -> NDArray[np.uint8]:
    """The black and white of which a JPEG mask was made."""
    is_white = plane > 127
    if ((plane > JPG_SLACK) & (plane < 255 - JPG_SLACK)).any() or (plane.any() and not is_white.any()):
        found = f"a JPEG mask with values from {plane.min()} to {plane.max()}, not black and white alone"
        raise ReadError(found, "a mask that was saved without loss", "export it as PNG, TIFF, npy or NIfTI")
    return np.where(is_white, 255, 0).astype(np.uint8)


def is_framed(marked: Mask, void: Mask | None = None) -> bool:
    """Whether marks take nearly all of the border and more than half of the image, without void pixels."""
    filled = marked if void is None else marked | void
    if np.count_nonzero(filled[0]) < FRAME * filled[0].size:
        return False
    border = border_of(marked)
    size = marked.size if void is None else marked.size - np.count_nonzero(void)
    counted = border.size if void is None else border.size - np.count_nonzero(border_of(void))
    return bool(np.count_nonzero(border) >= FRAME * max(counted, 1) and np.count_nonzero(marked) > size / 2)


def border_of(mask: NDArray[Any]) -> NDArray[Any]:
    """The pixels at an image's border; those of corners several times."""
    return np.concatenate([mask.take(end, axis).ravel() for axis in range(mask.ndim) for end in (0, -1)])


def is_opposite(marked: Mask, others: Sequence[Mask], *, framed: bool) -> bool | None:
    """Whether at least half of the others, who mark something, mark the part that is not marked.

    Those who mark most of the image, too, count where they leave out the same part: they say that the mask is right.
    """
    votes: list[bool] = []
    for other in others:
        is_large = 2 * np.count_nonzero(other) > other.size
        part = ~other if is_large else other
        inside, size = np.count_nonzero(part & ~marked), np.count_nonzero(part)
        overlaps = inside >= OVERLAP * (marked.size - np.count_nonzero(marked) + size - inside)
        if not is_large:
            votes.append(bool(inside > size / 2 and (framed or overlaps)))
        elif overlaps:
            votes.append(False)
    return 2 * sum(votes) >= len(votes) if votes else None


def decide(
    folder: str, facts: Mapping[str, Facts], rule: Rule, flag: Flag | None = None, voids: Collection[float] = ()
) -> tuple[str, list[Problem]]:
    """What the values of a folder mean, and a problem for each file that says something else.

    Args:
        folder: its name, for messages.
        facts: what its files hold, by their names.
        rule: what was said of the values.
        flag: the option that names the rater's marked values; None where there is none, as for ROIs, which may
            well take the border.
        voids: values that could be void, as they are not all that some mask holds.
    """
    void = _void_text(facts, rule)
    if void and not any(any(fact.values) for fact in facts.values()):
        found, remedy = f"nothing but 0 and void ({rule.void})", "leave --folder.void out if that value is a mark"
        return "0" + void, [Problem(folder, found, "marks beside void", remedy)]
    if rule.classes is not None and flag is not None:
        text, problems = _decide_classes(folder, facts, rule, flag)
    else:
        text, problems = _decide_alone(facts, flag, voids)
    return text + void, problems or ([] if flag is None else _find_opposite(folder, facts, rule, flag))


def _void_text(facts: Mapping[str, Facts], rule: Rule) -> str:
    """That a value is void, with a question where it takes more than the marks do."""
    having = [fact for fact in facts.values() if fact.has_void]
    more = sum(fact.void > fact.share for fact in having)
    if not having:
        return ""
    question = f" (more pixels than the marks in {more} of {len(having)} masks{_QUESTION}"
    return f", {rule.void} is void{question if 2 * more > len(having) else ''}"


def questioned(values: Mapping[str, str]) -> list[str]:
    """The raters what is said of whose values is doubtful."""
    return [rater for rater, text in values.items() if text.endswith(_QUESTION)]


def _decide_alone(facts: Mapping[str, Facts], flag: Flag | None, voids: Collection[float]) -> tuple[str, list[Problem]]:
    """As :func:`decide`, where nothing was said of the values."""
    sorts = Counter((fact.marks, fact.sort) for fact in facts.values() if fact.marks and fact.sort != "bool")
    if not sorts:
        return "bool" if any(fact.sort == "bool" for fact in facts.values()) else "0, nothing is marked", []
    (marks, sort), _ = sorts.most_common(1)[0]
    common = Facts(sort, (0, *marks)).text()
    count = sum(fact.marks == marks for fact in facts.values())
    holds = "0 and one other value" if len(marks) > 1 else f"{common}, as {count} of the {len(facts)} masks here"
    odd = {name: fact for name, fact in facts.items() if fact.sort != "bool" and fact.marks not in ((), marks)}
    if len(marks) > 1:
        odd |= {name: fact for name, fact in facts.items() if fact.marks == marks}
    remedy = _values_remedy(facts, flag, voids) if odd else ""
    is_jpg = any(fact.sort == "jpg" for fact in facts.values())
    return common + (", jpg cut at 127.5" if is_jpg else ""), [
        Problem(name, f"values {fact.text()}", holds, remedy, remedy) for name, fact in odd.items()
    ]


def all_marks(facts: Iterable[Facts]) -> tuple[float, ...]:
    """The values but 0 that any of the files holds, ascending."""
    return tuple(sorted({value for fact in facts for value in fact.marks}))


def can_be_void(facts: Iterable[Facts]) -> set[float]:
    """The values that a mask holds beside others, and none holds alone."""
    marks = {fact.marks for fact in facts}
    return {value for some in marks if len(some) > 1 for value in some if (value,) not in marks}


def guess_classes(facts: Mapping[str, Facts], rule: Rule, voids: Collection[float]) -> tuple[float, ...] | None:
    """The marked values that a remedy proposes for a rater: those that were said, or what the files suggest."""
    marks, is_dark = all_marks(facts.values()), looks_inverted([fact.framed for fact in facts.values()])
    if is_dark and not rule.by_name:
        return marks if rule.classes and 0 in rule.classes else (0,)
    if rule.classes is not None:
        rest = [value for fact in facts.values() if _is_other_scale(fact, rule.classes, marks) for value in fact.marks]
        return (*rule.classes, *sorted({value for value in rest if value not in rule.classes}))
    return _split_void(facts.values(), voids)[0] if 1 < len(marks) <= MOST_CLASSES else None


def _split_void(facts: Iterable[Facts], voids: Collection[float]) -> tuple[tuple[float, ...], float | None]:
    """The values that are likely marked, and the one that is likely void if any can be.

    Void is a grey one, or the largest beside class numbers. Where no file holds 0, the smallest is background.
    """
    facts = list(facts)
    marks = all_marks(facts)
    if not any(0 in fact.values for fact in facts):
        return marks[1:], None
    void = marks[-1] if marks[0] <= CLASS_NUMBERS else marks[0]
    if all(len(fact.marks) < 2 for fact in facts) or (marks[-1] > CLASS_NUMBERS and void not in voids):
        return marks, None
    return tuple(value for value in marks if value != void), void if void in voids else None


def _values_remedy(facts: Mapping[str, Facts], flag: Flag | None, voids: Collection[float]) -> str:
    marks = all_marks(facts.values())
    if flag is None or not is_nameable(marks):
        return "export one mask per structure, of one colour on black"
    if len(marks) > MOST_CLASSES:
        return _SMOOTH
    some, void = _split_void(facts.values(), voids)
    if not any(0 in fact.values for fact in facts.values()):
        return f"name the marked values, as none is 0 ({flag(some)} if {marks[0]:g} is the background)"
    if some == marks:
        return f"export them alike, or name the values ({flag(marks)}) if all are marks"
    void_too = "" if void is None else f" or the one of pixels that do not count (--folder.void {void:g})"
    return f"name the marked values ({flag(some)}; all of them: {flag(marks)}){void_too}"


def _is_other_scale(fact: Facts, classes: Sequence[int], marks: Sequence[float]) -> bool:
    """Whether a file holds none of the classes but values of another scale, as 255 beside class 1 or 1 beside 255."""
    if not fact.marks or not set(classes).isdisjoint(fact.values) or len({*marks, *classes} - {0}) > FEW_VALUES:
        return False
    return not {value > CLASS_NUMBERS for value in fact.marks} & {value > CLASS_NUMBERS for value in classes}


def _decide_classes(folder: str, facts: Mapping[str, Facts], rule: Rule, flag: Flag) -> tuple[str, list[Problem]]:
    """As :func:`decide`, where the marked values are named."""
    classes = rule.classes or ()
    values = tuple(sorted({value for fact in facts.values() for value in fact.values}))
    named = ", ".join(map(str, classes))
    text = f"values {values_text(values)}: {named} {'is' if len(classes) == 1 else 'are'} marked"
    if any(fact.sort == "bool" for fact in facts.values()) and values not in ((0,), (0, 1), (1,)):
        return text, [
            Problem(name, "booleans", f"numbers of classes, as the other masks of {folder} hold", "export it as them")
            for name, fact in facts.items()
            if fact.sort == "bool"
        ]
    if not set(classes).intersection(values):
        text += ", in no mask"
        if 0 not in classes and max(values, default=0) > MOST_VALUES:
            remedy = f"name those that are marked ({_say(flag, all_marks(facts.values()))})"
            return text, [Problem(folder, f"values {values_text(values)}", f"some of the classes {named}", remedy)]
    odd = {name: fact for name, fact in facts.items() if _is_other_scale(fact, classes, all_marks(facts.values()))}
    rest = all_marks(odd.values())
    beside = {value for fact in facts.values() if len(fact.marks) > 1 for value in fact.marks}.intersection(rest)
    void = "".join(f", or --folder.void {value:g} if that does not count" for value in sorted(beside)[-1:])
    remedy = f"name all that are marked ({_say(flag, (*classes, *rest))}){void}"
    return text, [
        Problem(name, f"values {fact.text()}", f"some of the classes {named}", remedy, remedy)
        for name, fact in odd.items()
    ]


def _say(flag: Flag, values: Sequence[float]) -> str:
    """The option that names the values as marked, or what to do where none can."""
    return flag(values) if values and is_nameable(values) else "export masks of 0 and 255"


def is_nameable(values: Iterable[float]) -> bool:
    """Whether values can be named as classes: whole numbers that stand for no colour."""
    return all(value % 1 == 0 and value < COLOUR for value in values)


def _find_opposite(folder: str, facts: Mapping[str, Facts], rule: Rule, flag: Flag) -> list[Problem]:
    """A problem where masks look inverted: nearly all of them, or some against the others.

    What was said of a rater by name holds, unless background was said to be marked and single files contradict.
    """
    if rule.by_name and 0 not in (rule.classes or ()):
        return []
    framed = [fact.framed for fact in facts.values() if fact.framed is not None]
    light = all_marks(facts.values()) or (1,)
    if looks_inverted(framed) and not rule.by_name:
        found = (
            f"{sum(framed)} of {len(framed)} masks that mark their border and most pixels, as dark marks on white do"
        )
        says = [f"{flag((0,))} if the marks are dark", f"{_say(flag, light)} if the marks are light"]
        remedy = ", ".join(says[::-1] if rule.classes and 0 in rule.classes else says)
        return [Problem(folder, found, "marks on a background of 0", remedy)]
    usual = [fact.share for fact in facts.values() if fact.framed is False and not fact.opposite and fact.share]
    remedy = f"invert it, or if it is right: {_say(flag, rule.classes if rule.classes and not rule.by_name else light)}"
    return [
        Problem(name, f"an inverted mask ({fact.share:.0%} are marked)", expected, remedy, f"inverted in {folder}")
        for name, fact in facts.items()
        for expected in ["marks where other masks of the image or of the rater have them"]
        if fact.opposite or (fact.framed and fact.opposite is None and fits_inverted(fact.share, usual))
    ]


def fits_inverted(marked: float, usual: Sequence[float]) -> bool:
    """Whether the unmarked share is about as large as marks usually are, and nearer to that than the marked one."""
    if not usual or not 0 < marked < 1:
        return False
    far, rest = (abs(math.log(share / median(usual))) for share in (marked, 1 - marked))
    return rest <= math.log(ALIKE) and rest < far


def looks_inverted(framed: Sequence[bool | None]) -> bool:
    """Whether nearly all masks mark their border and most pixels, leaving out those that mark all or nothing."""
    known = [one for one in framed if one is not None]
    return len(known) >= FEWEST_FRAMED and sum(known) >= FRAME * len(known)
