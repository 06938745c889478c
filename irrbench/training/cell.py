"""One cell of the grid: a model, a label strategy and a seed, trained and tested.

A cell is a function of its resolved configuration, whose digest names its folder. ``done.json`` is written last: with
it the results are whole, without it the cell goes on from the last epoch that was kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irrbench._files import read_frame, write_atomically, write_frame, write_json
from irrbench.config import ModelConfig, RulesConfig, TrainConfig, slug

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.data import RaterData

Mask = np.ndarray[Any, np.dtype[np.bool_]]
OnEpoch = Callable[[int, float], None]
DONE, RUN, LOCK, MASKS = "done.json", "run.json", "lock", "predictions.npz"


class CellError(RuntimeError):
    """A cell that ended without results; the message says what to do."""


@dataclass(frozen=True)
class CellConfig:
    """Everything that a cell's numbers depend on.

    Attributes:
        model: the model.
        label: label strategy.
        seed: of the initial weights, the order of images, the labels and the augmentation.
        train: training.
        scores: the main one first.
        rules: rules of the scores.
        data: name of the data.
        data_digest: digest of masks, splits and images.
        version: of this package.
        code: digests of the users' own classes, by import path.
    """

    model: ModelConfig
    label: str
    seed: int
    train: TrainConfig
    scores: tuple[str, ...]
    rules: RulesConfig
    data: str
    data_digest: str
    version: str
    code: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name this configuration; what a thing is called is no part of it."""
        plain = asdict(self) | {"data": None}
        plain["model"] |= {"name": None}
        plain["train"] |= {"num_workers": None}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


class Tracking(NamedTuple):
    """Where a cell's run is kept and how it looks there."""

    uri: str
    experiment: str
    colour: str


class CellResult(NamedTuple):
    """What a finished cell left behind."""

    name: str
    folder: Path
    table: pd.DataFrame  # per image, with bounds
    curve: pd.DataFrame  # per epoch
    facts: dict[str, Any]

    def prediction(self, image_id: str) -> Mask:
        """The predicted mask of a test image, ``(H, W)``."""
        with np.load(self.folder / MASKS) as stored:
            place = stored["ids"].tolist().index(image_id)
            sizes = stored["shapes"].prod(1)
            start, stop = (int(sizes[:end].sum()) for end in (place, place + 1))
            mask: Mask = np.unpackbits(stored["bits"], count=stop)[start:].astype(bool)
            return mask.reshape(stored["shapes"][place])


def cell_folder(output: Path, name: str, config: CellConfig) -> Path:
    """The folder of a cell; one made under another name is found again by the digest."""
    cells = output / "cells"
    return next(iter(sorted(cells.glob(f"*-{config.digest}"))), cells / f"{slug(name)}-{config.digest}")


def is_finished(folder: Path) -> bool:
    """Whether a cell's results are whole."""
    return (folder / DONE).is_file()


def load_cell(name: str, folder: Path) -> CellResult:
    """Read a finished cell."""
    facts: dict[str, Any] = json.loads((folder / DONE).read_text())
    return CellResult(name, folder, read_frame(folder / "per_image.csv"), read_frame(folder / "curve.csv"), facts)


def run_cell(
    name: str, config: CellConfig, data: RaterData, folder: Path, tracking: Tracking, on_epoch: OnEpoch | None = None
) -> None:
    """Train on the training images, choose the epoch on the validation images, test it, and write the results.

    Args:
        name: in results and in MLflow.
        config: the resolved configuration.
        data: the data it names.
        folder: where the results go.
        tracking: MLflow store, experiment and colour.
        on_epoch: told the epochs done and the main validation score.

    An attempt that was killed is taken up where its last epoch ended, in the same run of MLflow, and gives the same
    results as if nothing had happened.

    Raises:
        CellError: if the model has no usable predictions in the end.
    """
    from irrbench.training.checkpoints import LAST  # noqa: PLC0415 (Lightning and MLflow take seconds)
    from irrbench.training.fit import train_and_test  # noqa: PLC0415

    with seeded(config.seed):
        trained = train_and_test(name, config, data, folder, tracking, on_epoch)
    if trained is None:
        return
    write_frame(folder / "per_image.csv", trained.table)
    write_frame(folder / "curve.csv", trained.curve)
    write_atomically(folder / MASKS, lambda place: np.savez_compressed(place, **_packed(trained.predictions)))
    write_json(folder / DONE, {"name": name, "config": asdict(config), "digest": config.digest, **trained.facts})
    (folder / LAST).unlink(missing_ok=True)


def start_anew(folder: Path, tracking: Tracking) -> None:
    """Remove what earlier attempts left, their run in MLflow too, so that no model is listed twice."""
    from irrbench.training.fit import delete_run  # noqa: PLC0415

    delete_run(folder, tracking)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name != LOCK:
            path.unlink()


def _packed(masks: Mapping[str, Mask]) -> dict[str, Any]:
    """Masks by id as three plain arrays: ids may have any characters, sizes may differ."""
    return {
        "ids": np.array(list(masks)),
        "shapes": np.array([mask.shape for mask in masks.values()]),
        "bits": np.packbits(np.concatenate([mask.ravel() for mask in masks.values()])),
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers from a seed, and leave the caller's generator as it was."""
    import torch  # noqa: PLC0415

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
