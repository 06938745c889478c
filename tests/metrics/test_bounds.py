import math

import numpy as np
import pandas as pd
import pytest
import torch

from irrbench import SegmentationBounds, VotePatterns, segmentation_bounds
from irrbench.metrics.state import Rows
from irrbench.summary import bounds_digest, summarize
from tests.metrics.processes import among
from tests.test_patterns import draw

N = 9


def data(num_raters=4, seed=0):
    masks, roi, _ = draw(seed, (N, num_raters, 5, 7))
    logits = torch.randn(N, 1, 5, 7, generator=torch.Generator().manual_seed(seed + 1))
    return logits, masks, roi, [f"image {i}" for i in range(N)]


def feed(metric, parts, logits, masks, roi, ids):
    for part in parts:
        metric.update(logits[part], masks[part], roi[part], [ids[i] for i in part])
    return metric


def equal(one, two):
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("num_raters", [2, 4, 7, 13])
def test_means_of_the_function(num_raters):
    logits, masks, roi, ids = data(num_raters)
    found = feed(SegmentationBounds(), [range(4), range(4, N)], logits, masks, roi, ids).compute()
    bounds = segmentation_bounds(VotePatterns.from_masks(masks, roi=roi, preds=logits.squeeze(1) > 0))
    for score in bounds.floor:
        assert found[score].item() == pytest.approx(bounds.model[score].nanmean().item(), abs=1e-12)
        for who in ("floor", "ceiling", "upper"):
            assert found[f"{score}_{who}"].item() == pytest.approx(
                getattr(bounds, who)[score].nanmean().item(), abs=1e-12
            )
    assert found["n_images"] == N


def test_split_shuffled_merged_and_repeated_equal_whole():
    args = data()
    whole = feed(SegmentationBounds(), [range(N)], *args).compute()
    shuffled = feed(SegmentationBounds(), [[8, 2], [0, 1, 3], [7, 6, 5, 4]], *args).compute()
    repeated = feed(SegmentationBounds(), [range(5), range(3, N), [0]], *args).compute()
    one, two = feed(SegmentationBounds(), [range(4)], *args), feed(SegmentationBounds(), [range(4, N)], *args)
    one.merge_state(two)
    for other in (shuffled, repeated, one.compute()):
        equal(other, whole)


def test_processes_one_of_them_without_a_batch():
    args = data()
    ranks = [
        feed(SegmentationBounds(), [range(6)], *args),
        SegmentationBounds(),
        feed(SegmentationBounds(), [range(5, N)], *args),
    ]
    own, idle = among(ranks, (0, 1))
    equal(own.compute(), feed(SegmentationBounds(), [range(N)], *args).compute())
    pd.testing.assert_frame_equal(idle.per_image(), own.per_image())
    assert sorted(own.per_image()["image_id"]) == sorted(args[3])


def test_forward_gives_the_batch_and_keeps_the_whole():
    logits, masks, roi, ids = data()
    metric = SegmentationBounds(["iou"])
    first = metric(logits[:4], masks[:4], roi[:4], ids[:4])
    metric(logits[4:], masks[4:], roi[4:], ids[4:])
    assert first["n_images"] == 4
    assert metric.compute()["n_images"] == N
    metric.reset()
    with pytest.raises(ValueError, match="No image has come yet"):
        metric.per_image()


def test_ids_may_be_numbers_or_missing():
    logits, masks, roi, _ = data()
    numbered, nameless = SegmentationBounds(["iou"]), SegmentationBounds(["iou"])
    for part in (slice(0, 6), slice(4, N)):
        numbered.update(logits[part], masks[part], roi[part], torch.arange(N)[part])
        nameless.update(logits[part], masks[part], roi[part])
    assert numbered.per_image()["image_id"].tolist() == [str(i) for i in range(N)]
    assert len(nameless.per_image()) == N + 2
    with pytest.raises(ValueError, match="one id an image: 2 expected, 1 found"):
        numbered.update(logits[:2], masks[:2], image_id=["a"])


def test_an_id_that_comes_with_other_masks_is_an_error():
    logits, masks, _, _ = data()
    metric = SegmentationBounds()
    metric.update(logits[:1], masks[:1], image_id=["é/1"])
    with pytest.raises(
        ValueError, match=r"'é/1' came twice with different masks .*\. Patches: .*`aggregate=\"image\"`"
    ):
        metric.update(logits[1:2], masks[1:2], image_id=["é/1"])
    assert metric.compute()["n_images"] == 1


def test_logits_probabilities_and_masks_are_never_guessed():
    logits, masks, roi, _ = data()
    results = []
    for preds, options in (
        (logits, {}),
        (logits.sigmoid(), {"from_logits": False}),
        (logits.squeeze(1) > 0, {}),
        ((logits > 0).long(), {}),
        (logits + 1.0986123, {"threshold": 0.75}),  # the logit of .75
    ):
        metric = SegmentationBounds(["iou", "kappa"], **options)
        metric.update(preds, masks, roi)
        results.append(metric.compute())
    for other in results[1:]:
        equal(other, results[0])


def test_several_classes():
    g = torch.Generator().manual_seed(5)
    labels, scores = torch.randint(0, 3, (N, 4, 5, 7), generator=g), torch.randn(N, 3, 5, 7, generator=g)
    metric = SegmentationBounds(["iou"], num_classes=3)
    metric.update(scores, labels)
    by_labels = SegmentationBounds(["iou"], num_classes=3)
    by_labels.update(scores.argmax(1), labels)
    equal(metric.compute(), by_labels.compute())
    classes = VotePatterns.from_labels(labels, num_classes=3, preds=scores.argmax(1))
    values = torch.stack([segmentation_bounds(c, ["iou"]).model["iou"] for c in classes])
    assert metric.compute()["iou"].item() == pytest.approx(values[1:].nanmean(0).nanmean().item())
    assert metric.compute()["iou_class2"].item() == pytest.approx(values[2].nanmean().item())
    with pytest.raises(ValueError, match=r"num_classes=3 channels on axis 1, found the shape \(9, 2, 5, 7\)"):
        metric.update(scores[:, :2], labels)


def test_absent_raters_and_images_without_bounds():
    logits, masks, roi, ids = data()
    present = torch.ones(N, 4, dtype=torch.bool)
    present[0, 1:] = False
    metric = SegmentationBounds(["iou"])
    metric.update(logits, masks, roi, ids, present)
    found = metric.compute()
    assert (found["n_images"], found["iou_n_images"]) == (N, N - 1)
    assert metric.per_image().loc[0, ["iou", "iou_floor", "alpha"]].isna().all()


def test_refuses_what_does_not_fit():
    logits, masks, roi, _ = data()
    with pytest.raises(ValueError, match=r"`preds` has 2 channels.*pass `num_classes=2`"):
        SegmentationBounds().update(logits.expand(-1, 2, -1, -1), masks)
    with pytest.raises(ValueError, match=r"`threshold` must lie between 0 and 1"):
        SegmentationBounds(threshold=1.0)
    with pytest.raises(ValueError, match=r"`num_classes` must be 2 or more"):
        SegmentationBounds(num_classes=1)
    with pytest.raises(ValueError, match="distinct names among"):
        SegmentationBounds(["dice"])
    mixed = SegmentationBounds()
    mixed.update(logits, masks, roi)
    with pytest.raises(
        ValueError, match=r"raters: `masks` is \(9, 3, 5, 7\) .*before it was \(9, 4, 5, 7\).*`present=`"
    ):
        mixed.update(logits, masks[:, :3], roi)
    merged = SegmentationBounds()
    merged.update(logits, masks[:, :3], roi)
    merged.merge_state(mixed)
    with pytest.raises(ValueError, match=r"same number of raters, found \[3, 4\]"):
        merged.compute()


def bytes_an_image(metric):
    pieces = [t for name in Rows._fields for t in getattr(metric, name)]
    return sum(t.numel() * t.element_size() for t in pieces) / N


def test_state_is_small():
    logits, masks, roi, ids = data()
    metric = feed(SegmentationBounds(), [range(N)], logits, masks, roi, ids)
    assert bytes_an_image(metric) < 400
    for num_raters in (11, 12, 16):
        many = SegmentationBounds()
        many.update(logits, masks.repeat(1, 4, 1, 1)[:, :num_raters], roi)
        assert bytes_an_image(many) < 65536


def test_plot_draws_the_band():
    metric = feed(SegmentationBounds(["iou", "f1"]), [range(N)], *data())
    figure, axes = metric.plot()
    assert figure is axes.figure
    assert metric.plot(metric.compute())[1].get_yticklabels()


def test_the_digest_knows_the_data_and_not_the_model():
    logits, masks, roi, ids = data()
    rules = SegmentationBounds().rules
    tables = {
        "whole": feed(SegmentationBounds(), [range(N)], logits, masks, roi, ids),
        "turned": feed(SegmentationBounds(), [[5, 1], [8, 7, 6, 0, 2, 3, 4]], -logits, masks, roi, ids),
        "part": feed(SegmentationBounds(), [range(N - 1)], logits, masks, roi, ids),
        "raters": feed(SegmentationBounds(), [range(N)], logits, ~masks, roi, ids),
    }
    digests = {name: bounds_digest(metric.per_image(), rules) for name, metric in tables.items()}
    assert digests["whole"] == digests["turned"]
    assert len(set(digests.values())) == 3
    assert bounds_digest(tables["whole"].per_image(), rules | {"ties": "positive"}) != digests["whole"]


def test_summary_is_a_ratio_of_means():
    table = pd.DataFrame(
        {
            "iou": [0.2, 0.6, np.nan],
            "iou_floor": [0.1, 0.1, np.nan],
            "iou_ceiling": [0.4, 0.8, np.nan],
            "iou_upper": [0.5, 0.9, np.nan],
        }
    )
    many = pd.concat([table] * 20)
    summary = summarize(many)["iou"]
    assert (summary.model, summary.n_images) == (pytest.approx(0.4), 40)
    assert summary.normalized == pytest.approx((0.4 - 0.1) / (0.6 - 0.1))


def test_scores_against_the_label_it_was_trained_on():
    logits, masks, roi, ids = data()
    label = masks[:, 2].float()[:, None]
    metric = SegmentationBounds(["iou", "f1"])
    for part in (slice(0, 4), slice(4, N)):
        metric.update(logits[part], masks[part], roi[part], ids[part], label=label[part])
    table = metric.per_image()
    for i in range(N):
        truth, found = masks[i, 2][roi[i]], (logits[i, 0] > 0)[roi[i]]
        on_label = (truth & found).sum().item() / (truth | found).sum().item()
        on_raters = [(m & found).sum().item() / (m | found).sum().item() for m in masks[i][:, roi[i]].bool()]
        assert table["iou_label"][i] == pytest.approx(on_label)
        assert table["iou_label_gap"][i] == pytest.approx(on_label - sum(on_raters) / len(on_raters))
    summary = summarize(table)["f1"]
    assert (summary.label, summary.label_gap) == pytest.approx((table["f1_label"].mean(), table["f1_label_gap"].mean()))
    without = feed(SegmentationBounds(["iou", "f1"]), [range(N)], logits, masks, roi, ids).per_image()
    assert "iou_label" not in without
    assert bounds_digest(table, metric.rules) == bounds_digest(without, metric.rules)


def test_probabilities_taken_for_logits_are_told_once(caplog):
    masks, _, preds = draw()
    probabilities = preds.float() * 0.8 + 0.1
    for shift, options in ((0.0, {"from_logits": False}), (-0.5, {}), (2.0, {})):  # as they are; logits; sure logits
        metric = SegmentationBounds(**options)
        metric.update(probabilities + shift, masks)
        metric.compute()
    assert not caplog.records
    metric = SegmentationBounds()
    metric.update(probabilities, masks)
    metric.compute()
    metric.per_image()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "lie between 0 and 1. If they are probabilities, pass `from_logits=False`" in caplog.text


def region(probabilities):
    probabilities[..., ::2] = 0
    return probabilities


def one_image_has_none(probabilities):
    probabilities[0] = math.nan
    return probabilities


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "change", [region, torch.nn.Hardtanh(0.3, 1.0), one_image_has_none, lambda x: x.where(x > 0.5, 0)]
)
def test_probabilities_with_zeros_or_ones_or_no_numbers_are_told_too(change, dtype, threshold, caplog):
    masks, _, preds = draw()
    probabilities = change(torch.rand(preds.shape, generator=torch.Generator().manual_seed(1)) * 0.98 + 0.01)
    metric = SegmentationBounds(threshold=threshold)
    metric.update(probabilities.to(dtype), masks)
    metric.compute()
    assert "lie between 0 and 1. If they are probabilities, pass `from_logits=False`" in caplog.text


def test_a_mask_of_floats_and_logits_of_one_sign_are_not_told(caplog):
    masks, _, preds = draw()
    for given in (preds.float(), preds.float() * 3, -preds.float() / 2, torch.zeros(preds.shape)):
        metric = SegmentationBounds()
        metric.update(given, masks)
        metric.compute()
    late = SegmentationBounds()  # one image of many tells
    late.update(preds.float() * 0.5, masks)
    late.update(preds.float() - 0.25, masks)
    late.compute()
    assert not caplog.records


def test_arrays_are_refused():
    masks, _, preds = draw()
    with pytest.raises(TypeError, match=r"`preds` must be a torch\.Tensor, found ndarray"):
        SegmentationBounds().update(preds.numpy(), masks)
