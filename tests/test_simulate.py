import math

import numpy as np
import pytest
import torch
from scipy.special import logit

from irrbench import VotePatterns, segmentation_bounds
from irrbench.icc import pixel_icc
from irrbench.simulate import draw_lesions, draw_masks, draw_patterns


def marks_by_rater(patterns):
    bits = np.array([[code >> r & 1 for r in range(patterns.num_raters)] for code in range(2**patterns.num_raters)])
    return patterns.counts.numpy() @ bits


def test_without_effects_patterns_are_independent_coins():
    drawn = draw_patterns(1, num_raters=3, pixels=200_000, var_pixel=0, var_rater=0, intercept=math.log(3))
    p = np.array([0.25 ** (3 - k.bit_count()) * 0.75 ** k.bit_count() for k in range(8)])
    spread = np.sqrt(200_000 * p * (1 - p))
    assert (np.abs(drawn.counts.numpy()[0] - 200_000 * p) < 4 * spread).all()


def test_variances_between_images_and_raters_are_those_asked_for():
    # Without pixel effects a rater's share of marks shows the effects themselves.
    drawn = draw_patterns(
        1500, num_raters=6, pixels=2000, var_pixel=0, var_rater=0.3, var_image=0.5, var_image_rater=0.2, rng=1
    )
    effects = logit((marks_by_rater(drawn) + 0.5) / 2001)
    residual = effects - effects.mean(1, keepdims=True) - effects.mean(0) + effects.mean()
    both = (residual**2).sum() / (1499 * 5)
    assert both == pytest.approx(0.2 + 1 / (2000 * 0.21), rel=0.07)
    assert effects.mean(1).var(ddof=1) == pytest.approx(0.5 + 0.2 / 6, rel=0.15)
    raters = [draw_patterns(2, num_raters=8, pixels=9000, var_pixel=0, var_rater=0.3, rng=s) for s in range(60)]
    spread = [logit(marks_by_rater(r).mean(0) / 9000).var(ddof=1) for r in raters]
    assert np.mean(spread) == pytest.approx(0.3, abs=4 * 0.3 * math.sqrt(2 / 7 / 60))


def test_pixel_icc_recovers_the_variances():
    drawn = draw_patterns(15, num_raters=4, pixels=6000, var_pixel=4, var_rater=0, var_image_rater=0.3, rng=2)
    found = pixel_icc(drawn, engine="quadrature")
    assert found.var_pixel.mean().item() == pytest.approx(4, rel=0.07)
    assert found.var_rater.mean().item() == pytest.approx(0.3, abs=0.2)


@pytest.mark.parametrize("smoothness", [0.0, 2.0])
def test_masks_have_the_patterns_of_the_model(smoothness):
    model = {"num_raters": 3, "var_pixel": 6.0, "var_rater": 0.0, "intercept": -0.5}
    masks = draw_masks(40, size=(100, 110), smoothness=smoothness, **model, rng=3)
    assert masks.shape == (40, 3, 100, 110)
    share = VotePatterns.from_masks(masks).counts.double().mean(0) / 11000
    expected = draw_patterns(40, pixels=11000, **model, rng=4).counts.double().mean(0) / 11000
    torch.testing.assert_close(share, expected, atol=0.003 if not smoothness else 0.02, rtol=0)
    neighbours = (masks[..., 1:] == masks[..., :-1]).double().mean()
    assert (neighbours > 0.6) == (smoothness > 0)


@pytest.mark.parametrize("error_smoothness", [0.0, 3.0])
def test_lesions_have_the_rates_asked_for(error_smoothness):
    sensitivity, specificity = [0.95, 0.9, 0.7], [0.99, 0.9, 1.0]
    masks, truth = draw_lesions(
        60,
        sensitivity=sensitivity,
        specificity=specificity,
        size=(80, 90),
        prevalence=0.3,
        error_smoothness=error_smoothness,
        rng=5,
    )
    assert truth.sum((1, 2)).eq(round(0.3 * 7200)).all()
    inside, outside = truth[:, None], ~truth[:, None]
    tpr = (masks & inside).sum((0, 2, 3)) / inside.sum()
    tnr = (~masks & outside).sum((0, 2, 3)) / outside.sum()
    tolerance = 0.005 if not error_smoothness else 0.03
    torch.testing.assert_close(tpr, torch.tensor(sensitivity), atol=tolerance, rtol=0)
    torch.testing.assert_close(tnr, torch.tensor(specificity), atol=tolerance, rtol=0)
    clumped = (masks ^ truth[:, None])[:, 1]
    together = (clumped[..., 1:] & clumped[..., :-1]).double().mean() / clumped.double().mean()
    assert (together > 0.4) == (error_smoothness > 0)


def test_lesions_are_smooth_and_edges_move_by_what_is_asked():
    perfect = {"sensitivity": [1.0] * 4, "specificity": [1.0] * 4, "size": (96, 100), "smoothness": 8.0}
    exact, truth = draw_lesions(8, **perfect, rng=6)
    assert (exact == truth[:, None]).all()
    changes = (truth[..., 1:] != truth[..., :-1]).double().mean()
    assert changes < 0.04
    iou = {}
    for edge in (1.0, 3.0):
        masks, truth = draw_lesions(8, **perfect, edge=edge, rng=6)
        iou[edge] = segmentation_bounds(VotePatterns.from_masks(masks)).ceiling["iou"].mean().item()
        # The area that moves is the outline's length times the mean displacement, edge * sqrt(2 / pi).
        edges = (truth[..., 1:] != truth[..., :-1]).sum() + (truth[..., 1:, :] != truth[..., :-1, :]).sum()
        length = edges.item() * math.pi / 4
        moved = (masks != truth[:, None]).sum().item() / 4
        assert moved / length == pytest.approx(edge * math.sqrt(2 / math.pi), rel=0.5)
    assert 0.5 < iou[3.0] < iou[1.0] < 0.97


def test_seeds_repeat_and_differ():
    lesion = {"sensitivity": [0.9, 0.8], "specificity": [0.9, 0.9], "edge": 1.0}
    for draw in (
        lambda rng: draw_patterns(3, num_raters=2, pixels=50, var_pixel=1, var_rater=1, rng=rng).counts,
        lambda rng: draw_masks(3, num_raters=2, var_pixel=1, var_rater=1, rng=rng),
        lambda rng: draw_lesions(3, **lesion, rng=rng).masks,
    ):
        assert draw(7).equal(draw(np.random.default_rng(7)))
        assert not draw(7).equal(draw(8))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: draw_patterns(1, num_raters=1, pixels=9, var_pixel=1, var_rater=1),
            r"`num_raters` must be from 2 to 16",
        ),
        (
            lambda: draw_patterns(0, num_raters=2, pixels=9, var_pixel=1, var_rater=1),
            r"`images` must be from 1 on, found 0",
        ),
        (
            lambda: draw_patterns(1, num_raters=2, pixels=9, var_pixel=-1, var_rater=1),
            r"`var_pixel` must be from 0 on, found -1",
        ),
        (lambda: draw_masks(1, num_raters=2, var_pixel=1, var_rater=math.nan), r"`var_rater` .* found nan"),
        (lambda: draw_masks(1, num_raters=2, var_pixel=1, var_rater=1, smoothness=-1), r"`smoothness` must be from 0"),
        (lambda: draw_lesions(1, sensitivity=[1.2, 1], specificity=[1, 1]), r"`sensitivity` must lie between 0 and 1"),
        (lambda: draw_lesions(1, sensitivity=[1, 1], specificity=[1]), r"one value a rater, found 2 and 1"),
        (lambda: draw_lesions(1, sensitivity=[1, 1], specificity=[1, 1], prevalence=2), r"`prevalence` must lie"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
