#!/usr/bin/env python
"""Show when a network begins to fit the noise in its labels, and what rules for stopping are worth."""

import argparse
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from studies.noise_plot import noise_fit_curves
from studies.noise_stopping import stopping_curve, stopping_table

from irrbench.data import load_folder
from irrbench.plots import save_figure

NOISE = ("boundary 0", "boundary 1", "boundary 2", "shrink 2")


def main() -> None:
    """Train, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("data", type=Path, help="data folder with the splits train, val and test")
    parser.add_argument(
        "--noise",
        nargs="+",
        default=list(NOISE),
        help=f"noise models, each with its dose (default: {', '.join(NOISE)})",
    )
    parser.add_argument("--label", default="majority", help="label strategy (default: majority)")
    parser.add_argument("--epochs", type=int, default=60, help="of each training (default: 60)")
    parser.add_argument("--images", type=int, default=96, help="training images (default: 96)")
    parser.add_argument("--max-side", type=int, default=48, help="of the images in pixels (default: 48)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--output", type=Path, default=Path("docs/assets"), help="where noise_stopping.svg and .csv go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    data = load_folder(options.data, max_side=options.max_side)
    size = {"label": options.label, "num_images": options.images, "max_epochs": options.epochs}
    options.output.mkdir(parents=True, exist_ok=True)
    curves = []
    with console.status("training") as status:
        for noise, dose in (one.rsplit(maxsplit=1) for one in options.noise):
            for seed in options.seeds:

                def report(epoch: int, told: str = f"{noise} {dose}, seed {seed}") -> None:
                    status.update(f"{told}: epoch {epoch + 1} of {options.epochs}")

                curves.append(stopping_curve(data, noise=noise, dose=float(dose), seed=seed, on_epoch=report, **size))
                pd.concat(curves).round(5).to_csv(options.output / "noise_stopping.csv", index=False)
    found = pd.concat(curves)
    means = found.groupby(["name", "epoch"], sort=False).mean(numeric_only=True).reset_index()
    save_figure(noise_fit_curves(means, score="iou"), options.output / "noise_stopping.svg")
    console.print(stopping_table(found).to_string(index=False, float_format="{:.3f}".format), soft_wrap=True)


if __name__ == "__main__":
    main()
