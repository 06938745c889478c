"""Scores: one record each, with everything that the rest of the package must know about it.

A score is computed from a table of ``(B, R)`` fields that some evidence gives for each candidate and each held-out
reference: the cross table of pixels for vote patterns, border lengths and distances for surfaces, and so on. The record
says which evidence, by what formula, whether more is better, within which range, and whether it sees one kind of error
only. Whatever orders, colours, words, thresholds or tests asks the record, mostly through :func:`gain`.

Whether a score is defined depends on the reference alone. So all candidates on one reference are averaged over the same
folds, and the bounds are the same whichever model stands beside them. No denominator carries an epsilon.

A new score is one more entry in :data:`SCORES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar, get_args

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EmptyReference = Literal["drop", "score"]
DEFAULT_SCORES = ("iou", "accuracy", "tpr", "ppv", "f1")


_Value = TypeVar("_Value", bound=Any)


class ScoreTable(Protocol):
    """What a formula reads: fields of one shape, and what the rules for undefined scores ask of any evidence."""

    @property
    def positives(self) -> Tensor:
        """How much the reference marks; 0 where it is empty."""

    @property
    def negatives(self) -> Tensor:
        """How much the reference leaves; 0 where it fills the region of interest."""

    @property
    def total(self) -> Tensor:
        """The size of the region of interest; 0 where nothing is defined."""

    @property
    def marked(self) -> Tensor:
        """How much the candidate marks; 0 where it is empty."""


class CrossTable(NamedTuple):
    """Pixels by reference and candidate, float64 of any one shape: exact up to ``2**53`` pixels."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor

    @property
    def positives(self) -> Tensor:
        """Pixels that the reference marks."""
        return self.tp + self.fn

    @property
    def negatives(self) -> Tensor:
        """Pixels that the reference leaves."""
        return self.fp + self.tn

    @property
    def total(self) -> Tensor:
        """Pixels of the region of interest."""
        return self.positives + self.negatives

    @property
    def marked(self) -> Tensor:
        """Pixels that the candidate marks."""
        return self.tp + self.fp


class _Compared(Protocol):
    @property
    def reference(self) -> Tensor: ...
    @property
    def candidate(self) -> Tensor: ...
    @property
    def roi(self) -> Tensor: ...


class ComparedMasks:
    """What the rules for undefined scores ask of fields ``reference``, ``candidate`` (what each marks) and ``roi``."""

    __slots__ = ()

    @property
    def positives(self: _Compared) -> Tensor:
        """How much the reference marks."""
        return self.reference

    @property
    def negatives(self: _Compared) -> Tensor:
        """Pixels of the region of interest, as no reference is too full."""
        return self.roi

    @property
    def total(self: _Compared) -> Tensor:
        """Pixels of the region of interest."""
        return self.roi

    @property
    def marked(self: _Compared) -> Tensor:
        """How much the candidate marks."""
        return self.candidate


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        name: its key.
        title: its name in tables and plots.
        formula: from the table of its evidence; what it gives where the score is undefined does not matter.
        evidence: what the formula needs, a key of :data:`irrbench.evidence.EVIDENCE`.
        higher_is_better: whether more is better.
        range: the least and the largest value that it can have; infinite where there is no limit.
        one_sided: whether it sees one kind of error only, which marking more, or less, avoids.
        counts_background: a pixel that both leave counts as much as one that both mark, so that a mask that marks
            nothing is nearly perfect where little is marked.
        needs_positives: undefined where the reference marks nothing.
        needs_negatives: undefined where the reference marks the whole region of interest.
        needs_empty: undefined where the reference marks anything.
        takes_empty: ``empty_reference="score"`` gives it a value where the reference marks nothing.
        is_distance: whether its values are lengths, in the unit of the spacing.
        at: the option of its evidence that its values depend on, such as ``tolerance``; stated wherever it is shown.
        digits: behind the point in tables. More than three: values are small parts of the range, as most pixels are
            background, and axes end with the values.
    """

    name: str
    title: str
    formula: Callable[[Any], Tensor]
    evidence: str = "patterns"
    higher_is_better: bool = True
    range: tuple[float, float] = (0.0, 1.0)
    one_sided: bool = False
    counts_background: bool = False
    needs_positives: bool = False
    needs_negatives: bool = False
    needs_empty: bool = False
    takes_empty: bool = False
    is_distance: bool = False
    at: str = ""
    digits: int = 3

    def __call__(self, table: ScoreTable, *, empty_reference: EmptyReference = "drop") -> Tensor:
        """The score, NaN where it is undefined.

        Args:
            table: of the score's evidence, for instance a :class:`CrossTable`.
            empty_reference: ``"drop"``: a reference without marks leaves scores that need positives undefined;
                ``"score"``: those that take it are the best value where the candidate is empty too, else the worst;
                undefined where the worst is infinite.
        """
        value = self.formula(table)
        if self.takes_empty and empty_reference == "score":
            agreed = torch.where(table.marked == 0, self.best, self.worst if math.isfinite(self.worst) else math.nan)
            value = torch.where(table.positives > 0, value, agreed.to(value.dtype))
        elif self.needs_positives:
            value = value.masked_fill(table.positives == 0, torch.nan)
        if self.needs_negatives:
            value = value.masked_fill(table.negatives == 0, torch.nan)
        if self.needs_empty:
            value = value.masked_fill(table.positives > 0, torch.nan)
        return value.masked_fill(table.total == 0, torch.nan)

    def title_with(self, options: Mapping[str, Any], unit: str) -> str:
        """The title, with the unit of distances and with the option that its values depend on.

        Args:
            options: of the evidence, by name.
            unit: of distances.

        Example:
            >>> record("nsd").title_with({"tolerance": 2.0}, "px"), record("hd95").title_with({}, "mm")
            ('NSD at 2 px (surface Dice)', 'HD95 in mm')
        """
        name, blank, rest = self.title.partition(" (")
        name += f" in {unit}" if self.is_distance else ""
        name += f" at {option_text(self.at, options[self.at], unit, digits=3)}" if self.at else ""
        return f"{name}{blank}{rest}"

    @property
    def best(self) -> float:
        """The value of a perfect candidate."""
        return self.range[1] if self.higher_is_better else self.range[0]

    @property
    def worst(self) -> float:
        """The value at the other end of the range."""
        return self.range[0] if self.higher_is_better else self.range[1]

    def gain(self, value: _Value) -> _Value:
        """The value, turned so that more is better: numbers, arrays, tensors and series alike."""
        turned: _Value = value if self.higher_is_better else -value
        return turned

    def clip(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values no further out than the score can be; infinite ends of intervals and NaN stay as they are."""
        import numpy as np  # noqa: PLC0415

        clipped: NDArray[np.float64] = np.where(np.isfinite(values), np.clip(values, *self.range), values)
        return clipped


def option_text(name: str, value: float, unit: str, *, digits: int = 12) -> str:
    """An option of a score in words.

    Example:
        >>> option_text("tolerance", 2.0, "mm"), option_text("lesion_iou", 0.1, "px")
        ('2 mm', 'IoU 0.1')
    """
    return f"{value:.{digits}g} {unit}" if name == "tolerance" else f"IoU {value:.{digits}g}"


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    # Where the reference has marks, 0 / 0 means that the candidate has none: the score is 0.
    return torch.where(denominator > 0, numerator / denominator.clamp(min=1), torch.zeros_like(numerator))


def _kappa(table: CrossTable) -> Tensor:
    # Cohen's kappa, multiplied out: 2 (tp tn - fp fn) / (marked by one x left by the other, both ways).
    marked, left = table.tp + table.fp, table.fn + table.tn
    agreement = 2 * (table.tp * table.tn - table.fp * table.fn)
    return agreement / (marked * table.negatives + table.positives * left)


def _within(table: Any) -> Tensor:
    # Of both borders, what lies within the tolerance of the other.
    return _ratio(table.reference_within + table.candidate_within, table.reference + table.candidate)


def _centreline_dice(table: Any) -> Tensor:
    # The harmonic mean of both shares of centrelines that lie inside the other mask, multiplied out.
    inside = table.reference_inside * table.candidate_inside
    return _ratio(2 * inside, table.candidate_inside * table.reference + table.reference_inside * table.candidate)


# Whether marks are where marks should be, beside how well they are drawn: shown wherever a reference is empty.
DETECTION_SCORES = ("detection", "false_alarm")
_DELINEATION: dict[str, Any] = {"needs_positives": True, "takes_empty": True}
_DISTANCE: dict[str, Any] = {
    "evidence": "surfaces",
    "higher_is_better": False,
    "range": (0.0, math.inf),
    "needs_positives": True,
    "is_distance": True,
}
_LESIONS = {"evidence": "lesions", "at": "lesion_iou"} | _DELINEATION
_OF_SAMPLES: dict[str, Any] = {"evidence": "samples", "higher_is_better": False}
_PROBABILITY: dict[str, Any] = {"evidence": "probabilities", "higher_is_better": False, "digits": 4}

SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score("iou", "IoU", lambda t: _ratio(t.tp, t.tp + t.fp + t.fn), **_DELINEATION),
        Score("accuracy", "Accuracy", lambda t: (t.tp + t.tn) / t.total, counts_background=True),
        Score("tpr", "TPR (sensitivity)", lambda t: _ratio(t.tp, t.positives), one_sided=True, **_DELINEATION),
        Score("ppv", "PPV (precision)", lambda t: _ratio(t.tp, t.tp + t.fp), one_sided=True, **_DELINEATION),
        Score("f1", "F1 (Dice)", lambda t: _ratio(2 * t.tp, 2 * t.tp + t.fp + t.fn), **_DELINEATION),
        Score(
            "specificity",
            "Specificity",
            lambda t: _ratio(t.tn, t.negatives),
            one_sided=True,
            counts_background=True,
            needs_negatives=True,
        ),
        Score("kappa", "Cohen's kappa", _kappa, range=(-1.0, 1.0), needs_positives=True, needs_negatives=True),
        Score("detection", "Detection", lambda t: (t.tp > 0).double(), one_sided=True, needs_positives=True),
        Score(
            "false_alarm",
            "False alarms",
            lambda t: (t.marked > 0).double(),
            higher_is_better=False,
            one_sided=True,
            needs_empty=True,
        ),
        Score("nsd", "NSD (surface Dice)", _within, evidence="surfaces", at="tolerance", **_DELINEATION),
        Score("hd95", "HD95", lambda t: t.hd95, **_DISTANCE),
        Score("masd", "MASD", lambda t: t.masd, **_DISTANCE),
        Score("lesion_recall", "Lesion recall", lambda t: _ratio(t.matched, t.reference), one_sided=True, **_LESIONS),
        Score(
            "lesion_precision", "Lesion precision", lambda t: _ratio(t.matched, t.candidate), one_sided=True, **_LESIONS
        ),
        Score("lesion_f1", "Lesion F1", lambda t: _ratio(2 * t.matched, t.reference + t.candidate), **_LESIONS),
        Score("ged", "GED (squared)", lambda t: t.ged, range=(0.0, 2.0), **_OF_SAMPLES),
        Score("energy_score", "Energy score", lambda t: t.energy, **_OF_SAMPLES),
        Score("cldice", "Centreline Dice", _centreline_dice, evidence="centrelines", **_DELINEATION),
        # Most pixels are background here too; but the floor is the best constant, which a blank mask does not beat.
        Score("brier", "Brier score", lambda t: t.squared / t.total, **_PROBABILITY),
        # A constant can be perfect: it sees whether probabilities are right on average, and not where.
        Score("ece", "ECE (calibration error)", lambda t: t.gaps / t.total, one_sided=True, **_PROBABILITY),
    )
}


_ALSO_CALLED = {
    "dice": "f1", "dsc": "f1", "jaccard": "iou", "sensitivity": "tpr", "recall": "tpr", "precision": "ppv",
    "hd": "hd95", "hausdorff": "hd95", "assd": "masd", "asd": "masd", "surface_dice": "nsd", "brier_score": "brier",
}  # fmt: skip


def select_scores(names: Iterable[str]) -> tuple[Score, ...]:
    """The scores of these names.

    Raises:
        ValueError: if a name is not in :data:`SCORES`, is repeated, or none is given.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in SCORES]
    if unknown or not names or len(set(names)) < len(names):
        found = ", ".join(map(repr, unknown or names)) or "none"
        hints = [f"{name} is {_ALSO_CALLED[name.lower()]}" for name in unknown if str(name).lower() in _ALSO_CALLED]
        hint = f" Here {', '.join(hints)}." if hints else ""
        raise ValueError(f"`scores` must be distinct names among {', '.join(SCORES)}; found {found}.{hint}")
    return tuple(SCORES[name] for name in names)


def base_score(name: str) -> str:
    """The score behind its name for one class: ``iou`` of ``iou_class1`` or ``iou_liver``; else the name as it is.

    Example:
        >>> base_score("false_alarm_left lung"), base_score("dice")
        ('false_alarm', 'dice')
    """
    return max((score for score in SCORES if f"{name}_".startswith(f"{score}_")), key=len, default=name)


def record(name: str) -> Score:
    """The record of a score, or of one class of it (``iou_class1`` is judged as ``iou``).

    Raises:
        ValueError: if there is no such score.

    Example:
        >>> record("iou_class1").title, record("kappa").range
        ('IoU', (-1.0, 1.0))
    """
    return select_scores([base_score(name)])[0]


def gain(name: str, value: _Value) -> _Value:
    """A score's value, turned so that more is better: the one place that knows the direction.

    Args:
        name: of the score, or of one class of it.
        value: a number, an array, a tensor or a series of that score, or a difference of two.

    Example:
        >>> gain("iou", 0.7)
        0.7
    """
    return record(name).gain(value)


def check_choice(name: str, value: str, choices: object) -> None:
    """Refuse a value that is not among a ``Literal``'s.

    Raises:
        ValueError: naming the argument, the choices and the value.
    """
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}; found {value!r}.")
