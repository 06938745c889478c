"""Panels of raters: how scores change with the number of people behind the reference.

A panel is a set of ``k`` of an image's raters; its majority is the reference. The model and the raters who are not in
the panel are scored on it. All panels of all sizes follow from the vote patterns; no pixel is read again.

The rater on panels of one is the mean pairwise agreement: the ceiling of two raters. It compares between data sets with
different numbers of raters, as the ceiling itself does not. On panels of all raters but one the curve ends at the
bounds of :func:`irrbench.segmentation_bounds`. :func:`scores_without` gives these bounds with each rater left out.

Axes: ``B`` images, ``R`` raters, ``P`` panels, ``U`` vote patterns that occur.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from irrbench._results import Result, check_names, image_rows
from irrbench.bounds import fold_scores
from irrbench.folds import Reading, Ties, by_presence, make_table, mean_of_readings, pattern_bits, readings
from irrbench.patterns import MIN_RATERS, VotePatterns
from irrbench.scores import CrossTable, EmptyReference, Score, check_choice, select_scores

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_CELLS = 2**21  # of a product's operands at a time


@dataclass(frozen=True, eq=False, repr=False)
class PanelCurve(Result):
    """Scores by the number of raters in the panel; NaN where an image has no such panel or none defines the score.

    Attributes:
        score: its name.
        k: ``(R - 1,)`` int64 sizes of the panels, 1 to ``R - 1``.
        model: ``(B, R - 1)`` float64: the prediction on each panel's majority, averaged over panels; NaN without one.
        rater: the raters who are not in the panel, averaged over them and over panels.
        floor: the naive rater, who marks the whole region of interest.
    """

    score: str
    k: Tensor
    model: Tensor
    rater: Tensor
    floor: Tensor

    @property
    def heading(self) -> str:
        """What the score is on."""
        return f"{self.score} on the majority of k raters, means over images"

    def to_frame(self, image_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """One row an image and size of the panel; images are numbers from 0 on if they have no names.

        Raises:
            ValueError: if the names are not one for each image.
        """
        num_images = len(self.rater)
        columns = {name: getattr(self, name).flatten() for name in ("floor", "rater", "model")}
        names: list[object] = list(range(num_images) if image_ids is None else image_ids)
        check_names(names, num_images)
        repeated = [name for name in names for _ in self.k]
        return image_rows({"k": self.k.repeat(num_images), **columns}, repeated)

    def summary_frame(self) -> pd.DataFrame:
        """Means over images, one row a size."""
        import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

        means = {name: getattr(self, name).nanmean(0).numpy() for name in ("floor", "rater", "model")}
        return pd.DataFrame({"k": self.k.numpy(), "images": self.rater.isfinite().sum(0).numpy(), **means})

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Draw the means over images of floor, rater and model over the size of the panel.

        Args:
            ax: where to draw; a new figure if not given.
        """
        from irrbench.plots.results import draw_panels  # noqa: PLC0415 (imports matplotlib)

        return draw_panels(self.summary_frame(), self.score, ax=ax)


def panel_curve(
    patterns: VotePatterns,
    score: str,
    *,
    ties: Ties = "average",
    empty_reference: EmptyReference = "drop",
) -> PanelCurve:
    """Score the prediction and the other raters on the majority of every panel of 1 to ``R - 1`` raters.

    Args:
        patterns: vote patterns of ``B`` images. An image with ``n`` raters present has panels of 1 to ``n - 1``.
        score: name among those of :data:`irrbench.SCORES` that are scores of vote patterns.
        ties: what a pixel is on which a panel is evenly split, as in :func:`irrbench.segmentation_bounds`.
        empty_reference: as in :func:`irrbench.segmentation_bounds`.

    Returns:
        Means over panels, exact. Panels whose majority leaves the score undefined are left out, for everybody alike.

    Raises:
        TypeError: if masks come in the place of patterns.
        ValueError: if the score or a rule is unknown, the score is no function of vote patterns, or the prediction has
            more than two levels.

    Example:
        >>> masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]])  # three raters, four pixels
        >>> panel_curve(VotePatterns.from_masks(masks, preds=masks[:, 1]), "iou")
        iou on the majority of k raters, means over images
        k images floor rater model
        1      1 0.500 0.500 0.722
        2      1 0.500 0.500 0.722

    Source: Nili et al. 2014, doi 10.1371/journal.pcbi.1003553 (why the score on a few people's mean is a lower bound).
    """
    chosen = select_scores([score])[0]
    check_choice("ties", ties, Ties)
    check_choice("empty_reference", empty_reference, EmptyReference)
    if not isinstance(patterns, VotePatterns):
        raise TypeError(
            f"`patterns` must be VotePatterns, found {type(patterns).__name__}. Masks (B, R, *S) become patterns by "
            "`VotePatterns.from_masks(masks)`."
        )
    if chosen.evidence != "patterns":
        raise ValueError(f"panels are made of vote patterns, and {score!r} needs the evidence {chosen.evidence!r}.")
    if patterns.num_levels > 2:
        raise ValueError(f"a prediction of {patterns.num_levels} levels is no mask: score `patterns.cuts()`.")
    num_sizes = patterns.num_raters - 1
    values = torch.full((3, len(patterns), num_sizes), torch.nan, dtype=torch.float64)
    for rows, there in by_presence(patterns.present):
        raters = torch.tensor(there).nonzero().flatten()
        # So many images at a time that their patterns by candidates fit.
        for part in rows.split(max(1, _MOST_CELLS // (patterns.counts.shape[-1] * (len(raters) + 2)))):
            marks, bits = _marks(patterns, part, raters)
            for k in range(1, len(raters)):
                values[:, part, k - 1] = _mean_over_panels(marks, bits, k, chosen, ties, empty_reference)
    model, rater, floor = values
    if not patterns.has_preds:
        model = torch.full_like(model, torch.nan)
    return PanelCurve(score, torch.arange(1, num_sizes + 1), model, rater, floor)


def _marks(patterns: VotePatterns, rows: Tensor, raters: Tensor) -> tuple[Tensor, Tensor]:
    """The patterns that occur in some images, and what each candidate marks of them.

    Returns:
        ``(U, b, n + 2)`` pixels of each pattern that the prediction, each rater, and the naive rater mark; and
        ``(U, n)`` who marks the pattern, both float64.
    """
    counts = patterns.counts[rows].cpu()
    totals = counts.sum(1) if patterns.has_preds else counts
    codes = totals.any(0).nonzero().flatten()
    bits = (codes[:, None] >> raters).bitwise_and(1).double()
    of_all = totals[:, codes].T.double()
    of_model = counts[:, 1, codes].T.double() if patterns.has_preds else torch.zeros_like(of_all)
    by_rater = of_all[:, :, None] * bits[:, None]
    return torch.cat([of_model[:, :, None], by_rater, of_all[:, :, None]], 2), bits


def _mean_over_panels(
    marks: Tensor, bits: Tensor, k: int, score: Score, ties: Ties, empty_reference: EmptyReference
) -> Tensor:
    """Model, other raters and floor on the majorities of all panels of `k`, ``(3, b)``."""
    num_raters = bits.shape[1]
    sums = torch.zeros(4, marks.shape[1], dtype=torch.float64)
    panels = pattern_bits(num_raters)
    panels = panels[panels.sum(1) == k].double()
    for inside in panels.split(max(1, _MOST_CELLS // max(marks[0].numel(), len(bits)))):
        votes = inside @ bits.T
        tables = [_table(marks, votes, k, reading) for reading in readings(ties)[: 1 if k % 2 else None]]
        by_panel = mean_of_readings([score(table, empty_reference=empty_reference) for table in tables])
        outside = (1 - inside)[:, None] / (num_raters - k)
        others = (by_panel[:, :, 1:-1].nan_to_num() * outside).sum(2)
        defined = by_panel[:, :, -1].isfinite()  # which depends on the reference alone
        parts = (by_panel[:, :, 0].nan_to_num(), others, by_panel[:, :, -1].nan_to_num(), defined.double())
        sums += torch.stack([part.sum(0) for part in parts])
    return sums[:3] / sums[3].masked_fill(sums[3] == 0, torch.nan)


def _table(marks: Tensor, votes: Tensor, k: int, ties: Reading) -> CrossTable:
    """Each candidate against the majority of each panel, ``(p, b, n + 2)``."""
    majority = 2 * votes >= k if ties == "positive" else 2 * votes > k
    tp, marked = torch.tensordot(majority.double(), marks, 1), marks.sum(0)[None]
    if ties == "exclude":
        marked = torch.tensordot((2 * votes != k).double(), marks, 1)
    # The naive rater's marks are all that the reference marks, and all pixels.
    return CrossTable(*torch.broadcast_tensors(*make_table(tp, marked, tp[:, :, -1:], marked[:, :, -1:])))


def scores_without(
    patterns: VotePatterns,
    scores: Iterable[str],
    *,
    ties: Ties = "average",
    empty_reference: EmptyReference = "drop",
) -> dict[str, dict[str, Tensor]]:
    """What everybody would score had one of the raters never been asked: references are rebuilt without that rater.

    From these values comes the jackknife over raters, see :func:`irrbench.stats.resampling.rater_part`.

    Args:
        patterns: vote patterns of ``B`` images.
        scores: names; those that are no scores of vote patterns are left out.
        ties: as in :func:`irrbench.segmentation_bounds`.
        empty_reference: as in :func:`irrbench.segmentation_bounds`.

    Returns:
        ``floor``, ``blank``, ``ceiling``, ``majority`` and, with a prediction, ``model`` -> score name -> ``(B, R)``
        float64: column ``r`` is without rater ``r``; where that rater is absent, as it is with all. NaN where fewer
        than two raters remain. Empty for two raters.

    Example:
        >>> masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]])
        >>> scores_without(VotePatterns.from_masks(masks), ["iou"])["ceiling"]["iou"].round(decimals=3)
        tensor([[0.5000, 0.3330, 0.6670]], dtype=torch.float64)
    """
    chosen = [score for score in select_scores(scores) if score.evidence == "patterns"]
    found: dict[str, dict[str, list[Tensor]]] = {}
    for rater in range(patterns.num_raters if patterns.num_raters > MIN_RATERS else 0):
        dropped = patterns.drop_rater(rater)
        tables = [dropped.tables(reading) for reading in readings(ties)]
        for candidate in tables[0]:
            for score in chosen:
                mean = fold_scores(tables, candidate, score, empty_reference).nanmean(1)
                found.setdefault(candidate, {}).setdefault(score.name, []).append(mean)
    return {
        candidate: {score: torch.stack(columns, 1) for score, columns in by_score.items()}
        for candidate, by_score in found.items()
    }
