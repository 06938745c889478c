"""A small study: bright disks, which three raters outline with circles of different sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

RATERS = ("anna", "ben", "cem")
SPLITS = {"train": 8, "val": 3, "test": 5}
SIZE = (32, 40)


def ids(split: str) -> list[str]:
    return [f"{split}{i}" for i in range(SPLITS[split])]


def disk(image_id: str, wider: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(list(image_id.encode()))
    y, x = rng.integers(10, 22), rng.integers(10, 30)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.hypot(rows - y, columns - x) < rng.uniform(4, 7) + wider


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_study(root: Path, *, manifest: bool = True, raters: tuple[str, ...] = RATERS) -> Path:
    rows = ["image_id,split,group"]
    for split in SPLITS:
        for number, image_id in enumerate(ids(split)):
            noise = np.random.default_rng(list(image_id.encode())).integers(0, 60, SIZE)
            save(root / "images" / f"{image_id}.png", (noise + 150 * disk(image_id)).astype(np.uint8))
            for r, rater in enumerate(raters):
                save(root / "masks" / rater / f"{image_id}.png", disk(image_id, r - 1.0).astype(np.uint8) * 255)
            rows.append(f"{image_id},{split},{split}-patient{number // 2}")
    if manifest:
        (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


def write_predictions(folder: Path, image_ids: list[str], *, wider: float = 0.5) -> Path:
    for image_id in image_ids:
        save(folder / f"{image_id}.png", disk(image_id, wider).astype(np.uint8) * 255)
    return folder
