"""What a configuration asks of the scored models, answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from irrbench.benchmark.blind import BlindError, blind_table
from irrbench.benchmark.cell import CellResult
from irrbench.benchmark.config import BenchmarkConfig, ConfigError
from irrbench.benchmark.leaderboard import Questions, Results, build_results
from irrbench.benchmark.resampling import Resampling
from irrbench.benchmark.subgroups import check_columns

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.benchmark.predictions import Scored
    from irrbench.data import RaterData


def check_questions(config: BenchmarkConfig, data: RaterData) -> None:
    """Refuse questions that the data cannot answer, before anything is trained.

    Raises:
        ConfigError: for a subgroup's column that the manifest lacks.
    """
    try:
        check_columns(config.statistics.subgroups, data.manifest)
    except ValueError as error:
        raise ConfigError(f"statistics.{error}") from error


def conclude(config: BenchmarkConfig, data: RaterData, models: Sequence[CellResult | Scored]) -> Results:
    """Make all frames of a benchmark.

    Args:
        config: its statistics and rules.
        data: the raters' data.
        models: scored on the same images.
    """
    options = config.statistics
    tables = {model.name: model.table for model in models}
    blind, remarks = _blind(config, data, tables)
    results = build_results(
        tables,
        resampling_of(config, data),
        questions=Questions(
            margins=options.margins,
            alternative_margin=options.alternative_margin,
            raters=data.raters,
            covariates=data.manifest if options.subgroups else None,
            subgroups=options.subgroups,
            quantiles=options.quantiles,
        ),
        models={model.name: model_name(model) for model in models},
        blind=blind,
    )
    return results._replace(notes=(*results.notes, *remarks))


def resampling_of(config: BenchmarkConfig, data: RaterData) -> Resampling:
    """How intervals are made."""
    options = config.statistics
    return Resampling(
        groups=dict(zip(data.image_ids, data.groups, strict=True)),
        resamples=options.resamples,
        seed=options.seed,
        level=options.level,
        interval=options.interval,
        generalize=options.generalize,
    )


def model_name(model: CellResult | Scored) -> str:
    """The name that the seeds of a model share."""
    if not isinstance(model, CellResult):
        return model.name
    return model.name.removesuffix(f" seed {model.facts['config']['seed']}")


def _blind(
    config: BenchmarkConfig, data: RaterData, tables: Mapping[str, pd.DataFrame]
) -> tuple[pd.DataFrame | None, tuple[str, ...]]:
    if not config.statistics.blind:
        return None, ()
    image_ids = next(iter(tables.values()))["image_id"].astype(str).tolist()
    rules = {key: value for key, value in asdict(config.rules).items() if key != "threshold"}
    try:
        return blind_table(data, image_ids, scores=config.scores, **rules), ()
    except BlindError as error:
        reason = str(error)
        return None, (reason[0].upper() + reason[1:],)
