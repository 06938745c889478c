"""From tables per image to candidates: the same images in the same order, the seeds of a model together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from irrbench.benchmark.candidates import BLIND, Candidates
from irrbench.benchmark.resampling import Resampling
from irrbench.inference import Floats
from irrbench.plots import DISPLAY_NAMES
from irrbench.summary import fold_columns, name_column, score_names

BLIND_NAME = "best blind guess (blind)"
_BOUNDS = ("ceiling", "upper", "floor")


def make_candidates(
    tables: Mapping[str, pd.DataFrame],
    resampling: Resampling | None = None,
    *,
    models: Mapping[str, str] | None = None,
    blind: pd.DataFrame | None = None,
) -> Candidates:
    """Align tables, and gather the seeds of a model.

    Args:
        tables: per-image table by name, as :func:`irrbench.summary.bounds_table` gives, all of the same images.
        resampling: how intervals are made.
        models: model by the name of its table, where several tables are seeds of one model; each its own if not given.
        blind: per-image table of a prediction that never looked at the images.

    Raises:
        ValueError: if there is no table, tables are not of the same images, or raters are to be drawn and a table lacks
            the scores on each rater's reference.
    """
    resampling = resampling or Resampling()
    aligned = _align({**tables, **({} if blind is None else {BLIND_NAME: blind})}, count=len(tables))
    first = next(iter(aligned.values()))
    scores = score_names(first)
    by_model: dict[str, list[str]] = {}
    for name in tables:
        by_model.setdefault((models or {}).get(name, name), []).append(name)
    guesses = [] if blind is None else [BLIND_NAME]
    columns = [(first, role) for role in _BOUNDS] + [(aligned[name], "model") for name in [*guesses, *tables]]
    places = {name: len(_BOUNDS) + number for number, name in enumerate([*guesses, *tables])}
    folds = {score: _stack_folds(columns, score) for score in scores}
    complete = {score: stack for score, stack in folds.items() if stack is not None}
    if resampling.draws_raters and len(complete) < len(scores):
        raise ValueError(
            f"generalize={resampling.generalize!r} needs the scores on each rater's reference (columns such as "
            f"{scores[0]}_fold0), which the tables lack. Score the models again, or take generalize='images'."
        )
    return Candidates(
        names=(*(DISPLAY_NAMES[role] for role in _BOUNDS), *guesses, *by_model),
        roles=(*_BOUNDS, *[BLIND] * len(guesses), *["model"] * len(by_model)),
        members=(
            *((place,) for place in range(len(_BOUNDS))),
            *((places[name],) for name in guesses),
            *(tuple(places[name] for name in names) for names in by_model.values()),
        ),
        image_ids=tuple(str(image_id) for image_id in first.index),
        tables={s: np.column_stack([t[name_column(s, who)] for t, who in columns]).astype(float) for s in scores},
        folds=complete if len(complete) == len(scores) else {},
        resampling=resampling,
    )


def _stack_folds(columns: Iterable[tuple[pd.DataFrame, str]], score: str) -> Floats | None:
    stacks = [table[fold_columns(table, score, who)].to_numpy(dtype=float) for table, who in columns]
    widths = {stack.shape[1] for stack in stacks}
    return np.stack(stacks, axis=-1) if len(widths) == 1 and 0 not in widths else None


def _align(tables: Mapping[str, pd.DataFrame], *, count: int) -> dict[str, pd.DataFrame]:
    if not count:
        raise ValueError("There is no table of a model: at least one is needed for a leaderboard.")
    indexed = {name: table.set_index(table["image_id"].astype(str)) for name, table in tables.items()}
    reference, first = next(iter(indexed.items()))
    for name, table in indexed.items():
        if set(table.index) != set(first.index) or len(table) != len(first):
            raise ValueError(
                f"All models must be scored on the same images: {reference!r} has {len(first)}, {name!r} has "
                f"{len(table)}, {len(set(table.index) & set(first.index))} are common. Score both on one test split."
            )
    order = sorted(first.index)
    return {name: table.loc[order] for name, table in indexed.items()}
