"""The alternative annotator test, on leave-one-out references of segmentations.

For each rater ``r``: on the majority of the others, is the model as good as rater ``r``? Where it is for most raters,
it may stand in for one of them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from irrbench.stats.intervals import p_above
from irrbench.stats.ratios import Ratios, divide
from irrbench.stats.resampling import Floats, group_sums

# Several tests at once.


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down correction: keeps the chance of a single false rejection among all at the level.

    Args:
        p_values: ``(M,)``.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return _in_place_of(order, np.minimum(1.0, stepped))


def benjamini_yekutieli(p_values: ArrayLike) -> Floats:
    """Benjamini and Yekutieli's correction: keeps the expected share of false among all rejections, however dependent.

    Args:
        p_values: ``(M,)``.

    Source: Benjamini and Yekutieli 2001, doi 10.1214/aos/1013699998.

    Example:
        >>> benjamini_yekutieli([0.01, 0.04, 0.03]).round(4).tolist()
        [0.055, 0.0733, 0.0733]
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    ranks = np.arange(1, len(p) + 1)
    stepped = p[order] * len(p) * (1 / ranks).sum() / ranks
    return _in_place_of(order, np.minimum(1.0, np.minimum.accumulate(stepped[::-1])[::-1]))


def _in_place_of(order: np.ndarray[tuple[int, ...], np.dtype[np.intp]], values: Floats) -> Floats:
    corrected = np.empty_like(values)
    corrected[order] = values
    return corrected


@dataclass(frozen=True)
class AlternativeAnnotator:
    """What the test found, rater by rater.

    Attributes:
        advantage: ``(R,)`` share of images on which the model is at least as good as the rater.
        rater_advantage: ``(R,)`` share on which the rater is at least as good as the model; ties count for both.
        p: ``(R,)`` one-sided p-values of "the model's advantage is not above the rater's less `epsilon`".
        p_corrected: ``(R,)`` the same, corrected for several raters (Benjamini and Yekutieli).
        wins: ``(R,)`` raters against whom the model holds its own: corrected p below `alpha`.
        n_images: ``(R,)`` images on which both are scored.
        n_groups: ``(R,)`` independent groups of them.
        epsilon: by how much the raters' advantage is reduced, as they are dearer.
        alpha: expected share of false wins.
    """

    advantage: Floats
    rater_advantage: Floats
    p: Floats
    p_corrected: Floats
    wins: NDArray[np.bool_]
    n_images: NDArray[np.int64]
    n_groups: NDArray[np.int64]
    epsilon: float
    alpha: float

    @property
    def winning_rate(self) -> float:
        """Share of the raters against whom the model holds its own; NaN if no rater can be tested."""
        tested = ~np.isnan(self.p)
        return float(self.wins[tested].mean()) if tested.any() else math.nan

    @property
    def average_advantage(self) -> float:
        """Mean of the advantages, by which models can be compared; NaN if no rater can be tested."""
        tested = ~np.isnan(self.advantage)
        return float(self.advantage[tested].mean()) if tested.any() else math.nan

    @property
    def passed(self) -> bool:
        """Whether the model holds its own against at least half of the raters."""
        return self.winning_rate >= 0.5


def alternative_annotator_test(
    model: ArrayLike,
    raters: ArrayLike,
    *,
    epsilon: float = 0.2,
    alpha: float = 0.05,
    groups: Sequence[Hashable] | None = None,
) -> AlternativeAnnotator:
    """Test whether a model may stand in for one of the raters.

    For rater ``r`` the unit is an image, or a group of images: ``d`` is -1 where the model scores higher on the
    majority of the other raters, 1 where rater ``r`` does and 0 in a tie. Student's test asks whether the mean of ``d``
    is below `epsilon`. Where all images agree there is no spread to judge by, and the p-value is the largest chance
    of such images under the null hypothesis. The published procedure takes a rank test below 30 images; here it
    stays with Student's.

    Args:
        model: ``(N, R)`` scores of the model on the reference without rater ``r``; NaN where undefined.
        raters: ``(N, R)`` scores of rater ``r`` on the same references; NaN where absent.
        epsilon: what the model's lower cost is worth, from 0 to below 1: .2 for experts, .15 for trained people, .1
            for crowd workers, say the authors.
        alpha: expected share of false wins among the raters that the model wins against.
        groups: ``(N,)`` labels of what was drawn independently (patients); each image on its own if not given.

    Returns:
        The findings, NaN for a rater who shares no image with the model.

    Raises:
        ValueError: for shapes that differ, or `epsilon` or `alpha` out of range.

    Example:
        >>> model, raters = [[0.9, 0.9], [0.8, 0.9], [0.9, 0.5]], [[0.5, 0.9], [0.6, 0.7], [0.4, 0.8]]
        >>> found = alternative_annotator_test(model, raters)
        >>> found.advantage.round(2), found.p.round(3)
        (array([1.  , 0.67]), array([0.064, 0.381]))

    Source: Calderon, Reichart and Dror 2025, The Alternative Annotator Test for LLM-as-a-Judge,
    https://aclanthology.org/2025.acl-long.782.
    """
    ours, theirs = _checked(model, raters, epsilon, alpha)
    there = ~np.isnan(ours - theirs)
    with np.errstate(invalid="ignore"):
        wins, losses = (ours >= theirs) & there, (theirs >= ours) & there
    parts = [losses.astype(float) - wins, there.astype(float)]
    top, bottom = np.split(group_sums(np.concatenate(parts, axis=1), groups), 2, axis=1)
    p = _p_values(top, bottom, epsilon)
    corrected = np.full_like(p, np.nan)
    corrected[~np.isnan(p)] = benjamini_yekutieli(p[~np.isnan(p)])
    images = there.sum(axis=0)
    return AlternativeAnnotator(
        advantage=divide(wins.sum(axis=0).astype(float), images.astype(float)),
        rater_advantage=divide(losses.sum(axis=0).astype(float), images.astype(float)),
        p=p,
        p_corrected=corrected,
        wins=np.nan_to_num(corrected, nan=1.0) < alpha,
        n_images=images,
        n_groups=(bottom > 0).sum(axis=0),
        epsilon=epsilon,
        alpha=alpha,
    )


def _p_values(top: Floats, bottom: Floats, epsilon: float) -> Floats:
    """One-sided p-values of "the mean of ``d`` is `epsilon` or more", ``(R,)``."""
    ratios = Ratios(-top, bottom, np.empty((0, top.shape[1])))
    p = p_above(ratios, -epsilon, method="student")
    mean, groups = -ratios.estimates, (bottom > 0).sum(axis=0)
    # With a mean of `epsilon` or more, at most this share of the groups can lie at or below a value under `epsilon`.
    most = np.clip((1 - epsilon) / (1 - np.minimum(mean, epsilon)), 0, 1)
    constant = (np.abs(top - mean * bottom) < 1e-12).all(axis=0)
    return np.where(constant & (groups > 0), most**groups, p)


def _checked(model: ArrayLike, raters: ArrayLike, epsilon: float, alpha: float) -> tuple[Floats, Floats]:
    ours, theirs = np.asarray(model, float), np.asarray(raters, float)
    if ours.ndim != 2 or ours.shape != theirs.shape:
        raise ValueError(
            f"`model` and `raters` must both be (N, R), scores on the same references; found {ours.shape} and "
            f"{theirs.shape}."
        )
    if not 0 <= epsilon < 1:
        raise ValueError(f"`epsilon` must lie between 0 and 1 (a difference of probabilities), found {epsilon}.")
    if not 0 < alpha < 1:
        raise ValueError(f"`alpha` must lie between 0 and 1, found {alpha}.")
    return ours, theirs
