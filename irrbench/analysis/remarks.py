"""What a reader must know beside the numbers of a benchmark: cautions, and what could not be said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from irrbench.analysis.candidates import Candidates, Resampling
from irrbench.analysis.tables import normalize
from irrbench.analysis.verdicts import share_by_image
from irrbench.evidence import EVIDENCE
from irrbench.folds import Ties
from irrbench.plots.style import DISPLAY_NAMES
from irrbench.plots.words import percent_of, score_title
from irrbench.scores import DETECTION_SCORES, EmptyReference, record
from irrbench.stats import MIN_GROUPS_FOR_SKEWED_SCORES, smallest_p

_OF_EMPTY = {
    "drop": "are undefined there, so that a mark where nobody sees anything costs nothing",
    "score": "are the best value for no mark there and the worst for any, and mix finding with drawing",
}
_HALF_EMPTY = (
    " A reference that is empty only where ties are read as background counts half, and everybody's score on it is "
    "that of the other reading."
)
_MANY_BLANKS = 0.05  # of the references, from which on distances to a border that is not there are named
_MUCH = 0.5  # of the way from naive to average rater, above which a blank mask makes a normalized score say little


def find_cautions(
    table: pd.DataFrame,
    candidates: Candidates,
    of_models: Sequence[Mapping[str, str]],
    *,
    ties: Ties,
    empty_reference: EmptyReference,
) -> Iterator[str]:
    """What makes numbers mean something else than they seem to: models that may have seen the masks, the raters.

    Args:
        table: per-image table of one model.
        candidates: everybody who is compared.
        of_models: cautions about single models, by name.
        ties: how the tables were made, see :func:`irrbench.segmentation_bounds`.
        empty_reference: likewise.
    """
    yield from (f"{name}: {text}" for found in of_models for name, text in found.items())
    yield from _caution_on_blanks(candidates)
    is_empty, rule = table["empty"] > 0, empty_reference
    titles = [short(score) for score in of_marks(candidates.scores) if record(score).takes_empty or rule == "drop"]
    if is_empty.any() and titles:
        yield (
            f"{percent_of(table['empty'].mean())} of the references mark nothing (on {is_empty.sum()} of {len(table)} "
            f"images). Values of {in_words(titles)} {_OF_EMPTY[rule]}: read them with "
            f"{in_words([record(score).title for score in DETECTION_SCORES])}."
            + (_HALF_EMPTY if ties == "average" and (table["tied"] > 0)[is_empty].any() else "")
        )
    rated = _numbers_of_raters(table)
    if len(set(rated)) > 1:
        yield (
            f"Images have {min(rated)} to {max(rated)} raters. The same mask usually scores higher on the majority of "
            "more raters, so neither ceilings nor models compare between images, subgroups or data sets with different "
            f"numbers of raters. The row '{DISPLAY_NAMES['ceiling_of_two']}' does not depend on that number."
        )


def of_marks(scores: Sequence[str]) -> list[str]:
    """Those that are undefined where the reference is empty, but for detection."""
    return [score for score in scores if score not in DETECTION_SCORES and record(score).needs_positives]


def short(score: str) -> str:
    """Its title without what stands in brackets."""
    return record(score).title.partition(" (")[0]


def _caution_on_blanks(candidates: Candidates) -> Iterator[str]:
    """Who is at the diagonal on a relevant share of the references, having marked nothing where they mark something."""
    distances = [score for score in candidates.folds if record(score).is_distance]
    if not distances:
        return
    score, blank = distances[0], list(candidates.members[candidates.place("blank")])[:1]
    is_blank = candidates.folds[score] == candidates.folds[score][:, :, blank]
    places = (candidates.place("ceiling"), *candidates.models) if candidates.counted(score).any() else ()
    of = {place: float(np.nanmean(share_by_image(candidates, score, is_blank, place))) for place in places}
    found = [f"{candidates.names[p]} on {percent_of(part)}" for p, part in of.items() if part >= _MANY_BLANKS]
    if found:
        yield (
            f"A mask without marks is as far as the diagonal of the image: {', '.join(found)} of the references that "
            f"mark something. Values of {in_words([record(score).title for score in distances])} there say who marks "
            "nothing, not how far borders are."
        )


def in_words(names: Sequence[str]) -> str:
    """Names as a list in a sentence.

    >>> in_words(["a", "b", "c"])
    'a, b and c'
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _numbers_of_raters(table: pd.DataFrame) -> list[int]:
    """Of the images that have bounds."""
    return [int(number) for number in table["n_raters"] if number >= 2]


def notes_on_scores(table: pd.DataFrame, candidates: Candidates, no_shares: Mapping[str, str]) -> Iterator[str]:
    """Which scores are not normalized or not defined everywhere, and what the ceiling of two raters is."""
    by_reason: dict[str, list[str]] = {}
    for score, reason in no_shares.items():
        by_reason.setdefault(reason, []).append(score_title(score))
    yield from (f"No normalized {in_words(titles)}: {reason}." for reason, titles in by_reason.items())
    blank = candidates.place("blank")
    for score in (score for score in candidates.scores if score not in no_shares):
        if record(score).one_sided:
            is_mask = EVIDENCE[record(score).evidence].takes == "mask"
            how = "marking more, or less," if is_mask else "the same guess for all pixels"
            error = f"it sees one kind of error only, and {how} avoids that"
            yield f"The normalized {score_title(score)} says little alone: {error}."
        elif normalize(candidates, score)[blank].value > _MUCH:
            reached = percent_of(normalize(candidates, score)[blank].value)
            why = ", as the background counts" * record(score).counts_background
            yield f"The normalized {score_title(score)} says little{why}: a blank mask is at {reached}."
    voteless = [score_title(score) for score in candidates.scores if record(score).evidence != "patterns"]
    if voteless:
        yield f"No best possible mask for {', '.join(voteless)}: the search needs a score that is a function of votes."
    if set(_numbers_of_raters(table)) == {2}:
        yield "Images have two raters: each is scored on the other alone, so the ceiling is the agreement of the pair."
    images = len(candidates.image_ids)
    by_count: dict[int, list[str]] = {}
    for score in candidates.scores:
        by_count.setdefault(int(candidates.counted(score).sum()), []).append(score)
    for defined, scores in by_count.items():
        if defined < images:
            verb = "is" if len(scores) == 1 else "are"
            yield f"{in_words(scores)} {verb} defined on {defined} of {images} scored images."


def notes_on_tests(candidates: Candidates, margins: Mapping[str, float] | None, pairs: int) -> Iterator[str]:
    """What data, configuration and number of resamples leave without an answer.

    Args:
        candidates: everybody who is compared.
        margins: by score, those that were declared.
        pairs: comparisons in the largest family.
    """
    options, models = candidates.resampling, candidates.models
    groups = len(set(candidates.groups))
    if groups == 1:
        yield "One image or group: there is no interval and no test."
    elif groups < MIN_GROUPS_FOR_SKEWED_SCORES:
        yield (
            f"Only {groups} independent images or groups: below {MIN_GROUPS_FOR_SKEWED_SCORES}, intervals of skewed "
            "scores are too short."
        )
    if not set(margins or {}) & set(candidates.scores):
        main = candidates.scores[0]
        example = 1 if record(main).is_distance else 0.02 if record(main).digits <= 3 else 0.001
        yield (
            "No margin is declared, so non-inferiority to the average rater is not tested: set statistics.margins, "
            f"such as {{{main}: {example}}}, before looking at the results."
        )
    single = [candidates.names[place] for place in models if len(candidates.members[place]) == 1]
    if options.spread_over_seeds and single:
        yield (
            f"Trained from one seed only, so the spread between seeds is unknown: {', '.join(single)}. Train several "
            "(seeds: [0, 1, 2])."
        )
    groups = max(groups, 2)
    if 2 * pairs * smallest_p(groups, options.resamples, method=options.method) >= 1 - options.level:
        yield (
            f"{pairs} comparisons of {len(models)} models on {groups} images or groups cannot become significant with "
            f"{options.resamples} resamples, however large the differences: raise statistics.resamples, or use "
            "Student's intervals."
        )
    if not candidates.folds:
        yield (
            "No alternative annotator test: these results come from a version that did not store scores on each "
            "rater's reference; score the models again."
        )


def resampling_in_words(resampling: Resampling, *, unit: str) -> str:
    """How the intervals were made.

    Args:
        resampling: the options.
        unit: what is resampled: images, or groups of images.

    Example:
        >>> resampling_in_words(Resampling(), unit="images")
        "95%, Hall's, by the spread and skewness over images"
        >>> resampling_in_words(Resampling(interval="student", generalize="raters"), unit="images")
        "a description, no 95% interval: Student's, by the spread over images and over raters (each left out)"
    """
    how = {
        "hall": "Hall's, by the spread and skewness",
        "student": "Student's, by the spread",
        "expanded": "bootstrap quantiles widened as Student's",
        "percentile": "bootstrap quantiles",
        "bca": "bias-corrected and accelerated bootstrap quantiles",
    }[resampling.method]
    if resampling.method in ("hall", "student"):
        seeds, raters = "over seeds", "over raters (each left out)"
        units = [f"over {unit}"] + [seeds] * resampling.spread_over_seeds + [raters] * resampling.spread_over_raters
    else:
        how = f"{how}, {resampling.resamples} paired resamples"
        units = [f"of {unit}"] + ["of seeds"] * resampling.spread_over_seeds
    *first, last = units
    what = (
        f"a description, no {resampling.level:.0%} interval:"
        if resampling.spread_over_raters
        else f"{resampling.level:.0%},"
    )
    return f"{what} {how} {' and '.join([', '.join(first), last] if first else [last])}"
