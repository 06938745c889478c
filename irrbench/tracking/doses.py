"""Score over the dose of label noise: the calls that write it beside the raters' bounds, and what the keys are called.

A dose is at a step of a thousand times its value, because steps are whole numbers; charts take the dose itself, a
metric at the same steps, as their axis.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from irrbench.tracking.calls import call, log_points, log_tags
from irrbench.tracking.connection import StoredRun
from irrbench.tracking.names import MAX_FOLDER, apart, call_keys, entry_name, safe_key
from irrbench.tracking.records import RunAddress
from irrbench.tracking.reference_runs import find_pair, steps_of
from irrbench.tracking.store import BOUNDS_TAG, ROLE_TAG

ROBUSTNESS = "robustness"  # the role of a recipe's run, and where its keys begin
DOSE_KEY = f"{ROBUSTNESS}/dose"
CELL_DOSE = "noise/dose"  # of one trained model
RECIPE_TAG, NOISES_TAG = "irrbench.recipe", "irrbench.noises"
STEPS = 1000  # of dose 1


def curve_key(noise: str, score: str) -> str:
    """Return the key of a score over the doses of a noise; a noise that MLflow does not take gets digits of its own.

    The key depends on the name alone, as curves of all recipes, and the bounds, are drawn by it.

    >>> curve_key("boundary", "iou"), curve_key("grow 5% (a)", "iou")
    ('robustness/boundary/iou', 'robustness/grow 5_ _a_-e949b62f/iou')
    """
    safe = safe_key(noise, limit=MAX_FOLDER)
    return f"{ROBUSTNESS}/{safe if safe == noise else apart(safe, noise, limit=MAX_FOLDER, digits=8)}/{score}"


def noises_tag(noises: Collection[str]) -> str:
    """Return the value of the tag that lists the noises of a recipe's run.

    >>> noises_tag(["flip", "boundary renewed"])
    '["boundary renewed", "flip"]'
    """
    return json.dumps(sorted(noises))


def _listed(value: str | None) -> set[str] | None:
    """The noises that a tag lists; None where somebody has broken it."""
    try:
        found = json.loads(value or "")
    except ValueError:
        return None
    return set(map(str, found)) if isinstance(found, list) else None


def step_of(dose: float) -> int:
    """Return the step at which a dose is logged.

    >>> step_of(0.5)
    500
    """
    return round(STEPS * dose)


@call
def dose_bounds(
    run: StoredRun,
    model: Sequence[str],
    split: str,
    ceiling: Mapping[str, float],
    floor: Mapping[str, float],
    *,
    doses: Sequence[float],
) -> None:
    """Compare a run with the bounds of a model's run, and draw them over all doses so far as they are not there yet.

    Args:
        run: of a recipe.
        model: the address of a run of the same data and rules; without bounds of the split nothing is drawn.
        split: such as ``test``.
        ceiling: values by key.
        floor: likewise.
        doses: at which they are drawn.
    """
    tags, own = StoredRun(run.connection, RunAddress(*model)).read_tags(), f"{entry_name(split)}:"
    entry = next((entry for entry in tags.get(BOUNDS_TAG, "").split() if entry.startswith(own)), None)
    if entry is None:
        return
    log_tags(run, {BOUNDS_TAG: entry})
    values = {"ceiling": ceiling, "floor": floor}
    for role, one in find_pair(run, split, entry.removeprefix(own)).runs.items():
        lines = {key: dict.fromkeys(doses, value) for key, value in call_keys(run, values[role]).items()}
        lines[DOSE_KEY] = dict(zip(doses, doses, strict=True))
        known = {key: steps_of(one, key) for key in lines}
        new = [
            (key, value, one.created, step_of(dose))
            for key, line in lines.items()
            for dose, value in line.items()
            if step_of(dose) not in known[key]
        ]
        log_points(one, new)


@call
def supersede(run: StoredRun, recipe: str, noises: Collection[str]) -> None:
    """Delete earlier runs of the same recipe on the same data all of whose curves the run has, too.

    Values that a run has cannot be replaced in MLflow, so that other values, of more seeds, are another run.
    """
    own = run.client.get_run(run.run_id)
    for other in run.client.search_runs([run.experiment_id], f"tags.\"{ROLE_TAG}\" = '{ROBUSTNESS}'"):
        tags = other.data.tags
        is_same = tags.get(RECIPE_TAG) == recipe and tags.get(BOUNDS_TAG) == own.data.tags.get(BOUNDS_TAG)
        listed = _listed(tags.get(NOISES_TAG))
        is_within = listed is not None and listed <= set(noises)
        if is_same and is_within and other.info.start_time < own.info.start_time:
            run.client.delete_run(other.info.run_id)
