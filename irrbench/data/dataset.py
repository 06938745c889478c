"""Raters' data for torch: one dict an image with the label to train on, and batches of images of different sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from irrbench.consensus import majority, staple_probability, vote_share
from irrbench.data.rater_data import RaterData
from irrbench.data.readers import DataError, Problem
from irrbench.evidence import EVIDENCE
from irrbench.scores import SCORES


class LabelRequest(NamedTuple):
    """What a label strategy may look at.

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


def _majority(request: LabelRequest) -> Tensor:
    return majority(request.masks[None], present=request.present[None])[0].float()


def _random(request: LabelRequest) -> Tensor:
    return request.masks[int(request.rng.choice(request.present.nonzero()[:, 0].numpy()))].float()


def _soft(request: LabelRequest) -> Tensor:
    return vote_share(request.masks[None], present=request.present[None])[0]


def _rater(request: LabelRequest) -> Tensor:
    return request.masks[request.raters.index(request.argument)].float()


def _staple(request: LabelRequest) -> Tensor:
    """STAPLE's mask; the majority where STAPLE is undefined: one rater alone, or no pixel that counts."""
    roi = None if request.roi is None else request.roi[None]
    probability = staple_probability(request.masks[None], roi=roi, present=request.present[None])[0]
    return _majority(request) if probability.isnan().any() else probability.gt(0.5).float()


# The label of an image, float32 ``(*S)`` in [0, 1], by the name of its strategy. A new strategy is one function and one
# entry; what follows a colon in a label's name (``rater:anna``) reaches the function as ``request.argument``. Whatever
# a model is trained on, it is scored on the same leave-one-out references.
LABEL_STRATEGIES: dict[str, Callable[[LabelRequest], Tensor]] = {
    "majority": _majority,
    "random": _random,
    "soft": _soft,
    "rater": _rater,
    "staple": _staple,
    "annotators": _soft,  # what is shown as the label; the masks themselves are trained on
}


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


def label_notes(data: RaterData, labels: Collection[str]) -> list[str]:
    """What a reader must know of labels that are made of two raters' masks; nothing where no image has two.

    Args:
        data: the images that are trained on.
        labels: names of strategies.

    Returns:
        A sentence for each strategy that does not do with two raters what its name says.
    """
    of_two = sum(int(data.present(i).sum()) == 2 for i in range(len(data)))
    share = "All" if of_two == len(data) else f"{of_two} of {len(data)}"
    start = f"{share} training images have two raters: there the label"
    notes = {
        "majority": f"{start} `majority` is the intersection of both masks, because a tie is background; `soft`, "
        "`random` and `rater:<name>` take in what one of them alone marks.",
        "staple": f"{start} `staple` depends on where its search starts, because the votes of two raters do not "
        "identify their sensitivity and specificity.",
    }
    return [note for label, note in notes.items() if of_two and label in labels]


def choice_notes(data: RaterData, score: str) -> list[str]:
    """What a reader must know of validation images that one rater alone drew; nothing where there is none.

    Args:
        data: the validation images.
        score: by which the epoch is chosen.
    """
    alone = sum(int(data.present(i).sum()) == 1 for i in range(len(data)))
    if not alone:
        return []
    share = "all" if alone == len(data) else f"{alone} of {len(data)}"
    start = f"One rater alone drew {share} validation images: there the epoch is chosen by {score} on that one mask"
    return [f"{start}, which has neither floor nor ceiling ({score}_all is the mean over all validation images)."]


def spacings_of(data: RaterData, scores: Sequence[str]) -> list[tuple[float, ...] | None]:
    """What distances depend on, image by image; none where no score measures any, or all are in pixels."""
    measures = any("spacing" in EVIDENCE[SCORES[score].evidence].options for score in scores)
    return [data.spacing(i) for i in range(len(data))] if measures and data.unit == "mm" else []


def check_spacings(data: RaterData, scores: Sequence[str]) -> None:
    """Refuse images whose spacing is none, or is known of some of them only, where a score measures distances.

    Raises:
        DataError: with every such image.
    """
    using = [score for score in scores if "spacing" in EVIDENCE[SCORES[score].evidence].options]
    known = {name: data.spacing(i) for i, name in enumerate(data.image_ids)} if using else {}
    some = [lengths for lengths in known.values() if lengths is not None]
    problems = []
    for name, lengths in known.items() if some else ():
        names = ", ".join(using)
        if lengths is None:
            found, remedy = "no spacing", "give it by folder.spacing, or leave out"
            expected = f"one, as {len(some)} of {len(data)} images have: else {names} would mix millimetres and pixels"
        elif not all(0 < length < math.inf for length in lengths):
            found, remedy = (
                f"spacing {' x '.join(f'{length:g}' for length in lengths)}",
                "correct the file, or leave out",
            )
            expected = f"lengths greater than 0, for {names}"
        else:
            continue
        problems.append(Problem(f"images/{name}", found, expected, f"{remedy} such scores"))
    if problems:
        raise DataError(problems)


def references(data: RaterData, index: int) -> dict[str, Any]:
    """What an image is scored on.

    Its ``masks`` ``(1, R, *S)``, ``roi`` ``(1, *S)`` (None: the whole image), ``present`` ``(1, R)`` and ``spacing``
    ``(D,)`` (None: pixels).
    """
    region = data.roi(index)
    return {
        "masks": torch.from_numpy(data.masks(index))[None],
        "roi": None if region is None else torch.from_numpy(region)[None],
        "present": torch.from_numpy(data.present(index))[None],
        "spacing": data.spacing(index),
    }


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Images with a training label and all raters' masks.

    An item is a dict: ``image`` float32 ``(C, *S)``, ``label`` float32 ``(1, *S)``, ``masks`` uint8 ``(R, *S)``,
    ``roi`` bool ``(*S)``, ``present`` bool ``(R,)`` and ``id``, a string; where it is known of all images ``spacing``,
    float64 ``(D,)`` of numpy (millimetres along each axis).

    Args:
        data: a split of the raters' data.
        label: what to train on: ``majority`` (a tie is background, so of two raters the intersection), ``random`` (one
            rater drawn anew in each epoch, see :meth:`set_epoch`), ``soft`` (the share of votes), ``staple`` (not
            identified with two raters, see :func:`irrbench.staple`), ``rater:<name>``, or ``annotators``: every
            rater's mask at once, for a model that learns each rater's errors; the label is then the share of votes.
        seed: of the random rater; the draw depends on seed, epoch and index alone, not on workers or order.

    Raises:
        ValueError: an unknown strategy or rater.
        DataError: ``rater:<name>`` where that rater lacks images.
    """

    def __init__(self, data: RaterData, *, label: str = "majority", seed: int = 0) -> None:
        self.data, self.label, self.seed = data, label, seed
        self._has_spacing = data.unit == "mm"
        self._strategy, self._argument = parse_label(label, data.raters)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see its changes
        if self._strategy == "rater":
            rater, expected = data.raters.index(self._argument), f"one by {self._argument} for each image"
            absent = [data.image_ids[i] for i in range(len(data)) if not data.present(i)[rater]]
            folder, remedy = f"masks/{self._argument}", "choose another label"
            if absent:
                raise DataError([Problem(f"{folder}/{name}", "no mask", expected, remedy) for name in absent])

    def __len__(self) -> int:
        return len(self.data)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, so that ``random`` draws anew; workers that are already running see it too."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        spacing = {"spacing": np.array(self.data.spacing(index))} if self._has_spacing else {}
        return {
            "image": torch.from_numpy(np.array(self.data.image(index))),
            **self.drawn(index),
            "id": self.data.image_ids[index],
            **spacing,
        }

    def drawn(self, index: int) -> dict[str, Tensor]:
        """``label``, ``masks``, ``roi`` and ``present`` of an item, without its image."""
        masks = torch.from_numpy(self.data.masks(index))
        present = torch.from_numpy(self.data.present(index))
        region = self.data.roi(index)
        roi = None if region is None else torch.from_numpy(region)
        rng = np.random.default_rng([self.seed, int(self._epoch), index])
        request = LabelRequest(masks, present, self.data.raters, self._argument, rng, roi)
        return {
            "label": LABEL_STRATEGIES[self._strategy](request)[None],
            "masks": masks.to(torch.uint8),
            "roi": torch.ones(masks.shape[1:], dtype=torch.bool) if roi is None else roi,
            "present": present,
        }


def collate(batch: Sequence[dict[str, Any]], *, multiple: int = 32) -> dict[str, Any]:
    """Stack items of a :class:`SegmentationDataset`, padded at the end of each spatial axis to one common size.

    The size is the largest in the batch, rounded up to ``multiple``. ``roi`` is False in the padding, so that it never
    counts; ``id`` becomes a list of strings, ``spacing`` an array ``(B, D)``, which stays in the host's memory.
    """
    planes = [key for key in ("image", "label", "masks", "roi", "annotations", "trained_label") if key in batch[0]]
    sizes = torch.tensor([item["roi"].shape for item in batch]).amax(0)
    target = [-(-int(size) // multiple) * multiple for size in sizes]

    def padded(tensor: Tensor) -> Tensor:
        missing = [new - old for old, new in zip(tensor.shape[-len(target) :], target, strict=True)]
        return torch.nn.functional.pad(tensor, [side for extra in reversed(missing) for side in (0, extra)])

    return {
        **{key: torch.stack([padded(item[key]) for item in batch]) for key in planes},
        "present": torch.stack([item["present"] for item in batch]),
        "id": [item["id"] for item in batch],
        **({"spacing": np.stack([item["spacing"] for item in batch])} if "spacing" in batch[0] else {}),
    }
