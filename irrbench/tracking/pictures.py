"""Pictures of runs, and which of them an experiment has, by the names that MLflow gives the files."""

from __future__ import annotations

import io
import re
import tempfile
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOGGED_IMAGES_TAG = "mlflow.loggedImages"
MAX_RUNS = 20
THUMBNAIL = 256
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


def check_picture(image: NDArray[np.uint8]) -> None:
    """Check that an array is a picture.

    Raises:
        ValueError: if it is not uint8 of shape (height, width, 3).
    """
    if image.dtype.name != "uint8" or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"expected a uint8 picture of shape (height, width, 3), found {image.dtype} of shape {image.shape}. "
            "Scale to 0..255, convert, and repeat a single channel three times."
        )


def log_picture(client: Any, run_id: str, image: NDArray[np.uint8], *, key: str, step: int, timestamp: int) -> None:
    """Write a picture and its thumbnail where MLflow's chart page looks for them.

    MLflow's own ``log_image`` puts a random number into the names, so that sending a picture again shows it twice.
    """
    import mlflow  # noqa: PLC0415

    stem = picture_stem(run_id, key, step=step, timestamp=timestamp)
    picture: Any = mlflow.Image(image).image
    scale = THUMBNAIL / max(picture.size)
    thumbnail = picture.resize(tuple(max(1, int(side * scale)) for side in picture.size))
    with tempfile.TemporaryDirectory() as folder:
        for shown, name in ((picture, f"{stem}.png"), (thumbnail, f"{stem}+compressed.webp")):
            shown.save(Path(folder, name))
            client.log_artifact(run_id, str(Path(folder, name)), "images")
    client.set_tag(run_id, LOGGED_IMAGES_TAG, "True")


def picture_stem(run_id: str, key: str, *, step: int, timestamp: int) -> str:
    """Return the name of a picture's files: always the same for the same run, key, step and time.

    >>> parse_name("images/" + picture_stem("0", "val/nodule: 1", step=14, timestamp=1795373672) + ".png")
    ('val/nodule_ 1', 14)
    """
    plain = re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", key).replace("/", "~")
    identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id} {key} {step} {timestamp}")
    return f"{plain}+step+{step}+timestamp+{timestamp}+{identity}"


def pack_picture(image: NDArray[np.uint8]) -> bytes:
    """Return a picture as bytes, without the time that compressing takes."""
    import numpy as np  # noqa: PLC0415

    target = io.BytesIO()
    np.save(target, image, allow_pickle=False)
    return target.getvalue()


def unpack_picture(data: bytes) -> NDArray[np.uint8]:
    """Return the picture that :func:`pack_picture` was given."""
    import numpy as np  # noqa: PLC0415

    picture: NDArray[np.uint8] = np.load(io.BytesIO(data), allow_pickle=False)
    return picture
