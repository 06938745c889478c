"""Run as a script: the same task in one process or in two, results of every rank as JSON files in a folder."""

import json
import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import MLFlowLogger
from torch.utils.data import DataLoader, Subset

from irrbench.callbacks import RaterBoundsMonitor
from tests.callbacks.toys import Module, Toy

SEED = 1  # of weights that mark some pixels and leave some


class Uneven(Module):
    """Two validation loaders; of the second, only the first process has images."""

    def __init__(self):
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def val_dataloader(self):
        rank, world = self.trainer.global_rank, self.trainer.world_size
        even, first = Toy(9), Toy(5, seed=4)
        mine = Subset(even, range(rank, len(even), world))
        return [DataLoader(mine, batch_size=2), DataLoader(first if rank == 0 else Subset(first, []), batch_size=2)]


class Padded(Module):
    """Lightning's own sampler: nine images on two processes, so one comes twice."""

    def val_dataloader(self):
        return DataLoader(Toy(9), batch_size=2)


class Trained(Module):
    """Trains in both processes, and returns its predictions beside the loss."""

    def training_step(self, batch, _):
        logits = self(batch["image"])
        return {"loss": self.loss(logits, batch), "logits": logits}


class Labelled(Trained):
    """Its step, which a wrapper calls through `forward`, returns the label; it learns nothing."""

    def validation_step(self, batch, _):
        self(batch["image"])
        return {"target": batch["masks"].float().mean(1) > 0.5}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


class Recorder(pl.Callback):
    """Writes what each process knows, as forked ones take it with them when they end."""

    def __init__(self, watcher, folder):
        self.watcher, self.folder = watcher, Path(folder)

    def on_validation_end(self, trainer, pl_module):
        self.write(trainer)

    def on_fit_end(self, trainer, pl_module):
        self.write(trainer)

    def write(self, trainer):
        result = {
            "history": self.watcher.history,
            "icc": {
                split: table.sort_values("image_id")["icc_pixel"].tolist()
                for split, table in self.watcher.tables.items()
            },
            "ids": {split: sorted(table["image_id"]) for split, table in self.watcher.tables.items()},
            "logged": {key: float(value) for key, value in trainer.callback_metrics.items()},
        }
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(result))


def main(kind, strategy, devices, folder, store=None):
    torch.manual_seed(SEED)
    watcher = RaterBoundsMonitor(
        "masks", roi="roi", image_id="id", print_link=False, stages=("train", "validate"), reliability=True
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        callbacks=[Recorder(watcher, folder), watcher],
        max_epochs=2,
        logger=MLFlowLogger("toys", tracking_uri=store, artifact_location=folder) if store else False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=kind != "uneven",
        log_every_n_steps=1,
    )
    if kind in ("trained", "labelled"):
        module = {"trained": Trained, "labelled": Labelled}[kind]()
        trainer.fit(module, DataLoader(Toy(9), batch_size=2), DataLoader(Toy(9, seed=4), batch_size=2))
    else:
        trainer.validate({"uneven": Uneven, "padded": Padded}[kind](), verbose=False)


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
