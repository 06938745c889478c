"""Raters' data for torch: one dict an image, and batches of images of different sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from irrbench.data.labels import LABEL_STRATEGIES, LabelRequest, parse_label
from irrbench.data.problems import DataError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from irrbench.data.rater_data import RaterData


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
