"""Files are opened once: images and masks of a folder, and predictions whatever is asked of them afterwards."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

from irrbench.data import choose_threshold, load_folder, load_predictions
from tests.data.toys import RATERS, SIZES, draw, save

SPLITS = "image_id,split\na,val\nb,val\nc,train\nd,val\ne,test\n"
_listeners = []
sys.addaudithook(lambda event, args: [listen(args[0]) for listen in _listeners] if event == "open" else None)


@contextmanager
def counted(root):
    """How often each file below ``root`` is opened meanwhile, by its name from there."""
    counts = Counter()

    def listen(path):
        if isinstance(path, str) and path.startswith(f"{root}/"):
            counts[path.removeprefix(f"{root}/")] += 1

    _listeners.append(listen)
    try:
        yield counts
    finally:
        _listeners.remove(listen)


def write(path, probability):
    if path.name.endswith((".nii", ".nii.gz")):
        nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
        nib.save(nib.Nifti1Image(probability.astype(np.float32), np.eye(4)), path)
    elif path.suffix == ".npz":
        np.savez_compressed(path, probabilities=np.stack([1 - probability, probability]))
    elif path.suffix == ".npy":
        np.save(path, probability)
    else:
        save(path, np.round(probability * 255).astype(np.uint8))


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg", ".npy", ".npz", ".nii", ".nii.gz"])
def test_each_prediction_file_is_opened_once(folder, tmp_path, ending):
    (folder / "manifest.csv").write_text(SPLITS)
    data = load_folder(folder)
    root = tmp_path / "net"
    root.mkdir()
    for image_id, size in SIZES.items():
        write(root / f"{image_id}{ending}", 0.7 * draw(image_id, "anna") + 0.2 * np.random.default_rng(0).random(size))
    with counted(root) as counts:
        chosen = choose_threshold(root, data)
        predictions = load_predictions(root, data, split="test", threshold=chosen.threshold)
        first = predictions.prediction(0)
    assert counts == {f"{image_id}{ending}": 1 for image_id in "abde"}
    shutil.rmtree(root)
    np.testing.assert_array_equal(predictions.prediction(0), first)
    assert first.shape == SIZES["e"]


def test_each_file_of_a_folder_is_opened_once_and_an_image_again_when_it_is_asked_for(folder):
    save(folder / "masks" / "anna@2" / "a.png", draw("a", "ben"))
    for image_id, size in SIZES.items():
        save(folder / "roi" / f"{image_id}.png", np.ones(size, np.uint8))
    places = ("images", "roi", *(f"masks/{rater}" for rater in RATERS))
    with counted(folder) as counts:
        data = load_folder(folder)
    assert counts == {"masks/anna@2/a.png": 1} | {
        f"{place}/{image_id}.png": 1 for place in places for image_id in SIZES
    }
    with counted(folder) as counts:
        data.image(0)
        data.masks(0)
        data.roi(0)
        data.drawings(0, "anna")
    assert counts == {"images/a.png": 1}
