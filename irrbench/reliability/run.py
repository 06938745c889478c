"""A study from the command line: data, tables, figures, report, MLflow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from irrbench.benchmark.config import ConfigError
from irrbench.benchmark.files import prepare_folder
from irrbench.benchmark.loading import describe, load_data
from irrbench.benchmark.quiet import quiet
from irrbench.benchmark.run import check as check_source
from irrbench.data import RaterData
from irrbench.reliability.config import ReliabilityConfig
from irrbench.reliability.outputs import REPORT, TABLES, log_study, write_outputs
from irrbench.reliability.study import Study, study
from irrbench.reliability.words import findings, headline
from irrbench.report.terminal import reliability_table

WELL = 0


def check(config: ReliabilityConfig, *, console: Console | None = None) -> int:
    """List every problem of the data; 0 if there is none, else 2."""
    return check_source(config.source, console=console)


def run_reliability(config: ReliabilityConfig, *, command: str = "", console: Console | None = None) -> int:
    """Study the raters and write everything.

    Args:
        config: what to do.
        command: that makes the report again, for the report.
        console: for the summary and the messages; standard output if not given.

    Returns:
        0.

    Raises:
        ConfigError: for a configuration, an output folder or a store that cannot be used.
        DataError: for unusable data, with every problem.
    """
    with quiet():
        return _run(config, command, console or Console(highlight=False, markup=False, emoji=False))


def _run(config: ReliabilityConfig, command: str, console: Console) -> int:
    prepare_folder(Path(config.output))
    source = config.source
    data = load_data(source)
    console.print(describe(source, data), soft_wrap=True)
    store = _open_store(config, data)
    found = _study(config, data)
    files = write_outputs(found, config, command=command)
    run_id = None if store is None else log_study(*store, found, files)
    _show(found, config, console, store[1] if store and run_id else None)
    return WELL


def _study(config: ReliabilityConfig, data: RaterData) -> Study:
    # The embedded readers are the first, second, ... of each scan, and not the same persons on all.
    options = config.study if config.data is not None else replace(config.study, raters_are_slots=True)
    try:
        return study(data, options, workers=config.workers)
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ConfigError(f"study: {error}") from error


def _open_store(config: ReliabilityConfig, data: RaterData) -> tuple[Any, str] | None:
    if config.tracking_uri is None:
        return None
    from irrbench.tracking import open_store  # noqa: PLC0415 (seconds)

    try:
        return open_store(config.tracking_uri, config.experiment or f"irrbench: {data.name}")
    except (ValueError, OSError) as error:
        raise ConfigError(f"--tracking-uri: {error}") from error


def _show(found: Study, config: ReliabilityConfig, console: Console, experiment_id: str | None) -> None:
    from irrbench.tracking import chart_link  # noqa: PLC0415

    for remark in found.remarks:
        console.print(remark)
    scores = [measure.name for measure in found.measures if measure.kind == "score"]
    measures, single = ~found.summary["measure"].isin(scores), found.across["measure"] == "extent_icc"
    console.print(reliability_table(found.summary[measures], found.across[single], note=found.data.note))
    console.print(headline(found))
    for sentence in findings(found):
        console.print(f"- {sentence}")
    output = Path(config.output)
    console.print(f"report: {output / REPORT}; tables: {output / TABLES}/*.csv", soft_wrap=True)
    if experiment_id is not None and config.tracking_uri is not None:
        console.print(f"run: {chart_link(config.tracking_uri, experiment_id)}", soft_wrap=True)
