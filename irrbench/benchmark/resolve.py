"""From a configuration and data to cells, each with everything that its numbers depend on."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import irrbench
from irrbench.benchmark.cell import CellConfig, Tracking, cell_folder
from irrbench.benchmark.config import BenchmarkConfig, ConfigError, ModelConfig
from irrbench.benchmark.grid import Cell, cell_names
from irrbench.benchmark.loading import data_digest
from irrbench.plots import MODEL_COLOURS

if TYPE_CHECKING:
    from irrbench.data import RaterData


def make_cells(config: BenchmarkConfig, data: RaterData, tracking: Tracking) -> list[Cell]:
    """The grid's cells, each resolved.

    Raises:
        ConfigError: for unknown models or labels, or data that cannot be trained on.
    """
    from irrbench.benchmark.training_data import check_splits, image_facts  # noqa: PLC0415 (torch)
    from irrbench.benchmark.transforms import check_transforms  # noqa: PLC0415
    from irrbench.data.labels import parse_label  # noqa: PLC0415
    from irrbench.models import check_model  # noqa: PLC0415 (seconds)

    try:
        for choice in config.models:
            check_model(choice.architecture, choice.encoder, choice.class_path, choice.init_args)
        for label in config.labels:
            parse_label(label, data.raters)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    check_transforms(config.train.transforms)
    check_splits(data)
    digest = data_digest(data, image_facts(data))
    cells, colours = [], cell_colours(config)
    for name, model, label, seed in cell_names(config):
        resolved = CellConfig(
            model=model,
            label=label,
            seed=seed,
            train=config.train,
            scores=tuple(config.scores),
            rules=config.rules,
            data=data.name,
            data_digest=digest,
            version=irrbench.__version__,
            code=_digests_of_code(config, model),
        )
        folder = cell_folder(Path(config.output).absolute(), name, resolved)
        cells.append(Cell(name, resolved, folder, tracking._replace(colour=colours[name])))
    return cells


def _digests_of_code(config: BenchmarkConfig, model: ModelConfig) -> tuple[tuple[str, str], ...]:
    from irrbench.models import source_digest  # noqa: PLC0415

    paths = [model.class_path, *(transform["class_path"] for transform in config.train.transforms)]
    return tuple((path, source_digest(path)) for path in paths if path is not None)


def cell_colours(config: BenchmarkConfig) -> dict[str, str]:
    """Colours of the cells by name, in MLflow and in the report: the seeds of a model share one."""
    models = {name: name.removesuffix(f" seed {seed}") for name, _, _, seed in cell_names(config)}
    palette = dict(zip(dict.fromkeys(models.values()), cycle(MODEL_COLOURS)))
    return {name: palette[model] for name, model in models.items()}
