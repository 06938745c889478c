"""The data of a command, and finished predictions of any framework: loaded, checked and scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from irrbench._progress import track
from irrbench.config import LIDC, BenchmarkConfig, ConfigError, ReliabilityConfig, RulesConfig
from irrbench.data import MasksAloneError, choose_threshold, find_models, load_folder, load_predictions
from irrbench.data.dataset import references, spacings_of
from irrbench.data.overview import headline, read_as, splits_text
from irrbench.datasets import load_lidc
from irrbench.evidence import EVIDENCE
from irrbench.geometry import TOLERANCE
from irrbench.scores import select_scores

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.data import Predictions, RaterData
    from irrbench.evaluation import Evaluator
    from irrbench.tracking import Run
    from irrbench.training.cell import Tracking


DataConfig = BenchmarkConfig | ReliabilityConfig


class Scored(NamedTuple):
    """One model's finished predictions, scored."""

    name: str
    table: pd.DataFrame  # per image, with bounds
    run: Run
    predictions: Predictions
    diagrams: Mapping[str, pd.DataFrame] = MappingProxyType({})  # ``thresholds`` and ``reliability``, of probabilities

    @property
    def run_id(self) -> str | None:
        """The run in MLflow; None as long as it waits in the spool."""
        return self.run.run_id

    def prediction(self, image_id: str) -> np.ndarray[Any, np.dtype[Any]]:
        """The predicted mask of a scored image, ``(*S)``."""
        return self.predictions.prediction(self.predictions.data.image_ids.index(image_id))


def load_data(config: DataConfig) -> RaterData:
    """Load the folder, or the embedded LIDC-IDRI masks where there is none.

    Args:
        config: what to load.

    Raises:
        DataError: with every problem of the folder.
        ConfigError: if the embedded data cannot be used.
    """
    if config.data is not None:
        # Workers of a cluster may have another working directory.
        is_local = getattr(config, "executor", "loky") == "loky"
        root = config.data if is_local else Path(config.data).absolute()
        return load_folder(root, **asdict(config.folder))
    try:
        return load_lidc(size=config.lidc.size, limit=config.lidc.images)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error} Or give a folder of your own: --data DIR.") from error
    except ValueError as error:
        raise ConfigError(f"lidc: {error}") from error


def scored_split(data: RaterData) -> str | None:
    """The split on which finished predictions are scored: ``test``, or None (all images) without a column of splits."""
    return "test" if data.has_splits and len(data.split("test")) else None


def scored_on(split: str | None, data: RaterData) -> str:
    """Which images finished predictions are scored on."""
    reason = "there is no column split" if not data.has_splits else "split test is empty"
    return f"all {len(data)} images ({reason})" if split is None else f"the {len(data)} {split} images"


def settle_tolerance(config: BenchmarkConfig, data: RaterData) -> tuple[BenchmarkConfig, str, str]:
    """The configuration with ``rules.tolerance: raters`` as a number, that number in words, and a caution about it.

    Raises:
        ConfigError: if there are no training images apart from the scored ones, or their raters give no tolerance.
    """
    if config.rules.tolerance != "raters":
        return config, "", ""
    tolerance, text, caution = TOLERANCE, "", ""
    if "tolerance" in config.rules.of(config.scores):
        from irrbench.reliability.borders import rater_tolerance  # noqa: PLC0415 (of few commands)

        is_apart = not config.predictions or scored_split(data) is not None
        train = data.split("train") if is_apart else data.subset([])
        tolerance, caution = rater_tolerance(train)
        text = (
            f"Tolerance {tolerance:g} {data.unit}: the 95th percentile of the distances between raters' borders on "
            f"{len(train)} training images."
        )
    return replace(config, rules=replace(config.rules, tolerance=tolerance)), text, caution


def describe(config: DataConfig, data: RaterData) -> str:
    """What the data are: images, raters, what values mean, and the splits where a grid is trained on them."""
    source = LIDC if config.data is None else config.data
    text = f"{data.name} ({source}): {headline(data)}"
    values = read_as(data)
    text += f"\nvalues: {values}" if values else ""
    is_grid = isinstance(config, BenchmarkConfig) and not config.predictions
    return f"{text}\nsplits: {splits_text(data)}" if is_grid else text


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
        name, equals, folder = (part.strip() for part in pair.partition("="))
        if name and equals and folder:
            found = {name: folder}
        elif not equals and name and Path(name).is_dir():
            found = {model: str(path) for model, path in find_models(name).items()}
        else:
            problem = f"found {pair!r}" if equals or not name else f"there is no folder {name!r}"
            raise ConfigError(
                "--predictions must be NAME=DIR, such as unet=outputs/unet, or a folder that holds a folder for each "
                f"model; {problem}."
            )
        for model in found:
            if model in folders:
                raise ConfigError(f"--predictions names {model!r} twice; give each model its own name.")
        folders |= found
    return folders


def load_one(folder: str, config: BenchmarkConfig, data: RaterData, *, split: str | None) -> Predictions:
    """Read one model's predictions, cut where the configuration says.

    Args:
        folder: of the predictions.
        config: how to read them.
        data: the raters' data.
        split: that must be complete; None for all images.

    Raises:
        DataError: with every problem of the folder; masks where probabilities are scored.
        ConfigError: a threshold to be chosen where no images are kept for that.
    """
    finished, rules = config.finished, config.rules
    threshold, masks_alone = rules.threshold if finished.threshold is None else finished.threshold, False
    if threshold == "auto":
        if split != "test":
            raise ConfigError(
                "finished.threshold: auto chooses on validation images; expected a manifest with a column split, "
                "found none. Write one, or give a threshold."
            )
        try:
            threshold = choose_threshold(
                folder,
                data,
                score=config.of_masks[0],
                ties=rules.ties,
                empty_reference=rules.empty_reference,
                classes=finished.classes,
                **rules.options,
            ).threshold
        except MasksAloneError:  # nothing to cut, as beside another model's probabilities
            threshold, masks_alone = rules.threshold, True
    keep = any(EVIDENCE[score.evidence].takes == "probabilities" for score in select_scores(config.scores))
    options: dict[str, Any] = {"threshold": threshold, "classes": finished.classes, "keep_probabilities": keep}
    return replace(load_predictions(folder, data, split=split, **options), masks_alone=masks_alone)


def score_predictions(
    name: str,
    predictions: Predictions,
    *,
    scores: tuple[str, ...],
    rules: RulesConfig,
    tracking: Tracking,
    folder: str = "",
    spool: Path | None = None,
) -> Scored:
    """Score one model on the images of its predictions and keep a run for it in MLflow.

    The same masks of a model, scored by the same rules and scores on the same data, write the same run again: its
    values, its bounds and its charts are of one scoring.

    Args:
        name: of the model.
        predictions: checked masks.
        scores: the main one first.
        rules: rules of the scores.
        tracking: MLflow store, experiment, colour and command.
        folder: of the predictions, to be named in the run.
        spool: folder for what the store does not take; the working directory's if not given.

    Raises:
        ConfigError: if the predictions could not be scored.
    """
    from irrbench.evaluation import Evaluator, MLflowSink  # noqa: PLC0415 (torchmetrics takes seconds)
    from irrbench.tracking.run import COMMAND_TAG  # noqa: PLC0415
    from irrbench.tracking.store import PREDICTIONS_TAG  # noqa: PLC0415

    rules, data = replace(rules, threshold=predictions.threshold), predictions.data
    where = str(Path(folder).absolute()) if folder else ""
    threshold = "none: masks" if predictions.masks_alone else rules.threshold
    depends: dict[str, Any] = {"scores": sorted(scores)}
    depends |= {"spacings": spacings} if (spacings := spacings_of(data, scores)) else {}
    sink = MLflowSink.new_run(
        tracking.uri,
        tracking.experiment,
        name=name,
        colour=tracking.colour,
        params={"data": data.name, "threshold": threshold},
        tags={PREDICTIONS_TAG: where, COMMAND_TAG: tracking.command},
        key=predictions_digest(name, predictions, rules.of(scores) | depends),
        spool=spool,
        data_name=data.name,
        saves_view=False,  # once, with the results: for every model it would read the runs of all
    )
    shown = {"name": name, "predictions": where or "finished", "scores": list(scores), "rules": rules.of(scores)}
    sink.run.log_config(shown)
    options = {"scores": scores, "from_logits": False, "references": False, "spacing_unit": data.unit, **asdict(rules)}
    has_votes = any(score.evidence == "patterns" for score in select_scores(scores))
    chooses = has_votes and bool(predictions.packed_probabilities)
    raters = predictions.data.raters
    evaluator = Evaluator("test", sinks=[sink], choose_threshold=chooses, raters=raters, **options)
    try:
        _take_in(evaluator, predictions, label=f"scoring {name}")
        evaluator.finish()
        sink.run.log_params(evaluator.rules)
    except BaseException as error:
        sink.run.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    if evaluator.table is None:
        raise ConfigError(f"{name}: the predictions could not be scored; see the warning above.")
    evaluator.close()
    sink.run.finish()
    sink.run.drain(limit=600)
    diagrams = {} if evaluator.thresholds is None else evaluator.thresholds.tables()
    return Scored(name, evaluator.table, sink.run, predictions, diagrams)


def _take_in(evaluator: Evaluator, predictions: Predictions, *, label: str) -> None:
    """Hand over each prediction: probabilities where they are kept, samples where they are scored."""
    data, has_samples = predictions.data, "samples" in evaluator.metric.takes
    find = predictions.probability if predictions.packed_probabilities else predictions.prediction
    for index, image_id in enumerate(track(data.image_ids, total=len(data), label=label)):
        evaluator.update(
            torch.from_numpy(find(index))[None],
            **references(data, index),
            image_id=[image_id],
            image=partial(_image_of, data, index),
            samples=torch.from_numpy(predictions.samples(index))[None] if has_samples else None,
        )


def _image_of(data: RaterData, index: int) -> torch.Tensor:
    return torch.from_numpy(data.image(index))[None]


def predictions_digest(name: str, predictions: Predictions, rules: Mapping[str, Any]) -> str:
    """What identifies a model's finished predictions: its name, the masks, the raters' data, rules and scores."""
    data = predictions.data
    digest = hashlib.sha256(json.dumps([name, data.digest(), dict(rules)], sort_keys=True, default=str).encode())
    for index, image_id in enumerate(data.image_ids):
        masks = [predictions.prediction(index)]
        masks += list(predictions.samples(index)) if predictions.num_samples > 1 else []
        for mask in masks:
            digest.update(f"{image_id} {mask.dtype} {mask.shape} ".encode() + np.ascontiguousarray(mask).tobytes())
        digest.update(predictions.packed_probabilities[index].packed if predictions.packed_probabilities else b"")
    return digest.hexdigest()[:32]
