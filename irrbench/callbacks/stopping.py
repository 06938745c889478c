"""A budget rule: stopping where the model agrees with the raters at least as well as the average rater does."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irrbench._display import SafeConsole
from irrbench.callbacks.base import LightningModule, Result, ResultsCallback, Trainer
from irrbench.callbacks.monitor import RaterBoundsMonitor
from irrbench.evidence import name_column
from irrbench.scores import SCORES, base_score, gain, record
from irrbench.stats import MIN_GROUPS_FOR_TESTS, clustered_mean
from irrbench.summary import score_names

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

Groups = Mapping[Any, Hashable] | Callable[[str], Hashable]


class Interval(NamedTuple):
    """Ends of a confidence interval, in units of the score."""

    low: float
    high: float


_UNKNOWN = Interval(math.nan, math.nan)


class CeilingStopping(ResultsCallback):
    """Stops training once the model is good enough as a rater: it agrees with the others as well as the average one.

    That is a rule for a budget, and says nothing of what more training would give. Much can be learnt above the average
    rater: among simulated raters of equal quality (IoU, ties averaged) one more rater has a normalized score of 96 to
    102 %, and the truth that all of them displace 112 to 125 % with two or three raters, 116 to 139 % with four to
    eight. For the best model use EarlyStopping on ``val/<score>``; what a model learns of its labels by heart is
    ``train/<score>_noise_fit``.

    It needs a :class:`RaterBoundsMonitor` among the trainer's callbacks, before or after it. At each validation check
    it takes the confidence interval of the model's mean advantage over the average rater, paired over the validation
    images: ``model - ceiling``, or ``ceiling - model`` for a score where lower is better. When the low end has stayed
    above ``-margin`` for `patience` checks in a row, training stops. A check without a number (a model that diverged,
    fewer than two groups) starts the count anew. Each check is one look at the same images: `level` is that of one
    interval, not of the decision after many looks.

    A fit begins with no checks counted, unless it resumes from a checkpoint. ``Trainer(min_epochs=...)`` holds.

    Args:
        score: name among the monitor's scores; its first if not given.
        margin: how far below the average rater is near enough, in units of the score; 0: the whole interval must lie
            above the average rater.
        patience: checks in a row.
        level: confidence level of the interval.
        groups: what was drawn independently (patients), for each image id: a mapping, or a function of the id (a
            string); each image on its own if not given.
        min_groups: of how many independent images or groups an interval is trusted; with fewer it never stops.
        split: which validation data, where there are several loaders: ``"val/<loader>"``, and of a monitor with a name
            ``"val/<name>/<loader>"``; the monitor's only ones if not given.
        monitor: which one, where the trainer has several.
        verbose: whether to say on the terminal why it stops; it is logged at level INFO anyway.

    Attributes:
        interval: of ``model - ceiling`` (or ``ceiling - model``) at the latest check; NaN without one.
        passes: checks in a row so far.
        stopped_epoch: epoch in which it asked to stop; None if it never did.
        reason: why it stopped, with numbers; empty if it did not.

    Raises:
        ValueError: for unusable options; when the fit begins, if there is no monitor or it lacks the score; at the
            sanity check, if the split is not there; at the first check, if an image has no group.

    Example:
        >>> stopping = CeilingStopping(score="iou", margin=0.01, patience=2)
        >>> stopping.interval, stopping.stopped_epoch
        (Interval(low=nan, high=nan), None)
    """

    interval: Result[Interval] = Result()
    passes: Result[int] = Result()
    stopped_epoch: Result[int | None] = Result()
    reason: Result[str] = Result()

    def __init__(
        self,
        *,
        score: str | None = None,
        margin: float = 0.0,
        patience: int = 3,
        level: float = 0.95,
        groups: Groups | None = None,
        min_groups: int = MIN_GROUPS_FOR_TESTS,
        split: str | None = None,
        monitor: RaterBoundsMonitor | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__()
        if score is not None and base_score(score) not in SCORES:
            raise ValueError(
                f"`score` must be among {', '.join(SCORES)}, or None for the monitor's first; found {score!r}."
            )
        if not math.isfinite(margin):
            raise ValueError(f"`margin` must be a number in units of the score, as 0.01; found {margin}.")
        if patience != int(patience) or patience < 1:
            raise ValueError(f"`patience` must be a whole number, 1 or more; found {patience}.")
        if min_groups < 2:
            raise ValueError(f"`min_groups` must be 2 or more, found {min_groups}.")
        if not 0 < level < 1:
            raise ValueError(f"`level` must lie between 0 and 1, as 0.95; found {level}.")
        self.score, self.margin, self.patience, self.level = score, margin, patience, level
        self.groups, self.monitor = groups, monitor
        self._given_split, self.split = split, split or (monitor.split("validate") if monitor else "val")
        self._key = f"CeilingStopping(score={score!r}, split={self.split!r})"
        self.min_groups, self.verbose = min_groups, verbose
        self._has_warned = False
        self._found: RaterBoundsMonitor | None = None
        self._begin()

    def _begin(self) -> None:
        self.interval, self.passes = _UNKNOWN, 0
        self.stopped_epoch, self.reason, self._scored = None, "", ""

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint: two with different scores or splits can be in one trainer."""
        return self._key

    def state_dict(self) -> dict[str, Any]:
        """The count and the latest check."""
        return {
            "passes": self.passes,
            "interval": tuple(self.interval),
            "stopped_epoch": self.stopped_epoch,
            "reason": self.reason,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where a checkpoint left off."""
        self.passes, self.interval = state_dict["passes"], Interval(*state_dict["interval"])
        self.stopped_epoch, self.reason = state_dict["stopped_epoch"], state_dict["reason"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the monitor, before anything is trained."""
        self.receive_results()
        if stage != "fit":
            return
        self._begin()
        self._found = monitor = find_monitor(trainer.callbacks, self.monitor)
        self.split = self._given_split or monitor.split("validate")
        if "validate" not in monitor.stages:
            raise ValueError(
                f"CeilingStopping needs the stage 'validate' monitored; {monitor.title} has stages={monitor.stages}."
            )
        if self.score is not None and base_score(self.score) not in monitor.scores:
            raise ValueError(
                f"`score` must be one of {monitor.title}: {', '.join(monitor.scores)}; found {self.score!r}. "
                f"Pass RaterBoundsMonitor(scores=[..., {base_score(self.score)!r}])."
            )
        if not trainer.enable_validation:
            logger.warning("CeilingStopping of %s will not stop this training: it has no validation.", monitor.title)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave what was found where the process that asked for it looks."""
        if trainer.is_global_zero:
            self.send_results()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the check, and stop if it was the last that was wanted."""
        # Lightning calls every callback's `on_validation_epoch_end`, where the table is made, before any of these.
        if trainer.state.fn != "fit" or self._found is None:
            return
        known = [name for name in self._found.summaries if name.partition("/")[0] == "val"]
        if self.split not in known:
            raise ValueError(
                f"`split` must be validation data of {self._found.title}, one of {', '.join(map(repr, known))}; found "
                f"{self.split!r}. Pass CeilingStopping(split={known[0]!r})."
            )
        if trainer.sanity_checking:
            return
        reached = self.check(self._found.tables.get(self.split))
        # All processes have the same table. Should they yet disagree, they must end together, or some wait for ever.
        if not trainer.fast_dev_run and trainer.strategy.reduce_boolean_decision(reached, all=False):
            self._stop(trainer)

    def check(self, table: pd.DataFrame | None) -> bool:
        """Count one check; needs no trainer.

        Args:
            table: per-image table, see :func:`irrbench.summary.bounds_table`; None where there is none this time.

        Returns:
            Whether the low end has been above ``-margin`` for `patience` checks in a row.
        """
        self.interval = _UNKNOWN
        if table is not None:
            self._scored = self.score or score_names(table)[0]
            options: dict[str, Any] = {"level": self.level, "min_groups": self.min_groups}
            self.interval = advantage_interval(table, self._scored, groups=self.groups, **options)
            if not math.isfinite(self.interval.low) and not self._has_warned:
                logger.warning(
                    "CeilingStopping does not stop this training: fewer than %d independent validation images or "
                    "groups have a %s/%s, and an interval of so few is not to be trusted (min_groups=).",
                    self.min_groups,
                    self.split,
                    self._scored,
                )
                self._has_warned = True
        self.passes = self.passes + 1 if self.interval.low > -self.margin else 0
        return self.passes >= self.patience

    def _stop(self, trainer: Trainer) -> None:
        (low, high), self.stopped_epoch = self.interval, trainer.current_epoch
        larger_is_better = record(self._scored).higher_is_better
        advantage = "model - average rater" if larger_is_better else "average rater - model"
        self.reason = (
            f"{self.split}/{self._scored}: {advantage} lies in [{low:.4f}, {high:.4f}] "
            f"({100 * self.level:g} % interval), above {0 - self.margin:g} for {self.passes} checks in a row: "
            "good enough as a rater. More training may still improve it."
        )
        announced, trainer.should_stop = trainer.should_stop, True
        if trainer.is_global_zero and not announced:
            logger.info(self.reason)
            if self.verbose:
                SafeConsole(stderr=True).print(f"Stopping. {self.reason}", soft_wrap=True)


def advantage_interval(
    table: pd.DataFrame, score: str, *, groups: Groups | None = None, level: float = 0.95, min_groups: int = 2
) -> Interval:
    """Student's interval of the model's mean advantage over the average rater, paired over images.

    The advantage is ``model - ceiling``, and ``ceiling - model`` for a score where lower is better.

    Args:
        table: per-image table, see :func:`irrbench.summary.bounds_table`.
        score: one of its scores.
        groups: what was drawn independently, by image id; each image on its own if not given.
        level: confidence level.
        min_groups: how many groups an interval needs, 2 or more.

    Returns:
        Low and high end; infinite where fewer groups have the score.

    Raises:
        ValueError: if an image has no group.
    """
    table = table.sort_values("image_id", kind="stable")  # processes and loaders order images as they like
    difference = gain(score, (table[score] - table[name_column(score, "ceiling")]).to_numpy(dtype=float))
    defined = ~np.isnan(difference)
    names = [str(name) for name in table["image_id"][defined]]
    labels: list[Hashable] = [*names]
    if isinstance(groups, Mapping):  # ids are strings in the table, whatever they are in a batch
        by_name = {str(image_id): label for image_id, label in groups.items()}
        labels = [by_name.get(name) for name in names]
    elif groups is not None:
        labels = [groups(name) for name in names]
    for name, label in zip(names, labels, strict=True):
        if label is None or label != label:  # noqa: PLR0124 (NaN, as an empty cell of a table is)
            raise ValueError(
                f"`groups` must give a group for every validation image, found none for {name!r}. Its keys are the "
                "ids that RaterBoundsMonitor(image_id=...) reads from the batches."
            )
    found = clustered_mean(difference[defined], labels, level=level)
    return Interval(found.low, found.high) if found.units >= max(min_groups, 2) else Interval(-math.inf, math.inf)


def find_monitor(callbacks: Sequence[Any], given: RaterBoundsMonitor | None = None) -> RaterBoundsMonitor:
    """The one monitor among a trainer's callbacks.

    Args:
        callbacks: of the trainer.
        given: the one that it has to be; any if not given.

    Raises:
        ValueError: if there is none, or more than one to choose from.
    """
    found = [x for x in callbacks if isinstance(x, RaterBoundsMonitor) and (given is None or x is given)]
    if not found and given is not None:
        raise ValueError("`monitor` must be among the trainer's callbacks: Trainer(callbacks=[monitor, stopping]).")
    if not found:
        raise ValueError(
            "CeilingStopping needs the bounds that a RaterBoundsMonitor computes, and the trainer has none: "
            "Trainer(callbacks=[RaterBoundsMonitor(...), CeilingStopping(...)])."
        )
    if len(found) > 1:
        titles = ", ".join(x.title for x in found)
        raise ValueError(f"The trainer has {len(found)} monitors: {titles}; say which by CeilingStopping(monitor=...).")
    return found[0]
