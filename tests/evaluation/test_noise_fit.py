"""How much of its own labels a model has learnt: by hand, for the truth, for a rater, for a network that memorizes."""

from __future__ import annotations

import math

import pytest
import torch
from studies.label_noise import SmallUnet
from torch import nn

from irrbench.evaluation import Evaluator, noise_fit
from irrbench.scores import SCORES, Score
from irrbench.simulate import draw_lesions

TRAIN, VAL = slice(0, 150), slice(150, 300)


def pair(scores=("iou",), **options):
    validation = Evaluator("val", scores=scores, from_logits=False, **options)
    return Evaluator("train", scores=scores, from_logits=False, validation=[validation], **options), validation


def scored(train, val, epoch=0, evaluators=None):
    """Evaluators of two parts, each the predictions, masks and labels; validation ends first."""
    evaluators = evaluators or pair()
    for evaluator, (preds, masks, label) in list(zip(evaluators, (train, val), strict=True))[::-1]:
        evaluator.update(preds, masks, label=label)
        evaluator.finish(epoch)
    return evaluators


def random_part(images, seed):
    g = torch.Generator().manual_seed(seed)
    preds, *masks = (torch.rand(4, images, 6, 7, generator=g) < 0.4).unbind(0)
    return preds, torch.stack(masks, 1), torch.rand(images, 6, 7, generator=g) < 0.4


def iou(a, b):
    return (a & b).sum().item() / (a | b).sum().item()


def mean_gap(preds, masks, label):
    gaps = [
        iou(p, own) - sum(iou(p, mask) for mask in all_masks) / len(all_masks)
        for p, all_masks, own in zip(preds, masks, label, strict=True)
    ]
    return sum(gaps) / len(gaps)


def test_it_is_the_difference_of_the_gaps_of_both_parts():
    parts = random_part(5, 0), random_part(8, 1)
    train, val = scored(*parts)
    expected = mean_gap(*parts[0]) - mean_gap(*parts[1])
    values = train.values()
    assert values["train/iou_noise_fit"] == pytest.approx(expected, abs=1e-12)
    assert values["train/iou_label_gap"] == pytest.approx(mean_gap(*parts[0]), abs=1e-12)
    assert values["train/iou_label"] == pytest.approx(sum(map(iou, parts[0][0], parts[0][2])) / 5)
    assert train.noise_fit == noise_fit(train, val) == {"iou": values["train/iou_noise_fit"]}
    assert "val/iou_noise_fit" not in val.values()


def test_images_of_several_validation_sets_count_alike():
    one, other, own = random_part(3, 1), random_part(9, 2), random_part(5, 0)
    train, few = scored(own, one)
    _, many = scored(own, other)
    together = mean_gap(*(torch.cat([a, b]) for a, b in zip(one, other, strict=True)))
    assert noise_fit(train, few, many)["iou"] == pytest.approx(mean_gap(*own) - together, abs=1e-12)


def test_validation_of_another_epoch_or_without_labels_gives_none():
    parts = random_part(5, 0), random_part(8, 1)
    train, val = scored(*parts, epoch=3)
    assert "train/iou_noise_fit" in train.values()
    train.update(parts[0][0], parts[0][1], label=parts[0][2])
    assert "train/iou_noise_fit" not in train.finish(4)
    assert not math.isnan(noise_fit(train, val)["iou"])  # who asks for it knows which model it was
    preds, masks, _ = parts[1]
    train, val = scored(parts[0], (preds, masks, None))
    assert [key for key in train.values() if "noise_fit" in key] == []
    assert math.isnan(noise_fit(train, val)["iou"])
    assert math.isnan(noise_fit(train)["iou"])


def test_a_score_where_lower_is_better_is_turned(monkeypatch):
    error = Score("error", "Error rate", lambda t: (t.fp + t.fn) / t.total, higher_is_better=False)
    monkeypatch.setitem(SCORES, "error", error)
    parts = random_part(5, 0), random_part(8, 1)
    train, _ = scored(*parts, evaluators=pair(("error", "accuracy")))
    assert train.noise_fit["error"] == pytest.approx(train.noise_fit["accuracy"], abs=1e-12)
    assert train.summary["error"].label_gap == pytest.approx(train.summary["accuracy"].label_gap, abs=1e-12)
    assert {key for key in train.values() if "noise" in key} == {"train/error_noise_fit"}  # of the main score


# Simulated raters, who draw wide or tight and err along the border; the fifth is no rater of the data -----------------


@pytest.fixture(scope="module")
def lesions():
    return draw_lesions(300, sensitivity=[1] * 5, specificity=[1] * 5, size=(32, 32), edge=1.5, rng=5)


def labels_of(strategy, masks):
    if strategy == "majority":
        return masks.sum(1) > 2
    if strategy == "random":
        place = torch.randint(4, (len(masks),), generator=torch.Generator().manual_seed(0))
        return masks[torch.arange(len(masks)), place]
    return masks[:, strategy]


def error(*evaluators):
    """Standard error over images."""
    gaps = [evaluator.table["iou_label_gap"] for evaluator in evaluators]
    return math.sqrt(sum(gap.var() / gap.count() for gap in gaps))


@pytest.mark.parametrize("strategy", [0, 1, "majority", "random"])
@pytest.mark.parametrize("who", ["truth", "another rater"])
def test_it_is_near_0_for_whoever_has_seen_no_label(lesions, strategy, who):
    masks, preds = lesions.masks[:, :4], lesions.truth if who == "truth" else lesions.masks[:, 4]
    label = labels_of(strategy, masks)
    train, val = scored(*((preds[part], masks[part], label[part]) for part in (TRAIN, VAL)))
    found = train.noise_fit["iou"]
    assert abs(found) < 3 * error(train, val) < 0.07
    if who == "truth":
        # The distance to the ceiling is no measure of noise: the truth agrees with labels better than raters do.
        assert train.summary["iou"].label - train.summary["iou"].ceiling > 0.03
    if strategy == "majority":
        # On all images alike the truth agrees better with a consensus than with anyone, and who draws wide worse.
        assert abs(train.summary["iou"].label_gap) > 0.03


@pytest.mark.parametrize("strategy", [0, "majority"])
def test_it_grows_with_the_share_of_the_label_that_was_memorized(lesions, strategy):
    masks, truth = lesions.masks[:, :4], lesions.truth
    label = labels_of(strategy, masks)
    knows = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0))
    fits = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        preds = torch.where(knows < share, label, truth)
        preds[VAL] = truth[VAL]
        train, _ = scored(*((preds[part], masks[part], label[part]) for part in (TRAIN, VAL)))
        fits.append(train.noise_fit["iou"])
    assert fits == sorted(fits)
    assert fits[-1] - fits[0] > 0.1


def test_a_network_that_memorizes_one_rater_is_found_out():
    options = {"size": (16, 16), "edge": 1.0, "smoothness": 3, "rng": 0}
    masks, truth = draw_lesions(40, sensitivity=[1] * 4, specificity=[1] * 4, **options)
    torch.manual_seed(0)
    image, label = truth[:, None] + 0.3 * torch.randn(40, 1, 16, 16), masks[:, 0]
    net, few, rest = SmallUnet(1, width=8), slice(0, 8), slice(8, 40)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    evaluators, fits = pair(), []
    for epoch in range(161):
        with torch.no_grad():
            preds = net(image)[:, 0] > 0
        if epoch in (20, 60, 160):
            train, _ = scored(*((preds[x], masks[x], label[x]) for x in (few, rest)), epoch, evaluators)
            fits.append(train.noise_fit["iou"])
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(net(image[few])[:, 0], label[few].float()).backward()
        optimizer.step()
    assert fits[0] < 0.05
    assert fits[-1] > 0.1
    assert train.summary["iou"].label > 0.95
