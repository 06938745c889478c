"""What a benchmark leaves behind: tables, figures, the report, artifacts in MLflow."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from irrbench._files import prepare_folder, write_atomically, write_frame, write_yaml
from irrbench.analysis.blind import BlindError, blind_table
from irrbench.analysis.candidates import Resampling
from irrbench.analysis.results import Questions, Results, build_results, resampling_in_words
from irrbench.analysis.subgroups import check_columns
from irrbench.config import BenchmarkConfig, ConfigError
from irrbench.summary import bounds_digest
from irrbench.training.cell import CellResult

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.commands.loading import Scored
    from irrbench.data import RaterData
    from irrbench.report import Gallery, Picture, Report
    from irrbench.report.benchmark import Drawing
    from irrbench.training.cell import CellResult

# What a configuration asks of the scored models, answered.


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


# From a finished benchmark to what its report is made of.


_PACKAGES = (
    *("irrbench", "torch", "pytorch-lightning", "segmentation-models-pytorch", "torchmetrics", "mlflow"),
    *("numpy", "pandas", "scipy", "matplotlib"),
)


def make_report(benchmark: Benchmark) -> Report:
    """Gather tables, texts and pictures."""
    import yaml  # noqa: PLC0415

    from irrbench.report import Report  # noqa: PLC0415 (matplotlib)

    config, results = benchmark.config, benchmark.results
    return Report(
        title=f"Benchmark: {benchmark.data.name}",
        note=benchmark.data.note,
        leaderboard=with_groups(results.leaderboard, benchmark),
        per_image=results.per_image,
        rules=rules_in_words(benchmark),
        versions=versions(),
        config_yaml=yaml.safe_dump(config.as_dict(), sort_keys=False),
        command=benchmark.command,
        scores=tuple(config.scores),
        comparisons=results.comparisons,
        verdicts=results.verdicts,
        alternative=results.alternative,
        separation=results.separation,
        seeds=results.seeds,
        subgroups=results.subgroups,
        curves=_curves(benchmark),
        agreement=_agreement(benchmark),
        galleries=make_galleries(benchmark),
        raters=benchmark.data.raters,
        remarks=results.notes,
        digests=digests(benchmark),
        colours=benchmark.colours,
        level=config.statistics.level,
        unit=benchmark.data.group_column or "",
    )


def with_groups(leaderboard: pd.DataFrame, benchmark: Benchmark) -> pd.DataFrame:
    """Say how many independent groups of images (patients) are behind the main score, where it is not said already."""
    if "n_groups" in leaderboard:
        return leaderboard
    per_image, score = benchmark.results.per_image, benchmark.config.scores[0]
    scored = set(per_image.loc[(per_image["role"] == "ceiling") & per_image[score].notna(), "image_id"])
    pairs = zip(benchmark.data.image_ids, benchmark.data.groups, strict=True)
    count = len({group for image_id, group in pairs if image_id in scored})
    board = leaderboard.copy()
    board.insert(board.columns.tolist().index("n_images") + 1, "n_groups", count)
    return board


def rules_in_words(benchmark: Benchmark) -> dict[str, str]:
    """The rules behind the numbers, by name."""
    config, table = benchmark.config, benchmark.models[0].table
    rules = config.rules
    column = benchmark.data.group_column
    unit = "images" if column is None else f"groups of images ({column})"
    empty = (
        "left out for everybody" if rules.empty_reference == "drop" else "1 where the candidate is empty too, else 0"
    )
    return {
        "References": "the strict majority of an image's other raters, one for each rater, the same for all",
        "Ties": f"{rules.ties}; {table['tied'].mean():.2%} of pixels are tied in a reference",
        "Empty references": empty,
        "Threshold": _threshold_in_words(benchmark),
        "Intervals": resampling_in_words(resampling_of(config, benchmark.data), unit=unit),
        "Comparisons": "two-sided p-values that belong to the intervals, with Holm's correction within each score: "
        "against the average rater, against the naive rater, and between models",
        "Verdicts": f"one-sided at {(1 - config.statistics.level) / 2:.3g}, with Holm's correction over models; "
        f"margins: {_margins_in_words(config.statistics.margins)}",
    }


def _margins_in_words(margins: Mapping[str, float]) -> str:
    return ", ".join(f"{score} {margin:g}" for score, margin in margins.items()) or "none declared"


def _threshold_in_words(benchmark: Benchmark) -> str:
    config = benchmark.config
    if not config.predictions or config.finished.threshold is None:
        return f"probabilities above {config.rules.threshold:g} are foreground"
    if config.finished.threshold != "auto":
        return f"probabilities above {config.finished.threshold:g} are foreground"
    from irrbench.commands.loading import Scored  # noqa: PLC0415 (torch)

    chosen = {model.name: model.predictions for model in benchmark.models if isinstance(model, Scored)}
    best = ", ".join(f"{name} {'(masks)' if p.masks_alone else f'{p.threshold:g}'}" for name, p in chosen.items())
    return f"for each model the one with the best {config.scores[0]} on the validation images ({best})"


def versions() -> dict[str, str]:
    """Version by program."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def digests(benchmark: Benchmark) -> dict[str, str]:
    """What tells whether another run saw the same data, and scored them by the same rules."""
    from irrbench.training.cell import CellResult  # noqa: PLC0415

    rules = asdict(benchmark.config.rules)
    cells = [model for model in benchmark.models if isinstance(model, CellResult)]
    data = {str(cell.facts["config"]["data_digest"]) for cell in cells} or {benchmark.data.digest()}
    return {
        "data": ", ".join(sorted(data)),
        "bounds (scored images, raters and rules)": bounds_digest(benchmark.models[0].table, rules),
        **{f"model {cell.name}": str(cell.facts["digest"]) for cell in cells},
    }


def _curves(benchmark: Benchmark) -> pd.DataFrame | None:
    """Learning curves with the names of models, the seeds beside them."""
    if benchmark.curves is None:
        return None
    members = benchmark.results.members.items()
    places = {cell: (model, seed) for model, cells in members for seed, cell in enumerate(cells)}
    cells = benchmark.curves["name"]
    return benchmark.curves.assign(name=[places[cell][0] for cell in cells], seed=[places[cell][1] for cell in cells])


def _agreement(benchmark: Benchmark) -> pd.Series[float]:
    table = benchmark.models[0].table
    series: pd.Series[float] = table.set_index("image_id")["alpha"]
    return series.rename("Krippendorff's alpha of the raters")


class _Shown(NamedTuple):
    """Whose contours are drawn."""

    benchmark: Benchmark
    model: CellResult | Scored
    places: Mapping[str, int]


def make_galleries(benchmark: Benchmark) -> list[Gallery]:
    """Pictures of the best model: ranked, those on which all models fail, and those on which raters disagree."""
    from irrbench.report import Gallery  # noqa: PLC0415 (matplotlib)
    from irrbench.report.galleries import choose_images  # noqa: PLC0415

    board, score = benchmark.results.leaderboard, benchmark.config.scores[0]
    best = str(board.loc[board["role"] == "model", "name"].iloc[0])
    cells = benchmark.results.members[best]
    shown = _Shown(
        benchmark,
        next(model for model in benchmark.models if model.name == cells[0]),
        {image_id: place for place, image_id in enumerate(benchmark.data.image_ids)},
    )
    more = " Numbers are means over seeds, contours those of the first." if len(cells) > 1 else ""
    choices = choose_images(benchmark.results.per_image, _agreement(benchmark), score=score, best=best)
    return [
        Gallery(name, title, lead + more, [p for item in captions.items() for p in _picture(shown, *item)])
        for name, title, lead, captions in choices
    ]


def _picture(shown: _Shown, image_id: str, caption: str) -> list[Picture]:
    """One picture; none of images that are no pictures (more than three dimensions)."""
    from irrbench.plots import contour_panel  # noqa: PLC0415
    from irrbench.report import Picture  # noqa: PLC0415
    from irrbench.report.galleries import marks  # noqa: PLC0415

    data, place = shown.benchmark.data, shown.places[image_id]
    shape = data.shape(place)
    if len(shape) not in (2, 3):
        return []
    present = data.present(place)
    # Who was not there keeps a colour: it is a rater's own in all pictures.
    masks = data.masks(place) & present.reshape(-1, *[1] * len(shape))
    prediction = shown.model.prediction(image_id)
    margin = max(8, max(shape[-2:]) // 20)
    pixels = contour_panel(data.image(place), masks, prediction, roi=data.roi(place), margin=margin)
    nothing = marks([int(mask.sum()) for mask in masks[present]], prediction=int(prediction.sum()))
    return [Picture(f"{caption} {nothing[0].upper()}{nothing[1:]}." if nothing else caption, pixels)]


logger = logging.getLogger(__name__)

FIGURES, REPORT = "figures", "report.html"
FORMATS = (".png", ".svg")


class Benchmark(NamedTuple):
    """Everything that is to be written."""

    config: BenchmarkConfig
    data: RaterData
    models: Sequence[CellResult | Scored]
    results: Results
    curves: pd.DataFrame | None
    colours: Mapping[str, str]
    command: str


def write_outputs(benchmark: Benchmark) -> list[Path]:
    """Write ``leaderboard.csv``, ``per_image.csv``, ``comparisons.csv``, ..., ``config.yaml``, figures and report.

    Figures are in the folder ``figures``, each as PNG and as SVG, the report's images there as PNG.

    Returns:
        The files that are for MLflow: all but the single images, which are in the report.

    Raises:
        ConfigError: if the disk does not take them.
    """
    from irrbench.report import write_report  # noqa: PLC0415 (matplotlib)
    from irrbench.report.benchmark import draw_figures  # noqa: PLC0415

    output = prepare_folder(Path(benchmark.config.output))
    frames = benchmark.results.frames()
    frames["leaderboard"] = with_groups(frames["leaderboard"], benchmark)
    tables = [write_frame(output / f"{name}.csv", frame) for name, frame in frames.items()]
    config = write_yaml(output / "config.yaml", benchmark.config.as_dict())
    report = make_report(benchmark)
    drawings = draw_figures(report)
    figures = _write_figures(output / FIGURES, drawings)
    _write_images(output / FIGURES, report)
    page = write_atomically(output / REPORT, lambda path: write_report(path, report, drawings))
    return [*tables, config, *figures, page]


def _write_figures(folder: Path, drawings: Mapping[str, Drawing]) -> list[Path]:
    from irrbench.plots import save_figure  # noqa: PLC0415

    return [
        write_atomically(folder / f"{name}{ending}", partial(save_figure, drawing.figure))
        for name, drawing in drawings.items()
        for ending in FORMATS
    ]


def _write_images(folder: Path, report: Report) -> None:
    """Write the galleries' pictures, and leave none of an earlier run among them."""
    from irrbench.report.page import save_picture  # noqa: PLC0415 (matplotlib)

    for gallery in report.galleries:
        written = [
            write_atomically(folder / f"{gallery.name}-{number}.png", partial(save_picture, picture.pixels))
            for number, picture in enumerate(gallery.pictures, start=1)
        ]
        for path in set(folder.glob(f"{gallery.name}-*.png")) - set(written):
            path.unlink()


def log_artifacts(client: Any, run_ids: Mapping[str, str], files: Sequence[Path]) -> None:
    """Put the results into each model's run; a store that refuses costs a warning and nothing else."""
    for name, run_id in run_ids.items():
        error = _log_files(client, run_id, files)
        if error is not None:
            logger.warning("%s: MLflow does not take the report into run %s: %s", name, run_id, error)


def _log_files(client: Any, run_id: str, files: Sequence[Path]) -> Exception | None:
    from irrbench.tracking import RunTracker  # noqa: PLC0415

    try:
        for path in files:
            folder = f"benchmark/{FIGURES}" if path.parent.name == FIGURES else "benchmark"
            RunTracker(client, run_id).log_file(path, folder)
    except Exception as error:  # finished cells may belong to another store
        return error
    return None
