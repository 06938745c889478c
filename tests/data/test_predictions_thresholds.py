"""The threshold chosen on validation images, against cutting and scoring at each candidate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from irrbench import VotePatterns, segmentation_bounds
from irrbench.data import DataError, load_folder, load_predictions
from irrbench.data.predictions import choose_threshold
from irrbench.scores import SCORES, Score
from tests.data.toys import SIZES, draw, save

SPLITS = "image_id,split\na,val\nb,val\nc,train\nd,val\ne,test\n"
CANDIDATES = (0.1, 0.25, 0.3, 0.5, 0.55, 0.8)
KINDS = {
    "float64": lambda p: p,
    "float32": lambda p: p.astype(np.float32),
    "float16": lambda p: p.astype(np.float16),
    "8 bit": lambda p: np.round(p * 255).astype(np.uint8),
    "16 bit": lambda p: np.round(p * 65535).astype(np.uint16),
}


@pytest.fixture
def data(folder):
    (folder / "manifest.csv").write_text(SPLITS)
    return load_folder(folder)


def maps(root, kind="float64"):
    """Probabilities that follow the first rater; many of them lie exactly on candidates."""
    for image_id in SIZES:
        noise = np.random.default_rng(ord(image_id)).choice([*CANDIDATES, 0.0, 1.0], SIZES[image_id])
        probability = 0.6 * draw(image_id, "anna") * noise + 0.4 * noise
        save(root / f"{image_id}.npy", KINDS[kind](np.where(noise > 0.25, probability, noise)))
    return root


def mean_score(root, data, threshold, *, score="iou", **rules):
    """Slowly: masks at this threshold, scored image by image."""
    predictions = load_predictions(root, data, split="val", threshold=threshold)
    values = []
    for i in range(len(predictions)):
        roi = predictions.data.roi(i)
        patterns = VotePatterns.from_masks(
            torch.from_numpy(predictions.data.masks(i))[None],
            preds=torch.from_numpy(predictions.prediction(i))[None],
            roi=None if roi is None else torch.from_numpy(roi)[None],
            present=torch.from_numpy(predictions.data.present(i))[None],
        )
        values.append(float(segmentation_bounds(patterns, (score,), **rules).model[score]))
    return np.nanmean(values)


@pytest.mark.parametrize("kind", KINDS)
def test_means_are_those_of_cutting_at_each_candidate(data, tmp_path, kind):
    root = maps(tmp_path / "net", kind)
    found = choose_threshold(root, data, candidates=CANDIDATES)
    expected = [mean_score(root, data, threshold) for threshold in CANDIDATES]
    np.testing.assert_allclose(found.means, expected, rtol=1e-12)
    assert found.threshold == CANDIDATES[int(np.argmax(expected))]
    assert found.score == pytest.approx(max(expected))
    assert found.images == 3


@pytest.mark.parametrize("rules", [{"ties": "exclude"}, {"ties": "positive", "empty_reference": "score"}])
@pytest.mark.parametrize("score", ["f1", "accuracy"])
def test_rules_scores_regions_and_absent_raters_count(folder, tmp_path, score, rules):
    (folder / "manifest.csv").write_text(SPLITS)
    (folder / "masks" / "ben" / "b.png").unlink()
    for image_id, size in SIZES.items():
        roi = np.zeros(size, np.uint8)
        roi[1:6] = 1
        save(folder / "roi" / f"{image_id}.png", roi)
    data = load_folder(folder, allow_missing=True)
    root = maps(tmp_path / "net")
    found = choose_threshold(root, data, score=score, candidates=CANDIDATES, **rules)
    expected = [mean_score(root, data, threshold, score=score, **rules) for threshold in CANDIDATES]
    np.testing.assert_allclose(found.means, expected, rtol=1e-12)


def test_of_a_score_whose_lower_values_are_better_the_lowest_is_chosen(data, tmp_path, monkeypatch):
    def wrong(table):
        return (table.fp + table.fn) / table.positives

    record = Score("wrong", "Wrong pixels", wrong, higher_is_better=False, range=(0, np.inf), needs_positives=True)
    monkeypatch.setitem(SCORES, "wrong", record)
    found = choose_threshold(maps(tmp_path / "net"), data, score="wrong", candidates=CANDIDATES)
    expected = [mean_score(tmp_path / "net", data, threshold, score="wrong") for threshold in CANDIDATES]
    np.testing.assert_allclose(found.means, expected, rtol=1e-12)
    assert found.threshold == CANDIDATES[int(np.argmin(expected))]
    assert found.score == found.means.min() < found.means.max()


def test_of_equals_the_nearest_to_a_half_is_taken(data, tmp_path):
    for image_id in SIZES:
        save(tmp_path / "net" / f"{image_id}.npy", np.where(draw(image_id, "anna"), 0.9, 0.05))
    found = choose_threshold(tmp_path / "net", data)
    assert found.threshold == 0.5
    assert len(found.means) == 99
    np.testing.assert_allclose(found.means[4:89], found.score)  # .05 to .89 cut alike: a value at the threshold is out
    assert found.means[89:].max() < found.score


def test_images_that_are_scored_later_have_no_say(data, tmp_path):
    root = maps(tmp_path / "net")
    before = choose_threshold(root, data)
    save(root / "e.npy", np.ones(SIZES["e"]))
    (root / "c.npy").unlink()
    after = choose_threshold(root, data)
    np.testing.assert_array_equal(before.means, after.means)


def test_masks_have_no_threshold(data, tmp_path):
    for image_id in SIZES:
        save(tmp_path / "net" / f"{image_id}.png", draw(image_id, "anna"))
    with pytest.raises(DataError, match=r"net: found masks alone; .* Remedy: give a threshold"):
        choose_threshold(tmp_path / "net", data)


def test_what_is_missing_is_named(data, folder, tmp_path):
    root = maps(tmp_path / "net")
    (root / "b.npy").unlink()
    with pytest.raises(
        DataError,
        match=r"net/b: found no file; expected a prediction for each val image, as .* Remedy: add it, or give",
    ):
        choose_threshold(root, data)
    (folder / "manifest.csv").write_text(SPLITS.replace("val", "train"))
    with pytest.raises(DataError, match="found no val image; expected images to choose on"):
        choose_threshold(root, load_folder(folder))


def test_no_defined_score_is_no_choice(folder, tmp_path):
    for path in (folder / "masks").rglob("*.png"):
        save(path, np.zeros(SIZES[path.stem], np.uint8))
    (folder / "manifest.csv").write_text(SPLITS)
    with pytest.raises(DataError, match="found no image with a defined iou"):
        choose_threshold(maps(tmp_path / "net"), load_folder(folder))


@pytest.mark.parametrize("candidates", [(), (0.5, 0.4), (0.0, 0.5), (0.5, 1.0), (0.5, 0.5)])
def test_candidates_are_checked(data, tmp_path, candidates):
    with pytest.raises(ValueError, match="expected ascending thresholds between 0 and 1"):
        choose_threshold(tmp_path, data, candidates=candidates)
