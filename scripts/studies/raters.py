"""How well intervals hold for raters in general, and whether panels tell the score against the truth, by simulation.

Masks are star-shaped: distances from a centre to the border in ``A`` directions, so that the majority of an odd panel
is the median in each direction and IoU is a sum over directions. All references are exact, without a pixel.

Axes: ``D`` data sets, ``N`` images, ``R`` raters, ``A`` directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from irrbench.stats import Floats, Ratios, interval
from irrbench.stats.resampling import Part, rater_part, summed_errors

DIRECTIONS = 8
RATERS = (3, 4, 5, 6, 7, 8)
_LEVEL = 0.95
_POPULATION = 30_000  # panels of raters behind a true value


def _personal(rng: np.random.Generator, datasets: int, raters: int, scale: float) -> Floats:
    """What one rater does on all images, ``(D, 1, R, 1)``."""
    return scale * rng.normal(size=(datasets, 1, raters, 1))


def _unlike(rng: np.random.Generator, datasets: int, raters: int) -> Floats:
    far = rng.random((datasets, 1, raters, 1)) < 0.2
    return np.where(far, _personal(rng, datasets, raters, 5.0), _personal(rng, datasets, raters, 0.7))


class Drawing(NamedTuple):
    """A kind of rater: pixels by which the border is missed, ``(D, N, R, A)``, out of generator and D, N, R."""

    errors: Callable[[np.random.Generator, int, int, int], Floats]


KINDS = {
    "nested: each draws larger or smaller by a personal amount": Drawing(
        lambda g, d, n, r: _personal(g, d, r, 2.0) + 0.3 * g.normal(size=(d, n, r, DIRECTIONS))
    ),
    "nested, half of the amount new on each image": Drawing(
        lambda g, d, n, r: (
            _personal(g, d, r, 1.4) + 1.4 * g.normal(size=(d, n, r, 1)) + 0.5 * g.normal(size=(d, n, r, DIRECTIONS))
        )
    ),
    "independent border noise": Drawing(lambda g, d, n, r: 2.0 * g.normal(size=(d, n, r, DIRECTIONS))),
    "border noise, raters of unequal care": Drawing(
        lambda g, d, n, r: 1.6 * np.exp(_personal(g, d, r, 0.5)) * g.normal(size=(d, n, r, DIRECTIONS))
    ),
    "border noise, one rater in five unlike the rest": Drawing(
        lambda g, d, n, r: _unlike(g, d, r) + 0.8 * g.normal(size=(d, n, r, DIRECTIONS))
    ),
    "border noise, a third of it shared by all": Drawing(
        lambda g, d, n, r: 1.4 * g.normal(size=(d, n, r, DIRECTIONS)) + g.normal(size=(d, n, 1, DIRECTIONS))
    ),
}


class Masks(NamedTuple):
    """Squared distances from centre to border: raters ``(D, N, R, A)``, model and truth ``(D, N, A)``."""

    raters: Floats
    model: Floats
    truth: Floats


def draw(kind: str, datasets: int, images: int, raters: int, rng: np.random.Generator) -> Masks:
    """Draw data sets of one kind of rater, and a model that is near the truth."""
    shape = (datasets, images, 1, DIRECTIONS)
    truth = rng.uniform(8, 20, size=(datasets, images, 1, 1)) * np.exp(0.1 * rng.normal(size=shape))
    errors = KINDS[kind].errors(rng, datasets, images, raters)
    model = truth + 0.5 + rng.normal(size=shape) + 0.7 * rng.normal(size=(datasets, images, 1, 1))
    drawn, found, true = (np.maximum(x, 0.5) ** 2 for x in (truth + errors, model, truth))
    return Masks(drawn, found[:, :, 0], true[:, :, 0])


def iou(one: Floats, other: Floats) -> Floats:
    """Of masks ``(..., A)``."""
    return np.asarray(np.minimum(one, other).sum(-1) / np.maximum(one, other).sum(-1))


def on_majority(candidate: Floats, raters: Floats) -> Floats:
    """A mask ``(..., A)`` on the majority of raters ``(..., k, A)``; ties are read both ways, and the mean is taken."""
    ordered, k = np.sort(raters, axis=-2), raters.shape[-2]
    return (iou(candidate, ordered[..., (k - 1) // 2, :]) + iou(candidate, ordered[..., k // 2, :])) / 2


def bounds(masks: Masks) -> Floats:
    """Model, ceiling and their difference on each image, ``(3, D, N)``."""
    folds = [(r, np.delete(masks.raters, r, axis=2)) for r in range(masks.raters.shape[2])]
    ceiling = np.mean([on_majority(masks.raters[:, :, r], peers) for r, peers in folds], axis=0)
    model = np.mean([on_majority(masks.model, peers) for _, peers in folds], axis=0)
    return np.stack([model, ceiling, model - ceiling])


def rater_coverage(
    *, datasets: int = 400, images: int = 30, raters: Sequence[int] = RATERS, seed: int = 0
) -> Iterator[dict[str, object]]:
    """How often the intervals of ``generalize: raters`` hold the mean over all raters there might be.

    Args:
        datasets: ``D``.
        images: ``N``.
        raters: numbers of raters.
        seed: of everything.

    Yields:
        ``kind``, ``raters``, ``quantity`` (model, ceiling, difference), coverage of the intervals over ``images`` alone
        and ``with raters``, and the ``width`` of these.
    """
    rng = np.random.default_rng(seed)
    for kind in KINDS:
        for r in raters:
            truth = bounds(draw(kind, _POPULATION // 4, 4, r, rng)).mean(axis=(1, 2))
            masks = draw(kind, datasets, images, r, rng)
            values = bounds(masks)
            without = [
                bounds(masks._replace(raters=np.delete(masks.raters, one, axis=2))).mean(axis=2) for one in range(r)
            ]
            for number, quantity in enumerate(("model", "ceiling", "model - ceiling")):
                alone = Ratios(values[number].T, np.ones((images, datasets)), np.empty((0, datasets)))
                by_raters = rater_part([one[number] for one in without])
                parts = [Part(alone.standard_errors**2, alone.degrees_of_freedom), by_raters]
                errors, degrees = summed_errors(parts)
                spread = Ratios(alone.top, alone.bottom, alone.samples, errors, np.minimum(degrees, by_raters.degrees))
                ends = [interval(ratios, level=_LEVEL, method="hall") for ratios in (alone, spread)]
                held = [float(((low <= truth[number]) & (truth[number] <= high)).mean()) for low, high in ends]
                row = {"kind": kind, "raters": r, "quantity": quantity, "images": held[0], "with raters": held[1]}
                yield {**row, "width": float(np.median(ends[1][1] - ends[1][0]))}


def panel_limits(
    *, datasets: int = 200, images: int = 30, raters: Sequence[int] = RATERS, seed: int = 0
) -> Iterator[dict[str, object]]:
    """Whether the two largest odd panels tell the score against the truth, extrapolated in 1/k and in 1/sqrt(k).

    The interval reaches from the lower end of the one extrapolation to the upper end of the other, each with Student's
    interval over images.

    Args:
        datasets: ``D``.
        images: ``N``.
        raters: numbers of raters.
        seed: of everything.

    Yields:
        ``kind``, ``raters``, ``candidate`` (model; rater: a fresh one), the ``truth``, the mean extrapolations
        ``by 1/k`` and ``by 1/sqrt(k)``, and the interval's ``coverage``.
    """
    rng = np.random.default_rng(seed)
    for kind in KINDS:
        for r in raters:
            masks = draw(kind, datasets, images, r + 1, rng)
            fresh, seen = masks.raters[:, :, r], masks._replace(raters=masks.raters[:, :, :r])
            largest = r if r % 2 else r - 1
            truths = {"model": iou(masks.model, masks.truth).mean(), "rater": iou(fresh, masks.truth).mean()}
            for who, k in (("model", largest), ("rater", largest if largest < r else largest - 2)):
                if k < 3:
                    continue
                small, large = (_on_panels(seen, size, who) for size in (k - 2, k))
                found = [_extrapolated(small, large, k, power) for power in (1.0, 0.5)]
                half = student.ppf((1 + _LEVEL) / 2, images - 1) / np.sqrt(images)
                ends = [(x.mean(1) - half * x.std(1, ddof=1), x.mean(1) + half * x.std(1, ddof=1)) for x in found]
                low, high = np.min([e[0] for e in ends], axis=0), np.max([e[1] for e in ends], axis=0)
                row = {"kind": kind, "raters": r, "candidate": who, "truth": float(truths[who])}
                row |= {"by 1/k": float(found[0].mean()), "by 1/sqrt(k)": float(found[1].mean())}
                yield {**row, "coverage": float(((low <= truths[who]) & (truths[who] <= high)).mean())}


def _on_panels(masks: Masks, k: int, who: str) -> Floats:
    """The model, or the raters who are not in it, on each panel of `k`, the mean over panels ``(D, N)``."""
    everybody, values = set(range(masks.raters.shape[2])), []
    for panel in combinations(everybody, k):
        members = masks.raters[:, :, list(panel)]
        others = [masks.raters[:, :, r] for r in everybody - set(panel)]
        values += [on_majority(mask, members) for mask in ([masks.model] if who == "model" else others)]
    return np.asarray(np.mean(values, axis=0))


def _extrapolated(small: Floats, large: Floats, k: int, power: float) -> Floats:
    """The limit of a line in ``k ** -power`` through panels of ``k - 2`` and ``k``."""
    near, far = k**-power, (k - 2) ** -power
    return np.asarray(large + (large - small) * near / (far - near))
