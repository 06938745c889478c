"""What a study of the raters does, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from irrbench.scores import DEFAULT_SCORES, select_scores


@dataclass(frozen=True)
class StudyOptions:
    """How a study is made.

    Attributes:
        exclude_above: an image is left out where more than half of its raters marked over this share of the ROI.
        exclude_below: ... or under this share; 0 leaves none out, for lesions that are small in their ROI.
        cells: numbers of blocks along each side of an image, for the area ICC.
        scores: scores of average and naive rater.
        ties: what a tie among an image's raters is.
        empty_reference: whether an empty reference leaves a score undefined or scores 1 and 0.
        quadrature: whether the pixel ICC is also fitted by quadrature, which is nearly exact and takes longer.
        covariates: manifest columns for the linear model; those that look like covariates by default.
        targets: reliabilities for which the number of raters is asked.
        level: of the intervals.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        raters_are_slots: whether a rater's name stands for other persons on other images, as in LIDC-IDRI.
    """

    exclude_above: float = 0.95
    exclude_below: float = 0.05
    cells: list[int] = field(default_factory=lambda: [10, 15, 20])
    scores: list[str] = field(default_factory=lambda: list(DEFAULT_SCORES))
    ties: Literal["negative", "positive", "exclude"] = "negative"
    empty_reference: Literal["drop", "score"] = "drop"
    quadrature: bool = True
    covariates: list[str] | None = None
    targets: list[float] = field(default_factory=lambda: [0.75, 0.9, 0.95])
    level: float = 0.95
    resamples: int = 1000
    seed: int = 0
    raters_are_slots: bool = False

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            ValueError: naming the option, what was found and what was expected.
        """
        if not 0 <= self.exclude_below < self.exclude_above <= 1:
            raise ValueError(
                "exclude_below and exclude_above must be 0 <= exclude_below < exclude_above <= 1, found "
                f"{self.exclude_below} and {self.exclude_above}."
            )
        if not self.cells or min(self.cells) < 2 or len(set(self.cells)) < len(self.cells):
            raise ValueError(f"cells must be distinct whole numbers from 2 on, found {self.cells}.")
        for name, values in (("targets", self.targets), ("level", [self.level])):
            if not values or not all(0 < value < 1 for value in values):
                raise ValueError(f"{name} must lie between 0 and 1, found {', '.join(map(str, values)) or 'none'}.")
        if self.resamples < 1 or self.seed < 0:
            raise ValueError(f"resamples must be 1 or more and seed 0 or more, found {self.resamples} and {self.seed}.")
        select_scores(self.scores)
