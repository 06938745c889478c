"""Run as a script: the same task in one process or in two, results of every rank as JSON files in a folder."""

import json
import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
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


class Recorder(pl.Callback):
    """Writes what each process knows, as forked ones take it with them when they end."""

    def __init__(self, watcher, folder):
        self.watcher, self.folder = watcher, Path(folder)

    def on_validation_end(self, trainer, pl_module):
        result = {
            "history": self.watcher.history,
            "ids": {split: sorted(table["image_id"]) for split, table in self.watcher.tables.items()},
            "logged": {key: float(value) for key, value in trainer.callback_metrics.items()},
        }
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(result))


def main(kind, strategy, devices, folder):
    torch.manual_seed(SEED)
    watcher = RaterBoundsMonitor("masks", roi="roi", image_id="id", print_link=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        callbacks=[Recorder(watcher, folder), watcher],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=kind == "padded",
    )
    module = {"uneven": Uneven, "padded": Padded}[kind]()
    trainer.validate(module, verbose=False)


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
