"""Which images are worth a look: the worst, the best, those that raters dispute, those where only the model fails."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from irrbench.evidence import name_column
from irrbench.scores import gain

if TYPE_CHECKING:
    import pandas as pd

Reason = Literal["worst", "disputed", "failed", "best", "median"]
REASONS: tuple[Reason, ...] = ("worst", "disputed", "failed", "best")
REASON_WORDS: dict[str, str] = {
    "worst": "worst",
    "disputed": "most disputed",
    "failed": "raters agree, model fails",
    "best": "best",
    "median": "median",
}
# An image is one of these at most.
_APART: tuple[Reason, ...] = ("worst", "best", "median")


class Case(NamedTuple):
    """An image, and why it is shown.

    Attributes:
        image_id: of the image.
        reason: a key of :data:`REASON_WORDS`.
        place: 1 for the first image of this reason, 2 for the next.
    """

    image_id: str
    reason: Reason
    place: int = 1

    @property
    def words(self) -> str:
        """The reason in words, with the place from the second image on.

        >>> Case("a", "disputed", 2).words
        'most disputed 2'
        """
        return REASON_WORDS[self.reason] + (f" {self.place}" if self.place > 1 else "")


def choose_cases(
    table: pd.DataFrame,
    *,
    score: str,
    count: int = len(REASONS),
    reasons: Sequence[Reason] = REASONS,
    agreement: str = "alpha",
    among: Collection[str] | None = None,
) -> list[Case]:
    """Choose images, each with the reason why it is worth a look.

    ``worst`` and ``best`` are by the model's score, whichever direction it has. ``disputed`` are those with the lowest
    agreement of the raters: they do not depend on the model, so they are the same in all epochs and for all models.
    ``failed``: raters agree at least as much as on half of the images, and the model is furthest behind the average
    rater; first those that nothing else shows. ``median`` is the middle of the ranking.

    Args:
        table: one row an image: ``image_id``, the score, ``<score>_ceiling`` (without it nothing is ``failed``) and the
            agreement, as :func:`irrbench.summary.bounds_table` has them.
        score: name of a score, or of one class of it.
        count: of places. The reasons take turns, so that four have one image each.
        reasons: that take turns, in this order.
        agreement: column of the raters' agreement, more is better.
        among: ids that may be chosen, where not all images are at hand; what is half of the images is still told by all
            of them.

    Returns:
        At most ``count``, in the order of the reasons. An image may be both ``disputed`` and one by its score. An
        undefined score or agreement (NaN) is no reason. Equal values come in the order of the ids.

    Raises:
        ValueError: if a column is missing, a reason unknown, or ``count`` negative.

    Example:
        >>> import pandas as pd
        >>> ids, iou = ["a", "b", "c", "d"], [0.2, 0.5, 0.9, 0.8]
        >>> table = pd.DataFrame({"image_id": ids, "iou": iou, "iou_ceiling": 0.8, "alpha": [0.9, 0.8, 0.7, 0.1]})
        >>> [(case.image_id, case.reason) for case in choose_cases(table, score="iou")]
        [('a', 'worst'), ('d', 'disputed'), ('b', 'failed'), ('c', 'best')]
    """
    _check(table, (score, agreement), count, reasons)
    rankings = _rankings(table, score, agreement, among)
    chosen: dict[Reason, list[str]] = {reason: [] for reason in reasons}
    others = [reason for reason in chosen if reason != "failed"]
    kept = len(range(list(reasons).index("failed"), count, len(chosen))) if "failed" in chosen else 0
    _take_turns(chosen, others, rankings, count - kept)
    _take_turns(chosen, ["failed"] if kept else [], rankings, count)
    _take_turns(chosen, others, rankings, count)
    return [Case(name, reason, place) for reason, names in chosen.items() for place, name in enumerate(names, 1)]


def _take_turns(
    chosen: dict[Reason, list[str]], reasons: Sequence[Reason], rankings: dict[Reason, list[str]], count: int
) -> None:
    """Give the next image to the reason that has the fewest, until there are so many or none is left."""
    while sum(map(len, chosen.values())) < count:
        found = [(len(chosen[reason]), reason, name) for reason in reasons for name in _free(reason, chosen, rankings)]
        if not found:
            break
        _, reason, name = min(found, key=itemgetter(0))
        chosen[reason].append(name)


def _free(reason: Reason, chosen: dict[Reason, list[str]], rankings: dict[Reason, list[str]]) -> list[str]:
    """The next image of a reason, if there is one."""
    rivals = set(chosen) if reason == "failed" else {reason, *(_APART if reason in _APART else ())}
    taken = {name for rival in rivals & set(chosen) for name in chosen[rival]}
    return [name for name in rankings[reason] if name not in taken][:1]


def _rankings(
    table: pd.DataFrame, score: str, agreement: str, among: Collection[str] | None
) -> dict[Reason, list[str]]:
    """Ids by reason, the first choice first."""
    numbers = table.assign(image_id=table["image_id"].astype(str)).set_index("image_id")
    numbers = numbers.sort_index()
    model, agreed = gain(score, numbers[score]).dropna(), numbers[agreement].dropna()
    ceiling = name_column(score, "ceiling")
    behind = (gain(score, numbers[ceiling]) - model).dropna() if ceiling in numbers else model.iloc[:0]
    clear = agreed.index[agreed >= agreed.median()]
    behind = behind[(behind > 0) & behind.index.isin(clear)]
    up = model.sort_values(kind="stable")
    middle = sorted(range(len(up)), key=lambda place: abs(place - len(up) // 2))
    ranked: dict[Reason, pd.Index] = {
        "worst": up.index,
        "best": (-model).sort_values(kind="stable").index,
        "median": up.index[middle],
        "disputed": agreed.sort_values(kind="stable").index,
        "failed": (-behind).sort_values(kind="stable").index,
    }
    return {reason: [name for name in ids if among is None or name in among] for reason, ids in ranked.items()}


def _check(table: pd.DataFrame, columns: Sequence[str], count: int, reasons: Sequence[str]) -> None:
    missing = [column for column in ("image_id", *columns) if column not in table]
    if missing:
        raise ValueError(
            f"`table` must have the columns {', '.join(map(repr, ('image_id', *columns)))}; it lacks "
            f"{', '.join(map(repr, missing))}. Make it with `irrbench.summary.bounds_table`, or name the agreement's "
            "column by `agreement=`."
        )
    if again := table["image_id"].astype(str).duplicated().sum():
        raise ValueError(f"`table` must have one row an image; {again} rows have an `image_id` that came before.")
    unknown = [reason for reason in reasons if reason not in get_args(Reason)]
    if unknown or not reasons or len(set(reasons)) < len(reasons):
        known = ", ".join(map(repr, get_args(Reason)))
        raise ValueError(f"`reasons` must be some of {known}, each once; found {list(reasons)}.")
    if count < 0:
        raise ValueError(f"`count` must be 0 or more; found {count}.")
