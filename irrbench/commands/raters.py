"""A study from the command line: data, tables, figures, report, MLflow."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from irrbench._files import prepare_folder, quiet, write_atomically, write_frame, write_yaml
from irrbench.commands.benchmark import check as check_source
from irrbench.commands.loading import describe, load_data
from irrbench.config import ConfigError, ReliabilityConfig
from irrbench.data import RaterData
from irrbench.plots import save_figure
from irrbench.reliability.study import Study, study
from irrbench.report.raters import Drawing, draw_figures
from irrbench.report.raters_text import HOW_TO_READ, findings, headline, limits
from irrbench.report.terminal import reliability_table

# What a study leaves behind: tables, figures, a report, a run in MLflow.


logger = logging.getLogger(__name__)

TABLES, FIGURES, REPORT = "tables", "figures", "report.html"
FORMATS = (".png", ".svg")
_PACKAGES = ("irrbench", "torch", "numpy", "pandas", "scipy", "statsmodels", "mlflow")


def write_outputs(study: Study, config: ReliabilityConfig, *, command: str = "") -> list[Path]:
    """Write ``report.html``, ``config.yaml``, ``tables/*.csv`` and ``figures/*.png`` and ``.svg``.

    Args:
        study: a finished study.
        config: what made it.
        command: that makes the report again, for the report.

    Returns:
        The files, the report first.

    Raises:
        ConfigError: if the disk does not take them.
    """
    output = prepare_folder(Path(config.output))
    drawings = draw_figures(study, pictures=config.pictures)
    report = write_atomically(output / REPORT, lambda path: _write_report(path, study, drawings, config, command))
    files = [report, write_yaml(output / "config.yaml", config.as_dict())]
    files += [write_frame(output / TABLES / f"{name}.csv", table) for name, table in study.tables.items()]
    for name, drawing in drawings.items():
        files += [_write_figure(output / FIGURES / f"{name}{ending}", drawing) for ending in FORMATS]
    return files


def _write_figure(path: Path, drawing: Drawing) -> Path:
    return write_atomically(path, lambda place: save_figure(drawing.figure, place))


def _write_report(
    path: Path, study: Study, drawings: Mapping[str, Drawing], config: ReliabilityConfig, command: str
) -> None:
    import yaml  # noqa: PLC0415

    from irrbench.report.raters import Shown, Words, write_reliability_report  # noqa: PLC0415 (matplotlib)

    write_reliability_report(
        path,
        title=f"Reliability of the raters: {study.data.name}",
        note=" ".join(filter(None, [study.data.note, *study.warnings])),
        words=Words(headline(study), findings(study), limits(study), study.remarks, HOW_TO_READ),
        figures={name: Shown(*drawing) for name, drawing in drawings.items()},
        tables=_with_titles(study) | {"measures": study.summary[~study.summary["measure"].isin(_scores(study))]},
        rules=rules_in_words(study),
        versions=versions(),
        config_yaml=yaml.safe_dump(config.as_dict(), sort_keys=False),
        command=command,
    )


def _with_titles(study: Study) -> dict[str, pd.DataFrame]:
    """The tables with measures by their titles, as the report shows them."""
    titles = {m.name: m.title for m in study.measures} | {"extent_icc": "Extent ICC"}
    named = {name: table for name, table in study.tables.items() if "measure" in table and "title" not in table}
    return study.tables | {name: table.replace({"measure": titles}) for name, table in named.items()}


def _scores(study: Study) -> list[str]:
    """The measures that have a table of their own in the report."""
    return [measure.name for measure in study.measures if measure.kind == "score"]


def rules_in_words(study: Study) -> dict[str, str]:
    """The rules behind the numbers, by name."""
    options, column = study.options, study.data.group_column
    unit = "images" if column is None else f"groups of images ({column})"
    robust = "HC3" if column is None else f"robust to likeness within {column}"
    return {
        "Images left out": f"fewer than two raters or an empty region of interest; more than half of the raters marked "
        f"over {options.exclude_above:.0%} or under {options.exclude_below:.0%} of it",
        "Standard errors and intervals of means": f"over {unit}, {options.level:.0%}, Student's",
        "Interval of the extent ICC": f"percentile bootstrap, {options.resamples} resamples of {unit}; raters fixed",
        "Correlations": f"Pearson's, Fisher's interval by the number of {unit}",
        "Linear model": f"least squares, all covariates at once, numbers standardised, intervals {robust}",
        "Scores": f"each rater on the strict majority of the others; ties {options.ties}; empty reference: "
        f"{options.empty_reference}",
        "ICC": "variance of one mark by its observed mean (meanobs), link scale",
    }


def versions() -> dict[str, str]:
    """Version by program."""
    found = {name: metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "system": platform.platform(), **found}


def metrics_of(study: Study) -> dict[str, float]:
    """Means, standard errors and single values by key, for MLflow."""
    values = {"n_images": float(len(study.data)), "n_raters": float(len(study.data.raters))}
    for row in study.summary.to_dict("records"):
        values |= {str(row["measure"]): float(row["mean"]), f"{row['measure']}_se": float(row["se"])}
    for row in study.across.to_dict("records"):
        # MLflow's keys have no parentheses or commas.
        key = str(row["measure"]).translate(str.maketrans("(,", "__", ")"))
        ends = {f"{key}_{end}": float(row[end]) for end in ("low", "high")}
        values |= {key: float(row["value"]), **ends}
    for engine in [name for name in ("laplace", "quadrature") if name in study.joint]:
        parts = zip(study.joint["part"], study.joint[engine], strict=True)
        values |= {f"joint_{part}_{engine}": float(value) for part, value in parts}
    return values


def log_study(client: Any, experiment_id: str, study: Study, files: list[Path]) -> str | None:
    """Put the study into a run of its own; a store that refuses costs a warning and nothing else."""
    from irrbench.tracking.reference_runs import log_reliability  # noqa: PLC0415 (MLflow)

    try:
        return log_reliability(
            client,
            experiment_id,
            metrics=metrics_of(study),
            params={"n_images": study.n_images, **asdict(study.options)},
            per_image=study.per_image,
            files=files,
            note="\n\n".join([headline(study), *findings(study)]),
            data_name=study.data.name,
            digest=study.data.digest(),
        )
    except Exception as error:
        logger.warning("MLflow does not take the study: %s. Everything is in the output folder.", error)
        return None


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
