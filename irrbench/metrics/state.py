"""The state of a metric over images: self-describing rows of flat tensors.

Flat tensors have one width whatever the number of raters, so that a process that never saw a batch can take part in a
gathering, and string ids travel with them. An image's counts are a table of ``classes x splits x cells``: vote patterns
(cells) by prediction (splits, one without) and class, or marks and pixels (cells) by block (classes). Up to 11 raters
vote patterns are stored as they are; above, only those that occur. What other evidence than votes gives for an image
(:data:`irrbench.evidence.EVIDENCE`) is stored as it is, one number a field, candidate and fold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from irrbench.icc.area import BlockCounts
from irrbench.patterns import VotePatterns

ImageIds = Sequence[str | int] | Tensor
Aggregate = Literal["image"] | Callable[[str], str] | None
DENSE_RATERS = 11  # 32 KiB an image and class, with predictions
_DENSE_CELLS = 2**13  # of an image and class, where predictions have levels: 64 KiB
_CHUNK = 2**23  # counts made dense at a time
_WIDTH = 15
_ID, _ID_KIND, _NAME_LENGTH, _PRESENT, _RATERS, _CLASSES, _SPLITS, _CELLS, _UNUSABLE, _ENTRIES, _DIGEST, *_ = range(
    _WIDTH
)
_TABLE = slice(_CLASSES, _CELLS + 1)
_LABEL = slice(_DIGEST + 1, _WIDTH)
_NO_ID, _NUMBER, _NAME = range(3)


class Rows(NamedTuple):
    """Flat tensors of ``n`` images; concatenating two gives the rows of both."""

    info: Tensor  # (n, 15) int64
    counts: Tensor  # int64, the images' counts one after another
    codes: Tensor  # int64, where only occurring patterns are stored: which
    names: Tensor  # uint8, the images' string ids one after another
    fields: Tensor  # float64, the images' other evidence one after another, as much for each

    @classmethod
    def empty(cls, device: torch.device) -> Rows:
        """No image."""
        numbers = torch.empty(0, dtype=torch.int64, device=device)
        return cls(numbers.view(0, _WIDTH), numbers, numbers.clone(), numbers.to(torch.uint8), numbers.double())

    @property
    def digests(self) -> Tensor:
        """``(n,)`` int64, what tells the images' masks apart, see :attr:`irrbench.VotePatterns.digest`."""
        return self.info[:, _DIGEST]


def encode(
    classes: Sequence[VotePatterns],
    *,
    image_id: ImageIds | None,
    unusable: Tensor | None = None,
    label: Tensor | None = None,
    fields: Tensor | None = None,
) -> Rows:
    """Rows of a batch.

    Args:
        classes: vote patterns with a digest, one set a class.
        image_id: ``B`` strings or integers, or none.
        unusable: ``(B,)`` whether predictions are not numbers.
        label: ``(B, 4)`` pixels by prediction and training label, see :class:`Images`.
        fields: ``(B, F)`` float64, other evidence.

    Raises:
        ValueError: if there are not as many ids as images.
    """
    first = classes[0]
    table = torch.stack([p.counts if p.has_preds else p.counts[:, None] for p in classes], 1)
    digests = [p.digest for p in classes if p.digest is not None]
    digest = sum(((2 * c + 1) * digest for c, digest in enumerate(digests[1:], 1)), digests[0]) if digests else 0
    info, names = _describe(table, first.present, image_id, digest)
    if unusable is not None:
        info[:, _UNUSABLE] = unusable
    if label is not None:
        info[:, _LABEL] = label
    counts = table.flatten(1)
    other = counts.new_empty(0, dtype=torch.float64) if fields is None else fields.to(counts.device).flatten()
    if first.num_raters <= DENSE_RATERS and first.num_levels << first.num_raters <= _DENSE_CELLS:
        return Rows(info, counts.flatten(), counts.new_empty(0), names, other)
    image, code = counts.nonzero(as_tuple=True)
    info[:, _ENTRIES] = counts.ne(0).sum(1)
    return Rows(info, counts[image, code], code, names, other)


def encode_blocks(blocks: BlockCounts, present: Tensor, *, image_id: ImageIds | None, digest: Tensor) -> Rows:
    """Rows of a batch cut into blocks.

    Args:
        blocks: marks by block and rater, whole numbers.
        present: ``(B, R)`` bool.
        image_id: ``B`` strings or integers, or none.
        digest: ``(B,)`` of the masks.

    Raises:
        ValueError: if there are not as many ids as images.
    """
    marked = blocks.marked * present.to(blocks.marked.device)[:, None]
    table = torch.cat([marked, blocks.total[:, :, None]], 2)[:, :, None]
    info, names = _describe(table, present, image_id, digest)
    return Rows(info, table.flatten(), table.new_empty(0), names, table.new_empty(0, dtype=torch.float64))


def _describe(table: Tensor, present: Tensor, image_id: ImageIds | None, digest: Tensor | int) -> tuple[Tensor, Tensor]:
    """Info and names of images with these tables, ``(B, classes, splits, cells)``."""
    size, device, num_raters = len(table), table.device, present.shape[1]
    row = [0] * _WIDTH
    row[_RATERS], row[_TABLE], row[_ENTRIES] = num_raters, table.shape[1:], math.prod(table.shape[1:])
    row[_ID_KIND] = _NO_ID if image_id is None else _NUMBER if isinstance(image_id, Tensor) else _NAME
    info = torch.tensor(row).to(device, non_blocking=True).expand(size, -1).clone()
    info[:, _PRESENT] = code = (present.to(device) * _bits(num_raters, device)).sum(1)
    info[:, _DIGEST] = digest + code  # an absent rater is not one who marks nothing
    names = torch.empty(0, dtype=torch.uint8, device=device)
    if image_id is None:
        return info, names
    if len(image_id) != size:
        raise ValueError(f"`image_id` must hold one id an image: {size} expected, {len(image_id)} found.")
    if isinstance(image_id, Tensor):
        info[:, _ID] = image_id.to(device)
        return info, names
    encoded = [name.encode() for name in image_names(image_id)]
    info[:, _NAME_LENGTH] = torch.tensor([len(name) for name in encoded]).to(device, non_blocking=True)
    return info, torch.tensor(list(b"".join(encoded)), dtype=torch.uint8).to(device, non_blocking=True)


@lru_cache(maxsize=64)
def _bits(num_raters: int, device: torch.device) -> Tensor:
    return 2 ** torch.arange(num_raters, device=device)


def image_names(image_id: ImageIds) -> list[str]:
    """The ids of a batch as text; waits for their device."""
    return [str(i) for i in (image_id.tolist() if isinstance(image_id, Tensor) else image_id)]


def came_again(name: str) -> ValueError:
    """The error for an id that comes again with other masks."""
    return ValueError(
        f"`image_id` {name!r} came twice with different masks (or another region of interest or spacing). Patches: "
        'give each an `image_id` of its own, or pass `aggregate="image"` to add their counts. Random crops or flips: '
        "score whole images, or fixed patches."
    )


class Images(NamedTuple):
    """Some images, decoded."""

    image_ids: list[str]
    classes: tuple[VotePatterns, ...]
    label: Tensor  # (n, 4) pixels that neither, the prediction, the label, or both mark; zeros without a label
    fields: Tensor  # (n, F) other evidence
    unusable: Tensor  # (n,) bool, whether predictions are no numbers
    digests: list[int]


class _Decoded(NamedTuple):
    """Some images: their names, their rows added."""

    names: list[str]
    table: Tensor  # (n, classes, splits, cells)
    present: Tensor  # (n, R)
    info: Tensor  # (n, 15)
    fields: Tensor  # (n, F)


def decode(rows: Rows, aggregate: Aggregate = None) -> Iterator[Images]:
    """The images of some rows, a bounded number at a time, repeated ids once.

    Args:
        rows: of all processes.
        aggregate: see :class:`irrbench.metrics.base.PatternsMetric`.

    Raises:
        ValueError: if the number of raters or classes changes, or an id comes again with other masks or raters.
    """
    for found in _decode(rows, aggregate):
        present = found.present
        splits = found.table.unbind(1)
        patterns = (VotePatterns(c if c.shape[1] > 1 else c[:, 0], present.shape[1], present) for c in splits)
        info = found.info
        unusable = info[:, _UNUSABLE] > 0
        yield Images(found.names, tuple(patterns), info[:, _LABEL], found.fields, unusable, info[:, _DIGEST].tolist())


def decode_blocks(rows: Rows) -> Iterator[tuple[list[str], BlockCounts, Tensor]]:
    """Ids, counts by block, and presence ``(n, R)`` of some rows of blocks, as :func:`decode`.

    Raises:
        ValueError: see :func:`decode`.
    """
    for found in _decode(rows, None):
        yield found.names, BlockCounts(found.table[:, :, 0, :-1], found.table[:, :, 0, -1]), found.present


def _decode(rows: Rows, aggregate: Aggregate) -> Iterator[_Decoded]:
    """Images, each once, some at a time."""
    rows = Rows(*(x.cpu() for x in rows))
    info = rows.info
    if not len(info):
        return
    for column, word in ((_RATERS, "raters"), (_CLASSES, "classes (or blocks)")):
        found = info[:, column].unique().tolist()
        if len(found) > 1:
            raise ValueError(
                f"All batches must have the same number of {word}, found {found}. "
                "Pad the masks to the largest number of raters and say by `present` who rated which image."
            )
    ids = _decode_ids(info, rows.names)
    raters = int(info[0, _RATERS])
    fields = rows.fields.view(len(info), -1)
    groups = _rows_by_image(rows, ids, aggregate)
    names = list(groups)
    chunk = max(1, _CHUNK // int(info[0, _TABLE].prod()))
    for start in range(0, len(names), chunk):
        part = names[start : start + chunk]
        first = torch.tensor([groups[name][0] for name in part])
        table, sums, own = _dense(rows, first.tolist()), info[first], fields[first]
        for place, name in enumerate(part):
            others = groups[name][1:]
            if not others:
                continue
            for begin in range(0, len(others), chunk):
                table[place] += _dense(rows, others[begin : begin + chunk]).sum(0)
            sums[place, _UNUSABLE:] += info[others, _UNUSABLE:].sum(0)
            own[place] += fields[others].sum(0)
        present = (sums[:, _PRESENT, None] >> torch.arange(raters)) & 1
        yield _Decoded(part, table, present.bool(), sums, own)


def _dense(rows: Rows, part: Sequence[int]) -> Tensor:
    """Tables of some images, ``(len(part), classes, splits, cells)``."""
    shape = tuple(rows.info[0, _TABLE].tolist())
    if rows.counts.numel() == len(rows.info) * math.prod(shape):
        return rows.counts.view(-1, *shape)[list(part)]
    dense = torch.zeros(len(part), math.prod(shape), dtype=torch.int64)
    ends = rows.info[:, _ENTRIES].cumsum(0)
    for place, i in enumerate(part):
        entries = slice(int(ends[i] - rows.info[i, _ENTRIES]), int(ends[i]))
        dense[place, rows.codes[entries]] = rows.counts[entries]
    return dense.view(-1, *shape)


def _decode_ids(info: Tensor, names: Tensor) -> list[str]:
    text, begin, ids = bytes(names.numpy()), 0, []
    for row, (number, kind, length) in enumerate(info[:, : _NAME_LENGTH + 1].tolist()):
        ids.append({_NO_ID: f"#{row}", _NUMBER: str(number)}.get(kind) or text[begin : begin + length].decode())
        begin += length
    return ids


def _rows_by_image(rows: Rows, ids: list[str], aggregate: Aggregate) -> dict[str, list[int]]:
    """The rows of each image: one, or those of its patches.

    Samplers fill up the last round of several processes by repeating images: what comes again counts once.
    """
    images: dict[str, list[int]] = {}
    for row in range(len(ids)) if aggregate == "image" else _first_of_each(rows, ids):
        images.setdefault(aggregate(ids[row]) if callable(aggregate) else ids[row], []).append(row)
    for name, group in images.items():
        if len(group) > 1 and len(rows.info[group, _PRESENT].unique()) > 1:
            raise ValueError(
                f"All patches of an image must have the same raters; those of {name!r} have others by `present`. "
                "A rater who saw a part only is absent from the whole image."
            )
    return images


def _first_of_each(rows: Rows, ids: list[str]) -> list[int]:
    first: dict[str, int] = {}
    for row, name in enumerate(ids):
        before = first.setdefault(name, row)
        if before == row:
            continue
        again, known = _dense(rows, [row, before]).sum(2)  # whatever the prediction
        if rows.digests[row] != rows.digests[before] or not torch.equal(again, known):
            raise came_again(name)
    return list(first.values())
