"""Floor, ceiling and model: everybody on the same leave-one-out references.

Reference ``ref(i, r)`` is the strict majority of the raters of image ``i`` other than ``r``, inside the region of
interest (ROI). On it are scored, by one function: the *naive rater*, who marks the whole ROI (floor); the blank mask;
rater ``r`` (averaged over ``r``: ceiling); the majority of all raters; the best mask that there is (upper); and the
model. Beside them stands the ceiling of two: rater ``r`` on each other rater alone, whatever the number of raters.

The ceiling is what the noise-ceiling literature calls the lower noise ceiling: a good model may honestly pass it.

Source: Hurault et al. 2022, doi 10.1016/j.xjidi.2022.100133 (average and naive rater); Nili et al. 2014,
doi 10.1371/journal.pcbi.1003553 (lower and upper noise ceiling).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from irrbench._results import Result, image_rows, images_text
from irrbench.evidence import EVIDENCE, REFERENCES, Evidence, name_column
from irrbench.folds import Ties, mean_of_readings, readings
from irrbench.geometry import LESION_IOU, TOLERANCE, check_share
from irrbench.patterns import VotePatterns, require_tensors
from irrbench.scores import (
    DEFAULT_SCORES,
    SCORES,
    EmptyReference,
    Score,
    ScoreTable,
    check_choice,
    option_text,
    select_scores,
)
from irrbench.upper import best_folds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = dict[str, Tensor]


@dataclass(frozen=True, repr=False)
class Bounds(Result):
    """Scores per image on the leave-one-out references; NaN where undefined.

    Attributes:
        floor: score name -> ``(B,)`` float64: the naive rater, who marks the whole ROI.
        blank: the mask that marks nothing.
        ceiling: the average rater, judged by their peers.
        ceiling_of_two: each rater on each other rater's mask alone, which does not depend on the number of raters; NaN
            for evidence other than vote patterns.
        majority: the majority of all raters. It holds the vote that the reference leaves out, and is no limit.
        upper: the best that any mask can score, see :mod:`irrbench.upper`; NaN for evidence other than vote patterns,
            as the search needs a score that is a function of votes.
        model: the prediction; empty where the patterns came without one.
        raters: score name -> ``(B, R)``: each rater on the others' majority; NaN where absent.
        tied: ``(B,)`` pixels on which the peers are evenly split, as a share of those that at least half of them mark,
            over all references; NaN where there are none.
        empty: ``(B,)`` share of the references that mark nothing; NaN where there is no reference.
        ties: the rule for tied pixels.
        empty_reference: the rule for references without marks.
        folds: the candidates' names -> score name -> ``(B, R)``: everybody on each reference before the mean over them;
            column ``r`` is the reference without rater ``r``, for the ceiling of two the others on rater ``r`` alone.
    """

    floor: Values
    blank: Values
    ceiling: Values
    ceiling_of_two: Values
    majority: Values
    upper: Values
    model: Values
    raters: Values
    tied: Tensor
    empty: Tensor
    ties: Ties
    empty_reference: EmptyReference
    folds: dict[str, Values] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """How many images, and by what rules."""
        rules = f"ties: {self.ties}; references without marks: {self.empty_reference}"
        return f"Bounds of {images_text(len(self.tied))}, means over images ({rules})"

    def to_frame(
        self, image_ids: Sequence[str] | None = None, *, form: Literal["wide", "long"] = "wide"
    ) -> pd.DataFrame:
        """The scores per image, named as in the metric's table.

        Args:
            image_ids: ``B`` names; numbers from 0 on if not given.
            form: ``"wide"``: one row an image, with the columns ``iou`` (the model), ``iou_floor``, ``iou_ceiling``,
                ...; ``"long"``: one row an image, score and candidate, with the columns ``score``, ``candidate`` and
                ``value``.

        Raises:
            ValueError: if there is another number of names, or ``form`` has no such value.
        """
        check_choice("form", form, Literal["wide", "long"])
        values = {(score, c): x for score in self.floor for c, x in self._candidates().items()}
        wide = image_rows({name_column(s, c): x[s] for (s, c), x in values.items()}, image_ids)
        if form == "wide":
            return wide
        long = wide.melt("image_id", var_name="column", ignore_index=True)
        parts = {name_column(*key): key for key in values}
        for place, name in enumerate(("score", "candidate")):
            long.insert(1 + place, name, [parts[column][place] for column in long["column"]])
        return long.drop(columns="column")

    def summary_frame(self) -> pd.DataFrame:
        """Means over images, one row a score."""
        import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

        shown = [c for c in ("floor", "ceiling", "majority", "upper", "model") if c in self._candidates()]
        rows = [{c: getattr(self, c)[score].nanmean().item() for c in shown} for score in self.floor]
        images = [self.floor[score].isfinite().sum().item() for score in self.floor]
        names = [f"{score}{'' if SCORES[score].higher_is_better else ' (lower is better)'}" for score in self.floor]
        return pd.DataFrame({"score": names, "images": images}).join(pd.DataFrame(rows))

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Draw the means over images of floor, ceiling and model, one row a score.

        Args:
            ax: where to draw; a new figure if not given.

        Raises:
            ValueError: if there is no image.
        """
        from irrbench.plots.bands import band_axes  # noqa: PLC0415 (imports matplotlib)

        candidates = self._candidates().items()
        return band_axes({name_column(s, c): x[s].nanmean() for s in self.floor for c, x in candidates}, ax=ax)

    def _candidates(self) -> dict[str, Values]:
        names = ("model", *REFERENCES) if self.model else REFERENCES
        return {name: getattr(self, name) for name in names}


def segmentation_bounds(
    patterns: VotePatterns | Evidence | Mapping[str, Evidence],
    scores: Iterable[str] = DEFAULT_SCORES,
    *,
    ties: Ties = "average",
    empty_reference: EmptyReference = "drop",
) -> Bounds:
    """Score naive rater, average rater, majority, best mask and prediction on the same leave-one-out references.

    Args:
        patterns: vote patterns of ``B`` images; or other evidence that the scores need; or several by name, a key of
            :data:`irrbench.evidence.EVIDENCE` each.
        scores: names among :data:`irrbench.SCORES`.
        ties: what a pixel is on which the peers are evenly split: ``"average"``: the reference is read twice, with ties
            as background and as foreground, and a score is the mean of both (of the defined one where one is empty);
            ``"negative"`` background; ``"positive"`` foreground; ``"exclude"`` left out of that reference. The majority
            of all raters is read the same way (``"exclude"``: background). With ties as background timid masks score
            higher than they should, with foreground bold ones.
        empty_reference: ``"drop"``: a reference without marks defines no IoU, F1, TPR and PPV; ``"score"``: they are 1
            for an empty candidate, else 0.

    Returns:
        Scores per image. An image is NaN where no fold defines the score, and where fewer than two raters are present.

    Raises:
        TypeError: if masks come in the place of patterns.
        ValueError: if a score or a rule is unknown, a score needs evidence that is not given, or the prediction has
            more than two levels.

    Example:
        >>> masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]])  # three raters, four pixels
        >>> bounds = segmentation_bounds(VotePatterns.from_masks(masks), ["iou"])
        >>> bounds.raters["iou"].round(decimals=3)
        tensor([[0.5000, 0.5830, 0.4170]], dtype=torch.float64)
        >>> bounds.floor["iou"].round(decimals=3), bounds.ceiling["iou"].round(decimals=3)
        (tensor([0.5000], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """
    chosen = select_scores(scores)
    check_rules(chosen, ties=ties, empty_reference=empty_reference)
    evidence = _by_kind(patterns, chosen)
    kinds = dict.fromkeys(score.evidence for score in chosen)
    tables = {kind: [evidence[kind].tables(reading) for reading in readings(ties)] for kind in kinds}
    rule = {"empty_reference": empty_reference}
    folds: dict[str, Values] = {
        candidate: {s.name: fold_scores(tables[s.evidence], candidate, s, empty_reference) for s in chosen}
        for candidate in next(iter(tables.values()))[0]
    }
    votes = evidence.get("patterns")
    unknown = torch.full_like(folds["floor"][chosen[0].name], torch.nan)
    folds |= {candidate: {s.name: unknown for s in chosen} for candidate in ("ceiling_of_two", "upper")}
    if isinstance(votes, VotePatterns):
        of_votes, pairs = [s for s in chosen if s.evidence == "patterns"], votes.pair_tables()
        folds["ceiling_of_two"] |= {s.name: s(pairs, **rule).nanmean(1) for s in of_votes}
        totals, present = votes.totals, votes.present
        folds["upper"] |= {s.name: best_folds(totals, present, s, ties=ties, **rule) for s in of_votes}
    means = {candidate: {s: v.nanmean(1) for s, v in values.items()} for candidate, values in folds.items()}
    return Bounds(
        **{"model": {}, **means},
        raters=folds["ceiling"],
        tied=votes.tied_share() if isinstance(votes, VotePatterns) else unknown[:, 0],
        empty=mean_of_readings(
            [_is_empty(by_candidate["floor"]) for by_candidate in tables.get("patterns") or next(iter(tables.values()))]
        ).nanmean(1),
        ties=ties,
        empty_reference=empty_reference,
        folds=folds,
    )


def mask_bounds(
    masks: Tensor,
    preds: Tensor | None = None,
    scores: Iterable[str] = ("nsd",),
    *,
    roi: Tensor | None = None,
    present: Tensor | None = None,
    spacing: Tensor | Sequence[float] | None = None,
    tolerance: float = TOLERANCE,
    lesion_iou: float = LESION_IOU,
    ties: Ties = "average",
    empty_reference: EmptyReference = "drop",
) -> Bounds:
    """:func:`segmentation_bounds` of masks: for scores of borders, lesions and centrelines, and all others of masks.

    Args:
        masks: ``(B, R, *S)``, 0/1 or bool.
        preds: ``(B, *S)``, the model's masks.
        scores: names among :data:`irrbench.SCORES` that score masks.
        roi: ``(B, *S)``, the pixels that count; all of them if not given. Masks are cut to it first.
        present: ``(B, R)``, which raters rated which image; all of them if not given.
        spacing: ``(D,)``, or by image ``(B, D)``, the length of a pixel along each spatial axis; 1 if not given.
        tolerance: of ``nsd``: how far apart borders may lie and agree, in the unit of ``spacing``.
        lesion_iou: of scores of lesions: from which IoU on a lesion matches another.
        ties: see :func:`segmentation_bounds`; ``"exclude"`` is for scores of vote patterns.
        empty_reference: see :func:`segmentation_bounds`; distances stay undefined.

    Raises:
        ValueError: if shapes do not belong together, a length is not greater than 0, or a score is of no masks.

    Example:
        >>> masks = torch.zeros(1, 3, 8, 8, dtype=torch.bool)
        >>> for r, size in enumerate((4, 5, 6)):
        ...     masks[0, r, 1:size, 1:size] = True
        >>> bounds = mask_bounds(masks, masks[:, 1], ["nsd", "hd95"], tolerance=1.0)
        >>> bounds.ceiling["nsd"].round(decimals=3), bounds.model["hd95"]
        (tensor([0.8330], dtype=torch.float64), tensor([0.7633], dtype=torch.float64))
    """
    second: object = preds
    if isinstance(second, str | list | tuple) and all(isinstance(name, str) for name in second):
        raise TypeError(f"the second argument is `preds`; found {second!r}: pass `scores={second!r}` by its name.")
    require_tensors(masks=masks, preds=preds, roi=roi, present=present)
    chosen = select_scores(scores)
    check_share("lesion_iou", lesion_iou)
    given: dict[str, Any] = {"roi": roi, "present": present}
    given |= {"spacing": spacing, "tolerance": tolerance, "lesion_iou": lesion_iou}
    evidence = _evidence_of("mask", chosen, masks, preds, **given)
    return segmentation_bounds(evidence, [s.name for s in chosen], ties=ties, empty_reference=empty_reference)


def sample_bounds(
    masks: Tensor,
    samples: Tensor | None = None,
    scores: Iterable[str] = ("ged", "energy_score"),
    *,
    roi: Tensor | None = None,
    present: Tensor | None = None,
    ties: Ties = "average",
) -> Bounds:
    """:func:`segmentation_bounds` of several masks an image, for scores of a probabilistic model's samples.

    Floor, blank mask and majority are models of one sample. Of ``ged`` the reference is the distribution of the peers'
    masks, and the ceiling the held-out rater as a model of one sample; of ``energy_score`` the reference is the
    held-out rater alone, and the ceiling the peers as a model of ``R - 1`` samples.

    Args:
        masks: ``(B, R, *S)``, bool, 0/1 or 0/255.
        samples: ``(B, M, *S)``, the model's samples, likewise.
        scores: names among :data:`irrbench.SCORES` that score samples.
        roi: ``(B, *S)``, the pixels that count; all of them if not given.
        present: ``(B, R)``, which raters rated which image; all of them if not given.
        ties: how the majority of all raters is read, see :func:`segmentation_bounds`; all else has no ties.

    Returns:
        Scores per image, defined also where masks are empty; NaN where fewer than two raters are present, and where the
        ROI is empty.

    Raises:
        ValueError: if shapes do not belong together, values are those of no mask, or a score is of no samples.

    Example:
        >>> masks = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]])  # two raters, IoU 1/2
        >>> bounds = sample_bounds(masks, masks)
        >>> bounds.ceiling["ged"].item(), bounds.model["ged"].item(), bounds.ceiling["energy_score"].item()
        (1.0, 0.25, 0.5)
    """
    chosen = select_scores(scores)
    evidence = _evidence_of("samples", chosen, masks, samples, roi=roi, present=present)
    return segmentation_bounds(evidence, [s.name for s in chosen], ties=ties)


def _evidence_of(
    takes: str, scores: Iterable[Score], masks: Tensor, preds: Tensor | None, **given: Any
) -> dict[str, Evidence]:
    """The evidence that scores need, all of one sort of predictions."""
    kinds = {score.evidence: EVIDENCE[score.evidence] for score in scores}
    unfit = [score.name for score in scores if kinds[score.evidence].takes != takes]
    if unfit:
        name, of = {"mask": ("mask_bounds", "masks"), "samples": ("sample_bounds", "samples")}[takes]
        raise ValueError(f"`{name}` is for scores of {of}, found {', '.join(unfit)}.")
    return {name: kind.make(masks, preds, **given) for name, kind in kinds.items()}


def check_rules(scores: Iterable[Score], *, ties: str, empty_reference: str) -> None:
    """Refuse rules that are unknown, or that a score cannot follow, and scores whose library is not installed.

    Raises:
        ValueError: saying which.
        ModuleNotFoundError: saying what to install.
    """
    scores = tuple(scores)
    check_choice("ties", ties, Ties)
    check_choice("empty_reference", empty_reference, EmptyReference)
    unfit = [score.name for score in scores if ties == "exclude" and not EVIDENCE[score.evidence].excludes_ties]
    if unfit:
        raise ValueError(
            f"`ties='exclude'` leaves single pixels out of a reference, which {', '.join(unfit)} cannot. Take "
            "'average', or leave out such scores."
        )
    for score in scores:
        library = EVIDENCE[score.evidence].library
        if library and find_spec(library[0]) is None:
            raise ModuleNotFoundError(f"{score.name} needs {library[1]}: pip install 'irrbench[{library[2]}]'.")


def option_rules(scores: Iterable[Score], options: Mapping[str, Any], *, unit: str, spacing: str) -> dict[str, str]:
    """The options behind scores in words, to be shown beside them; none where no score depends on any.

    Args:
        scores: records.
        options: by name, such as ``tolerance``.
        unit: of distances.
        spacing: of the images, in words.

    Example:
        >>> option_rules(select_scores(["iou", "nsd"]), {"tolerance": 2.0}, unit="px", spacing="1 px")
        {'spacing': '1 px', 'tolerance': '2 px'}
    """
    scores = tuple(scores)
    has_spacing = any("spacing" in EVIDENCE[score.evidence].options for score in scores)
    named = {score.at: option_text(score.at, options[score.at], unit) for score in scores if score.at}
    return {"spacing": spacing, **named} if has_spacing else named


def fold_scores(
    of_readings: Sequence[Mapping[str, ScoreTable]], candidate: str, score: Score, empty_reference: EmptyReference
) -> Tensor:
    """A candidate's score on each held-out reference, ``(B, R)``.

    Args:
        of_readings: the tables of the score's evidence, for each reading of tied pixels.
        candidate: one of :data:`irrbench.evidence.CANDIDATES`.
        score: its record.
        empty_reference: see :func:`segmentation_bounds`.
    """
    by_reading = [score(tables[candidate], empty_reference=empty_reference) for tables in of_readings]
    return mean_of_readings(by_reading).cpu()


def _is_empty(table: ScoreTable) -> Tensor:
    """Whether a reference marks nothing, NaN where there is none."""
    return (table.positives == 0).double().masked_fill(table.total == 0, torch.nan).cpu()


def _by_kind(given: object, scores: tuple[Score, ...]) -> Mapping[str, Evidence]:
    """The evidence by its name, complete for the scores."""
    kinds = {score.evidence: score.name for score in scores}
    if isinstance(given, Mapping):
        evidence: Mapping[str, Evidence] = given
    elif hasattr(given, "tables"):
        evidence = {"patterns" if isinstance(given, VotePatterns) else next(iter(kinds)): cast("Evidence", given)}
    else:
        raise TypeError(
            f"`patterns` must be VotePatterns, found {type(given).__name__}. Masks (B, R, *S) "
            "become patterns by `VotePatterns.from_masks(masks)`."
        )
    for kind, name in kinds.items():
        if kind not in evidence:
            how = {"mask": "mask_bounds(masks, preds, [...])", "samples": "sample_bounds(masks, samples)"}
            advice = f" `{how[takes]}` makes it." if (takes := EVIDENCE[kind].takes) in how else ""
            raise ValueError(f"the score {name!r} needs the evidence {kind!r}; given: {', '.join(evidence)}.{advice}")
    return evidence
