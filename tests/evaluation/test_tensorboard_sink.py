"""One plot a score with three lines: what is written, read back by TensorBoard itself."""

from __future__ import annotations

import logging
import math
import subprocess
import sys

import pytest
import torch

from irrbench.evaluation import Evaluator, TensorBoardSink
from irrbench.evaluation.tensorboard_sink import is_tensorboard, worst_images
from tests.evaluation.test_evaluator import batches, run

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def read(folder):
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    return found


def points(folder, tag):
    return [(x.step, x.value) for x in read(folder).Scalars(tag)]


def pictured(evaluator):
    for preds, masks, known in batches():
        evaluator.update(preds, masks, image=preds[:, None], **known)


def test_model_and_bounds_have_the_same_tag_and_steps(tmp_path):
    sink = TensorBoardSink(tmp_path)
    evaluator = Evaluator("val", scores=["iou", "f1"], sinks=[sink])
    values = run(evaluator, epochs=3)
    evaluator.close()
    sink.close()
    for score in ("iou", "f1"):
        for folder, ending in ((".", ""), ("ceiling", "_ceiling"), ("floor", "_floor")):
            expected = [(epoch, pytest.approx(values[f"val/{score}{ending}"])) for epoch in range(3)]
            assert points(tmp_path / folder, f"val/{score}") == expected
    assert set(read(tmp_path).Tags()["scalars"]) == {
        "val/iou",
        "val/iou_normalized",
        "val/f1",
        "val/f1_normalized",
        "val/n_images",
    }
    assert set(read(tmp_path / "ceiling").Tags()["scalars"]) == {"val/iou", "val/f1"}


def test_without_lines_the_bounds_are_plots_of_their_own(tmp_path):
    sink = TensorBoardSink(tmp_path, bounds=False, tables=False)
    evaluator = Evaluator("val", scores=["iou"], sinks=[sink])
    values = run(evaluator)
    evaluator.close()
    sink.close()
    assert points(tmp_path, "val/iou_ceiling") == [(0, pytest.approx(values["val/iou_ceiling"]))]
    assert not (tmp_path / "ceiling").exists()
    assert read(tmp_path).Tags()["tensors"] == []


def test_pictures_have_a_group_below_the_plots_and_the_worst_images_are_a_text(tmp_path):
    sink = TensorBoardSink(tmp_path)
    evaluator = Evaluator("val/lesion", scores=["iou"], sinks=[sink], num_panels=2)
    for epoch in range(3):
        pictured(evaluator)
        evaluator.finish(epoch)
    evaluator.close()
    sink.close()
    found = read(tmp_path)
    assert found.Tags()["images"] == ["val_pictures/lesion/worst", "val_pictures/lesion/disputed"]
    assert [x.step for x in found.Images("val_pictures/lesion/worst")] == [0, 2]
    (text,) = found.Tensors("val/lesion/worst_images/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    assert lines[0] == "| image | iou | iou_ceiling | iou_floor | alpha | n_raters |"
    worst = evaluator.table.sort_values("iou")["image_id"].iloc[0]
    assert lines[2].startswith(f"| {worst} | {evaluator.table['iou'].min():.3f} |")
    assert lines[-1] == "10 of 10 images, the worst first."


def test_a_score_where_lower_is_better_has_its_largest_values_first(tmp_path):
    sink = TensorBoardSink(tmp_path)
    evaluator = Evaluator("val", scores=["hd95"], sinks=[sink])
    run(evaluator)
    evaluator.close()
    sink.close()
    (text,) = read(tmp_path).Tensors("val/worst_images/text_summary")
    first = text.tensor_proto.string_val[0].decode().splitlines()[2]
    assert f"| {evaluator.table['hd95'].max():.3f} |" in first


def test_a_later_stage_of_the_same_folder_adds_to_its_lines(tmp_path):
    sink = TensorBoardSink(tmp_path)
    for split in ("val", "test"):  # the files of the bounds are closed in between
        evaluator = Evaluator(split, scores=["iou"], sinks=[sink])
        run(evaluator)
        evaluator.close()
    sink.close()
    assert set(read(tmp_path / "floor").Tags()["scalars"]) == {"val/iou", "test/iou"}


def test_a_score_that_is_not_a_number_has_no_point(tmp_path):
    sink = TensorBoardSink(tmp_path)
    evaluator = Evaluator("val", scores=["iou"], sinks=[sink])
    evaluator.update(torch.full((2, 3, 4), math.nan), torch.ones(2, 2, 3, 4))
    assert math.isnan(evaluator.finish()["val/iou"])
    evaluator.close()
    sink.close()
    assert "val/iou" not in read(tmp_path).Tags()["scalars"]


def test_a_writer_of_the_users_stays_open_and_may_be_of_any_package(tmp_path):
    made = []

    class Writer:
        """As tensorboardX has it."""

        def __init__(self, logdir):
            self.logdir, self.points, self.is_open = logdir, [], True
            made.append(self)

        def add_scalar(self, tag, value, step):
            self.points.append((tag, step))

        def add_image(self, tag, picture, step, dataformats):
            pass

        add_text = add_image

        def flush(self):
            pass

        def close(self):
            self.is_open = False

    mine = Writer(str(tmp_path))
    sink = TensorBoardSink(mine)
    run(Evaluator("val", scores=["iou"], sinks=[sink]))
    sink.close()
    assert mine.is_open
    assert ("val/iou", 0) in mine.points
    assert {x.logdir: x.points for x in made[1:]} == {
        f"{tmp_path}/{bound}": [("val/iou", 0)] for bound in ("ceiling", "floor")
    }
    assert not any(x.is_open for x in made[1:])


def test_a_full_disk_costs_the_lines_and_not_the_values(tmp_path, caplog):
    class Logger:
        def __init__(self, writer):
            self.experiment = writer

    class Full:
        log_dir = str(tmp_path)

        def __init__(self, folder=None):
            if folder is not None:
                raise OSError("no space left on device")

        def add_scalar(self, *_):
            raise AssertionError("Lightning does that")

        add_image = add_text = add_scalar

        def flush(self):
            pass

    logger = Logger(Full())
    assert is_tensorboard(logger)
    sink = TensorBoardSink.of_logger(logger, step=lambda: 7)
    evaluator = Evaluator("val", scores=["iou"], sinks=[sink])
    with caplog.at_level(logging.WARNING, "irrbench"):
        values = run(evaluator)
        assert sink.take_bounds(values, 7) == values
        assert sink.take_bounds(values, 8) == values
    assert caplog.text.count("no space left on device") == 1
    assert "irrbench cannot log to TensorBoard" in caplog.text


def test_loggers_are_known_by_what_they_have():
    class Takes:
        def __getattr__(self, _):
            return lambda *_, **__: None

    class Logger:
        experiment = Takes()

    assert not is_tensorboard(Logger())  # as of `fast_dev_run`
    assert not is_tensorboard(object())


def test_names_that_would_break_the_table():
    import pandas as pd

    text = worst_images(pd.DataFrame({"image": ["a|b\nc", "سليم"], "iou": [math.nan, 0.5]}), rows=5)
    assert text.splitlines()[2:4] == [r"| a\|b c |  |", "| سليم | 0.500 |"]


def test_without_tensorboard_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "from irrbench.evaluation import TensorBoardSink\n"
        "try: TensorBoardSink('x')\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'irrbench[tensorboard]'" in done.stdout
