"""Converts the downloaded files of a public set into a data folder, and says what its use costs."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irrbench.convert.public import OPTIONS, PUBLIC_SETS, PublicSet
from irrbench.convert.public.cases import Asked, Case, Drawing, Files, Listing, Packed
from irrbench.convert.values import Shape
from irrbench.convert.writing import Converted, Source, attempt, write_folder
from irrbench.data.io import in_threads, read_header, read_single_mask
from irrbench.data.problems import many
from irrbench.data.readers import Mask, Problem, check_shape, size_text
from irrbench.data.values import Rule, decide

_VALIDATION = 5  # one in so many training images, where no validation images are published
_REMEDY = "download it again, or bring it to its image's size"


class _Drawn(NamedTuple):
    """A case with the masks that could be read."""

    case: Case
    masks: Mapping[str, Sequence[Packed]]


def convert_public(
    name: str,
    source: str | Path,
    output: str | Path,
    *,
    target: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,
) -> Converted:
    """Convert the downloaded files of a public set into a data folder.

    A mask that cannot be read, has another size than its image, or values that its rater's other masks do not have is
    left out and listed; so is an image that loses all its masks, or all but one where sets of several raters are meant.

    Args:
        name: of the set, a key of :data:`~irrbench.convert.public.PUBLIC_SETS`.
        source: the folder of the unpacked files; folders may lie between.
        output: the new data folder.
        target: the question, where the set has several.
        overwrite: whether an earlier data folder at ``output`` is replaced.
        progress: whether to show a bar where it takes over two seconds.
        options: ``roi`` and ``images``, folders of such files; ``window``, ``every_slice`` and ``sequence`` of volumes;
            each of the sets that list it alone.

    Raises:
        ValueError: an unknown set, target or option.
        DataError: no file that the set's layout names, or nothing to convert.

    Example:
        >>> convert_public("drive", "DRIVE/", "data/", target="cup")
        Traceback (most recent call last):
        ...
        ValueError: target='cup': expected vessels, the target of drive
    """
    about = PUBLIC_SETS.get(name)
    if about is None:
        raise ValueError(f"name={name!r}: expected one of {', '.join(PUBLIC_SETS)}")
    asked = _asked(name, about, target, options, progress=progress)
    files = Files(Path(source))
    module, _, function = about.reader.partition(".")
    listing: Listing = getattr(import_module(f"irrbench.convert.public.{module}"), function)(files, asked)
    if not listing.cases and not listing.problems:
        chosen = f" (target {asked.target})" if len(about.targets) > 1 else ""
        raise files.nothing(f"{about.layout}{chosen}", about.url)
    drawn, problems = _read_masks(listing.cases, progress=progress)
    kept, alone = _keep(drawn, singles=about.keeps_singles)
    kept, split_notes = _with_validation(kept, {case.covariates.get("split") for case in listing.cases})
    notes = [*listing.notes, *alone, *split_notes]
    shapes: dict[str, Shape] = {}
    entries: list[Source | Problem] = [*listing.problems, *problems, *(_source(each, shapes) for each in kept)]
    facts = {"format": about.title, "set": name, "target": asked.target, "licence": about.licence}
    facts |= {"citation": about.citation, "doi": about.doi, "url": about.url}
    remedy = f"give the folder above, which holds all files of the set: {about.layout}"
    options = {"overwrite": overwrite, "progress": progress, "notes": notes, "remedy": remedy}
    done = write_folder(entries, Path(output), facts=facts, **options)
    left_out = {problem.file for problem in done.left_out}
    costs = _costs([each for each in kept if each.case.name not in left_out], shapes)
    return replace(done, notes=(*done.notes, *costs, *about.cautions), terms=_terms(about))


def _asked(name: str, about: PublicSet, target: str | None, options: Mapping[str, Any], *, progress: bool) -> Asked:
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    for key in given:
        if key not in OPTIONS or key not in about.options:
            expected = ", ".join(about.options) or "no options"
            raise ValueError(f"{key}: no option of {name}; expected {expected}")
    if target is None and len(about.targets) == 1:
        target = next(iter(about.targets))
    if target is None or target not in about.targets:
        kind = "the target" if len(about.targets) == 1 else "a target"
        raise ValueError(f"target={target!r}: expected {', '.join(about.targets)}, {kind} of {name}")
    low, high = given.get("window", (0, 1))
    if not low < high:
        raise ValueError(f"window={given['window']}: expected Hounsfield units, the lower first")
    for key in ("roi", "images"):
        if key in given:
            given[key] = Path(given[key])
    return Asked(target, **given, progress=progress)


def _read_masks(cases: Sequence[Case], *, progress: bool) -> tuple[list[_Drawn], list[Problem]]:
    """All masks, once their rater's values are decided, and a problem for each that is left out."""
    results = in_threads(_read_case, cases, label="reading masks", progress=progress)
    problems = [problem for _, found in results for problem in found]
    drawn = [each for each, _ in results]
    by_rater: dict[str, dict[str, Packed]] = defaultdict(dict)
    for each in drawn:
        for rater, masks in each.masks.items():
            for number, mask in enumerate(masks):
                by_rater[rater][_label(each.case, rater, number)] = mask
    odd: dict[str, Problem] = {}
    for rater, packed in by_rater.items():
        _, found = decide(rater, {label: mask.facts for label, mask in packed.items()}, Rule())
        odd |= {problem.file: problem for problem in found}
    return [_without(each, odd) for each in drawn], [*problems, *odd.values()]


def _read_case(case: Case) -> tuple[_Drawn, list[Problem]]:
    """The masks of a case that can be read and have its image's size."""
    masks: dict[str, list[Packed]] = {}
    problems = []
    shape = attempt(case.name, partial(_shape, case))
    if isinstance(shape, Problem):
        return _Drawn(case, {}), [shape]
    for rater, drawings in case.masks.items():
        for number, drawing in enumerate(drawings):
            made = attempt(_label(case, rater, number), partial(_checked, drawing, shape))
            if isinstance(made, Problem):
                problems.append(made)
            else:
                masks.setdefault(rater, []).append(made)
    return _Drawn(case, masks), problems


def _shape(case: Case) -> Shape | None:
    """The size of an image's file; None where its pixels are made."""
    if not isinstance(case.image, Path):
        return None
    height, width = read_header(case.image).shape[1:]
    return height, width


def _checked(drawing: Drawing, shape: Shape | None) -> Packed:
    made = drawing if isinstance(drawing, Packed) else drawing()
    if shape is not None:
        check_shape(made.shape, shape, _REMEDY)
    return made


def _without(each: _Drawn, odd: Mapping[str, Problem]) -> _Drawn:
    kept = {
        rater: [mask for number, mask in enumerate(masks) if _label(each.case, rater, number) not in odd]
        for rater, masks in each.masks.items()
    }
    return each._replace(masks={rater: masks for rater, masks in kept.items() if masks})


def _label(case: Case, rater: str, number: int) -> str:
    return f"{case.name} by {rater}" + (f", drawing {number + 1}" if number else "")


def _keep(drawn: Sequence[_Drawn], *, singles: bool) -> tuple[list[_Drawn], list[str]]:
    least = 1 if singles else 2
    kept = [each for each in drawn if len(each.masks) >= least]
    left = len(drawn) - len(kept)
    word = "no mask" if singles else "masks of fewer than two raters"
    return kept, [f"{many(left, 'image')} with {word} left out: nobody to compare with"] * bool(left)


def _with_validation(drawn: list[_Drawn], splits: Set[object]) -> tuple[list[_Drawn], list[str]]:
    """The published split, completed where it has no validation or no test images."""
    if splits == {"train", "test"}:
        note = "validation"
    elif splits == {"train", "val"}:
        note = "test"
        drawn = [_changed(each, {"split": "test"}) if _split(each) == "val" else each for each in drawn]
    else:
        return drawn, []
    groups = sorted({str(_group(each)) for each in drawn if _split(each) == "train"})
    chosen = set(groups[_VALIDATION - 1 :: _VALIDATION])
    changed = [
        _changed(each, {"split": "val"}) if _split(each) == "train" and str(_group(each)) in chosen else each
        for each in drawn
    ]
    used = "" if note == "validation" else "the published validation images are test; "
    text = f"no {note} images are published: {used}every fifth of the training images (or patients) is val"
    return changed, [f"{text} (column published_split keeps what was published)"]


def _split(each: _Drawn) -> object:
    return each.case.covariates.get("split")


def _group(each: _Drawn) -> object:
    return each.case.covariates.get("group", each.case.name)


def _changed(each: _Drawn, covariates: Mapping[str, object]) -> _Drawn:
    published = each.case.covariates
    kept = {"published_split": published.get("published_split", published.get("split"))}
    return each._replace(case=each.case._replace(covariates={**published, **covariates, **kept}))


def _source(each: _Drawn, shapes: dict[str, Shape]) -> Source:
    """What is written of a case; the image's size is noted down."""
    case = each.case

    def draw(shape: Shape) -> Iterator[tuple[str, list[Mask]]]:
        shapes[case.name] = shape
        for rater, masks in each.masks.items():
            for mask in masks:
                check_shape(mask.shape, shape, _REMEDY, name=f"{rater}: ")
            yield rater, [mask.mask() for mask in masks]

    return Source(case.name, tuple(each.masks), case.covariates, partial(_image, case), draw, roi=_region(case))


def _image(case: Case) -> Path | NDArray[np.generic]:
    return case.image if isinstance(case.image, Path) else case.image()


def _region(case: Case) -> Callable[[], Mask] | None:
    return None if case.roi is None else partial(read_single_mask, case.roi)


def _costs(drawn: Sequence[_Drawn], shapes: Mapping[str, Shape]) -> Iterable[str]:
    """What raters, splits and sizes mean for a benchmark."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for each in drawn:
        counts[str(_split(each) or "all images")][len(each.masks)] += 1
    for split, by_number in counts.items():
        parts = (f"{many(number, 'rater')} on {many(by_number[number], 'image')}" for number in sorted(by_number))
        yield f"{split}: {', '.join(parts)}"
    numbers = {number for by_number in counts.values() for number in by_number}
    if 2 in numbers:
        yield (
            "2 raters: each is compared with the other alone. The ceiling is how well this pair agrees, and a majority "
            "of both is a tie wherever they differ (rules.ties)."
        )
    tied = [str(number) for number in sorted(numbers) if number > 2 and number % 2]
    if tied:
        yield (
            f"{' or '.join(tied)} raters: the majority of the others, of whom there is an even number, has ties "
            "(rules.ties)."
        )
    sizes = sorted({shapes[each.case.name] for each in drawn if each.case.name in shapes}, key=math.prod)
    if len(sizes) == 1:
        yield f"all images have {size_text(sizes[0])} pixels (height x width)"
    elif sizes:
        yield (
            f"{len(sizes)} sizes, from {size_text(sizes[0])} to {size_text(sizes[-1])} (height x width): distances in "
            "pixels do not compare, and folder.max_side brings them nearer"
        )


def _terms(about: PublicSet) -> tuple[str, ...]:
    link = about.doi if about.doi.startswith("http") else f"https://doi.org/{about.doi}"
    return (
        f"Licence: {about.licence}. The terms on {about.url} hold.",
        f"Cite: {about.citation}. {link}",
    )
