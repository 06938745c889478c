"""The section of a report on single images: what each model scores on them, and pictures of the chosen ones."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from irrbench._display import printable
from irrbench.plots.words import known_score, marked_title
from irrbench.report.galleries import OTHERS, Gallery, contour_key
from irrbench.report.page import Column, Picture, Section
from irrbench.report.text import sentence
from irrbench.report.views import View, switches

if TYPE_CHECKING:
    from irrbench.analysis.results import Results

MOST_VALUES = 200_000  # scores of images on the page; with more, only the best models' are
MOST_ANCHORS = 400  # images that a figure's dots lead to
TEXTS = "benchmark.txt"


def images_section(results: Results, galleries: Sequence[Gallery]) -> Section:
    """Return the section: with script a dot and a row for each image, without it a table of the images shown."""
    shown = [gallery for gallery in galleries if gallery.name != OTHERS and gallery.pictures]
    numbers = _numbers(results)
    if numbers.empty and not shown:
        return Section()
    views = _views(galleries)
    parts = [
        Section(title=gallery.title, note=results.note, text=gallery.lead, pictures=pictures)
        for gallery, pictures in zip(shown, _each_once(shown), strict=True)
    ]
    others = [image_id for image_id in map(str, numbers.index) if image_id not in _ids(shown)]
    data = image_data(results, numbers, views, only_here=others)
    values = {"data": data, "chosen": _chosen(results, numbers, shown), "others": others[:MOST_ANCHORS]}
    key = contour_key(results.raters, has_areas=any(view.has_areas for view in views.values())) if shown else ()
    return Section("images", "Images", key=key, template="images.html", values=values, parts=parts)


def _views(galleries: Sequence[Gallery]) -> dict[str, View]:
    """Each image once."""
    of_pictures = [picture.view for gallery in galleries for picture in gallery.pictures if picture.view]
    return {view.image_id: view for view in [*of_pictures, *(view for gallery in galleries for view in gallery.views)]}


def _ids(galleries: Sequence[Gallery]) -> set[str]:
    return {picture.view.image_id for gallery in galleries for picture in gallery.pictures if picture.view}


def _each_once(galleries: Sequence[Gallery]) -> list[list[Picture]]:
    """Pictures with their anchors; an image that an earlier gallery shows becomes a link to it."""
    found, seen = [], set()
    for gallery in galleries:
        pictures = []
        for picture in gallery.pictures:
            anchor = f"image-{picture.view.image_id}" if picture.view else ""
            pictures.append(picture._replace(anchor=anchor, is_again=anchor in seen))
            seen |= {anchor} if anchor else set()
        found.append(pictures)
    return found


def _numbers(results: Results) -> pd.DataFrame:
    """Main score per image: ``floor``, ``ceiling``, ``agreement``, and a column for each model, the best first."""
    per_image = results.without_noise(results.per_image)
    if not results.models or per_image.empty or results.score not in per_image:
        return pd.DataFrame()
    per_image = per_image.assign(image_id=per_image["image_id"].astype(str)).set_index("image_id")
    ids = pd.Index(sorted(per_image.index.unique()), name="image_id")
    most = max(1, MOST_VALUES // len(ids))
    models = per_image[per_image["role"] == "model"]
    parts = {("model", name): models[models["name"] == name] for name in _ranked(results)[:most]}
    parts |= {("role", role): per_image[per_image["role"] == role] for role in ("floor", "ceiling")}
    columns = {key: part[results.score].groupby(level=0).mean().reindex(ids) for key, part in parts.items()}
    agreement = pd.Series(dtype=float) if results.agreement is None else results.agreement
    columns["role", "agreement"] = agreement.rename(index=str).reindex(ids)
    return pd.DataFrame(columns).astype(float)


def _ranked(results: Results) -> list[str]:
    """Models that may be the best, the one whose contours are drawn first."""
    return list(dict.fromkeys([results.shown, *results.rivals]))


def image_data(
    results: Results, numbers: pd.DataFrame, views: Mapping[str, View], *, only_here: Collection[str]
) -> dict[str, Any]:
    """Return what the page's script reads, as plain values without NaN.

    Args:
        results: of the benchmark.
        numbers: by image.
        views: pictures by image.
        only_here: images whose pictures are nowhere else on the page.
    """
    score, models = results.score, [str(column[1]) for column in numbers.columns if column[0] == "model"]
    digits = known_score(score).digits
    found = [{**entry, "label": printable(entry["label"])} for entry in switches([*views.values()], results.raters)]
    listed: dict[str, Any] = {name: _plain(numbers["role", name], digits) for name in ("floor", "ceiling", "agreement")}
    agreement = "agreement of the raters" if results.agreement is None else str(results.agreement.name)
    return listed | {
        "score": printable(marked_title(score)),
        "lower": not known_score(score).higher_is_better,
        "axis": printable(agreement),
        "digits": digits,
        "ids": [printable(str(image_id)) for image_id in numbers.index],
        "anchors": [f"image-{image_id}" for image_id in numbers.index],
        "models": [printable(name) for name in models],
        "colours": [results.colours.get(name, "#888888") for name in models],
        "values": [_plain(numbers["model", name], digits) for name in models],
        "switches": found,
        "pictures": {
            place: _as_data(views[image_id])
            for place, image_id in enumerate(map(str, numbers.index))
            if image_id in views and image_id in only_here
        },
    }


def _plain(values: pd.Series, digits: int) -> list[float | None]:
    return [round(float(value), digits) if math.isfinite(value) else None for value in values]


def _as_data(view: View) -> dict[str, Any]:
    layers = [{name: value for name, value in layer._asdict().items() if value != ""} for layer in view.layers]
    return {"width": view.width, "height": view.height, "src": view.src, "layers": layers}


def _chosen(results: Results, numbers: pd.DataFrame, galleries: Sequence[Gallery]) -> Section:
    """The table of the images that are shown, for a page without script and for paper."""
    rows = []
    for gallery in galleries:
        for picture in gallery.pictures:
            if picture.view is None or picture.view.image_id not in numbers.index:
                continue
            image_id = picture.view.image_id
            row = numbers.loc[image_id]
            values = {name: row["role", name] for name in ("agreement", "ceiling", "floor")}
            why = picture.caption.partition(":")[0] if gallery.name == "ranked" else gallery.title
            values |= {"image": image_id, "anchor": f"image-{image_id}", "why": why.lower()}
            rows.append(values | {"model": row.get(("model", results.shown), math.nan), "score": results.score})
    columns = {
        "image": Column("image", "link"),
        "why": Column("chosen as", "text"),
        "model": Column(results.shown),
        "ceiling": Column("average rater"),
        "floor": Column("naive rater"),
        "agreement": Column("agreement"),
    }
    table, label = pd.DataFrame(rows), "Images that are shown"
    return Section(
        table=table, columns=columns, label=label, text=sentence(TEXTS, "chosen_images", results), note=results.note
    )
