"""How each model of a grid was trained, for the tables of label noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from irrbench.analysis.results import Results
from irrbench.analysis.robustness import Trained
from irrbench.tracking import log_dose_curves
from irrbench.training.noise import NOISE_MODELS
from irrbench.training.results import CellResult, group_name

if TYPE_CHECKING:
    from irrbench.config import BenchmarkConfig
    from irrbench.tracking import Run

_OWN_AXES = ("noise", "dose")  # of the noise; what is left of a cell's axes is its recipe


def trained_models(config: BenchmarkConfig, cells: Sequence[CellResult]) -> dict[str, Trained]:
    """How the cells of each model were trained, by the model's name; numbers are means over seeds.

    Args:
        config: of the grid.
        cells: that are finished.
    """
    models = {noise.label: noise.model for noise in config.noise}
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
            each: _mean([_number(cell, each) for cell in cells]) for each in ("reached", "strength", "label_iou")
        }
        of_noise |= {"bias": found.bias if found else "unknown"}
        of_noise |= {"unit": found.unit if found else "", "noise": name, "dose": float(axes["dose"])}
    return Trained(
        recipe=group_name({axis: value for axis, value in axes.items() if axis not in _OWN_AXES}),
        model=str(axes["model"]),
        label=str(axes["label"]),
        loss=str(axes.get("loss", cells[0].facts["config"]["train"]["loss"])),
        train_ceiling=ceiling,
        noise_fit=_mean([_noise_fit(cell, cell.facts["best_epoch"]) for cell in cells]),
        noise_fit_end=_mean([_noise_fit(cell, None) for cell in cells]),
        **of_noise,
    )


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
    return float(np.mean(values)) if values else math.nan


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
