"""The data of a benchmark, and the digests that name them."""

from __future__ import annotations

import csv
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from irrbench.config import LIDC, BenchmarkConfig, ConfigError, RulesConfig
from irrbench.data import (
    DataError,
    MasksAloneError,
    Problem,
    check_folder,
    choose_threshold,
    find_models,
    load_folder,
    load_predictions,
)
from irrbench.datasets import load_lidc

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from irrbench.data import Predictions, RaterData
    from irrbench.training.cell import Tracking

# Scores finished predictions of any framework: no training, image by image.


class Scored(NamedTuple):
    """One model's finished predictions, scored."""

    name: str
    table: pd.DataFrame  # per image, with bounds
    run_id: str | None
    predictions: Predictions

    def prediction(self, image_id: str) -> np.ndarray[Any, np.dtype[Any]]:
        """The predicted mask of a scored image, ``(*S)``."""
        return self.predictions.prediction(self.predictions.data.image_ids.index(image_id))


class Store(NamedTuple):
    """What :class:`~irrbench.evaluation.mlflow_sink.MlflowPublisher` asks of a logger."""

    experiment: Any
    run_id: str
    experiment_id: str


def parse_predictions(pairs: list[str]) -> dict[str, str]:
    """Folders by name out of ``NAME=DIR``, or out of ``DIR`` with a folder for each model.

    Raises:
        ConfigError: if one is not of this form, or a name comes twice.

    Example:
        >>> parse_predictions(["a=out/a", "b=x=y"])
        {'a': 'out/a', 'b': 'x=y'}
    """
    folders: dict[str, str] = {}
    for pair in pairs:
        for name, folder in _named(pair):
            if name in folders:
                raise ConfigError(f"--predictions names {name!r} twice; give each model its own name.")
            folders[name] = folder
    return folders


def _named(pair: str) -> list[tuple[str, str]]:
    name, equals, folder = (part.strip() for part in pair.partition("="))
    if name and equals and folder:
        return [(name, folder)]
    if not equals and Path(name).is_dir():
        return [(model, str(path)) for model, path in find_models(name).items()]
    raise ConfigError(
        f"--predictions must be NAME=DIR, such as unet=outputs/unet; found {pair!r}. "
        "Or give a folder that holds a folder for each model."
    )


def load_all(config: BenchmarkConfig, data: RaterData, *, split: str | None) -> dict[str, Predictions]:
    """Read and check all predictions before anything is scored.

    Args:
        config: with folders by name, and how to read them.
        data: the raters' data.
        split: that must be complete; None for all images.

    Raises:
        DataError: with every problem of the first folder that has some.
        ConfigError: a threshold to be chosen where no images are kept for that.
    """
    return {name: load_one(folder, config, data, split=split) for name, folder in config.predictions.items()}


def load_one(folder: str, config: BenchmarkConfig, data: RaterData, *, split: str | None) -> Predictions:
    """Read one model's predictions, cut where the configuration says.

    Raises:
        DataError: with every problem of the folder.
        ConfigError: a threshold to be chosen where no images are kept for that.
    """
    finished, rules = config.finished, config.rules
    threshold, masks_alone = rules.threshold if finished.threshold is None else finished.threshold, False
    if threshold == "auto":
        try:
            threshold = _best_threshold(folder, config, data, split=split)
        except MasksAloneError:  # nothing to cut, as beside another model's probabilities
            threshold, masks_alone = rules.threshold, True
    found = load_predictions(folder, data, split=split, threshold=threshold, classes=finished.classes)
    return replace(found, masks_alone=masks_alone)


def _best_threshold(folder: str, config: BenchmarkConfig, data: RaterData, *, split: str | None) -> float:
    if split != "test":
        raise ConfigError(
            "finished.threshold: auto chooses on validation images; expected a manifest with a column split, "
            "found none. Write one, or give a threshold."
        )
    rules = config.rules
    return choose_threshold(
        folder,
        data,
        score=config.scores[0],
        ties=rules.ties,
        empty_reference=rules.empty_reference,
        classes=config.finished.classes,
    ).threshold


def score_predictions(
    name: str, predictions: Predictions, *, scores: tuple[str, ...], rules: RulesConfig, tracking: Tracking
) -> Scored:
    """Score one model on the images of its predictions and keep a run for it in MLflow.

    Args:
        name: of the model.
        predictions: checked masks.
        scores: the main one first.
        rules: rules of the scores.
        tracking: MLflow store, experiment and colour.
    """
    from irrbench.evaluation.evaluator import LoaderState, PanelKeeper  # noqa: PLC0415 (takes seconds)
    from irrbench.metrics import SegmentationBounds  # noqa: PLC0415

    rules = replace(rules, threshold=predictions.threshold)
    metric = SegmentationBounds(scores, from_logits=False, **asdict(rules))
    state = LoaderState("test", metric, PanelKeeper(4, from_logits=False, threshold=rules.threshold))
    for index in range(len(predictions)):
        _add(state, predictions, index)
    state.finish()
    if state.table is None:
        raise ConfigError(f"{name}: the predictions could not be scored; see the warning above.")
    return Scored(name, state.table, _publish(name, state, predictions, scores, rules, tracking), predictions)


def _add(state: Any, predictions: Predictions, index: int) -> None:
    from irrbench.evaluation.evaluator import Sample  # noqa: PLC0415

    data, roi = predictions.data, predictions.data.roi(index)
    wants_picture = index < state.panels.num_panels
    sample = Sample(
        masks=torch.from_numpy(data.masks(index))[None],
        roi=None if roi is None else torch.from_numpy(roi)[None],
        image_id=[data.image_ids[index]],
        present=torch.from_numpy(data.present(index))[None],
        image=torch.from_numpy(data.image(index))[None] if wants_picture else None,
    )
    state.update(sample, torch.from_numpy(predictions.prediction(index))[None])


def _publish(
    name: str, state: Any, predictions: Predictions, scores: tuple[str, ...], rules: RulesConfig, tracking: Tracking
) -> str:
    from irrbench.evaluation.mlflow_sink import MlflowPublisher  # noqa: PLC0415
    from irrbench.tracking import RunTracker, open_store  # noqa: PLC0415

    client, experiment_id = open_store(tracking.uri, tracking.experiment)
    run_id = str(client.create_run(experiment_id, run_name=name).info.run_id)
    run = RunTracker(client, run_id)
    run.set_role("model", colour=tracking.colour)
    client.log_param(run_id, "threshold", "none: masks" if predictions.masks_alone else rules.threshold)
    publisher = MlflowPublisher(
        Store(client, run_id, experiment_id), scores=scores, data_name=predictions.data.name, reference_runs=True
    )
    publisher.log_stage(state, state.values(references=False, normalized=True), step=0)
    publisher.close_stage(state, step=0)
    run.log_config({"name": name, "predictions": "finished", "scores": list(scores), "rules": asdict(rules)})
    run.finish()
    return run_id


def load_data(config: BenchmarkConfig) -> RaterData:
    """Load the folder, or the embedded LIDC-IDRI masks where there is none.

    Raises:
        DataError: with every problem of the folder.
        ConfigError: if the embedded data cannot be used.
    """
    if config.data is not None:
        # Workers of a cluster may have another working directory.
        root = config.data if config.executor == "loky" else Path(config.data).absolute()
        return load_folder(root, **_folder_options(config), max_side=config.folder.max_side)
    try:
        return load_lidc(size=config.lidc.size, limit=config.lidc.images)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error} Or give a folder of your own: --data DIR.") from error
    except ValueError as error:
        raise ConfigError(f"lidc: {error}") from error


def check_data(config: BenchmarkConfig) -> list[Problem]:
    """Everything that is wrong with the data folder and the finished predictions."""
    problems = [] if config.data is None else check_folder(config.data, **_folder_options(config))
    if problems or not config.predictions:
        return problems
    data = load_data(config)
    return [problem for folder in config.predictions.values() for problem in _check_predictions(config, data, folder)]


def scored_split(config: BenchmarkConfig, data: RaterData) -> str | None:
    """The split on which finished predictions are scored: ``test``, or None (all images) where nobody made splits."""
    if config.data is not None and not _has_splits(Path(config.data)):
        return None
    return "test" if len(data.split("test")) else None


def describe(config: BenchmarkConfig, data: RaterData) -> str:
    """One line about the data."""
    counts = ", ".join(f"{len(data.split(split))} {split}" for split in ("train", "val", "test"))
    source = LIDC if config.data is None else config.data
    return f"{data.name} ({source}): {len(data)} images ({counts}), {len(data.raters)} raters"


def _check_predictions(config: BenchmarkConfig, data: RaterData, folder: str) -> list[Problem]:
    try:
        load_one(folder, config, data, split=scored_split(config, data))
    except DataError as error:
        return list(error.problems)
    return []


def _has_splits(root: Path) -> bool:
    try:
        with (root / "manifest.csv").open(encoding="utf-8-sig", newline="") as file:
            return "split" in [column.strip() for column in next(csv.reader(file), [])]
    except OSError:
        return False


def _folder_options(config: BenchmarkConfig) -> dict[str, Any]:
    folder = config.folder
    return {"raters": folder.raters, "allow_missing": folder.allow_missing, "group_column": folder.group_column}
