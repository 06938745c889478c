"""Retinal vessels by two observers: DRIVE, CHASE_DB1 and STARE."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from irrbench.convert.public.cases import Asked, Case, Drawing, Files, Listing, read_packed, roi_of
from irrbench.convert.writing import attempt
from irrbench.data.readers import Problem

_PICTURE = r"(?:tiff?|gif|png|jpe?g|bmp|ppm(?:\.gz)?)"


def read_drive(files: Files, asked: Asked) -> Listing:  # noqa: ARG001 (one question, one layout)
    """DRIVE: the folder of a file says nothing that its name does not."""
    problems: list[Problem] = []
    images = files.by_key(rf"(\d\d)_(training|test)\.{_PICTURE}", problems)
    drawn = {
        f"observer{number}": files.by_key(rf"(\d\d)_manual{number}\.{_PICTURE}", problems) for number in ("1", "2")
    }
    fields = files.by_key(rf"(\d\d)_(training|test)_mask\.{_PICTURE}", problems)
    cases = [
        Case(
            f"{number}_{split}",
            image,
            _readers({rater: found.get((number,)) for rater, found in drawn.items()}),
            {"split": {"training": "train"}.get(split, split), "group": number},
            fields.get((number, split)),
        )
        for (number, split), image in images.items()
    ]
    if not fields:
        return Listing(cases, problems, ("no fields of view (mask/) are there: all pixels count",))
    expected = "one, as other images have"
    problems += [
        Problem(case.name, "no field of view", expected, f"add mask/{case.name}_mask.gif, or remove all of mask/")
        for case in cases
        if case.roi is None
    ]
    return Listing([case for case in cases if case.roi is not None], problems)


def read_chase(files: Files, asked: Asked) -> Listing:
    """CHASE_DB1: images, both observers and all else in one folder; groups are children."""
    problems: list[Problem] = []
    images = files.by_key(r"image_(\d\d)([lr])\.(?:jpe?g|png|tiff?)", problems)
    drawn = {
        f"observer{number}": files.by_key(rf"image_(\d\d)([lr])_{word}HO\.{_PICTURE}", problems)
        for number, word in ((1, "1st"), (2, "2nd"))
    }
    cases, regions = [], _regions(asked)
    for (child, side), image in images.items():
        roi = attempt(files.name(image), partial(roi_of, image, regions))
        if isinstance(roi, Problem):
            problems.append(roi)
            continue
        masks = _readers({rater: found.get((child, side)) for rater, found in drawn.items()})
        covariates = {"group": child, "eye": {"l": "left", "r": "right"}[side]}
        cases.append(Case(f"Image_{child}{side.upper()}", image, masks, covariates, roi))
    return Listing(cases, problems)


def read_stare(files: Files, asked: Asked) -> Listing:
    """STARE: the letters before the ending are the observer's."""
    problems: list[Problem] = []
    images = files.by_key(rf"im(\d{{4}})\.{_PICTURE}", problems)
    drawn = {rater: files.by_key(rf"im(\d{{4}})\.{rater}\.{_PICTURE}", problems) for rater in ("ah", "vk")}
    cases, regions = [], _regions(asked)
    for (number,), image in images.items():
        masks = _readers({rater: found.get((number,)) for rater, found in drawn.items()})
        if not masks:
            continue  # the archive of all images has 377 more
        roi = attempt(files.name(image), partial(roi_of, image, regions))
        if isinstance(roi, Problem):
            problems.append(roi)
            continue
        cases.append(Case(f"im{number}", image, masks, {}, roi))
    return Listing(cases, problems)


def _readers(paths: Mapping[str, Path | None]) -> dict[str, tuple[Drawing, ...]]:
    return {rater: (partial(read_packed, path),) for rater, path in paths.items() if path is not None}


def _regions(asked: Asked) -> Files | None:
    return None if asked.roi is None else Files(asked.roi)
