"""Files in the layouts of public sets, made here, and an independent reading of what was written."""

import csv
import gzip
import io
from pathlib import Path

import numpy as np
from PIL import Image


def blob(shape, seed, *, share=0.2):
    """A rectangle somewhere, another one for each seed."""
    rng = np.random.default_rng(seed)
    height, width = (max(2, int(side * share**0.5)) for side in shape)
    top, left = (int(rng.integers(1, side - size - 1)) for side, size in zip(shape, (height, width), strict=True))
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def photo(shape, seed=0):
    return np.random.default_rng(seed).integers(30, 90, (*shape, 3), np.uint8)


def write(path, pixels, **options):
    """Pixels as the file's ending says; booleans become 0 and 255."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.asarray(pixels)
    pixels = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
    if path.name.lower().endswith(".gz"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PPM")
        path.write_bytes(gzip.compress(buffer.getvalue()))
    else:
        Image.fromarray(pixels).save(path, **options)
    return path


def written(root):
    """By rater and image, the masks of a data folder, read with Pillow alone."""
    return {
        (path.parent.name, path.stem): np.asarray(Image.open(path)) > 0
        for path in sorted((Path(root) / "masks").glob("*/*.png"))
    }


def rows(root):
    """The manifest's rows by image."""
    with (Path(root) / "manifest.csv").open(newline="") as file:
        return {row["image_id"]: row for row in csv.DictReader(file)}


def same(found, made):
    """Whether two dictionaries of masks hold the same keys and pixels."""
    assert set(found) == set(made)
    return all(np.array_equal(found[key], made[key]) for key in made)
