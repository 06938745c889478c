"""Which images are worth a look, and what to say of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from irrbench.plots.style import isolate, number, score_title

if TYPE_CHECKING:
    import pandas as pd

RANKED, SHOWN = 3, 4  # pictures of each rank, pictures in the other galleries


class Choice(NamedTuple):
    """Images for one gallery: captions by image id."""

    name: str
    title: str
    lead: str
    captions: dict[str, str]


def choose_images(per_image: pd.DataFrame, agreement: pd.Series, *, score: str, best: str) -> list[Choice]:
    """Choose images: by rank of the best model, those on which all models fail though raters agree, and hard ones.

    Args:
        per_image: ``name``, ``role``, ``image_id`` and the score.
        agreement: the raters' agreement by ``image_id``.
        score: which counts.
        best: the model whose contours will be shown.

    Returns:
        Galleries that have images; each image's caption has its numbers.
    """
    numbers = image_numbers(per_image, agreement, score=score, best=best)
    choices = [_ranked(numbers, score, best), _failures(numbers, score), _hard(numbers, score)]
    return [choice for choice in choices if choice.captions]


def image_numbers(per_image: pd.DataFrame, agreement: pd.Series, *, score: str, best: str) -> pd.DataFrame:
    """Return per image ``best``, ``floor``, ``ceiling``, ``agreement``, ``lowest`` and ``highest`` of all models."""
    models = per_image[per_image["role"] == "model"]
    frame: pd.DataFrame = models.groupby("image_id")[score].agg(["min", "max"])
    frame = frame.rename(columns={"min": "lowest", "max": "highest"})
    frame["best"] = models[models["name"] == best].set_index("image_id")[score]
    for role in ("floor", "ceiling"):
        frame[role] = per_image[per_image["role"] == role].set_index("image_id")[score]
    frame["agreement"] = agreement.reindex(frame.index)
    return frame.assign(models=models["name"].nunique()).sort_index()


def _ranked(numbers: pd.DataFrame, score: str, best: str) -> Choice:
    known = numbers.dropna(subset=["best"]).sort_values("best", kind="stable")
    words = rank_words(len(known))
    captions = {
        str(image_id): f"{word}: {_caption(row, str(image_id), score)}"
        for word, (image_id, row) in zip(words.values(), known.iloc[list(words)].iterrows(), strict=True)
    }
    lead = f"Images on which the best model, {isolate(best)}, does worst, middling and best by {score_title(score)}."
    return Choice("ranked", "Worst, median, best", lead, captions)


def rank_words(count: int) -> dict[int, str]:
    """Say which places of a ranking are shown, and as what.

    >>> rank_words(4)
    {0: 'Worst', 2: 'Median', 3: 'Best'}
    >>> list(rank_words(100))
    [0, 1, 2, 49, 50, 51, 97, 98, 99]
    """
    if not count:
        return {}
    each = max(1, min(RANKED, count // 3))
    middle = count // 2 - each // 2
    places: dict[int, str] = {}
    for word, first in (("Worst", 0), ("Best", count - each), ("Median", middle)):
        for place in range(first, first + each):
            places.setdefault(place, word)
    return dict(sorted(places.items()))


def _failures(numbers: pd.DataFrame, score: str) -> Choice:
    """Where raters agree at least as much as on half of the images and even the best model is furthest below them."""
    known = numbers.dropna(subset=["highest", "ceiling", "agreement"])
    clear = known[known["agreement"] >= known["agreement"].median()]
    behind = (clear["ceiling"] - clear["highest"]).sort_values(ascending=False, kind="stable")
    chosen = clear.loc[behind[behind > 0].index[:SHOWN]]
    who = "even the best of all models is" if numbers["models"].max() > 1 else "the model is"
    lead = (
        f"Of the half of the images on which raters agree more, those on which {who} furthest below the average rater. "
        "Here the labels are not to blame."
    )
    return Choice("failures", "Raters agree, all models fail", lead, _captions(chosen, score))


def _hard(numbers: pd.DataFrame, score: str) -> Choice:
    chosen = numbers.dropna(subset=["agreement"]).sort_values("agreement", kind="stable").head(SHOWN)
    lead = "The images on which the raters agree least. What a model scores here says little about it."
    return Choice("disagreement", "Raters disagree", lead, _captions(chosen, score))


def _captions(chosen: pd.DataFrame, score: str) -> dict[str, str]:
    return {str(image_id): _caption(row, str(image_id), score) for image_id, row in chosen.iterrows()}


def _caption(row: pd.Series, image_id: str, score: str) -> str:
    best, ceiling, floor, alpha = (_two(row[key]) for key in ("best", "ceiling", "floor", "agreement"))
    text = f"{image_id}. {score_title(score)} {best}; average rater {ceiling}, naive rater {floor}; agreement {alpha}"
    if row["models"] > 1 and math.isfinite(row["lowest"]):
        text += f"; all {int(row['models'])} models {_two(row['lowest'])} to {_two(row['highest'])}"
    return f"{text}."


def _two(value: float) -> str:
    return number(float(value), digits=2)


def marks(sizes: Sequence[int], *, prediction: int) -> str:
    """Say who marked nothing, as there is no contour to see.

    Args:
        sizes: marked pixels of each rater who saw the image.
        prediction: marked pixels of the model.

    >>> marks([4, 0, 9], prediction=0)
    '1 of 3 raters marked nothing; the model marked nothing'
    >>> marks([4, 9], prediction=5)
    ''
    """
    none = sum(size == 0 for size in sizes)
    parts = [f"{none} of {len(sizes)} raters marked nothing"] if none else []
    parts += ["the model marked nothing"] if not prediction else []
    return "; ".join(parts)
