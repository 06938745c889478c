"""What W&B is told: by a run that keeps rows as W&B does, and once by W&B itself, offline."""

from __future__ import annotations

import json
import logging
import math
import struct
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from irrbench.evaluation import Evaluator, WandbSink
from irrbench.evaluation.sinks import rank_images
from irrbench.evaluation.wandb_sink import is_wandb
from tests.evaluation.fake_wandb import Run
from tests.evaluation.test_evaluator import batches, run


def values_in(run, key):
    return [(row.get("epoch"), row[key]) for row in run.rows.values() if key in row]


def test_values_have_the_epoch_as_axis_and_bounds_no_panel_of_their_own(bounds_runs):
    mine = Run()
    values = run(Evaluator("val", scores=["iou"], sinks=[WandbSink(mine)]), epochs=3)
    assert values_in(mine, "val/iou") == [(epoch, values["val/iou"]) for epoch in range(3)]
    hidden = {"val/iou_floor", "val/iou_ceiling"}
    assert mine.defined == {key: {"step_metric": "epoch", "hidden": key in hidden} for key in values}
    assert {key: mine.summary[key] for key in values} == values  # in the table of runs


def test_bounds_are_two_runs_with_the_keys_of_the_model(bounds_runs):
    mine = Run()
    evaluator = Evaluator("val", scores=["iou", "f1"], sinks=[WandbSink(mine, data_name="lidc")])
    values = run(evaluator, epochs=4)
    ceiling, floor = bounds_runs.values()
    assert values_in(ceiling, "val/iou") == [(0, values["val/iou_ceiling"])]  # while it trains
    evaluator.close()
    for bound, one in (("ceiling", ceiling), ("floor", floor)):
        for score in ("iou", "f1"):
            assert values_in(one, f"val/{score}") == [(e, values[f"val/{score}_{bound}"]) for e in (0, 3)]
        assert one.finished
        assert one.defined == {f"val/{score}": {"step_metric": "epoch"} for score in ("iou", "f1")}
    options = ceiling.options
    assert options["name"] == "average rater (ceiling) · lidc · ties average · val"
    assert options["reinit"] == "create_new"
    assert options["resume"] == "allow"
    assert (options["entity"], options["project"], options["mode"]) == ("team", "nodules", "online")
    assert options["group"] is None
    known = mine.config["irrbench"]["val"]
    assert known == {"bounds": known["bounds"], "ties": "average", "empty_reference": "drop"}
    assert options["config"]["irrbench"] == {"role": "ceiling", "data": "lidc", "val": known}


def test_models_of_a_project_share_the_bounds_and_the_longest_draws_them(bounds_runs):
    for epochs in (3, 2, 5):
        evaluator = Evaluator("val", scores=["iou"], sinks=[WandbSink(Run())])
        run(evaluator, epochs=epochs)
        evaluator.close()
    assert [[epoch for epoch, _ in values_in(x, "val/iou")] for x in bounds_runs.values()] == [[0, 2, 4]] * 2


def test_offline_runs_of_one_id_replace_each_other_so_each_has_the_whole_line(bounds_runs):
    evaluator = Evaluator("val", scores=["iou"], sinks=[WandbSink(Run(offline=True))])
    run(evaluator, epochs=3)
    assert not bounds_runs
    evaluator.close()
    assert [[epoch for epoch, _ in values_in(x, "val/iou")] for x in bounds_runs.values()] == [[0, 2]] * 2
    assert {x.options["mode"] for x in bounds_runs.values()} == {"offline"}


def test_among_grouped_runs_each_bound_is_a_group_so_that_no_mean_of_both_is_drawn(bounds_runs):
    run(Evaluator("val", scores=["iou"], sinks=[WandbSink(Run(group="fold 1"))]))
    groups = [x.options["group"] for x in bounds_runs.values()]
    assert groups == [x.options["name"] for x in bounds_runs.values()]
    assert len(set(groups)) == 2


@pytest.mark.parametrize("options", [{"sweep_id": "s1"}, {"disabled": True}])
def test_no_further_run_in_a_sweep_where_it_would_be_the_sweeps(bounds_runs, options):
    mine = Run(**options)
    evaluator = Evaluator("val", scores=["iou"], sinks=[WandbSink(mine)])
    run(evaluator, epochs=2)
    evaluator.close()
    assert not bounds_runs
    assert not any(x["hidden"] for x in mine.defined.values())  # the bounds have panels of their own then


def test_a_script_that_numbers_its_rows_loses_nothing(bounds_runs):
    mine = Run()
    sink = WandbSink(mine)
    train, val = (Evaluator(split, scores=["iou"], sinks=[sink]) for split in ("train", "val"))
    for epoch in range(3):
        mine.log({"loss": epoch}, step=epoch)
        for evaluator in (train, val):
            for preds, masks, known in batches():
                evaluator.update(preds, masks, **known)
            evaluator.finish(epoch)
        mine.log({"lr": epoch}, step=epoch)
    train.close()
    val.close()
    mine.log({"test": 1}, step=2)
    assert mine.ignored == []
    assert [mine.rows[epoch]["epoch"] for epoch in range(3)] == [0, 1, 2]
    assert all({"loss", "lr", "train/iou", "val/iou"} <= mine.rows[epoch].keys() for epoch in range(3))


def test_pictures_have_captions_and_the_table_its_worst_image_first(bounds_runs):
    mine = Run()
    evaluator = Evaluator("val", scores=["iou", "f1"], sinks=[WandbSink(mine)], num_panels=2, reliability=True)
    for epoch in range(2):
        for preds, masks, known in batches():
            evaluator.update(preds, masks, image=preds[:, None], **known)
        evaluator.finish(epoch)
    assert values_in(mine, "val/per_image") == []
    evaluator.close()
    assert values_in(mine, "val/pictures") == [(e, [(3, "worst"), (3, "disputed")]) for e in (0, 1)]
    ((_, table),) = values_in(mine, "val/per_image")
    assert table["columns"][:5] == ["image", "iou", "iou_floor", "iou_ceiling", "f1"]
    assert {"alpha", "icc_pixel", "ac1", "n_raters"} <= set(table["columns"])
    found = evaluator.table.set_index("image_id")["iou"].sort_values(kind="stable")
    assert [row[1] for row in table["data"]] == found.tolist()
    assert all(type(cell) in (str, float, int, bool) for row in table["data"] for cell in row)


def test_no_table_where_it_is_not_wanted(bounds_runs):
    mine = Run()
    evaluator = Evaluator("val", scores=["iou"], sinks=[WandbSink(mine, tables=False, reference_runs=False)])
    run(evaluator)
    evaluator.close()
    assert "val/per_image" not in mine.summary
    assert not bounds_runs


def test_where_lower_is_better_the_largest_comes_first():
    evaluator = Evaluator("val", scores=["hd95"])
    run(evaluator)
    values = rank_images(evaluator.table, evaluator.scores)["hd95"].tolist()
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


def test_a_test_after_training_does_not_set_the_epoch_back(bounds_runs):
    mine = Run()
    sink = WandbSink(mine)
    run(Evaluator("val", scores=["iou"], sinks=[sink]), epochs=3)
    run(Evaluator("test", scores=["iou"], sinks=[sink]))
    assert mine.summary["epoch"] == 2
    assert len(values_in(mine, "test/iou")) == 1
    assert len(bounds_runs) == 4


def test_what_is_not_a_number_is_not_logged(bounds_runs):
    mine = Run()
    evaluator = Evaluator("val", scores=["iou"], sinks=[WandbSink(mine)])
    evaluator.update(torch.full((2, 3, 4), math.nan), torch.ones(2, 2, 3, 4))
    assert math.isnan(evaluator.finish()["val/iou"])
    evaluator.close()
    assert "val/iou" not in mine.summary
    assert not bounds_runs


def test_a_server_that_does_not_answer_is_asked_once_and_costs_one_warning(bounds_runs, monkeypatch, caplog):
    asked = []

    def init(**options):
        asked.append(options["settings"]["init_timeout"])
        raise TimeoutError("no answer")

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    mine = Run()
    evaluator = Evaluator("val", scores=["iou"], sinks=[WandbSink(mine)])
    with caplog.at_level(logging.WARNING, "irrbench"):
        values = run(evaluator, epochs=4)
        evaluator.close()
    assert asked == [20.0]
    assert caplog.text.count("irrbench cannot log to W&B; everything else goes on: TimeoutError('no answer')") == 1
    assert mine.summary["val/iou"] == values["val/iou"]
    assert "val/per_image" in mine.summary


def test_beside_a_logger_with_a_prefix(bounds_runs):
    logger = SimpleNamespace(experiment=Run(), _prefix="a", LOGGER_JOIN_CHAR="-")
    assert is_wandb(logger)
    sink = WandbSink.of_logger(logger, step=lambda: 40)
    evaluator = Evaluator("val", scores=["iou"], sinks=[sink])
    run(evaluator)
    evaluator.close()
    assert "a-val/iou" in logger.experiment.defined
    (row,) = logger.experiment.rows.values()  # the values are the trainer's to log
    assert row.keys() == {"a-val/per_image", "trainer/global_step"}
    assert row["trainer/global_step"] == 40
    assert ["a-val/iou" in x.summary for x in bounds_runs.values()] == [True, True]


def test_loggers_are_known_by_what_they_have():
    class Takes:
        def __getattr__(self, _):
            return lambda *_, **__: None

    assert not is_wandb(SimpleNamespace(experiment=Takes()))  # as of `fast_dev_run`
    assert not is_wandb(object())


def test_without_wandb_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'irrbench\[wandb\]'"):
        WandbSink.new_run("nodules")


SCRIPT = """
import sys
from irrbench.evaluation import Evaluator, WandbSink
from tests.evaluation.test_evaluator import batches
sink = WandbSink.new_run("nodules", name="unet", config={"lr": 0.1}, mode="offline", dir=sys.argv[1])
evaluator = Evaluator("val", scores=["iou"], sinks=[sink], num_panels=1)
for epoch in range(3):
    sink.run.log({"loss": 1.0}, step=10 * epoch)
    for preds, masks, known in batches():
        evaluator.update(preds, masks, image=preds[:, None], **known)
    values = evaluator.finish(epoch)
evaluator.close()
sink.close()
print(values["val/iou"], values["val/iou_ceiling"])
"""


def records(path):
    """The records of a ``.wandb`` file: blocks of 32 KiB, each record with a checksum, a length and a kind."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts, at = parts + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def rows_of(path):
    found = [x.history.item for x in records(path) if x.WhichOneof("record_type") == "history"]
    return [{x.key or "/".join(x.nested_key): json.loads(x.value_json) for x in items} for items in found]


@pytest.mark.slow
def test_wandb_itself_offline(tmp_path):
    pytest.importorskip("wandb")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300
    )
    assert "irrbench cannot log" not in done.stderr
    model, ceiling = (float(x) for x in done.stdout.split()[-2:])
    files = {path.parent.name.split("-", 3)[3]: path for path in tmp_path.rglob("*.wandb")}
    bounds = {name.split("-")[1]: files.pop(name) for name in list(files) if name.startswith("irrbench-")}
    assert set(bounds) == {"ceiling", "floor"}
    ((_, path),) = files.items()
    rows = rows_of(path)
    assert [(x["_step"], x["epoch"]) for x in rows if "val/iou" in x] == [(0, 0), (10, 1), (20, 2)]
    assert rows[-1]["val/iou"] == pytest.approx(model)
    assert rows[-1]["loss"] == 1.0
    assert rows[-1]["val/per_image/nrows"] == 10
    assert rows[-1]["val/pictures/captions"] == ["worst"]
    metrics = {x.metric.name: x.metric for x in records(path) if x.WhichOneof("record_type") == "metric"}
    assert metrics["val/iou"].step_metric == "epoch"
    assert metrics["val/iou_ceiling"].options.hidden
    assert not metrics["val/iou"].options.hidden
    assert [(x["epoch"], x["val/iou"]) for x in rows_of(bounds["ceiling"])] == [
        (e, pytest.approx(ceiling)) for e in (0, 2)
    ]
    (table,) = (path.parent / "files" / "media" / "table").rglob("*.json")
    assert json.loads(table.read_text())["columns"][:2] == ["image", "iou"]
