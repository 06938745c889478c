"""Gleason 2019: maps of grades by up to six pathologists, each in a folder of their own."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from irrbench.convert.public.cases import Asked, Case, Drawing, Files, Listing, Packed, pack_mask
from irrbench.data.io import read_values, single_plane
from irrbench.data.readers import Problem, ReadError
from irrbench.data.values import all_values, values_text

GRADES = {"grade-4": (4, 5), "cancer": (3, 4, 5), "grade-5": (5,)}
_VALUES = {0, 1, 3, 4, 5, 6}  # 0, 1 and 6: benign, or nothing drawn


def read_gleason2019(files: Files, asked: Asked) -> Listing:
    """Gleason 2019: a map's folder names the pathologist, its file the core."""
    problems: list[Problem] = []
    images = files.by_key(r"(slide\d+_core\d+)\.(?:jpe?g|png|tiff?)", problems)
    maps = files.by_key(r"maps(\d)_t/(?:.*/)?(slide\d+_core\d+)_classimg_nonconvex\.png", problems)
    drawn: dict[str, dict[str, tuple[Drawing, ...]]] = defaultdict(dict)
    for (number, core), path in maps.items():
        drawn[core][f"pathologist{number}"] = (partial(_read_map, path, GRADES[asked.target]),)
    cases = [
        Case(core, image, drawn[core], {"slide": core.partition("_")[0]})
        for (core,), image in images.items()
        if core in drawn
    ]
    unmapped = len(images) - len(cases)
    problems += [
        Problem(core, "maps and no image", f"{core}.jpg in Train Imgs", "unpack Train Imgs.zip too")
        for core in sorted(drawn.keys() - {core for (core,) in images})
    ]
    note = f"{unmapped} cores without a map, as those of Test, are left out"
    return Listing(cases, problems, (note,) * bool(unmapped))


def _read_map(path: Path, grades: tuple[int, ...]) -> Packed:
    plane, _ = single_plane(read_values(path).array, path)
    values = all_values(plane)
    if not _VALUES.issuperset(values):
        raise ReadError(f"values {values_text(values)}", "grades 0, 1, 3, 4, 5 and 6", "download the map again")
    return pack_mask(np.isin(plane, grades))
