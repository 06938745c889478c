#!/usr/bin/env python
"""Show how long training fits one rater's hand: docs/assets/label_noise.svg and the numbers behind it, in minutes."""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from studies.label_noise import LABELS, NAMES, label_noise_curves, label_noise_table, rater_as_model
from studies.noise_plot import noise_fit_curves

from irrbench.datasets import load_lidc
from irrbench.plots import save_figure


def main() -> None:
    """Train, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--epochs", type=int, default=120, help="of each label strategy (default: 120)")
    parser.add_argument("--images", type=int, default=96, help="training images (default: 96)")
    parser.add_argument(
        "--nodules", type=int, default=400, help="in all; their test and validation splits validate (default: 400)"
    )
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels (default: 32)")
    parser.add_argument("--labels", nargs="+", default=list(LABELS), help="label strategies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("docs/assets"), help="where label_noise.svg and .csv go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    data = load_lidc(size=options.size, limit=options.nodules)
    with console.status("training") as status:
        curves = label_noise_curves(
            data,
            labels=options.labels,
            num_images=options.images,
            max_epochs=options.epochs,
            seed=options.seed,
            on_epoch=lambda label, epoch: status.update(f"{label}: epoch {epoch + 1} of {options.epochs}"),
        )
    options.output.mkdir(parents=True, exist_ok=True)
    curves.round(5).to_csv(options.output / "label_noise.csv", index=False)
    save_figure(noise_fit_curves(curves, score="iou", names=NAMES), options.output / "label_noise.svg")
    console.print(label_noise_table(curves).to_string(float_format="{:.3f}".format))
    for label in (x for x in options.labels if x.startswith("rater:")):
        for rater in (x for x in data.raters if f"rater:{x}" != label):
            fit, error = rater_as_model(data, label=label, rater=rater, num_images=options.images)
            console.print(f"noise_fit of {rater}, who saw none of the labels of {label}: {fit:+.3f} (SE {error:.3f})")


if __name__ == "__main__":
    main()
