"""A stage is scored, remembered and told to sinks without a trainer."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import os
import pickle

import pandas as pd
import pytest
import torch

from irrbench import SegmentationBounds, summarize
from irrbench.evaluation import CSVSink, Evaluator, agreement_table
from irrbench.evaluation.sinks import candidate_table
from tests.callbacks.toys import Toy

SCORES = ("f1", "iou")


def batches(n=10, size=4):
    toy = Toy(n)
    for start in range(0, n, size):
        part = slice(start, start + size)
        yield toy.image[part, 0] - 0.3, toy.masks[part], {"roi": toy.roi[part], "image_id": toy.names[part]}


class Noted:
    """A sink that writes down what it is told."""

    def __init__(self):
        self.told = []

    def log_stage(self, stage, values, *, step):
        self.told.append(("log", stage.split, step, dict(values), len(stage.table)))

    def close_stage(self, stage, *, step):
        self.told.append(("close", stage.split, step))


class Broken:
    title = "the moon"

    def log_stage(self, stage, values, *, step):
        raise OSError("no line")

    close_stage = log_stage


def run(evaluator, epochs=1):
    values = {}
    for epoch in range(epochs):
        for preds, masks, known in batches():
            evaluator.update(preds, masks, **known)
        values = evaluator.finish(epoch)
    return values


def test_values_are_those_of_the_metric():
    values = run(Evaluator("val", scores=SCORES))
    metric = SegmentationBounds(SCORES)
    for preds, masks, known in batches():
        metric.update(preds, masks, known["roi"], known["image_id"])
    expected = {k: float(v) for k, v in metric.compute().items()}
    assert values["val/n_images"] == 10
    for score in SCORES:
        for ending in ("", "_floor", "_ceiling", "_normalized"):
            assert values[f"val/{score}{ending}"] == pytest.approx(expected[f"{score}{ending}"], abs=1e-15)
    few = run(Evaluator("val", scores=SCORES, references=False, normalized=False))
    assert set(few) == {"val/n_images", "val/f1", "val/iou"}


def test_detection_is_logged_wherever_a_reference_is_empty():
    preds, masks, known = next(batches())
    masks = masks.clone()
    masks[0] = False  # nobody marks anything there
    evaluator = Evaluator("val", scores=["iou"])
    evaluator.update(preds, masks, **known)
    values = evaluator.finish()
    assert values["val/false_alarm"] == 1  # of the only image with empty references, where the model marks something
    assert values["val/detection"] == 1
    assert (values["val/false_alarm_floor"], evaluator.scores) == (1, ("iou", "detection", "false_alarm"))


def test_every_epoch_starts_afresh():
    evaluator = Evaluator("test", scores=SCORES)
    first = run(evaluator)
    assert run(evaluator, epochs=3) == first
    assert evaluator.table["image_id"].tolist() == Toy().names


def test_sinks_are_told_each_epoch_and_the_end():
    sink = Noted()
    evaluator = Evaluator("val", scores=SCORES, sinks=[sink])
    values = run(evaluator, epochs=2)
    evaluator.close()
    assert [entry[:3] for entry in sink.told] == [("log", "val", 0), ("log", "val", 1), ("close", "val", 1)]
    assert sink.told[1][3:] == (values, 10)
    evaluator.close(7)
    assert sink.told[-1] == ("close", "val", 7)


def test_a_sink_that_fails_costs_one_warning_and_no_other_sink(caplog):
    sink = Noted()
    evaluator = Evaluator("val", scores=SCORES, sinks=[Broken(), sink])
    with caplog.at_level(logging.WARNING):
        run(evaluator, epochs=3)
        evaluator.close()
    assert caplog.text.count("irrbench cannot log to the moon; everything else goes on: OSError('no line')") == 1
    assert len(sink.told) == 4


def test_a_diverged_model_is_nan_with_a_reason_and_the_next_epoch_is_well(caplog):
    evaluator = Evaluator("val", scores=SCORES)
    preds, masks, known = next(batches())
    evaluator.update(preds * math.nan, masks, **known)
    values = evaluator.finish(0)
    assert set(values) == {"val/f1", "val/iou"}
    assert all(math.isnan(value) for value in values.values())
    assert "No bounds for val this time: Predictions must be finite" in caplog.text
    assert "could not be scored (Predictions must be finite" in evaluator.why_nan("val/iou")
    assert evaluator.table is None
    assert not math.isnan(run(evaluator)["val/iou"])


def test_why_a_normalized_score_is_missing():
    evaluator = Evaluator("val", scores=["tpr"])
    values = run(evaluator)
    assert math.isnan(values["val/tpr_normalized"])
    assert evaluator.why_nan("val/tpr_normalized") == "the naive rater scores at least as well as the average rater"


def test_a_wrong_option_is_an_error_at_once():
    with pytest.raises(ValueError, match="`scores` must be distinct names"):
        Evaluator("val", scores=["iuo"])
    with pytest.raises(ValueError, match="treshold"):
        Evaluator("val", treshold=0.4)


def test_only_the_first_process_tells(monkeypatch):
    sink = Noted()
    evaluator = Evaluator("val", scores=SCORES, sinks=[sink])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    evaluator.metric.distributed_available_fn = lambda: False
    run(evaluator)
    evaluator.close()
    assert sink.told == []


def test_agreement_of_the_raters_is_measured_once_for_the_same_masks(monkeypatch):
    from irrbench.evaluation import evaluator as module

    calls = []
    monkeypatch.setattr(module, "agreement_table", lambda images: calls.append(1) or agreement_table(images))
    evaluator = Evaluator("val", scores=SCORES, reliability=True)
    run(evaluator, epochs=3)
    assert len(calls) == 1
    table = evaluator.full_table
    assert {"icc_pixel", "ac1", "agreement"} <= set(table)
    assert table.drop(columns=["icc_pixel", "ac1", "agreement"]).equals(evaluator.table)
    assert "icc_pixel" in candidate_table(table, "model", SCORES)
    assert "icc_pixel" not in candidate_table(table, "floor", SCORES)


def test_an_evaluator_can_be_copied_and_sent_to_another_process(tmp_path):
    evaluator = Evaluator("val", scores=SCORES, sinks=[CSVSink(tmp_path)])
    values = run(evaluator)
    for other in (copy.deepcopy(evaluator), pickle.loads(pickle.dumps(evaluator))):  # noqa: S301 (our own)
        assert other.values() == values


def test_csv_files_hold_every_epoch_and_the_latest_images(tmp_path):
    evaluator = Evaluator("val/a b", scores=SCORES, sinks=[CSVSink(tmp_path / "new")])
    values = run(evaluator, epochs=2)
    frame = pd.read_csv(tmp_path / "new" / "val" / "a b.csv")
    assert frame["epoch"].tolist() == [0, 1]
    assert frame.loc[1, "val/a b/f1"] == pytest.approx(values["val/a b/f1"], abs=1e-15)
    assert not (tmp_path / "new" / "per_image").exists()
    evaluator.close()
    images = pd.read_csv(tmp_path / "new" / "per_image" / "val" / "a b.csv")
    assert images["image_id"].tolist() == Toy().names
    assert images["f1"].mean() == pytest.approx(summarize(evaluator.table)["f1"].model, abs=1e-15)
    assert {"f1_floor", "f1_ceiling", "iou", "alpha", "n_raters"} <= set(images)
    assert [path.name for path in (tmp_path / "new").rglob(".*")] == []


def test_a_link_in_the_place_of_a_table_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "theirs").write_text("kept")
    for name in ("val.csv", f".val.csv.{os.getpid()}"):
        (tmp_path / name).symlink_to(tmp_path / "theirs")
    run(Evaluator("val", scores=SCORES, sinks=[CSVSink(tmp_path)]))
    assert (tmp_path / "theirs").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs", "val.csv"]


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    run(Evaluator("val", scores=SCORES, sinks=[CSVSink(tmp_path / "file")]))
    assert "irrbench cannot log to CSV files" in caplog.text


def test_a_line_for_the_terminal(caplog):
    evaluator = Evaluator("val", scores=["iou", "tpr"])
    values = run(evaluator)
    model, floor, ceiling = (values[f"val/iou{x}"] for x in ("", "_floor", "_ceiling"))
    place = round(100 * (model - floor) / (ceiling - floor))
    bounds = f"{floor:.2f} (naive) and {ceiling:.2f} (average rater)"
    assert place > 100
    assert evaluator.line() == f"val iou {model:.2f} above {bounds}: {place} %"
    evaluator = Evaluator("val", scores=["tpr"])
    run(evaluator)
    assert evaluator.line().endswith(": the naive rater scores at least as well as the average rater")
    preds, masks, known = next(batches())
    evaluator.update(preds * math.nan, masks, **known)
    evaluator.finish()
    assert evaluator.line().startswith("val tpr: not a number, the images could not be scored (Predictions must be")


@pytest.mark.parametrize(
    ("score", "model", "floor", "ceiling", "side", "place"),
    [
        ("iou", 0.10, 0.42, 0.61, "below", -168),
        ("iou", 0.50, 0.42, 0.61, "between", 42),
        ("iou", 0.80, 0.42, 0.61, "above", 200),
        ("false_alarm", 0.90, 0.80, 0.30, "above", -20),  # less is better
        ("false_alarm", 0.50, 0.80, 0.30, "between", 60),
        ("false_alarm", 0.10, 0.80, 0.30, "below", 140),
    ],
)
def test_the_line_says_on_which_side_of_the_bounds_a_score_lies(score, model, floor, ceiling, side, place):
    evaluator = Evaluator("val", scores=[score])
    run(evaluator)
    means = {"model": model, "floor": floor, "ceiling": ceiling, "normalized": (model - floor) / (ceiling - floor)}
    evaluator.summary[score] = dataclasses.replace(evaluator.summary[score], **means)
    bounds = f"{side} {floor:.2f} (naive) and {ceiling:.2f} (average rater)"
    lower = " (lower is better)" * (score == "false_alarm")
    assert evaluator.line() == f"val {score} {model:.2f} {bounds}{lower}: {place} %"


@pytest.mark.parametrize(
    ("score", "options", "said"),
    [
        ("hd95", {}, "val hd95 3.14 px between 40.2 (naive) and 2.72 (average rater) (lower is better): 99 %"),
        ("hd95", {"spacing": (1, 1), "spacing_unit": "mm"}, "val hd95 3.14 mm between 40.2 (naive) and 2.72 "),
        ("hd95", {"spacing": (1, 1)}, "val hd95 3.14 units of spacing between 40.2 (naive) and 2.72 "),
        ("nsd", {"tolerance": 1.5}, "val nsd at 1.5 px 3.14 between 40.2 (naive) and 2.72 "),
        ("lesion_f1", {}, "val lesion_f1 at IoU 0.1 3.14 "),
    ],
)
def test_the_line_says_units_and_what_a_score_depends_on(score, options, said):
    evaluator = Evaluator("val", scores=[score], **options)
    run(evaluator)
    means = {"model": 3.14159, "floor": 40.2345, "ceiling": 2.71828, "normalized": 0.9887}
    evaluator.summary[score] = dataclasses.replace(evaluator.summary[score], **means)
    assert evaluator.line().startswith(said)


def test_without_data_it_says_what_to_call(caplog):
    evaluator = Evaluator("val", scores=["iou"])
    for _ in range(2):
        assert math.isnan(evaluator.finish()["val/iou"])
        assert "No bounds for val: no image has come: call `update(preds, masks)` with each batch" in caplog.text
        assert evaluator.line().startswith("val iou: not a number, the images could not be scored (no image has come")
        assert "compute" not in caplog.text
        run(evaluator)  # which is well, and leaves nothing to the next


@pytest.mark.parametrize("given", [{}, {"references": False, "normalized": False}])
def test_which_keys_are_its_own(given):
    evaluator = Evaluator("val", scores=SCORES, **given)
    assert all(evaluator.owns(key.removeprefix("val/")) for key in run(evaluator))
    assert evaluator.owns("false_alarm")
    assert evaluator.owns("iou_class1") == evaluator.owns("f1_noise_fit") is True
    assert evaluator.owns("f1_floor") == evaluator.owns("f1_normalized") == (not given)
    assert not any(map(evaluator.owns, ["dice", "iou_x", "kappa", "my_iou", "", "n"]))
