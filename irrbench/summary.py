"""From scores per image to the numbers that are shown: means, bounds beside them, normalized scores, a digest.

The per-image table is the one form in which results travel: one row an image, and for each score ``s`` the columns
``s`` (model), ``s_floor``, ``s_ceiling`` and those of the other :data:`REFERENCES`; with ``_fold0``, ``_fold1``, ...
the same on the reference without rater 0, 1, ..., and with ``_without0``, ... had that rater never been asked. Metric,
callback, benchmark and report all read it. Where one rater alone drew some image, ``s_all`` is the model's score on all
images alike: ``s`` where there are bounds, and the score on the one mask elsewhere.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from irrbench._results import Result
from irrbench.agreement import krippendorff_alpha
from irrbench.bounds import Bounds
from irrbench.evidence import REFERENCES, name_column
from irrbench.panels import scores_without
from irrbench.patterns import MIN_RATERS, VotePatterns
from irrbench.scores import DETECTION_SCORES, SCORES, CrossTable, EmptyReference, Score, gain
from irrbench.stats import clustered_mean, normalized_score

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

NO_PIXEL = "no pixel of any image lies in the ROI"


@dataclass(frozen=True)
class ScoreSummary:
    """One score over all images.

    Attributes:
        model: mean over images; NaN without a prediction.
        floor: mean of the naive rater.
        blank: mean of the mask that marks nothing.
        ceiling: mean of the average rater.
        ceiling_of_two: mean of each rater on each other rater alone.
        majority: mean of the majority of all raters.
        upper: mean of the best that any mask can score.
        normalized: ``(model - floor) / (ceiling - floor)``, a ratio of means; NaN with a reason.
        reason: why there is no normalized score, or empty.
        n_images: images on which the score is defined.
        label: mean of the model on the very labels it was trained on; NaN where none were given.
        label_gap: how much better the model is on those labels than on every rater's own mask, on the same images: the
            mean of the differences, turned so that more is better; NaN where no labels were given.
        on_all: mean of the model on all images, on the one mask where one rater alone drew; NaN where none did.
    """

    model: float
    floor: float
    blank: float
    ceiling: float
    ceiling_of_two: float
    majority: float
    upper: float
    normalized: float
    reason: str
    n_images: int
    label: float = math.nan
    label_gap: float = math.nan
    on_all: float = math.nan


class Summary(Result, dict[str, ScoreSummary]):
    """Each score over all images, by name; prints as a table."""

    heading = "Means over images"

    def to_frame(self) -> pd.DataFrame:
        """One row a score."""
        import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

        return pd.DataFrame([{"score": name, **asdict(score)} for name, score in self.items()])

    def summary_frame(self) -> pd.DataFrame:
        """Floor, ceiling, model, and where the model is between them."""
        frame = self.to_frame()
        return frame[["score", "n_images", "floor", "ceiling", "majority", "upper", "model", "normalized", "reason"]]

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Draw floor, ceiling and model, one row a score.

        Args:
            ax: where to draw; a new figure if not given.
        """
        from irrbench.plots.bands import band_axes  # noqa: PLC0415 (imports matplotlib)

        return band_axes(flatten(self), ax=ax)


def bounds_table(
    image_ids: Sequence[str],
    classes: Sequence[VotePatterns],
    bounds: Sequence[Bounds],
    *,
    label: torch.Tensor | None = None,
    unusable: torch.Tensor | None = None,
    rebuilt: bool = True,
    class_names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """One row an image: agreement, and each score of the model and of the references.

    Args:
        image_ids: ``B`` names.
        classes: vote patterns, one set a class; a single one for binary masks.
        bounds: the bounds of each set, or of all but the first: the background is then not scored.
        label: ``(B, 4)`` pixels that neither, the prediction, the label it was trained on, or both mark.
        unusable: ``(B,)`` bool, which images' predictions are no numbers: they count as :func:`count_against` says.
        rebuilt: whether to add everybody's scores without each rater, references rebuilt: what a statement about other
            raters needs.
        class_names: of the classes with bounds; their numbers if not given.

    Returns:
        Columns ``image_id``, ``n_raters``, ``roi_pixels``, ``tied`` and ``empty`` (see
        :class:`irrbench.bounds.Bounds`), ``alpha`` (Krippendorff), with a model ``marked_pixels``,
        ``equals_rater`` and
        ``equals_majority`` (whether its mask is, pixel by pixel, that of a rater, of the majority of all), then the
        scores' columns. With several classes ``s`` is the mean over the scored classes that are defined in the image,
        ``s_class1``, ... (or ``s_liver``, ...) are the classes, ``marked_pixels`` all but the background. With labels
        ``s_label`` is the model's score on the very label that it was trained on, and ``s_label_gap`` by how much that
        is better than its mean score on every rater's own mask. Where one rater alone drew an image, ``s_all`` is the
        model's score on that one mask, see :func:`fill_single`. Last the scores on each
        rater's reference, see :func:`fold_columns`, and those without each rater, see
        :func:`~irrbench.panels.scores_without`.
    """
    import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

    columns: dict[str, object] = {
        "image_id": list(image_ids),
        "n_raters": classes[0].present.sum(1).cpu().numpy(),
        "roi_pixels": classes[0].totals.sum(1).cpu().numpy(),
        "tied": torch.stack([b.tied for b in bounds]).nanmean(0).numpy(),
        "empty": torch.stack([b.empty for b in bounds]).nanmean(0).numpy(),
        "alpha": krippendorff_alpha(classes[0] if len(classes) == 1 else classes).numpy(),
    }
    if bounds[0].model:
        equal = torch.stack([patterns.equal_masks() for patterns in classes]).all(0)
        marks = 1 if len(classes) == 1 else 0  # what is not background is a mark
        columns["marked_pixels"] = classes[0].counts[:, marks].sum(1).cpu().numpy()
        columns |= {"equals_rater": equal[:, :-1].any(1).numpy(), "equals_majority": equal[:, -1].numpy()}
    first = len(classes) - len(bounds)
    if class_names is None:
        class_names = [f"class{c}" for c in range(first, len(classes))] if len(bounds) > 1 else []
    for score in bounds[0].floor:
        by_class = {name: torch.stack([v[score] for v in values]) for name, values in _candidates(bounds).items()}
        columns |= {name_column(score, c): v.nanmean(0).numpy() for c, v in by_class.items()}
        columns |= {
            name_column(f"{score}_{name}", c): v[k].numpy()
            for k, name in enumerate(class_names)
            for c, v in by_class.items()
        }
    if label is not None and label.any():
        table = CrossTable(*label[:, [3, 1, 2, 0]].double().unbind(1))
        columns |= _on_label(bounds[0], classes[0], table)
    if bounds[0].model:
        columns |= _on_single_masks(bounds, classes[first:], unusable)
    columns |= _numbered([b.folds for b in bounds], "fold")
    if rebuilt:
        rules: dict[str, Any] = {"ties": bounds[0].ties, "empty_reference": bounds[0].empty_reference}
        without = [scores_without(patterns, list(bounds[0].floor), **rules) for patterns in classes[first:]]
        columns |= _numbered(without, "without")
    frame = pd.DataFrame(columns)
    return frame if unusable is None or not unusable.any() else count_against(frame, unusable.cpu().numpy())


def _on_label(bounds: Bounds, patterns: VotePatterns, table: CrossTable) -> dict[str, object]:
    """The model's scores on the label that it was trained on, alone and against those on every rater's own mask."""
    columns: dict[str, object] = {}
    for score in (SCORES[name] for name in bounds.floor if SCORES[name].evidence == "patterns"):
        label = score(table, empty_reference=bounds.empty_reference)
        others = score_on_own_masks(patterns, score, bounds.empty_reference)
        gap = score.gain(label - others)
        columns |= {name_column(score.name, who): x.numpy() for who, x in (("label", label), ("label_gap", gap))}
    return columns


def _on_single_masks(
    bounds: Sequence[Bounds], classes: Sequence[VotePatterns], unusable: torch.Tensor | None
) -> dict[str, object]:
    """The model's scores on the one mask of images that one rater alone drew; NaN on others, none without such.

    Where there is no usable prediction, the worse of marking everything and nothing.
    """
    alone = classes[0].present.sum(1).cpu() == 1
    if not alone.any():
        return {}
    columns: dict[str, object] = {}
    for score in (SCORES[name] for name in bounds[0].model if SCORES[name].evidence == "patterns"):

        def mean_over_classes(candidates: Sequence[VotePatterns], score: Score = score) -> torch.Tensor:
            values = [score_on_own_masks(patterns, score, bounds[0].empty_reference) for patterns in candidates]
            return torch.stack(values).nanmean(0)

        values = mean_over_classes(classes)
        if unusable is not None and unusable.any():
            all_, none = (mean_over_classes([_marking(x, level) for x in classes]) for level in (1, 0))
            worse = torch.where(score.gain(all_ - none) < 0, all_, none)
            values = torch.where(unusable.cpu(), worse, values)
        columns[name_column(score.name, "all")] = values.where(alone, torch.nan).numpy()
    return columns


def _marking(patterns: VotePatterns, level: int) -> VotePatterns:
    """The same raters with a prediction that marks everything (1) or nothing (0)."""
    counts = torch.zeros_like(patterns.counts)
    counts[:, level] = patterns.totals
    return VotePatterns(counts, patterns.num_raters, patterns.present)


def score_on_own_masks(patterns: VotePatterns, score: Score, empty_reference: EmptyReference) -> torch.Tensor:
    """The model's mean score on every rater's own mask, ``(B,)``: where one alone drew, the score on that mask."""
    table = patterns.rater_tables()  # all zero, so undefined, where a rater is absent
    return score(table, empty_reference=empty_reference).nanmean(1)


def fill_single(table: pd.DataFrame) -> pd.DataFrame:
    """The table with ``s_all`` of all images, where it has that column for images that one rater alone drew."""
    several = table["n_raters"] != 1
    for score in score_names(table):
        if (column := name_column(score, "all")) in table:
            table[column] = table[column].mask(several, table[score])
    return table


def check_class_names(names: Sequence[str] | None, num_classes: int | None) -> None:
    """Refuse names that are not one for each class, or that no column can have.

    Raises:
        ValueError: saying which.
    """
    if names is None:
        return
    if isinstance(names, str) or len(names) != num_classes or len(set(names)) < len(names):
        raise ValueError(
            f"`class_names` must be one name for each of num_classes={num_classes} classes, the background first; "
            f"found {names!r}."
        )
    others = ("normalized", "n_images", "all", "label", "label_gap", "noise_fit", r"(fold|without)\d+")
    taken = "|".join([*REFERENCES, *others])
    for name in names:
        if not re.fullmatch(r"[\w .-]+", name) or re.search(rf"(^|_)({taken})$", name):
            raise ValueError(
                "`class_names` must consist of letters, digits, spaces and the signs _ . -, and not end like another "
                f"column (_floor, _ceiling, _label, ...); found {name!r}."
            )


def count_against(table: pd.DataFrame, unusable: NDArray[np.bool_]) -> pd.DataFrame:
    """The table with the worse of marking everything and nothing as the model's score where there is no prediction.

    Whatever the score, its bounds and the images behind its mean stay as they are, and an image without a usable
    prediction never helps the model.

    Args:
        table: as :func:`bounds_table` gives.
        unusable: ``(B,)``, which images' predictions are no numbers.
    """
    table = table.copy()
    table.loc[unusable, "marked_pixels"] = 0
    table.loc[unusable, ["equals_rater", "equals_majority"]] = False
    for score in score_names(table):
        floor_is_worse = gain(score, table[f"{score}_floor"] - table[f"{score}_blank"]) < 0
        folds = [
            column.removeprefix(score)
            for k in ("fold", "without")
            for column in fold_columns(table, score, "model", kind=k)
        ]
        for end in ("", *folds):
            worse = table[f"{score}_floor{end}"].where(floor_is_worse, table[f"{score}_blank{end}"])
            table[f"{score}{end}"] = table[f"{score}{end}"].mask(unusable, worse)
        label = [column for column in (f"{score}_label", f"{score}_label_gap") if column in table]
        table.loc[unusable, label] = math.nan
    return table


def show_detection(table: pd.DataFrame, asked: Sequence[str]) -> pd.DataFrame:
    """The table without the scores of detection that nobody asked for, unless a reference of some image is empty."""
    if (table["empty"] > 0).any():
        return table
    unasked = tuple(set(DETECTION_SCORES) - set(asked))
    return (
        table[[c for c in table.columns if not re.match(rf"({'|'.join(unasked)})(_|$)", str(c))]] if unasked else table
    )


def fold_columns(table: pd.DataFrame, score: str, candidate: str, *, kind: str = "fold") -> list[str]:
    """The columns of a candidate's scores on the reference without rater 0, 1, ...

    Args:
        table: as :func:`bounds_table` gives.
        score: its name.
        candidate: ``model``, or one of :data:`REFERENCES`.
        kind: ``fold``; or ``without``: means over references that are rebuilt without rater 0, 1, ...

    Returns:
        ``R`` names; none where the table is of an earlier version and lacks them.

    Example:
        >>> import pandas as pd
        >>> fold_columns(pd.DataFrame(columns=["iou", "iou_fold0", "iou_fold1", "iou_floor_fold0"]), "iou", "model")
        ['iou_fold0', 'iou_fold1']
    """
    stem = f"{name_column(score, candidate)}_{kind}"
    found = (c for c in map(str, table.columns) if c.startswith(stem) and c.removeprefix(stem).isdecimal())
    return sorted(found, key=lambda column: int(column.removeprefix(stem)))


def score_names(table: pd.DataFrame) -> list[str]:
    """The scores that a per-image table holds, in its order."""
    return [str(c).removesuffix("_floor") for c in table.columns if str(c).endswith("_floor")]


def summarize(table: pd.DataFrame, scores: Sequence[str] | None = None) -> Summary:
    """Means over images and normalized scores of a per-image table.

    Args:
        table: as :func:`bounds_table` gives.
        scores: some of its scores; all if not given.
    """
    return Summary({score: _summarize_score(table, score) for score in scores or score_names(table)})


def _summarize_score(table: pd.DataFrame, score: str) -> ScoreSummary:
    means = {c: float(table[f"{score}_{c}"].mean()) if f"{score}_{c}" in table else math.nan for c in REFERENCES}
    model = float(table[score].mean()) if score in table else math.nan
    gap = clustered_mean(gain(score, table[f"{score}_ceiling"] - table[f"{score}_floor"]))
    floor, ceiling = gain(score, means["floor"]), gain(score, means["ceiling"])
    normalized = normalized_score(gain(score, model), floor, ceiling, gap_low=gap.low)
    n_images = int(table[f"{score}_floor"].notna().sum())
    nothing = "roi_pixels" in table and not table["roi_pixels"].any()
    label, label_gap, on_all = (
        float(table[column].mean()) if (column := f"{score}_{what}") in table else math.nan
        for what in ("label", "label_gap", "all")
    )
    return ScoreSummary(
        model,
        **means,
        normalized=normalized.value,
        reason=NO_PIXEL if nothing else normalized.reason,
        n_images=n_images,
        label=label,
        label_gap=label_gap,
        on_all=on_all,
    )


def count_missing(table: pd.DataFrame) -> dict[str, int]:
    """By reason, how many images of a per-image table have no bounds whatever their masks are."""
    is_empty, few = table["roi_pixels"] == 0, table["n_raters"] < MIN_RATERS
    found = {"have no pixel in the ROI": is_empty, "have masks of fewer than two raters": few & ~is_empty}
    return {reason: int(which.sum()) for reason, which in found.items() if which.any()}


def flatten(summary: Mapping[str, ScoreSummary]) -> dict[str, float]:
    """The flat form for loggers: ``iou``, ``iou_floor``, ``iou_ceiling``, ``iou_upper``, ..., ``iou_normalized``."""
    flat: dict[str, float] = {}
    for score, s in summary.items():
        flat |= {score: s.model} | {f"{score}_{c}": getattr(s, c) for c in (*REFERENCES, "normalized", "n_images")}
    return flat


def bounds_digest(table: pd.DataFrame, rules: Mapping[str, object]) -> str:
    """What identifies the bounds: images, raters' agreement, bounds per image, rules. Not the model, not the order.

    Args:
        table: per-image table.
        rules: tie rule, empty-reference rule, ...

    Returns:
        16 hexadecimal digits.
    """
    own = {c for score in score_names(table) for c in (score, f"{score}_label", f"{score}_label_gap", f"{score}_all")}
    own |= {"marked_pixels", "equals_rater", "equals_majority", "unusable"}
    # What the folds say of the raters, the bounds say as well.
    fixed = table.drop(columns=[c for c in table.columns if c in own or re.search(r"_(fold|without)\d+$", str(c))])
    # Sums of floats may differ in the last digits between machines; nine digits do not.
    rows = sorted("|".join(_stable(v) for v in row) for row in fixed.itertuples(index=False))
    text = "\n".join([*map(str, fixed.columns), *rows, repr(sorted((k, str(v)) for k, v in rules.items()))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stable(value: object) -> str:
    return f"{value:.9f}" if isinstance(value, float) else str(value)


def _numbered(by_class: Sequence[Mapping[str, Mapping[str, torch.Tensor]]], kind: str) -> dict[str, object]:
    """Each candidate's values ``(B, R)`` as ``R`` columns, the mean over the classes that are defined there."""
    columns: dict[str, object] = {}
    for candidate, by_score in by_class[0].items():
        for score, values in by_score.items():
            several = len(by_class) > 1
            mean = torch.stack([one[candidate][score] for one in by_class]).nanmean(0) if several else values
            stem = f"{name_column(score, candidate)}_{kind}"
            columns |= {f"{stem}{r}": column for r, column in enumerate(mean.T.numpy())}
    return columns


def _candidates(bounds: Sequence[Bounds]) -> dict[str, list[dict[str, torch.Tensor]]]:
    names = ("model", *REFERENCES) if bounds[0].model else REFERENCES
    return {name: [getattr(b, name) for b in bounds] for name in names}
