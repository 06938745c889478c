"""Steps that write into the batch, or into their predictions, change no score."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from irrbench.callbacks import RaterBoundsMonitor
from tests.callbacks.toys import SIZE, Module, Toy, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
VOID = 255


class Data(Toy):
    """With void, absent raters and a label."""

    def __init__(self, n=10, seed=0):
        super().__init__(n, seed)
        g = torch.Generator().manual_seed(7)
        self.masks = self.masks.to(torch.uint8)
        self.masks[:, 0][torch.rand(n, SIZE, SIZE + 2, generator=g) < 0.2] = VOID
        self.present = torch.ones(n, 3, dtype=torch.bool)
        self.present[::3, 2] = False

    def __getitem__(self, i):
        label = (self.masks[i, 1] == 1).float()
        return super().__getitem__(i) | {"present": self.present[i].clone(), "label": label, "masks": self.masks[i]}


class Writes(Module):
    """Its steps call `write(batch)` before, `after(logits)` after the forward."""

    def __init__(self, write=None, after=None, give=None):
        super().__init__()
        self.write, self.after, self.given = write or (lambda _: None), after or (lambda y: y), give

    def validation_step(self, batch, _, dataloader_idx=0):
        self.write(batch)
        logits = self.net(batch["image"])
        after = self.after(logits)
        return None if self.given is None else {self.given: after}

    def training_step(self, batch, _):
        self.write(batch)
        logits = self.net(batch["image"])
        self.after(logits)
        return logits.mean()


def clear_void(batch):
    label = batch["masks"][:, 0]  # a view
    label[label == VOID] = 0


WRITES = {
    "void of one rater": clear_void,
    "all masks": lambda batch: batch["masks"].zero_(),
    "region": lambda batch: batch["roi"].logical_not_(),
    "presence": lambda batch: batch["present"].fill_(value=True),
    "label": lambda batch: batch["label"].zero_(),
}


def watch(module, path, stage="validate", *, inference_mode=True, **options):
    parts = {"roi": "roi", "present": "present", "image_id": "id", "label": "label"}
    rules = {"ignore_index": VOID, "stages": ("train", "validate"), "verbose": False}
    watcher = RaterBoundsMonitor(**{**parts, **rules, **options})
    torch.manual_seed(0)
    module.net = Module().net
    data = DataLoader(Data(), batch_size=4)
    limits = {"num_sanity_val_steps": 0, "limit_val_batches": 0 if stage == "train" else 1.0}
    runner = trainer([watcher], path, max_epochs=1, inference_mode=inference_mode, **limits)
    runner.fit(module, data, data) if stage == "train" else runner.validate(module, data, verbose=False)
    return watcher.tables["train" if stage == "train" else "val"]


@pytest.mark.parametrize("stage", ["train", "validate"])
@pytest.mark.parametrize("write", WRITES)
def test_a_step_that_writes_into_the_batch_changes_no_score(tmp_path, write, stage):
    found, expected = (watch(Writes(x), tmp_path, stage) for x in (WRITES[write], None))
    assert found.equals(expected)
    assert np.isfinite(found[["iou", "iou_floor", "iou_ceiling"]].to_numpy()).any()


def assign(logits):
    logits[:, :, : SIZE // 2] = -9
    return logits


AFTER = {
    "sigmoid": lambda logits: logits.sigmoid_(),
    "assignment": assign,
    "product": lambda logits: logits.detach().mul_(2),
    "module": nn.ReLU(inplace=True),
}


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize("after", AFTER)
def test_what_a_forward_call_gave_is_scored_as_it_was_before_the_step_wrote_into_it(tmp_path, after, inference_mode):
    found, expected = (watch(Writes(after=x), tmp_path, inference_mode=inference_mode) for x in (AFTER[after], None))
    assert found.equals(expected)
    assert np.isfinite(found["iou"]).sum() > 4  # of several batches


@pytest.mark.parametrize("options", [{}, {"predictions": "net"}])
@pytest.mark.parametrize("stage", ["train", "validate"])
def test_and_in_training_and_where_the_call_is_named(tmp_path, stage, options):
    found, expected = (
        watch(Writes(after=after), tmp_path, stage, **options)
        for after in (lambda logits: logits.detach().sigmoid_(), None)
    )
    assert found.equals(expected)


def test_what_the_step_returns_is_scored_as_returned(tmp_path):
    written = Writes(after=lambda logits: logits.sigmoid_(), give="prob")
    fresh = Writes(after=lambda logits: logits.sigmoid(), give="prob")
    options = {"predictions": "prob", "from_logits": False}
    assert watch(written, tmp_path, **options).equals(watch(fresh, tmp_path, **options))
    assert watch(written, tmp_path, **options).equals(watch(Writes(), tmp_path))  # cut at the same place


def test_predictions_that_are_no_numbers_are_not_taken_for_changed_ones(tmp_path):
    class Broken(nn.Module):
        def forward(self, x):
            return torch.cat([x[:1] * float("nan"), x[1:]])

    module = Writes()
    module.net[3] = Broken()
    runner = trainer([watcher := RaterBoundsMonitor(verbose=False)], tmp_path)
    runner.validate(module, DataLoader(Toy(), batch_size=4), verbose=False)
    assert watcher.tables["val"]["unusable"].sum() == 3  # the first of each batch


@pytest.mark.parametrize("inference_mode", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_copies_are_kept_where_the_step_writes_or_writing_is_not_counted(tmp_path, writes, inference_mode):
    watcher, kept = RaterBoundsMonitor(verbose=False), []

    class Spies(Writes):
        def validation_step(self, batch, index, dataloader_idx=0):
            logits = self.net(batch["image"])
            if writes:
                logits.clamp_(-1e-3, 1e-3)
            kept.append([seen.before is not None for seen in watcher.finder.calls()])

    for _ in range(2):
        runner = trainer([watcher], tmp_path, inference_mode=inference_mode)
        runner.validate(Spies(), DataLoader(Toy(), batch_size=4), verbose=False)
    assert kept == [[True], *[[writes or inference_mode]] * 2] * 2


class WritesLate(Writes):
    """Writes into its predictions from the second batch on."""

    def validation_step(self, batch, index, dataloader_idx=0):
        logits = self.net(batch["image"])
        if index:
            logits.neg_()


def test_what_a_step_writes_into_its_predictions_in_a_later_batch_changes_no_score_or_is_an_error(tmp_path):
    assert watch(WritesLate(), tmp_path).equals(watch(Writes(), tmp_path))
    with pytest.raises(ValueError, match=r"wrote into what net gave, in a later batch and not in the first.*y\.clone"):
        watch(WritesLate(), tmp_path, inference_mode=False)
