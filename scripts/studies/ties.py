"""What a rule for ties does to masks of known quality: raters who draw one truth with errors of equal size.

Axes: ``B`` images, ``R`` raters, ``H x W`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from irrbench import VotePatterns, segmentation_bounds
from irrbench.folds import Ties

_RADII = (6.0, 9.0)  # pixels
_SMOOTHNESS = 2.0  # pixels, of the raters' errors and of the outline


class Drawings(NamedTuple):
    """One truth an image and what raters made of it.

    Attributes:
        distance: ``(B, H, W)`` pixels inside the true border, negative outside.
        masks: ``(B, R, H, W)`` bool.
        fresh: ``(B, H, W)`` bool, one more rater of the same quality, who is in no reference.
    """

    distance: NDArray[np.float64]
    masks: NDArray[np.bool_]
    fresh: NDArray[np.bool_]


def draw(images: int, *, num_raters: int, noise: float = 1.5, side: int = 40, seed: int = 0) -> Drawings:
    """Draw lesions with a wavy outline; a rater moves it by a smooth error of mean 0.

    Args:
        images: ``B``.
        num_raters: ``R``.
        noise: standard deviation of the errors in pixels.
        side: ``H = W``.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    frequency = np.fft.fftfreq(side)
    gauss = np.exp(-2 * (np.pi * _SMOOTHNESS) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    gauss /= np.sqrt((gauss**2).mean())

    def errors(*shape: int) -> NDArray[np.float64]:
        return np.fft.ifft2(np.fft.fft2(rng.normal(size=(*shape, side, side))) * gauss).real

    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    distance = rng.uniform(*_RADII, (images, 1, 1)) - np.hypot(y, x) + errors(images)
    masks = distance[:, None] + noise * errors(images, num_raters) > 0
    return Drawings(distance, masks, distance + noise * errors(images) > 0)


def ties_table(
    *,
    raters: Sequence[int] = (2, 3, 4, 5, 6, 7),
    rules: Sequence[Ties] = ("negative", "positive", "average"),
    images: int = 300,
    noise: float = 1.5,
    score: str = "iou",
) -> pd.DataFrame:
    """Mean scores of the truth, of the truth a pixel smaller and larger, of a fresh rater, and the references.

    Args:
        raters: numbers of raters.
        rules: for ties; with an even number of raters there are none, and one row says so.
        images: of each row.
        noise: see :func:`draw`.
        score: name of the score.
    """
    rows = []
    for number in raters:
        drawn = draw(images, num_raters=number, noise=noise, seed=number)
        masks = torch.from_numpy(drawn.masks)
        names: Sequence[Ties] = rules if number % 2 else ("average",)
        for ties in names:
            values: dict[str, float] = {}
            candidates = {"truth": 0.0, "smaller": 1.0, "larger": -1.0}
            preds = {name: drawn.distance > inside for name, inside in candidates.items()} | {"fresh": drawn.fresh}
            for name, mask in preds.items():
                patterns = VotePatterns.from_masks(masks, preds=torch.from_numpy(mask))
                bounds = segmentation_bounds(patterns, [score], ties=ties)
                values[name] = float(bounds.model[score].nanmean())
            for role in ("ceiling", "majority", "upper", "ceiling_of_two"):
                values[role] = float(getattr(bounds, role)[score].nanmean())
            rows.append({"raters": number, "ties": ties if number % 2 else "none", **values})
    return pd.DataFrame(rows)
