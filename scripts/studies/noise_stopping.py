"""When a network begins to fit the noise in its labels, and what rules for stopping are worth then."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from irrbench.callbacks import CeilingStopping, RaterBoundsMonitor
from irrbench.data import SegmentationDataset, collate
from irrbench.evaluation import Evaluator
from irrbench.scores import record
from irrbench.training.doses import calibrate, train_ceiling
from irrbench.training.losses import make_loss
from irrbench.training.noise import NoiseModel, make_noise, spoil
from studies.label_noise import EpochReporter, train_curve

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.data import RaterData

LR, WIDTH = 2e-3, 12
LIMITS = (0.05, 0.1)  # of noise_fit
MARGIN, PATIENCE = 0.02, 3  # of CeilingStopping
BEST, LAST, CEILING = "best validation", "last epoch", "CeilingStopping"
_SMOOTH = 5  # epochs of a running median
_TRAIN, _VAL = 0, 1  # purposes of random numbers


class SpoiltLabels(Dataset[dict[str, Any]]):
    """A data set whose labels have the same noise in each epoch; items are kept in memory.

    Args:
        data: images and masks.
        label: label strategy, the same in each epoch.
        noise: the noise model.
        strength: of it; 0 leaves the labels alone.
        key: seed of the noise, before the image's number.
    """

    def __init__(self, data: RaterData, label: str, noise: NoiseModel, strength: float, key: Sequence[int]) -> None:
        clean = SegmentationDataset(data, label=label)
        self._items = [{**item, "label": self._spoil(item, noise, strength, [*key, i])} for i, item in _all(clean)]

    @staticmethod
    def _spoil(item: dict[str, Any], noise: NoiseModel, strength: float, key: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(spoil(item["label"][0].numpy(), noise, strength, key, item["roi"].numpy()))[None]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._items[index]


def _all(items: SegmentationDataset) -> list[tuple[int, dict[str, Any]]]:
    return [(i, items[i]) for i in range(len(items))]


def stopping_curve(
    data: RaterData,
    *,
    noise: str = "boundary",
    dose: float = 0.0,
    label: str = "majority",
    score: str = "iou",
    num_images: int = 96,
    max_epochs: int = 60,
    seed: int = 0,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> pd.DataFrame:
    """Train a small network long on few images with spoilt labels, and score validation and test images apart.

    The labels of validation images, which ``noise_fit`` needs, are spoilt as those of training images are, by draws of
    their own. References are always the raters' own masks.

    Args:
        data: with the splits ``train``, ``val`` and ``test``.
        noise: name of a noise model.
        dose: of it, 1 for the disagreement of one average rater.
        label: label strategy.
        score: which score.
        num_images: training images, drawn by the seed.
        max_epochs: epochs.
        seed: of images, weights, order and noise.
        on_epoch: called with the epoch as it ends.

    Returns:
        A row for each epoch with validation: ``name`` such as ``boundary 2``, ``seed``, the columns of
        :func:`studies.label_noise.label_noise_curves`, ``test`` and ``good_enough``, whether ``CeilingStopping`` would
        have stopped there.

    Raises:
        irrbench.training.doses.DoseError: for a dose that the noise cannot reach.
    """
    train = data.split("train")
    chosen = np.random.default_rng(seed).permutation(len(train))[:num_images]
    train, validation = train.subset(sorted(chosen.tolist())), data.split("val")
    made, strength = _noise_at(train, noise, dose, label, seed)
    parts = [
        SpoiltLabels(part, label, made, strength, [seed, purpose])
        for part, purpose in ((train, _TRAIN), (validation, _VAL))
    ]
    test = _HeldOut(SegmentationDataset(data.split("test"), label=label), score, validation)
    reporter = EpochReporter([], on_epoch)
    prior = float(np.mean([parts[0][i]["label"].mean() for i in range(len(train))]))
    network: dict[str, Any] = {"loss": make_loss(), "lr": LR, "width": WIDTH, "prior": prior}
    training: dict[str, Any] = {"max_epochs": max_epochs, "seed": seed, "callbacks": [reporter, test]}
    curve = train_curve(parts[0], parts[1], score=score, **training, **network)
    found = curve.merge(test.frame(), on="epoch", validate="one_to_one")
    name = f"{noise} {dose:g}" if dose else "no noise"
    return found.assign(name=name, seed=seed)[["name", "seed", *found]]


def _noise_at(train: RaterData, noise: str, dose: float, label: str, seed: int) -> tuple[NoiseModel, float]:
    """The noise model, and the strength that gives the dose on these labels."""
    items = _all(SegmentationDataset(train, label=label))
    masks = [item["label"][0].numpy() > 0.5 for _, item in items]
    made = make_noise(noise, masks=lambda: masks)
    labels = [(item["label"][0].numpy(), item["roi"].numpy(), [seed, _TRAIN, i]) for i, item in items]
    (found,) = calibrate(labels, made, [dose], unit=1 - train_ceiling(train))
    return made, found.strength


class _HeldOut(pl.Callback):
    """Scores test images after each validation, and notes when ``CeilingStopping`` would stop; it stops nothing."""

    def __init__(self, test: SegmentationDataset, score: str, validation: RaterData) -> None:
        gather = partial(collate, multiple=16)
        self._batches = list(DataLoader(test, batch_size=64, collate_fn=gather))
        self._evaluator = Evaluator("test", scores=[score])
        self._score = score
        groups = dict(zip(validation.image_ids, validation.groups, strict=True))
        self._rule = CeilingStopping(score=score, margin=MARGIN, patience=PATIENCE, groups=groups, verbose=False)
        self._rows: list[dict[str, Any]] = []

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Score the test images, with the monitor's table of this validation at hand."""
        if trainer.sanity_checking:
            return
        monitor = next(one for one in trainer.callbacks if isinstance(one, RaterBoundsMonitor))  # type: ignore[attr-defined]
        with torch.no_grad():
            for batch in self._batches:
                known = {"roi": batch["roi"], "image_id": batch["id"], "present": batch["present"]}
                self._evaluator.update(module(batch["image"]), batch["masks"], **known)
        values = self._evaluator.finish(trainer.current_epoch)
        row = {"epoch": trainer.current_epoch, "test": values[f"test/{self._score}"]}
        self._rows.append({**row, "good_enough": self._rule.check(monitor.tables.get("val"))})

    def frame(self) -> pd.DataFrame:
        """A row for each validation."""
        import pandas as pd  # noqa: PLC0415

        return pd.DataFrame(self._rows)


def stopping_epochs(curve: pd.DataFrame, *, score: str = "iou") -> dict[str, tuple[float, bool]]:
    """Where each rule ends one training.

    Args:
        curve: as :func:`stopping_curve` gives, of one training.
        score: of the curve; it says whether more is better.

    Returns:
        By rule the epoch whose weights one has, and whether the rule ended the training; one that did not has the last.
        The median of ``noise_fit`` is of the five latest validations, as it is known while the training runs.
    """
    curve = curve.sort_values("epoch")
    epochs, last = curve["epoch"].to_numpy(float), float(curve["epoch"].iloc[-1])
    gains = record(score).gain(curve["val"]).fillna(-math.inf).to_numpy()
    fit = curve["noise_fit"].rolling(_SMOOTH, min_periods=1).median()
    found = {BEST: (float(epochs[int(gains.argmax())]), True), LAST: (last, True)}
    rules = {f"noise_fit > {limit:g}": (fit > limit).to_numpy() for limit in LIMITS}
    rules[CEILING] = curve["good_enough"].to_numpy(bool)
    for name, ends in rules.items():
        found[name] = (float(epochs[int(ends.argmax())]), True) if ends.any() else (last, False)
    return found


def stopping_table(curves: pd.DataFrame, *, score: str = "iou") -> pd.DataFrame:
    """What each rule gives, one row for each noise and rule.

    Args:
        curves: of any number of trainings, see :func:`stopping_curve`.
        score: of the curves.

    Returns:
        ``name``, ``rule``; means over seeds: ``epoch``, ``fit`` (``noise_fit`` there), ``test``; ``difference``, by how
        much ``test`` is better than with the best validation score, with ``least`` and ``most`` of the seeds;
        ``stopped``, in how many trainings the rule ended it, and ``seeds``.
    """
    import pandas as pd  # noqa: PLC0415

    turn, rows = record(score).gain, []
    for (name, seed), curve in curves.groupby(["name", "seed"], sort=False):
        at = curve.set_index("epoch")
        epochs = stopping_epochs(curve, score=score)
        best = turn(at["test"].loc[epochs[BEST][0]])
        for rule, (epoch, stopped) in epochs.items():
            there = at.loc[epoch]
            facts = {"name": name, "rule": rule, "seed": seed, "epoch": epoch, "fit": there["noise_fit"]}
            rows.append({**facts, "test": there["test"], "gain": turn(there["test"]) - best, "stopped": stopped})
    groups = pd.DataFrame(rows).groupby(["name", "rule"], sort=False)
    means = groups[["epoch", "fit", "test"]].mean()
    found = {"difference": ("gain", "mean"), "least": ("gain", "min"), "most": ("gain", "max")}
    return means.join(groups.agg(**found, stopped=("stopped", "sum"), seeds=("seed", "nunique"))).reset_index()
