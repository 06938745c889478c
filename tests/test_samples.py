"""Samples of a probabilistic model beside the raters' masks: a case by hand, slow loops, properties, real masks."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import irrbench.samples
from irrbench import generalized_energy_distance, sample_bounds
from irrbench.samples import _count_bits, _multiply

DATA = Path(os.environ.get("IRRBENCH_TEST_DATA", "nowhere"))
CANDIDATES = ("floor", "blank", "ceiling", "majority", "model")


def distance(x, y):
    """One minus IoU of two lists of 0/1."""
    union = sum(a or b for a, b in zip(x, y, strict=True))
    return 1 - sum(a and b for a, b in zip(x, y, strict=True)) / union if union else 0.0


def squared(samples, masks):
    """Kohl's formula, pair by pair."""
    cross = [distance(s, y) for s in samples for y in masks]
    within = [[distance(a, b) for a in some for b in some] for some in (samples, masks)]
    return 2 * np.mean(cross) - np.mean(within[0]) - np.mean(within[1])


def slow_folds(masks, samples, roi, present, ties):
    """Of one image by candidate, lists of ``ged`` and ``energy_score``, one a rater."""
    inside = [s for s in range(len(roi)) if roi[s]]
    cut = [[int(mask[s]) for s in inside] for mask in masks]
    there = [r for r in range(len(masks)) if present[r]]
    found = {name: ([math.nan] * len(masks), [math.nan] * len(masks)) for name in CANDIDATES}
    for r in there if len(there) > 1 and inside else []:
        peers, votes = [cut[q] for q in there if q != r], [sum(cut[q][s] for q in there) for s in range(len(inside))]
        timid, bold = ([int(2 * v > len(there) - tied) for v in votes] for tied in (0, 1))
        majorities = {"average": [timid, bold], "positive": [bold]}.get(ties, [timid])
        models = {
            "floor": [[1] * len(inside)],
            "blank": [[0] * len(inside)],
            "ceiling": [cut[r]],
            "model": [[int(sample[s]) for s in inside] for sample in samples],
        }
        for name, model in models.items():
            found[name][0][r] = squared(model, peers)
            found[name][1][r] = squared(peers if name == "ceiling" else model, [cut[r]]) / 2
        found["majority"][0][r] = np.mean([squared([mask], peers) for mask in majorities])
        found["majority"][1][r] = np.mean([squared([mask], [cut[r]]) / 2 for mask in majorities])
    return found


def batch(seed=0, *, size=5, raters=4, samples=6, empty=0.2):
    g = torch.Generator().manual_seed(seed)
    masks = torch.rand(size, raters, 3, 7, generator=g) < 0.4
    drawn = torch.rand(size, samples, 3, 7, generator=g) < 0.4
    masks &= torch.rand(size, raters, 1, 1, generator=g) > empty
    drawn &= torch.rand(size, samples, 1, 1, generator=g) > empty
    roi = torch.rand(size, 3, 7, generator=g) < 0.8
    return masks, drawn, roi, torch.rand(size, raters, generator=g) < 0.8


def test_by_hand():
    # Two raters with one of their two pixels in common: d = 1/2. The model knows both masks.
    masks = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]])
    assert generalized_energy_distance(masks, masks).item() == 0
    # 2 (0 + 1/2)/2 - 0 - (0 + 1/2 + 1/2 + 0)/4
    assert generalized_energy_distance(masks, masks[:, :1]).item() == 0.25
    bounds = sample_bounds(masks, masks)
    # On either rater alone: 2 (0 + 1/2)/2 - 1/4; the floor has d = 1/2 and 3/4; the average rater 1/2.
    assert bounds.model["ged"].item() == 0.25
    assert bounds.folds["floor"]["ged"].tolist() == [[2 * 0.75, 2 * 0.5]]
    assert bounds.ceiling["ged"].item() == 1
    assert bounds.blank["ged"].item() == 2
    # The majority is (1, 0, 0, 0) with ties as background, (1, 1, 0, 0) with ties as foreground.
    assert bounds.majority["ged"].item() == 0.5
    # With two raters the peers are one mask: the energy score is half of that.
    for candidate in CANDIDATES:
        assert getattr(bounds, candidate)["energy_score"].item() == getattr(bounds, candidate)["ged"].item() / 2


def test_the_two_ceilings_by_hand():
    # a = {0}, b = {0, 1}, c = {0, 1}: d(a, b) = d(a, c) = 1/2, d(b, c) = 0.
    masks = torch.tensor([[[1, 0, 0], [1, 1, 0], [1, 1, 0]]])
    bounds = sample_bounds(masks)
    assert bounds.model == {}
    # a on {b, c}: 2/2 - 0 - 0. b on {a, c}: 2 (1/2 + 0)/2 - 0 - (1/2 + 1/2)/4.
    assert bounds.raters["ged"].tolist() == [[1.0, 0.25, 0.25]]
    # {b, c} on a: 1/2. {a, c} on b: (1/2 + 0)/2 - 1/2 * (1/2 + 1/2)/4.
    assert bounds.raters["energy_score"].tolist() == [[0.5, 0.125, 0.125]]


@pytest.mark.parametrize("ties", ["average", "negative", "positive", "exclude"])
@pytest.mark.parametrize("raters", [2, 3, 4])
def test_the_same_as_a_slow_loop(raters, ties):
    masks, samples, roi, present = batch(raters, raters=raters)
    bounds = sample_bounds(masks, samples, roi=roi, present=present, ties=ties)
    flat = (x.flatten(2).tolist() for x in (masks, samples, roi[:, None]))
    for i, (drawn, given, (inside,)) in enumerate(zip(*flat, strict=True)):
        for name, by_score in slow_folds(drawn, given, inside, present[i], ties).items():
            for score, expected in zip(("ged", "energy_score"), by_score, strict=True):
                np.testing.assert_allclose(bounds.folds[name][score][i], expected, atol=1e-12)


def test_all_raters_as_the_paper_has_it():
    masks, samples, roi, present = batch(7)
    present[0] = False
    found = generalized_energy_distance(masks, samples, roi=roi, present=present)
    assert found[0].isnan()
    for i in range(1, len(masks)):
        there = [(mask & roi[i]).flatten().tolist() for mask in masks[i][present[i]]]
        given = [(sample & roi[i]).flatten().tolist() for sample in samples[i]]
        assert found[i].item() == pytest.approx(squared(given, there), abs=1e-12)


def test_the_order_of_raters_samples_and_images_does_not_matter():
    masks, samples, roi, present = batch(1)
    bounds = sample_bounds(masks, samples, roi=roi, present=present)
    order, raters, drawn = torch.randperm(5), torch.randperm(4), torch.randperm(6)
    other = sample_bounds(
        masks[order][:, raters], samples[order][:, drawn], roi=roi[order], present=present[order][:, raters]
    )
    for candidate in CANDIDATES:
        for score in ("ged", "energy_score"):
            folds = bounds.folds[candidate][score][order][:, raters]
            np.testing.assert_allclose(other.folds[candidate][score], folds, atol=1e-12)


def test_a_sample_that_is_given_several_times_is_one():
    masks, samples, roi, _ = batch(2)
    once = sample_bounds(masks, samples[:, :1], roi=roi)
    often = sample_bounds(masks, samples[:, :1].expand(-1, 5, -1, -1), roi=roi)
    for score in ("ged", "energy_score"):
        np.testing.assert_allclose(once.model[score], often.model[score], atol=1e-12)
        assert torch.equal(once.ceiling[score], often.ceiling[score])


def test_the_raters_own_masks_are_at_no_distance_from_them():
    masks, _, roi, present = batch(3)
    present[:, 0] = True
    there = masks & present[..., None, None]  # an absent rater's mask is not among them
    for i in range(len(masks)):
        own = there[i][present[i]][None]
        found = generalized_energy_distance(masks[i : i + 1], own, roi=roi[i : i + 1], present=present[i : i + 1])
        assert found.item() == pytest.approx(0, abs=1e-12)


def test_identical_raters_are_perfect():
    mask = batch(4, raters=2, empty=0)[0][:, :1]
    bounds = sample_bounds(mask.expand(-1, 3, -1, -1), mask.expand(-1, 2, -1, -1))
    for candidate in ("ceiling", "majority", "model"):
        assert all((values.abs() < 1e-12).all() for values in getattr(bounds, candidate).values())


def test_each_ceiling_is_that_of_a_model_that_draws_as_people_do_with_as_many_samples():
    masks = batch(8, raters=5, empty=0.3)[0]

    def means(num_raters, score):
        """Of all ways to take some of the five as raters and the others as samples."""
        ways = [list(some) for some in itertools.combinations(range(5), num_raters)]
        found = [sample_bounds(masks[:, way], masks[:, [m for m in range(5) if m not in way]]) for way in ways]
        return [
            torch.stack([values[score] for values in each]).mean(0)
            for each in ([b.ceiling for b in found], [b.model for b in found])
        ]

    np.testing.assert_allclose(*means(4, "ged"), atol=1e-12)  # one sample
    np.testing.assert_allclose(*means(3, "energy_score"), atol=1e-12)  # two of them, as there are two peers


@pytest.mark.parametrize("filler", [0, 1, -1])
def test_an_absent_rater_is_one_who_was_never_there(filler):
    masks, samples, roi, _ = batch(5)
    numbers = masks.long()
    numbers[:, 1] = filler
    present = torch.tensor([1, 0, 1, 1]).expand(5, -1)
    found = sample_bounds(numbers, samples, roi=roi, present=present)
    without = sample_bounds(masks[:, [0, 2, 3]], samples, roi=roi)
    for candidate in CANDIDATES:
        for score in ("ged", "energy_score"):
            values = found.folds[candidate][score]
            assert values[:, 1].isnan().all()
            np.testing.assert_allclose(values[:, [0, 2, 3]], without.folds[candidate][score], atol=1e-12)


def test_empty_masks_are_defined_and_what_is_not():
    masks, samples, roi, present = torch.zeros(3, 3, 4), torch.zeros(3, 2, 4), torch.ones(3, 4), torch.ones(3, 3)
    samples[:, 1, 0] = 1
    roi[1], present[2, 1:] = 0, 0
    bounds = sample_bounds(masks, samples, roi=roi, present=present)
    # All raters leave the image empty: so does one of two samples, 2 (0 + 1)/2 - 1/2 - 0.
    np.testing.assert_array_equal(bounds.model["ged"], [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(bounds.floor["ged"], [2, np.nan, np.nan])
    np.testing.assert_array_equal(bounds.blank["energy_score"], [0, np.nan, np.nan])
    np.testing.assert_array_equal(bounds.empty, [1, np.nan, np.nan])
    found = generalized_energy_distance(masks, samples, roi=roi, present=present)
    np.testing.assert_allclose(found, [0.5, np.nan, 0.5], atol=1e-12)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float32])
def test_values_of_any_type_that_are_a_mask(kind):
    masks, samples, _, _ = batch(6)
    expected = generalized_energy_distance(masks, samples)
    assert torch.equal(generalized_energy_distance(masks.to(kind), 255 * samples.to(kind)), expected)


@pytest.mark.parametrize("pixels", [1, 63, 64, 6300])
def test_pixels_are_counted_exactly_everywhere(monkeypatch, pixels):
    masks = torch.rand(2, 9, pixels, generator=torch.Generator().manual_seed(0)) < 0.5
    expected = [[[(a & b).sum().item() for b in image] for a in image] for image in masks]
    planes = [masks[:, :4], masks[:, 4:]]
    assert _count_bits(planes).tolist() == expected  # on processors
    monkeypatch.setattr(irrbench.samples, "_CHUNK", 1000)  # elsewhere, in pieces
    with torch.autocast("cpu", torch.bfloat16):  # which knows whole numbers up to 256
        assert _multiply(planes).tolist() == expected


def test_bad_input():
    masks, samples, _, _ = batch()
    with pytest.raises(
        ValueError, match=r"`samples` must be \(B, M, \*S\) = \(5, M, 3, 7\), as `masks` is .* found \(5, 3, 7\)"
    ):
        sample_bounds(masks, samples[:, 0])
    with pytest.raises(ValueError, match=r"found \(5, 0, 3, 7\)"):
        generalized_energy_distance(masks, samples[:, :0])
    with pytest.raises(ValueError, match=r"`samples` must hold 0 and 1 .* cut at a threshold first"):
        sample_bounds(masks, samples * 0.7)
    with pytest.raises(TypeError, match=r"`samples` must be a torch.Tensor, found list"):
        generalized_energy_distance(masks, samples.tolist())
    with pytest.raises(ValueError, match="`sample_bounds` is for scores of samples, found iou"):
        sample_bounds(masks, samples, ["ged", "iou"])


def mean(some, others):
    """The mean distance of all pairs."""
    return np.mean([1 - (x & y).sum() / (x | y).sum() if (x | y).any() else 0.0 for x in some for y in others])


@pytest.mark.parametrize("name", ["lidc", "lidc_mixed"])
def test_real_masks(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"IRRBENCH_TEST_DATA holds no {name}")
    folders = sorted((DATA / name / "masks").iterdir())
    ids = sorted(path.name for path in folders[0].iterdir())[:: 40 if name == "lidc" else 20]
    drawn = [[np.asarray(Image.open(folder / i)) > 0 for folder in folders if (folder / i).exists()] for i in ids]
    masks = torch.from_numpy(np.stack([image for image in drawn if len(image) == len(folders)]))
    samples = masks.roll(1, dims=-1)[:, :3]  # three readers, shifted by a pixel
    found = generalized_energy_distance(masks, samples)
    for i, (readers, shifted) in enumerate(zip(masks.numpy(), samples.numpy(), strict=True)):
        expected = 2 * mean(shifted, readers) - mean(shifted, shifted) - mean(readers, readers)
        assert found[i].item() == pytest.approx(expected, abs=1e-12)
