"""A run for each recipe of a grid with label noise: its score over the dose, a line for each noise."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from irrbench._looks import MODEL_COLOURS
from irrbench.tracking.doses import DOSE_KEY, NOISES_TAG, RECIPE_TAG, ROBUSTNESS, curve_key, noises_tag, step_of
from irrbench.tracking.run import Run
from irrbench.tracking.store import COLOUR_TAG, NOTE_TAG, ROLE_TAG

if TYPE_CHECKING:
    import pandas as pd

NOTE = (
    "Score on the test images over the dose of noise in the training labels, means over seeds. "
    "Dose 1 is the disagreement of one average rater."
)


def log_dose_curves(frame: pd.DataFrame, score: str, *, beside: Run, bounds: tuple[float, float]) -> dict[str, Run]:
    """Give each recipe a run with its score over the dose, and the reference runs level lines beside it.

    The keys are ``robustness/<noise>/<score>``, so that the runs are in no chart and in no order of trained models. A
    second call with the same values changes nothing. Other values, as of more seeds, make a new run, which takes the
    place of an earlier one. While the store is down, everything waits in the spool.

    Args:
        frame: ``recipe``, ``noise``, ``dose`` and the score, one row for each dose; other columns are passed over.
        score: its name; a row where it is NaN is left out.
        beside: the run of one of the models, with a key: these runs are made in its store and experiment, and compared
            with its bounds on the test images.
        bounds: of the score, the naive rater's and the average rater's mean.

    Returns:
        The runs by recipe, in the frame's order.

    Raises:
        KeyError: if a column is missing.
        ValueError: for a run without a key.
    """
    if not beside.address.key:
        raise ValueError("expected the run of a model with a key, as Run.new gives, found one with an id alone.")
    runs = {}
    for place, (recipe, rows) in enumerate(frame.groupby("recipe", sort=False)):
        curves = {
            str(noise): {float(dose): float(value) for dose, value in zip(one["dose"], one[score], strict=True)}
            for noise, one in rows.dropna(subset=[score]).groupby("noise", sort=False)
        }
        key = hashlib.sha256(json.dumps([recipe, score, bounds, curves]).encode()).hexdigest()[:32]
        run = runs[str(recipe)] = Run.new(beside.tracking_uri, beside.address.experiment, key=key, spool=beside.spool)
        tags = {ROLE_TAG: ROBUSTNESS, RECIPE_TAG: str(recipe), NOISES_TAG: noises_tag(curves), NOTE_TAG: NOTE}
        tags |= {COLOUR_TAG: MODEL_COLOURS[place % len(MODEL_COLOURS)], "mlflow.source.name": "irrbench"}
        run.create(run_name=f"{recipe} over dose", tags=tags)
        _log_curves(run, curves, score, beside=beside, bounds=bounds)
        run.supersede(str(recipe), sorted(curves))
        run.finish()
    return runs


def _log_curves(
    run: Run, curves: Mapping[str, Mapping[float, float]], score: str, *, beside: Run, bounds: tuple[float, float]
) -> None:
    """Log a recipe's points dose by dose, and the bounds at the same doses."""
    doses = sorted({dose for curve in curves.values() for dose in curve})
    for dose in doses:
        values = {curve_key(noise, score): curve[dose] for noise, curve in curves.items() if dose in curve}
        run.log_scores({DOSE_KEY: dose} | values, step=step_of(dose))
    floor, ceiling = ({curve_key(noise, score): value for noise in curves} for value in bounds)
    lines = [{key: value for key, value in line.items() if math.isfinite(value)} for line in (ceiling, floor)]
    run.log_dose_bounds(list(beside.address), "test", *lines, doses=doses)
