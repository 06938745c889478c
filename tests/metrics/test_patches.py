"""Patches of images: tiles of one image are that image, and whatever else comes under a known id is told."""

import pytest
import torch

from irrbench import GwetAC1, KrippendorffAlpha, PixelICC, SegmentationBounds
from irrbench.evaluation import Evaluator
from tests.metrics.processes import among
from tests.test_patterns import draw

N, R, H, W = 4, 3, 12, 20


def images(seed=0):
    masks, roi, preds = draw(seed, (N, R, H, W))
    return preds, masks, roi


def tiles_of(x, side=5):
    """Tiles without overlap, some narrower, and whose each is."""
    parts = [part for row in x.split(side, -2) for part in row.split(side, -1)]
    return parts, [n for n in range(len(parts)) for _ in range(len(x))]


def feed_tiles(metric, names, *, order=None):
    """Update with all tiles of all images, shape by shape."""
    preds, masks, roi = images()
    batches = list(zip(*(tiles_of(x)[0] for x in (preds, masks, roi)), strict=True))
    for number in order or range(len(batches)):
        p, m, r = batches[number]
        metric.update(preds=p, masks=m, roi=r, image_id=names(number))
    return metric


def owner(patch):
    return patch.partition("/")[0]


def of_images(_number):
    return [f"scan{n}" for n in range(N)]


def of_patches(number):
    return [f"scan{n}/{number}" for n in range(N)]


def whole(**options):
    preds, masks, roi = images()
    metric = SegmentationBounds(["iou", "f1", "kappa"], rebuilt=True, **options)
    metric.update(preds, masks, roi, of_images(0))
    return metric


@pytest.mark.parametrize(("aggregate", "names"), [("image", of_images), (owner, of_patches)])
def test_tiles_of_an_image_are_that_image(aggregate, names):
    metric = SegmentationBounds(["iou", "f1", "kappa"], rebuilt=True, aggregate=aggregate)
    tiled = feed_tiles(metric, names, order=[5, 0, 1, 2, 3, 4, *range(6, 12)]).per_image()
    assert tiled.equals(whole().per_image())
    assert len(metric.digests) == N


def test_tiles_of_label_maps_and_of_training_labels():
    g = torch.Generator().manual_seed(1)
    labels, preds = torch.randint(0, 3, (2, 4, 8, 6), generator=g), torch.randint(0, 3, (2, 8, 6), generator=g)
    one, tiled = (SegmentationBounds(["iou"], num_classes=3, aggregate=x) for x in (None, "image"))
    one.update(preds, labels, image_id=["a", "b"])
    for half in (slice(0, 4), slice(4, 8)):
        tiled.update(preds[:, half], labels[:, :, half], image_id=["a", "b"])
    assert tiled.per_image().equals(one.per_image())
    binary, in_parts = SegmentationBounds(["iou"]), SegmentationBounds(["iou"], aggregate="image")
    binary.update(preds > 0, labels > 0, image_id=["a", "b"], label=labels[:, 0] > 0)
    for half in (slice(0, 4), slice(4, 8)):
        parts = (x[..., half, :] for x in (preds > 0, labels > 0))
        in_parts.update(*parts, image_id=["a", "b"], label=(labels[:, 0] > 0)[:, half])
    assert in_parts.per_image().equals(binary.per_image())


@pytest.mark.parametrize("make", [KrippendorffAlpha, GwetAC1, PixelICC])
def test_tiles_for_metrics_of_the_raters(make):
    _, masks, roi = images()
    one, tiled = make(), make(aggregate="image")
    one.update(masks, roi, of_images(0))
    for m, r in zip(tiles_of(masks)[0], tiles_of(roi)[0], strict=True):
        tiled.update(m, r, of_images(0))
    assert tiled.compute() == one.compute()


def test_many_raters_whose_counts_are_sparse():
    masks, roi, preds = draw(3, (2, 13, 6, 8))
    one, tiled = SegmentationBounds(["iou"]), SegmentationBounds(["iou"], aggregate="image")
    one.update(preds, masks, roi, [1, 2])
    for half in (slice(0, 4), slice(4, 8)):
        tiled.update(preds[..., half], masks[..., half], roi[..., half], torch.tensor([1, 2]))
    assert tiled.per_image().equals(one.per_image())


def test_tiles_in_several_processes_repeated_by_a_sampler():
    ranks = [SegmentationBounds(["iou", "f1", "kappa"], rebuilt=True, aggregate=owner) for _ in range(3)]
    for rank, order in zip(ranks[:2], ([0, 2, 4, 6, 8, 10, 11], [1, 3, 5, 7, 9, 11, 0]), strict=True):
        feed_tiles(rank, of_patches, order=order)
    expected = whole().per_image().set_index("image_id")
    for metric in among(ranks, (0, 1, 2)):
        assert metric.per_image().set_index("image_id").loc[expected.index].equals(expected)


def test_a_process_group_is_told_what_repeated_patches_cost(monkeypatch, caplog):
    monkeypatch.setattr("irrbench.metrics.base.num_processes", lambda: 2)
    metric = feed_tiles(SegmentationBounds(["iou"], aggregate="image"), of_images)
    metric.compute()
    metric.per_image()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "count twice" in caplog.text
    feed_tiles(SegmentationBounds(["iou"], aggregate=owner), of_patches).compute()
    assert len(caplog.records) == 1


def test_patches_that_do_not_say_so_are_an_error_at_once():
    preds, masks, roi = images()
    patches = torch.cat(tiles_of(masks, 4)[0]), torch.cat(tiles_of(preds, 4)[0])
    metric = SegmentationBounds()
    with pytest.raises(
        ValueError, match=r"'scan0' came twice .*an `image_id` of its own, or pass `aggregate=\"image\"`"
    ):
        metric.update(patches[1], patches[0], image_id=of_images(0) * 15)
    assert len(metric.info) == 1  # nothing of that batch is kept
    metric.update(preds, masks, roi, of_images(0))
    metric.update(preds, masks, roi, of_images(0))  # a sampler's repetition
    with pytest.raises(ValueError, match="'scan1' came twice"):
        metric(preds[:1], masks[:1], roi[:1], ["scan1"])


def with_equal_counts():
    """Two patches that the counts of vote patterns cannot tell apart."""
    one = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    one[:, 0, 1:4, 1:4] = one[:, 1, 2:5, 1:4] = True
    return one, one.roll(3, -1)


@pytest.mark.parametrize("ids", [["a"], torch.tensor([7])])
def test_equal_counts_are_no_proof_of_the_same_masks(ids):
    one, other = with_equal_counts()
    metric = SegmentationBounds(["iou"])
    metric.update(one[:, 0], one, image_id=ids)
    with pytest.raises(ValueError, match="came twice with different masks"):
        metric.update(one[:, 0], other, image_id=ids)
    ranks = [SegmentationBounds(["iou"]) for _ in range(2)]
    for rank, masks in zip(ranks, (one, other), strict=True):
        rank.update(one[:, 0], masks, image_id=ids)
    with pytest.raises(ValueError, match="came twice with different masks"):
        among(ranks, [0])[0].compute()


def test_other_raters_under_a_known_id_are_other_masks():
    one, _ = with_equal_counts()
    one = torch.cat([one, torch.zeros_like(one[:, :1])], 1)
    metric = SegmentationBounds(["iou"])
    metric.update(one[:, 0], one, image_id=["a"])
    with pytest.raises(ValueError, match="came twice"):
        metric.update(one[:, 0], one, image_id=["a"], present=torch.tensor([[True, True, False]]))
    patches = SegmentationBounds(["iou"], aggregate="image")
    patches.update(one[:, 0], one, image_id=["a"])
    patches.update(one[:, 0], one, image_id=["a"], present=torch.tensor([[True, True, False]]))
    with pytest.raises(ValueError, match="patches of an image must have the same raters; those of 'a' have others"):
        patches.compute()


def test_options_of_patches():
    masks = torch.ones(1, 2, 3)
    with pytest.raises(
        ValueError, match="`aggregate` must be 'image', a function of a patch's id, or None; found 'sum'"
    ):
        SegmentationBounds(aggregate="sum")
    with pytest.raises(ValueError, match="`aggregate='image'` needs `image_id`"):
        SegmentationBounds(aggregate="image").update(masks[:, 0], masks)


def epoch(evaluator, number, masks, ids=None, **options):
    evaluator.update(masks[:, 0], masks, image_id=ids, **options)
    evaluator.finish(number)


def test_masks_that_change_from_epoch_to_epoch_are_told_once(caplog):
    masks, ids = images()[1], of_images(0)
    evaluator = Evaluator("val", scores=["iou"])
    for number in range(2):
        epoch(evaluator, number, masks, ids)
    epoch(evaluator, 2, masks.flip(0), ids[::-1])  # another order
    epoch(evaluator, 3, masks[:2], ids[:2])  # a part
    assert not caplog.records
    epoch(evaluator, 4, masks.roll(1, -1), ids)  # as many marks, elsewhere
    epoch(evaluator, 5, masks.roll(2, -1), ids)
    assert len(caplog.records) == 1
    assert "val: 2 of 4 images have other masks than in the epoch before, first 'scan0'" in caplog.text
    assert "floor and ceiling wander" in caplog.text


def test_images_without_ids_may_come_in_any_order(caplog):
    masks = images()[1]
    evaluator = Evaluator("val/a", scores=["iou"])
    epoch(evaluator, 0, masks)
    epoch(evaluator, 1, masks.flip(0))
    assert not caplog.records
    epoch(evaluator, 2, masks.flip(3))
    assert "val/a: 4 of 4 images have other masks" in caplog.text


def test_random_crops_of_patches_are_told_and_augmented_training_is_not(caplog):
    masks = images()[1]
    for split, expected in (("train", 0), ("val", 1)):
        evaluator = Evaluator(split, scores=["iou"], aggregate="image")
        for number in range(3):
            evaluator.update(masks[:, 0, :8], masks[:, :, :8], image_id=of_images(0))
            epoch(evaluator, number, masks[:, :, number : number + 4], of_images(0))
        assert len(caplog.records) == expected
