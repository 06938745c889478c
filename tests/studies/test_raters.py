"""The study of raters in general: its masks are those of pixels, and it finds what must be so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from studies import raters

from irrbench import VotePatterns, panel_curve, segmentation_bounds
from irrbench.panels import scores_without


def pixels(squared: np.ndarray, length: int) -> np.ndarray:
    """Masks of ``(..., A)`` squared distances: one row of pixels a direction, as long as its share of the area."""
    return (np.arange(length) < squared[..., None]).reshape(*squared.shape[:-1], -1)


@pytest.mark.parametrize("num_raters", [3, 4])
def test_scores_are_those_of_masks_of_pixels(num_raters):
    rng = np.random.default_rng(0)
    drawn = raters.Masks(
        *(rng.integers(4, 40, size=(1, 2, *k, raters.DIRECTIONS)).astype(float) for k in ((num_raters,), (), ()))
    )
    masks, model = (torch.from_numpy(pixels(x[0], 40)) for x in drawn[:2])
    patterns = VotePatterns.from_masks(masks, preds=model)
    found, expected = raters.bounds(drawn), segmentation_bounds(patterns, ["iou"])
    np.testing.assert_allclose(found[0, 0], expected.model["iou"])
    np.testing.assert_allclose(found[1, 0], expected.ceiling["iou"])
    np.testing.assert_allclose(found[2, 0], expected.model["iou"] - expected.ceiling["iou"])
    curve = panel_curve(patterns, "iou")
    for k in range(1, num_raters):
        for who in ("model", "rater"):
            np.testing.assert_allclose(raters._on_panels(drawn, k, who)[0], getattr(curve, who)[:, k - 1])
    fewer = raters.bounds(drawn._replace(raters=np.delete(drawn.raters, 1, axis=2)))
    np.testing.assert_allclose(fewer[1, 0], scores_without(patterns, ["iou"])["ceiling"]["iou"][:, 1])


def test_a_line_through_two_panels_is_continued():
    assert raters._extrapolated(*(0.9 - 0.3 / np.array([[k]]) for k in (3, 5)), k=5, power=1.0) == pytest.approx(0.9)
    assert raters._extrapolated(*(0.9 - 0.3 / np.sqrt([[k]]) for k in (1, 3)), k=3, power=0.5) == pytest.approx(0.9)


def test_nested_raters_need_the_spread_over_raters_and_independent_ones_do_not(monkeypatch):
    monkeypatch.setattr(raters, "_POPULATION", 4000)
    nested, *_, independent = list(raters.KINDS)[:3]
    monkeypatch.setattr(raters, "KINDS", {kind: raters.KINDS[kind] for kind in (nested, independent)})
    rows = {(row["kind"], row["quantity"]): row for row in raters.rater_coverage(datasets=80, images=20, raters=[4])}
    assert rows[nested, "ceiling"]["images"] < 0.4
    assert rows[nested, "ceiling"]["with raters"] > 0.75
    assert rows[independent, "ceiling"]["images"] > 0.8


def test_no_limit_from_panels_of_nested_raters(monkeypatch):
    monkeypatch.setattr(raters, "KINDS", dict(list(raters.KINDS.items())[:1]))
    rows = list(raters.panel_limits(datasets=40, images=20, raters=[3, 4]))
    assert [(row["raters"], row["candidate"]) for row in rows] == [(3, "model"), (4, "model"), (4, "rater")]
    assert all(row["coverage"] < 0.8 for row in rows)
