"""What is drawn anew, and how intervals are made of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

from irrbench.inference import IntervalMethod
from irrbench.scores import check_choice

Generalize = Literal["images", "raters", "seeds", "all"]


@dataclass(frozen=True)
class Resampling:
    """One set of resamples for everything.

    Attributes:
        groups: group by image id; images without one, or all if not given, stand on their own.
        resamples: ``T``.
        seed: of the resamples.
        level: confidence level of the intervals.
        interval: how intervals and p-values are made, see :mod:`irrbench.inference.intervals`: ``"auto"`` is Student's.
        generalize: what is drawn anew beside the images: nothing (``"images"``), ``"raters"``, ``"seeds"``, or both
            (``"all"``).

    Raises:
        ValueError: for an unknown choice, or an interval that knows nothing of raters and seeds.
    """

    groups: Mapping[str, Hashable] | None = None
    resamples: int = 2000
    seed: int = 0
    level: float = 0.95
    interval: IntervalMethod | Literal["auto"] = "auto"
    generalize: Generalize = "images"

    def __post_init__(self) -> None:
        """Check the choices."""
        check_resampling(self.interval, self.generalize)

    @property
    def method(self) -> IntervalMethod:
        """How intervals are made."""
        return "student" if self.interval == "auto" else self.interval

    @property
    def draws_raters(self) -> bool:
        """Whether raters are drawn anew."""
        return self.generalize in ("raters", "all")

    @property
    def draws_seeds(self) -> bool:
        """Whether seeds are drawn anew."""
        return self.generalize in ("seeds", "all")


def check_resampling(interval: str, generalize: str) -> None:
    """Refuse unknown choices and those that do not go together.

    Raises:
        ValueError: saying what to choose.
    """
    if interval != "auto":
        check_choice("interval", interval, IntervalMethod)
    check_choice("generalize", generalize, Generalize)
    if not goes_with(interval, generalize):
        raise ValueError(
            f"`interval` must be 'auto', 'student', 'expanded' or 'percentile' with generalize={generalize!r}; found "
            f"{interval!r}, which knows the spread over images alone."
        )


def goes_with(interval: str, generalize: str) -> bool:
    """Whether an interval takes into account all that is drawn."""
    return generalize == "images" or interval != "bca"


def resampling_in_words(resampling: Resampling, *, unit: str) -> str:
    """How the intervals were made.

    Args:
        resampling: the options.
        unit: what is drawn: images, or groups of images.

    Example:
        >>> resampling_in_words(Resampling(), unit="images")
        "95%, Student's, by the spread over images"
        >>> resampling_in_words(Resampling(resamples=99, generalize="all"), unit="images")
        "95%, Student's, by the spread over images, over seeds and over raters (99 resamples)"
    """
    how = {
        "expanded": "bootstrap quantiles widened as Student's",
        "percentile": "bootstrap quantiles",
        "bca": "bias-corrected and accelerated bootstrap quantiles",
        "student": "Student's, by the spread over",
    }[resampling.method]
    if resampling.method == "student":
        seeds, raters = "over seeds", f"over raters ({resampling.resamples} resamples)"
        over = {"images": "", "raters": f" and {raters}", "seeds": f" and {seeds}", "all": f", {seeds} and {raters}"}
        return f"{resampling.level:.0%}, {how} {unit}{over[resampling.generalize]}"
    more = {"images": "", "raters": " and of raters", "seeds": " and of seeds", "all": ", of raters and of seeds"}
    drawn = f"{resampling.resamples} paired resamples of {unit}{more[resampling.generalize]}"
    return f"{resampling.level:.0%}, {how}, {drawn}"
