"""One MLflow run, and what irrbench writes into it."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irrbench.plots import MODEL_COLOURS, ROLE_COLOURS
from irrbench.tracking.store import BOUNDS_TAG, COLOUR_TAG, LOGGED_ARTIFACTS_TAG, ROLE_TAG, ROLES

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Tables and data sets in the form in which MLflow's pages show them.


TABLE_FOLDER = "per_image"
MAX_DIGEST = 36


def log_table(client: Any, run_id: str, split: str, frame: pd.DataFrame) -> None:
    """Write ``per_image/<split>.json`` and ``.parquet``, replacing what a former call wrote.

    MLflow's own ``log_table`` appends to a table that exists, which would list each image once per evaluation.
    """
    table = tidy_table(frame)
    *parents, name = split.split("/")  # a split of several loaders is called val/<loader>
    folder = "/".join([TABLE_FOLDER, *parents])
    with tempfile.TemporaryDirectory() as temporary:
        shown, kept = Path(temporary, f"{name}.json"), Path(temporary, f"{name}.parquet")
        table.to_json(shown, orient="split", index=False, date_format="iso", double_precision=6)
        table.to_parquet(kept, index=False)
        client.log_artifact(run_id, str(shown), folder)
        client.log_artifact(run_id, str(kept), folder)
    _announce_table(client, run_id, f"{folder}/{name}.json")


def tidy_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table as one run shows it: ``image`` first, then the scores in their order, no ``name`` and ``role``.

    Raises:
        ValueError: if there is no column ``image`` or ``image_id``.
    """
    table = frame.rename(columns={"image_id": "image"}).drop(columns=["name", "role"], errors="ignore")
    if "image" not in table.columns:
        raise ValueError(
            f"expected a table with a column 'image' (or 'image_id') and one column per score, "
            f"found {list(map(str, frame.columns))}. Rename the column that holds the image ids."
        )
    table["image"] = table["image"].astype(str)
    return table[["image", *(column for column in table.columns if column != "image")]]


def pack_table(table: pd.DataFrame) -> bytes:
    """Return a table as text that gives back every number to its last digit; cheap, and without a further library."""
    columns = {str(name): [str(column.dtype), column.tolist()] for name, column in table.items()}
    return json.dumps(columns, default=str).encode()


def unpack_table(text: bytes) -> pd.DataFrame:
    """Return the table that :func:`pack_table` was given."""
    import pandas as pd  # noqa: PLC0415

    columns: dict[str, tuple[str, list[Any]]] = json.loads(text)
    return pd.DataFrame({name: pd.Series(values, dtype=dtype) for name, (dtype, values) in columns.items()})


def describe_dataset(data: pd.DataFrame | Mapping[str, Any] | str, *, name: str, digest: str) -> dict[str, Any]:
    """Return the fields of an MLflow ``Dataset`` for a table of images, or for a description in words or fields."""
    schema, profile = None, None
    if isinstance(data, str | Mapping):
        source = json.dumps({"description": data} if isinstance(data, str) else dict(data), default=str)
    else:
        source = json.dumps({"description": name})
        schema, profile = _schema(data), json.dumps({"num_rows": len(data), "num_elements": int(data.size)})
    fields = {"name": name, "digest": _short(digest), "source_type": "code", "source": source}
    return {**fields, "schema": schema, "profile": profile}


def dataset_input(fields: Mapping[str, Any], *, split: str) -> Any:
    """Return an ``mlflow.entities.DatasetInput`` from the fields of :func:`describe_dataset`."""
    from mlflow.entities import Dataset, DatasetInput, InputTag  # noqa: PLC0415

    return DatasetInput(Dataset(**fields), [InputTag("mlflow.data.context", split)])


def _schema(frame: pd.DataFrame) -> str:
    kinds = {"i": "long", "u": "long", "f": "double", "b": "boolean", "M": "datetime"}
    columns = [
        {"type": kinds.get(dtype.kind, "string"), "name": str(column), "required": True}
        for column, dtype in frame.dtypes.items()
    ]
    return json.dumps({"mlflow_colspec": columns})


def _short(digest: str) -> str:
    """Return a digest that MLflow accepts (at most 36 characters), still a function of the whole."""
    return digest if len(digest) <= MAX_DIGEST else hashlib.sha256(digest.encode()).hexdigest()[:MAX_DIGEST]


def _announce_table(client: Any, run_id: str, path: str) -> None:
    """Add the table to the tag by which MLflow's run and comparison pages find tables."""
    tables = json.loads(client.get_run(run_id).data.tags.get(LOGGED_ARTIFACTS_TAG, "[]"))
    entry = {"path": path, "type": "table"}
    if entry not in tables:
        client.set_tag(run_id, LOGGED_ARTIFACTS_TAG, json.dumps([*tables, entry]))


# Pictures of runs, and which of them an experiment has, by the names that MLflow gives the files.


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


# Colours of runs: fixed for the bounds, from one palette for the models.


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


@dataclass(frozen=True)
class RunTracker:
    """Writes scores, tables, pictures and the configuration into one MLflow run.

    Nothing is sent when a tracker is made. Every method raises what MLflow raises (a server that is down, a full disk):
    whoever must not fail because of its tracking store catches it.

    Attributes:
        client: an ``mlflow.MlflowClient``; Lightning's ``MLFlowLogger.experiment`` is one.
        run_id: id of an existing run of that client's store.
    """

    client: Any
    run_id: str

    def log_scores(self, values: Mapping[str, float], *, step: int, timestamp: int | None = None) -> tuple[str, ...]:
        """Log scores in one request and return the keys left out because their value is NaN or infinite.

        Stores keep no NaN (one comes back as 0 from a database), so an undefined score is a missing point.

        Args:
            values: by key.
            step: the epoch, or 0.
            timestamp: milliseconds since 1970, now if not given. The same point with the same time is kept once.
        """
        finite = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        if finite:
            self._log_batch(finite, step=step, timestamp=timestamp)
        return tuple(key for key in values if key not in finite)

    def set_role(self, role: str, *, colour: str | None = None, bounds_id: str | None = None) -> None:
        """Tag the run with its role, its colour and the bounds it is to be read against.

        Args:
            role: ``model``, ``ceiling``, ``floor`` or ``upper``.
            colour: ``#rrggbb``; None keeps the run's colour, and a run without one gets the fixed colour of its role
                or, for a model, the palette colour least used in the experiment.
            bounds_id: such as ``val:1f3a test:99bc``; None leaves the tag alone.

        Raises:
            ValueError: if there is no such role.
        """
        if role not in ROLES:
            raise ValueError(f"expected a role out of {', '.join(ROLES)}, found {role!r}.")
        tags = {ROLE_TAG: role}
        chosen = colour or self._missing_colour(role)
        if chosen is not None:
            tags[COLOUR_TAG] = chosen
        if bounds_id is not None:
            tags[BOUNDS_TAG] = bounds_id
        self.set_tags(tags)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set several tags in one request."""
        from mlflow.entities import RunTag  # noqa: PLC0415

        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_per_image(self, split: str, frame: pd.DataFrame) -> None:
        """Write the scores of each image as ``per_image/<split>.json`` and ``.parquet``; a second call replaces it.

        Args:
            split: such as ``test``.
            frame: one row per image; column ``image`` or ``image_id``, then one column per score, the main score first.

        Raises:
            ValueError: if there is no column of image ids.
        """
        log_table(self.client, self.run_id, split, frame)

    def log_panel(self, key: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Log a picture, uint8 of shape (height, width, 3), that the chart page shows with a slider over steps.

        Raises:
            ValueError: if the array is no uint8 picture with three channels.
        """
        check_picture(image)
        log_picture(self.client, self.run_id, image, key=key, step=step, timestamp=int(time.time() * 1000))

    def log_figure(self, figure: Figure, path: str) -> None:
        """Write a matplotlib figure as an artifact, its format by the ending of ``path``."""
        self.client.log_figure(self.run_id, figure, path)

    def log_config(self, mapping: Mapping[str, Any], path: str = "config.yaml") -> None:
        """Write a configuration as an artifact, YAML or JSON by the ending of ``path``."""
        self.client.log_dict(self.run_id, dict(mapping), path)

    def log_file(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file into the run's artifacts, into ``folder`` where given."""
        self.client.log_artifact(self.run_id, str(path), folder)

    def log_dataset(self, data: pd.DataFrame | Mapping[str, Any] | str, *, name: str, digest: str, split: str) -> None:
        """Name the data behind the run's scores, so that MLflow lists it under "Datasets used".

        Args:
            data: a table of the images, or a description in words or fields (raters, kind of images).
            name: name of the data set.
            digest: digest of the data; one longer than 36 characters is hashed.
            split: such as ``test``.
        """
        fields = describe_dataset(data, name=name, digest=digest)
        self.client.log_inputs(self.run_id, [dataset_input(fields, split=split)])

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.client.set_terminated(self.run_id, status)

    def _log_batch(self, values: Mapping[str, float], *, step: int, timestamp: int | None) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415

        now = int(time.time() * 1000) if timestamp is None else timestamp
        self.client.log_batch(self.run_id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def _missing_colour(self, role: str) -> str | None:
        run = self.client.get_run(self.run_id)
        if COLOUR_TAG in run.data.tags:
            return None
        return ROLE_COLOURS.get(role) or least_used_colour(self.client, run.info.experiment_id)


def source_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags with those by which MLflow names the user, the script and its version; no store is asked."""
    from mlflow.tracking.context.registry import resolve_tags  # noqa: PLC0415

    return {str(key): str(value) for key, value in resolve_tags(dict(tags)).items()}
