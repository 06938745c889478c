"""Several masks an image: a model's samples beside the raters' masks, as two distributions.

Probabilistic networks, diffusion models, ensembles and dropout give ``M`` masks of an image, the *samples*. They are
judged by the generalized energy distance (GED) between the distribution of the samples ``S`` and that of the raters'
masks ``Y``: ``GED**2 = 2 E d(S, Y) - E d(S, S') - E d(Y, Y')``, where ``d = 1 - IoU`` within the region of interest.

Two masks without marks are equal: ``d = 0``. The expectations are over the masks that there are, a mask paired with
itself included (the V-statistic of the paper). So the distance is 0 where both distributions are the same masks in the
same shares and above it otherwise, as the IoU is a positive definite kernel (Bouchard et al. 2013).

Fold ``r`` knows two references, see :data:`irrbench.SCORES`. ``ged``: the distribution of the raters other than ``r``;
the average rater is a model of one sample there. ``energy_score``: the held-out rater ``r`` alone; the peers are a
model of ``R - 1`` samples there, and the ceiling. All other candidates give one mask, the model its samples.

Axes: ``B`` images, ``R`` raters and as many folds, ``M`` samples, ``N`` masks of an image, whoever made them.

Source: Kohl et al. 2018, arXiv 1806.05034 (GED of masks); Gneiting and Raftery 2007, doi 10.1198/016214506000001437
(energy score); Bouchard, Jousselme and Dore 2013, doi 10.1016/j.ijar.2013.01.006.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from irrbench._counting.masks import as_foreground, blank_absent
from irrbench.folds import Reading
from irrbench.patterns import check_shapes, require_tensors
from irrbench.scores import ComparedMasks

_EXACT = 2**24  # up to here float32 holds all whole numbers
_CHUNK = 2**24  # pixels of masks that are numbers at a time


class _SampleFields(NamedTuple):
    reference: Tensor  # pixels that a peer marks, on average
    candidate: Tensor  # pixels that a mask of the candidate marks, on average
    ged: Tensor  # squared distance from the peers
    energy: Tensor  # half of the squared distance from the held-out rater
    roi: Tensor  # pixels


class SampleTable(ComparedMasks, _SampleFields):
    """Distances of candidate and reference, each a distribution of masks; float64 of any one shape."""


class SampleEvidence:
    """Evidence of several masks an image, see :class:`irrbench.evidence.Evidence`.

    Args:
        masks: ``(B, R, *S)``, bool, 0/1 or 0/255.
        roi: ``(B, *S)``, the pixels that count; all of them if not given.
        preds: ``(B, M, *S)``, the model's samples, as masks.
        present: ``(B, R)``, which raters rated which image; all of them if not given.
        validate: whether to look at all values, see :meth:`irrbench.VotePatterns.from_masks`; without it nothing waits
            for the device.

    Attributes:
        present: ``(B, R)`` bool.
        distances: ``(B, N, N)`` of each image's masks: raters, whole ROI, blank mask, the majority with ties as
            background, with ties as foreground, samples.
        roi_pixels: ``(B,)``.

    Raises:
        ValueError: for shapes that do not belong together, and values that no mask has.
    """

    def __init__(
        self,
        masks: Tensor,
        *,
        roi: Tensor | None = None,
        preds: Tensor | None = None,
        present: Tensor | None = None,
        validate: bool = True,
    ) -> None:
        check_shapes(masks, roi, None, present)
        check_samples(preds, masks)
        masks, present = blank_absent(masks, present, validate=validate)
        self.present = present.to(masks.device)
        self._num_samples = 0 if preds is None else preds.shape[1]
        marks = _as_bools(masks, "masks", validate=validate)
        inside = torch.ones_like(marks[:, :1]) if roi is None else _as_bools(roi[:, None], "roi", validate=validate)
        marks = marks & self.present[..., None]
        doubled, num = 2 * marks.sum(1, keepdim=True, dtype=torch.uint8), self.present.sum(1)[:, None, None]
        planes = [marks, inside, torch.zeros_like(inside), doubled > num, doubled >= num]
        planes += [] if preds is None else [_as_bools(preds, "samples", validate=validate)]
        shared = _shared_pixels(planes if roi is None else [plane & inside for plane in planes])
        self._sizes = shared.diagonal(dim1=1, dim2=2)
        self.roi_pixels = self._sizes[:, masks.shape[1]]
        union = self._sizes[:, :, None] + self._sizes[:, None] - shared
        self.distances = torch.where(union > 0, 1 - shared / union.clamp(min=1), 0.0)

    def tables(self, ties: Reading) -> Mapping[str, SampleTable]:
        """By candidate, fields ``(B, R)``; zeros for the folds of absent raters."""
        num, alone = (
            self.present.shape[1],
            torch.eye(self.distances.shape[1], dtype=torch.float64, device=self.present.device),
        )
        own = alone[:num]
        peers = self._raters(~torch.eye(num, dtype=torch.bool, device=self.present.device))
        candidates = {"floor": alone[num], "blank": alone[num + 1], "ceiling": own}
        candidates |= {"majority": alone[num + 2 + (ties == "positive")]}
        candidates |= {"model": self.samples} if self._num_samples else {}
        exists = self.present & (self.present.sum(1, keepdim=True) > 1)
        sizes = self._sizes[:, None]
        tables = {}
        for name, shares in candidates.items():
            fields = (
                (peers * sizes).sum(-1),
                (shares * sizes).sum(-1),
                self.energy_distance(shares, peers),
                self.energy_distance(peers if name == "ceiling" else shares, own) / 2,
                self.roi_pixels[:, None],
            )
            tables[name] = SampleTable(*(field.where(exists, 0.0) for field in fields))
        return tables

    @property
    def samples(self) -> Tensor:
        """The distribution of the samples, ``(N,)`` shares."""
        others = self.distances.new_zeros(self.distances.shape[1] - self._num_samples)
        return torch.cat([others, others.new_full((self._num_samples,), 1 / self._num_samples)])

    @property
    def all_raters(self) -> Tensor:
        """The distribution of all raters' masks, ``(B, 1, N)`` shares; NaN where there is none."""
        return self._raters(torch.ones_like(self.present[:1]))

    def energy_distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Squared distance of two distributions.

        Args:
            first: shares of the ``N`` masks, ``(N,)``, ``(R, N)`` or ``(B, R, N)``; their sum is 1.
            second: the same.

        Returns:
            ``2 E d(S, Y) - E d(S, S') - E d(Y, Y')``, ``(B, R)``.
        """
        squared = (((first - second) @ self.distances) * (second - first)).sum(-1)
        return squared.clamp(min=0)  # below 0 by a rounding error alone

    def _raters(self, which: Tensor) -> Tensor:
        """The distribution of the masks of some raters ``(., R)``, of those who are present: shares ``(B, ., N)``."""
        chosen = (self.present[:, None] & which).double()
        return pad(chosen / chosen.sum(-1, keepdim=True), (0, self.distances.shape[1] - which.shape[-1]))


def generalized_energy_distance(
    masks: Tensor, samples: Tensor, *, roi: Tensor | None = None, present: Tensor | None = None
) -> Tensor:
    """Squared generalized energy distance of a model's samples from all raters' masks, as Kohl et al. 2018 report it.

    No rater is held out, so it has no ceiling to be compared with; :func:`irrbench.sample_bounds` has.

    Args:
        masks: ``(B, R, *S)``, bool, 0/1 or 0/255.
        samples: ``(B, M, *S)``, likewise.
        roi: ``(B, *S)``, the pixels that count; all of them if not given.
        present: ``(B, R)``, which raters rated which image; all of them if not given.

    Returns:
        ``(B,)`` float64 from 0 (the same masks in the same shares) to 2; NaN where no rater is present, and where the
        ROI is empty.

    Raises:
        ValueError: for shapes that do not belong together, and values that no mask has.
        TypeError: if something is no tensor.

    Example:
        >>> masks = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]])  # two raters, IoU 1/2
        >>> generalized_energy_distance(masks, masks), generalized_energy_distance(masks, masks[:, :1])
        (tensor([0.], dtype=torch.float64), tensor([0.2500], dtype=torch.float64))
    """
    require_tensors(samples=samples)
    evidence = SampleEvidence(masks, roi=roi, preds=samples, present=present)
    squared = evidence.energy_distance(evidence.samples, evidence.all_raters)[:, 0]
    return squared.where(evidence.roi_pixels > 0, torch.nan)


def check_samples(samples: Tensor | None, masks: Tensor, *, channels: int = 0) -> None:
    """Refuse samples that do not belong to masks ``(B, R, *S)``.

    Args:
        samples: ``(B, M, *S)``, or with channels ``(B, M, C, *S)``.
        masks: what they should fit.
        channels: ``C``; 0 where there can be none.

    Raises:
        ValueError: for another shape.
        TypeError: for what is no tensor.
    """
    require_tensors(samples=samples)
    if samples is None:
        return
    size, _, *space = masks.shape
    found = list(samples.shape)
    if found[2:] == [channels, *space]:
        del found[2]
    if found[:1] + found[2:] != [size, *space] or not found[1]:
        inner = ", ".join(map(str, space))
        also = f" or ({size}, M, {channels}, {inner})" if channels else ""
        raise ValueError(
            f"`samples` must be (B, M, *S) = ({size}, M, {inner}){also}, as `masks` is {tuple(masks.shape)} = "
            f"(B, R, *S); found {tuple(samples.shape)}. Stack the masks of an image on axis 1, as many for each image."
        )


def _as_bools(x: Tensor, name: str, *, validate: bool) -> Tensor:
    """``(B, ., pixels)`` bool."""
    marks = as_foreground(x, name, validate=validate).flatten(2)
    return marks if marks.dtype is torch.bool else marks != 0


def _shared_pixels(planes: list[Tensor]) -> Tensor:
    """How many pixels each two masks of an image both mark, ``(B, N, N)`` float64, exact.

    Args:
        planes: masks ``(B, ., pixels)`` bool, ``N`` of them together.
    """
    return (_count_bits if planes[0].device.type == "cpu" else _multiply)(planes)


def _count_bits(planes: list[Tensor]) -> Tensor:
    """64 pixels at a time, on processors."""
    packed = np.concatenate([np.packbits(plane.numpy(), axis=-1) for plane in planes], 1)
    words = np.pad(packed, ((0, 0), (0, 0), (0, -packed.shape[-1] % 8))).view(np.uint64)
    shared = np.empty((*words.shape[:2], words.shape[1]))
    for i in range(words.shape[1]):
        shared[:, i, i:] = np.bitwise_count(words[:, i : i + 1] & words[:, i:]).sum(-1, dtype=np.int64)
        shared[:, i:, i] = shared[:, i, i:]
    return torch.from_numpy(shared)


def _multiply(planes: list[Tensor]) -> Tensor:
    """A matrix product for each image, which waits for no accelerator."""
    size, _, pixels = planes[0].shape
    num, device = sum(plane.shape[1] for plane in planes), planes[0].device
    shared = torch.zeros(size, num, num, dtype=torch.float64, device=device)
    step = max(1, min(_EXACT, _CHUNK // max(size * num, 1)))
    casts = torch.amp.is_autocast_available(device.type)  # to half precision, which does not hold whole numbers
    with torch.autocast(device.type, enabled=False) if casts else nullcontext():
        for start in range(0, pixels, step):
            part = torch.cat([plane[..., start : start + step] for plane in planes], 1).float()
            shared += part @ part.mT
    return shared
