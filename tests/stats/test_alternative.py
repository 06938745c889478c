"""The alternative annotator test by hand, against scipy and a slow loop, and in its corners."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from irrbench.stats import alternative_annotator_test

RNG = np.random.default_rng(1)


def slow(model, raters, epsilon, alpha):
    """The published procedure with plain lists: indicators, Student's test for each rater, correction, winning rate."""
    p, advantage = [], []
    for r in range(len(model[0])):
        rows = [(m[r], h[r]) for m, h in zip(model, raters, strict=True) if not math.isnan(m[r] + h[r])]
        ahead = [int(m >= h) for m, h in rows]
        behind = [int(h >= m) for m, h in rows]
        difference = [b - a for a, b in zip(ahead, behind, strict=True)]
        p.append(stats.ttest_1samp(difference, epsilon, alternative="less").pvalue)
        advantage.append(sum(ahead) / len(ahead))
    rejected, corrected, *_ = multipletests(p, alpha, method="fdr_by")
    return p, corrected.tolist(), advantage, sum(rejected) / len(rejected), sum(advantage) / len(advantage)


@pytest.mark.parametrize(("shift", "epsilon"), [(-0.1, 0.0), (0.0, 0.2), (0.15, 0.2), (0.3, 0.1)])
def test_by_a_slow_loop(shift, epsilon):
    model, raters = RNG.normal(shift, 0.2, size=(40, 5)).round(1), RNG.normal(0, 0.2, size=(40, 5)).round(1)
    raters[3:9, 1] = model[7, 4] = np.nan
    found = alternative_annotator_test(model, raters, epsilon=epsilon)
    p, corrected, advantage, rate, average = slow(model.tolist(), raters.tolist(), epsilon, 0.05)
    assert found.p == pytest.approx(p)
    assert found.p_corrected == pytest.approx(corrected)
    assert found.advantage == pytest.approx(advantage)
    assert (found.winning_rate, found.average_advantage) == pytest.approx((rate, average))
    assert found.passed == (rate >= 0.5)
    assert found.n_images.tolist() == [40, 34, 40, 40, 39]


def test_by_hand():
    # Rater 0: ahead, ahead, behind, tie -> d = -1, -1, 1, 0; rater 1 ties twice and has no more images.
    model = [[0.9, 0.5], [0.8, 0.5], [0.1, 0.5], [0.4, 0.5]]
    raters = [[0.5, 0.5], [0.5, 0.5], [0.5, math.nan], [0.4, math.nan]]
    found = alternative_annotator_test(model, raters, epsilon=0.2)
    assert found.advantage.tolist() == [0.75, 1.0]
    assert found.rater_advantage.tolist() == [0.5, 1.0]
    mean, error = -0.25, math.sqrt((2 * 0.75**2 + 1.25**2 + 0.25**2) / 3 / 4)
    assert found.p[0] == pytest.approx(stats.t.cdf((mean - 0.2) / error, 3))
    # No spread: with a mean of .2 or more, at most 80 % of the images can be ties or better: .8 squared.
    assert found.p[1] == pytest.approx(0.64)
    assert found.n_images.tolist() == [4, 2]


def test_a_model_that_is_always_ahead_needs_enough_images():
    few, many = (alternative_annotator_test(np.ones((n, 3)), np.zeros((n, 3))) for n in (3, 20))
    assert few.p.tolist() == pytest.approx([0.4**3] * 3)  # (1 - .2) / 2 of the images at most can be -1
    assert few.winning_rate == 0
    assert many.winning_rate == 1
    behind = alternative_annotator_test(np.zeros((20, 3)), np.ones((20, 3)))
    assert behind.p.tolist() == [1, 1, 1]
    assert not behind.passed


@pytest.mark.parametrize(("ahead", "raters", "passed"), [(1, 3, False), (2, 4, True), (2, 5, False), (3, 5, True)])
def test_half_of_the_raters_are_enough_and_fewer_are_not(ahead, raters, passed):
    found = alternative_annotator_test(
        np.ones((20, raters)), np.where(np.arange(raters) < ahead, 0, 2) * np.ones((20, 1))
    )
    assert found.wins.tolist() == [True] * ahead + [False] * (raters - ahead)
    assert found.winning_rate == ahead / raters
    assert found.passed == passed
    assert found.verdict == ("may stand in for a rater" if passed else "not shown to stand in for a rater")


def test_images_of_one_patient_count_as_one():
    model, raters = RNG.normal(0.1, 1, size=(12, 3)), RNG.normal(size=(12, 3))
    copies = [np.repeat(x, 4, axis=0) for x in (model, raters)]
    groups = np.repeat(np.arange(12), 4).tolist()
    grouped, once = alternative_annotator_test(*copies, groups=groups), alternative_annotator_test(model, raters)
    assert grouped.p == pytest.approx(once.p)
    assert grouped.n_groups.tolist() == once.n_groups.tolist() == [12] * 3
    assert alternative_annotator_test(*copies).p != pytest.approx(once.p)


def test_the_order_of_images_does_not_matter_and_raters_keep_theirs():
    model, raters = RNG.normal(size=(25, 4)), RNG.normal(size=(25, 4))
    order, turn = RNG.permutation(25), [2, 0, 3, 1]
    whole = alternative_annotator_test(model, raters)
    turned = alternative_annotator_test(model[order][:, turn], raters[order][:, turn])
    assert turned.p == pytest.approx(whole.p[turn])
    assert turned.winning_rate == whole.winning_rate


def test_a_rater_without_images_is_left_out():
    model, raters = np.ones((30, 3)), np.zeros((30, 3))
    raters[:, 1] = np.nan
    found = alternative_annotator_test(model, raters)
    assert np.isnan(found.p).tolist() == [False, True, False]
    assert found.winning_rate == 1
    nobody = alternative_annotator_test(model, np.full((30, 3), np.nan))
    assert math.isnan(nobody.winning_rate)
    assert math.isnan(nobody.average_advantage)
    assert not nobody.passed


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"must both be \(N, R\).*found \(4,\) and \(4, 2\)"):
        alternative_annotator_test(np.ones(4), np.ones((4, 2)))
    with pytest.raises(ValueError, match=r"`epsilon` must lie between 0 and 1 .*found 1"):
        alternative_annotator_test(np.ones((4, 2)), np.ones((4, 2)), epsilon=1)
    with pytest.raises(ValueError, match="`alpha` must lie between 0 and 1, found 0"):
        alternative_annotator_test(np.ones((4, 2)), np.ones((4, 2)), alpha=0)
    with pytest.raises(ValueError, match="one label an image: 4 expected, 3 found"):
        alternative_annotator_test(np.ones((4, 2)), np.ones((4, 2)), groups=[1, 2, 3])


def test_a_single_image_proves_little():
    found = alternative_annotator_test([[0.9]], [[0.1]])
    assert found.p.tolist() == pytest.approx([0.4])  # (1 - .2) / 2
    assert not found.passed
