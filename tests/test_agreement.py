import krippendorff
import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import fleiss_kappa as statsmodels_fleiss

from irrbench import (
    VotePatterns,
    cohen_kappa,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
    percent_agreement,
    prevalence,
)
from tests.test_patterns import draw


def test_published_ten_binary_units():
    masks = torch.tensor([[[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]])
    assert krippendorff_alpha(VotePatterns.from_masks(masks)).item() == pytest.approx(0.095238, abs=1e-6)


def test_published_two_by_two_table():
    patterns = VotePatterns.from_counts(torch.tensor([[5, 9, 56, 130]]), num_raters=2)
    assert percent_agreement(patterns).item() == pytest.approx(0.675, abs=5e-4)
    assert cohen_kappa(patterns)[0, 0, 1].item() == pytest.approx(0.022, abs=5e-4)
    assert krippendorff_alpha(patterns).item() == pytest.approx(-0.064, abs=5e-4)
    assert gwet_ac1(patterns).item() == pytest.approx(0.533, abs=5e-4)


# counts, Fleiss' kappa by R's irr, AC1 by R's irrCAC (which rounds), alpha by the krippendorff package
R_CASES = [
    ([77, 37, 30, 30, 17, 20, 17, 14, 44, 25, 18, 44, 19, 35, 16, 57], 0.179142595374499, 0.18484, 0.179553024076811),
    (
        [684, 114, 40, 13, 154, 86, 21, 49, 116, 72, 32, 52, 92, 155, 56, 264],
        0.386587177410578,
        0.45235,
        0.386663854013398,
    ),
    ([447, 357, 331, 397, 300, 357, 333, 478], 0.0773578730942438, 0.0782, 0.0774603888861223),
    ([89, 1, 0, 1, 6, 2, 0, 1, 2, 1, 0, 1, 2, 6, 1, 19], 0.725966145001597, 0.84626, 0.726485148514852),
]


@pytest.mark.parametrize(("counts", "fleiss", "ac1", "alpha"), R_CASES)
def test_figures_that_r_gave(counts, fleiss, ac1, alpha):
    patterns = VotePatterns.from_counts(torch.tensor([counts]), num_raters=len(counts).bit_length() - 1)
    assert fleiss_kappa(patterns).item() == pytest.approx(fleiss, abs=1e-12)
    assert gwet_ac1(patterns).item() == pytest.approx(ac1, abs=5e-6)
    assert krippendorff_alpha(patterns).item() == pytest.approx(alpha, abs=1e-12)


def test_against_packages_with_absent_raters():
    masks, roi, _ = draw(1)
    present = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 1, 0]]).bool()
    patterns = VotePatterns.from_masks(masks, roi=roi, present=present)
    for b in range(3):
        ratings = masks[b, present[b]][:, roi[b]].numpy().astype(int)
        votes = ratings.sum(0)
        assert krippendorff_alpha(patterns)[b].item() == pytest.approx(
            krippendorff.alpha(reliability_data=ratings, level_of_measurement="nominal"), abs=1e-12
        )
        expected = statsmodels_fleiss(np.stack([len(ratings) - votes, votes], 1))
        assert fleiss_kappa(patterns)[b].item() == pytest.approx(expected, abs=1e-12)
        assert prevalence(patterns)[b][present[b]].tolist() == pytest.approx(ratings.mean(1).tolist())
    assert prevalence(patterns)[1, 1].isnan()
    pair = cohen_kappa(patterns)[2, 1, 2].item()
    assert pair == pytest.approx(cohen_kappa_score(*masks[2, 1:3][:, roi[2]].int().numpy()), abs=1e-12)
    assert cohen_kappa(patterns)[2, 0].isnan().all()


def test_label_maps():
    labels = torch.randint(0, 3, (2, 4, 6, 5), generator=torch.Generator().manual_seed(2))
    classes = VotePatterns.from_labels(labels, num_classes=3)
    for b in range(2):
        ratings = labels[b].flatten(1).numpy()
        expected = krippendorff.alpha(reliability_data=ratings, level_of_measurement="nominal")
        assert krippendorff_alpha(classes)[b].item() == pytest.approx(expected, abs=1e-12)
        table = np.stack([(ratings == c).sum(0) for c in range(3)], 1)
        assert fleiss_kappa(classes)[b].item() == pytest.approx(statsmodels_fleiss(table), abs=1e-12)
    two = VotePatterns.from_labels(labels.clamp(max=1), num_classes=2)
    for measure in (krippendorff_alpha, fleiss_kappa, gwet_ac1, percent_agreement):
        assert torch.allclose(measure(two), measure(two[1]), atol=1e-12)


def test_perfect_agreement_and_undefined():
    masks = draw(3)[0][:, :1].expand(-1, 3, -1, -1).clone()
    masks[1] = False
    patterns = VotePatterns.from_masks(masks)
    for measure in (krippendorff_alpha, fleiss_kappa):
        assert measure(patterns)[[0, 2]].tolist() == [1, 1]
        assert measure(patterns)[1].isnan()
    assert gwet_ac1(patterns).tolist() == [1, 1, 1]
    assert percent_agreement(patterns).tolist() == [1, 1, 1]
    alone = VotePatterns.from_masks(masks, present=torch.tensor([True, False, False]).expand(3, 3))
    for measure in (krippendorff_alpha, fleiss_kappa, gwet_ac1, percent_agreement):
        assert measure(alone).isnan().all()
