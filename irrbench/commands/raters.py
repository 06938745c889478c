"""A study from the command line: data, tables, figures, report, MLflow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from irrbench._display import SafeConsole
from irrbench._files import quiet, write_frame, write_json, write_yaml
from irrbench._progress import step
from irrbench.commands.benchmark import ALL_ENDED_WELL, reach_store, say_what_waits, say_where, summarize
from irrbench.commands.checking import check_config, introduce
from irrbench.commands.loading import load_data
from irrbench.commands.outputs import CONFIG, FIGURES, REPORT, RESULTS, prepare_output
from irrbench.config import ConfigError, ReliabilityConfig, StudyOptions
from irrbench.data.dataset import spacings_of
from irrbench.reliability.borders import BORDER_TOLERANCE
from irrbench.reliability.study import Study, study
from irrbench.report.page import save_drawings, write_page
from irrbench.report.raters import PACKAGES, draw_figures, findings, headline, study_page
from irrbench.report.record import study_record
from irrbench.report.terminal import reliability_table
from irrbench.report.text import report_date
from irrbench.report.views import read_picture
from irrbench.tracking import Run
from irrbench.tracking.run import log_reliability

if TYPE_CHECKING:
    from rich.console import Console

    from irrbench.data import RaterData

TABLES = "tables"


def write_outputs(study: Study, config: ReliabilityConfig, *, command: str = "") -> list[Path]:
    """Write ``report.html``, ``config.yaml``, ``results.json``, ``tables/*.csv`` and ``figures/*`` as PNG, SVG and PDF.

    Args:
        study: a finished study.
        config: what made it.
        command: that makes the report again, for the report.

    Returns:
        The files, the report first.

    Raises:
        ConfigError: if the disk does not take them.
    """
    output = prepare_output(Path(config.output), [TABLES])
    drawings = draw_figures(study, pictures=config.pictures)
    page = study_page(study, drawings, config=config.as_dict(), command=command, made=report_date())
    return [
        write_page(output / REPORT, page),
        write_yaml(output / CONFIG, config.as_dict()),
        write_json(output / RESULTS, study_record(study, PACKAGES, command=command)),
        *(write_frame(output / TABLES / f"{name}.csv", table) for name, table in study.tables.items()),
        *save_drawings(output / FIGURES, drawings),
    ]


def metrics_of(study: Study) -> dict[str, float]:
    """Means, standard errors and single values by key, for MLflow."""
    values = {"n_images": float(len(study.data)), "n_raters": float(len(study.data.raters))}
    for row in study.summary.to_dict("records"):
        values |= {str(row["measure"]): float(row["mean"]), f"{row['measure']}_se": float(row["se"])}
    for row in study.across.to_dict("records"):
        # MLflow's keys have no parentheses or commas.
        key = str(row["measure"]).translate(str.maketrans("(,", "__", ")"))
        values |= {key: float(row["value"]), f"{key}_low": float(row["low"]), f"{key}_high": float(row["high"])}
    for row in study.joint.drop(columns=["title", "reason"]).to_dict("records"):
        part = row.pop("part")
        values |= {f"joint_{part}_{engine}": float(value) for engine, value in row.items()}
    return values


def log_study(run: Run, study: Study, files: list[Path]) -> str | None:
    """Record the study in a new run and send it to the store.

    Args:
        run: that is still to be created.
        study: a finished study.
        files: the report first.

    Returns:
        The run's id; None where the store does not take it: a warning says where it waits and how to send it.
    """
    return log_reliability(
        run,
        metrics=metrics_of(study),
        params={"n_images": study.n_images, **asdict(study.options)},
        per_image=study.per_image,
        files=files,
        pictures={path.stem: read_picture(path) for path in files if path.suffix == ".png"},
        note="\n\n".join([headline(study), *findings(study)]),
        data_name=study.data.name,
        digest=study.data.digest(),
    )


def study_digest(data: RaterData, options: StudyOptions) -> str:
    """What identifies a study, which is written into its run again when it is repeated: the data and the options."""
    content = ["reliability", data.digest(), options.as_key(), *filter(None, [spacings_of(data, options.scores)])]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


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
    console = console or SafeConsole()
    with quiet():
        check_config(config)
        output = prepare_output(Path(config.output), [TABLES])
        data = load_data(config)
        said = introduce(config, data, console)
        # The embedded readers are the first, second, ... of each scan, and not the same persons on all.
        options = config.study if config.data is not None else replace(config.study, raters_are_slots=True)
        run = None
        if config.tracking_uri is not None:
            store = reach_store(config.tracking_uri, config.experiment, data, output)
            key = study_digest(data, options)
            run = Run.new(store.uri, store.experiment, key=key, spool=store.spool)
        try:
            found = study(data, options, workers=config.workers)
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            raise ConfigError(f"study: {error}") from error
        with step("drawing figures and report"):
            files = write_outputs(found, config, command=command)
        if run is not None:
            with step("sending results to MLflow"):
                log_study(run, found, files)
        _show(found, output, run, console, said)
    return ALL_ENDED_WELL


def _show(found: Study, output: Path, run: Run | None, console: Console, said: Sequence[str]) -> None:
    for warning in found.warnings:  # other remarks are among the findings
        if warning not in said:
            console.print(warning)
    scores = [measure.name for measure in found.measures if measure.kind == "score"]
    measures, single = (
        ~found.summary["measure"].isin(scores),
        found.across["measure"].isin(["extent_icc", BORDER_TOLERANCE]),
    )
    board = found.summary[measures], found.across[single]
    console.print(reliability_table(*board, note=found.data.note, width=console.width))
    for sentence in findings(found):
        console.print(f"- {sentence}")
    if run is not None:
        say_what_waits(run.tracking_uri, run.spool, console)
    summarize(headline(found), output, f"{output / TABLES}/*.csv", console)
    if run is not None:
        say_where(run.tracking_uri, run.address.experiment or "", [run.experiment_id], console)
