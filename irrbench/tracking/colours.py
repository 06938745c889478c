"""Colours of runs: fixed for the bounds, from one palette for the models."""

from __future__ import annotations

from collections import Counter
from typing import Any

from irrbench.plots import MODEL_COLOURS
from irrbench.tracking.names import COLOUR_TAG, ROLE_TAG


def default_palette_colour(index: int) -> str:
    """Return the colour of the ``index``-th model as ``#rrggbb``; the palette starts again when it is used up."""
    return MODEL_COLOURS[index % len(MODEL_COLOURS)]


def least_used_colour(client: Any, experiment_id: str) -> str:
    """Return the palette colour that the fewest model runs of an experiment carry, the earliest among equals."""
    runs = client.search_runs([experiment_id], filter_string=f"tags.\"{ROLE_TAG}\" = 'model'", max_results=1000)
    used = Counter(run.data.tags.get(COLOUR_TAG) for run in runs)
    return min(MODEL_COLOURS, key=lambda colour: used[colour])
