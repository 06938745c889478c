import math

import numpy as np
import pytest
import torch

from irrbench import VotePatterns, majority, staple, staple_probability, vote_share
from irrbench.consensus import NOT_IDENTIFIED, look_up
from tests.test_patterns import draw


def test_vote_share_and_majority_by_hand():
    masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]])
    assert vote_share(masks).tolist() == [[1, 0.5, 0.25, 0]]
    assert majority(masks).tolist() == [[True, False, False, False]]  # a tie is background
    present = torch.tensor([[True, True, False, True]])
    assert majority(masks, present=present).tolist() == [[True, True, False, False]]


def test_dropping_a_rater_is_never_having_had_one():
    masks, _, _ = draw()
    present = torch.tensor([True, False, True, True]).expand(3, 4)
    assert torch.equal(majority(masks, present=present), majority(masks[:, [0, 2, 3]]))
    nobody = torch.zeros(3, 4, dtype=torch.bool)
    assert vote_share(masks, present=nobody).isnan().all()
    assert not majority(masks, present=nobody).any()


SENSITIVITY, SPECIFICITY = (0.95, 0.90, 0.80, 0.70), (0.99, 0.98, 0.95, 0.97)


def simulate(seed=0, shape=(1, 4, 64, 64)):
    """Raters who err independently about a disc, and the disc."""
    g = torch.Generator().manual_seed(seed)
    y, x = (torch.linspace(-1, 1, n) for n in shape[2:])
    truth = y[:, None] ** 2 + x**2 < 0.5
    u = torch.rand(shape, generator=g)
    sensitivity, specificity = (torch.tensor(v)[: shape[1], None, None] for v in (SENSITIVITY, SPECIFICITY))
    return torch.where(truth, u < sensitivity, u > specificity), truth


def slow_staple(ratings, *, update_prior=False, iterations=3000):
    """Expectation-maximisation pixel by pixel; raters by pixels in, weights and rates out."""
    raters, pixels = ratings.shape
    sensitivity, specificity, prior = [0.99999] * raters, [0.99999] * raters, ratings.mean()

    def weigh(s):
        yes, no = prior, 1 - prior
        for r in range(raters):
            yes *= sensitivity[r] if ratings[r, s] else 1 - sensitivity[r]
            no *= 1 - specificity[r] if ratings[r, s] else specificity[r]
        return yes / (yes + no)

    for _ in range(iterations):
        weights = np.array([weigh(s) for s in range(pixels)])
        old = [*sensitivity, *specificity]
        sensitivity = [weights[ratings[r] == 1].sum() / weights.sum() for r in range(raters)]
        specificity = [(1 - weights)[ratings[r] == 0].sum() / (1 - weights).sum() for r in range(raters)]
        prior = weights.mean() if update_prior else prior
        if max(abs(a - b) for a, b in zip(old, [*sensitivity, *specificity], strict=True)) < 1e-12:
            break
    return np.array([weigh(s) for s in range(pixels)]), sensitivity, specificity, prior


@pytest.mark.parametrize("update_prior", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_a_loop_over_pixels(seed, update_prior):
    masks, _ = simulate(seed, (2, 3, 11, 13))
    masks[1, 2] = masks[1, 0]
    roi = torch.rand(2, 11, 13, generator=torch.Generator().manual_seed(seed)) < 0.8
    present = torch.tensor([[True, True, True], [True, True, False]])
    fit = staple(VotePatterns.from_masks(masks, roi=roi, present=present), update_prior=update_prior, tolerance=1e-13)
    pixels = look_up(fit.foreground, masks, present=present)
    assert fit.converged.all()
    for b in range(2):
        ratings = masks[b, present[b]][:, roi[b]].int().numpy()
        weights, sensitivity, specificity, prior = slow_staple(ratings, update_prior=update_prior)
        assert fit.sensitivity[b][present[b]].tolist() == pytest.approx(sensitivity, abs=1e-9)
        assert fit.specificity[b][present[b]].tolist() == pytest.approx(specificity, abs=1e-9)
        assert fit.prior[b].item() == pytest.approx(prior, abs=1e-9)
        assert pixels[b][roi[b]].tolist() == pytest.approx(weights.tolist(), abs=1e-9)
    assert fit.sensitivity[1, 2].isnan()
    assert fit.specificity[1, 2].isnan()


def test_staple_by_hand():
    # Two raters on four pixels: both mark one, neither marks one, each alone marks one. The prior is 1/2. With equal
    # rates x a disputed pixel is 1/2, the agreed one w = x**2 / (x**2 + (1 - x)**2): next x = (w + 1/2) / 2.
    fit = staple(VotePatterns.from_counts(torch.tensor([[1, 1, 1, 1]]), num_raters=2), max_iterations=1)
    w = 0.99999**2 / (0.99999**2 + 0.00001**2)
    assert fit.sensitivity[0].tolist() == pytest.approx([(w + 0.5) / 2] * 2, abs=1e-15)
    assert fit.specificity[0].tolist() == pytest.approx([(w + 0.5) / 2] * 2, abs=1e-15)
    assert fit.reason == ("no convergence within 1 iterations",)
    assert not fit.converged
    x = fit.sensitivity[0, 0].item()
    assert fit.foreground[0].tolist() == pytest.approx(
        [(1 - x) ** 2 / (x**2 + (1 - x) ** 2), 0.5, 0.5, x**2 / (x**2 + (1 - x) ** 2)], abs=1e-12
    )


def test_recovers_simulated_raters():
    masks, truth = simulate(3, (1, 4, 256, 256))
    fit = staple(VotePatterns.from_masks(masks))
    assert fit.sensitivity[0].tolist() == pytest.approx(SENSITIVITY, abs=0.007)
    assert fit.specificity[0].tolist() == pytest.approx(SPECIFICITY, abs=0.007)
    assert fit.reason == ("",)
    found = staple_probability(masks)[0] > 0.5
    wrong = (found != truth).double().mean()
    assert wrong < 0.01
    assert wrong < min((mask != truth).double().mean() for mask in masks[0])


def test_two_raters_are_not_identified_and_say_so():
    masks, _ = simulate(6, (2, 3, 40, 40))
    present = torch.tensor([[True, True, False], [True, True, True]])
    patterns = VotePatterns.from_masks(masks, present=present)
    assert staple(patterns).reason == (NOT_IDENTIFIED, "")
    # Why: the four shares of votes come out again from other rates, which another prior leads to.
    two = VotePatterns.from_masks(masks[:1, :2])
    shares = two.totals[0] / two.totals.sum()
    fits = [staple(two, prior=prior) for prior in (0.345, 0.375)]
    for fit in fits:
        s, c, prior = fit.sensitivity[0], fit.specificity[0], fit.prior[0]
        for code in range(4):
            marks = [bool(code >> r & 1) for r in range(2)]
            lesion = math.prod((s[r] if mark else 1 - s[r]) for r, mark in enumerate(marks))
            rest = math.prod((1 - c[r] if mark else c[r]) for r, mark in enumerate(marks))
            assert (prior * lesion + (1 - prior) * rest).item() == pytest.approx(shares[code].item(), abs=1e-4)
    assert (fits[0].sensitivity - fits[1].sensitivity).abs().max() > 0.02


def test_against_simple_itk():
    itk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    masks, _ = simulate(5, (1, 4, 120, 90))
    peer = itk.STAPLEImageFilter()
    peer.SetForegroundValue(1)
    expected = itk.GetArrayFromImage(
        peer.Execute([itk.GetImageFromArray(m.numpy().astype(np.uint8)) for m in masks[0]])
    )
    fit = staple(VotePatterns.from_masks(masks))
    assert fit.sensitivity[0].tolist() == pytest.approx(peer.GetSensitivity(), abs=2e-7)  # it stops at steps of 1e-7
    assert fit.specificity[0].tolist() == pytest.approx(peer.GetSpecificity(), abs=2e-7)
    np.testing.assert_allclose(staple_probability(masks)[0].numpy(), expected, rtol=0, atol=2e-6)


def test_one_image_at_a_time_gives_the_same_and_order_does_not_matter():
    masks = torch.cat([simulate(seed, (1, 4, 12, 14))[0] for seed in range(5)])
    whole = staple(VotePatterns.from_masks(masks))
    assert len(whole.iterations.unique()) > 1
    for b in range(5):
        alone = staple(VotePatterns.from_masks(masks[[b]]))
        turned = staple(VotePatterns.from_masks(masks[[b]][:, [2, 0, 3, 1]]))
        assert alone.iterations == whole.iterations[b]
        torch.testing.assert_close(alone.foreground[0], whole.foreground[b], rtol=0, atol=1e-9)
        torch.testing.assert_close(alone.sensitivity[:, [2, 0, 3, 1]], turned.sensitivity, rtol=0, atol=1e-9)


def test_absent_raters_predictions_and_what_lies_outside_count_for_nothing():
    masks, _ = simulate(1, (1, 4, 20, 21))
    roi = torch.zeros(1, 20, 21, dtype=torch.bool)
    roi[:, 3:] = True
    present = torch.tensor([[True, False, True, True]])
    fit = staple(VotePatterns.from_masks(masks, roi=roi, preds=masks[:, 0], present=present))
    cropped = staple(VotePatterns.from_masks(masks[:, [0, 2, 3], 3:]))
    torch.testing.assert_close(fit.specificity[:, [0, 2, 3]], cropped.specificity, rtol=0, atol=1e-12)
    codes = [0b0000, 0b0001, 0b0100, 0b0101, 0b1000, 0b1001, 0b1100, 0b1101]
    torch.testing.assert_close(fit.foreground[:, codes], cropped.foreground, rtol=0, atol=1e-12)
    torch.testing.assert_close(fit.foreground[:, 0b1010], fit.foreground[:, 0b1000])  # the absent rater's bit is idle


def test_identical_raters_are_never_wrong():
    masks = draw(2)[0][:, :1].expand(-1, 3, -1, -1)
    fit = staple(VotePatterns.from_masks(masks))
    torch.testing.assert_close(fit.sensitivity, torch.ones(3, 3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(fit.specificity, torch.ones(3, 3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(look_up(fit.foreground, masks) > 0.5, masks[:, 0])


def test_sixteen_raters():
    masks, _ = simulate(2, (1, 4, 30, 30))
    many = torch.cat([masks] * 4, 1)
    many[:, 4:] = simulate(9, (3, 4, 30, 30))[0].flatten(0, 1)
    fit = staple(VotePatterns.from_masks(many))
    assert fit.foreground.shape == (1, 2**16)
    weights, sensitivity, _, _ = slow_staple(many[0].flatten(1).int().numpy(), iterations=50)
    assert fit.sensitivity[0].tolist() == pytest.approx(sensitivity, abs=1e-9)
    assert look_up(fit.foreground, many)[0].flatten().tolist() == pytest.approx(weights.tolist(), abs=1e-9)


def test_staple_by_rule():
    masks = torch.zeros(5, 3, 4, dtype=torch.bool)
    masks[1] = True
    masks[2:, :, :2] = True
    masks[4, 0, 1] = False
    roi = torch.ones(5, 4, dtype=torch.bool)
    roi[2] = False
    present = torch.ones(5, 3, dtype=torch.bool)
    present[3, :2] = False
    present[1, 0] = False
    fit = staple(VotePatterns.from_masks(masks, roi=roi, present=present))
    assert fit.reason == (
        "nobody marked anything",
        "everybody marked everything",
        "the region of interest is empty",
        "fewer than two raters",
        "",
    )
    assert fit.converged.tolist() == [True, True, False, False, True]
    assert fit.foreground[0].eq(0).all()
    assert fit.foreground[1].eq(1).all()
    assert fit.foreground[2:4].isnan().all()
    assert fit.specificity[0].tolist() == [1, 1, 1]
    assert fit.sensitivity[0].isnan().all()
    assert fit.sensitivity[1].nan_to_num(-1).tolist() == [-1, 1, 1]
    assert fit.specificity[1].isnan().all()
    assert fit.iterations[:4].tolist() == [0] * 4
    given = staple(VotePatterns.from_masks(masks[:1]), prior=0.5)
    assert given.reason == ("nobody marked anything",)


def test_a_given_prior():
    masks, _ = simulate(4, (2, 3, 10, 12))
    patterns = VotePatterns.from_masks(masks)
    by_number, by_image = (
        staple(patterns, prior=0.3),
        staple(patterns, prior=torch.tensor([0.3, 0.6], dtype=torch.float64)),
    )
    torch.testing.assert_close(by_number.sensitivity[0], by_image.sensitivity[0], rtol=0, atol=1e-12)
    assert (by_number.sensitivity[1] - by_image.sensitivity[1]).abs().max() > 1e-4
    mean = masks.double().mean((1, 2, 3))
    torch.testing.assert_close(staple(patterns, prior=mean).foreground, staple(patterns).foreground, rtol=0, atol=1e-8)
    for prior in (0.0, 1.0, torch.tensor([0.1, 0.2, 0.3])):
        with pytest.raises(ValueError, match="`prior` must be one number between 0 and 1, or one for each of 2 images"):
            staple(patterns, prior=prior)


def test_look_up():
    masks, _, _ = draw(6, (2, 5, 3, 4))
    values = torch.arange(64).view(2, 32)
    present = torch.tensor([[True] * 5, [True, False, True, True, False]])
    for mask_type in (masks, masks.to(torch.uint8) * 255, masks.float()):
        found = look_up(values, mask_type, present=present)
        for b, y, x in np.ndindex(2, 3, 4):
            code = sum(int(masks[b, r, y, x] and present[b, r]) << r for r in range(5))
            assert found[b, y, x] == 32 * b + code
    with pytest.raises(ValueError, match=r"`values` must be \(2, 32\) for masks of 5 raters, found \(2, 16\)"):
        look_up(values[:, :16], masks)
