"""A whole benchmark: data, cells or finished predictions, tables, report."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.text import Text

from irrbench._display import SafeConsole, hide_secrets, without_password
from irrbench._files import quiet
from irrbench._progress import step
from irrbench.commands.checking import check_config, introduce, refusals, warn
from irrbench.commands.loading import (
    Scored,
    load_data,
    load_one,
    score_predictions,
    scored_on,
    scored_split,
    settle_tolerance,
)
from irrbench.commands.noise import log_robustness, noise_drawing
from irrbench.commands.outputs import (
    FILES,
    FOLDERS,
    REPORT,
    galleries_of,
    log_artifacts,
    make_results,
    prepare_output,
    write_outputs,
)
from irrbench.config import BenchmarkConfig, ConfigError
from irrbench.data.overview import model_cautions
from irrbench.plots import MODEL_COLOURS
from irrbench.plots.words import show_titles
from irrbench.report import noise_table, robustness_findings, terminal_table
from irrbench.report.benchmark import headline
from irrbench.tracking import Run, RunAddress, chart_link, open_store, palette_beside
from irrbench.tracking.delivery import answer, delivery_for
from irrbench.tracking.owners import is_of_another
from irrbench.tracking.spool import clear_half_written, default_spool, own_sessions
from irrbench.tracking.store import StoreError, absolute_uri, find_store, program, with_password
from irrbench.training.axes import cell_colours
from irrbench.training.cell import Tracking, make_cells, unfinish_damaged
from irrbench.training.cell_run import read_key
from irrbench.training.grid import Executor, Failure, GridProgress, Outcome, check_bounds, run_grid, shard
from irrbench.training.label_noise import find_doses
from irrbench.training.results import CellResult

if TYPE_CHECKING:
    from irrbench.analysis.results import Results
    from irrbench.data import RaterData

ALL_ENDED_WELL, SOME_FAILED = 0, 1
ANSWER_SECONDS = 3.0  # that a command waits for its store before it computes anything

NO_ISOLATES = dict.fromkeys(map(ord, "\u2068\u2069"))  # which a page needs around names, and a terminal does not know

logger = logging.getLogger(__name__)


class Store(NamedTuple):
    """Where runs are kept: the store, the experiment, and the folder for what the store does not take.

    And the command that is written into them, and the colours of models, first those that few others have.
    """

    uri: str
    experiment: str
    spool: Path
    command: str = ""
    palette: Sequence[str] = MODEL_COLOURS


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
        part: train only the cells of part N of M; the process that ends the last cell of the grid writes the tables.
        console: for the table and the messages; standard output if not given.

    Returns:
        0 if all cells ended well, 1 if some failed (the results of the others are complete).

    Raises:
        ConfigError: for a configuration, an output folder or a store that cannot be used.
        DataError: for unusable data or predictions, with every problem.
    """
    console = console or SafeConsole()
    with quiet():
        check_config(config)
        output = prepare_output(Path(config.output), FOLDERS, FILES)
        data = load_data(config)
        introduce(config, data, console)
        for refuse in refusals(config, data, place=output, report=console.print):
            refuse()
        given, (config, tolerance, decided) = config, settle_tolerance(config, data)
        if tolerance:
            console.print(tolerance)
        store = reach_store(config.tracking_uri, config.experiment, data, output, names=list(config.predictions))
        store = store._replace(command=command)
        models: Sequence[CellResult | Scored]
        failures: Sequence[Failure] = ()
        if config.predictions:
            colours = dict(zip(config.predictions, cycle(store.palette)))
            models = _score(config, data, store, colours, console=console)
        else:
            colours = cell_colours(config)
            outcome = _train(config, data, store, part, resume=resume, console=console)
            models, failures = outcome.results, outcome.failures
            if outcome.waits(part):
                console.print(
                    f"Not finished yet ({len(outcome.unfinished)}): {', '.join(outcome.unfinished)}. The process that "
                    "ends the last one writes the tables; so does the same command without --cells."
                )
                models = []
        runs: Mapping[str, Run] = {}
        found = ""
        if models:
            with step("computing intervals and tests"):
                results = make_results(config, data, models, failures=failures, colours=colours, command=command)
            notes = (*filter(None, [tolerance]), *results.notes)
            asked = tuple(filter(None, [decided]))
            results = replace(results, config=given.as_dict(), notes=notes, cautions=(*asked, *results.cautions))
            with show_titles(results.titles):
                files = _write(results, config, data, models, output)
                _show(results, console)
                found = headline(results)
            ranked = [name for model in results.models for name in results.members[model]]
            runs = dict(sorted(_runs(models, store).items(), key=lambda item: ranked.index(item[0])))
            # Before the view, which is saved with the artifacts and shows what has been logged.
            log_robustness(results, list(runs.values()))
            log_artifacts(runs, files, results.scores)
        _deliver(store, console)
        for failure in failures:
            console.print(f"\n{failure.text}", soft_wrap=True)
        if found:
            summarize(found, output, f"{output}/*.csv", console)
        say_where(store.uri, store.experiment, [run.experiment_id for run in runs.values()], console)
        if failures:
            names = ", ".join(failure.name for failure in failures)
            console.print(f"Failed ({len(failures)}): {names}. The other results are complete.")
    return SOME_FAILED if failures else ALL_ENDED_WELL


def _write(
    results: Results, config: BenchmarkConfig, data: RaterData, models: Sequence[CellResult | Scored], output: Path
) -> list[Path]:
    with step("drawing figures and report"):
        drawings = {} if results.tolerance.empty else noise_drawing(config, data, output)
        return write_outputs(results, output, galleries=galleries_of(results, data, models), drawings=drawings)


def summarize(found: str, output: Path, tables: str, console: Console) -> None:
    """Say in the end what was found, and where the report and the tables are."""
    console.print()
    console.print(Text(found.translate(NO_ISOLATES), style="bold"))
    console.print()
    console.print(f"Report, for a browser: {output / REPORT}", soft_wrap=True)
    console.print(f"Tables: {tables}", soft_wrap=True)


def say_where(uri: str, experiment: str, experiment_ids: Sequence[str | None], console: Console) -> None:
    """Say in which store the runs are, and what shows their charts."""
    if (found := next(filter(None, experiment_ids), None)) is not None:
        console.print(f"Runs: MLflow at {without_password(uri)}, experiment {experiment!r}", soft_wrap=True)
        console.print(f"Charts of the runs: {chart_link(uri, found)}", soft_wrap=True)


def _show(results: Results, console: Console) -> None:
    """The results in the terminal."""
    board = results.without_noise(results.leaderboard)
    about: dict[str, Any] = {"note": results.note, "interval": results.interval_name, "width": console.width}
    console.print(terminal_table(board, scores=results.scores, **about))
    if len(results.tolerance):
        console.print(noise_table(results.tolerance, results.score, width=console.width))
        console.print("\n".join(robustness_findings(results)))
    warn(results.cautions, console)
    for note in results.notes:
        console.print(note)


def reach_store(
    uri: str, experiment: str | None, data: RaterData, output: Path, *, names: Collection[str] = ()
) -> Store:
    """Open an experiment, or create it, before anything is computed.

    A store that does not answer within seconds, or fails, refuses nothing: what is for it waits in the spool.

    Args:
        uri: of the MLflow store.
        experiment: its name; one for the data set if not given.
        data: the raters' data.
        output: the folder of the results, in which records wait that the store does not take.
        names: models whose own earlier runs have no say in the colours.

    Raises:
        ConfigError: if there can be no store at the address, or the experiment was deleted.
    """

    def palette() -> list[str]:
        client, experiment_id = open_store(store.uri, store.experiment)
        return palette_beside(client, experiment_id, names)

    try:
        address = absolute_uri(with_password(find_store(uri)))
        store = Store(address, experiment or f"irrbench: {data.name}", default_spool(output))
        clear_half_written(store.spool, store.uri)
        return store._replace(palette=answer(store.uri, palette, seconds=ANSWER_SECONDS))
    except StoreError as error:
        raise ConfigError(f"--tracking-uri: {error}") from error
    except Exception as error:  # sockets, databases, disks: a store may raise anything; the first record warns of it
        logger.debug("the store at the beginning: %s", hide_secrets(repr(error), store.uri))
        return store


def _train(
    config: BenchmarkConfig,
    data: RaterData,
    store: Store,
    part: tuple[int, int] | None,
    *,
    resume: bool,
    console: Console,
) -> Outcome:
    doses = find_doses(config, data, place=Path(config.output))
    warn(doses.cautions, console)
    data = data.cached()  # of which every cell reads each image in each epoch
    cells = make_cells(config, data, Tracking(store.uri, store.experiment, MODEL_COLOURS[0], store.command), doses)
    own = shard(cells, part)
    if part is not None:
        console.print(f"part {part[0]} of {part[1]}: {len(own)} of {len(cells)} cells")
    unfinish_damaged(cells, data)
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
    config: BenchmarkConfig, data: RaterData, store: Store, colours: Mapping[str, str], *, console: Console
) -> list[Scored]:
    split = scored_split(data)
    predictions = {name: load_one(path, config, data, split=split) for name, path in config.predictions.items()}
    scored = data if split is None else data.split(split)
    models = ", ".join(f"{name} ({found.values})" for name, found in predictions.items())
    console.print(f"scoring finished predictions of {models} on {scored_on(split, scored)}", soft_wrap=True)
    warn([line for name, found in predictions.items() for line in model_cautions(name, found)], console)
    if config.finished.threshold == "auto":
        for name, found in predictions.items():
            chosen = f"threshold {found.threshold:g}, the best on the validation images"
            console.print(f"{name}: {'masks, no threshold needed' if found.masks_alone else chosen}")
    return [
        score_predictions(
            name,
            found,
            scores=tuple(config.scores),
            rules=config.rules,
            tracking=Tracking(store.uri, store.experiment, colours[name], store.command),
            folder=config.predictions[name],
            spool=store.spool,
        )
        for name, found in predictions.items()
    ]


def _deliver(store: Store, console: Console) -> None:
    """Wait for the store, some seconds if it takes nothing, and say what it has not taken."""
    with step("sending results to MLflow"):
        delivery_for(store.uri, store.spool).drain(limit=600)
    say_what_waits(store.uri, store.spool, console)


def say_what_waits(tracking_uri: str, spool: Path, console: Console) -> None:
    """Say that a store has not taken everything, and how to send the rest, but for what another process is sending."""
    if not all(map(is_of_another, own_sessions(spool, tracking_uri))):
        shown, command = without_password(tracking_uri), f"{program()} sync --spool {shlex.quote(str(spool))}"
        console.print(f"Some records did not reach MLflow at {shown}; send them: {command}", soft_wrap=True)


def _runs(models: Sequence[CellResult | Scored], store: Store) -> dict[str, Run]:
    """The models' runs; of cells without those in another store."""
    runs = {}
    for model in models:
        if not isinstance(model, CellResult):
            runs[model.name] = model.run
        elif key := read_key(model.folder, store.uri, store.experiment):
            runs[model.name] = Run(store.uri, RunAddress(key=key, experiment=store.experiment), store.spool)
    return runs
