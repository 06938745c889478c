"""How well people and models foretell each other: Brier score and calibration error of probabilities."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import binary_calibration_error

from irrbench import SegmentationBounds, VotePatterns, mask_bounds, segmentation_bounds
from irrbench._counting.levels import _count_by_bits, _sum_integers, count_and_sum_levels
from irrbench.callbacks import RaterBoundsMonitor
from irrbench.cuts import cut_scores
from irrbench.evaluation import Evaluator
from irrbench.evidence import EVIDENCE
from irrbench.plots.style import axis_range, range_key
from irrbench.probabilities import BINS, ProbabilityEvidence
from irrbench.scores import record
from irrbench.stats import clustered_mean
from tests.callbacks.toys import Module, loader, trainer

SCORES = ("brier", "ece")
CANDIDATES = ("floor", "blank", "ceiling", "majority", "model")


def of_pairs(name, guesses, marks, bins):
    """One score of two lists, pixel by pixel."""
    n = len(marks)
    if name == "brier":
        return sum((p - y) ** 2 for p, y in zip(guesses, marks, strict=True)) / n
    gaps = [0.0] * bins
    for p, y in zip(guesses, marks, strict=True):
        place = next(b for b in range(bins) if p * bins <= b + 1)
        gaps[place] += p - y
    return sum(map(abs, gaps)) / n


def slow(name, masks, roi, pred, present, bins=BINS):
    """By candidate, the score on each rater of one image; NaN without the rater or any other."""
    raters = [r for r in range(len(masks)) if present[r]]
    inside = [s for s in range(len(pred)) if roi[s]]
    found = {who: [math.nan] * len(masks) for who in CANDIDATES}
    for r in raters if len(raters) > 1 and inside else []:
        peers = [[float(masks[q][s]) for q in raters if q != r] for s in inside]
        share = [sum(votes) / len(votes) for votes in peers]
        own = [float(masks[r][s]) for s in inside]
        guesses = {
            "floor": [sum(share) / len(share)] * len(inside),
            "blank": [0.0] * len(inside),
            "ceiling": share,
            "majority": [(sum(votes) + y) / len(raters) for votes, y in zip(peers, own, strict=True)],
            "model": [float(pred[s]) for s in inside],
        }
        for who, guess in guesses.items():
            found[who][r] = of_pairs(name, guess, own, bins)
    return found


def drawn(images, raters, shape=(5, 7), seed=0):
    g = torch.Generator().manual_seed(seed)
    masks = torch.rand(images, raters, *shape, generator=g) < torch.rand(images, 1, *shape, generator=g)
    preds = torch.rand(images, *shape, generator=g)
    return masks, preds, torch.rand(images, *shape, generator=g) < 0.7


@pytest.mark.parametrize(("raters", "bins"), [(2, 32), (3, 5), (4, 32), (7, 4), (16, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_a_loop_over_pixels(raters, bins, dtype):
    masks, preds, roi = drawn(4, raters)
    preds = preds.to(dtype)
    preds[0, :2], preds[1], masks[2], roi[3] = 0.0, 1.0, False, False
    present = torch.rand(4, raters, generator=torch.Generator().manual_seed(1)) < 0.7
    present[0], present[1] = True, torch.arange(raters) == 1
    evidence = ProbabilityEvidence(masks, roi=roi, preds=preds, present=present, bins=bins)
    folds = segmentation_bounds(evidence, SCORES).folds
    for name in SCORES:
        for i in range(4):
            parts = masks[i].flatten(1), roi[i].flatten(), preds[i].flatten(), present[i]
            for who, values in slow(name, *parts, bins).items():
                np.testing.assert_allclose(folds[who][name][i], values, atol=1e-9, err_msg=f"{name} {who} {i}")


def test_the_model_of_a_rater_by_scikit_learn_and_torchmetrics():
    masks, preds, roi = drawn(1, 3, (40, 50))
    folds = segmentation_bounds(ProbabilityEvidence(masks, roi=roi, preds=preds), SCORES).folds["model"]
    for r in range(3):
        p, y = preds[0][roi[0]], masks[0, r][roi[0]]
        assert folds["brier"][0, r].item() == pytest.approx(brier_score_loss(y.numpy(), p.double().numpy()), abs=1e-9)
        expected = binary_calibration_error(p, y.long(), n_bins=BINS, norm="l1")
        assert folds["ece"][0, r].item() == pytest.approx(expected.item(), abs=1e-6)  # it sums in single precision


def test_by_hand():
    masks = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]])
    preds = torch.tensor([[0.75, 0.5, 0.25, 0.0]])
    bounds = segmentation_bounds(ProbabilityEvidence(masks, preds=preds), SCORES)
    # Rater 0 is told by 1, 1/2, 0, 0; rater 1 by 1, 1, 0, 0; rater 2 as rater 0.
    assert bounds.raters["brier"].tolist() == [[1 / 16, 1 / 4, 1 / 16]]
    assert bounds.raters["ece"].tolist() == [[1 / 8, 1 / 4, 1 / 8]]
    # Their prevalences, 3/8 against 1/2 and 1/2 against 1/4, as constants.
    floor = bounds.folds["floor"]
    assert floor["brier"].tolist() == [[17 / 64, 1 / 4, 17 / 64]]
    assert floor["ece"].tolist() == [[1 / 8, 1 / 4, 1 / 8]]
    assert bounds.folds["blank"]["brier"].tolist() == [[1 / 2, 1 / 4, 1 / 2]]
    assert bounds.folds["majority"]["brier"][0].tolist() == pytest.approx([1 / 36, 4 / 36, 1 / 36])
    # .25**2 + .5**2 + .25**2 on each, over four pixels.
    assert bounds.folds["model"]["brier"].tolist() == [[0.09375] * 3]
    assert bounds.folds["model"]["ece"].tolist() == [[0.25] * 3]
    assert bounds.upper["brier"].isnan().all()


def test_identical_raters_are_foretold_and_perfect():
    masks = drawn(3, 1)[0].expand(-1, 4, -1, -1)
    bounds = segmentation_bounds(ProbabilityEvidence(masks, preds=masks[:, 0].float()), SCORES)
    for who in (bounds.ceiling, bounds.majority, bounds.model):
        assert all((who[name] == 0).all() for name in SCORES)
    assert (bounds.floor["brier"] > 0.1).all()
    assert (bounds.floor["ece"] < 1e-12).all()  # a constant is right on average
    assert record("ece").one_sided
    assert not record("brier").one_sided


@pytest.mark.parametrize("ties", ["average", "negative", "positive", "exclude"])
def test_order_of_raters_and_images_and_ties_do_not_matter(ties):
    masks, preds, roi = drawn(5, 4)
    expected = segmentation_bounds(ProbabilityEvidence(masks, roi=roi, preds=preds), SCORES)
    images, raters = torch.tensor([3, 1, 4, 0, 2]), torch.tensor([2, 0, 3, 1])
    other = ProbabilityEvidence(masks[images][:, raters], roi=roi[images], preds=preds[images])
    found = segmentation_bounds(other, SCORES, ties=ties)
    for name in SCORES:
        torch.testing.assert_close(found.raters[name], expected.raters[name][images][:, raters], rtol=0, atol=1e-14)
        torch.testing.assert_close(found.model[name], expected.model[name][images], rtol=0, atol=1e-14)


def test_an_absent_rater_is_as_if_never_asked():
    masks, preds, roi = drawn(3, 5)
    present = torch.tensor([1, 1, 0, 1, 1]).bool().expand(3, -1)
    padded = segmentation_bounds(ProbabilityEvidence(masks, roi=roi, preds=preds, present=present), SCORES)
    alone = segmentation_bounds(ProbabilityEvidence(masks[:, [0, 1, 3, 4]], roi=roi, preds=preds), SCORES)
    for name in SCORES:
        assert padded.raters[name][:, 2].isnan().all()
        for candidate in CANDIDATES:
            torch.testing.assert_close(getattr(padded, candidate)[name], getattr(alone, candidate)[name])


def population(images, raters, rng, shape=(24, 24)):
    """Masks of raters who are drawn from a population with a share of votes at each pixel."""
    share = rng.uniform(0.25, 0.75, (images, 1, *shape))
    return torch.from_numpy(rng.random((images, raters, *shape)) < share), torch.from_numpy(share[:, 0])


def over_confident(share):
    sharper = share**30 / (share**30 + (1 - share) ** 30)
    return {"cut at .5": (share > 0.5).double(), "sharpened": sharper}


@pytest.mark.parametrize("raters", [3, 5])
def test_who_knows_the_share_of_votes_beats_the_peers_and_the_over_confident_do_not(raters):
    """By theory: peers lose E[p (1 - p)] (1 + 1 / (R - 1)), the share of votes E[p (1 - p)]."""
    masks, share = population(40, raters, np.random.default_rng(0))
    models = {"share": share, **over_confident(share)}
    gains = {}
    for name, p in models.items():
        metric = SegmentationBounds(SCORES, from_logits=False)
        metric.update(p, masks)
        table = metric.per_image()
        gains[name] = clustered_mean(table["brier_ceiling"] - table["brier"], level=0.9999)
        noise = float((share * (1 - share)).mean())
        assert table["brier_ceiling"].mean() == pytest.approx(noise * (1 + 1 / (raters - 1)), rel=0.02)
    assert gains["share"].low > 0
    assert gains["share"].mean == pytest.approx(noise / (raters - 1), rel=0.1)
    assert gains["cut at .5"].high < 0
    assert gains["sharpened"].high < 0


def test_the_share_of_votes_is_calibrated_and_the_over_confident_are_not():
    masks, share = population(40, 4, np.random.default_rng(1))
    found = {
        name: segmentation_bounds(ProbabilityEvidence(masks, preds=p), ["ece"]).model["ece"]
        for name, p in {"share": share, **over_confident(share)}.items()
    }
    # What is left is chance: 18 pixels a bin.
    assert found["share"].mean() < 0.08
    assert all(
        clustered_mean((found[name] - found["share"]).numpy(), level=0.9999).low > 0.1
        for name in found.keys() - {"share"}
    )


def test_the_metric_stores_what_the_function_gives_split_and_merged_alike():
    masks, preds, roi = drawn(6, 3)
    names = list("abcdef")
    bounds = segmentation_bounds(
        {
            "patterns": VotePatterns.from_masks(masks, roi=roi, preds=preds > 0.5),
            "probabilities": ProbabilityEvidence(masks, roi=roi, preds=preds),
        },
        ["brier", "iou", "ece"],
    )
    metric = SegmentationBounds(["brier", "iou", "ece"], from_logits=False)
    for part in (slice(4, 6), slice(0, 4), slice(0, 2)):
        metric.update(preds[part, None], masks[part], roi[part], names[part])
    table = metric.per_image().set_index("image_id").loc[names]
    for score in ("brier", "iou", "ece"):
        for candidate in ("model", "floor", "ceiling", "majority", "blank"):
            column = score if candidate == "model" else f"{score}_{candidate}"
            np.testing.assert_allclose(table[column], getattr(bounds, candidate)[score], atol=1e-12)
    np.testing.assert_array_equal(table["empty"], bounds.empty)  # of references, whatever the main score
    from_logits = SegmentationBounds(SCORES)
    from_logits.update(preds.double().logit(), masks, roi, names)
    np.testing.assert_allclose(from_logits.per_image()["brier"], table["brier"], atol=1e-9)
    value = metric.as_metric("brier_ceiling")
    value.update(preds, masks, roi, names)
    assert not value.higher_is_better
    assert value.compute().item() == pytest.approx(table["brier_ceiling"].mean())


@pytest.mark.parametrize("background", [False, True])
def test_label_maps_by_class_after_a_softmax(background):
    g = torch.Generator().manual_seed(0)
    masks, scores = torch.randint(0, 3, (4, 3, 5, 6), generator=g), torch.randn(4, 3, 5, 6, generator=g)
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    metric = SegmentationBounds(SCORES, num_classes=3, include_background=background)
    metric.update(scores, masks, present=present)
    table = metric.per_image()
    for c in range(0 if background else 1, 3):
        evidence = ProbabilityEvidence(masks == c, preds=scores.softmax(1)[:, c], present=present)
        own = segmentation_bounds(evidence, SCORES)
        for name in SCORES:
            np.testing.assert_allclose(table[f"{name}_class{c}"], own.model[name], atol=1e-12)
            np.testing.assert_allclose(table[f"{name}_class{c}_ceiling"], own.ceiling[name], atol=1e-12)
    assert table["brier"].isna().tolist() == [False, False, False, True]


def test_an_image_without_numbers_counts_as_the_worse_of_floor_and_blank():
    masks, preds, _ = drawn(4, 3)
    preds[1, 0, 0], preds[2] = math.nan, math.inf
    masks[2] = False  # blank is perfect there, and so is the floor
    metric = SegmentationBounds(SCORES)
    metric.update(preds.logit(), masks)
    table = metric.per_image()
    assert table["unusable"].tolist() == [False, True, True, False]
    for name in SCORES:
        worse = table[[f"{name}_floor", f"{name}_blank"]].max(axis=1)
        assert table[name][1:3].tolist() == worse[1:3].tolist()
    assert not metric.compute()["brier"].isnan()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_masks_stay_masks(dtype):
    masks, preds, _ = drawn(2, 3)
    mask = (preds > 0.5).to(dtype)
    message = r"`preds` must be probabilities or logits .* a mask. For masks leave out brier, ece"
    for score in SCORES:
        metric, evaluator = SegmentationBounds(["iou", score]), Evaluator("val", scores=["iou", score])
        for taker in (metric, evaluator):
            with pytest.raises(ValueError, match=message):
                taker.update(mask, masks)
    metric.update(preds, masks)
    with pytest.raises(ValueError, match=message):
        metric.update(mask, masks)
    assert len(metric.per_image()) == 2  # what came before stays


class Masked(Module):
    """Predicts masks."""

    def validation_step(self, batch, index):
        return {"preds": self(batch["image"]) > 0}


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
def test_the_monitor_refuses_masks_at_the_first_batch(tmp_path):
    monitor = RaterBoundsMonitor(roi="roi", image_id="id", predictions="preds", scores=["brier"], print_link=False)
    with pytest.raises(ValueError, match=r"found torch\.bool, a mask\. For masks leave out brier"):
        trainer([monitor], tmp_path).validate(Masked(), loader(), verbose=False)


def test_what_a_mask_or_a_patch_is_asked_for():
    masks, preds, _ = drawn(1, 3)
    with pytest.raises(ValueError, match="`mask_bounds` is for scores of masks, found brier"):
        mask_bounds(masks, preds > 0.5, ["brier"])
    with pytest.raises(ValueError, match="a threshold makes masks, and brier scores probabilities"):
        cut_scores(masks, (preds > 0.5).long(), "brier", num_levels=2)
    with pytest.raises(ValueError, match="`aggregate` adds counts of patches, and ece of an image is no sum"):
        SegmentationBounds(["ece"], aggregate="image")
    with pytest.raises(ValueError, match=r"`preds` must lie in \[0, 1\], found .* Logits need a sigmoid"):
        EVIDENCE["probabilities"].make(masks, preds * 9)


def test_sums_of_an_accelerator_are_those_of_the_processor():
    masks, preds, roi = drawn(3, 4)
    present = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1]]).bool()
    parts = masks.flatten(2), (preds.flatten(1) * 7).int(), preds.flatten(1)
    for inside in (None, roi.flatten(1)):
        counts, sums = count_and_sum_levels(*parts, present, inside, num_levels=7)
        torch.testing.assert_close(_sum_integers(*parts, present, inside, 7), sums, rtol=0, atol=1e-8)
        torch.testing.assert_close(_count_by_bits(*parts[:2], present, inside, 7), counts)
        assert counts.sum() == (roi.numel() if inside is None else roi.sum())


def test_no_device_is_waited_for():
    """Tensors on the meta device have no values: whoever asks for one gets an error there."""
    masks, preds, roi = (x.to("meta") for x in drawn(2, 3))
    present = torch.ones(2, 3, dtype=torch.bool, device="meta")
    tables = ProbabilityEvidence(masks, roi=roi, preds=preds, present=present).tables("negative")
    assert [field.shape for field in tables["model"]] == [(2, 3)] * 5


def test_small_values_are_shown_with_four_digits_on_axes_of_their_own():
    assert axis_range("brier") == axis_range("ece") == (0.0, math.inf)
    assert range_key("brier") != range_key("ece")
    evaluator = Evaluator("val", scores=["brier"], from_logits=False)
    masks, preds, _ = drawn(2, 3)
    evaluator.update(preds, masks)
    evaluator.finish()
    assert re.match(r"val brier 0\.\d{3} above 0\.\d{3} \(naive\) and 0\.\d{3} \(average rater\)", evaluator.line())
