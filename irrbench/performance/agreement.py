"""Agreement and STAPLE, from masks, beside the packages that people use."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from irrbench.agreement import fleiss_kappa, krippendorff_alpha
from irrbench.patterns import VotePatterns
from irrbench.performance.counting import threads
from irrbench.performance.images import Images
from irrbench.performance.timing import Budget, Row, compare, without_peer
from irrbench.truth import staple

_GOAL = 50


def rows(budget: Budget) -> Iterator[Row]:
    """Masks to coefficients, counting included, one image of 512 x 512 and four raters."""
    masks = Images.draw(num_images=1, num_raters=4).masks
    with threads(1):
        for peer, row in (("krippendorff", _alpha), ("statsmodels", _fleiss), ("SimpleITK", _staple)):
            if find_spec(peer) is None:
                yield without_peer(_TASKS[peer], _size(masks), peer, f"{peer} is not installed")
            else:
                yield row(masks, budget)


_TASKS = {"krippendorff": "Krippendorff's alpha", "statsmodels": "Fleiss' kappa", "SimpleITK": "STAPLE"}


def _alpha(masks: Tensor, budget: Budget) -> Row:
    import krippendorff  # noqa: PLC0415

    ratings = masks[0].flatten(1).numpy().astype(float)

    def peer() -> float:
        return float(krippendorff.alpha(reliability_data=ratings, level_of_measurement="nominal"))

    def ours() -> float:
        return float(krippendorff_alpha(VotePatterns.from_masks(masks))[0])

    equal = abs(ours() - peer()) < 1e-9
    return compare(
        _TASKS["krippendorff"],
        _size(masks),
        ours=ours,
        peer=peer,
        peer_name="krippendorff",
        equal=equal,
        budget=budget,
        goal=_GOAL,
    )


def _fleiss(masks: Tensor, budget: Budget) -> Row:
    from statsmodels.stats.inter_rater import aggregate_raters  # noqa: PLC0415
    from statsmodels.stats.inter_rater import fleiss_kappa as peer_kappa  # noqa: PLC0415

    ratings = masks[0].flatten(1).T.numpy().astype(int)

    def peer() -> float:
        return float(peer_kappa(aggregate_raters(ratings)[0]))

    def ours() -> float:
        return float(fleiss_kappa(VotePatterns.from_masks(masks))[0])

    equal = abs(ours() - peer()) < 1e-9
    return compare(
        _TASKS["statsmodels"],
        _size(masks),
        ours=ours,
        peer=peer,
        peer_name="statsmodels",
        equal=equal,
        budget=budget,
        goal=_GOAL,
    )


def _staple(masks: Tensor, budget: Budget) -> Row:
    import SimpleITK as sitk  # noqa: N813, PLC0415

    images = [sitk.GetImageFromArray(mask.numpy().astype(np.uint8)) for mask in masks[0]]

    def peer() -> list[float]:
        method = sitk.STAPLEImageFilter()
        method.SetForegroundValue(1)
        method.Execute(images)
        return list(method.GetSensitivity())

    def ours() -> Tensor:
        return staple(VotePatterns.from_masks(masks)).sensitivity[0]

    # Both stop where the rates no longer move, but not at the same digit.
    equal = torch.allclose(ours(), torch.tensor(peer(), dtype=torch.float64), atol=1e-5)
    return compare(
        _TASKS["SimpleITK"],
        _size(masks),
        ours=ours,
        peer=peer,
        peer_name="SimpleITK",
        equal=equal,
        budget=budget,
        goal=_GOAL,
    )


def _size(masks: Tensor) -> str:
    return " x ".join(map(str, masks.shape))
