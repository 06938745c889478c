"""Raters who resemble the others too much (a consensus, a copy) or too little (files of other images, turned ones)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations, product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irrbench.data.rater_data import shrink_nearest, small_shape

if TYPE_CHECKING:
    from irrbench.data.rater_data import RaterData
    from irrbench.data.readers import Mask

FOLDS = (
    "the union",
    "the intersection",
    "the majority",
    "the majority (ties marked)",
    "decided by the votes",
)  # the last as STAPLE
COPIED = 0.5  # share of images; of 856 small nodules 1 % at most are drawn alike by any two readers
FEWEST_PIXELS = 10  # of marks: smaller ones are equal by chance
FEWEST = 3  # images below which neither likeness nor its lack says anything
FAR, SUSPECT, MENDED = 0.5, 0.8, 0.8  # times what the others share with each other
ALONE = 0.75  # what two raters without others are measured by
SAMPLE, LARGEST = 24, {2: 256, 3: 64}
_TURNED: dict[tuple[tuple[int, ...], ...], str] = {
    ((0, 1), (1, -1)): "mirrored left to right",
    ((0, 1), (-1, 1)): "mirrored top to bottom",
}
_TURNED |= {((0, 1), (-1, -1)): "turned by 180 degrees", ((1, 0), (1, 1)): "transposed"}


class Alike(NamedTuple):
    """How much the raters' masks have in common; sums over images.

    Attributes:
        shared: of each pair the share of the smaller mask that lies in the other, ``(R, R)``.
        pairs: images that both marked, ``(R, R)``.
        drawn: images that both drew and one of them marked at least :data:`FEWEST_PIXELS` of, ``(R, R)``.
        equal: of these, images on which their masks are equal, ``(R, R)``.
        folds: images on which a rater is that of :data:`FOLDS` of the others, ``(5, R)``.
        split: images of marks that are not tiny on which the others disagree and the rater marked some, ``(R,)``.
    """

    shared: NDArray[np.float64]
    pairs: NDArray[np.int64]
    drawn: NDArray[np.int64]
    equal: NDArray[np.int64]
    folds: NDArray[np.int64]
    split: NDArray[np.int64]

    @classmethod
    def none(cls, raters: int) -> Alike:
        """Nothing counted yet."""
        square, folds = (raters, raters), (len(FOLDS), raters)
        pairs, drawn, equal = np.zeros((3, *square), int)
        return cls(np.zeros(square), pairs, drawn, equal, np.zeros(folds, int), np.zeros(raters, int))

    @property
    def copies(self) -> NDArray[np.bool_]:
        """Which pairs of raters are equal on so many images that one is a copy, ``(R, R)``."""
        return _are_copies(self.equal, self.drawn) & ~np.eye(len(self.equal), dtype=bool)

    def add(self, bits: NDArray[np.float64], counts: NDArray[np.float64], present: NDArray[np.bool_]) -> None:
        """Count one image: its vote patterns ``(K, R)``, how many pixels have each, who drew it."""
        marked = counts @ bits
        both = (marked[:, None] > 0) & (marked > 0)
        overlap, larger = (counts[:, None] * bits).T @ bits, np.maximum(marked[:, None], marked)
        self.shared[...] += overlap / np.where(both, np.minimum(marked[:, None], marked), 1)
        self.pairs[...] += both
        drawn = present[:, None] & present & (larger >= FEWEST_PIXELS)
        self.drawn[...] += drawn
        self.equal[...] += drawn & (overlap == larger)
        others = bits.sum(1, keepdims=True) - bits
        number = present.sum() - 1
        split = ((others > 0) & (others < number)).any(0) & (marked > 0) & (marked.max() >= FEWEST_PIXELS)
        found = [others > 0, others == number, 2 * others > number, 2 * others >= number]
        folds = np.stack([(fold == bits).all(0) for fold in found] + [_is_decided(bits, others, number)])
        self.folds[...] += folds & split
        self.split[...] += split


def _is_decided(bits: NDArray[np.float64], others: NDArray[np.float64], number: int) -> NDArray[np.bool_]:
    """Whether the others' votes decide each rater's, none and all of them as they say, and no one alone, ``(R,)``."""
    powers = 2.0 ** np.arange(bits.shape[1])
    patterns = np.sort((bits @ powers)[:, None] - bits * powers, axis=0)
    once = (np.diff(patterns, axis=0) > 0).all(0)
    alone = ((bits[:, :, None] == bits[:, None]).all(0) & ~np.eye(len(powers), dtype=bool)).any(0)
    odd = ((others == 0) & (bits > 0)).any(0) | ((others == number) & (bits == 0)).any(0)
    return np.asarray(once & ~alone & ~odd)


def _are_copies(equal: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.bool_]:
    return (drawn > 1) & (equal >= COPIED * drawn)


def copied_raters(data: RaterData, alike: Alike) -> Iterator[str]:
    """A caution for each copy of another rater, and for each rater who is rather a consensus of all others."""
    copies, equal, drawn = alike.copies, alike.equal, alike.drawn
    shares = np.where(copies, equal / np.maximum(drawn, 1), 0)
    for place, rater in enumerate(data.raters):
        split, best = int(alike.split[place]), int(alike.folds[:, place].argmax())
        same = int(alike.folds[best, place])
        if split < FEWEST or same < COPIED * split or same <= shares[place].max() * split:
            continue
        copies[place] = copies[:, place] = False
        rest = ", ".join(name for name in data.raters if name != rater)
        yield (
            f"{rater} is {FOLDS[best]} of the others on {same} of {split} images where these differ: a consensus is "
            f"no rater and makes the ceiling too high. Leave it out with --folder.raters '[{rest}]'."
        )
    for first, second in combinations(range(len(data.raters)), 2):
        if copies[first, second]:
            yield (
                f"{data.raters[second]} is equal to {data.raters[first]} on {equal[first, second]} of "
                f"{drawn[first, second]} marked images ({shares[first, second]:.0%}): a copied folder makes raters "
                "agree, and the ceiling too high."
            )


def copied_repeats(data: RaterData) -> Iterator[str]:
    """A caution for each repeat that is a copy of another drawing by the same rater."""
    for rater in data.repeated_raters:
        names = [rater, *(name for name in data.repeats if name.rpartition("@")[0] == rater)]
        equal, both = np.zeros((2, len(names), len(names)), int)
        for index, again in enumerate(data.repeated):
            if again is None:
                continue
            masks, present = data.drawings(index, rater)
            for second, first in combinations(reversed(range(len(names))), 2):
                marked = max(np.count_nonzero(masks[first]), np.count_nonzero(masks[second]))
                if present[first] and present[second] and marked >= FEWEST_PIXELS:
                    both[first, second] += 1
                    equal[first, second] += np.array_equal(masks[first], masks[second])
        for first, second in np.argwhere(_are_copies(equal, both)):
            yield (
                f"{names[second]} is equal to {names[first]} on {equal[first, second]} of {both[first, second]} marked "
                f"images: a copy is no second drawing, and {rater} agrees too well with himself."
            )


def apart(data: RaterData, alike: Alike, *, model: int | None = None) -> Iterator[str]:
    """A caution for each rater whose masks share far less with anybody's than the others' do with each other.

    For a ``model`` in a rater's place there is one only where its cause is found: a poor model agrees with nobody, too.
    """
    means = np.where((alike.pairs >= FEWEST) & ~alike.copies, alike.shared / np.maximum(alike.pairs, 1), np.nan)
    np.fill_diagonal(means, np.nan)
    told = np.zeros(len(means), bool)
    for place, rater in enumerate(data.raters):
        own, others = means[place], np.delete(np.delete(means, place, 0), place, 1)
        known = others[~np.isnan(others).all(1)]
        theirs = float(np.median(np.nanmax(known, axis=1))) if len(known) else ALONE
        is_told = len(means) == 2 and told.any()
        is_unknown = len(means) > 2 and not len(known)
        is_asked = model in (None, place)
        if is_told or is_unknown or not is_asked or np.isnan(own).all() or np.nanmax(own) >= SUSPECT * theirs:
            continue
        cause = _explain(data, place, theirs)
        if cause is None and (place == model or np.nanmax(own) >= FAR * theirs):
            continue
        told[place] = True
        shown = f" ({theirs:.0%} among the others)" if len(known) else ""
        yield (
            f"{rater} agrees with nobody: of the smaller mask {np.nanmax(own):.0%} at most lie in another's{shown}. "
            f"{cause or 'Are the files those of other images, turned or mirrored'}?"
        )


def _explain(data: RaterData, place: int, theirs: float) -> str | None:
    """What makes the rater's masks fit the others': turned ones, or those of the next or previous image."""
    drawn = [index for index in range(len(data)) if data.packed[index].present[place]]
    step = max(1, len(drawn) // SAMPLE)
    pairs = [(_small(data, index), index) for index in drawn[::step]]
    references = [(_majority(planes, data.present(index), place), planes[place], index) for planes, index in pairs]
    found: dict[str, float] = {}
    base = _mean_shared([(reference, own) for reference, own, _ in references])
    axes = references[0][1].ndim if references else 0
    for order, signs in product(permutations(range(axes)), product((1, -1), repeat=axes)):
        flips = tuple(slice(None, None, sign) for sign in signs)
        turned = [(reference, own.transpose(order)[flips]) for reference, own, _ in references]
        text = f"Are the masks {_TURNED.get((order, signs), 'turned or mirrored')}"
        found[text] = max(found.get(text, 0.0), _mean_shared(turned))
    for offset, name in ((-1, "next"), (1, "previous")):
        shifted = [
            (reference, _small(data, index + offset)[place])
            for reference, _, index in references
            if 0 <= index + offset < len(data) and data.packed[index + offset].present[place]
        ]
        found[f"Are the files those of the {name} image"] = _mean_shared(shifted)
    best = max(found, key=found.__getitem__)
    return best if found[best] >= max(MENDED * theirs, 1.25 * base) else None


def _small(data: RaterData, index: int) -> Mask:
    """The masks of an image, small enough to be turned in all ways."""
    masks = data.masks(index)
    shape = small_shape(masks.shape[1:], LARGEST.get(masks.ndim - 1, 64))
    return np.stack([shrink_nearest(mask, shape) for mask in masks]).astype(bool)


def _majority(planes: Mask, present: NDArray[np.bool_], place: int) -> Mask:
    others = present.copy()
    others[place] = False
    return np.asarray(2 * planes[others].sum(0) >= max(others.sum(), 1))


def _mean_shared(pairs: Sequence[tuple[Mask, Mask]]) -> float:
    """The mean share of the smaller mask that lies in the other, of pairs of one size; 0 of too few."""
    fit = [(one, other) for one, other in pairs if one.shape == other.shape and one.any() and other.any()]
    shares = [(one & other).sum() / min(one.sum(), other.sum()) for one, other in fit]
    return float(np.mean(shares)) if len(shares) >= FEWEST else 0.0
