"""Losses: formulas against loops of plain floats, gradients, limits by hand, and pixels that must not count."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from irrbench.training.losses import LOSSES, SOFT_LABELS, check_loss, dice_bce, make_loss
from tests.training.blobs import dice_of, made, small_network, trained

OPTIONS = {
    "focal": [{}, {"gamma": 1.5, "alpha": 0.3}, {"gamma": 0}],
    "tversky": [{}, {"alpha": 0.5, "beta": 0.5}],
    "lovasz": [{}, {"per_image": True}],
    "gce": [{}, {"q": 0.3}, {"q": 1}],
    "sce": [{}, {"alpha": 2.0, "beta": 0.5, "log_zero": -6}],
    "nr_dice": [{}, {"gamma": 1, "background": False}, {"gamma": 2.0, "epsilon": 0.1}],
    "t_loss": [{}, {"nu": 7.5}],
}
CASES = [(name, options) for name in LOSSES for options in OPTIONS.get(name, [{}])]
SOFT = [(*case, soft) for case in CASES for soft in (False, True)[: 1 + LOSSES[case[0]].takes_soft]]
FULLY = [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(CASES)]


def batch(seed=0, shape=(3, 1, 4, 5), *, soft=False, dtype=torch.float64):
    """Logits, labels and a region of interest."""
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=draw, dtype=dtype)
    shares = torch.rand(shape, generator=draw, dtype=dtype)
    label = shares if soft else (shares < 0.4).to(dtype)
    return logits, label, torch.rand(shape, generator=draw) < 0.7


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def entropy(z, y):
    return -(y * math.log(sigmoid(z)) + (1 - y) * math.log(1 - sigmoid(z)))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def slow_bce(images):
    return mean(entropy(z, y) for z, y in itertools.chain(*images))


def slow_dice(images):
    pairs = [(sigmoid(z), y) for z, y in itertools.chain(*images)]
    return sum(abs(p - y) for p, y in pairs) / (sum(p + y for p, y in pairs) + 1)


def slow_focal(images, gamma=2.0, alpha=None):
    def one(z, y):
        right = sigmoid(z) if y else 1 - sigmoid(z)
        weight = 1 if alpha is None else alpha if y else 1 - alpha
        return -weight * (1 - right) ** gamma * math.log(right)

    return mean(one(z, y) for z, y in itertools.chain(*images))


def slow_tversky(images, alpha=0.3, beta=0.7):
    pairs = [(sigmoid(z), y) for z, y in itertools.chain(*images)]
    distance, size, marked = (sum(map(f, pairs)) for f in (lambda a: abs(a[0] - a[1]), lambda a: a[0], lambda a: a[1]))
    both = (size + marked - distance) / 2
    return 1 - both / (both + alpha * (size - both) + beta * (marked - both))


def slow_lovasz(images, *, per_image=False):
    """Each pixel's hinge times what its error adds to 1 - IoU, from the largest error to the smallest."""
    if per_image:
        return mean(slow_lovasz([image]) for image in images)
    pixels = sorted(((1 - z * (2 * y - 1), y) for z, y in itertools.chain(*images)), reverse=True)
    marked, total, before = sum(y for _, y in pixels), 0.0, 0.0
    for count in range(1, len(pixels) + 1):
        missed = sum(y for _, y in pixels[:count])
        loss = 1 - (marked - missed) / (marked + count - missed)
        total += max(0.0, pixels[count - 1][0]) * (loss - before)
        before = loss
    return total


def slow_gce(images, q=0.7):
    return mean((1 - (sigmoid(z) if y else 1 - sigmoid(z)) ** q) / q for z, y in itertools.chain(*images))


def slow_sce(images, alpha=0.1, beta=1.0, log_zero=-4.0):
    def log(share):
        return max(math.log(share), log_zero) if share > 0 else log_zero

    def one(z, y):
        return alpha * entropy(z, y) - beta * (sigmoid(z) * log(y) + (1 - sigmoid(z)) * log(1 - y))

    return mean(one(z, y) for z, y in itertools.chain(*images))


def slow_nr_dice(images, gamma=1.5, epsilon=1e-5, *, background=True):
    def one(pairs):
        return sum(abs(p - y) ** gamma for p, y in pairs) / (sum(p * p + y * y for p, y in pairs) + epsilon)

    lesion = [(sigmoid(z), y) for z, y in itertools.chain(*images)]
    return mean(one(pairs) for pairs in (lesion, [(1 - p, 1 - y) for p, y in lesion])[: 1 + background])


def slow_t_loss(images, nu=1.0):
    """-log of the density of a multivariate t with location p, identity scale and nu degrees of freedom."""
    from scipy.stats import multivariate_t

    def one(image):
        location = [sigmoid(z) for z, _ in image]
        return -multivariate_t(location, shape=1, df=nu + 1e-8).logpdf([y for _, y in image])

    return mean(one(image) for image in images)


SLOW = {
    "bce": slow_bce,
    "dice": slow_dice,
    "dice_bce": lambda images: slow_bce(images) + slow_dice(images),
    "focal": slow_focal,
    "tversky": slow_tversky,
    "lovasz": slow_lovasz,
    "gce": slow_gce,
    "sce": slow_sce,
    "nr_dice": slow_nr_dice,
    "t_loss": slow_t_loss,
}


def pixels(logits, label, roi):
    """Pairs of logit and label in the region of interest, a list for each image."""
    return [list(zip(z[r].tolist(), y[r].tolist(), strict=True)) for z, y, r in zip(logits, label, roi, strict=True)]


@pytest.mark.parametrize(("name", "options", "soft"), SOFT)
@pytest.mark.parametrize("shape", [(3, 1, 4, 5), (1, 1, 2, 3, 4)])
def test_values_are_those_of_a_loop_over_pixels(name, options, soft, shape):
    logits, label, roi = batch(1, shape, soft=soft)
    found = make_loss(name, init_args=options)(logits, label, roi)
    single = {"lovasz": 1e-5, "t_loss": 1e-7}  # precision of the computation, and of the parameter
    expected = SLOW[name](pixels(logits, label, roi), **options)
    assert found.item() == pytest.approx(expected, rel=single.get(name, 1e-9))


@pytest.mark.parametrize(("name", "options"), FULLY)
def test_gradients_are_those_of_finite_differences(name, options):
    logits, label, roi = batch(2, (2, 1, 3, 4))
    loss = make_loss(name, init_args=options).double()
    inputs = (logits.requires_grad_(), *loss.parameters())
    # single precision inside, but made of straight pieces: a large step is exact
    steps = {"eps": 1e-3, "atol": 1e-3} if name == "lovasz" else {}
    assert torch.autograd.gradcheck(lambda z, *_: loss(z, label, roi), inputs, nondet_tol=0, **steps)


def test_the_parameter_of_the_t_loss_has_a_gradient():
    loss = make_loss("t_loss").double()
    loss(*batch(2)).backward()
    slow, step = slow_t_loss(pixels(*batch(2))), 1e-5
    more = slow_t_loss(pixels(*batch(2)), nu=math.exp(step))
    assert loss.log_nu.grad.item() == pytest.approx((more - slow) / step, rel=1e-3)
    assert [name for name, _ in loss.named_parameters()] == ["log_nu"]


@pytest.mark.parametrize(("name", "options"), FULLY)
@given(seed=st.integers(0, 10**6), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_what_lies_outside_the_roi_changes_neither_value_nor_gradient(name, options, seed, dtype):
    logits, label, roi = batch(seed, dtype=dtype)
    other, other_label, _ = batch(seed + 1, dtype=dtype)
    spoilt = torch.where(roi, logits, torch.where(other > 1, math.nan, other * 1e4))
    found = []
    for given_logits, y in ((logits, label), (spoilt, torch.where(roi, label, other_label))):
        z = given_logits.clone().requires_grad_()
        value = make_loss(name, init_args=options)(z, y, roi)
        value.backward()
        found.append((value, z.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert not found[1][1][~roi].any()


@pytest.mark.parametrize(("name", "options"), FULLY)
def test_padding_changes_nothing(name, options):
    loss = make_loss(name, init_args=options)
    logits, label, roi = batch(3)
    padded = [functional.pad(each, (2, 1, 0, 3)) for each in (logits, label, roi)]
    assert loss(*padded).item() == pytest.approx(loss(logits, label, roi).item(), rel=1e-6)


@pytest.mark.parametrize(("name", "options"), FULLY)
@pytest.mark.parametrize("size", [1e4, 30, 0])
@pytest.mark.parametrize("mark", ["some", "none", "all", "no roi"])
@pytest.mark.parametrize("shape", [(1, 1, 4, 6), (2, 1, 3, 2, 4), (1, 1, 1, 1)])
def test_values_and_gradients_are_finite(name, options, size, mark, shape):
    draw = torch.Generator().manual_seed(0)
    signs = torch.rand(shape, generator=draw).sub(0.5).sign()
    logits = (size * signs).requires_grad_()
    label = {"none": torch.zeros(shape), "all": torch.ones(shape)}.get(mark, (torch.rand(shape) < 0.5).float())
    roi = torch.full(shape, mark != "no roi")
    loss = make_loss(name, init_args=options)
    value = loss(logits, label, roi)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())
    if mark == "no roi":
        assert value.item() == 0
        assert not logits.grad.any()


@pytest.mark.parametrize(("name", "options"), FULLY)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single_precision(name, options, half):
    logits, label, roi = batch(5, (8, 1, 96, 96), dtype=torch.float32)  # more pixels than float16 can count
    loss, low = make_loss(name, init_args=options), logits.to(half).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(low, label, roi)
    found.backward()
    assert found.dtype == torch.float32
    assert found.item() == loss(logits.to(half).float(), label, roi).item()
    assert low.grad.dtype == half
    assert low.grad.isfinite().all()


def test_earlier_losses_have_the_values_that_they_had():
    for seed, soft in itertools.product(range(5), (False, True)):
        logits, label, roi = batch(seed, (8, 1, 31, 33), soft=soft, dtype=torch.float32)
        weight, p = roi.float(), torch.sigmoid(logits)
        cross = functional.binary_cross_entropy_with_logits(logits, label, weight, reduction="sum")
        cross = cross / weight.sum().clamp_min(1)
        overlap = (weight * (p - label).abs()).sum() / ((weight * (p + label)).sum() + 1)
        for name, expected in (("bce", cross), ("dice", overlap), ("dice_bce", cross + overlap)):
            assert torch.equal(make_loss(name)(logits, label, roi), expected)
        assert torch.equal(make_loss()(logits, label, roi), dice_bce(logits, label, roi))


def test_gce_lies_between_cross_entropy_and_absolute_error():
    logits, label, roi = batch(6)
    absolute = (torch.sigmoid(logits) - label).abs()[roi].mean().item()
    assert make_loss("gce", init_args={"q": 1})(logits, label, roi).item() == pytest.approx(absolute)
    near = make_loss("gce", init_args={"q": 1e-7})(logits, label, roi).item()
    assert near == pytest.approx(make_loss("bce")(logits, label, roi).item(), rel=1e-5)


def test_sce_is_a_sum_of_cross_entropy_and_scaled_absolute_error():
    logits, label, roi = batch(7)
    cross = make_loss("bce")(logits, label, roi).item()
    absolute = make_loss("gce", init_args={"q": 1})(logits, label, roi).item()
    alone = make_loss("sce", init_args={"alpha": 0.3, "beta": 0})(logits, label, roi).item()
    assert alone == pytest.approx(0.3 * cross)
    both = make_loss("sce", init_args={"alpha": 0.3, "beta": 2, "log_zero": -5})(logits, label, roi).item()
    assert both == pytest.approx(0.3 * cross + 2 * 5 * absolute)


def test_nr_dice_is_dice_of_squares_at_2_and_weighted_absolute_error_at_1():
    logits, label, roi = batch(8)
    p, y = torch.sigmoid(logits)[roi], label[roi]
    size = (p * p + y * y).sum()
    squares = 1 - 2 * (p * y).sum() / size
    found = make_loss("nr_dice", init_args={"gamma": 2, "epsilon": 1e-12, "background": False})(logits, label, roi)
    assert found.item() == pytest.approx(squares.item())
    found = make_loss("nr_dice", init_args={"gamma": 1, "epsilon": 1e-12, "background": False})(logits, label, roi)
    assert found.item() == pytest.approx(((p - y).abs().sum() / size).item())


def test_t_loss_of_many_degrees_of_freedom_is_squared_error_and_of_few_counts_outliers_less():
    logits, label, roi = batch(9)
    near = make_loss("t_loss", init_args={"nu": 1e7}).double()(logits, label, roi).item()
    squared = (torch.sigmoid(logits) - label).square().mul(roi).sum().item() / 2
    counts = roi.sum().item()
    assert near == pytest.approx((squared + counts / 2 * math.log(2 * math.pi)) / len(logits), rel=1e-4)

    def gradient(nu, z):
        z = torch.full((1, 1, 1, 1), z, dtype=torch.float64, requires_grad=True)
        make_loss("t_loss", init_args={"nu": nu})(z, torch.zeros_like(z), torch.ones_like(z).bool()).backward()
        return z.grad.item() / (sigmoid(z.item()) * (1 - sigmoid(z.item())))  # by probability

    assert gradient(1e6, 4.0) / gradient(1e6, 0.0) == pytest.approx(sigmoid(4) / 0.5, rel=1e-3)
    assert gradient(0.1, 4.0) / gradient(0.1, 0.0) < 0.8


def test_values_are_those_of_the_library_where_the_roi_is_everything():
    from segmentation_models_pytorch import losses as smp

    logits, label, _ = batch(10, (4, 1, 16, 15), dtype=torch.float32)
    roi = torch.ones_like(label, dtype=torch.bool)
    peers = {
        "focal": smp.FocalLoss("binary"),
        "tversky": smp.TverskyLoss("binary", alpha=0.3, beta=0.7),
        "lovasz": smp.LovaszLoss("binary"),
    }
    for name, peer in peers.items():
        assert make_loss(name)(logits, label, roi).item() == pytest.approx(peer(logits, label).item(), rel=1e-6)


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].takes_soft and name not in ("sce", "t_loss")])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_soft_labels_are_met(name, share):
    label = torch.full((1, 1, 5, 10), share, dtype=torch.float64)
    values = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    losses = [make_loss(name)(torch.logit(p).expand(1, 1, 5, 10), label, label > 0).item() for p in values]
    assert values[int(torch.tensor(losses).argmin())].item() == pytest.approx(share, abs=0.006)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gcd", {}, r"There is no loss 'gcd' among dice_bce, bce, .*t_loss\. Did you mean 'gce'\?"),
        ("gce", {"Q": 1}, r"init_args of loss gce: unknown option 'Q'\. Known are q"),
        ("tversky", {"alfa": 1}, r"init_args of loss tversky: unknown option 'alfa'\. Did you mean 'alpha'\?"),
        ("bce", {"q": 1}, r"init_args of loss bce: unknown option 'q'\. It has none"),
        ("gce", {"q": 0}, r"init_args of loss gce: q must be a number above 0 and at most 1; found 0\."),
        ("gce", {"q": 1.01}, "q must be a number above 0 and at most 1; found 1.01"),
        ("gce", {"q": math.nan}, "q must be .*; found nan"),
        ("gce", {"q": "half"}, "q must be .*; found 'half'"),
        ("gce", {"q": True}, "q must be .*; found True"),
        ("sce", {"alpha": -1}, "alpha must be a number of 0 or more; found -1"),
        ("sce", {"log_zero": 0}, "log_zero must be a number below 0; found 0"),
        ("sce", {"alpha": 0, "beta": 0}, "alpha and beta must not both be 0"),
        ("nr_dice", {"gamma": 2.5}, "gamma must be a number from 1 to 2; found 2.5"),
        ("nr_dice", {"epsilon": 0}, "epsilon must be a number above 0; found 0"),
        ("t_loss", {"nu": 0}, "nu must be a number above 0; found 0"),
        ("focal", {"gamma": 0.5}, "gamma must be 0, or a number of 1 or more; found 0.5"),
        ("focal", {"gamma": "2"}, "gamma must be .*; found '2'"),
        ("focal", {"alpha": 1.5}, "alpha must be null, or a number from 0 to 1; found 1.5"),
        ("tversky", {"beta": math.inf}, "beta must be a number of 0 or more; found inf"),
        ("nr_dice", {"background": "no"}, "background must be true or false; found 'no'"),
        ("lovasz", {"per_image": 1}, "per_image must be true or false; found 1"),
    ],
)
def test_wrong_names_and_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_loss(name, init_args=options)
    with pytest.raises(ValueError, match=message):
        check_loss(name, init_args=options)


def test_soft_labels_are_refused_by_losses_of_two_classes():
    message = (
        r"loss gce takes labels that are 0 or 1, and the label 'soft' .* Take one of dice_bce, bce, .*nr_dice, t_loss"
    )
    with pytest.raises(ValueError, match=message):
        check_loss("gce", labels=["majority", *SOFT_LABELS])
    check_loss("gce", labels=["majority", "rater:soft", "random", "staple", "annotators"])
    check_loss("nr_dice", labels=["soft"])
    with pytest.raises(ValueError, match=r"loss lovasz does not lead .* 'annotators'. Take one of dice_bce, .* t_loss"):
        check_loss("lovasz", labels=["annotators"])
    assert {name for name, kind in LOSSES.items() if not kind.takes_soft} == {"focal", "lovasz", "gce"}


def test_shapes_that_differ_are_refused():
    logits, label, roi = batch()
    with pytest.raises(ValueError, match=r"one shape, .*; found \(3, 1, 4, 5\), \(3, 1, 4, 5\), \(3, 4, 5\)"):
        make_loss("gce")(logits, label, roi[:, 0])


def test_each_loss_says_where_it_is_from():
    for kind in LOSSES.values():
        assert kind.source
        assert kind.make.__doc__


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_a_network_learns_by_each_loss(name):
    pixels, truth, _, _ = made(80, 0)
    network, loss, roi = small_network(), make_loss(name), torch.ones_like(truth, dtype=torch.bool)
    parameters = [*network.parameters(), *loss.parameters()]
    trained(network, lambda i: loss(network(pixels[i]), truth[i], roi[i]), len(pixels), 400, parameters)
    assert dice_of(network) > 0.8
