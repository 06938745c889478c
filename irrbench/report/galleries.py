"""Which images are shown, with which contours, and what their captions say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from irrbench.cases import REASON_WORDS, choose_cases
from irrbench.evidence import name_column
from irrbench.plots import MODEL_CONTOUR, RATER_COLOURS, image_panel
from irrbench.plots.strips import AREA_COLOURS, are_many
from irrbench.plots.words import shorten
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
    parts: dict[str, Any] = {"present": present, "roi": data.roi(place), "margin": margin}
    # The file is seen alone.
    pixels = image_panel(data.image(place), masks, best, title=data.image_ids[place], raters=data.raters, **parts)
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
    if are_many(len(raters)):
        key += [Stroke([RATER_COLOURS[3]], "thin: one line per rater"), Stroke([RATER_COLOURS[0]], "their majority")]
    elif not raters:
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
    table = numbers.rename(columns={"best": score, "ceiling": name_column(score, "ceiling")}).reset_index()
    known = gain(score, numbers["best"].dropna()).sort_values(kind="stable")
    each = max(1, min(RANKED, len(known) // 3))
    ranked = choose_cases(
        table, score=score, agreement="agreement", count=3 * each, reasons=("worst", "best", "median")
    )
    words = {case.image_id: REASON_WORDS[case.reason].capitalize() for case in ranked}
    captions = _captions(numbers.loc[[name for name in known.index if name in words]], score)
    # The model that comes nearest to the raters fails, and so do all others.
    table[score] = gain(score, gain(score, numbers[["lowest", "highest"]]).max(axis=1)).to_numpy()
    options: dict[str, Any] = {"score": score, "agreement": "agreement", "count": SHOWN}
    failures, hard = (
        numbers.loc[[case.image_id for case in choose_cases(table, reasons=[reason], **options)]]
        for reason in ("failed", "disputed")
    )
    chosen = {
        "ranked": {name: f"{words[name]}: {text}" for name, text in captions.items()},
        "failures": _captions(failures, score),
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
    frame.index = frame.index.astype(str)
    return frame.assign(models=models["name"].nunique()).sort_index()


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
