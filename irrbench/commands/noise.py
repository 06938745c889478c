"""What a grid with label noise shows: how each model was trained, the noisy labels, runs in the store."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from irrbench.analysis.results import Results
from irrbench.analysis.robustness import Trained
from irrbench.plots.noise import noise_panels
from irrbench.report.page import Drawing
from irrbench.report.text import sentences
from irrbench.tracking import log_dose_curves
from irrbench.training.label_noise import CellNoise, CleanLabels, find_doses, noise_name
from irrbench.training.losses import ANNOTATORS
from irrbench.training.models import trains_itself
from irrbench.training.noise import NOISE_MODELS, spoil
from irrbench.training.results import CellResult, recipe_name

if TYPE_CHECKING:
    from pathlib import Path

    from irrbench.config import BenchmarkConfig
    from irrbench.data import RaterData
    from irrbench.tracking import Run
    from irrbench.training.mask_noise import Mask


def trained_models(config: BenchmarkConfig, cells: Sequence[CellResult]) -> dict[str, Trained]:
    """How the cells of each model were trained, by the model's name; numbers are means over seeds.

    Args:
        config: of the grid.
        cells: that are finished.
    """
    models = {noise.label: noise_name(noise) for noise in config.noise}
    by_model: dict[str, list[CellResult]] = {}
    for cell in cells:
        by_model.setdefault(cell.group, []).append(cell)
    ceilings = [_number(cell, "train_ceiling") for cell in cells]
    known = [ceiling for ceiling in ceilings if not math.isnan(ceiling)]
    ceiling = known[0] if known else math.nan  # of the training images, the same for all
    return {name: _trained(group, models, ceiling) for name, group in by_model.items()}


def _trained(cells: Sequence[CellResult], models: Mapping[str, str], ceiling: float) -> Trained:
    axes = cells[0].axes
    name = str(axes.get("noise", ""))
    found = NOISE_MODELS.get(models.get(name, ""))
    of_noise: dict[str, Any] = {}
    if name:
        of_noise = {
            each: _mean([_number(cell, each) for cell in cells])
            for each in ("reached", "strength", "label_iou", "area")
        }
        of_noise |= {"bias": found.bias if found else "unknown"}
        of_noise |= {"unit": found.unit if found else "", "noise": name, "dose": float(axes["dose"])}
    return Trained(
        recipe=recipe_name(axes),
        model=str(axes["model"]),
        label=str(axes["label"]),
        loss=_loss(cells[0]),
        train_ceiling=ceiling,
        noise_fit=_mean([_noise_fit(cell, cell.facts["best_epoch"]) for cell in cells]),
        noise_fit_end=_mean([_noise_fit(cell, None) for cell in cells]),
        **of_noise,
    )


def _loss(cell: CellResult) -> str:
    """Name of the loss; of a LightningModule, which has its own, that of its class."""
    config = cell.facts["config"]
    path = config["model"]["class_path"]
    own = path is not None and "loss" not in cell.axes and trains_itself(path)
    return f"{path.rpartition('.')[2]}'s own" if own else str(cell.axes.get("loss", config["train"]["loss"]))


def _number(cell: CellResult, name: str) -> float:
    return float(cell.facts.get("noise", {}).get(name, math.nan))


def _noise_fit(cell: CellResult, epoch: int | None) -> float:
    """At an epoch, or the last one."""
    curve = cell.curve
    if "train_noise_fit" not in curve or not len(curve):
        return math.nan
    rows = curve.tail(1) if epoch is None else curve[curve["epoch"] == epoch]
    return float(rows["train_noise_fit"].iloc[0]) if len(rows) else math.nan


def _mean(values: Sequence[float]) -> float:
    """Over those that are known: cells that were finished before there was noise lack some."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def noise_drawing(config: BenchmarkConfig, data: RaterData, place: Path) -> dict[str, Drawing]:
    """Noisy labels of one training image at each dose beside its raters' masks; nothing without noise or 2-D images.

    It is the image of middle size among those that most raters drew, with the noise of the first label and seed.

    Args:
        config: of the grid.
        data: the raters' data.
        place: the folder with the strengths that were found.
    """
    train, seed = data.split("train"), config.seeds[0]
    label = next((name for name in config.labels if any(noise.spoils(name) for noise in config.noise)), "")
    if not label or label == ANNOTATORS or not any(dose > 0 for noise in config.noise for dose in noise.doses):
        return {}
    labels, doses = CleanLabels(train, label, seed=seed), find_doses(config, data, place=place)
    index = _typical(train, [float(clean.sum()) for clean, *_ in labels])
    clean, roi, key = labels[index]
    noisy: dict[str, dict[float, Mask]] = {}
    for noise in (each for each in config.noise if each.spoils(label)):
        for cell in (CellNoise.of(noise, dose) for dose in sorted(noise.doses) if dose > 0):
            found, model = doses.of(cell, label, seed), cell.make(train, label)
            if found is not None:
                noisy.setdefault(noise.label, {})[cell.dose] = spoil(clean, model, found.strength, key, roi) > 0
    drew = zip(train.raters, train.masks(index), train.present(index), strict=True)
    raters = {name: mask for name, mask, is_there in drew if is_there}
    figure = noise_panels(train.image(index), raters, noisy, clean=clean > 0, width="single")
    return {"noise": Drawing(figure, *sentences("benchmark.txt", "noise_figure", train.image_ids[index], label))}


def _typical(train: RaterData, sizes: Sequence[float]) -> int:
    """The image whose label is of middle size, among those that most raters drew and whose label marks something."""
    raters = [int(train.present(index).sum()) if size else 0 for index, size in enumerate(sizes)]
    chosen = sorted((size, index) for index, size in enumerate(sizes) if raters[index] == max(raters))
    return chosen[len(chosen) // 2][1]


def log_robustness(results: Results, runs: Sequence[Run]) -> dict[str, Run]:
    """Put the scores over doses of noise into the store, a run a recipe; nothing without noise or runs of models.

    Args:
        results: of the benchmark.
        runs: of its models, in one store and experiment.

    Returns:
        The runs by recipe.
    """
    if results.robustness.empty or not runs:
        return {}
    return log_dose_curves(results.robustness, results.score, beside=runs[0], bounds=results.bounds(results.score))
