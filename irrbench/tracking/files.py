"""The calls that write artifacts into a run: tables, pictures, files."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import numpy as np
from numpy.typing import NDArray

from irrbench.tracking.artifacts import open_artifacts
from irrbench.tracking.calls import call, log_tags
from irrbench.tracking.connection import StoredRun
from irrbench.tracking.names import call_name, call_names, file_name, safe_key, safe_part
from irrbench.tracking.records import EMPTY, Payload

if TYPE_CHECKING:
    import pandas as pd

LOGGED_ARTIFACTS_TAG = "mlflow.loggedArtifacts"
LOGGED_IMAGES_TAG = "mlflow.loggedImages"
P = ParamSpec("P")
_PICTURE_NAME = re.compile(r"images/(?P<key>.+?)[+%]step[+%](?P<step>\d+)[+%]")


def _one_at_a_time(function: Callable[Concatenate[StoredRun, P], None]) -> Callable[Concatenate[StoredRun, P], None]:
    """Let one process at a time write the files of a run, which may take long; its values are not waited for."""

    @wraps(function)
    def alone(run: StoredRun, /, *args: P.args, **kwargs: P.kwargs) -> None:
        with run.connection.alone(run.run_id):
            function(run, *args, **kwargs)

    return alone


# Tables.

TABLE_FOLDER = "per_image"


@call
@_one_at_a_time
def table(run: StoredRun, *, split: str, payload: Payload) -> None:
    """Write ``per_image/<split>.json`` and ``.parquet``, replacing what a former call wrote.

    MLflow's own ``log_table`` appends to a table that exists, which would list each image once per evaluation.
    """
    frame = unpack_table(payload.read())
    called = call_name(run, split, is_there=lambda form: _has(run, f"{TABLE_FOLDER}/{form}"))
    *parents, name = called.split("/")  # a split of several loaders is called val/<loader>
    target = "/".join([TABLE_FOLDER, *parents])
    with tempfile.TemporaryDirectory() as temporary:
        shown, exact = Path(temporary, f"{name}.json"), Path(temporary, f"{name}.parquet")
        frame.to_json(shown, orient="split", index=False, date_format="iso", double_precision=6)
        frame.to_parquet(exact, index=False)
        run.artifacts.log_artifact(str(shown), target)
        run.artifacts.log_artifact(str(exact), target)
    # MLflow's pages of runs and of comparisons find tables by this tag.
    announced = json.loads(run.read_tags().get(LOGGED_ARTIFACTS_TAG, "[]"))
    entry = {"path": f"{target}/{name}.json", "type": "table"}
    if entry not in announced:
        log_tags(run, {LOGGED_ARTIFACTS_TAG: json.dumps([*announced, entry])})


def pack_table(frame: pd.DataFrame) -> Payload:
    """Return a table of scores per image as the payload of a request, every number to its last digit.

    The table begins with the column ``image``, then come the scores in their order, without ``name`` and ``role``.

    Args:
        frame: one row per image; column ``image`` or ``image_id``, then one column per score, the main score first.

    Raises:
        ValueError: if there is no column of image ids.
    """
    found = frame.rename(columns={"image_id": "image"}).drop(columns=["name", "role"], errors="ignore")
    if "image" not in found.columns:
        raise ValueError(
            f"expected a table with a column 'image' (or 'image_id') and one column per score, "
            f"found {list(map(str, frame.columns))}. Rename the column that holds the image ids."
        )
    found["image"] = found["image"].astype(str)
    found = found[["image", *(column for column in found.columns if column != "image")]]
    columns = {str(name): [str(column.dtype), column.tolist()] for name, column in found.items()}
    return Payload(json.dumps(columns, default=str).encode())


def unpack_table(text: bytes) -> pd.DataFrame:
    """Return the table that :func:`pack_table` was given."""
    import pandas as pd  # noqa: PLC0415

    columns: dict[str, tuple[str, list[Any]]] = json.loads(text)
    return pd.DataFrame({name: pd.Series(values, dtype=dtype) for name, (dtype, values) in columns.items()})


# Pictures and other files.

THUMBNAIL = 256  # pixels of the longer side
MAX_PICTURE = 150  # characters of a key in a file's name, of which file systems take 255


@call
@_one_at_a_time
def picture(run: StoredRun, *, key: str, step: int, payload: Payload) -> None:
    """Write a picture and its thumbnail where MLflow's chart page looks for them.

    MLflow's own ``log_image`` puts a random number into the names, so that sending a picture again shows it twice.
    """
    import mlflow  # noqa: PLC0415

    content = payload.read()
    image: Any = mlflow.Image(np.load(io.BytesIO(content), allow_pickle=False)).image
    scale = THUMBNAIL / max(image.size)
    thumbnail = image.resize(tuple(max(1, int(side * scale)) for side in image.size))
    known = [Path(file.path).name for file in run.artifacts.list_artifacts("images")]
    called = _call_picture(run, key, known)
    created = run.time_of_test() if step == 0 and key.startswith("test/") else run.created
    start, time, identity = picture_name(run.run_id, called, step=step, timestamp=created, content=content)
    if any(name.startswith(start) and identity in name and time not in name for name in known):
        return  # scored again, with the same result
    with tempfile.TemporaryDirectory() as folder:
        for shown, ending in ((image, ".png"), (thumbnail, "+compressed.webp")):
            path = Path(folder, f"{start}{time}{identity}{ending}")
            shown.save(path)
            run.artifacts.log_artifact(str(path), "images")
    log_tags(run, {LOGGED_IMAGES_TAG: "True"})


def _call_picture(run: StoredRun, key: str, known: Iterable[str]) -> str:
    """Return the key of a picture as it may stand in a file's name: fewer characters than metrics have."""
    there = {f"images/{name.partition('+step+')[0].replace('~', '/')}/" for name in known}

    def is_there(form: str) -> bool:
        return any(name.startswith(f"{form}/") for name in there)

    name = f"images/{key}"
    return call_names(run, [name], safe=_picture_part, is_there=is_there, say=False)[name].removeprefix("images/")


def _picture_part(part: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_\-. ]", "_", safe_part(part))


def picture_name(run_id: str, key: str, *, step: int, timestamp: int, content: bytes) -> tuple[str, str, str]:
    """Return the parts of a picture's name: key and step, time, and what is the same for the same picture.

    >>> "".join(picture_name("0", "val/nodule_ 1", step=14, timestamp=1795373672, content=b"")[:2])
    'val~nodule_ 1+step+14+timestamp+1795373672+'
    """
    plain = safe_key(key, limit=MAX_PICTURE).replace("/", "~")
    identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id} {key} {step} {hashlib.sha256(content).hexdigest()}")
    return f"{plain}+step+{step}+timestamp+", f"{timestamp}+", str(identity)


def logged_pictures(client: Any, runs: Iterable[Any], *, most: int) -> dict[str, int]:
    """Return for each picture's key the step at which most runs show it, the latest among equals.

    A chart of pictures opens at one step, and a run without a picture at that step shows an empty frame.

    Args:
        client: an ``mlflow.MlflowClient``.
        runs: of which the first with pictures are read.
        most: how many; each costs a request.
    """
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for run in [run for run in runs if LOGGED_IMAGES_TAG in run.data.tags][:most]:
        paths = (file.path for file in open_artifacts(client.tracking_uri, run.info).list_artifacts("images"))
        for key, step in {parsed for parsed in map(parse_name, paths) if parsed is not None}:
            counts[key][step] += 1
    return {key: max(steps, key=lambda step: (steps[step], step)) for key, steps in sorted(counts.items())}


def parse_name(path: str) -> tuple[str, int] | None:
    """Return key and step of a logged picture's file, None for any other file.

    >>> parse_name("images/val~nodule 1+step+14+timestamp+1795373672+6f0c+compressed.webp")
    ('val/nodule 1', 14)
    """
    match = _PICTURE_NAME.match(path)
    return None if match is None else (re.sub("[~#]", "/", match["key"]), int(match["step"]))


def pack_picture(image: NDArray[np.uint8]) -> Payload:
    """Return a picture as the payload of a request, without the time that compressing takes.

    Args:
        image: uint8, ``(height, width, 3)``.

    Raises:
        ValueError: if it is of another type or shape.
    """
    if image.dtype.name != "uint8" or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"expected a uint8 picture of shape (height, width, 3), found {image.dtype} of shape {image.shape}. "
            "Scale to 0..255, convert, and repeat a single channel three times."
        )
    target = io.BytesIO()
    np.save(target, image, allow_pickle=False)
    return Payload(target.getvalue())


@call
@_one_at_a_time
def file(run: StoredRun, *, name: str, folder: str | None, payload: Payload = EMPTY) -> None:
    """Write a file into the run's artifacts."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, file_name(name))
        with path.open("wb") as target:
            payload.write_to(target)
        where = None if folder is None else call_name(run, folder, is_there=partial(_has, run))
        run.artifacts.log_artifact(str(path), where)


def _has(run: StoredRun, path: str) -> bool:
    """Whether a run has an artifact of this path, with whatever ending."""
    folder = path.rpartition("/")[0] or None
    return any(path in {file.path, file.path.rpartition(".")[0]} for file in run.artifacts.list_artifacts(folder))
