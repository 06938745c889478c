import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from irrbench import SegmentationBounds, mask_bounds, surfaces, surfaces_dense
from irrbench.geometry import Geometry
from irrbench.mask_evidence import CACHE, MaskEvidence
from irrbench.surfaces import SURFACES, Border, border, distances, measure
from irrbench.surfaces_dense import DenseSurfaces, surface_evidence
from tests.surface_cases import FIELDS, KINDS, draw, draw_mask, slow_border, slow_fields, slow_tables

WAYS = {"sparse": lambda masks, **others: MaskEvidence(SURFACES, masks, **others), "dense": DenseSurfaces}
SCORES = ("nsd", "hd95", "masd")


@pytest.fixture(autouse=True)
def _forget():
    CACHE.clear()


@pytest.fixture(params=list(WAYS))
def make(request):
    return WAYS[request.param]


def as_arrays(tables):
    return {name: torch.stack(list(table)).numpy() for name, table in tables.items()}


def pair(one, other, *, spacing=None, tolerance=2.0):
    """The fields of two masks."""
    spacing = spacing or (1.0,) * one.ndim
    geometry = Geometry(one.shape, spacing, 99.0, tolerance)
    return dict(zip(FIELDS, measure([(border(one), border(other))], geometry)[0], strict=False))


@pytest.mark.parametrize("part", range(4))
def test_equal_to_slow_loops_on_200_random_images(part):
    for seed in range(25 * part, 25 * part + 25):
        case = draw(seed)
        found = [make(**case) for make in WAYS.values()]
        for ties in ("negative", "positive"):
            expected = slow_tables(case, ties)
            for way, evidence in zip(WAYS, found, strict=True):
                for name, fields in as_arrays(evidence.tables(ties)).items():
                    message = f"{way} {seed} {name}"
                    np.testing.assert_allclose(fields, expected[name], rtol=1e-12, atol=1e-12, err_msg=message)


def test_every_way_to_search_finds_the_same(monkeypatch):
    """Lines and rows of large masks, trees, and parts of them."""
    rng = np.random.default_rng(0)
    for shape, spacing in (((30, 50), (1.0, 1.0)), ((30, 50), (3.0, 0.7)), ((7, 14, 12), (2.5, 1.0, 1.0))):
        masks = [draw_mask(rng, kind, shape) for kind in KINDS]
        borders = [border(mask) for mask in masks]
        borders = [x for x in borders if x.size] + [border(np.ones(shape, bool))]
        questions = [(one, other) for one in borders for other in borders]
        expected = [
            np.sqrt((((one.places[:, None] - other.places[None]) * spacing) ** 2).sum(2)).min(1)
            for one, other in questions
        ]
        for name, value in {
            "_MOST_LINES": 0,
            "_MOST_CELLS": 4000,
            "_CELLS_A_POINT": 0,
            "_PART": 50,
            "_FAR": 0,
        }.items():
            with monkeypatch.context() as patch:
                patch.setattr(surfaces, name, value)
                for found, right in zip(distances(questions, spacing), expected, strict=True):
                    np.testing.assert_allclose(found, right, rtol=1e-12)


def test_a_line_of_pixels():
    masks = torch.zeros(1, 3, 20, dtype=torch.bool)
    for r in range(3):
        masks[0, r, 3 + r : 9 + 2 * r] = True
    found = {name: make(masks, spacing=[0.5]).tables("positive")["ceiling"] for name, make in WAYS.items()}
    for one, other in zip(*found.values(), strict=True):
        assert torch.equal(one, other)
    # The peers of the first mark 4 .. 12 between them, that rater 3 .. 8: borders 1 and 4 pixels apart.
    assert found["sparse"].masd[0, 0] == (0.5 + 2.0) / 2


def test_borders_worked_by_hand():
    """Two squares of 4 x 4 pixels, one pixel apart along an axis of 3 mm."""
    one, other = np.zeros((2, 8, 8), bool)
    one[2:6, 2:6] = other[3:7, 2:6] = True
    found = pair(one, other, spacing=(3.0, 1.0), tolerance=1.0)
    # 12 border pixels each; 3 sides' ends overlap. From the first: its top row (4 pixels) is 3 mm away, its bottom row
    # lies inside of the other, whose sides are 0, 1, 1, 0 mm away; 4 pixels at the sides are on the border.
    assert (found["reference"], found["candidate"]) == (12, 12)
    assert (found["reference_within"], found["candidate_within"]) == (8, 8)
    assert found["masd"] == pytest.approx((4 * 3 + 2 * 1) / 12)
    assert found["hd95"] == 3


def test_a_box_needs_no_list_of_its_pixels():
    for shape in ((1,), (5,), (1, 1), (1, 6), (2, 3), (4, 5), (1, 3, 4), (2, 2, 5), (4, 3, 5)):
        mask = np.ones(shape, bool)
        found = border(mask)
        assert found.is_box
        assert found.size == len(found.places) == len(slow_border(mask))
        assert {tuple(x) for x in found.places} == {tuple(x) for x in slow_border(mask)}
    assert isinstance(border(np.zeros((3, 3), bool)), Border)
    assert border(np.zeros((3, 3), bool)).size == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_equal_to_monai_on_200_random_pairs():
    metrics = pytest.importorskip("monai.metrics")
    for seed in range(200):
        rng = np.random.default_rng(seed)
        shape = [(9, 14), (17, 6), (5, 6, 7)][seed % 3]
        spacing = tuple(float(x) for x in rng.choice([0.1, 0.5, 1.0, 3.0], len(shape)))
        one, other = (draw_mask(rng, KINDS[seed % len(KINDS)], shape) for _ in range(2))
        if not one.any() or not other.any():
            continue
        tolerance = (1.0, 2.0, 0.3)[seed % 3]
        found = pair(one, other, spacing=spacing, tolerance=tolerance)
        a, b = (torch.from_numpy(np.stack([~x, x])[None]).double() for x in (one, other))
        options = {"include_background": False, "spacing": spacing}
        nsd = metrics.compute_surface_dice(a, b, [tolerance * (1 + 1e-6)], use_subvoxels=False, **options)
        hd95 = metrics.compute_hausdorff_distance(a, b, percentile=95, **options)
        masd = [metrics.compute_average_surface_distance(x, y, **options) for x, y in ((a, b), (b, a))]
        within = found["reference_within"] + found["candidate_within"]
        assert nsd.item() == pytest.approx(within / (found["reference"] + found["candidate"]), abs=1e-6), seed
        assert hd95.item() == pytest.approx(found["hd95"], rel=1e-6), seed
        assert sum(masd).item() / 2 == pytest.approx(found["masd"], rel=1e-5), seed


def bounds_of(masks, preds, **options):
    found = mask_bounds(masks, preds, SCORES, **options)
    return {(name, s): getattr(found, name)[s] for name in ("floor", "ceiling", "majority", "model") for s in SCORES}


@pytest.mark.parametrize("seed", [1, 2, 6])
def test_properties(seed):
    case = draw(seed)
    masks, preds, roi = case["masks"], case["preds"], case.get("roi")
    lengths = torch.tensor([1.0, 0.5, 2.0])[: masks.ndim - 2]
    options = {"roi": roi, "spacing": lengths, "tolerance": 1.5}
    expected = bounds_of(masks, preds, **options)

    def same(found, factor=1.0):
        for (name, score), values in expected.items():
            scale = 1.0 if score == "nsd" else factor
            torch.testing.assert_close(found[name, score], values * scale, equal_nan=True, rtol=1e-12, atol=1e-12)

    same(bounds_of(masks.flip(1), preds, **options))  # the order of raters
    same(bounds_of(masks, preds, **options | {"spacing": 10 * lengths, "tolerance": 15.0}), 10.0)
    turned = [None if x is None else x.transpose(-1, -2) for x in (masks, preds, roi)]
    swapped = lengths[[*range(len(lengths) - 2), -1, -2]]
    same(bounds_of(turned[0], turned[1], **options | {"roi": turned[2], "spacing": swapped}))
    # Who is absent might as well never have been asked, whatever stands in the mask.
    more = torch.cat([torch.rand(masks[:, :1].shape) < 0.5, masks], 1)
    present = torch.ones(more.shape[:2], dtype=torch.bool)
    present[:, 0] = False
    same(bounds_of(more, preds, **options | {"present": present}))
    # Pixels outside of the region of interest change nothing.
    inside = torch.ones_like(preds) if roi is None else roi
    pad = torch.nn.functional.pad
    sides = [2, 3] * (masks.ndim - 2)
    noise = torch.rand(pad(masks, sides).shape) < 0.5
    wide = pad(inside, sides)
    around = torch.where(wide[:, None], pad(masks, sides), noise), torch.where(wide, pad(preds, sides), noise[:, 0])
    same(bounds_of(*around, **options | {"roi": wide}))


def test_identical_raters_are_perfect():
    mask = torch.zeros(12, 15, dtype=torch.bool)
    mask[2:9, 0:8] = True
    mask[4:6, 3:6] = False
    found = bounds_of(mask.expand(1, 4, -1, -1), mask[None])
    assert all(found[name, "nsd"] == 1 for name in ("ceiling", "majority", "model"))
    assert all(found[name, s] == 0 for name in ("ceiling", "majority", "model") for s in ("hd95", "masd"))
    assert found["floor", "nsd"] < 1


def test_empty_masks():
    masks = torch.zeros(3, 3, 6, 8)
    masks[1:, :, 2, 3] = 1
    preds = masks[:, 0].clone()
    preds[2] = 0
    found = mask_bounds(masks, preds, SCORES, spacing=(3.0, 4.0))
    assert [found.model[s].isnan().tolist() for s in SCORES] == [[True, False, False]] * 3  # an empty reference
    assert found.model["nsd"][1:].tolist() == [1, 0]
    assert found.model["hd95"][1:].tolist() == [0, math.hypot(6 * 3, 8 * 4)]  # an empty candidate: the diagonal
    scored = mask_bounds(masks, preds, SCORES, empty_reference="score")
    assert scored.model["nsd"].tolist() == [1, 1, 0]
    assert scored.model["masd"].isnan().tolist() == [True, False, False]


def test_bad_masks_are_refused(make):
    masks = torch.ones(1, 2, 4, 4)
    with pytest.raises(ValueError, match=r"`masks` must hold 0 and 1 .* found the values 2"):
        make(2 * masks)
    assert make(2 * masks, validate=False).tables("negative")["ceiling"].reference.tolist() == [[12, 12]]
    with pytest.raises(ValueError, match="must be the length of a pixel along each spatial axis"):
        make(masks, spacing=(1.0, -1.0))
    with pytest.raises(ValueError, match="`spacing` must be"):
        make(masks, spacing=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="`tolerance` must be a distance greater than 0"):
        make(masks, tolerance=0)
    with pytest.raises(ValueError, match="leaves single pixels out, which surfaces cannot"):
        make(masks).tables("exclude")


def test_too_large_volumes_are_refused_before_anything_is_made(make):
    masks = torch.zeros(1, 1, 1, 1, 1, dtype=torch.bool).expand(1, 4, 2048, 2048, 512)
    with pytest.raises(ValueError, match=r"surfaces of 2048 x 2048 x 512 = 2,147,483,648 pixels would not fit"):
        make(masks, validate=False)


class Host(TorchDispatchMode):
    """Refuses what makes the host wait for an accelerator, and what copies to it."""

    WAITS = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "equal", "item", "is_nonzero", "repeat_inter")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        assert not any(name.strip("_").startswith(x.strip("_")) for x in self.WAITS), name
        if name.startswith("index") and isinstance(args[1], list | tuple):
            assert not any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("seed", [0, 1, 2, 5, 7])
def test_the_dense_way_waits_for_no_accelerator(seed):
    case = draw(seed)
    expected = as_arrays(WAYS["sparse"](**case).tables("negative"))
    with Host():
        tables = DenseSurfaces(**case, validate=False).tables("negative")
    for name, fields in as_arrays(tables).items():
        np.testing.assert_allclose(fields, expected[name], rtol=1e-12)
    with pytest.raises(AssertionError, match="local_scalar_dense"), Host():
        case["masks"].sum().item()


def test_no_batch_of_a_metric_waits_for_an_accelerator():
    # Tensors of the device "meta" have no values: reading one fails.
    case = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in draw(7).items()}
    assert isinstance(surface_evidence(case["masks"]), DenseSurfaces)
    for spacing in (None, [0.5, 2.0, 1.0][: case["masks"].ndim - 2], case.get("spacing")):
        metric = SegmentationBounds(("iou", *SCORES), validate_args=False).to("meta")
        metric.update(case["preds"], case["masks"], case.get("roi"), present=case.get("present"), spacing=spacing)
        assert len(metric.fields) == 2  # the seed and a batch


def test_the_dense_way_works_in_parts_and_makes_nothing_larger_than_the_batch(monkeypatch):
    largest = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and not func.is_view:
                largest.append(result.numel())
            return result

    masks = torch.from_numpy(np.random.default_rng(0).random((2, 3, 9, 10, 12)) < 0.2)
    expected = as_arrays(DenseSurfaces(masks, preds=masks[:, 0]).tables("positive"))
    monkeypatch.setattr(surfaces_dense, "_PART", 200)
    with Sizes():
        evidence = DenseSurfaces(masks, preds=masks[:, 0])
        found = as_arrays(evidence.tables("positive"))
    for name, fields in found.items():
        np.testing.assert_array_equal(fields, expected[name])
    assert max(largest) == masks.numel()


def test_the_slow_loop_agrees_with_a_case_worked_by_hand():
    one = np.zeros((3, 5), bool)
    other = one.copy()
    one[1, 0], other[1, 4] = True, True
    assert slow_fields(one, other, np.ones(2), 4.0, 9.0) == [1, 1, 1, 1, 4, 4]
    assert slow_fields(one, np.zeros_like(one), np.ones(2), 4.0, 9.0) == [1, 0, 0, 0, 9, 9]
