"""One confusion for each rater: formula by loops, gradients, what is left alone, and a simulation with known raters."""

import math

import pytest
import torch

from irrbench.training.annotators import AnnotatorLoss
from irrbench.training.losses import LOSSES, make_loss
from tests.training.blobs import PEOPLE, SENSITIVITY, SPECIFICITY, dice_of, made, small_network, trained


def batch(images=3, raters=2, size=(4, 5), seed=0, dtype=torch.float64):
    """Logits, masks, who drew what, and a region of interest."""
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, 1, *size, generator=draw, dtype=dtype)
    masks = (torch.rand(images, raters, *size, generator=draw) < 0.4).to(dtype)
    present = torch.rand(images, raters, generator=draw) < 0.6
    present[0], present[1] = True, False
    return logits, masks, present, torch.rand(images, 1, *size, generator=draw) < 0.7


def slow(logits, masks, present, roi, raters, trace_weight):
    """Zhang et al.'s formula for one confusion a rater, in floats: raters are pairs of sensitivity and specificity."""
    losses, traces = [], []
    for r, (sensitivity, specificity) in enumerate(raters):
        entropies = []
        for z, y, drew, inside in zip(logits, masks, present, roi, strict=True):
            if not drew[r]:
                continue
            for logit, mark in zip(z[inside].tolist(), y[r][inside[0]].tolist(), strict=True):
                p = 1 / (1 + math.exp(-logit))
                marked = sensitivity * p + (1 - specificity) * (1 - p)
                entropies.append(-math.log(marked if mark else 1 - marked))
        if entropies:
            losses.append(sum(entropies) / len(entropies))
            traces.append(sensitivity + specificity)
    return sum(losses) / len(losses) + trace_weight * sum(traces) / len(traces)


def with_raters(loss, raters):
    """The loss with these sensitivities and specificities."""
    loss = loss.double()
    with torch.no_grad():
        steps = torch.logit(torch.tensor(raters, dtype=torch.float64)) - loss._confusion_logits()
        loss.offsets += steps / 50
    return loss


@pytest.mark.parametrize("size", [(4, 5), (2, 3, 4)])
def test_with_cross_entropy_it_is_the_formula_of_zhang_et_al(size):
    raters = [(0.8, 0.95), (0.6, 0.99)]
    loss = with_raters(AnnotatorLoss(2, make_loss("bce"), trace_weight=0.3), raters)
    assert loss(*batch(size=size)).item() == pytest.approx(slow(*batch(size=size), raters, 0.3))
    expected = torch.tensor([[[0.95, 0.05], [0.2, 0.8]], [[0.99, 0.01], [0.4, 0.6]]]).double()
    torch.testing.assert_close(loss.confusions, expected)
    torch.testing.assert_close(loss.sensitivity, torch.tensor([0.8, 0.6]).double())
    torch.testing.assert_close(loss.specificity, torch.tensor([0.95, 0.99]).double())


def test_gradients_of_network_and_raters_are_those_of_finite_differences():
    logits, masks, present, roi = batch()
    loss = AnnotatorLoss(2, make_loss("bce"), trace_weight=0.3).double()

    def value(z, offsets):
        return torch.func.functional_call(loss, {"offsets": offsets}, (z, masks, present, roi))

    # differences of the value are those of the formula, as cross entropy is what both parts learn by
    assert torch.autograd.gradcheck(
        value, (logits.requires_grad_(), 0.01 * torch.randn(2, 2).double().requires_grad_())
    )


@pytest.mark.parametrize("name", [name for name, kind in LOSSES.items() if kind.annotators])
def test_raters_learn_by_cross_entropy_whatever_the_network_learns_by(name):
    found = []
    for loss in (make_loss(name), make_loss("bce")):
        annotators = AnnotatorLoss(2, loss).double()
        annotators(*batch()).backward()
        found.append(annotators.offsets.grad)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", [name for name, kind in LOSSES.items() if kind.annotators])
def test_perfect_raters_are_no_raters(name):
    logits, masks, present, roi = batch(raters=1)
    present[:] = True
    loss = with_raters(AnnotatorLoss(1, make_loss(name), trace_weight=0), [(1 - 1e-12, 1 - 1e-12)])
    assert loss(logits, masks, present, roi).item() == pytest.approx(make_loss(name)(logits, masks, roi).item())


@pytest.mark.parametrize("name", [name for name, kind in LOSSES.items() if kind.annotators])
def test_values_and_gradients_are_finite(name):
    logits, masks, present, roi = batch(dtype=torch.float32)
    logits = (1e4 * logits.sign()).requires_grad_()
    loss = AnnotatorLoss(2, make_loss(name))
    with torch.no_grad():
        loss.offsets += torch.tensor([[3.0, 3.0], [-3.0, 3.0]])  # sensitivities and specificities of exactly 0 and 1
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits, masks, present, roi)
    value.backward()
    assert value.isfinite()
    assert value.dtype == torch.float32
    assert logits.grad.isfinite().all()
    assert loss.offsets.grad.isfinite().all()


def test_masks_that_nobody_drew_and_pixels_outside_the_roi_do_not_count():
    logits, masks, present, roi = batch()
    other, other_masks, _, _ = batch(seed=1)
    drawn = present[:, :, None, None] & roi
    for spoilt in ((torch.where(roi, logits, other * 100), masks), (logits, torch.where(drawn, masks, other_masks))):
        found = []
        for z, y in ((logits, masks), spoilt):
            z, loss = z.clone().requires_grad_(), AnnotatorLoss(2, make_loss("dice_bce")).double()  # noqa: PLW2901
            value = loss(z, y, present, roi)
            value.backward()
            found.append((value, z.grad, loss.offsets.grad))
        for left, right in zip(*found, strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=1e-15)


def test_a_rater_without_images_keeps_the_start_and_changes_nothing():
    logits, masks, present, roi = batch(raters=3)
    present[:, 1] = False
    loss, fewer = AnnotatorLoss(3, make_loss("bce")).double(), AnnotatorLoss(2, make_loss("bce")).double()
    optimizer = torch.optim.AdamW(loss.parameters(), lr=2e-3, weight_decay=0.1)
    others = [0, 2]
    assert loss(logits, masks, present, roi) == fewer(logits, masks[:, others], present[:, others], roi)
    for _ in range(20):
        optimizer.zero_grad()
        loss(logits, masks, present, roi).backward()
        optimizer.step()
    assert loss.sensitivity[1].item() == pytest.approx(0.9, abs=1e-6)
    assert loss.specificity[1].item() == pytest.approx(0.99, abs=1e-6)
    assert (loss.sensitivity[others] - 0.9).abs().min() > 0.05


def test_a_batch_that_nobody_drew_gives_0():
    logits, masks, present, roi = batch()
    value = AnnotatorLoss(2, make_loss("bce"))(logits.requires_grad_(), masks, torch.zeros_like(present), roi)
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


def test_parameters_of_the_loss_are_trained_with_it():
    assert {name for name, _ in AnnotatorLoss(2, make_loss("t_loss")).named_parameters()} == {"offsets", "loss.log_nu"}


@pytest.mark.parametrize(
    ("raters", "options", "message"),
    [
        (0, {}, "num_raters must be 1 or more; found 0"),
        (2, {"trace_weight": -1}, "trace_weight must be a number of 0 or more; found -1"),
        (2, {"start": (0.4, 0.9)}, r"between .5 and 1; found \(0.4, 0.9\)"),
        (2, {"start": (0.9, 1.0)}, r"between .5 and 1; found \(0.9, 1.0\)"),
    ],
)
def test_wrong_options_are_refused(raters, options, message):
    with pytest.raises(ValueError, match=message):
        AnnotatorLoss(raters, make_loss("bce"), **options)


def test_another_number_of_raters_is_refused():
    with pytest.raises(
        ValueError, match=r"annotations \(B, 3, \*S\) .*; found \(3, 1, 4, 5\), \(3, 2, 4, 5\), \(3, 2\)"
    ):
        AnnotatorLoss(3, make_loss("bce"))(*batch())


def simulated(name, steps=400):
    """Largest errors of sensitivity and specificity, and Dice against the truth of both networks."""
    pixels, _, masks, present = made(80, 0)
    drawn = present[:, :, None, None]
    majority = (2 * (masks * drawn).sum(1) > present.sum(1)[:, None, None]).float()[:, None]
    roi = torch.ones_like(majority, dtype=torch.bool)
    usual, single = small_network(), make_loss(name)
    parameters = [*usual.parameters(), *single.parameters()]
    trained(usual, lambda i: single(usual(pixels[i]), majority[i], roi[i]), len(pixels), steps, parameters)
    trunk, each = small_network(), AnnotatorLoss(PEOPLE, make_loss(name))
    parameters = [*trunk.parameters(), *each.parameters()]
    trained(trunk, lambda i: each(trunk(pixels[i]), masks[i], present[i], roi[i]), len(pixels), steps, parameters)
    errors = (each.sensitivity - SENSITIVITY).abs().max(), (each.specificity - SPECIFICITY).abs().max()
    return *(error.item() for error in errors), dice_of(usual), dice_of(trunk)


@pytest.mark.slow
def test_known_raters_are_recovered_and_the_network_is_better_than_on_the_majority():
    sensitivity, specificity, usual, trunk = simulated("bce")
    assert sensitivity < 0.05
    assert specificity < 0.05
    assert trunk > usual + 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("name", "error", "gain"), [("dice_bce", 0.1, -0.01), ("t_loss", 0.05, 0.01)])
def test_known_raters_are_nearly_recovered_with_other_losses(name, error, gain):
    sensitivity, specificity, usual, trunk = simulated(name)
    assert sensitivity < error
    assert specificity < 0.05
    assert trunk > usual + gain
