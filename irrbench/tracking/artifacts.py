"""Tables and data sets in the form in which MLflow's pages show them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irrbench.tracking.names import LOGGED_ARTIFACTS_TAG

if TYPE_CHECKING:
    import pandas as pd

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
