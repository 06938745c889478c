"""A whole benchmark: data, cells or finished predictions, tables, report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from irrbench._files import prepare_folder, quiet
from irrbench.analysis.candidates import BLIND_NAME
from irrbench.commands.loading import Scored, check_data, describe, load_all, load_data, score_predictions, scored_split
from irrbench.commands.outputs import Benchmark, check_questions, conclude, log_artifacts, with_groups, write_outputs
from irrbench.config import BenchmarkConfig, ConfigError
from irrbench.plots import DISPLAY_NAMES, MODEL_COLOURS
from irrbench.tracking.store import absolute_uri
from irrbench.training.cell import CellResult, Tracking, cell_colours, make_cells
from irrbench.training.grid import (
    Executor,
    Failure,
    GridProgress,
    Outcome,
    check_bounds,
    check_executor,
    run_grid,
    shard,
)

if TYPE_CHECKING:
    from irrbench.data import RaterData

WELL, SOME_FAILED, UNUSABLE = 0, 1, 2


def check(config: BenchmarkConfig, *, console: Console | None = None) -> int:
    """List every problem of the data; 0 if there is none, else 2."""
    console = console or _console()
    problems = check_data(config)
    for problem in problems:
        console.print(f"- {problem}", soft_wrap=True)
    where = config.data or "the embedded data"
    found = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}" if problems else "no problems found"
    console.print(f"{where}: {found}", soft_wrap=True)
    return UNUSABLE if problems else WELL


def run_benchmark(
    config: BenchmarkConfig,
    *,
    command: str = "",
    resume: bool = True,
    part: tuple[int, int] | None = None,
    console: Console | None = None,
) -> int:
    """Train and test the grid, or score finished predictions, and write everything.

    Args:
        config: what to do.
        command: that makes the report again, for the report.
        resume: whether finished cells keep their results, and unfinished ones go on where they were killed.
        part: train only the cells of part N of M; whoever ends the last cell of the grid writes the tables.
        console: for the table and the messages; standard output if not given.

    Returns:
        0 if all cells ended well, 1 if some failed (the rest stands).

    Raises:
        ConfigError: for a configuration, an output folder or a store that cannot be used.
        DataError: for unusable data or predictions, with every problem.
    """
    with quiet():
        return _run(config, command, part, resume=resume, console=console or _console())


def _run(config: BenchmarkConfig, command: str, part: tuple[int, int] | None, *, resume: bool, console: Console) -> int:
    _check_names(config)
    check_executor(config.executor, config.address)
    prepare_folder(Path(config.output))
    data = load_data(config)
    check_questions(config, data)
    console.print(describe(config, data), soft_wrap=True)
    client, experiment_id, experiment = _open_store(config, data)
    tracking = Tracking(absolute_uri(config.tracking_uri), experiment, MODEL_COLOURS[0])
    palette: Sequence[str] = MODEL_COLOURS
    if config.predictions:
        palette = _palette(client, experiment_id, config)
        models, failures = _score(config, data, tracking, palette, console=console)
    else:
        outcome = _train(config, data, tracking, part, resume=resume, console=console)
        models, failures = outcome.results, outcome.failures
        if outcome.waits(part):
            _show_waiting(outcome, console)
            models = []
    _deliver(config, tracking.uri, console)
    if models:
        benchmark = _conclude(config, data, models, palette, command, failures)
        files = write_outputs(benchmark)
        log_artifacts(client, _run_ids(models), files)
        _save_view(client, experiment_id, config)
        _show(benchmark, console, experiment_id)
    _show_failures(failures, console)
    return SOME_FAILED if failures else WELL


def _train(
    config: BenchmarkConfig,
    data: RaterData,
    tracking: Tracking,
    part: tuple[int, int] | None,
    *,
    resume: bool,
    console: Console,
) -> Outcome:
    cells = make_cells(config, data, tracking)
    own = shard(cells, part)
    if part is not None:
        console.print(f"part {part[0]} of {part[1]}: {len(own)} of {len(cells)} cells")
    with GridProgress(own, resume=resume, console=console) as progress:
        outcome = run_grid(
            cells,
            data,
            part=part,
            resume=resume,
            executor=Executor(config.executor, config.workers, config.address, config.executor_options),
            on_start=progress.start,
            on_end=progress.end,
        )
    check_bounds(outcome.results)
    return outcome


def _score(
    config: BenchmarkConfig, data: RaterData, tracking: Tracking, palette: Sequence[str], *, console: Console
) -> tuple[Sequence[CellResult | Scored], list[Failure]]:
    split = scored_split(config, data)
    predictions = load_all(config, data, split=split)
    where = "all images (nobody made splits)" if split is None else f"the {split} images"
    console.print(f"scoring {len(predictions)} finished predictions on {where}")
    if config.finished.threshold == "auto":
        for name, found in predictions.items():
            chosen = f"threshold {found.threshold:g}, the best on the validation images"
            console.print(f"{name}: {'masks, nothing to cut' if found.masks_alone else chosen}")
    scored = [
        score_predictions(
            name,
            found,
            scores=tuple(config.scores),
            rules=config.rules,
            tracking=tracking._replace(colour=palette[number % len(palette)]),
        )
        for number, (name, found) in enumerate(predictions.items())
    ]
    return scored, []


def _deliver(config: BenchmarkConfig, tracking_uri: str, console: Console) -> None:
    """Send what the store did not take while cells trained, and say so where it still does not."""
    from irrbench.tracking.spool import DEFAULT_SPOOL, SPOOL_VARIABLE, sessions  # noqa: PLC0415
    from irrbench.tracking.store import why_silent  # noqa: PLC0415
    from irrbench.tracking.sync import deliver  # noqa: PLC0415

    spool = Path(os.environ.get(SPOOL_VARIABLE) or Path(config.output) / DEFAULT_SPOOL).absolute()
    if not sessions(spool):
        return
    if why_silent(tracking_uri, seconds=5) is None:
        deliver(spool)
    if sessions(spool):
        console.print(f"MLflow lacks something, which waits: irrbench sync --spool {spool}", soft_wrap=True)


def _conclude(
    config: BenchmarkConfig,
    data: RaterData,
    models: Sequence[CellResult | Scored],
    palette: Sequence[str],
    command: str,
    failures: Sequence[Failure],
) -> Benchmark:
    results = conclude(config, data, models)
    if failures:
        lost = f"{len(failures)} of {len(models) + len(failures)} failed and are not shown: "
        results = results._replace(notes=(f"{lost}{', '.join(f.name for f in failures)}.", *results.notes))
    curves = [model.curve.assign(name=model.name) for model in models if isinstance(model, CellResult)]
    by_order = {name: palette[number % len(palette)] for number, name in enumerate(config.predictions)}
    colours = by_order or cell_colours(config)
    colours |= {name: colours[seeds[0]] for name, seeds in results.members.items()}
    return Benchmark(config, data, models, results, pd.concat(curves) if curves else None, colours, command)


def _check_names(config: BenchmarkConfig) -> None:
    taken = sorted(set(config.predictions) & {*DISPLAY_NAMES.values(), BLIND_NAME})
    if taken:
        raise ConfigError(f"--predictions: {taken[0]!r} is the name of a bound; call the model something else.")


def _open_store(config: BenchmarkConfig, data: RaterData) -> tuple[Any, str, str]:
    from irrbench.tracking import open_store  # noqa: PLC0415

    experiment = config.experiment or f"irrbench: {data.name}"
    try:
        client, experiment_id = open_store(config.tracking_uri, experiment)
    except (ValueError, OSError) as error:
        raise ConfigError(f"--tracking-uri: {error}") from error
    return client, experiment_id, experiment


def _palette(client: Any, experiment_id: str, config: BenchmarkConfig) -> list[str]:
    """Colours for finished predictions that the experiment's other models leave free."""
    from irrbench.tracking import palette_beside  # noqa: PLC0415

    return palette_beside(client, experiment_id, config.predictions)


def _run_ids(models: Sequence[CellResult | Scored]) -> dict[str, str]:
    ids = {m.name: m.facts["run_id"] if isinstance(m, CellResult) else m.run_id for m in models}
    return {name: str(run_id) for name, run_id in ids.items() if run_id}


def _save_view(client: Any, experiment_id: str, config: BenchmarkConfig) -> None:
    from irrbench.tracking import save_chart_view  # noqa: PLC0415

    save_chart_view(client, experiment_id, scores=config.scores)


def _show(benchmark: Benchmark, console: Console, experiment_id: str) -> None:
    from irrbench.report import terminal_table  # noqa: PLC0415
    from irrbench.tracking import chart_link  # noqa: PLC0415

    config = benchmark.config
    console.print(
        terminal_table(
            with_groups(benchmark.results.leaderboard, benchmark), scores=config.scores, note=benchmark.data.note
        )
    )
    for note in benchmark.results.notes:
        console.print(note)
    output = Path(config.output)
    console.print(f"report: {output / 'report.html'}; tables: {output}/*.csv", soft_wrap=True)
    console.print(f"charts: {chart_link(config.tracking_uri, experiment_id)}", soft_wrap=True)


def _show_waiting(outcome: Outcome, console: Console) -> None:
    console.print(
        f"Not finished yet ({len(outcome.unfinished)}): {', '.join(outcome.unfinished)}. The process that ends "
        "the last one writes the tables; so does the same command once more, without --cells."
    )


def _show_failures(failures: Sequence[Failure], console: Console) -> None:
    for failure in failures:
        console.print(f"\n{failure.name} failed; its traceback:\n{failure.traceback}", soft_wrap=True)
    if failures:
        names = ", ".join(failure.name for failure in failures)
        console.print(f"Failed ({len(failures)}): {names}. The rest stands.")


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)
