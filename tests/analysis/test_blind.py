"""The guess that never looks at the image."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from irrbench import VotePatterns, sample_bounds, segmentation_bounds
from irrbench.analysis.blind import BlindError, BlindGuess, blind_table, fit_blind, score_blind
from irrbench.commands.loading import Scored
from irrbench.commands.outputs import make_results
from irrbench.config import BenchmarkConfig, RulesConfig, StatisticsConfig
from irrbench.data import RaterData
from tests.analysis.test_leaderboard import ABOVE, BELOW

RNG = np.random.default_rng(0)


def centred(images: int, *, size: tuple[int, int] = (9, 11), seed: int = 0, splits: tuple[str, ...] = ("train",)):
    """Blobs around the middle, drawn by three raters, within an ROI."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(y - size[0] // 2, x - size[1] // 2)
    masks = [np.stack([distance < rng.uniform(1.5, 4) for _ in range(3)]) for _ in range(images)]
    ids = [f"i{i}" for i in range(images)]
    frame = pd.DataFrame(
        {"split": [splits[i % len(splits)] for i in range(images)]}, index=pd.Index(ids, name="image_id")
    )
    present = rng.random((images, 3)) > 0.2
    present[:, :2] = True
    rois = [rng.random(size) > 0.1 for _ in range(images)]
    return RaterData.from_arrays(
        [np.zeros((1, *size), np.float32)] * images,
        masks,
        image_ids=ids,
        rois=rois,
        present=present,
        manifest=frame,
    )


def slow_scores(data: RaterData, mask: np.ndarray, score: str) -> list[float]:
    """One image at a time through the public function."""
    values = []
    for i in range(len(data)):
        patterns = VotePatterns.from_masks(
            torch.from_numpy(data.masks(i))[None],
            roi=torch.from_numpy(data.roi(i))[None],
            preds=torch.from_numpy(mask)[None],
            present=torch.from_numpy(data.present(i))[None],
        )
        values.append(segmentation_bounds(patterns, [score]).model[score].item())
    return values


@pytest.mark.parametrize("score", ["iou", "accuracy", "f1"])
def test_the_best_of_all_thresholds_by_a_slow_loop(score):
    data = centred(6)
    guess = fit_blind(data, score=score)
    marks, count = np.zeros((9, 11)), 0
    for i in range(6):
        for r in range(3):
            if data.present(i)[r]:
                marks += data.masks(i)[r]
                count += 1
    np.testing.assert_allclose(guess.share, marks / count)
    by_threshold = {t: np.mean(slow_scores(data, guess.share >= t, score)) for t in [0.0, *np.unique(guess.share)]}
    assert guess.score == pytest.approx(max(by_threshold.values()))
    assert by_threshold[guess.threshold] == pytest.approx(guess.score)


def test_scored_as_everybody_is():
    train, test = centred(8), centred(70, seed=5)
    guess = fit_blind(train)
    table = score_blind(guess, test, scores=["iou", "tpr"])
    assert table["image_id"].tolist() == list(test.image_ids)
    np.testing.assert_allclose(table["iou"], slow_scores(test, guess.mask, "iou"))
    assert table["iou_floor"].mean() < table["iou"].mean() < 1
    assert len([c for c in table if c.startswith("iou_fold")]) == 3


def test_it_is_one_sample():
    data = centred(8)
    guess = fit_blind(data)
    table = score_blind(guess, data, scores=["iou", "ged"])
    for i in range(len(data)):
        masks, mask, roi = data.masks(i)[data.present(i)], guess.mask[None], data.roi(i)
        bounds = sample_bounds(*(torch.from_numpy(x)[None] for x in (masks, mask)), roi=torch.from_numpy(roi)[None])
        assert table.loc[i, "ged"] == pytest.approx(bounds.model["ged"].item())
    with pytest.raises(BlindError, match="a threshold makes it a mask, and ged score no masks"):
        blind_table(data, data.image_ids, scores=["ged"])


def test_it_unmasks_centred_crops_and_nothing_else():
    centred_ = fit_blind(centred(20)).score
    moved = centred(20)
    masks = [np.roll(moved.masks(i), RNG.integers(0, 9, 2), axis=(1, 2)) for i in range(20)]
    scattered = RaterData.from_arrays([np.zeros((1, 9, 11), np.float32)] * 20, masks)
    assert centred_ > 0.5 > fit_blind(scattered).score


def test_never_fitted_on_what_it_is_scored_on():
    data = centred(12, splits=("train", "test"))
    test = list(data.split("test").image_ids)
    expected = score_blind(fit_blind(data.split("train")), data.split("test"), scores=["iou"])
    pd.testing.assert_frame_equal(blind_table(data, test, scores=["iou"]), expected)
    with pytest.raises(BlindError, match="no training image beside the scored ones"):
        blind_table(data, data.image_ids, scores=["iou"])


def test_no_guess_for_images_of_several_sizes():
    data = RaterData.from_arrays(
        [np.zeros((1, 4, 5), np.float32), np.zeros((1, 3, 5), np.float32)],
        [np.ones((2, 4, 5), bool), np.ones((2, 3, 5), bool)],
    )
    with pytest.raises(BlindError, match=r"training images have 2 sizes \(\(3, 5\), \(4, 5\)\); it needs one"):
        fit_blind(data)
    with pytest.raises(BlindError, match=r"i0 has the size \(9, 11\), the training images \(4, 5\)"):
        score_blind(fit_blind(data.subset([0])), centred(1), scores=["iou"])


def test_no_guess_where_nothing_is_defined():
    data = RaterData.from_arrays([np.zeros((1, 2, 2), np.float32)], [np.zeros((2, 2, 2), bool)])
    with pytest.raises(BlindError, match="no training image defines iou"):
        fit_blind(data)


def test_many_levels_are_thinned_out(monkeypatch):
    data = centred(9)
    whole = fit_blind(data)
    monkeypatch.setattr("irrbench.analysis.blind._LEVELS", 6)
    few = fit_blind(data)
    assert few.score <= whole.score
    assert few.threshold in np.append(whole.share, 0)


def scored(data: RaterData) -> Scored:
    table = score_blind(fit_blind(data.split("train")), data.split("test"), scores=["iou"])
    return Scored("model", table, None, None)


def test_a_row_among_the_others_or_a_remark():
    data = centred(30, splits=("train", "test"))
    config = BenchmarkConfig(
        scores=["iou"], statistics=StatisticsConfig(blind=True), rules=RulesConfig(ties="positive")
    )
    model = scored(data)
    results = make_results(config, data, [model])
    board = results.leaderboard
    assert board["role"].tolist() == [*ABOVE, "model", "blind", *BELOW]
    expected = blind_table(data, model.table["image_id"], scores=["iou"], ties="positive")["iou"].mean()
    assert board.loc[5, "iou"] == pytest.approx(expected)
    assert results.comparisons["name"].unique().tolist() == ["model"]
    none_left = data.subset([i for i, split in enumerate(data.manifest["split"]) if split == "test"])
    remarks = make_results(config, none_left, [model])
    assert "No blind guess: there is no training image beside the scored ones; give a split." in remarks.notes
    assert "blind" not in remarks.leaderboard["role"].tolist()


@pytest.mark.parametrize("threshold", [0.0, 0.25, 1.0])
def test_its_probability_is_the_share_of_marks(threshold):
    data = centred(6)
    share = fit_blind(data).share
    guess = BlindGuess(share, threshold, 0.0, 6)
    table = score_blind(guess, data, scores=["iou", "brier"])
    assert table["iou"].tolist() == slow_scores(data, share >= threshold, "iou")
    for i, found in enumerate(table["brier"]):
        inside, raters = data.roi(i), data.masks(i)[data.present(i)]
        assert found == pytest.approx(np.mean([(share[inside] - mask[inside]) ** 2 for mask in raters]), abs=1e-9)
