"""The whole way from files: decoding, counting, scoring, beside Pillow and torchmetrics."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from irrbench.bounds import segmentation_bounds
from irrbench.scores import DEFAULT_SCORES
from studies.performance.bounds import WHO, by_torchmetrics
from studies.performance.images import Images
from studies.performance.timing import Budget, Row, compare

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_IMAGES = 24


def rows(budget: Budget) -> Iterator[Row]:
    """A folder of images, masks and predictions, to scores per image."""
    with tempfile.TemporaryDirectory() as folder:
        yield _row(_write(Path(folder), Images.draw(num_images=NUM_IMAGES)), budget)


def _row(root: Path, budget: Budget) -> Row:
    found, expected = _ours(root), _peer(root)
    equal = all(torch.allclose(found[key], expected[key], atol=1e-6) for key in expected)
    few = Budget(min(budget.repeats, 5), budget.seconds)
    row = compare(
        "files to scores: decode, count, 4 candidates x 5 scores",
        f"{NUM_IMAGES} x 4 x 512 x 512, png",
        ours=lambda: _ours(root),
        peer=lambda: _peer(root),
        peer_name="Pillow + torchmetrics",
        equal=equal,
        budget=few,
    )
    return replace(row, note=f"{NUM_IMAGES / row.ours:.0f} images a second")


def _ours(root: Path) -> dict[tuple[str, str], torch.Tensor]:
    from irrbench.data import load_folder, load_predictions  # noqa: PLC0415
    from irrbench.patterns import VotePatterns  # noqa: PLC0415

    data = load_folder(root / "data", progress=False, check_images=False)
    predictions = load_predictions(root / "predictions", data, progress=False)
    counts = []
    for index in range(len(data)):
        roi = data.roi(index)
        patterns = VotePatterns.from_masks(
            torch.from_numpy(data.masks(index))[None],
            roi=None if roi is None else torch.from_numpy(roi)[None],
            preds=torch.from_numpy(predictions.prediction(index))[None],
        )
        counts.append(patterns.counts)
    bounds = segmentation_bounds(VotePatterns.from_counts(torch.cat(counts), num_raters=len(data.raters)))
    return {(who, score): getattr(bounds, who)[score] for who in WHO for score in DEFAULT_SCORES}


def _peer(root: Path) -> dict[tuple[str, str], torch.Tensor]:
    names = sorted(path.name for path in (root / "data" / "images").iterdir())
    raters = sorted((root / "data" / "masks").iterdir())
    scores: dict[tuple[str, str], list[torch.Tensor]] = {}
    for name in names:
        masks, roi, preds = (
            torch.from_numpy(np.array(part))
            for part in (
                [_read(rater / name) for rater in raters],
                _read(root / "data" / "roi" / name),
                _read(root / "predictions" / name),
            )
        )
        for key, value in by_torchmetrics(Images(masks[None], roi[None], preds[None])).items():
            scores.setdefault(key, []).append(value.double().reshape(-1))
    return {key: torch.cat(values) for key, values in scores.items()}


def _read(path: Path) -> NDArray[np.bool_]:
    with Image.open(path) as picture:
        return np.asarray(picture) > 0


def _write(root: Path, images: Images) -> Path:
    """The folder format of :mod:`irrbench.data.folder`, and a folder of predictions beside it."""
    for i in range(len(images.masks)):
        planes = {f"data/masks/r{r}": images.masks[i, r] for r in range(images.masks.shape[1])}
        planes |= {"data/images": images.roi[i], "data/roi": images.roi[i], "predictions": images.preds[i]}
        for folder, plane in planes.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(plane.numpy().astype(np.uint8) * 255).save(root / folder / f"{i:04d}.png")
    return root
