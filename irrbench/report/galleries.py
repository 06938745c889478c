"""Which images are shown, with which contours, and what their captions say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from irrbench.plots import MODEL_CONTOUR, RATER_COLOURS, image_panel
from irrbench.plots.style import shorten
from irrbench.report.page import Picture, Stroke
from irrbench.report.text import sentence
from irrbench.scores import gain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from irrbench.analysis.results import Results
    from irrbench.data import RaterData

TEXTS = "benchmark.txt"
TITLES = {
    "ranked": "Worst, median, best",
    "failures": "Raters agree, models are furthest behind",
    "disagreement": "Raters disagree",
}
RANKED, SHOWN = 3, 4  # pictures of each rank, pictures in the other galleries


class Gallery(NamedTuple):
    """Images that belong together: how they were chosen, captions by image id, and the pictures."""

    name: str
    title: str
    lead: str
    captions: dict[str, str]
    pictures: Sequence[Picture] = ()


def make_galleries(
    results: Results, data: RaterData, predict: Callable[[str], NDArray[np.bool_]], *, remark: str = ""
) -> list[Gallery]:
    """Draw images with the contours of all raters and of the best model.

    Args:
        results: with scores per image and the raters' agreement.
        data: with the images and the raters' masks.
        predict: the best model's mask ``(*S)`` by image id.
        remark: on the contours, after each gallery's text.

    Returns:
        Galleries that have images. Images with more than three dimensions have no picture.
    """
    if results.agreement is None:
        return []
    places = {image_id: place for place, image_id in enumerate(data.image_ids)}
    galleries = []
    per_image = results.without_noise(results.per_image)
    for gallery in choose_images(per_image, results.agreement, score=results.score, best=results.shown):
        pictures = [
            _draw(data, places[image_id], predict(image_id), caption)
            for image_id, caption in gallery.captions.items()
            if len(data.shape(places[image_id])) in (2, 3)
        ]
        lead = f"{gallery.lead} {remark}" if remark else gallery.lead
        galleries.append(gallery._replace(lead=lead, pictures=pictures))
    return galleries


def _draw(data: RaterData, place: int, prediction: NDArray[np.bool_], caption: str) -> Picture:
    masks, present = data.masks(place), data.present(place)
    margin = max(8, max(data.shape(place)[-2:]) // 20)
    pixels = image_panel(data.image(place), masks, prediction, present=present, roi=data.roi(place), margin=margin)
    empty = empty_masks([int(mask.sum()) for mask in masks[present]], prediction=int(prediction.sum()))
    return Picture(f"{caption} {empty[0].upper()}{empty[1:]}." if empty else caption, pixels)


def contour_key(raters: Sequence[str]) -> list[Stroke]:
    """Say whose contour has which colour; one entry for all where raters are more than the colours."""
    model = Stroke([MODEL_CONTOUR], "the model", is_thick=True)
    if not raters or len(raters) > len(RATER_COLOURS):
        return [model, Stroke(RATER_COLOURS[:4], "thin: one line per rater")]
    return [model, *(Stroke([colour], shorten(name)) for colour, name in zip(RATER_COLOURS, raters, strict=False))]


def choose_images(per_image: pd.DataFrame, agreement: pd.Series, *, score: str, best: str) -> list[Gallery]:
    """Choose images: by rank of the best model, those on which all models fail though raters agree, and hard ones.

    Args:
        per_image: ``name``, ``role``, ``image_id`` and the score.
        agreement: the raters' agreement by ``image_id``.
        score: the main one.
        best: the model whose contours will be shown.

    Returns:
        Galleries that have images, without their pictures; each image's caption has its numbers.
    """
    numbers = image_numbers(per_image, agreement, score=score, best=best)
    known = numbers.dropna(subset=["best"])
    known = known.loc[gain(score, known["best"]).sort_values(kind="stable").index]
    words = rank_words(len(known))
    captions = _captions(known.iloc[list(words)], score)
    ranked = {key: f"{word}: {text}" for word, (key, text) in zip(words.values(), captions.items(), strict=True)}
    hard = numbers.dropna(subset=["agreement"]).sort_values("agreement", kind="stable").head(SHOWN)
    chosen = {
        "ranked": ranked,
        "failures": _captions(_failures(numbers, score), score),
        "disagreement": _captions(hard, score),
    }
    leads = {name: sentence(TEXTS, f"{name}_images", score, best, numbers["models"].max()) for name in chosen}
    return [Gallery(name, TITLES[name], leads[name], captions) for name, captions in chosen.items() if captions]


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


def _failures(numbers: pd.DataFrame, score: str) -> pd.DataFrame:
    """Where raters agree at least as much as on half of the images and even the best model is furthest behind them."""
    known = numbers.dropna(subset=["highest", "ceiling", "agreement"])
    clear = known[known["agreement"] >= known["agreement"].median()]
    best = gain(score, clear[["lowest", "highest"]]).max(axis=1)
    behind = (gain(score, clear["ceiling"]) - best).sort_values(ascending=False, kind="stable")
    return clear.loc[behind[behind > 0].index[:SHOWN]]


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


def _captions(chosen: pd.DataFrame, score: str) -> dict[str, str]:
    rows = chosen.to_dict("index")
    return {str(image_id): f"{image_id}. {sentence(TEXTS, 'image', row, score)}" for image_id, row in rows.items()}


def empty_masks(sizes: Sequence[int], *, prediction: int) -> str:
    """Say who marked nothing, as there is no contour to see.

    Args:
        sizes: marked pixels of each rater who saw the image.
        prediction: marked pixels of the model.

    >>> empty_masks([4, 0, 9], prediction=0)
    '1 of 3 raters marked nothing; the model marked nothing'
    >>> empty_masks([4, 9], prediction=5)
    ''
    """
    none = sum(size == 0 for size in sizes)
    parts = [f"{none} of {len(sizes)} raters marked nothing"] if none else []
    parts += ["the model marked nothing"] if not prediction else []
    return "; ".join(parts)
