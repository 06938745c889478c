"""Everything that is known of the data before anything is computed: what they are, and why a command refuses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from rich.text import Text

from irrbench._display import SafeConsole, has_control
from irrbench.analysis.candidates import BLIND_NAME
from irrbench.commands.loading import (
    DataConfig,
    describe,
    load_data,
    load_one,
    scored_on,
    scored_split,
    settle_tolerance,
)
from irrbench.commands.outputs import check_questions, rules_of_scores
from irrbench.config import BenchmarkConfig, ConfigError, ReliabilityConfig, StudyOptions
from irrbench.data import DataError, SegmentationDataset
from irrbench.data.dataset import check_spacings, choice_notes, label_notes
from irrbench.data.layout import unread
from irrbench.data.overview import Marks, cautions, count_marks, model_cautions, overview
from irrbench.data.problems import Problem, count_problems, summarize_problems
from irrbench.geometry import TOLERANCE
from irrbench.plots import DISPLAY_NAMES
from irrbench.reliability.covariates import check_covariates
from irrbench.reliability.study import check_exclusions, exclude_by_shares, remark
from irrbench.tracking.creation import PlaceError, check_place
from irrbench.tracking.store import DEFAULT_TRACKING_URI, find_store, sqlite_file
from irrbench.training.axes import check_grid, noise_notes
from irrbench.training.batches import check_scored, check_splits
from irrbench.training.grid import check_executor
from irrbench.training.label_noise import Doses, find_doses
from irrbench.training.memory import memory_estimate

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from irrbench.data import RaterData

Result = TypeVar("Result")
NO_PROBLEMS, SOME_PROBLEMS = 0, 2
LAYOUT = """\
This is no data folder yet. One looks like this (more formats: docs, "The folder"):
  images/case1.png
  masks/anna/case1.png    what each rater marked, under the name of the image
  masks/ben/case1.png
  manifest.csv            optional: image_id, split, group
`irrbench convert --help` lists what makes one of downloads and of exports of annotation tools."""
WIDTH = 12  # of the names in front of what was understood


class Checked(NamedTuple):
    """What a check has found.

    Attributes:
        of_data: problems of the data.
        of_command: problems that the command alone has with them.
        are_small: whether a study of raters keeps no image unless it keeps those with small marks.
    """

    of_data: int
    of_command: int
    are_small: bool

    def next_line(self, command: str) -> str:
        """A command that can be typed next, with what it needs for these data."""
        more = " --exclude-below 0" if self.are_small and "irrbench reliability" in command else ""
        return f"Next: {command}{more}"


def check_config(config: DataConfig) -> None:
    """Refuse what no data can make right.

    Raises:
        ConfigError: a store, not the default, whose file cannot be made; predictions whose name is a bound's or holds
            control characters, or an executor that is not installed.
    """
    _check_place(config.tracking_uri)
    if not isinstance(config, BenchmarkConfig):
        return
    taken = sorted(set(config.predictions) & {*DISPLAY_NAMES.values(), BLIND_NAME})
    if taken:
        raise ConfigError(f"--predictions: {taken[0]!r} is the name of a bound; call the model something else.")
    for name in filter(has_control, config.predictions):
        raise ConfigError(f"--predictions: {name!r} holds a control character; call the model something else.")
    check_executor(config.executor, config.address)


def _check_place(tracking_uri: str | None) -> None:
    store = tracking_uri and find_store(tracking_uri)
    database = None if store in {None, DEFAULT_TRACKING_URI} else sqlite_file(str(store))
    try:
        if database is not None:
            check_place(database)
    except PlaceError as error:
        raise ConfigError(f"--tracking-uri: {error}") from error
    except OSError:  # as of a full disk: what is logged waits in the spool
        return


def refusals(
    config: DataConfig,
    data: RaterData,
    *,
    place: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> Iterator[Callable[[], object]]:
    """What a command does before it computes anything; each raises where these data cannot be used for it.

    Args:
        config: of the command.
        data: the raters' data.
        place: a folder that keeps what was found, for the next call.
        report: called with what takes long.
    """
    if isinstance(config, ReliabilityConfig):
        yield partial(check_covariates, data.manifest, config.study.covariates)
        yield partial(check_spacings, data, config.study.scores)
    if not isinstance(config, BenchmarkConfig):
        return
    yield partial(check_questions, config, data)
    yield partial(check_spacings, data, config.scores)
    yield partial(settle_tolerance, config, data)
    if not config.predictions:
        yield partial(check_grid, config, data.raters)
        yield partial(check_splits, data)
        yield partial(check_scored, data, config.scores[0], replace(config.rules, tolerance=TOLERANCE))
        for label in config.labels:
            if label.partition(":")[2] in data.raters:
                yield partial(SegmentationDataset, data.split("train"), label=label)
        yield partial(_calibrate, config, data, place, report)


def _calibrate(
    config: BenchmarkConfig, data: RaterData, place: Path | None, report: Callable[[str], None] | None
) -> Doses:
    """Refuse doses that cannot be reached; what else is wrong with the grid has been said before."""
    try:
        check_grid(config, data.raters)
        check_splits(data)
    except ConfigError:
        return Doses({})
    return find_doses(config, data, place=place, report=report)


def introduce(config: DataConfig, data: RaterData, console: Console) -> list[str]:
    """Say what the data are, and what looks odd about them; that is returned, too."""
    console.print(describe(config, data), soft_wrap=True)
    warnings = _warnings(config, data, count_marks(data))
    warn(warnings, console)
    return warnings


def check(config: DataConfig, *, console: Console | None = None, then: Sequence[str] = ()) -> int:
    """Say what was understood of the data, every problem of them and of the grid, what looks odd, and what is next.

    Args:
        config: what to check.
        console: standard output if not given.
        then: commands that can be typed next, where there is no problem.

    Returns:
        0 where there is no problem, else 2.
    """
    console = console or SafeConsole()
    found = check_in_parts(config, console=console)
    if found.of_data or found.of_command:
        return SOME_PROBLEMS
    for command in then:
        console.print(found.next_line(command), soft_wrap=True)
    return NO_PROBLEMS


def check_in_parts(config: DataConfig, *, console: Console | None = None) -> Checked:
    """As :func:`check`, with what was found."""
    console = console or SafeConsole()
    problems: list[Problem | str] = []
    warnings: list[str] = []
    _try(partial(check_config, config), problems)
    before = len(problems)
    data = _try(partial(load_data, config), problems)
    of_data, are_small = len(problems) - before, False
    if data is not None:
        marks = count_marks(data)
        if config.data is None:
            text = "the embedded masks of four radiologists; your own folder: irrbench check DIR"
            console.print(f"{'data':<{WIDTH}}{text}", soft_wrap=True)
        for name, text in chain(overview(data, marks), _predictions(config, data, problems, warnings)):
            console.print(f"{name:<{WIDTH}}{text}", soft_wrap=True)
        results = [_try(refuse, problems) for refuse in refusals(config, data)]
        for name, text in _settled(results, data, warnings):
            console.print(f"{name:<{WIDTH}}{text}", soft_wrap=True)
        if isinstance(config, BenchmarkConfig) and not config.predictions and not problems:
            for line in memory_estimate(config, data).lines:
                console.print(f"{'memory':<{WIDTH}}{line}", soft_wrap=True)
        warnings += _warnings(config, data, marks)
        if isinstance(config, ReliabilityConfig):
            warnings += _check_study(config.study, data, marks, problems)
        are_small = (
            _left_out(StudyOptions(), data, marks) == len(data) > _left_out(StudyOptions(exclude_below=0), data, marks)
        )
    elif isinstance(config, BenchmarkConfig) and not config.predictions:
        _try(partial(check_grid, config), problems)
    lines = summarize_problems(problem for problem in problems if isinstance(problem, Problem))
    lines += [problem for problem in problems if isinstance(problem, str)]
    for line in lines:
        console.print(f"- {line}", soft_wrap=True)
    if {"images", "masks"} <= {problem.file.strip("/") for problem in problems if isinstance(problem, Problem)}:
        console.print(LAYOUT)
    warn(warnings, console)
    found = count_problems(len(problems), len(lines)) if problems else "no problems found"
    console.print(f"{config.data or 'the embedded data'}: {found}", soft_wrap=True)
    return Checked(of_data, len(problems) - of_data, are_small)


def _try(step: Callable[[], Result], problems: list[Problem | str]) -> Result | None:
    """The result of a step, or None and its problems where it refuses."""
    try:
        return step()
    except DataError as error:
        problems += error.problems
    except ValueError as error:  # of configurations
        problems.append(str(error))
    return None


def _predictions(
    config: DataConfig, data: RaterData, problems: list[Problem | str], warnings: list[str]
) -> Iterator[tuple[str, str]]:
    """What was understood of finished predictions; their problems, and what looks odd, are added."""
    if not isinstance(config, BenchmarkConfig) or not config.predictions:
        return
    split = scored_split(data)
    for name, folder in config.predictions.items():
        found = _try(partial(load_one, folder, config, data, split=split), problems)
        if found is not None:
            warnings += model_cautions(name, found)
            yield "predictions", f"{name}: {found.values or 'read'}, on {scored_on(split, found.data)}"  # noqa: PD011 (no frame)


def _settled(results: Sequence[object], data: RaterData, warnings: list[str]) -> Iterator[tuple[str, str]]:
    """What was found for these data: strengths of noise, spacing and tolerance of scores; with cautions."""
    for doses in (each for each in results if isinstance(each, Doses)):
        warnings += doses.cautions
        yield from (("noise", line) for line in doses.lines)
    for settled, said, caution in (each for each in results if isinstance(each, tuple)):
        warnings += filter(None, [caution])
        for name, text in rules_of_scores(settled, data).items():
            shown = said if said and name == "Tolerance" else text
            yield name.lower(), shown.removeprefix("Tolerance ")


def _left_out(options: StudyOptions, data: RaterData, marks: Marks) -> int:
    """How many images a study leaves out."""
    return len(_excluded(options, data, marks))


def _excluded(options: StudyOptions, data: RaterData, marks: Marks) -> pd.DataFrame:
    present = torch.tensor([item.present for item in data.packed])
    return exclude_by_shares(torch.from_numpy(marks.shares), present, data.image_ids, options)


def _check_study(options: StudyOptions, data: RaterData, marks: Marks, problems: list[Problem | str]) -> Iterator[str]:
    """What is said of the images that a study leaves out; a problem is added where it leaves out all."""
    excluded = _excluded(options, data, marks)
    _try(partial(check_exclusions, excluded, data, options), problems)
    if 0 < len(excluded) < len(data):
        yield remark(excluded, len(data), options)


def _warnings(config: DataConfig, data: RaterData, marks: Marks) -> list[str]:
    is_grid = isinstance(config, BenchmarkConfig) and not config.predictions
    has_splits = is_grid or (isinstance(config, BenchmarkConfig) and scored_split(data) is not None)
    found = cautions(data, marks, splits=has_splits)
    if isinstance(config, BenchmarkConfig) and is_grid:
        found += label_notes(data.split("train"), config.labels) + choice_notes(data.split("val"), config.scores[0])
        found += noise_notes(config)
    if config.data is not None and (other := unread(Path(config.data))):
        shown = ", ".join(other[:3]) + (f", ... ({len(other)})" if len(other) > 3 else "")
        found.append(f"Not read: {shown} (a data folder holds images/, masks/<rater>/, roi/ and manifest.csv).")
    return found


def warn(warnings: Sequence[str], console: Console) -> None:
    """Say what looks odd."""
    for warning in warnings:
        console.print(Text(f"Caution: {warning}", style="bold"), soft_wrap=True)
