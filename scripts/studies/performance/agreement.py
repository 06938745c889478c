"""Agreement and STAPLE, from masks, beside the packages that people use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from irrbench.agreement import fleiss_kappa, krippendorff_alpha
from irrbench.consensus import staple
from irrbench.patterns import VotePatterns
from studies.performance.counting import threads
from studies.performance.images import Images
from studies.performance.timing import Budget, Row, compare, without_peer

_GOAL = 50


class _Pair(NamedTuple):
    """Two ways from masks ``(B, R, H, W)`` to the same numbers, and how far these may differ."""

    ours: Callable[[], Tensor]
    peer: Callable[[], Tensor]
    tolerance: float


def rows(budget: Budget) -> Iterator[Row]:
    """Masks to coefficients, counting included, on one thread."""
    with threads(1):
        for num_images in (1, 8):
            images = Images.draw(num_images=num_images)
            for task, (peer, make) in _PEERS.items():
                if find_spec(peer) is None:
                    yield without_peer(task, images.size, peer, f"{peer} is not installed")
                else:
                    yield _row(task, images, peer, make(images.masks), budget)


def _row(task: str, images: Images, peer: str, pair: _Pair, budget: Budget) -> Row:
    equal = torch.allclose(pair.ours(), pair.peer(), rtol=0, atol=pair.tolerance)
    return compare(
        task, images.size, ours=pair.ours, peer=pair.peer, peer_name=peer, equal=equal, budget=budget, goal=_GOAL
    )


def _alpha(masks: Tensor) -> _Pair:
    import krippendorff  # noqa: PLC0415

    ratings = masks.flatten(2).numpy().astype(float)

    def peer() -> Tensor:
        alphas = [krippendorff.alpha(reliability_data=r, level_of_measurement="nominal") for r in ratings]
        return torch.tensor(alphas, dtype=torch.float64)

    return _Pair(lambda: krippendorff_alpha(VotePatterns.from_masks(masks)), peer, 1e-9)


def _fleiss(masks: Tensor) -> _Pair:
    from statsmodels.stats.inter_rater import aggregate_raters  # noqa: PLC0415
    from statsmodels.stats.inter_rater import fleiss_kappa as kappa  # noqa: PLC0415

    ratings = masks.flatten(2).mT.numpy().astype(int)

    def peer() -> Tensor:
        return torch.tensor([kappa(aggregate_raters(r)[0]) for r in ratings], dtype=torch.float64)

    return _Pair(lambda: fleiss_kappa(VotePatterns.from_masks(masks)), peer, 1e-9)


def _staple(masks: Tensor) -> _Pair:
    import SimpleITK as sitk  # noqa: N813, PLC0415

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # as ours
    images = [[sitk.GetImageFromArray(mask.numpy().astype(np.uint8)) for mask in raters] for raters in masks]

    def peer() -> Tensor:
        rates = []
        for raters in images:
            method = sitk.STAPLEImageFilter()
            method.SetForegroundValue(1)
            method.Execute(raters)
            rates.append(list(method.GetSensitivity()))
        return torch.tensor(rates, dtype=torch.float64)

    # Both stop where the rates no longer move, but not at the same digit.
    return _Pair(lambda: staple(VotePatterns.from_masks(masks)).sensitivity, peer, 1e-5)


_PEERS: dict[str, tuple[str, Callable[[Tensor], _Pair]]] = {
    "Krippendorff's alpha": ("krippendorff", _alpha),
    "Fleiss' kappa": ("statsmodels", _fleiss),
    "STAPLE": ("SimpleITK", _staple),
}
