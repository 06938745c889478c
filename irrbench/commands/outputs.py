"""The outputs of a benchmark: its results, their files and figures, the report, artifacts in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pandas as pd

from irrbench._files import prepare_folder, write_atomically, write_frame, write_json, write_yaml
from irrbench.analysis.blind import BlindError, blind_table
from irrbench.analysis.candidates import Resampling
from irrbench.analysis.results import Questions, Results, build_results, resampling_in_words
from irrbench.analysis.subgroups import check_columns
from irrbench.bounds import option_rules
from irrbench.commands.loading import scored_split
from irrbench.commands.noise import trained_models
from irrbench.config import BenchmarkConfig, ConfigError
from irrbench.data.dataset import choice_notes, label_notes
from irrbench.evidence import EVIDENCE
from irrbench.folds import TIES_IN_WORDS
from irrbench.plots.words import percent_of
from irrbench.report import Gallery, benchmark_page, make_galleries, write_page
from irrbench.report.benchmark import PACKAGES
from irrbench.report.figures import draw_figures
from irrbench.report.page import Drawing, save_drawings
from irrbench.report.record import benchmark_record
from irrbench.report.text import report_date
from irrbench.report.views import MOST_MODELS, save_picture
from irrbench.scores import record, select_scores
from irrbench.summary import bounds_digest
from irrbench.tracking.spool import SPOOL
from irrbench.tracking.store import MLRUNS
from irrbench.training.label_noise import DOSES
from irrbench.training.results import CELLS, CellResult

if TYPE_CHECKING:
    from irrbench.commands.loading import Scored
    from irrbench.data import RaterData
    from irrbench.tracking import Run
    from irrbench.training.grid import Failure

logger = logging.getLogger(__name__)

FIGURES, REPORT, CONFIG, RESULTS = "figures", "report.html", "config.yaml", "results.json"
FOLDERS = (CELLS, f"{CELLS}/*")  # of a benchmark
FILES = (DOSES, *(f"{field.name}.csv" for field in fields(Results)))  # its tables, and names that none has
MOST_COPIES = 20  # runs that get the results


def check_questions(config: BenchmarkConfig, data: RaterData) -> None:
    """Check, before anything is trained, that the data can answer what is asked.

    Raises:
        ConfigError: for a subgroup's column that the manifest lacks, and for a spread over two raters.
    """
    generalize = config.statistics.generalize
    if generalize in ("raters", "all") and len(data.raters) < 3:
        raise ConfigError(
            f"statistics.generalize: {generalize} leaves out each rater in turn, which takes three or more; the data "
            f"have {len(data.raters)}. Take images or seeds."
        )
    try:
        check_columns(config.statistics.subgroups, data.manifest)
    except ValueError as error:
        raise ConfigError(f"statistics.{error}") from error


def make_results(
    config: BenchmarkConfig,
    data: RaterData,
    models: Sequence[CellResult | Scored],
    *,
    failures: Sequence[Failure] = (),
    colours: Mapping[str, str] | None = None,
    command: str = "",
) -> Results:
    """Make all tables of a benchmark, and add the facts about data and configuration.

    Args:
        config: its statistics and rules.
        data: the raters' data.
        models: scored on the same images.
        failures: cells without results.
        colours: by name of a model's table.
        command: that computes the results again.
    """
    options, table = config.statistics, models[0].table
    blind, notes = None, []
    if failures:
        lost = f"{len(failures)} of {len(models) + len(failures)} failed and are not shown: "
        notes.append(f"{lost}{', '.join(failure.name for failure in failures)}.")
    if config.predictions:
        notes += _notes_on_samples(models, config.scores)
    else:
        notes += label_notes(data.split("train"), config.labels) + choice_notes(data.split("val"), config.scores[0])
    reason = ""
    rules: dict[str, Any] = {"ties": config.rules.ties, "empty_reference": config.rules.empty_reference}
    of_scores = config.rules.options
    asked: dict[str, Any] = {name: value for name, value in asdict(options).items() if name in Questions._fields}
    if options.blind:
        try:
            blind = blind_table(
                data, table["image_id"].astype(str).tolist(), scores=config.scores, **rules, **of_scores
            )
        except BlindError as error:
            reason = str(error)[0].upper() + str(error)[1:]
    results = build_results(
        {model.name: model.table for model in models},
        resampling_of(config, data),
        questions=Questions(
            raters=data.raters, covariates=data.manifest if options.subgroups else None, **rules, **asked
        ),
        models={model.name: model.group if isinstance(model, CellResult) else model.name for model in models},
        blind=blind,
        trained=trained_models(config, [m for m in models if isinstance(m, CellResult)]) if config.noise else None,
    )
    by_model = {name: colours[seeds[0]] for name, seeds in results.members.items()} if colours else results.colours
    return replace(
        results,
        notes=(*notes, *results.notes, *filter(None, [reason]), f"Ties: {ties_in_words(config.rules.ties, table)}."),
        name=data.name,
        note=data.note,
        raters=data.raters,
        unit=data.group_column or "",
        agreement=table.set_index("image_id")["alpha"].rename("Krippendorff's alpha of the raters"),
        curves=_curves(models, results.members),
        thresholds=_diagrams(models, results.models, "thresholds"),
        reliability=_diagrams(models, results.models, "reliability"),
        colours={**(colours or {}), **by_model},
        rules=rules_in_words(config, data, models),
        digests=_digests(config, data, models),
        config=config.as_dict(),
        command=command,
        titles={s.name: s.title_with(of_scores, data.unit) for s in select_scores(results.scores)},
        settled=(settled := _settled(config, data)),
        leaderboard=_with_units(results.leaderboard, results.scores, settled),
    )


def _settled(config: BenchmarkConfig, data: RaterData) -> dict[str, Any]:
    """The split that was scored, the unit of distances and the rules, with the values that the data gave them."""
    rules = config.rules.of(config.scores)
    if config.predictions and config.finished.threshold is not None:
        rules["threshold"] = config.finished.threshold
    split = scored_split(data) if config.predictions else "test"
    return {"split": split, "distance_unit": data.unit, "rules": rules}


def _with_units(board: pd.DataFrame, scores: Sequence[str], settled: Mapping[str, Any]) -> pd.DataFrame:
    """The leaderboard with the tolerance and the unit of distances, where a score depends on them."""
    tolerance = settled["rules"].get("tolerance")
    columns = {} if tolerance is None else {"tolerance": tolerance}
    if columns or any(record(score).is_distance for score in scores):
        columns["distance_unit"] = settled["distance_unit"]
    return board.assign(**columns)


def _notes_on_samples(models: Sequence[CellResult | Scored], scores: Sequence[str]) -> Iterator[str]:
    """What a reader must know where an image has several samples, or is scored as if it had."""
    numbers = {model.name: model.predictions.num_samples for model in models if not isinstance(model, CellResult)}
    several = [f"{name} {number}" for name, number in numbers.items() if number > 1]
    single = [name for name, number in numbers.items() if number == 1]
    of_samples = " and ".join(name for name in scores if EVIDENCE[record(name).evidence].takes == "samples")
    if several:
        yield f"Samples an image: {', '.join(several)}. Scores of masks are of their mean, cut at the threshold."
    if of_samples and len(set(numbers.values())) > 1:
        verb = "depend" if " and " in of_samples else "depends"
        yield f"{of_samples} {verb} on the number of samples: compare models that have as many."
    if single and of_samples:
        yield f"{', '.join(single)}: one mask an image, which is one sample for {of_samples}."


def resampling_of(config: BenchmarkConfig, data: RaterData) -> Resampling:
    """How intervals are made."""
    names = ("resamples", "seed", "level", "interval", "generalize")
    options = {name: getattr(config.statistics, name) for name in names}
    return Resampling(groups=dict(zip(data.image_ids, data.groups, strict=True)), **options)


def _curves(models: Sequence[CellResult | Scored], members: Mapping[str, Sequence[str]]) -> pd.DataFrame | None:
    """Learning curves of trained models, with the number of the seed."""
    places = {table: (name, seed) for name, tables in members.items() for seed, table in enumerate(tables)}
    curves = [
        _with_single(model.curve).assign(name=places[model.name][0], seed=places[model.name][1])
        for model in models
        if isinstance(model, CellResult)
    ]
    return pd.concat(curves) if curves else None


def _diagrams(models: Sequence[CellResult | Scored], names: Sequence[str], kind: str) -> pd.DataFrame:
    """Scores over thresholds, or reliability, of models with probabilities, in the leaderboard's order."""
    found = {model.name: model for model in models if not isinstance(model, CellResult) and kind in model.diagrams}
    tables = [
        found[name].diagrams[kind].assign(name=name, used=found[name].predictions.threshold)
        for name in names
        if name in found
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _with_single(curve: pd.DataFrame) -> pd.DataFrame:
    """The curve with scores on the one mask where no validation image has bounds."""
    pairs = [(column.removesuffix("_all"), column) for column in curve.columns if str(column).endswith("_all")]
    return curve.assign(**{score: curve[column] for score, column in pairs if curve[score].isna().all()})


def rules_in_words(config: BenchmarkConfig, data: RaterData, models: Sequence[CellResult | Scored]) -> dict[str, str]:
    """The rules behind the numbers, by name."""
    rules, options = config.rules, config.statistics
    unit = "images" if data.group_column is None else f"groups of images ({data.group_column})"
    scored = "the best value of a score where the candidate is empty too, else the worst"
    margins = ", ".join(f"{score} {margin:g}" for score, margin in options.margins.items()) or "none declared"
    threshold = f"probabilities above {config.rules.threshold:g} are foreground"
    if config.predictions and config.finished.threshold == "auto":
        found = {model.name: model.predictions for model in models if not isinstance(model, CellResult)}
        best = ", ".join(f"{name} {'(masks)' if p.masks_alone else f'{p.threshold:g}'}" for name, p in found.items())
        threshold = f"for each model the one with the best {config.of_masks[0]} on the validation images ({best})"
    elif config.predictions and config.finished.threshold is not None:
        threshold = f"probabilities above {config.finished.threshold:g} are foreground"
    apart = " (those with label noise apart)" if config.noise and not config.predictions else ""
    return {
        "References": "the strict majority of an image's other raters, one for each rater, the same for all",
        "Ties": ties_in_words(rules.ties, models[0].table),
        "Empty references": "left out for all candidates" if rules.empty_reference == "drop" else scored,
        "Threshold": threshold,
        **rules_of_scores(config, data),
        "Intervals": resampling_in_words(resampling_of(config, data), unit=unit),
        "Comparisons": "two-sided p-values that belong to the intervals, with Holm's correction within each score: "
        "against the average rater, against the naive rater, and between models",
        "Verdicts": f"one-sided at {(1 - options.level) / 2:.3g}, with Holm's correction over models{apart}; "
        f"margins: {margins}",
    }


def rules_of_scores(config: BenchmarkConfig, data: RaterData) -> dict[str, str]:
    """Spacing and tolerance, where a score depends on them."""
    spacing = "of each image, in mm" if data.unit == "mm" else "not known: distances are in pixels"
    found = option_rules(select_scores(config.scores), config.rules.options, unit=data.unit, spacing=spacing)
    return {name.replace("_", " ").capitalize(): text for name, text in found.items()}


def ties_in_words(rule: str, table: pd.DataFrame) -> str:
    """How pixels are read on which an image's other raters are evenly split, and how many there are.

    Example:
        >>> ties_in_words("negative", pd.DataFrame({"tied": [0.0, 0.0], "n_raters": [3, 3]}))
        'background (no pixel of a reference is tied here)'
    """
    tied = float(table["tied"].mean())  # NaN where nobody marks anything
    many = f"tied are {percent_of(tied)} of the pixels that at least half of the other raters mark"
    of_all = "; the row 'majority of raters' has ties of its own" if (table["n_raters"] % 2 == 0).any() else ""
    return f"{TIES_IN_WORDS[rule]} ({many if tied > 0 else 'no pixel of a reference is tied here'}{of_all})"


def _digests(config: BenchmarkConfig, data: RaterData, models: Sequence[CellResult | Scored]) -> dict[str, str]:
    """What shows whether another run had the same data, and scored them by the same rules."""
    cells = [model for model in models if isinstance(model, CellResult)]
    of_data = {str(cell.facts["config"]["data_digest"]) for cell in cells} or {data.digest()}
    return {
        "data": ", ".join(sorted(of_data)),
        "bounds (scored images, raters and rules)": bounds_digest(models[0].table, config.rules.of(config.scores)),
        **{f"model {cell.name}": str(cell.facts["digest"]) for cell in cells},
    }


def galleries_of(results: Results, data: RaterData, models: Sequence[CellResult | Scored]) -> list[Gallery]:
    """Pictures with the contours of the best models; of several seeds, those of the first."""
    tables = {model.name: model for model in models}
    names = [results.shown, *(name for name in results.rivals if name != results.shown)][:MOST_MODELS]
    predict = {name: tables[results.members[name][0]].prediction for name in names}
    has_seeds = len(results.members[results.shown]) > 1
    remark = "Numbers are means over seeds, contours those of the first." if has_seeds else ""
    return make_galleries(results, data, predict, remark=remark)


def prepare_output(output: Path, folders: Sequence[str], files: Sequence[str] = ()) -> Path:
    """Make the output folder of a command, or refuse one to which it cannot or may not be written.

    Args:
        output: the folder.
        folders: in which this command writes, beside those of every command.
        files: that it writes, likewise.

    Raises:
        ConfigError: see :func:`irrbench._files.prepare_folder`.
    """
    folders = [FIGURES, *folders, SPOOL, MLRUNS, f"{MLRUNS}/*"]
    return prepare_folder(output, folders=folders, files=[REPORT, CONFIG, RESULTS, *files])


def write_outputs(
    results: Results,
    output: Path,
    *,
    galleries: Sequence[Gallery] = (),
    drawings: Mapping[str, Drawing] = MappingProxyType({}),
) -> list[Path]:
    """Write ``leaderboard.csv``, ``per_image.csv``, ``comparisons.csv``, ..., ``results.json``, figures and report.

    Figures are in the folder ``figures``, each as PNG, SVG and PDF as wide as one or two columns of a journal, and the
    galleries' pictures as PNG; pictures of an earlier run are removed.

    Args:
        results: of the benchmark.
        output: the folder.
        galleries: images with contours.
        drawings: figures beside those of the results.

    Returns:
        The files that are for MLflow: all but the single pictures, which are in the report.

    Raises:
        ConfigError: if the disk does not take them.
    """
    prepare_output(output, FOLDERS, FILES)
    files = [write_frame(output / f"{name}.csv", frame) for name, frame in results.frames().items()]
    files.append(write_yaml(output / CONFIG, results.config, remark=_remark_on_tolerance(results)))
    files.append(write_json(output / RESULTS, benchmark_record(results, PACKAGES)))
    drawn = draw_figures(results) | dict(drawings)
    files += save_drawings(output / FIGURES, drawn)
    for gallery in galleries:
        written = [
            write_atomically(output / FIGURES / f"{gallery.name}-{number}.png", partial(save_picture, picture.pixels))
            for number, picture in enumerate(gallery.pictures, start=1)
        ]
        for path in set((output / FIGURES).glob(f"{gallery.name}-*.png")) - set(written):
            path.unlink(missing_ok=True)
    page = benchmark_page(results, drawings=drawn, galleries=galleries, made=report_date())
    return [*files, write_page(output / REPORT, page)]


def _remark_on_tolerance(results: Results) -> str:
    """What ``rules.tolerance: raters`` became; empty where no score has a tolerance."""
    tolerance = results.settled.get("rules", {}).get("tolerance")
    return "" if tolerance is None else f"The tolerance of this run: {tolerance:g} {results.settled['distance_unit']}"


def log_artifacts(runs: Mapping[str, Run], files: Sequence[Path], scores: Sequence[str]) -> None:
    """Put the results into the models' runs, and save the view of their charts; nothing is waited for.

    All pairs of models are in the tables, so that copies for all would grow with the third power of their number.

    Args:
        runs: by the model's name, of which the first twenty get the results.
        files: as :func:`write_outputs` returns them.
        scores: the main one first.
    """
    for run in [*runs.values()][:MOST_COPIES]:
        for path in files:
            run.log_file(path, f"benchmark/{FIGURES}" if path.parent.name == FIGURES else "benchmark")
    for run in [*runs.values()][:1]:
        run.save_view(scores)
