import itertools
from fractions import Fraction

import krippendorff
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import fleiss_kappa as statsmodels_fleiss

from irrbench import (
    ClassVotes,
    VotePatterns,
    cohen_kappa,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
    percent_agreement,
    prevalence,
    why_undefined,
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


# Fleiss 1971: 10 subjects, 5 categories, 14 raters
FLEISS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


def test_published_ten_subjects_by_votes_and_by_patterns():
    table = torch.tensor([FLEISS])
    assert fleiss_kappa(ClassVotes(table)).item() == pytest.approx(0.209931, abs=5e-7)
    # who gave which of the votes does not matter
    labels = torch.stack([torch.arange(5).repeat_interleave(row) for row in table[0]], 1)[None]
    patterns = VotePatterns.from_labels(labels, num_classes=5)
    ratings = labels[0].numpy()
    assert krippendorff_alpha(patterns).item() == pytest.approx(
        krippendorff.alpha(reliability_data=ratings, level_of_measurement="nominal"), abs=1e-12
    )
    for measure in (krippendorff_alpha, fleiss_kappa, gwet_ac1, percent_agreement):
        assert torch.allclose(measure(patterns), measure(ClassVotes(table)), rtol=0, atol=1e-12)


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


def exact(ratings, classes):
    """Agreement of one image's ratings, raters by pixels, by its definition: pair by pair, in fractions."""
    raters, pixels = len(ratings), list(zip(*ratings, strict=True))
    pairs = [a == b for pixel in pixels for a, b in itertools.permutations(pixel, 2)]
    agreement = Fraction(sum(pairs), len(pairs))
    every = [c for pixel in pixels for c in pixel]
    n, number = len(every), [every.count(c) for c in classes]
    same = Fraction(sum(x * x for x in number), n * n)
    same_of_others = Fraction(sum(x * (x - 1) for x in number), n * (n - 1))
    gwet = sum(Fraction(x, n) * (1 - Fraction(x, n)) for x in number) / (len(classes) - 1)
    kappas = {}
    for r, s in itertools.combinations(range(raters), 2):
        observed = Fraction(sum(a == b for a, b in zip(ratings[r], ratings[s], strict=True)), len(pixels))
        chance = sum(Fraction(ratings[r].count(c) * ratings[s].count(c), len(pixels) ** 2) for c in classes)
        kappas[r, s] = above_chance(observed, chance)
    return {
        krippendorff_alpha: above_chance(agreement, same_of_others),
        fleiss_kappa: above_chance(agreement, same),
        gwet_ac1: above_chance(agreement, gwet),
        percent_agreement: float(agreement),
    }, kappas


def above_chance(observed, chance):
    return float((observed - chance) / (1 - chance)) if chance != 1 else float("nan")


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 5), st.integers(2, 4), st.data())
def test_equals_the_definitions(raters, classes, data):
    pixels = data.draw(st.integers(1, 9))
    ratings = data.draw(
        st.lists(
            st.lists(st.integers(0, classes - 1), min_size=pixels, max_size=pixels), min_size=raters, max_size=raters
        )
    )
    labels = torch.tensor([ratings])
    patterns = VotePatterns.from_labels(labels, num_classes=classes)
    inputs = [patterns, ClassVotes(torch.stack([(labels == c).sum(1) for c in range(classes)], 2))]
    inputs += [VotePatterns.from_masks(labels.bool())] if classes == 2 else []
    expected, kappas = exact(ratings, range(classes))
    for votes, (measure, value) in itertools.product(inputs, expected.items()):
        assert measure(votes).item() == pytest.approx(value, abs=1e-12, nan_ok=True)
        assert bool(why_undefined(measure(votes), votes)[0]) == np.isnan(value)
    for votes in [inputs[0], *inputs[2:]]:
        found = cohen_kappa(votes)[0]
        for pair, value in kappas.items():
            assert found[pair].item() == pytest.approx(value, abs=1e-12, nan_ok=True)
        assert torch.equal(found.nan_to_num(9), found.T.nan_to_num(9))


def test_a_rare_class_in_a_large_volume_loses_no_digits():
    counts = [3 * 10**9, 1, 2, 5]  # neither, the first, the second, both
    size, first, second = sum(counts), counts[1] + counts[3], counts[2] + counts[3]
    observed = Fraction(counts[0] + counts[3], size)
    cohen = above_chance(observed, Fraction(first * second + (size - first) * (size - second), size**2))
    marks = first + second
    fleiss = above_chance(observed, Fraction(marks**2 + (2 * size - marks) ** 2, 4 * size**2))
    patterns = VotePatterns.from_counts(torch.tensor([counts]), num_raters=2)
    assert cohen_kappa(patterns)[0, 0, 1].item() == pytest.approx(cohen, rel=1e-14, abs=0)
    assert fleiss_kappa(patterns).item() == pytest.approx(fleiss, rel=1e-14, abs=0)


def test_cohen_of_label_maps():
    labels = torch.randint(0, 4, (2, 3, 40), generator=torch.Generator().manual_seed(3))
    present = torch.tensor([[True, True, True], [True, False, True]])
    found = cohen_kappa(VotePatterns.from_labels(labels, num_classes=4, present=present))
    for r, s in itertools.permutations(range(3), 2):
        assert found[0, r, s].item() == pytest.approx(cohen_kappa_score(*labels[0, [r, s]].numpy()), abs=1e-12)
    assert found[1, 1].isnan().all()
    assert found[1, 0, 2].item() == pytest.approx(cohen_kappa_score(*labels[1, [0, 2]].numpy()), abs=1e-12)
    assert found.diagonal(dim1=1, dim2=2)[0].tolist() == [1, 1, 1]


def test_order_does_not_matter_and_a_dropped_rater_was_never_there():
    masks, roi, _ = draw(4)
    patterns = VotePatterns.from_masks(masks, roi=roi)
    turned = VotePatterns.from_masks(masks[[2, 0, 1]][:, [3, 1, 0, 2]], roi=roi[[2, 0, 1]])
    without = VotePatterns.from_masks(masks[:, [0, 1, 3]], roi=roi)
    absent = VotePatterns.from_masks(masks, roi=roi, present=torch.tensor([True, True, False, True]).expand(3, 4))
    for measure in (krippendorff_alpha, fleiss_kappa, gwet_ac1, percent_agreement):
        assert torch.equal(measure(patterns)[[2, 0, 1]], measure(turned))
        assert torch.equal(measure(patterns.drop_rater(2)), measure(without))
        assert torch.allclose(measure(absent), measure(without), rtol=0, atol=1e-14)


def test_reasons():
    masks = torch.zeros(6, 3, 2, 2, dtype=torch.bool)
    masks[0, 0, 0, 0] = masks[1:3, :, 0] = masks[4] = True
    roi = torch.ones(6, 2, 2, dtype=torch.bool)
    roi[1] = False
    present = torch.ones(6, 3, dtype=torch.bool)
    present[2, 1:] = False
    patterns = VotePatterns.from_masks(masks, roi=roi, present=present)
    alpha = krippendorff_alpha(patterns)
    reasons = why_undefined(alpha, patterns)
    assert reasons == (
        "",
        "the region of interest is empty",
        "fewer than two raters",
        "nobody marked anything",
        "everybody marked everything",
        "nobody marked anything",
    )
    assert [bool(why) for why in reasons] == alpha.isnan().tolist() == fleiss_kappa(patterns).isnan().tolist()
    assert why_undefined(gwet_ac1(patterns), patterns) == ("", *reasons[1:3], "", "", "")
    assert why_undefined(percent_agreement(patterns), patterns) == ("", *reasons[1:3], "", "", "")
    classes = VotePatterns.from_labels(torch.ones(1, 2, 5, dtype=torch.int64), num_classes=3)
    assert why_undefined(krippendorff_alpha(classes), classes) == ("all raters used one class only",)
    assert prevalence(patterns)[1].isnan().all()
    with pytest.raises(ValueError, match=r"`values` must be one an image, \(6,\), found \(5,\)"):
        why_undefined(alpha[:5], patterns)


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        (torch.tensor([[1, 2]]), r"integers from 0 on, \(B, N, C\).*found torch.int64 \(1, 2\)"),
        (torch.tensor([[[1.0, 2.0]]]), "found torch.float32"),
        (torch.tensor([[[1, -2]]]), "integers from 0 on"),
        (torch.tensor([[[1, 2], [2, 2]]]), r"same number of raters, found \[3, 4\]. Leave out the units"),
    ],
)
def test_class_votes_refuse(votes, message):
    with pytest.raises(ValueError, match=message):
        ClassVotes(votes)
