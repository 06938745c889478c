"""Which pictures the runs of an experiment logged, read from the names that MLflow gives the files."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

LOGGED_IMAGES_TAG = "mlflow.loggedImages"
MAX_RUNS = 20
_NAME = re.compile(r"images/(?P<key>.+?)[+%]step[+%](?P<step>\d+)[+%]")


def logged_pictures(client: Any, runs: Iterable[Any]) -> dict[str, int]:
    """Return for each picture's key the step at which most runs show it, the latest among equals.

    A chart of pictures opens at one step, and a run without a picture at that step shows an empty frame. Only the
    first twenty runs with pictures are asked, because each costs a request.
    """
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for run in [run for run in runs if LOGGED_IMAGES_TAG in run.data.tags][:MAX_RUNS]:
        paths = (file.path for file in client.list_artifacts(run.info.run_id, "images"))
        for key, step in {parsed for parsed in map(parse_name, paths) if parsed is not None}:
            counts[key][step] += 1
    return {key: max(steps, key=lambda step: (steps[step], step)) for key, steps in sorted(counts.items())}


def parse_name(path: str) -> tuple[str, int] | None:
    """Return key and step of a logged picture's file, None for any other file.

    >>> parse_name("images/val~nodule 1+step+14+timestamp+1795373672+6f0c+compressed.webp")
    ('val/nodule 1', 14)
    """
    match = _NAME.match(path)
    return None if match is None else (re.sub("[~#]", "/", match["key"]), int(match["step"]))
