"""Random masks for scores of borders, and the same scores by slow loops."""

from __future__ import annotations

import numpy as np
import torch

KINDS = ("lesions", "noise", "at the edge", "one pixel", "rings", "boxes", "sparse")
FIELDS = ("reference", "candidate", "reference_within", "candidate_within", "hd95", "masd", "roi")


def draw_mask(rng, kind, shape):
    """A mask ``(*S)``; one in ten is empty, one in twenty full."""
    chance = rng.random()
    if chance < 0.15:
        return np.full(shape, chance < 0.05)
    if kind in ("noise", "sparse"):
        return rng.random(shape) < (0.5 if kind == "noise" else 0.04)
    mask = np.zeros(shape, bool)
    if kind == "one pixel":
        mask[tuple(rng.integers(0, shape))] = True
        return mask
    if kind == "boxes":
        low = [rng.integers(0, n) for n in shape]
        mask[tuple(slice(a, rng.integers(a + 1, n + 1)) for a, n in zip(low, shape, strict=True))] = True
        return mask
    middle = np.zeros(len(shape)) if kind == "at the edge" else np.array(shape) * rng.uniform(0.3, 0.7, len(shape))
    grid = np.meshgrid(*(np.arange(n) - m for n, m in zip(shape, middle, strict=True)), indexing="ij")
    away = np.sqrt(sum(x**2 for x in grid))
    radius = rng.uniform(1, min(shape) * 0.6)
    return (away < radius) & ((away > radius - 2) if kind == "rings" else True)


def draw(seed):
    """Arguments of evidence: a batch of two images, of 2 to 5 raters, 2-D or 3-D, with and without all else."""
    rng = np.random.default_rng(seed)
    shape = [(9, 14), (17, 6), (5, 6, 7), (13, 13)][seed % 4]
    num_raters, kind = 2 + seed % 4, KINDS[seed % len(KINDS)]
    masks = np.array([[draw_mask(rng, kind, shape) for _ in range(num_raters)] for _ in range(2)])
    case = {"masks": masks, "preds": np.array([draw_mask(rng, kind, shape) for _ in range(2)])}
    if seed % 3 == 1:
        case["roi"] = np.array([draw_mask(rng, ("lesions", "boxes", "noise")[seed % 5 % 3], shape) for _ in range(2)])
    if seed % 5 == 2:
        case["present"] = rng.random(masks.shape[:2]) < 0.8
    case = {name: torch.from_numpy(array) for name, array in case.items()}
    case["tolerance"] = (1.0, 2.0, 0.3, 4.5)[seed // 7 % 4]
    if seed % 2:
        lengths = rng.choice([0.1, 0.5, 1.0, 3.0], (2, len(shape)))
        case["spacing"] = torch.from_numpy(lengths if seed % 4 == 1 else lengths[0])
    return case


def slow_border(mask):
    """Places of border pixels ``(n, D)``."""
    padded, inner = np.pad(mask, 1), mask.copy()
    for axis in range(mask.ndim):
        for step in (-1, 1):
            inner &= np.roll(padded, step, axis)[(slice(1, -1),) * mask.ndim]
    return np.argwhere(mask & ~inner)


def slow_fields(reference, candidate, spacing, tolerance, diagonal):
    """The fields of two masks but the last."""
    one, other = slow_border(reference) * spacing, slow_border(candidate) * spacing
    if not len(one) or not len(other):
        return [len(one), len(other), 0, 0, diagonal, diagonal]
    away = np.sqrt(((one[:, None] - other[None]) ** 2).sum(2))
    there, back = away.min(1), away.min(0)
    within = [(x <= tolerance + 1e-9).sum() for x in (there, back)]
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return [len(one), len(other), *within, hd95, (there.mean() + back.mean()) / 2]


def slow_tables(case, ties):
    """Candidate -> ``(F, B, R)``."""
    masks, preds = case["masks"].numpy(), case["preds"].numpy()
    num_images, num_raters, *shape = masks.shape
    found = {name: np.zeros((7, num_images, num_raters)) for name in ("floor", "blank", "ceiling", "majority", "model")}
    for i in range(num_images):
        roi = case["roi"][i].numpy() if "roi" in case else np.ones(shape, bool)
        there = [r for r in range(num_raters) if "present" not in case or case["present"][i, r]]
        spacing = np.ones(len(shape)) if "spacing" not in case else case["spacing"].numpy()
        spacing = spacing[i] if spacing.ndim == 2 else spacing
        if len(there) < 2 or not roi.any():
            continue
        places = np.argwhere(roi)
        diagonal = np.sqrt((((places.max(0) - places.min(0) + 1) * spacing) ** 2).sum())
        cut = [masks[i, r] & roi for r in there]

        def vote(of):
            votes = 2 * sum(x.astype(int) for x in of)
            return votes > len(of) if ties == "negative" else votes >= len(of)

        for k, r in enumerate(there):
            reference = vote(cut[:k] + cut[k + 1 :])
            candidates = (roi, np.zeros_like(roi), cut[k], vote(cut), preds[i] & roi)
            for name, candidate in zip(found, candidates, strict=True):
                fields = slow_fields(reference, candidate, spacing, case["tolerance"], diagonal)
                found[name][:, i, r] = [*fields, roi.sum()]
    return found
