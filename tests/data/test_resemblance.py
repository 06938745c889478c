"""A consensus among the raters, copied repeats and files of other images are said, and nothing of sound raters."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace

import numpy as np
import pytest

from irrbench.data import Predictions, RaterData, load_folder
from irrbench.data.overview import cautions, count_marks, model_cautions
from irrbench.data.rater_data import pack_masks

IMAGES, SIDE = 8, 30


def discs(raters=3, images=IMAGES):
    """Discs of which each rater draws the edge and the place a little otherwise, ``(N, R, H, W)``."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:SIDE, :SIDE]
    places = rng.permuted(np.tile(np.array([6, 9, 20, 23, 8, 22, 7, 21])[:images, None], 2), axis=0)
    masks = np.zeros((images, raters, SIDE, SIDE), bool)
    for i, r in np.ndindex(images, raters):
        down, right = places[i] + rng.normal(0, 0.5, 2)
        masks[i, r] = np.hypot(y - down, x - 0.8 * right) < rng.uniform(4, 5)
    return masks


def said(masks, **changes):
    data = RaterData.from_arrays([np.zeros((1, SIDE, SIDE))] * len(masks), list(masks))
    data = replace(data, **changes)
    return cautions(data, count_marks(data), splits=False)


def test_nothing_is_said_of_sound_raters():
    for raters in (2, 3, 4, 6):
        assert not said(discs(raters))


def majority(masks):
    return 2 * masks.sum(1) > masks.shape[1]


def ties_marked(masks):
    return 2 * masks.sum(1) >= masks.shape[1]


def weighted(masks):
    """The first rater counts as two, as STAPLE may have it: no majority of four."""
    return 2 * masks.sum(1) + masks[:, 0] > masks.shape[1]


@pytest.mark.parametrize(
    ("raters", "fold", "words"),
    [
        (3, majority, "the majority"),
        (4, majority, "the majority"),
        (4, ties_marked, "the majority (ties marked)"),
        (2, lambda masks: masks.any(1), "the union"),
        (3, lambda masks: masks.all(1), "the intersection"),
        (4, weighted, "decided by the votes"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_consensus_is_no_rater(raters, fold, words, first):
    masks = discs(raters)
    both = [fold(masks)[:, None], masks] if first else [masks, fold(masks)[:, None]]
    (line,) = said(np.concatenate(both, axis=1))
    names = [f"r{r + 1}" for r in range(raters + 1)]
    name = names.pop(0 if first else -1)
    # Where the votes decide as one rater alone would, that is no sign of a consensus.
    count = f"[6-{IMAGES}]" if fold is weighted else f"{IMAGES}"
    start = f"{name} is {re.escape(words)} of the others on {count} of {IMAGES} images where these differ: "
    assert re.match(start, line)
    assert line.endswith(f"Leave it out with --folder.raters '[{', '.join(names)}]'.")


def test_a_consensus_that_often_equals_one_rater_is_no_copy():
    y, x = np.mgrid[:SIDE, :SIDE]
    sizes = np.array([[4, 5, 6], [4, 6, 5], [6, 4, 5], [5, 4, 6], [4, 6, 5], [4, 5, 6], [6, 4, 5], [5, 6, 4]])
    masks = np.hypot(y - 15, x - 15) < sizes[..., None, None]  # nested: the majority is the middle one
    (line,) = said(np.concatenate([masks, majority(masks)[:, None]], axis=1))
    assert line.startswith(f"r4 is the majority of the others on {IMAGES} of {IMAGES} images where these differ: ")
    copied = masks.copy()
    copied[:, 2] = masks[:, 0]
    (line,) = said(copied)
    assert line.startswith(f"r3 is equal to r1 on {IMAGES} of {IMAGES} marked images")


@pytest.mark.parametrize("raters", [2, 3, 4])
def test_tiny_lesions_are_equal_by_chance(raters):
    rng = np.random.default_rng(7)
    masks = np.zeros((20, raters, SIDE, SIDE), bool)
    for i, r in np.ndindex(20, raters):
        masks[i, r, 9, i : i + 1 + rng.integers(0, 2)] = True
    data = RaterData.from_arrays([np.zeros((1, SIDE, SIDE))] * 20, list(masks))
    packed = tuple(pack_masks([mask[1]]) for mask in masks)
    data = replace(data, repeats=("r2@2",), repeated=packed)
    assert not cautions(data, count_marks(data), splits=False)


def repeated(masks, change):
    packed = tuple(pack_masks([change(i, mask[1])]) for i, mask in enumerate(masks))
    return said(masks, repeats=("r2@2",), repeated=packed)


def test_a_copied_repeat_is_said():
    (line,) = repeated(discs(), lambda _, mask: mask)
    assert line.startswith(f"r2@2 is equal to r2 on {IMAGES} of {IMAGES} marked images: ")
    (line,) = repeated(discs(), lambda i, mask: mask if i < 5 else np.roll(mask, 1, 0))
    assert f"on 5 of {IMAGES} marked" in line
    assert not repeated(discs(), lambda i, mask: mask if i < 3 else np.roll(mask, 1, 0))


def shifted_up(masks):
    return np.roll(masks, -1, axis=0)


def shifted_down(masks):
    return np.roll(masks, 1, axis=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shifted_up, "Are the files those of the next image?"),
        (shifted_down, "Are the files those of the previous image?"),
        (lambda masks: masks.transpose(0, 2, 1), "Are the masks transposed?"),
        (lambda masks: masks[:, ::-1], "Are the masks mirrored top to bottom?"),
        (lambda masks: masks[:, :, ::-1], "Are the masks mirrored left to right?"),
        (lambda masks: np.rot90(masks, axes=(1, 2)), "Are the masks turned or mirrored?"),
        (lambda masks: masks[[5, 3, 0, 7, 6, 1, 2, 4]], "Are the files those of other images, turned or mirrored?"),
    ],
)
@pytest.mark.parametrize("raters", [2, 4])
def test_who_agrees_with_nobody_is_said_and_why(change, words, raters):
    masks = discs(raters)
    masks[:, 1] = change(masks[:, 1].copy())
    (line,) = said(masks)
    name = "r2" if raters > 2 else "r[12]"
    assert re.match(f"{name} agrees with nobody: of the smaller mask ", line)
    if raters > 2:
        assert line.endswith(words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda masks: masks, None),
        (shifted_down, "Are the files those of the previous image?"),
        (lambda masks: masks.transpose(0, 2, 1), "Are the masks transposed?"),
        (lambda masks: masks[:, :, ::-1], "Are the masks mirrored left to right?"),
        (np.zeros_like, None),
        (lambda masks: np.random.default_rng(0).random(masks.shape) < 0.1, None),  # no model's files are at fault
    ],
)
def test_a_model_that_would_agree_if_it_were_turned_is_told_so(change, words):
    masks = discs(3)
    masks[:, 2, :2] = False
    predicted = change(np.roll(masks[:, 2], 1, 2))
    present = np.ones((IMAGES, 3), bool)
    present[0, 1] = False
    rois = [np.ones((SIDE, SIDE), bool)] * IMAGES
    data = RaterData.from_arrays([np.zeros((1, SIDE, SIDE))] * IMAGES, list(masks), present=present, rois=rois)
    packed = tuple(zlib.compress(np.packbits(mask).tobytes()) for mask in predicted)
    lines = model_cautions("net", Predictions(data, 0.5, packed))
    assert len(lines) == (words is not None)
    if words:
        assert lines[0].startswith("net agrees with nobody: of the smaller mask ")
        assert lines[0].endswith(words)


def test_volumes_are_turned_too():
    masks = np.zeros((4, 3, 10, 10, 6), bool)
    for i, r in np.ndindex(4, 3):
        masks[i, r, 1:4, 6 : 8 + r % 3, i : i + 2] = True
    masks[:, 2] = masks[:, 2].transpose(0, 2, 1, 3)
    data = RaterData.from_arrays([np.zeros((1, 10, 10, 6))] * 4, list(masks))
    (line,) = [line for line in cautions(data, count_marks(data), splits=False) if "nobody" in line]
    assert line.startswith("r3 agrees with nobody")
    assert line.endswith("Are the masks turned or mirrored?")


def test_a_rater_of_the_core_alone_agrees():
    masks = discs(3)
    core = masks[:, 2] & np.roll(masks[:, 2], 3, 1) & np.roll(masks[:, 2], -3, 1)
    masks[:, 2] = core & np.roll(core, 1, 2)
    assert not [line for line in said(masks) if "nobody" in line]


def test_real_raters_are_no_consensus_and_agree(real_data):
    for name in ("lidc", "lidc_mixed", "bubil"):
        data = load_folder(real_data / name, allow_missing=True, check_images=False, progress=False)
        lines = cautions(data, count_marks(data))
        assert not [line for line in lines if "nobody" in line or "of the others" in line or "is equal to" in line]
