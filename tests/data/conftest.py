"""A small, sound data folder that tests break in one place."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.data.toys import RATERS, SIZES, draw, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "study"
    for image_id, size in SIZES.items():
        pixels = np.random.default_rng(ord(image_id)).integers(0, 256, size, dtype=np.uint8)
        save(root / "images" / f"{image_id}.png", pixels)
        for rater in RATERS:
            save(root / "masks" / rater / f"{image_id}.png", draw(image_id, rater).astype(np.uint8) * 255)
    return root


@pytest.fixture
def real_data() -> Path:
    place = os.environ.get("IRRBENCH_TEST_DATA")
    if not place or not (Path(place) / "lidc").is_dir():
        pytest.skip("IRRBENCH_TEST_DATA names no folder with lidc/")
    return Path(place)
