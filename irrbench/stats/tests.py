"""Corrections for several tests or intervals, and the alternative annotator test on leave-one-out references."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from irrbench.stats.intervals import p_above
from irrbench.stats.resampling import Floats, Ratios, divide, group_sums

_DRAWS = 20_000


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down correction, which controls the probability of at least one false rejection.

    Args:
        p_values: ``(M,)``; NaN stay NaN and do not count as tests.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
        >>> holm([0.01, float("nan"), 0.03]).tolist()
        [0.02, nan, 0.03]
    """
    # Not by statsmodels: its `multipletests` collects all garbage of the process at each call of this method, which
    # takes from a tenth of a second to one where torch is loaded.
    p = np.asarray(p_values, float)
    order = np.argsort(p)  # NaN last
    remaining = np.count_nonzero(~np.isnan(p)) - np.arange(len(p))  # hypotheses not yet rejected
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * remaining))
    return corrected


def benjamini_yekutieli(p_values: ArrayLike) -> Floats:
    """Benjamini and Yekutieli's correction, which controls the false discovery rate under any dependence of the tests.

    Args:
        p_values: ``(M,)``; with a NaN among them, all corrected values are NaN.

    Source: Benjamini and Yekutieli 2001, doi 10.1214/aos/1013699998.

    Example:
        >>> benjamini_yekutieli([0.01, 0.04, 0.03]).round(4).tolist()
        [0.055, 0.0733, 0.0733]
    """
    from scipy.stats import false_discovery_control  # noqa: PLC0415 (slow to import)

    p = np.asarray(p_values, float)
    return np.full_like(p, np.nan) if np.isnan(p).any() else np.asarray(false_discovery_control(p, method="by"), float)


def simultaneous_level(ratios: Ratios, *, level: float = 0.95, draws: int = _DRAWS, seed: int = 0) -> float:
    """The level of single intervals at which all of them hold together with probability `level`.

    The largest of ``M`` absolute Student statistics is drawn from the multivariate t distribution with the correlation
    that the groups show; its quantile is the quantile of a single statistic at the level returned. Raters and seeds,
    where they count, are taken to be independent between quantities.

    Args:
        ratios: ``M`` paired ratios; those without a standard error are left out.
        level: at which all intervals hold.
        draws: of the distribution.
        seed: of the draws.

    Returns:
        From `level` (one quantity, or all the same) to that of Bonferroni's correction.

    Sources: Dunnett 1955, doi 10.1080/01621459.1955.10501294; Hothorn, Bretz and Westfall 2008, doi
    10.1002/bimj.200810425.

    Example:
        >>> one = np.array([[0.1], [0.3], [0.2], [0.4]])
        >>> same = Ratios(np.repeat(one, 3, axis=1), np.ones((4, 3)), np.empty((0, 3)))
        >>> round(simultaneous_level(same), 2)
        0.95
    """
    errors = ratios.standard_errors
    known = np.isfinite(errors) & (errors > 0)
    if known.sum() < 2:
        return level
    influence = divide(ratios.top - ratios.estimates * ratios.bottom, ratios.bottom.sum(axis=0))[:, known]
    groups = ratios.num_groups[known]
    errors, degrees = errors[known], float(ratios.degrees_of_freedom[known].min())
    rng = np.random.default_rng(seed)
    scaled = influence * np.sqrt(groups / (groups - 1)) / errors
    correlation = scaled.T @ scaled
    np.fill_diagonal(correlation, 1.0)
    statistics = rng.multivariate_normal(np.zeros(len(errors)), correlation, size=draws)
    largest = np.abs(statistics).max(axis=1) / np.sqrt(rng.chisquare(degrees, size=draws) / degrees)
    single = 2 * float(scipy.special.stdtr(degrees, np.quantile(largest, level))) - 1
    return float(np.clip(single, level, 1 - (1 - level) / known.sum()))


@dataclass(frozen=True)
class AlternativeAnnotator:
    """Results of the alternative annotator test, rater by rater.

    Attributes:
        advantage: ``(R,)`` share of images on which the model is at least as good as the rater.
        rater_advantage: ``(R,)`` share on which the rater is at least as good as the model; ties count for both.
        p: ``(R,)`` one-sided p-values of "the model's advantage is not above the rater's less `epsilon`".
        p_corrected: ``(R,)`` the same, corrected for several raters (Benjamini and Yekutieli).
        wins: ``(R,)`` raters against whom the model wins: corrected p below `alpha`.
        n_images: ``(R,)`` images on which both are scored.
        n_groups: ``(R,)`` independent groups of them.
        epsilon: reduction of the raters' advantage, since their work costs more than the model's.
        alpha: false discovery rate among the wins.
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
        """Share of the tested raters against whom the model wins; NaN if no rater can be tested."""
        tested = ~np.isnan(self.p)
        return float(self.wins[tested].mean()) if tested.any() else math.nan

    @property
    def average_advantage(self) -> float:
        """Mean advantage over raters, for comparing models; NaN if no rater can be tested."""
        tested = ~np.isnan(self.advantage)
        return float(self.advantage[tested].mean()) if tested.any() else math.nan

    @property
    def passed(self) -> bool:
        """Whether the model wins against at least half of the raters."""
        return self.winning_rate >= 0.5

    @property
    def verdict(self) -> str:
        """The result in words, for a score that sees both kinds of error and three raters or more."""
        if math.isnan(self.winning_rate):
            return "undefined"
        return "may stand in for a rater" if self.passed else "not shown to stand in for a rater"


def alternative_annotator_test(
    model: ArrayLike,
    raters: ArrayLike,
    *,
    epsilon: float = 0.2,
    alpha: float = 0.05,
    groups: Sequence[Hashable] | None = None,
) -> AlternativeAnnotator:
    """Test whether a model may stand in for one of the raters.

    For each rater ``r``: is the model as good as rater ``r`` on the majority of the other raters? The unit is an image,
    or a group of images: ``d`` is -1 where the model has the larger gain, 1 where rater ``r`` has it and 0 in a tie.
    Student's test asks whether the mean of ``d`` is below `epsilon`. Where ``d`` is the same for all groups there is no
    variance, and the p-value is the largest probability of such a sample under the null hypothesis. The published
    procedure uses a rank test below 30 images; here Student's test is used for any number.

    Args:
        model: ``(N, R)`` gains (larger is better, see :func:`irrbench.scores.gain`) of the model on the reference
            without rater ``r``; NaN where undefined.
        raters: ``(N, R)`` gains of rater ``r`` on the same references; NaN where absent.
        epsilon: allowance for the model's lower cost, from 0 to below 1; the authors propose .2 for experts, .15 for
            trained people and .1 for crowd workers.
        alpha: false discovery rate among the raters against whom the model wins.
        groups: ``(N,)`` labels of what was drawn independently (patients); each image on its own if not given.

    Returns:
        The results; NaN for a rater who shares no image with the model.

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
    model, raters = np.asarray(model, float), np.asarray(raters, float)
    if model.ndim != 2 or model.shape != raters.shape:
        raise ValueError(
            f"`model` and `raters` must both be (N, R), scores on the same references; found {model.shape} and "
            f"{raters.shape}."
        )
    if not 0 <= epsilon < 1:
        raise ValueError(f"`epsilon` must lie between 0 and 1 (a difference of probabilities), found {epsilon}.")
    if not 0 < alpha < 1:
        raise ValueError(f"`alpha` must lie between 0 and 1, found {alpha}.")
    defined = ~np.isnan(model - raters)
    with np.errstate(invalid="ignore"):
        wins, losses = (model >= raters) & defined, (raters >= model) & defined
    parts = [losses.astype(float) - wins, defined.astype(float)]
    top, bottom = np.split(group_sums(np.concatenate(parts, axis=1), groups), 2, axis=1)
    ratios = Ratios(-top, bottom, np.empty((0, top.shape[1])))
    mean, num_groups = -ratios.estimates, (bottom > 0).sum(axis=0)
    # With a mean of `epsilon` or more, at most this share of the groups can lie at or below a value under `epsilon`.
    largest_share = (1 - epsilon) / (1 - np.minimum(mean, epsilon))
    constant = (np.abs(top - mean * bottom) < 1e-12).all(axis=0)
    p = np.where(constant & (num_groups > 0), largest_share**num_groups, p_above(ratios, -epsilon, method="student"))
    corrected = np.full_like(p, np.nan)
    corrected[~np.isnan(p)] = benjamini_yekutieli(p[~np.isnan(p)])
    images = defined.sum(axis=0)
    return AlternativeAnnotator(
        advantage=divide(wins.sum(axis=0).astype(float), images.astype(float)),
        rater_advantage=divide(losses.sum(axis=0).astype(float), images.astype(float)),
        p=p,
        p_corrected=corrected,
        wins=np.nan_to_num(corrected, nan=1.0) < alpha,
        n_images=images,
        n_groups=num_groups,
        epsilon=epsilon,
        alpha=alpha,
    )
