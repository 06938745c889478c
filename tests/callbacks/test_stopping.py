import importlib
import json
import logging
import math
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from irrbench import VotePatterns, segmentation_bounds
from irrbench.callbacks import RaterBoundsMonitor
from irrbench.callbacks import stopping as module_of_stopping
from irrbench.callbacks.stopping import advantage_interval
from irrbench.simulate import draw_lesions
from tests.callbacks.toys import Module, loader, trainer

CeilingStopping = partial(module_of_stopping.CeilingStopping, min_groups=2)  # few images are enough to see it work
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def monitor(**kwargs):
    return RaterBoundsMonitor("masks", roi="roi", image_id="id", print_link=False, **kwargs)


def table(differences, ceiling=0.5):
    """Images whose model is so far above the average rater."""
    differences = np.asarray(differences, float)
    bounds = {"iou_floor": 0.1, "iou_ceiling": ceiling, "iou_upper": 0.9}
    names = [f"image {i}" for i in range(len(differences))]
    return pd.DataFrame({"image_id": names, "iou": ceiling + differences, **bounds})


def scripted(good, base=pl.LightningModule):
    """A module that sees the truth in some epochs and its opposite in others."""

    class Scripted(base):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.seen = []

        def training_step(self, batch, _):
            return self.weight.sum()

        def on_validation_epoch_start(self):
            if not self.trainer.sanity_checking:
                self.seen.append(self.trainer.current_epoch)

        def validation_step(self, batch, _, dataloader_idx=0):
            return (batch["image"] - 0.3) * (1 if good(self.trainer.current_epoch) else -1)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Scripted()


def fit(tmp_path, module, stopping, *more, max_epochs=12, ckpt_path=None, **kwargs):
    run = trainer([stopping, monitor(), *more], tmp_path, max_epochs=max_epochs, **kwargs)
    run.fit(module, loader(), loader(), ckpt_path=ckpt_path)
    return run


# The interval ---------------------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_the_mean_difference():
    differences = np.random.default_rng(0).normal(0.02, 0.05, 400)
    low, high = advantage_interval(table(differences), "iou", level=0.9)
    half = 1.645 * differences.std(ddof=1) / 20  # the normal approximation, close at this many images
    assert low == pytest.approx(differences.mean() - half, abs=5e-4)
    assert high == pytest.approx(differences.mean() + half, abs=5e-4)
    # Paired: what is hard for the raters is hard for the model, and cancels.
    hard = np.random.default_rng(1).uniform(0.2, 0.8, 400)
    assert advantage_interval(table(differences, hard), "iou", level=0.9) == pytest.approx((low, high), abs=1e-12)


def test_groups_widen_the_interval():
    differences = np.repeat([0.0, 0.02, 0.04, 0.06], 10)  # four patients, ten images each that are all alike
    alone = advantage_interval(table(differences), "iou")
    by_patient = {f"image {i}": i // 10 for i in range(40)}
    grouped = advantage_interval(table(differences), "iou", groups=by_patient)
    assert grouped.low < alone.low < 0.03 < alone.high < grouped.high
    half = 3.18245 * np.std([0.0, 0.02, 0.04, 0.06], ddof=1) / 2  # Student's t with 3 degrees of freedom, from a table
    assert grouped == pytest.approx((0.03 - half, 0.03 + half), abs=1e-6)
    of_the_name = advantage_interval(table(differences), "iou", groups=lambda name: int(name.split()[1]) // 10)
    assert of_the_name == grouped


def test_order_of_images_does_not_matter():
    rows = table(np.random.default_rng(0).normal(0, 0.1, 30))
    assert advantage_interval(rows, "iou") == advantage_interval(rows.iloc[::-1], "iou")


def test_ids_may_be_numbers_in_the_mapping():
    rows = table([0.1, 0.2, 0.3]).assign(image_id=["7", "8", "9"])
    of_numbers = advantage_interval(rows, "iou", groups={7: "a", 8: "a", 9: "b"})
    assert of_numbers == advantage_interval(rows, "iou", groups=lambda name: name == "9") != (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("differences", "groups"),
    [([0.2], None), ([0.2, math.nan], None), ([math.nan] * 3, None), ([0.2, 0.3, 0.4], lambda name: "one patient")],
)
def test_fewer_than_two_groups_say_nothing(differences, groups):
    assert advantage_interval(table(differences), "iou", groups=groups) == (-math.inf, math.inf)


@pytest.mark.parametrize("groups", [{"image 0": "a"}, {"image 0": "a", "image 1": math.nan}, lambda name: None])
def test_an_image_without_a_group_is_an_error(groups):
    with pytest.raises(ValueError, match=r"a group for every validation image, found none for 'image [01]'"):
        advantage_interval(table([0.1, 0.2]), "iou", groups=groups)


# The decision, without a trainer --------------------------------------------------------------------------------------

ABOVE, BELOW = table([0.019, 0.02, 0.021]), table([-0.021, -0.02, -0.019])


def test_only_checks_in_a_row_count():
    stopping = CeilingStopping(patience=2)
    assert [stopping.check(t) for t in (ABOVE, BELOW, ABOVE, None, ABOVE, ABOVE)] == [False] * 5 + [True]
    assert stopping.interval.low == pytest.approx(0.02 - 4.30265 * 0.001 / math.sqrt(3), abs=1e-6)


def test_the_whole_interval_must_be_above():
    mean_above = table([-0.01, 0.02, 0.03])
    stopping = CeilingStopping(patience=1)
    assert not stopping.check(mean_above)
    assert stopping.interval.low < 0 < stopping.interval.high
    assert not stopping.check(table([0.0, 0.0]))  # as good is not better


def test_margin_is_in_units_of_the_score():
    near = CeilingStopping(patience=1, margin=0.0226)
    assert near.check(BELOW)
    assert not CeilingStopping(patience=1, margin=0.0224).check(BELOW)
    assert not CeilingStopping(patience=1, margin=-0.02).check(ABOVE)


def test_nan_never_counts():
    stopping = CeilingStopping(patience=1, margin=1.0)
    assert not stopping.check(None)
    assert math.isnan(stopping.interval.low)
    assert not stopping.check(table([math.nan] * 4))
    assert stopping.check(BELOW)


def test_the_main_score_is_the_tables_first():
    two = BELOW.assign(f1=0.9, f1_floor=0.1, f1_ceiling=0.5, f1_upper=0.9)
    assert not CeilingStopping(patience=1).check(two)
    assert CeilingStopping(patience=1, score="f1").check(two)


@pytest.fixture(scope="module")
def people():
    """Raters of equal quality, others on each image: masks ``(B, R, H, W)`` and the truth."""
    masks, truth = draw_lesions(120, sensitivity=[1] * 16, specificity=[1] * 16, size=(64, 64), edge=1.0, rng=0)
    chosen = torch.rand(120, 16, generator=torch.Generator().manual_seed(0)).argsort(1)
    return masks[torch.arange(120)[:, None], chosen], truth


@pytest.mark.parametrize(("num_raters", "percent"), [(2, 112), (3, 112), (4, 116), (5, 116), (8, 120)])
def test_the_truth_is_far_above_what_it_stops_at_and_another_rater_is_not(people, num_raters, percent):
    masks, truth = people
    shares = []
    for preds in (truth, masks[:, -1]):
        bounds = segmentation_bounds(VotePatterns.from_masks(masks[:, :num_raters], preds=preds), ["iou"])
        floor, ceiling, model = (getattr(bounds, who)["iou"].mean() for who in ("floor", "ceiling", "model"))
        shares.append((100 * (model - floor) / (ceiling - floor)).item())
    assert shares == pytest.approx([percent, 100], abs=4)


# In a trainer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
def test_a_model_that_reaches_the_raters_agreement_stops(tmp_path, caplog, capsys, order):
    torch.manual_seed(0)
    stopping, watcher = CeilingStopping(), monitor()
    run = trainer([watcher, stopping][::order], tmp_path, max_epochs=60)
    with caplog.at_level(logging.INFO, logger="irrbench"):
        run.fit(Module(), loader(), loader())
    assert 3 < stopping.stopped_epoch < 59
    assert run.current_epoch == stopping.stopped_epoch + 1
    # The latest tables are those of the epoch that was judged, whichever callback comes first.
    assert stopping.interval == advantage_interval(watcher.tables["val"], "iou")
    *before, first, _, last = watcher.history
    assert min(row["val/iou"] - row["val/iou_ceiling"] for row in (first, last)) > 0.02
    assert before[0]["val/iou"] < before[0]["val/iou_ceiling"]
    low, high = stopping.interval
    assert f"val/iou: model - average rater lies in [{low:.4f}, {high:.4f}] (95 % interval), above 0" in stopping.reason
    assert stopping.reason.endswith(
        "for 3 checks in a row: good enough as a rater. More training may still improve it."
    )
    assert caplog.messages.count(stopping.reason) == 1
    assert capsys.readouterr().err.count("Stopping. val/iou") == 1


def test_a_model_trained_to_nothing_never_stops(tmp_path, capsys):
    stopping = CeilingStopping(patience=1)
    run = fit(tmp_path, scripted(lambda epoch: False), stopping, max_epochs=5)
    assert run.current_epoch == 5
    assert (stopping.stopped_epoch, stopping.reason, stopping.passes) == (None, "", 0)
    assert stopping.interval.high < 0
    assert "Stopping" not in capsys.readouterr().err


def test_a_diverged_model_never_stops(tmp_path):
    class Diverged(Module):
        def validation_step(self, batch, _):
            return self.net(batch["image"]) * math.nan

    stopping = CeilingStopping(patience=1, margin=1.0)
    assert fit(tmp_path, Diverged(), stopping, max_epochs=3).current_epoch == 3
    assert all(map(math.isnan, stopping.interval))


def test_patience_counts_checks_in_a_row(tmp_path):
    stopping = CeilingStopping(patience=3)
    fit(tmp_path, scripted(lambda epoch: epoch not in (2, 5)), stopping)
    assert stopping.stopped_epoch == 8  # 0 1 . 3 4 . 6 7 8


def test_patience_counts_checks_and_not_epochs(tmp_path):
    stopping = CeilingStopping(patience=2)
    run = fit(tmp_path, scripted(lambda epoch: True), stopping, val_check_interval=1)
    assert (stopping.stopped_epoch, run.global_step) == (0, 2)
    every_second = CeilingStopping(patience=2)
    fit(tmp_path, scripted(lambda epoch: True), every_second, check_val_every_n_epoch=2)
    assert every_second.stopped_epoch == 3


def test_min_epochs_of_the_trainer_holds(tmp_path, caplog):
    stopping = CeilingStopping(patience=1, verbose=False)
    with caplog.at_level(logging.INFO, logger="irrbench"):
        assert fit(tmp_path, scripted(lambda epoch: True), stopping, min_epochs=4).current_epoch == 4
    assert len([m for m in caplog.messages if "average rater lies in" in m]) == 1


def test_verbose_false_says_nothing_on_the_terminal(tmp_path, capsys):
    stopping = CeilingStopping(patience=1, verbose=False)
    fit(tmp_path, scripted(lambda epoch: True), stopping)
    assert stopping.reason
    assert "average rater" not in capsys.readouterr().err


def test_groups_of_a_training(tmp_path):
    groups = {f"image {i}": "left" if i < 5 else "right" for i in range(10)}
    alone, grouped = CeilingStopping(patience=2), CeilingStopping(patience=2, groups=groups, score="f1")
    watcher = monitor()
    trainer([alone, grouped, watcher], tmp_path, max_epochs=5).fit(scripted(lambda epoch: True), loader(), loader())
    gap = watcher.tables["val"].set_index("image_id").pipe(lambda t: t["f1"] - t["f1_ceiling"])
    by_side = gap.groupby(groups).mean()
    # Two groups of one size: the standard error is half of their distance; Student's t of one degree of freedom.
    half = 12.7062 * (by_side.max() - by_side.min()) / 2
    assert grouped.interval == pytest.approx((by_side.mean() - half, by_side.mean() + half), abs=1e-5)
    assert alone.interval != grouped.interval


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_training_stops_where_an_undisturbed_one_does(tmp_path):
    good = lambda epoch: epoch != 1  # noqa: E731
    undisturbed = CeilingStopping(patience=4)
    fit(tmp_path, scripted(good), undisturbed)
    assert undisturbed.stopped_epoch == 5
    for hook in ("validation", "epoch"):
        folder = tmp_path / hook
        saver = ModelCheckpoint(folder, save_last=True, save_on_train_epoch_end=hook == "epoch")
        first = CeilingStopping(patience=4)
        fit(tmp_path, scripted(good), first, saver, max_epochs=4, enable_checkpointing=True)
        assert (first.passes, first.stopped_epoch) == (2, None)
        second, module = CeilingStopping(patience=4), scripted(good)
        fit(tmp_path, module, second, ckpt_path=folder / "last.ckpt")
        assert module.seen == [4, 5]
        assert second.state_dict() == undisturbed.state_dict()


def test_the_state_can_be_loaded_as_weights_only(tmp_path):
    stopping = CeilingStopping(patience=2)
    stopping.check(ABOVE)
    torch.save(stopping.state_dict(), tmp_path / "state.pt")
    again = CeilingStopping(patience=2)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.interval == stopping.interval
    assert again.check(ABOVE)


def test_a_new_fit_begins_anew(tmp_path):
    stopping = CeilingStopping(patience=3)
    fit(tmp_path, scripted(lambda epoch: True), stopping)
    assert stopping.stopped_epoch == 2
    fit(tmp_path, scripted(lambda epoch: True), stopping, max_epochs=2)
    assert (stopping.stopped_epoch, stopping.reason, stopping.passes) == (None, "", 2)


def test_sanity_check_validate_and_fast_dev_run_are_no_checks(tmp_path):
    stopping = CeilingStopping(patience=1)
    module = scripted(lambda epoch: True)
    run = fit(tmp_path, module, stopping, max_epochs=0)
    run.validate(module, loader(), verbose=False)
    assert stopping.passes == 0
    run = fit(tmp_path, module, stopping, fast_dev_run=True, max_epochs=1)
    assert not run.should_stop
    assert stopping.stopped_epoch is None


class CountSteps(pl.Callback):
    def __init__(self):
        self.steps = 0

    def on_train_batch_start(self, *_):
        self.steps += 1


def test_several_loaders_need_a_choice_before_anything_is_trained(tmp_path):
    loaders = {"clinic": loader(), "screening": loader(seed=5)}
    count = CountSteps()
    run = trainer([CeilingStopping(), monitor(), count], tmp_path)
    with pytest.raises(
        ValueError, match=r"one of 'val/clinic', 'val/screening'; found 'val'\. Pass .*split='val/clinic'"
    ):
        run.fit(scripted(lambda epoch: True), loader(), loaders)
    assert count.steps == 0
    stopping = CeilingStopping(split="val/screening", patience=2)
    run = trainer([stopping, monitor()], tmp_path, max_epochs=5)
    run.fit(scripted(lambda epoch: True), loader(), loaders)
    assert stopping.stopped_epoch == 1
    assert stopping.reason.startswith("val/screening/iou: ")


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (lambda: [CeilingStopping()], "the trainer has none: Trainer.callbacks=.RaterBoundsMonitor"),
        (lambda: [CeilingStopping(score="kappa"), monitor()], "iou, accuracy, tpr, ppv, f1; found 'kappa'. Pass Rater"),
        (
            lambda: [CeilingStopping(), monitor(stages=["test"])],
            "'validate' monitored; RaterBoundsMonitor.* has stages=.'test',",
        ),
        (
            lambda: [CeilingStopping(), monitor(), monitor()],
            r"has 2 monitors: RaterBoundsMonitor\(\), .*say which by .*monitor=\.\.\.",
        ),
        (lambda: [CeilingStopping(monitor=monitor()), monitor()], "`monitor` must be among the trainer's callbacks"),
    ],
)
def test_what_is_missing_is_an_error_before_anything_runs(tmp_path, callbacks, message):
    module = scripted(lambda epoch: True)
    with pytest.raises(ValueError, match=message):
        trainer(callbacks(), tmp_path, num_sanity_val_steps=0).fit(module, loader(), loader())
    assert not module.seen


def test_one_of_two_monitors_can_be_chosen(tmp_path):
    chosen = monitor(scores=["f1"], name="chosen")
    stopping = CeilingStopping(monitor=chosen, patience=1)
    trainer([monitor(), stopping, chosen], tmp_path).fit(scripted(lambda epoch: True), loader(), loader())
    assert stopping.reason.startswith("val/chosen/f1: ")


def test_a_training_without_validation_is_told_so(tmp_path, caplog):
    run = trainer([CeilingStopping(), monitor()], tmp_path, limit_val_batches=0, max_epochs=1)
    run.fit(scripted(lambda epoch: True), loader(), loader())
    assert "will not stop this training: it has no validation" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "dice"}, "`score` must be among iou, .*found 'dice'"),
        ({"margin": math.nan}, "`margin` must be a number in units of the score"),
        ({"patience": 0}, "`patience` must be a whole number, 1 or more; found 0"),
        ({"patience": 1.5}, "`patience` must be a whole number"),
        ({"min_groups": 1}, "`min_groups` must be 2 or more, found 1"),
        ({"level": 95}, "`level` must lie between 0 and 1, as 0.95; found 95"),
    ],
)
def test_options_are_checked_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        CeilingStopping(**options)


def test_few_images_stop_nothing_and_it_is_said_once(caplog):
    stopping = module_of_stopping.CeilingStopping(patience=1)
    nine, ten = table([0.1, 0.12, 0.11] * 3), table([0.1, 0.12, 0.11] * 3 + [0.1])
    assert not stopping.check(nine)
    assert not stopping.check(nine)
    assert caplog.text.count("fewer than 10 independent validation images or groups have a val/iou") == 1
    assert stopping.check(ten)
    patients = {f"image {i}": i // 2 for i in range(10)}
    assert not module_of_stopping.CeilingStopping(patience=1, groups=patients).check(ten)


@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize("order", [1, -1])
def test_both_namespaces_take_it(tmp_path, namespace, order):
    lightning = pytest.importorskip(namespace)
    stopping = CeilingStopping(patience=2)
    assert isinstance(stopping, lightning.Callback)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    run = lightning.Trainer(
        callbacks=[stopping, monitor()][::order],
        default_root_dir=tmp_path,
        enable_model_summary=False,
        log_every_n_steps=1,
        max_epochs=6,
        **options,
    )
    module = scripted(lambda epoch: epoch > 0, importlib.import_module(namespace).LightningModule)
    run.fit(module, loader(), loader())
    assert stopping.stopped_epoch == 2


TWO_PROCESSES = """
import json, sys, warnings
from pathlib import Path
import pytorch_lightning as pl
from tests.callbacks.test_stopping import CeilingStopping, loader, monitor, scripted, trainer

warnings.simplefilter("ignore")

class Disagree(pl.Callback):  # process 0 alone would never stop
    def on_train_start(self, trainer, module):
        stopping.patience = 3 if trainer.global_rank else 99

class Tell(pl.Callback):
    def on_fit_end(self, trainer, module):
        found = [stopping.stopped_epoch, trainer.current_epoch, list(stopping.interval)]
        Path(sys.argv[1], f"{name}{trainer.global_rank}.json").write_text(json.dumps(found))

for name, more in (("agree", []), ("disagree", [Disagree()])):
    stopping = CeilingStopping(patience=3)
    run = trainer([stopping, monitor(), Tell(), *more], sys.argv[1], max_epochs=9, devices=2, strategy="ddp_fork")
    run.fit(scripted(lambda epoch: epoch != 1), loader(n=9), loader(n=9, batch_size=2))
"""


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path):
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [sys.executable, "-c", TWO_PROCESSES, str(tmp_path)], check=True, timeout=120, env=env, capture_output=True
    )
    alone = CeilingStopping(patience=3)
    run = trainer([alone, monitor()], tmp_path, max_epochs=9)
    run.fit(scripted(lambda epoch: epoch != 1), loader(n=9), loader(n=9, batch_size=2))
    assert alone.stopped_epoch == 4
    for name in ("agree", "disagree"):
        found = [json.loads((tmp_path / f"{name}{rank}.json").read_text()) for rank in range(2)]
        assert found == [[4, 5, list(alone.interval)]] * 2
