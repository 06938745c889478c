"""Colours of runs: fixed for the bounds, from one palette for the models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from irrbench.plots import MODEL_COLOURS
from irrbench.tracking.names import COLOUR_TAG, ROLE_TAG


def default_palette_colour(index: int) -> str:
    """Return the colour of the ``index``-th model as ``#rrggbb``; the palette starts again when it is used up."""
    return MODEL_COLOURS[index % len(MODEL_COLOURS)]


def palette_beside(client: Any, experiment_id: str, names: Collection[str]) -> list[str]:
    """Return the palette, led by colours that no other models of an experiment carry.

    Args:
        client: an ``mlflow.MlflowClient``.
        experiment_id: id of the experiment.
        names: models whose own earlier runs do not count.
    """
    used = _used(client, experiment_id, apart_from=names)
    return sorted(MODEL_COLOURS, key=lambda colour: used[colour])


def least_used_colour(client: Any, experiment_id: str) -> str:
    """Return the palette colour that the fewest model runs of an experiment carry, the earliest among equals."""
    used = _used(client, experiment_id)
    return min(MODEL_COLOURS, key=lambda colour: used[colour])


def _used(client: Any, experiment_id: str, apart_from: Collection[str] = ()) -> Counter[str | None]:
    runs = client.search_runs([experiment_id], filter_string=f"tags.\"{ROLE_TAG}\" = 'model'", max_results=1000)
    return Counter(run.data.tags.get(COLOUR_TAG) for run in runs if run.info.run_name not in apart_from)
