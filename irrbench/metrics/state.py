"""The state of a metric over images: self-describing rows of flat tensors.

Flat tensors have one width whatever the number of raters, so that a process that never saw a batch can take part in a
gathering, and string ids travel with them. An image's counts are a table of ``classes x splits x cells``: vote patterns
(cells) by prediction (splits, one without) and class, or marks and pixels (cells) by block (classes). Up to 11 raters
vote patterns are stored as they are; above, only those that occur. What other evidence than votes gives for an image
(:data:`irrbench.bounds.EVIDENCE`) is stored as it is, one number a field, candidate and fold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from irrbench.icc.area import BlockCounts
from irrbench.patterns import VotePatterns

ImageIds = Sequence[str | int] | Tensor
DENSE_RATERS = 11  # 32 KiB an image and class, with predictions
_CHUNK = 2**23  # counts made dense at a time
_WIDTH = 14
_ID, _ID_KIND, _NAME_LENGTH, _PRESENT, _RATERS, _CLASSES, _SPLITS, _CELLS, _UNUSABLE, _ENTRIES, *_ = range(_WIDTH)
_TABLE = slice(_CLASSES, _CELLS + 1)
_LABEL = slice(_ENTRIES + 1, _WIDTH)
_NO_ID, _NUMBER, _NAME = range(3)


class Rows(NamedTuple):
    """Flat tensors of ``n`` images; concatenating two gives the rows of both."""

    info: Tensor  # (n, 14) int64
    counts: Tensor  # int64, the images' counts one after another
    codes: Tensor  # int64, where only occurring patterns are stored: which
    names: Tensor  # uint8, the images' string ids one after another
    fields: Tensor  # float64, the images' other evidence one after another, as much for each

    @classmethod
    def empty(cls, device: torch.device) -> Rows:
        """No image."""
        numbers = torch.empty(0, dtype=torch.int64, device=device)
        return cls(numbers.view(0, _WIDTH), numbers, numbers.clone(), numbers.to(torch.uint8), numbers.double())


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
        classes: vote patterns, one set a class.
        image_id: ``B`` strings or integers, or none.
        unusable: ``(B,)`` whether predictions are not numbers.
        label: ``(B, 4)`` pixels by prediction and training label, see :class:`Images`.
        fields: ``(B, F)`` float64, other evidence.

    Raises:
        ValueError: if there are not as many ids as images.
    """
    first = classes[0]
    table = torch.stack([p.counts if p.has_preds else p.counts[:, None] for p in classes], 1)
    info, names = _describe(table, first.present, image_id)
    if unusable is not None:
        info[:, _UNUSABLE] = unusable
    if label is not None:
        info[:, _LABEL] = label
    counts = table.flatten(1)
    other = counts.new_empty(0, dtype=torch.float64) if fields is None else fields.to(counts.device).flatten()
    if first.num_raters <= DENSE_RATERS:
        return Rows(info, counts.flatten(), counts.new_empty(0), names, other)
    image, code = counts.nonzero(as_tuple=True)
    info[:, _ENTRIES] = counts.ne(0).sum(1)
    return Rows(info, counts[image, code], code, names, other)


def encode_blocks(blocks: BlockCounts, present: Tensor, *, image_id: ImageIds | None) -> Rows:
    """Rows of a batch cut into blocks.

    Args:
        blocks: marks by block and rater, whole numbers.
        present: ``(B, R)`` bool.
        image_id: ``B`` strings or integers, or none.

    Raises:
        ValueError: if there are not as many ids as images.
    """
    marked = blocks.marked * present.to(blocks.marked.device)[:, None]
    table = torch.cat([marked, blocks.total[:, :, None]], 2)[:, :, None]
    info, names = _describe(table, present, image_id)
    return Rows(info, table.flatten(), table.new_empty(0), names, table.new_empty(0, dtype=torch.float64))


def _describe(table: Tensor, present: Tensor, image_id: ImageIds | None) -> tuple[Tensor, Tensor]:
    """Info and names of images with these tables, ``(B, classes, splits, cells)``."""
    device, num_raters = table.device, present.shape[1]
    info = torch.zeros(len(table), _WIDTH, dtype=torch.int64, device=device)
    info[:, _PRESENT] = (present.to(device) * 2 ** torch.arange(num_raters, device=device)).sum(1)
    info[:, _RATERS], info[:, _ENTRIES] = num_raters, table[0].numel() if len(table) else 0
    for column, size in zip((_CLASSES, _SPLITS, _CELLS), table.shape[1:], strict=True):
        info[:, column] = size
    names = torch.empty(0, dtype=torch.uint8, device=device)
    if image_id is None:
        return info, names
    if len(image_id) != len(info):
        raise ValueError(f"`image_id` must hold one id an image: {len(info)} expected, {len(image_id)} found.")
    if isinstance(image_id, Tensor):
        info[:, _ID], info[:, _ID_KIND] = image_id.to(device), _NUMBER
        return info, names
    encoded = [str(i).encode() for i in image_id]
    lengths = torch.tensor([len(e) for e in encoded])
    info[:, _ID_KIND], info[:, _NAME_LENGTH] = _NAME, lengths.to(device, non_blocking=True)
    return info, torch.tensor(list(b"".join(encoded)), dtype=torch.uint8).to(device, non_blocking=True)


class Images(NamedTuple):
    """Some images, decoded."""

    image_ids: list[str]
    classes: tuple[VotePatterns, ...]
    label: Tensor  # (n, 4) pixels that neither, the prediction, the label, or both mark; zeros without a label
    fields: Tensor  # (n, F) other evidence


def decode(rows: Rows) -> Iterator[Images]:
    """The images of some rows, a bounded number at a time, repeated ids once.

    Raises:
        ValueError: if the number of raters or classes changes, a prediction was not a number, or an id comes again with
            other masks.
    """
    for ids, table, present, label, fields in _decode(rows):
        splits = table.unbind(1)
        patterns = (VotePatterns(c if c.shape[1] > 1 else c[:, 0], present.shape[1], present) for c in splits)
        yield Images(ids, tuple(patterns), label, fields)


def decode_blocks(rows: Rows) -> Iterator[tuple[list[str], BlockCounts, Tensor]]:
    """Ids, counts by block, and presence ``(n, R)`` of some rows of blocks, as :func:`decode`.

    Raises:
        ValueError: see :func:`decode`.
    """
    for ids, table, present, *_ in _decode(rows):
        yield ids, BlockCounts(table[:, :, 0, :-1], table[:, :, 0, -1]), present


def _decode(rows: Rows) -> Iterator[tuple[list[str], Tensor, Tensor, Tensor, Tensor]]:
    """Ids, tables ``(n, classes, splits, cells)``, presence, label and fields of images, each once, some at a time."""
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
    bad = [image_id for image_id, is_bad in zip(ids, info[:, _UNUSABLE].tolist(), strict=True) if is_bad]
    if bad:
        raise ValueError(
            f"Predictions must be finite (and lie in [0, 1] with from_logits=False): {len(bad)} of {len(ids)} images "
            f"have others, first {bad[0]!r}. Has the model diverged, is `from_logits` wrong?"
        )
    raters = int(info[0, _RATERS])
    fields = rows.fields.view(len(info), -1)
    kept = _first_of_each(rows, ids)
    chunk = max(1, _CHUNK // int(info[0, _TABLE].prod()))
    for start in range(0, len(kept), chunk):
        part = kept[start : start + chunk]
        present = (info[part, _PRESENT, None] >> torch.arange(raters)) & 1
        yield [ids[i] for i in part], _dense(rows, part), present.bool(), info[part, _LABEL], fields[part]


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


def _first_of_each(rows: Rows, ids: list[str]) -> list[int]:
    """Rows to keep: samplers fill up the last round of several processes by repeating images."""
    first: dict[str, int] = {}
    kept = []
    for row, (name, kind) in enumerate(zip(ids, rows.info[:, _ID_KIND].tolist(), strict=True)):
        if kind == _NO_ID or name not in first:
            kept.append(row)
            first.setdefault(name, row)
            continue
        again, before = _dense(rows, [row, first[name]]).sum(2)  # whatever the prediction
        if not torch.equal(again, before):
            raise ValueError(
                f"`image_id` {name!r} came twice with different masks: ids must be unique, and masks the same at each "
                "visit (no random crops or flips). Give unique ids, or none."
            )
    return kept
