"""Scores of borders of floor, average rater, majority and model, beside the same composed of MONAI's functions."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from irrbench.bounds import mask_bounds
from irrbench.mask_evidence import CACHE
from studies.performance.counting import threads
from studies.performance.images import Images
from studies.performance.timing import Budget, Row, against, compare, without_peer

SCORES = ("nsd", "hd95", "masd")
WHO = ("floor", "ceiling", "majority", "model")
TOLERANCE, VOXEL = 2.0, (2.0, 1.0, 1.0)
SIDE, DEPTH, SMALL = 512, 48, 64
TASK = "nsd, hd95, masd of floor, ceiling, majority, model"
REAL = {"lidc": ("r1", "r2", "r3", "r4"), "bubil": ("p1", "p2", "p3", "p4", "p5")}


def rows(budget: Budget) -> Iterator[Row]:
    """Masks to scores, all of it, on one thread: the first epoch, and a later one, whose masks are known."""
    try:
        import monai  # noqa: F401, PLC0415
    except ImportError:
        yield without_peer(TASK, f"8 x 4 x {SIDE} x {SIDE}", "MONAI", "monai is not installed")
        return
    found = []
    with threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, images in cases(quick=budget.seconds < 10):
            for row in _rows(name, images, budget):
                found.append(row)
                yield row
    worst = min((row for row in found if row.task == TASK), key=lambda row: row.ratio)
    yield replace(worst, task="... the worst of all these", goal=10.0)


def cases(*, quick: bool) -> Iterator[tuple[str, Images]]:
    """Masks of all sorts; real ones where ``IRRBENCH_TEST_DATA`` says where they are."""
    rng = np.random.default_rng(0)
    side = SIDE // (4 if quick else 1)
    yield "round lesions", Images.draw(num_images=2 if quick else 8, side=side)
    yield "smooth shapes", _images(np.stack([_smooth(rng, (side, side)) for _ in range(2)]))
    yield "noise", _images(rng.random((1, 5, side, side)) < 0.5)
    yield "3 % noise", _images(rng.random((1, 5, side, side)) < 0.03)
    yield "smooth shapes", _images(np.stack([_smooth(rng, (SMALL, SMALL)) for _ in range(4)]))
    yield "noise", _images(rng.random((4, 5, SMALL, SMALL)) < 0.5)
    yield "smooth volumes", _images(_smooth(rng, (DEPTH // (4 if quick else 1), SMALL, SMALL))[None])
    folder = Path(os.environ.get("IRRBENCH_TEST_DATA", "nowhere"))
    for data, raters in REAL.items():
        if (folder / data / "masks").is_dir():
            yield data, _images(_read(folder / data / "masks", raters, num_images=2 if quick else 8))


def _smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    base = gaussian_filter(rng.normal(size=shape), shape[-1] / 12)
    drawn: list[NDArray[np.float64]] = [
        base + 0.4 * gaussian_filter(rng.normal(size=shape), shape[-1] / 16) for _ in range(5)
    ]
    masks: NDArray[np.bool_] = np.stack(drawn) > 0.8 * base.std()
    return masks


def _read(folder: Path, raters: tuple[str, ...], *, num_images: int) -> NDArray[np.bool_]:
    drawn = [{path.name for path in (folder / r).iterdir()} for r in raters]
    names = sorted(set.intersection(*drawn))[:num_images]
    masks = np.stack([[np.asarray(Image.open(folder / r / name).convert("L")) > 0 for r in raters] for name in names])
    return masks if masks.shape[1] > 4 else np.concatenate([masks, np.roll(masks[:, :1], 2, -1)], 1)


def _images(masks: NDArray[np.bool_]) -> Images:
    """Four raters; the fifth mask is the model's."""
    drawn = torch.from_numpy(masks)
    return Images(drawn[:, :4], torch.ones_like(drawn[:, 4]), drawn[:, 4])


def _rows(name: str, images: Images, budget: Budget) -> Iterator[Row]:
    def later() -> dict[tuple[str, str], Tensor]:
        options: dict[str, Any] = {"roi": None if images.roi.all() else images.roi, "spacing": _spacing(images)}
        bounds = mask_bounds(images.masks, images.preds, SCORES, tolerance=TOLERANCE, ties="negative", **options)
        return {(who, score): getattr(bounds, who)[score] for who in WHO for score in SCORES}

    def first() -> dict[tuple[str, str], Tensor]:
        CACHE.clear()
        return later()

    theirs = by_monai(images)
    equal = all(
        torch.allclose(values, theirs[key], rtol=1e-5, atol=1e-6, equal_nan=True)
        for found in (first(), later())
        for key, values in found.items()
    )
    options: dict[str, Any] = {"peer_name": "MONAI", "equal": equal, "budget": budget}
    size = f"{images.size}, {name}"
    yield (row := compare(TASK, size, ours=first, peer=lambda: by_monai(images), **options))
    yield against("... an epoch later", size, action=later, seconds=row.peer, goal=math.nan, **options)


def _spacing(images: Images) -> tuple[float, ...]:
    return VOXEL if images.roi.ndim == 4 else (1.0, 1.0)


def by_monai(images: Images) -> dict[tuple[str, str], Tensor]:
    """The same scores, composed of MONAI's functions on the same references; ties are background."""
    masks, num_raters = images.masks & images.roi[:, None], images.masks.shape[1]
    votes = masks.sum(1)
    folds: dict[tuple[str, str], list[Tensor]] = {}
    for r in range(num_raters):
        reference = 2 * (votes - masks[:, r].long()) > num_raters - 1
        majority, model = 2 * votes > num_raters, images.preds & images.roi
        for who, candidate in zip(WHO, (images.roi, masks[:, r], majority, model), strict=True):
            for score, values in _monai_scores(candidate, reference, _spacing(images)).items():
                folds.setdefault((who, score), []).append(values)
    return {key: torch.stack(values).nanmean(0) for key, values in folds.items()}


def _monai_scores(candidate: Tensor, reference: Tensor, spacing: tuple[float, ...]) -> dict[str, Tensor]:
    import monai.metrics  # noqa: PLC0415

    metrics: Any = monai.metrics

    one, other = candidate[:, None].float(), reference[:, None].float()
    options: dict[str, Any] = {"include_background": True, "spacing": spacing}
    means = [metrics.compute_average_surface_distance(x, y, **options) for x, y in ((one, other), (other, one))]
    found = {
        "nsd": metrics.compute_surface_dice(one, other, [TOLERANCE], **options),
        "hd95": metrics.compute_hausdorff_distance(one, other, percentile=95, **options),
        "masd": (means[0] + means[1]) / 2,
    }
    is_empty, is_blank = (~masks.flatten(1).any(1) for masks in (reference, candidate))
    diagonal = math.hypot(*(n * length for n, length in zip(reference.shape[1:], spacing, strict=True)))
    blank = {"nsd": 0.0, "hd95": diagonal, "masd": diagonal}  # where MONAI has NaN or infinity
    filled = {score: values[:, 0].double().masked_fill(is_blank, blank[score]) for score, values in found.items()}
    return {score: values.masked_fill(is_empty, torch.nan) for score, values in filled.items()}
