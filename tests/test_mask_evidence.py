from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from irrbench import mask_bounds, mask_evidence
from irrbench._cache import ByteCache
from irrbench.geometry import box_of, check_share, spacings
from irrbench.mask_evidence import CACHE, MaskEvidence
from irrbench.surfaces import SURFACES
from tests.surface_cases import draw


@pytest.fixture
def seen(monkeypatch):
    """Masks whose features were computed; the cache begins and ends empty."""
    CACHE.clear()
    masks = []

    def features(mask, origin, geometry):
        masks.append(mask.copy())
        return SURFACES.features(mask, origin, geometry)

    yield replace(SURFACES, features=features), masks
    CACHE.clear()


def case(**others):
    """Four raters of two images."""
    masks = torch.zeros(2, 4, 12, 15, dtype=torch.bool)
    for i in range(2):
        for r in range(4):
            masks[i, r, 2 + i : 7 + r, 3 : 8 + r] = True
            masks[i, r, 4, 5] = False
    roi = torch.ones(2, 12, 15, dtype=torch.bool)
    roi[:, :, 0] = False
    preds = masks[:, 2].roll(1, 2)
    return {"masks": masks, "roi": roi, "preds": preds, "spacing": (1.0, 2.0), "tolerance": 1.0} | others


def fields_of(measure=SURFACES, **arguments):
    evidence = MaskEvidence(measure, **arguments)
    return {
        (ties, name): torch.stack(list(table))
        for ties in ("negative", "positive")
        for name, table in evidence.tables(ties).items()
    }


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one)


def test_the_second_time_only_the_model_is_looked_at(seen):
    measure, masks = seen
    first = fields_of(measure, **case())
    assert len(masks) > 2
    masks.clear()
    assert same(fields_of(measure, **case()), first)
    assert [mask.sum() for mask in masks] == case()["preds"].sum((1, 2)).tolist()
    masks.clear()
    other = fields_of(measure, **case(preds=case()["preds"].roll(2, 1)))
    assert len(masks) == 2
    assert not torch.equal(other["negative", "model"], first["negative", "model"])
    assert torch.equal(other["negative", "ceiling"], first["negative", "ceiling"])


def changed_masks(where):
    masks = case()["masks"].clone()
    masks[(0, 3, *where)] ^= True
    return masks


def changed_roi(fill):
    roi = case()["roi"].clone()
    roi[0, fill] = False
    return roi


@pytest.mark.parametrize(
    "change",
    [
        {"masks": changed_masks((9, 10))},
        {"masks": changed_masks((4, 6))},
        {"masks": changed_masks((0, 0))},  # outside of the region: the same image
        {"roi": changed_roi(5)},
        {"roi": changed_roi(11)},
        {"roi": None},
        {"spacing": (2.0, 1.0)},
        {"spacing": torch.tensor([[1.0, 2.0], [1.0, 2.5]])},
        {"tolerance": 2.0},
        {"present": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()},
        {"masks": case()["masks"].flip(1)},
        {"masks": case()["masks"][:, :3]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_is_computed_anew(change, seen):
    measure, masks = seen
    fresh = fields_of(**case(**change))
    CACHE.clear()
    fields_of(measure, **case())
    masks.clear()
    found = fields_of(measure, **case(**change))
    assert same(found, fresh)
    is_known = "masks" in change and torch.equal(change["masks"] & case()["roi"][:, None], case()["masks"])
    assert (len(masks) == 2) == is_known


def test_what_an_image_holds_does_not_depend_on_its_batch(seen):
    arguments = {k: v for k, v in draw(7).items() if k != "present"}
    whole = fields_of(**arguments)
    CACHE.clear()
    for i in (1, 0):
        part = {k: v[i : i + 1] if isinstance(v, torch.Tensor) and v.ndim > 2 else v for k, v in arguments.items()}
        if getattr(arguments["spacing"], "ndim", 0) == 2:
            part["spacing"] = arguments["spacing"][i]
        assert all(torch.equal(x[:, 0], whole[key][:, i]) for key, x in fields_of(**part).items())


def test_equal_masks_are_measured_once(seen):
    measured = []

    def measure(pairs, geometry):
        measured.append(len(pairs))
        return SURFACES.measure(pairs, geometry)

    mask = case()["masks"][:1, :1].expand(1, 5, -1, -1)
    evidence = MaskEvidence(replace(SURFACES, measure=measure), mask, preds=mask[:, 0])
    evidence.tables("negative")
    evidence.tables("positive")
    # Floor, blank mask, and the mask itself on the one reference that there is; then the model.
    assert measured == [3, 1]


def test_absent_raters_have_no_folds(seen):
    present = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0]]).bool()
    table = MaskEvidence(SURFACES, **case(present=present)).tables("negative")["ceiling"]
    assert (table.roi > 0).tolist() == [[True, False, True, True], [False] * 4]
    alone = MaskEvidence(SURFACES, **case(present=torch.zeros(2, 4))).tables("negative")
    assert all(part.sum() == 0 for table in alone.values() for part in table)


def test_the_memory_is_bounded_and_serves_a_data_set_that_is_larger(monkeypatch, seen):
    measure, _ = seen
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.random((1, 3, 20, 20)) < 0.3) for _ in range(30)]
    expected = [fields_of(masks=x, preds=x[:, 0]) for x in images]
    size = CACHE.nbytes / len(CACHE)
    cache = ByteCache(int(15.5 * size))
    monkeypatch.setattr(mask_evidence, "CACHE", cache)
    for _ in range(4):
        for image, right in zip(images, expected, strict=True):
            assert same(fields_of(measure, masks=image, preds=image[:, 0]), right)
            assert cache.nbytes <= cache.max_bytes
            assert cache.nbytes == sum(entry.nbytes for entry in cache._entries.values())
    assert 10 <= len(cache) <= 20
    assert cache.hits > 20
    cache.clear()
    assert (len(cache), cache.nbytes, cache.hits) == (0, 0, 0)
    monkeypatch.setattr(mask_evidence, "CACHE", ByteCache(0))  # nothing is kept
    assert same(fields_of(masks=images[0], preds=images[0][:, 0]), expected[0])


def test_threads_share_the_memory(seen):
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.random((1, 3, 16, 16)) < 0.3) for _ in range(6)]
    expected = [fields_of(masks=x) for x in images]
    CACHE.clear()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: fields_of(masks=images[i % 6]), range(48)))
    assert all(same(fields, expected[i % 6]) for i, fields in enumerate(found))
    assert len(CACHE) == 6
    assert CACHE.nbytes == sum(entry.nbytes for entry in CACHE._entries.values())


def test_boxes():
    mask = np.zeros((3, 4, 5), bool)
    assert box_of(mask) == (slice(0, 0),) * 3
    mask[1, 2, 3] = mask[2, 2, 1] = True
    assert box_of(mask) == (slice(1, 3), slice(2, 3), slice(1, 4))
    assert box_of(mask[1, 2]) == (slice(3, 4),)


def test_lengths_of_pixels():
    assert spacings(None, 2, 3) == [(1.0,) * 3] * 2
    assert spacings((0.5, 2), 2, 2) == [(0.5, 2.0)] * 2
    assert spacings(torch.tensor([[1, 2], [3, 4]]), 2, 2) == [(1.0, 2.0), (3.0, 4.0)]
    for wrong in ((0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0)):
        with pytest.raises(ValueError, match="numbers greater than 0 such as"):
            spacings(wrong, 2, 2)
    with pytest.raises(ValueError, match=r"must be \(2,\), .* or \(3, 2\) by image, .* found \(2, 2\)"):
        spacings(torch.ones(2, 2), 3, 2)


@pytest.mark.parametrize("value", [0, -0.1, 1.1, "half"])
def test_shares(value):
    with pytest.raises(ValueError, match="`lesion_iou` must be greater than 0 and at most 1, found"):
        check_share("lesion_iou", value)


@pytest.mark.parametrize("score", ["nsd", "lesion_f1", "cldice"])
def test_class_numbers_are_no_mask(score):
    masks = torch.randint(0, 4, (1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"`masks` must hold 0 and 1 .* Class numbers need `num_classes="):
        mask_bounds(masks, masks[:, 0], [score])
