"""A model's probabilities by level: its scores at every threshold, and how far they are right, from one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from irrbench._counting.levels import count_and_sum_levels
from irrbench._counting.masks import as_foreground
from irrbench.bounds import check_rules, segmentation_bounds
from irrbench.cuts import find_best, scores_of_cuts
from irrbench.folds import Ties, pattern_bits
from irrbench.metrics.base import PatternsMetric, image_frame, no_values
from irrbench.metrics.inputs import drop_channel, extremes, to_probabilities
from irrbench.metrics.state import ImageIds, encode
from irrbench.patterns import VotePatterns, check_probabilities, check_shapes, require_tensors
from irrbench.probabilities import pixels_by_votes
from irrbench.scores import EmptyReference, gain, select_scores

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_MOST_BINS = 20  # with more, a diagram is noise


class BestThreshold(NamedTuple):
    """The threshold with the best mean score; of equals the one nearest to .5.

    Attributes:
        threshold: what lies above it is foreground.
        value: the mean score there.
        score: whose it is.
    """

    threshold: float
    value: float
    score: str


def best_of(curve: pd.DataFrame, score: str) -> BestThreshold:
    """The best threshold of a curve, see :meth:`ProbabilityLevels.curve`; NaN where no image defines the score."""
    thresholds, means = curve["threshold"].tolist(), curve[score].tolist()
    place = find_best(score, thresholds, means)
    found = (math.nan, math.nan) if place is None else (thresholds[place], means[place])
    return BestThreshold(found[0], found[1], score)


class ProbabilityLevels(PatternsMetric):
    """Scores of a model of binary masks at every threshold, and the reliability of its probabilities.

    From one pass over the pixels: counts of vote patterns by level of the probability, a few kilobytes an image, exact
    under merging and across processes, independent of the batches' order.

    Args:
        scores: names among :data:`irrbench.SCORES` that are functions of votes; the first one chooses the threshold.
        levels: ``L`` levels of equal width, between which lie the ``L - 1`` thresholds ``1 / L``, ``2 / L``, ...; a
            probability that equals a threshold lies below it.
        from_logits: predictions are logits (else probabilities).
        ties: see :func:`~irrbench.bounds.segmentation_bounds`.
        empty_reference: see :func:`~irrbench.bounds.segmentation_bounds`.
        kwargs: of :class:`~irrbench.metrics.base.PatternsMetric`: ``aggregate``, ``ignore_index``, ``validate_args``.

    Computes a dict of float64 scalars of the first score ``s``: ``s_best_threshold`` and the mean there,
    ``s_at_best_threshold``, beside ``s_floor`` and ``s_ceiling``, and ``n_images``. An image whose predictions are NaN
    or infinite counts at every threshold as the worse of marking everything and marking nothing, and is left out of
    :meth:`reliability`.

    Raises:
        ValueError: for scores that are no functions of votes, masks as predictions, numbers that are no probabilities,
            and for what :class:`~irrbench.metrics.base.ImagesMetric` refuses.

    Example:
        >>> masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]])  # (B, R, *S)
        >>> metric = ProbabilityLevels(["iou"], levels=10, from_logits=False)
        >>> metric.update(torch.tensor([[0.9, 0.6, 0.35, 0.2]]), masks)
        >>> metric.best()
        BestThreshold(threshold=0.5, value=0.7222222222222222, score='iou')
    """

    takes_classes = False

    def __init__(
        self,
        scores: Iterable[str] = ("iou",),
        *,
        levels: int = 100,
        from_logits: bool = True,
        ties: Ties = "average",
        empty_reference: EmptyReference = "drop",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        chosen = select_scores(scores)
        check_rules(chosen, ties=ties, empty_reference=empty_reference)
        if others := [score.name for score in chosen if score.evidence != "patterns"]:
            raise ValueError(
                f"`scores` over thresholds must be functions of votes, such as iou; found {', '.join(others)}. Leave "
                "them out."
            )
        if levels < 2:
            raise ValueError(f"`levels` must be 2 or more, found {levels}.")
        self.scores, self.levels, self.from_logits = tuple(score.name for score in chosen), levels, from_logits
        self.ties, self.empty_reference = ties, empty_reference
        self.thresholds = tuple(level / levels for level in range(1, levels))
        self.add_state("cut", default=torch.tensor(float(from_logits + 2 * levels)), dist_reduce_fx="max")  # see "void"

    def update(
        self,
        preds: Tensor,
        masks: Tensor,
        roi: Tensor | None = None,
        image_id: ImageIds | None = None,
        present: Tensor | None = None,
    ) -> None:
        """Take in a batch.

        Args:
            preds: ``(B, *S)`` or ``(B, 1, *S)``, floating-point logits or probabilities.
            masks: ``(B, R, *S)``, 0/1 or bool.
            roi: ``(B, *S)``, pixels that count; all if not given.
            image_id: ``B`` strings or integers.
            present: ``(B, R)`` bool, which raters rated which image; all if not given.
        """
        require_tensors(preds=preds, masks=masks)
        masks, roi, present, _ = self._take_out_void(masks, roi, present)
        preds = drop_channel(preds, masks.ndim - 2)
        check_shapes(masks, roi, preds, present)
        p = to_probabilities(preds, from_logits=self.from_logits, is_binary=True)
        if not self.from_logits and self._validates(preds):
            check_probabilities(preds.where(preds.isfinite(), 0.0), "preds")
        validate = self._validates(masks)
        # Counted once more for the digest, which tells images of one id apart.
        told = VotePatterns.from_masks(masks, roi=roi, present=present, validate=validate, digest=True)
        marks = as_foreground(masks, "masks", validate=False).flatten(2)
        inside = None if roi is None else (roi != 0).flatten(1)
        parts = marks, self._level_of(preds).flatten(1), p.flatten(1), told.present, inside
        counts, sums = count_and_sum_levels(*parts, num_levels=self.levels)
        patterns = VotePatterns(counts, told.num_raters, told.present, told.digest)
        ends = extremes(preds)
        rows = encode(
            [patterns], unusable=None if ends is None else ~ends.are_finite, image_id=image_id, fields=sums.sum(2)
        )
        self._keep(rows, masks, image_id)

    def _level_of(self, preds: Tensor) -> Tensor:
        """How many thresholds each prediction exceeds, compared as :func:`~irrbench.metrics.inputs.to_mask` does."""
        cuts = torch.tensor(self.thresholds, dtype=torch.float64)
        preds = preds.float() if preds.element_size() < 4 else preds
        cuts = (cuts.logit() if self.from_logits else cuts).to(preds.device, preds.dtype, non_blocking=True)
        return torch.bucketize(preds.masked_fill(preds.isnan(), -torch.inf), cuts, out_int32=True)

    def compute(self) -> dict[str, Tensor]:
        """The best threshold of all images of all processes, and the scores there."""
        table, score = self._table_if_any(), self.scores[0]
        if table is None:
            keys = ("best_threshold", "at_best_threshold", "floor", "ceiling")
            return no_values([f"{score}_{key}" for key in keys])
        curve = self._curve(table)
        best = best_of(curve, score)
        flat = {f"{score}_best_threshold": best.threshold, f"{score}_at_best_threshold": best.value}
        flat |= {f"{score}_{who}": curve[f"{score}_{who}"].iloc[0] for who in ("floor", "ceiling")}
        return {k: torch.tensor(x, dtype=torch.float64) for k, x in {**flat, "n_images": len(table)}.items()}

    def best(self) -> BestThreshold:
        """The threshold with the best mean of the first score; in several processes as :meth:`per_image`."""
        return best_of(self.curve(), self.scores[0])

    def curve(self) -> pd.DataFrame:
        """Means over images at each threshold; in several processes as :meth:`per_image`.

        Returns:
            ``threshold``, and of each score ``s`` the columns ``s``, ``s_floor`` and ``s_ceiling`` (the same in all
            rows); NaN where no image defines it.
        """
        return self._curve(self.per_image())

    def _curve(self, table: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

        columns: dict[str, Any] = {"threshold": self.thresholds}
        for score in self.scores:
            columns[score] = table[[f"{score}@{x:g}" for x in self.thresholds]].mean().to_numpy()
            columns |= {f"{score}_{who}": table[f"{score}_{who}"].mean() for who in ("floor", "ceiling")}
        return pd.DataFrame(columns)

    def _tables(self) -> Iterator[pd.DataFrame]:
        """Bounds, and each score at each threshold: ``iou@0.5``."""
        rules: dict[str, Any] = {"ties": self.ties, "empty_reference": self.empty_reference}
        for images in self._images():
            patterns = images.classes[0]
            votes = VotePatterns(patterns.totals, patterns.num_raters, patterns.present)
            bounds, cuts = (
                segmentation_bounds(votes, self.scores, **rules),
                scores_of_cuts(patterns, self.scores, **rules),
            )
            columns: dict[str, Any] = {}
            for score, values in cuts.items():
                floor, blank = bounds.floor[score], bounds.blank[score]
                worse = torch.where(gain(score, floor - blank) < 0, floor, blank)
                at = torch.where(images.unusable[:, None], worse[:, None], values).unbind(1)
                columns |= {f"{score}_floor": floor.numpy(), f"{score}_ceiling": bounds.ceiling[score].numpy()}
                columns |= {f"{score}@{x:g}": v.numpy() for x, v in zip(self.thresholds, at, strict=True)}
            yield image_frame(images.image_ids, patterns.present, votes.counts.sum(1), columns)

    def reliability(self, bins: int | None = None) -> pd.DataFrame:
        """What the probabilities say, and what raters did: pooled over images, each pixel with each rater who is there.

        Images with fewer than two raters are left out, and those whose predictions are no numbers.

        Args:
            bins: of equal width, each with its upper edge, of which ``levels`` is a multiple; as many as there can be
                up to 20 if not given.

        Returns:
            A row for each bin of the ``model`` that holds pixels, and of the ``peers`` (the share of the other raters
            who mark the pixel, against the rater): ``who``, ``low``, ``high``, mean ``probability``, ``share`` of
            marks, and ``pixels``. In several processes as :meth:`per_image`.

        Raises:
            ValueError: if `levels` is no multiple of `bins`, and for what ``compute`` refuses.
        """
        import pandas as pd  # noqa: PLC0415

        bins = bins or max(n for n in range(1, _MOST_BINS + 1) if self.levels % n == 0)
        if bins < 1 or self.levels % bins:
            raise ValueError(f"`bins` must divide levels={self.levels}, found {bins}.")
        sums = torch.zeros(2, 4, self.levels, dtype=torch.float64)  # who; pairs, their probabilities, marks, pixels
        with self._all_processes():
            for images in self._images():
                use = (images.classes[0].present.sum(1) > 1) & ~images.unusable
                patterns = images.classes[0]
                part = VotePatterns(patterns.counts[use], patterns.num_raters, patterns.present[use])
                sums[0] += _of_model(part, images.fields[use])
                sums[1] += _of_peers(part, torch.tensor(self.thresholds, dtype=torch.float64))
        merged = sums.unflatten(2, (bins, -1)).sum(3)
        pairs, probabilities, marks, pixels = merged.unbind(1)
        who, place = (pairs > 0).nonzero(as_tuple=True)
        columns = {"low": place / bins, "high": (place + 1) / bins}
        columns |= {"probability": (probabilities / pairs)[who, place], "share": (marks / pairs)[who, place]}
        names = [("model", "peers")[i] for i in who.tolist()]
        numbers = {name: values.numpy() for name, values in columns.items()}
        return pd.DataFrame({"who": names, **numbers, "pixels": pixels[who, place].round().long().numpy()})

    def plot(self, val: Any = None, ax: Axes | None = None) -> tuple[Figure, Axes]:  # noqa: ARG002 (what torchmetrics has)
        """Draw the first score over the thresholds, between floor and ceiling.

        Args:
            val: not used; the curve is that of all images.
            ax: where to draw; a new figure if not given.
        """
        from irrbench.plots.curves import threshold_axes  # noqa: PLC0415 (imports matplotlib)

        return threshold_axes({"model": self.curve()}, self.scores[0], ax=ax)


def _of_model(patterns: VotePatterns, probabilities: Tensor) -> Tensor:
    """Pairs of pixel and rater, probabilities of these, marks, and pixels, by level: ``(4, L)``."""
    raters, counts = patterns.present.sum(1, keepdim=True).double(), patterns.counts.double()
    pixels, marks = counts.sum(2), (counts @ pattern_bits(patterns.num_raters).double()).sum(2)
    return torch.stack([(raters * pixels).sum(0), (raters * probabilities).sum(0), marks.sum(0), pixels.sum(0)])


def _of_peers(patterns: VotePatterns, thresholds: Tensor) -> Tensor:
    """The same of the share of the other raters who mark the pixel, for each rater."""
    raters = patterns.present.sum(1)[:, None, None, None].double()
    cells = pixels_by_votes(patterns.totals, patterns.num_raters) * patterns.present[:, :, None, None]
    share = (torch.arange(patterns.num_raters)[:, None] / (raters - 1)).expand_as(cells)
    own = torch.tensor([0.0, 1.0], dtype=torch.float64)
    values = torch.stack([cells, cells * share, cells * own, cells / raters]).flatten(1)
    level = torch.bucketize(share.clamp(0, 1), thresholds).flatten()
    return torch.zeros(4, len(thresholds) + 1, dtype=torch.float64).index_add_(1, level, values)
