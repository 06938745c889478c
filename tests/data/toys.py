"""What the toy folder of the tests holds, and how it is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

RATERS = ("anna", "ben", "cem")
SIZES = {"a": (12, 20), "b": (16, 8), "c": (9, 11), "d": (12, 20), "e": (7, 30)}


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


def draw(image_id: str, rater: str) -> np.ndarray:
    rng = np.random.default_rng([ord(image_id), len(rater), ord(rater[0])])
    return rng.random(SIZES[image_id]) < 0.4
