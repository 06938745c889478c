"""Label strategies: which label a model is trained on where raters disagree.

A new strategy is one function in this file, under ``@label_strategy("name")``; a name with an argument ("rater:anna")
reaches it as ``request.argument``. All strategies are scored alike, on the leave-one-out references.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from irrbench.consensus import majority, staple_probability, vote_share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np


class LabelRequest(NamedTuple):
    """What a strategy may look at.

    Attributes:
        masks: ``(R, *S)`` bool.
        present: ``(R,)`` bool.
        raters: ``R`` names.
        argument: what follows the colon in the label's name.
        rng: a generator of its own.
        roi: ``(*S)`` bool, pixels that count; None: all.
    """

    masks: Tensor
    present: Tensor
    raters: tuple[str, ...]
    argument: str
    rng: np.random.Generator
    roi: Tensor | None = None


LABEL_STRATEGIES: dict[str, Callable[[LabelRequest], Tensor]] = {}


def label_strategy(name: str) -> Callable[[Callable[[LabelRequest], Tensor]], Callable[[LabelRequest], Tensor]]:
    """Register a function of a :class:`LabelRequest` that returns float32 ``(*S)`` in [0, 1]."""

    def register(strategy: Callable[[LabelRequest], Tensor]) -> Callable[[LabelRequest], Tensor]:
        LABEL_STRATEGIES[name] = strategy
        return strategy

    return register


def parse_label(label: str, raters: Sequence[str]) -> tuple[str, str]:
    """Name and argument of a label strategy.

    Raises:
        ValueError: no such strategy, or no such rater.

    Example:
        >>> parse_label("rater:r2", ["r1", "r2"]), parse_label("soft", ["r1", "r2"])
        (('rater', 'r2'), ('soft', ''))
    """
    name, _, argument = label.partition(":")
    if name not in LABEL_STRATEGIES or (argument and name != "rater"):
        known = ", ".join("rater:<name>" if known == "rater" else known for known in LABEL_STRATEGIES)
        raise ValueError(f"label={label!r}: expected one of {known}")
    if name == "rater" and argument not in raters:
        raise ValueError(f"label={label!r}: expected rater:<name> with one of {', '.join(raters)}")
    return name, argument


@label_strategy("majority")
def _majority(request: LabelRequest) -> Tensor:
    return majority(request.masks[None], present=request.present[None])[0].float()


@label_strategy("random")
def _random(request: LabelRequest) -> Tensor:
    return request.masks[int(request.rng.choice(request.present.nonzero()[:, 0].numpy()))].float()


@label_strategy("soft")
def _soft(request: LabelRequest) -> Tensor:
    return vote_share(request.masks[None], present=request.present[None])[0]


@label_strategy("rater")
def _rater(request: LabelRequest) -> Tensor:
    return request.masks[request.raters.index(request.argument)].float()


@label_strategy("staple")
def _staple(request: LabelRequest) -> Tensor:
    roi = None if request.roi is None else request.roi[None]
    probability = staple_probability(request.masks[None], roi=roi, present=request.present[None])[0]
    # One rater alone, or no pixel that counts: nothing to weigh the raters by.
    return _majority(request) if probability.isnan().any() else probability.gt(0.5).float()
