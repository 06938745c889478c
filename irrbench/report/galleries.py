"""Which images are shown, with which contours, and what their captions say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from irrbench.plots import MODEL_CONTOUR, RATER_COLOURS, image_panel
from irrbench.plots.strips import AREA_COLOURS, are_many
from irrbench.plots.style import shorten
from irrbench.report.page import Picture, Stroke
from irrbench.report.text import sentence
from irrbench.report.views import View, make_view
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
OTHERS = "others"  # name of the gallery whose images the page shows one at a time only
RANKED, SHOWN = 3, 4  # pictures of each rank, pictures in the other galleries
MOST_BYTES = 1_500_000  # of the page for images that no gallery shows

Predict = Callable[[str], "NDArray[np.bool_]"]


class Gallery(NamedTuple):
    """Images that belong together.

    Attributes:
        name: of the gallery.
        title: likewise, in words.
        lead: how they were chosen.
        captions: by image id.
        pictures: with their contours.
        views: images that the page shows one at a time only.
    """

    name: str
    title: str
    lead: str
    captions: dict[str, str]
    pictures: Sequence[Picture] = ()
    views: Sequence[View] = ()


def make_galleries(
    results: Results, data: RaterData, predict: Mapping[str, Predict], *, remark: str = ""
) -> list[Gallery]:
    """Draw images with the contours of all raters and of the best models.

    Args:
        results: with scores per image and the raters' agreement.
        data: with the images and the raters' masks.
        predict: by model, the best one first, its mask ``(*S)`` by image id.
        remark: on the contours, after each gallery's text.

    Returns:
        Galleries that have images, and one with other images, as many as a page can hold. Images with more than three
        dimensions have no picture.
    """
    if results.agreement is None:
        return []
    places = {name: place for place, name in enumerate(data.image_ids) if len(data.shape(place)) in (2, 3)}
    galleries: list[Gallery] = []
    shown: set[str] = set()
    per_image = results.without_noise(results.per_image)
    for gallery in choose_images(per_image, results.agreement, score=results.score, best=results.shown):
        drawn = {
            name: _draw(data, places[name], [mask_of(name) for mask_of in predict.values()], caption)
            for name, caption in gallery.captions.items()
            if name in places
        }
        lead = f"{gallery.lead} {remark}" if remark else gallery.lead
        galleries.append(gallery._replace(lead=lead, pictures=list(drawn.values())))
        shown |= drawn.keys()
    rest = [name for name in dict.fromkeys(per_image["image_id"].astype(str)) if name in places and name not in shown]
    masks = ((places[name], [mask_of(name) for mask_of in predict.values()]) for name in rest)
    others = _fitting(make_view(data, place, found, margin=_margin(data, place)) for place, found in masks)
    return [*galleries, Gallery(OTHERS, "", "", {}, views=others)] if others else galleries


def _fitting(views: Iterable[View]) -> list[View]:
    """The first images, as many as a page can hold."""
    found, size = [], 0
    for view in views:
        size += view.size
        if size > MOST_BYTES:
            break
        found.append(view)
    return found


def _margin(data: RaterData, place: int) -> int:
    return max(8, max(data.shape(place)[-2:]) // 20)


def _draw(data: RaterData, place: int, predictions: Sequence[NDArray[np.bool_]], caption: str) -> Picture:
    masks, present, margin = data.masks(place), data.present(place), _margin(data, place)
    best = predictions[0]
    pixels = image_panel(data.image(place), masks, best, present=present, roi=data.roi(place), margin=margin)
    empty = empty_masks([int(mask.sum()) for mask in masks[present]], prediction=int(best.sum()))
    text = f"{caption} {empty[0].upper()}{empty[1:]}." if empty else caption
    return Picture(text, pixels, make_view(data, place, predictions, margin=margin))


def contour_key(raters: Sequence[str], *, has_areas: bool = False) -> list[Stroke]:
    """Say whose contour has which colour; one entry for all where raters are more than the colours.

    Args:
        raters: their names.
        has_areas: whether areas are coloured on some images, as contours would hide them.
    """
    key = [Stroke([MODEL_CONTOUR], "the model", is_thick=True)]
    if not raters or are_many(len(raters)):
        key.append(Stroke(RATER_COLOURS[:4], "thin: one line per rater"))
    else:
        lines = enumerate(zip(RATER_COLOURS, raters, strict=False))
        key += [Stroke([colour], shorten(name), kind=f"rater{number}") for number, (colour, name) in lines]
    areas = [Stroke([colour], f"area: {name}", is_thick=True) for name, colour in AREA_COLOURS.items()]
    return key + areas if has_areas else key


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
