"""Label noise: long training on one rater's masks, on the majority, and on the masks of a random rater."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from irrbench._files import quiet
from irrbench.callbacks import RaterBoundsMonitor
from irrbench.data import SegmentationDataset, collate
from irrbench.evaluation import Evaluator
from irrbench.scores import record
from studies.small_net import SmallNet, group_norm_block

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.data import RaterData

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # of logits, label and ROI, each (B, 1, *S)
_CHECK_EVERY = 2  # epochs
_MULTIPLE = 16  # images are padded to such sides
LABELS = ("rater:r1", "majority", "random")
NAMES = {"rater:r1": "one rater", "majority": "majority", "random": "a random rater in each epoch"}


def label_noise_curves(
    data: RaterData,
    *,
    labels: Sequence[str] = LABELS,
    score: str = "iou",
    num_images: int = 96,
    max_epochs: int = 120,
    seed: int = 0,
    on_epoch: Callable[[str, int], None] | None = None,
) -> pd.DataFrame:
    """Train a small network long on few images with each label strategy, and score it on training and other images.

    Args:
        data: images and masks. The training split gives the training images, all others the validation images.
        labels: label strategies, see :class:`irrbench.data.SegmentationDataset`.
        score: which score.
        num_images: training images, the first of their split.
        max_epochs: epochs a strategy.
        seed: of weights, order and random labels.
        on_epoch: called with label and epoch as they end.

    Returns:
        One row an epoch of each strategy: ``name`` (the strategy), ``epoch``; on training images ``train`` (the
        score against the raters), ``train_label`` (against the very label that was trained on), ``train_ceiling``;
        every second epoch ``val`` and ``val_ceiling`` on validation images, and ``noise_fit``, see
        :func:`irrbench.evaluation.noise_fit`.

    Raises:
        ValueError: if there are no training or no validation images.
    """
    import pandas as pd  # noqa: PLC0415

    parts, curves = _parts(data, num_images), []
    for label in labels:
        made = [SegmentationDataset(part, label=label, seed=seed) for part in parts]
        reporter = EpochReporter(made, partial(on_epoch, label) if on_epoch else lambda _: None)
        curve = train_curve(*made, score=score, max_epochs=max_epochs, seed=seed, callbacks=[reporter])
        curves.append(curve.assign(name=label)[["name", *curve]])
    return pd.concat(curves, ignore_index=True)


def rater_as_model(
    data: RaterData, *, label: str, rater: str, score: str = "iou", num_images: int = 96
) -> tuple[float, float]:
    """One rater's masks in place of a model's: what ``noise_fit`` is of somebody who has seen none of the labels.

    Args:
        data: images and masks, parted as by :func:`label_noise_curves`.
        label: another rater's masks, ``rater:<name>``.
        rater: who takes the place of the model; left out of the raters.
        score: which score.
        num_images: training images.

    Returns:
        ``noise_fit``, and its standard error over images.
    """
    place = data.raters.index(rater)
    others = [r for r in range(len(data.raters)) if r != place]
    validation = Evaluator("val", scores=[score], from_logits=False)
    train = Evaluator("train", scores=[score], from_logits=False, validation=[validation])
    for evaluator, part in zip((train, validation), _parts(data, num_images), strict=True):
        for batch in DataLoader(SegmentationDataset(part, label=label), batch_size=32, collate_fn=collate):
            masks, known = batch["masks"], {"roi": batch["roi"], "image_id": batch["id"], "label": batch["label"]}
            evaluator.update(masks[:, place], masks[:, others], present=batch["present"][:, others], **known)
    validation.finish()
    found = train.finish()[f"train/{score}_noise_fit"]
    tables = [evaluator.table for evaluator in (train, validation)]
    gaps = [table[f"{score}_label_gap"] for table in tables if table is not None]
    return found, math.sqrt(sum(gap.var() / gap.count() for gap in gaps))


def label_noise_table(curves: pd.DataFrame, *, score: str = "iou") -> pd.DataFrame:
    """The figure in numbers, one row a strategy.

    Args:
        curves: as :func:`label_noise_curves` gives.
        score: of the curves; it says whether more is better.

    Returns:
        ``best`` and ``best_epoch``: validation at its best; ``last``: at the end; ``lost``: by how much the end is
        worse than the best; ``fit_at_best`` and ``fit_at_end``: ``noise_fit`` in those epochs; ``excess``: by how much
        the score against the label is better than the ceiling of the training images at the end. All are of running
        medians of five epochs.
    """
    import pandas as pd  # noqa: PLC0415

    turn, rows = record(score).gain, {}
    for name, curve in curves.groupby("name", sort=False):
        ordered = curve.sort_values("epoch").set_index("epoch").drop(columns="name")
        smooth = ordered.rolling(5, min_periods=1).median()
        gains, fit = turn(smooth), smooth["noise_fit"]  # which is turned already
        val, epochs = gains["val"], gains.index.to_numpy(float)
        best = int(val.fillna(-math.inf).to_numpy().argmax())
        rows[name] = {
            "best": turn(val.iloc[best]),
            "best_epoch": float(epochs[best]),
            "last": turn(val.iloc[-1]),
            "lost": val.iloc[best] - val.iloc[-1],
            "fit_at_best": fit.iloc[best],
            "fit_at_end": fit.iloc[-1],
            "excess": (gains["train_label"] - gains["train_ceiling"]).iloc[-1],
        }
    return pd.DataFrame(rows).T


def _cross_entropy(logits: Tensor, label: Tensor, _roi: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits, label)


class SmallUnet(pl.LightningModule):
    """A U-Net of three levels without any normalisation over images, so that it does the same in training and after.

    Args:
        channels: of an image.
        width: channels of the first level.
        lr: learning rate.
        loss: of logits, label and ROI.
        prior: probability of foreground before training; where little is marked, the network need not learn it first.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 16,
        lr: float = 1e-3,
        loss: Loss = _cross_entropy,
        prior: float | None = None,
    ) -> None:
        super().__init__()
        self.lr, self.loss = lr, loss
        self.net = SmallNet(channels, width=width, levels=3, block=group_norm_block)
        if prior is not None and self.net.head.bias is not None:
            nn.init.constant_(self.net.head.bias, math.log(prior / (1 - prior)))

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, 1, H, W)``."""
        logits: Tensor = self.net(image)
        return logits

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """The loss against the label."""
        return self.loss(self(batch["image"]), batch["label"], batch["roi"].unsqueeze(1))

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Predict; the monitor scores the prediction."""
        self(batch["image"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant learning rate."""
        return torch.optim.Adam(self.parameters(), self.lr)


class EpochReporter(pl.Callback):
    """Passes the epoch on to the label strategy and to the caller."""

    def __init__(self, data: Sequence[SegmentationDataset], report: Callable[[int], None]) -> None:
        self.data, self.report = data, report

    def on_train_epoch_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Let strategies that draw a rater draw anew."""
        for data in self.data:
            data.set_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Report the epoch."""
        self.report(trainer.current_epoch)


def _parts(data: RaterData, num_images: int) -> tuple[RaterData, RaterData]:
    """The first training images, and all that are not in the training split."""
    train = data.split("train")
    held_out = data.subset([i for i, split in enumerate(data.manifest["split"]) if split != "train"])
    if not len(train) or not len(held_out):
        raise ValueError(f"expected images in the training split and outside, found {len(train)} and {len(held_out)}.")
    return train.subset(range(min(num_images, len(train)))), held_out


def train_curve(
    training: Dataset[dict[str, Any]],
    validation: Dataset[dict[str, Any]],
    *,
    score: str,
    max_epochs: int,
    seed: int,
    callbacks: Sequence[pl.Callback] = (),
    **network: Any,
) -> pd.DataFrame:
    """Train a small network, and score it on training images in each epoch and on validation images in every second.

    Args:
        training: images with the label to train on.
        validation: images with a label that was made in the same way.
        score: which score.
        max_epochs: epochs.
        seed: of weights and order.
        callbacks: further ones.
        network: options of :class:`SmallUnet`.

    Returns:
        A row for each epoch, as :func:`label_noise_curves` says, without ``name``.
    """
    import pandas as pd  # noqa: PLC0415

    keys: dict[str, Any] = {"roi": "roi", "image_id": "id", "present": "present", "label": "label"}
    monitor = RaterBoundsMonitor(**keys, scores=[score], stages=("train", "validate"), verbose=False)
    order = torch.Generator().manual_seed(seed)
    gather = partial(collate, multiple=_MULTIPLE)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trainer = pl.Trainer(
            max_epochs=max_epochs,
            check_val_every_n_epoch=_CHECK_EVERY,
            accelerator="cpu",
            callbacks=[monitor, *callbacks],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(
            SmallUnet(training[0]["image"].shape[0], **network),
            DataLoader(training, batch_size=8, shuffle=True, collate_fn=gather, generator=order),
            DataLoader(validation, batch_size=32, collate_fn=gather),
        )
    columns = {
        "train": f"train/{score}",
        "train_label": f"train/{score}_label",
        "train_ceiling": f"train/{score}_ceiling",
        "noise_fit": f"train/{score}_noise_fit",
        "val": f"val/{score}",
        "val_ceiling": f"val/{score}_ceiling",
    }
    by_epoch: dict[int, dict[str, float]] = {}
    for entry in monitor.history:
        by_epoch.setdefault(int(entry["epoch"]), {}).update(entry)
    rows = [
        {"epoch": epoch, **{column: found.get(key, math.nan) for column, key in columns.items()}}
        for epoch, found in sorted(by_epoch.items())
    ]
    return pd.DataFrame(rows)
