"""What it costs, side by side with what it could cost: every row is measured in the same run, results compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torchmetrics.functional import classification as peer

from irrbench.bounds import Bounds, segmentation_bounds
from irrbench.patterns import VotePatterns
from irrbench.scores import DEFAULT_SCORES


@dataclass(frozen=True)
class Row:
    """One comparison; times are medians in seconds."""

    task: str
    size: str
    ours: float
    peer_name: str
    peer: float
    equal: bool
    gigabytes: float  # read from the masks, region of interest and prediction

    @property
    def ratio(self) -> float:
        """How many times our time the peer takes."""
        return self.peer / self.ours


@dataclass(frozen=True)
class Images:
    """Masks ``(B, R, H, W)``, region of interest and prediction ``(B, H, W)``, all bool."""

    masks: Tensor
    roi: Tensor
    preds: Tensor

    @classmethod
    def draw(cls, *, num_images: int, num_raters: int, side: int, seed: int = 0) -> Images:
        """Lesions of a fifth of the image, whose raters differ at the edge."""
        g = torch.Generator().manual_seed(seed)
        axis = torch.linspace(-1, 1, side)
        radius = (axis[:, None] ** 2 + axis**2).sqrt()
        limits = 0.5 + 0.05 * torch.randn(num_images, num_raters + 1, 1, 1, generator=g)
        drawn = radius < limits
        roi = (radius < 0.95).expand(num_images, -1, -1).contiguous()
        return cls(drawn[:, :num_raters].contiguous(), roi, drawn[:, -1].contiguous())

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """All three."""
        return self.masks, self.roi, self.preds

    def count(self) -> VotePatterns:
        """What is measured."""
        return VotePatterns.from_masks(self.masks, roi=self.roi, preds=self.preds)


def measure(*, repeats: int = 20) -> Iterator[Row]:
    """Measure row by row, on one thread.

    Args:
        repeats: measurements a side, of which the median counts; a tenth for slow peers.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for num_raters in (2, 4, 6):
            yield _counting(Images.draw(num_images=8, num_raters=num_raters, side=512), repeats)
        images = Images.draw(num_images=8, num_raters=4, side=512)
        for name, cast in (("uint8 0/255", _to_bytes), ("float 0/1", Tensor.float)):
            yield _counting(Images(*(cast(part) for part in images.parts)), repeats, name)
        yield _bounds(images, repeats)
    finally:
        torch.set_num_threads(threads)


def to_table(rows: list[Row]) -> Table:
    """The rows for a terminal."""
    table = Table(
        "task", "size", "ours", "GB/s", "peer", "peer's time", "peer / ours", "equal", title="One thread, CPU"
    )
    for row in rows:
        table.add_row(
            row.task,
            row.size,
            f"{row.ours * 1e3:.2f} ms",
            f"{row.gigabytes / row.ours:.2f}",
            row.peer_name,
            f"{row.peer * 1e3:.2f} ms",
            f"{row.ratio:.3g}",
            "yes" if row.equal else "NO",
        )
    return table


def median_seconds(action: Callable[[], Any], repeats: int) -> float:
    """Median time of a call, after one that does not count."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _counting(images: Images, repeats: int, dtype: str = "bool") -> Row:
    copies = [torch.empty_like(part) for part in images.parts]

    def copy() -> None:
        for target, part in zip(copies, images.parts, strict=True):
            target.copy_(part)

    expected = Images(*(part.bool() for part in images.parts)).count().counts
    size = f"{' x '.join(map(str, images.masks.shape))} {dtype}"
    gigabytes = sum(part.numel() * part.element_size() for part in images.parts) / 1e9
    equal = torch.equal(images.count().counts, expected) and int(expected.sum()) == int(images.roi.bool().sum())
    ours, theirs = median_seconds(images.count, repeats), median_seconds(copy, repeats)
    return Row("count vote patterns", size, ours, "plain copy", theirs, equal, gigabytes)


def _bounds(images: Images, repeats: int) -> Row:
    def ours() -> Bounds:
        return segmentation_bounds(images.count())

    theirs = _by_torchmetrics(images)
    found = ours()
    equal = all(
        torch.allclose(getattr(found, who)[score], theirs[who, score].double(), atol=1e-6)
        for who in ("floor", "ceiling", "upper", "model")
        for score in DEFAULT_SCORES
    )
    peer_time = median_seconds(lambda: _by_torchmetrics(images), max(1, repeats // 10))
    gigabytes = sum(part.numel() for part in images.parts) / 1e9
    size = " x ".join(map(str, images.masks.shape))
    return Row(
        "floor + ceiling + upper + model, 5 scores",
        size,
        median_seconds(ours, repeats),
        "torchmetrics",
        peer_time,
        equal,
        gigabytes,
    )


def _by_torchmetrics(images: Images) -> dict[tuple[str, str], Tensor]:
    """The same scores, composed of torchmetrics' functions on the same references, its input checks off."""
    functions: dict[str, Callable[..., Tensor]] = {
        "iou": peer.binary_jaccard_index,
        "accuracy": peer.binary_accuracy,
        "tpr": peer.binary_recall,
        "ppv": peer.binary_precision,
        "f1": peer.binary_f1_score,
    }
    masks, roi, num_raters = images.masks, images.roi, images.masks.shape[1]
    votes = masks.sum(1)
    whole = 2 * votes > num_raters
    folds: dict[tuple[str, str], list[Tensor]] = {}
    for r in range(num_raters):
        reference = torch.where(roi, (2 * (votes - masks[:, r].long()) > num_raters - 1).long(), -1)
        for who, candidate in (("floor", roi), ("ceiling", masks[:, r]), ("upper", whole), ("model", images.preds)):
            for score, function in functions.items():
                folds.setdefault((who, score), []).append(_samplewise(function, score, candidate.long(), reference))
    return {key: torch.stack(values).mean(0) for key, values in folds.items()}


def _samplewise(function: Callable[..., Tensor], score: str, candidate: Tensor, reference: Tensor) -> Tensor:
    options: dict[str, Any] = {"ignore_index": -1, "validate_args": False}
    if score == "iou":  # has no samplewise form
        return torch.stack([function(c, r, **options) for c, r in zip(candidate, reference, strict=True)])
    return function(candidate, reference, multidim_average="samplewise", **options)


def _to_bytes(part: Tensor) -> Tensor:
    return part.to(torch.uint8) * 255
