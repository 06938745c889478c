"""What was understood of a data set, in words: images, splits, raters, how much they marked; and what looks odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irrbench._progress import track
from irrbench.data.manifest import empty_groups, ungrouped_columns
from irrbench.data.problems import many, some_text
from irrbench.data.rater_data import SPLITS, PackedMasks, RaterData, pack_masks
from irrbench.data.readers import Mask, size_text
from irrbench.data.resemblance import Alike, apart, copied_raters, copied_repeats
from irrbench.data.values import border_of, fits_inverted, questioned

if TYPE_CHECKING:
    from irrbench.data.predictions import Predictions

NEARLY_ALL, HALF = 0.95, 0.5
PIECE = 2**22
SHOWN_COLUMNS = 12


class Marks(NamedTuple):
    """How much of each image's ROI each rater marked, and what the raters' masks have in common.

    Attributes:
        shares: ``(N, R)``, NaN where the rater is absent.
        roi: share of each image's pixels in the ROI, ``(N,)``.
        inverted: whether the majority of the others agrees better with the rater's background than marks, ``(N, R)``.
        outside: whether the rater marks over half of the image and over half of its border, ``(N, R)``.
        alike: what their masks have in common.
    """

    shares: NDArray[np.float64]
    roi: NDArray[np.float64]
    inverted: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    alike: Alike


def count_marks(data: RaterData) -> Marks:
    """Count marked pixels and equal masks; each image's pixels are read once."""
    raters = len(data.raters)
    shares, roi = np.full((len(data), raters), np.nan), np.ones(len(data))
    inverted, outside = np.zeros((2, len(data), raters), bool)
    alike = Alike.none(raters)
    for i, item in enumerate(track(data.packed, total=len(data), label="comparing the raters' masks")):
        bits, counts, roi[i] = _patterns(item, raters)
        present = np.array(item.present)
        marked = counts @ bits
        if counts.sum():
            shares[i, present] = marked[present] / counts.sum()
        inverted[i] = present & _agrees_inverted(bits[:, present], counts, present)
        outside[i] = _marks_border(item, raters) & (shares[i] > HALF)
        alike.add(bits, counts, present)
    return Marks(shares, roi, inverted, outside, alike)


def _agrees_inverted(bits: NDArray[np.float64], counts: NDArray[np.float64], present: NDArray[np.bool_]) -> Mask:
    """By rater ``(R,)``, whether the background has more pixels and more overlap in common with the others' majority.

    Pixels alone would be misled by raters who mark far too much, overlap alone by those who mark another place.
    """
    others = 2 * (bits.sum(1, keepdims=True) - bits) > bits.shape[1] - 1
    marked, found = bits > 0, np.zeros(len(present), bool)
    both, either = counts @ (marked & others), counts @ (marked | others)
    both_inverted, either_inverted = counts @ (~marked & others), counts @ (~marked | others)
    more_pixels = 2 * (counts @ (marked != others)) > counts.sum()
    found[present] = more_pixels & (both_inverted * either > both * either_inverted)
    return found


def _marks_border(item: PackedMasks, raters: int) -> Mask:
    """By rater ``(R,)``, whether over half of the pixels at the image's border are marked."""
    border = border_of(item.codes())
    return np.array([np.mean(border >> border.dtype.type(rater) & 1) > HALF for rater in range(raters)])


def _patterns(item: PackedMasks, raters: int) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """The vote patterns ``(K, R)`` that occur in the ROI, their counts ``(K,)``, and the ROI's share of the image."""
    codes, size = item.codes().ravel(), 1 << (raters + item.has_roi)
    # In pieces: the counting makes 8 bytes of each code, which of a large volume would be more than its image takes.
    pieces = [np.bincount(codes[start : start + PIECE], minlength=size) for start in range(0, codes.size, PIECE)]
    all_counts = np.sum(pieces, axis=0)
    values = np.flatnonzero(all_counts)
    counts = all_counts[values]
    inside = values >> raters & 1 > 0 if item.has_roi else np.ones(len(values), bool)
    bits = (values[inside, None] >> np.arange(raters)) & 1
    return bits.astype(float), counts[inside].astype(float), counts[inside].sum() / counts.sum()


def headline(data: RaterData) -> str:
    """One line: images, their size and channels, raters.

    Example:
        >>> headline(RaterData.from_arrays([np.zeros((1, 4, 6))] * 2, [np.zeros((3, 4, 6), bool)] * 2))
        '2 images of 4 x 6 (height x width), 1 channel; 3 raters: r1, r2, r3'
    """
    raters = f"{len(data.raters)} raters: {', '.join(data.raters)}"
    return f"{many(len(data), 'image')} of {_sizes(data)}, {many(len(data.image(0)), 'channel')}; {raters}"


def _sizes(data: RaterData) -> str:
    shapes = sorted({item.full_shape for item in data.packed}, key=lambda shape: (np.prod(shape), shape))
    axes = " (height x width)" if len(shapes[0]) == 2 else ""
    sizes = " to ".join(size_text(shape) for shape in (shapes if len(shapes) < 2 else (shapes[0], shapes[-1])))
    largest = max(max(item.shape) for item in data.packed)
    is_smaller = any(item.shape != item.full_shape for item in data.packed)
    return f"{sizes}{axes}{f', scaled down to {largest} at most' if is_smaller else ''}"


def splits_text(data: RaterData) -> str:
    """How many images (and groups) each split holds, and where the splits come from.

    Example:
        >>> splits_text(RaterData.from_arrays([np.zeros((1, 4, 6))] * 2, [np.zeros((3, 4, 6), bool)] * 2))
        '2 train, 0 val, 0 test, by a hash of image_id (no column split)'
    """
    parts = [data.split(name) for name in SPLITS]
    counts = [f"{len(part)} {name}" for name, part in zip(SPLITS, parts, strict=True)]
    source = "column split" if data.has_splits else f"a hash of {data.group_column or 'image_id'} (no column split)"
    if data.group_column is None:
        return f"{', '.join(counts)}, by {source}"
    groups = [len(set(part.groups)) for part in parts]
    first, *others = [f"{count} ({number}" for count, number in zip(counts, groups, strict=True)]
    return f"{'), '.join([f'{first} groups', *others])}), by {source}; groups: {data.group_column}"


def overview(data: RaterData, marks: Marks) -> Iterator[tuple[str, str]]:
    """What was understood: names and texts, a line each."""
    yield "images", headline(data)
    yield "splits", splits_text(data)
    yield "raters", raters_text(data)
    if data.values:
        yield "values", read_as(data)
    yield "marked", f"{', '.join(_marked(data, marks))} of the pixels (median of images where anything is marked)"
    if any(item.has_roi for item in data.packed):
        yield "ROI", f"median {np.median(marks.roi):.1%} of an image's pixels"
    else:
        yield "ROI", "none: all pixels count"
    repeats = np.array([item.present if item else [False] * len(data.repeats) for item in data.repeated]).sum(0)
    if data.repeats:
        yield "repeats", ", ".join(f"{name} on {number}" for name, number in zip(data.repeats, repeats, strict=True))
    yield from _spacing(data)
    columns = [str(name) for name in data.manifest if name not in ("split", data.group_column)]
    if columns:
        yield "covariates", some_text(columns, SHOWN_COLUMNS)


def _spacing(data: RaterData) -> Iterator[tuple[str, str]]:
    found = [spacing for i in range(len(data)) if (spacing := data.spacing(i)) is not None]
    if found:
        texts = [" x ".join(f"{side:.3g}" for side in spacing) for spacing in (min(found), max(found))]
        some = f", of {len(found)} images" if len(found) < len(data) else ""
        yield "spacing", f"{' to '.join(dict.fromkeys(texts))} mm{some}"


def raters_text(data: RaterData) -> str:
    """How many raters drew how many images, for each split where these differ.

    Example:
        >>> raters_text(RaterData.from_arrays([np.zeros((1, 4, 6))] * 2, [np.zeros((3, 4, 6), bool)] * 2))
        '3 on all images'
    """
    numbers = np.array([sum(item.present) for item in data.packed])
    if len(set(numbers.tolist())) == 1:
        return f"{numbers[0]} on all images"
    splits = data.manifest["split"].to_numpy()
    parts = [f"{name}: {_histogram(numbers[splits == name])}" for name in SPLITS if (splits == name).any()]
    return _histogram(numbers, " raters", " images") + (f" ({'; '.join(parts)})" if len(parts) > 1 else "")


def _histogram(numbers: Iterable[int], raters: str = "", images: str = "") -> str:
    (first, times), *others = sorted(Counter(map(int, numbers)).items())
    return ", ".join([f"{first}{raters} on {times}{images}", *(f"{number} on {times}" for number, times in others)])


def read_as(data: RaterData) -> str:
    """What the values in the files were taken to mean."""
    texts = {data.values[rater] for rater in data.raters if rater in data.values}
    others = [f"{name}: {text}" for name, text in data.values.items() if name not in data.raters]
    if len(texts) == 1:
        return "; ".join([f"{texts.pop()} of all raters", *others])
    return "; ".join(f"{name}: {text}" for name, text in data.values.items())


def _marked(data: RaterData, marks: Marks) -> Iterator[str]:
    for rater, shares in zip(data.raters, marks.shares.T, strict=True):
        drawn, marked = shares[~np.isnan(shares)], shares[shares > 0]
        empty = f" ({1 - len(marked) / len(drawn):.0%} of masks empty)" if len(marked) < len(drawn) else ""
        yield f"{rater} {f'{np.median(marked):.1%}' if len(marked) else 'nothing'}{empty}"


def cautions(data: RaterData, marks: Marks, *, splits: bool = True) -> list[str]:
    """What is no error but looks odd, or limits what the results can say; without ``splits``, nothing about them."""
    of_splits = _odd_splits(data) if splits else ()
    return [
        *_few_raters(data),
        *_odd_raters(data, marks),
        *(f"{rater}: {data.values[rater]}" for rater in questioned(data.values)),
        *_inverted_raters(data, marks),
        *copied_raters(data, marks.alike),
        *copied_repeats(data),
        *apart(data, marks.alike),
        *_same_pictures(data, splits=splits),
        *(
            f"Column {name!r} is empty: images are not grouped by it; where some belong together, fill it in."
            for name in empty_groups(data.manifest)
        ),
        *of_splits,
    ]


def model_cautions(name: str, predictions: Predictions) -> list[str]:
    """That a model's masks would fit the raters' if they were turned, mirrored or those of another image."""
    data, packed = predictions.data, []
    for i in range(len(data)):
        drawn = [mask if there else None for mask, there in zip(data.masks(i), data.present(i), strict=True)]
        packed.append(pack_masks([*drawn, predictions.prediction(i)], data.roi(i)))
    beside = replace(data, raters=(*data.raters, name), packed=tuple(packed))
    return list(apart(beside, count_marks(beside).alike, model=len(data.raters)))


def _few_raters(data: RaterData) -> Iterator[str]:
    numbers = [sum(item.present) for item in data.packed]
    single = [name for name, number in zip(data.image_ids, numbers, strict=True) if number == 1]
    if single:
        count = f"{len(single)} of {len(data)} images have one rater"
        yield f"{count} ({some_text(single)}): no bounds and no scores there."
    several = sorted(set(numbers) - {1})
    if len(several) > 1:
        yield (
            f"Images have different numbers of raters ({_histogram(numbers)}): ceilings of {several[0]} and of "
            f"{several[-1]} raters do not compare."
        )


def _odd_raters(data: RaterData, marks: Marks) -> Iterator[str]:
    for rater, shares in zip(data.raters, marks.shares.T, strict=True):
        drawn = shares[~np.isnan(shares)]
        full = int((drawn > NEARLY_ALL).sum())
        if len(drawn) and not drawn.any():
            yield f"{rater} marks nothing on any of {many(len(drawn), 'image')}: is this what the masks should say?"
        elif 2 * full > len(drawn):
            on = f"{full} of {len(drawn)} images"
            yield f"{rater} marks over {NEARLY_ALL:.0%} of the pixels on {on}: are the masks inverted?"


def _inverted_raters(data: RaterData, marks: Marks) -> Iterator[str]:
    """Masks that may be dark on white, of some raters or of all, unless their marked values were named."""
    drawn, shares = ~np.isnan(marks.shares), np.nan_to_num(marks.shares)
    number, inverted = drawn.sum(0), marks.inverted.sum(0)
    odd = (inverted > 0) & (2 * inverted >= number) & (2 * (shares > NEARLY_ALL).sum(0) <= number)
    if odd.all():  # of two raters each agrees better with the other's background: the one who marks more
        means = shares.sum(0) / number
        odd = means >= means.max()
    for rater in np.flatnonzero(odd):
        yield (
            f"The background of {data.raters[rater]} agrees better with the other raters than the marks, on "
            f"{inverted[rater]} of {number[rater]} images: if these are dark on white, say --folder.classes "
            f"'{{{data.raters[rater]}: [0]}}'."
        )
    if any(" marked" in data.values.get(rater, "") for rater in data.raters) or not len(data):
        return
    if (2 * marks.outside.sum(0) > number).all():
        yield (
            "The marks of every rater take most of the pixels and of the border on most images: if they are dark on "
            "white, say --folder.classes '[0]'."
        )
    usual = [share for share in shares[drawn & ~marks.outside].tolist() if share]
    most = {
        name: float(np.median(row[outside]))
        for name, row, outside, raters in zip(data.image_ids, shares, marks.outside, drawn.sum(1), strict=True)
        if outside.sum() > max(1, raters / 2)
    }
    odd_images = [f"{name} {share:.0%}" for name, share in most.items() if fits_inverted(share, usual)]
    if odd_images:
        yield (
            f"On {many(len(odd_images), 'image')} ({some_text(odd_images)}) most raters mark most of the border and of "
            f"the pixels, elsewhere {np.median(usual):.0%}: if these masks are inverted, correct the files."
        )


def _same_pictures(data: RaterData, *, splits: bool) -> Iterator[str]:
    ids: dict[bytes, list[int]] = {}
    for index, picture in enumerate(data.pictures):
        ids.setdefault(picture, []).append(index)
    same = [indices for indices in ids.values() if len(indices) > 1]
    split = data.manifest["split"].tolist()
    across = [indices for indices in same if splits and len({split[index] for index in indices}) > 1]
    if across:
        # One of each split: the first ids may all be of one.
        firsts = [sorted({split[i]: i for i in reversed(each)}.values()) for each in across[:3]]
        shown = "; ".join(" = ".join(f"{data.image_ids[i]} ({split[i]})" for i in each) for each in firsts)
        yield (
            f"{many(len(across), 'picture')} in several splits under different ids ({shown}): a model is tested on "
            "what it was trained on, and scores are too good. Remove the copies, or give them one group."
        )
    elif same:
        shown = "; ".join(" = ".join(data.image_ids[i] for i in each[:3]) for each in same[:3])
        yield f"{many(len(same), 'picture')} under several ids ({shown}): copies count more than once."


def _odd_splits(data: RaterData) -> Iterator[str]:
    if data.group_column is None:
        for column in ungrouped_columns(data.manifest):
            splits = data.manifest.groupby(column)["split"].nunique()
            apart = f"; {(splits > 1).sum()} of {len(splits)} are in several splits" if (splits > 1).any() else ""
            yield (
                f"Column {column!r} looks like patients, but images are not grouped by it{apart}. "
                f"Group them with --folder.group_column {column!r}, or name the column group."
            )
    single = [name for name in SPLITS if len(data.split(name)) == 1]
    if single:
        yield f"One image alone in {' and '.join(single)}: what is chosen or scored there says little."
