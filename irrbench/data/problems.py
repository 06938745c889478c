"""How a problem of the data is described, and how many of one kind are shown as one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from irrbench._display import printable

SHOWN_PROBLEMS = 20
SHOWN_EXAMPLES = 3
_LONGEST = 500
# What differs between problems of one kind: what is in quotes or parentheses, names of files, numbers.
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\([^()]*\)|\S+\.[A-Za-z]\w*|\d+(\.\d+)?")


class Problem(NamedTuple):
    """One finding: the file (or argument), what was found, what was expected, what to do.

    ``cause`` tells findings apart that have other causes although they read alike (the files that one rater lacks); by
    default those are of one kind that differ in nothing but names and numbers.

    Example:
        >>> print(Problem("masks/r1/a.png", "size 4 x 5", "size 6 x 5, as its image", "draw it on the image again"))
        masks/r1/a.png: found size 4 x 5; expected size 6 x 5, as its image. Remedy: draw it on the image again.
    """

    file: str
    found: str
    expected: str
    remedy: str
    cause: str = ""

    def __str__(self) -> str:
        file, found, expected, remedy = map(_cut, self[:4])
        return f"{file}: found {found}; expected {expected}. Remedy: {remedy}."

    @property
    def kind(self) -> tuple[str, ...]:
        """What it shares with other findings of its kind."""
        return (self.cause, *(_VARYING.sub("#", _cut(text)) for text in (self.found, self.remedy)))


def summarize_problems(problems: Iterable[Problem]) -> list[str]:
    """One line for each kind of problem: how often, the first one in full, and where else.

    Example:
        >>> found = [Problem(f"{name}.png", "size 4 x 5", "6 x 5", "draw it again") for name in "abcd"]
        >>> for line in summarize_problems(found):
        ...     print(line)
        4 times: a.png: found size 4 x 5; expected 6 x 5. Remedy: draw it again. Also b.png; c.png; ...
    """
    kinds: dict[tuple[str, ...], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    return [_summarize(group) for group in kinds.values()]


def count_problems(problems: int, kinds: int) -> str:
    """How many problems there are, of how many kinds.

    Example:
        >>> count_problems(1, 1), count_problems(6848, 1)
        ('1 problem', '6848 problems of 1 kind')
    """
    return many(problems, "problem") + (f" of {many(kinds, 'kind')}" if kinds < problems else "")


def some_text(names: Sequence[str], shown: int = 3) -> str:
    """The first names, and how many there are of more.

    Example:
        >>> some_text(["a", "b", "c"]), some_text(["a", "b", "c", "d"])
        ('a, b, c', 'a, b, c, ... (4)')
    """
    return ", ".join(names[:shown]) + (f", ... ({len(names)})" if len(names) > shown else "")


def many(number: int, noun: str) -> str:
    """A number and its noun.

    Example:
        >>> many(1, "image"), many(2, "image")
        ('1 image', '2 images')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _summarize(group: Sequence[Problem]) -> str:
    counts: Counter[str] = Counter()

    def place(problem: Problem) -> int:
        counts[folder := problem.file.rpartition("/")[0]] += 1
        return counts[folder]

    first, *others = sorted(group, key=place)  # examples of several folders
    if not others:
        return str(first)
    examples = "; ".join(_beside(first, other) for other in others[: SHOWN_EXAMPLES - 1])
    return f"{len(group)} times: {first} Also {examples}{'; ...' if len(group) > SHOWN_EXAMPLES else ''}"


def _beside(first: Problem, other: Problem) -> str:
    """What is another in a finding of the same kind."""
    if other.file == first.file:
        return _cut(other.found)
    return _cut(other.file if other.found == first.found else f"{other.file} ({other.found})")


def _cut(text: str) -> str:
    """A text on one line, of at most some 500 characters: names in damaged files may be of any length."""
    cut = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    return printable(cut).replace("\n", "\\n")


class DataError(ValueError):
    """Unusable input data; ``problems`` holds every finding, the message one line for each kind of them."""

    def __init__(self, problems: Sequence[Problem], what: str = "the data") -> None:
        self.problems, self.what = tuple(problems), what
        super().__init__(self.problems, what)

    def __str__(self) -> str:
        lines = summarize_problems(self.problems)
        shown = [f"{self.what} cannot be used: {count_problems(len(self.problems), len(lines))}"]
        shown += [f"  {line}" for line in lines[:SHOWN_PROBLEMS]]
        if len(lines) > SHOWN_PROBLEMS:
            shown.append(f"  and {len(lines) - SHOWN_PROBLEMS} more kinds (check_folder lists them all)")
        return "\n".join(shown)


class ReadError(Exception):
    """A finding about one file, raised while it is read; ``at`` names the file."""

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        self.found, self.expected, self.remedy = found, expected, remedy
        super().__init__(f"found {found}; expected {expected}")

    def at(self, file: str) -> Problem:
        """The finding as a :class:`Problem` of ``file``."""
        return Problem(file, self.found, self.expected, self.remedy)


@contextmanager
def collecting(problems: list[Problem], file: str) -> Iterator[None]:
    """Add a :class:`ReadError` raised inside to ``problems``, as one of ``file``."""
    try:
        yield
    except ReadError as error:
        problems.append(error.at(file))
