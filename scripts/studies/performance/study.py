"""A whole study of raters, bootstrap and near-exact ICC included, against the time that it may take."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from irrbench.data import RaterData
from irrbench.reliability import study
from irrbench.simulate import draw_lesions
from studies.performance.timing import Budget, Row, seconds_of

_GOAL = 60.0  # seconds of the whole size on two cores
_QUICK = 5.0  # seconds a row below which a tenth of the images is studied, without a goal
_COARSE = 4  # pixels of the drawn lesions are so wide
NUM_RATERS = 4


def rows(budget: Budget, *, num_images: int = 80, side: int = 1000) -> Iterator[Row]:
    """One study, with two processes, called once: it takes seconds."""
    is_quick = budget.seconds < _QUICK
    data = _draw(num_images // 10 if is_quick else num_images, side)
    found = []
    seconds = seconds_of(lambda: found.append(study(data, workers=2, progress=False)))
    expected = [data.masks(index).mean() for index in range(len(data))]
    equal = np.allclose(found[0].per_image["prevalence"], expected, rtol=0, atol=1e-12)
    goal = math.nan if is_quick else _GOAL
    ratio = goal / seconds
    yield Row(
        "reliability study, bootstrap included",
        f"{len(data)} x {NUM_RATERS} x {side} x {side}",
        seconds,
        "goal",
        goal,
        ratio,
        ratio,
        equal,
        math.nan if is_quick else 1.0,
        "called once, two processes",
    )


def _draw(num_images: int, side: int) -> RaterData:
    masks = draw_lesions(
        num_images,
        sensitivity=[0.97, 0.95, 0.93, 0.9],
        specificity=[0.99, 0.98, 0.99, 0.97],
        size=(side // _COARSE, side // _COARSE),
        edge=2.0,
        error_smoothness=4.0,
    ).masks
    fine = masks.repeat_interleave(_COARSE, 2).repeat_interleave(_COARSE, 3)
    nothing = torch.zeros(1, *fine.shape[2:]).numpy()
    return RaterData.from_arrays([nothing] * num_images, list(fine.numpy()))
