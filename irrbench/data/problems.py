"""What is wrong with a data folder: one line per finding, all of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = 20


class Problem(NamedTuple):
    """One finding: the file (or argument), what was found, what was expected, what to do.

    Example:
        >>> print(Problem("masks/r1/a.png", "size 4 x 5", "size 6 x 5, as its image", "draw it on the image again"))
        masks/r1/a.png: found size 4 x 5; expected size 6 x 5, as its image. Remedy: draw it on the image again.
    """

    file: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: found {self.found}; expected {self.expected}. Remedy: {self.remedy}."


class DataError(ValueError):
    """Unusable input data; ``problems`` holds every finding, the message the first twenty."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self._message())

    def __reduce__(self) -> tuple[type[DataError], tuple[tuple[Problem, ...]]]:
        return DataError, (self.problems,)

    def _message(self) -> str:
        count = len(self.problems)
        lines = [f"the data cannot be used: {count} problem{'' if count == 1 else 's'}"]
        lines += [f"  {problem}" for problem in self.problems[:SHOWN]]
        if count > SHOWN:
            lines.append(f"  and {count - SHOWN} more (check_folder lists them all)")
        return "\n".join(lines)


class ReadError(Exception):
    """A finding about one file, raised while it is read; ``at`` names the file."""

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        self.found, self.expected, self.remedy = found, expected, remedy
        super().__init__(f"found {found}; expected {expected}")

    def at(self, file: str) -> Problem:
        """The finding as a :class:`Problem` of ``file``."""
        return Problem(file, self.found, self.expected, self.remedy)
