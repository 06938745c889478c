"""Scores finished predictions of any framework: no training, image by image."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from irrbench.benchmark.config import BenchmarkConfig, ConfigError, RulesConfig
from irrbench.data import MasksAloneError, choose_threshold, find_models, load_predictions

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from irrbench.benchmark.cell import Tracking
    from irrbench.data import Predictions, RaterData


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
    """What :class:`~irrbench.callbacks.publish.MlflowPublisher` asks of a logger."""

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
    from irrbench.callbacks.panels import PanelKeeper  # noqa: PLC0415 (Lightning takes seconds)
    from irrbench.callbacks.stage import LoaderState  # noqa: PLC0415
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
    from irrbench.callbacks.batch import Sample  # noqa: PLC0415

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
    from irrbench.callbacks.publish import MlflowPublisher  # noqa: PLC0415
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
