"""Raters' data for torch: one dict an image, and batches of images of different sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from irrbench.consensus import majority, staple_probability, vote_share
from irrbench.data.readers import DataError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from irrbench.data.rater_data import RaterData

# Label strategies: which label a model is trained on where raters disagree.
#
# A new strategy is one function in this file, under ``@label_strategy("name")``; a name with an argument ("rater:anna")
# reaches it as ``request.argument``. All strategies are scored alike, on the leave-one-out references.


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


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Images with a training label and all raters' masks.

    An item is a dict: ``image`` float32 ``(C, *S)``, ``label`` float32 ``(1, *S)``, ``masks`` uint8 ``(R, *S)``,
    ``roi`` bool ``(*S)``, ``present`` bool ``(R,)`` and ``id``, a string.

    Args:
        data: a split of the raters' data.
        label: what to train on: ``majority`` (a tie is background), ``random`` (one rater drawn anew in each epoch, see
            :meth:`set_epoch`), ``soft`` (the share of votes), ``staple`` or ``rater:<name>``.
        seed: of the random rater; the draw depends on seed, epoch and index alone, not on workers or order.

    Raises:
        ValueError: an unknown strategy or rater.
        DataError: ``rater:<name>`` where that rater lacks images.
    """

    def __init__(self, data: RaterData, *, label: str = "majority", seed: int = 0) -> None:
        self.data, self.label, self.seed = data, label, seed
        self._strategy, self._argument = parse_label(label, data.raters)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that live on
        if self._strategy == "rater":
            _check_presence(data, self._argument)

    def __len__(self) -> int:
        return len(self.data)

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch, so that ``random`` draws anew; workers that are already running see it too."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.from_numpy(np.array(self.data.image(index)))
        masks = torch.from_numpy(self.data.masks(index))
        present = torch.from_numpy(self.data.present(index))
        roi = self.data.roi(index)
        rng = np.random.default_rng([self.seed, int(self._epoch), index])
        region = None if roi is None else torch.from_numpy(roi)
        request = LabelRequest(masks, present, self.data.raters, self._argument, rng, region)
        return {
            "image": image,
            "label": LABEL_STRATEGIES[self._strategy](request)[None],
            "masks": masks.to(torch.uint8),
            "roi": torch.ones(masks.shape[1:], dtype=torch.bool) if region is None else region,
            "present": present,
            "id": self.data.image_ids[index],
        }


def collate(batch: Sequence[dict[str, Any]], *, multiple: int = 32) -> dict[str, Any]:
    """Stack items of a :class:`SegmentationDataset`, padded at the end of each spatial axis to one common size.

    The size is the largest in the batch, rounded up to ``multiple``. ``roi`` is False in the padding, so that it never
    counts; ``id`` becomes a list of strings.
    """
    sizes = torch.tensor([item["roi"].shape for item in batch]).amax(0)
    target = [-(-int(size) // multiple) * multiple for size in sizes]
    padded = ("image", "label", "masks", "roi")
    stacked: dict[str, Any] = {key: torch.stack([_pad(item[key], target) for item in batch]) for key in padded}
    return stacked | {
        "present": torch.stack([item["present"] for item in batch]),
        "id": [item["id"] for item in batch],
    }


def _pad(tensor: Tensor, target: Sequence[int]) -> Tensor:
    missing = [new - old for old, new in zip(tensor.shape[-len(target) :], target, strict=True)]
    return torch.nn.functional.pad(tensor, [side for extra in reversed(missing) for side in (0, extra)])


def _check_presence(data: RaterData, rater: str) -> None:
    axis = data.raters.index(rater)
    problems = [
        Problem(
            f"masks/{rater}/{data.image_ids[i]}", "no mask", f"one by {rater} for each image", "choose another label"
        )
        for i in range(len(data))
        if not data.present(i)[axis]
    ]
    if problems:
        raise DataError(problems)
