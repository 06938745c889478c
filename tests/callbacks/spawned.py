"""Run as a script: a fit and a test in two processes of Lightning's, and what the parent knows of them afterwards."""

import json
import os
import sys
from pathlib import Path

import pytorch_lightning as pl

from irrbench.callbacks import CeilingStopping, RaterBoundsMonitor
from tests.callbacks.toys import Module, loader


def main(strategy, folder):
    watcher = RaterBoundsMonitor("masks", roi="roi", image_id="id", print_link=False)
    stopping = CeilingStopping(margin=5.0, patience=2, min_groups=2)

    def trainer():
        return pl.Trainer(
            accelerator="cpu",
            devices=2,
            strategy=strategy,
            callbacks=[stopping, watcher],
            max_epochs=9,
            logger=False,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    run, module = trainer(), Module()
    run.fit(module, loader(), loader())
    metrics = {key: float(value) for key, value in run.callback_metrics.items()}
    results = trainer().test(module, loader(7, seed=3), verbose=False)  # nobody has looked at the fit in between
    found = {
        "history": watcher.history,
        "metrics": metrics,
        "results": results,
        "images": {split: len(table) for split, table in watcher.tables.items()},
        "stopped": [stopping.stopped_epoch, stopping.reason],
    }
    (Path(folder) / "parent.json").write_text(json.dumps(found))


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    main(*sys.argv[1:])
