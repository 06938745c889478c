"""The one line after the first batch of a trainer."""

import io
from contextlib import redirect_stdout

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader

from irrbench.callbacks import RaterBoundsMonitor
from irrbench.callbacks.batch import Sample
from irrbench.callbacks.notices import announce
from tests.callbacks.test_no_waiting import META, OnMeta
from tests.callbacks.test_no_waiting import batch as meta_batch
from tests.callbacks.toys import Module, Toy, loader, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
RULE = {"num_classes": None, "from_logits": True, "threshold": 0.5}


def said(run):
    with redirect_stdout(io.StringIO()) as text:
        run()
    return [line for line in text.getvalue().splitlines() if line.startswith("irrbench scores")]


def monitor(**options):
    return RaterBoundsMonitor(roi="roi", image_id="id", print_link=False, **options)


def test_one_line_in_the_sanity_check_and_no_other(tmp_path):
    torch.manual_seed(1)  # weights that mark some pixels
    module = Module(call="net")
    watcher, data = monitor(stages=("train", "validate", "test")), Toy()
    with torch.no_grad():
        logits = module.net(data.image)[:4, 0]
    roi = data.roi[:4]
    marks, raters = (logits > 0)[roi].double().mean(), data.masks[:4].movedim(1, -1)[roi].double().mean()
    run = trainer(watcher, tmp_path)
    lines = said(lambda: run.fit(module, loader(), loader()))
    what = f"net: (4, 1, 8, 10), logits {logits.min():.2g} .. {logits.max():.2g}"
    assert lines == [f"irrbench scores {what}, marks {100 * marks:.0f} % of pixels, raters {100 * raters:.0f} %"]
    assert 1 < 100 * marks < 99
    assert not said(lambda: run.test(module, loader(), verbose=False))
    assert len(said(lambda: trainer(watcher, tmp_path, num_sanity_val_steps=0).fit(module, loader(), loader()))) == 1


def test_it_can_be_turned_off(tmp_path):
    with redirect_stdout(io.StringIO()) as text:
        trainer(monitor(verbose=False), tmp_path).fit(Module(), loader(), loader())
    assert "irrbench" not in text.getvalue()


class Probabilities(Module):
    def forward(self, x):
        return self.net(x).sigmoid()

    def loss(self, logits, batch):
        return logits.mean()


def test_probabilities_taken_for_logits_are_named(tmp_path):
    (line,) = said(lambda: trainer(monitor(), tmp_path).validate(Probabilities(), loader(), verbose=False))
    assert "marks 100 % of pixels" in line
    assert "all lie in [0, 1]: if they are probabilities, pass `from_logits=False`; it marks everything" in line
    (line,) = said(
        lambda: trainer(monitor(from_logits=False), tmp_path).validate(Probabilities(), loader(), verbose=False)
    )
    assert "probabilities 0." in line
    assert "all lie" not in line


MASKS = torch.arange(240).view(2, 3, 5, 8) % 7 < 2


@pytest.mark.parametrize(
    ("preds", "rule", "parts"),
    [
        (
            torch.linspace(-4.2, 3.2, 80).view(2, 1, 5, 8),
            {},
            ["(2, 1, 5, 8), logits -4.2 .. 3.2, marks 44 % of pixels"],
        ),
        (torch.full((2, 5, 8), -1.0), {}, ["marks 0 % of pixels, raters 29 %; it marks nothing"]),
        (torch.full((2, 5, 8), 2.0), {}, ["; it marks everything"]),
        (torch.linspace(-1, 1, 80).view(2, 5, 8), {"from_logits": False}, ["but probabilities lie in [0, 1]"]),
        (
            torch.linspace(0, 1, 80).view(2, 5, 8),
            {"from_logits": False},
            ["probabilities 0 .. 1, marks 50 % of pixels"],
        ),
        (torch.arange(80).view(2, 5, 8) < 1, {}, ["(2, 5, 8), a mask, marks 1 % of pixels"]),
        (torch.arange(800).view(8, 1, 10, 10).sub(1).neg(), {}, ["a mask, marks"]),
        (MASKS[:, 0], {}, ["a mask", "; it follows from the raters' masks alone: is it a label?"]),
        (MASKS.float().mean(1) - 0.2, {}, ["logits -0.2 .. 0.13", "is it a label?"]),
        (
            torch.stack([torch.arange(80.0), torch.full((80,), 40.0), torch.zeros(80)]).view(3, 2, 5, 8).movedim(0, 1),
            {"num_classes": 3},
            ["(2, 3, 5, 8), class scores 0 .. 79, marks 50 % of pixels"],
        ),
    ],
)
def test_what_the_line_says(preds, rule, parts):
    masks = MASKS if len(preds) == 2 else MASKS[:1].repeat(8, 1, 2, 2)[..., :10]
    line = announce("net", preds, Sample(masks), **RULE | rule)
    for part in parts:
        assert part in line
    assert "\n" not in line


def test_pixels_outside_the_region_and_absent_raters_do_not_count():
    preds, roi = torch.ones(2, 5, 8), torch.zeros(2, 5, 8)
    preds[:, 1:], roi[:, 0] = -1, 1
    present = torch.tensor([[1, 0, 0], [0, 0, 0]])
    line = announce("net", preds, Sample(MASKS, roi=roi, present=present), **RULE)
    share = MASKS[0, 0, 0].double().mean()
    assert f"marks 100 % of pixels, raters {100 * share:.0f} %; it marks everything" in line


def test_from_the_second_batch_on_nothing_waits_for_the_device(tmp_path):
    """The first batch is on the CPU; the next ones have no values, so that whoever asks for one gets an error."""
    watcher, module = monitor(verbose=True), Module(call="net")
    trainer(watcher, tmp_path).validate(module, loader(), verbose=False)
    finder, meta = watcher.finder, OnMeta()
    meta.net = nn.Conv2d(1, 1, 1).to(META)
    for _ in range(2):
        given = meta_batch(torch.bool, list("abcd"))
        watcher.begin("validate", None, meta)
        watcher.before_step("validate", meta, given)
        finder._labels["net"] = False  # as the first batch has found it
        logits = meta.net(given["image"])
        assert finder._choose(None, watcher._sample).tensor is logits


def test_it_says_where_nothing_counts():
    preds = torch.randn(2, 5, 8)
    line = announce("net", preds, Sample(MASKS, roi=torch.zeros(2, 5, 8)), **RULE)
    assert line.endswith(", no pixel of these images lies in the ROI")
    line = announce("net", preds, Sample(MASKS, present=torch.zeros(2, 3)), **RULE)
    assert line.endswith(" % of pixels, nobody rated these images")
    assert "nan" not in line


@pytest.mark.parametrize("is_missing", [True, False])
def test_void_is_no_mark_of_the_raters(tmp_path, capsys, is_missing):
    def masks(batch):
        given = batch["masks"].long()
        given[:, 0] = -1
        return given

    def others(batch):
        return batch["masks"][:, 1:]

    options = {"ignore_index": -1} if is_missing else {}
    trainer(monitor(masks=masks if is_missing else others, verbose=True, **options), tmp_path).validate(
        Module(), loader(), verbose=False
    )
    marked = torch.stack([x["masks"] for x in list(loader().dataset)[:4]])[:, 1:]
    roi = torch.stack([x["roi"] for x in list(loader().dataset)[:4]])
    share = marked[roi[:, None].expand_as(marked)].double().mean()
    assert f"raters {100 * share:.0f} %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "mode", "right"),
    [
        ("val/iou", "min", "max"),
        ("val/iou_normalized", "min", "max"),
        ("val/false_alarm", "max", "min"),
        ("val/iou", "max", None),
        ("val/iou_label_gap", "min", None),
        ("val/n_images", "min", None),
        ("val/loss", "min", None),
    ],
)
def test_a_callback_that_looks_for_the_worst_model_is_named(tmp_path, caplog, key, mode, right):
    watcher = monitor(scores=["iou"], verbose=False)
    run = trainer([watcher, EarlyStopping(key, mode=mode, strict=False)], tmp_path)
    for _ in range(2):
        watcher.setup(run, Module(), "fit")
        watcher.teardown(run, Module(), "fit")
    text = f"EarlyStopping(monitor='{key}') has mode='{mode}' and looks for the worst model: pass mode='{right}'"
    assert caplog.text.count(text) == (right is not None)
    assert right is not None or "has mode" not in caplog.text


@pytest.mark.parametrize("differs", [False, True])
def test_raters_who_all_drew_the_same_are_named_once(tmp_path, caplog, differs):
    data = Toy()
    data.masks = data.masks[:, :1].repeat(1, 3, 1, 1)
    data.masks[0] = False
    data.masks[1, 0, 0, 0] ^= differs
    for _ in range(2):
        runner = trainer(watcher := monitor(verbose=False), tmp_path)
        for _ in range(2):
            runner.validate(Module(), DataLoader(data, batch_size=4), verbose=False)
        assert len(watcher.tables["val"]) == len(data)
    assert caplog.text.count("val: the raters' masks are equal on all 10 images") == 2 * (not differs)
