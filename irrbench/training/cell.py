"""Cells of the grid: what they are called, what identifies them, and what a finished one leaves behind.

A cell is one model, trained by one loss on one kind of label, spoilt or not, from one seed. Its *name* comes from a
mapping of axes. Its *digest* comes from its resolved configuration and is the end of its folder's name. ``done.json``
is written last: with it, the results in the folder are complete; without it, the cell is resumed from the last epoch
that was saved. It holds the SHA-256 of the other results: a cell whose files are damaged is trained again. Cells that
were finished before there were digests stay finished while their files can be read and have the test images.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from irrbench._files import try_lock
from irrbench.config import BenchmarkConfig, RulesConfig, slug
from irrbench.grid_config import LossConfig, ModelConfig, TrainConfig
from irrbench.training.axes import cell_colours, cell_names, check_grid, grid_rows
from irrbench.training.batches import check_scored, check_splits, choice_key, data_digest, image_facts
from irrbench.training.classes import source_digest
from irrbench.training.doses import Calibration
from irrbench.training.label_noise import NOISE_VERSION, CellNoise, Doses
from irrbench.training.results import CELLS, DONE, LOCK, Axes, find_damage, is_finished, read_plain, remove

if TYPE_CHECKING:
    from irrbench.data import RaterData

logger = logging.getLogger(__name__)

TRAINING_VERSION = "0.2.0"  # raised when a change of the code changes the numbers of a training, not at each release
# Fields of the first version, which are always part of a digest. See CellConfig.digest.
_FIRST_FIELDS = {
    "CellConfig": "model label seed train scores rules data data_digest version code",
    "ModelConfig": "architecture encoder encoder_weights class_path init_args name",
    "TrainConfig": "max_epochs batch_size lr weight_decay augment transforms num_workers accelerator devices strategy "
    "precision",
    "RulesConfig": "ties empty_reference threshold",
}


_FIRST_NOISE = 1  # version of the noise that is left out of digests
_NO_LOSS = TrainConfig().loss  # in `train`, where a cell has a loss with options


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
        version: of the training, see :data:`TRAINING_VERSION`.
        code: digests of the users' own classes, by import path.
        choice: the column of validation scores that the epoch is chosen by; empty: that of the main score.
        loss: a loss with options, or of one's own; None: that of ``train``.
        noise: of the training labels; None: the labels as they are.
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
    choice: str = ""
    loss: LossConfig | None = None
    noise: CellNoise | None = None

    @property
    def loss_config(self) -> LossConfig:
        """The loss that it is trained with."""
        return self.loss or LossConfig(self.train.loss)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that identify this configuration, whatever its model and its data are called.

        A field that is added later (here, or to a part of this configuration) is left out where it has its default
        value. So a new axis or option changes no digest of cells that do not use it, provided that its default means
        "as before", and stays the same for ever. Fields of the first version are always included: cells finished by
        the first version have the digest they had, and changing a default of these fields changes the digest.
        """
        plain = _included_fields(self) | {"data": None}
        plain["model"] |= {"name": None}
        plain["train"] |= {"num_workers": None}
        if self.noise is not None and NOISE_VERSION != _FIRST_NOISE:
            plain["noise"] |= {"version": NOISE_VERSION}
        plain |= {"loss": plain["loss"] | {"name": None}} if plain.get("loss") else {}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def _included_fields(value: Any) -> Any:
    """Plain values of a configuration, without fields that are left out of its digest."""
    if isinstance(value, list | tuple):
        return [_included_fields(item) for item in value]
    if not is_dataclass(value):
        return value
    first = _FIRST_FIELDS.get(type(value).__name__, "").split()
    included = {}
    for field in fields(value):
        found = getattr(value, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.name in first or found != default:
            included[field.name] = _included_fields(found)
    return included


class Tracking(NamedTuple):
    """Where a cell's run is stored, its colour there, and the command that is written into it."""

    uri: str
    experiment: str
    colour: str
    command: str = ""


class Cell(NamedTuple):
    """One cell.

    Attributes:
        name: of the cell.
        config: its configuration.
        folder: of its results.
        tracking: its run in MLflow.
        axes: its place in the grid.
        calibration: the strength of its noise; None without noise.
        watches_labels: whether it is logged how much of its own training labels the model has learnt.
    """

    name: str
    config: CellConfig
    folder: Path
    tracking: Tracking
    axes: Axes
    calibration: Calibration | None = None
    watches_labels: bool = False


def cell_folders(output: Path, digests: Mapping[str, str]) -> dict[str, Path]:
    """The folder of each cell of a grid, by its name; names that differ never share one.

    Where two would, as ``a[0]`` and ``a(0)`` of one configuration, both folders have digits of the name. A cell without
    a folder takes one of its configuration that was made under a name which is not in the grid.

    Args:
        output: folder of the benchmark.
        digests: of the cells' configurations, by the cells' names.
    """
    cells = output / CELLS
    forms = {name: (f"{slug(name)}-{end}", f"{slug(name)}-{_digits(name)}-{end}") for name, end in digests.items()}
    counts = Counter(plain.casefold() for plain, _ in forms.values())  # some disks do not tell A from a
    own = {
        name: cells / (plain if counts[plain.casefold()] == 1 else marked) for name, (plain, marked) in forms.items()
    }
    for name in [name for name, folder in own.items() if not folder.is_dir()]:
        free = {path for path in cells.glob(f"*-{digests[name]}") if path.is_dir()} - set(own.values())
        owners = {path: _owners(path, digests[name], digests, forms) for path in sorted(free)}
        usable = [path for path, names in owners.items() if name in names or not names]
        own[name] = min(usable, key=lambda path: name not in owners[path], default=own[name])
    return own


def _owners(
    folder: Path, digest: str, digests: Mapping[str, str], forms: Mapping[str, tuple[str, ...]]
) -> Sequence[str]:
    """Names in the grid to which a folder may belong, none if it was made under another one."""
    if given := _name_of(folder):
        return [given] if digests.get(given) == digest else []
    return [name for name, form in forms.items() if folder.name in form]


def _digits(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _name_of(folder: Path) -> str:
    """What a finished cell was called, "" where nothing says it."""
    with suppress(Exception):  # no file, a damaged one, or something else in its place
        return str(read_plain(folder / DONE)["name"])
    return ""


def unfinish_damaged(cells: Sequence[Cell], data: RaterData) -> None:
    """Make finished cells whose files are damaged unfinished, and say so: they are trained again, in the same run."""
    test = data.split("test")
    for cell in cells:
        damage = find_damage(cell.folder, cell.config.scores, test) if is_finished(cell.folder) else ""
        if damage:
            with try_lock(cell.folder / LOCK) as ours:
                if ours:
                    logger.warning("%s counts as unfinished and is trained again. %s", cell.name, damage)
                    remove(cell.folder / DONE)


def make_cells(config: BenchmarkConfig, data: RaterData, tracking: Tracking, doses: Doses | None = None) -> list[Cell]:
    """The cells of a grid, each with its resolved configuration.

    Args:
        config: of the grid.
        data: the raters' data.
        tracking: where the runs are.
        doses: the strength of each noise; needed where there is noise.

    Raises:
        ConfigError: for unknown models or labels, or data that cannot be trained on.
    """
    check_grid(config, data.raters)
    check_splits(data)
    check_scored(data, config.scores[0], config.rules)
    digest = data_digest(data, image_facts(data), config.scores)
    transforms = [transform["class_path"] for transform in config.train.transforms]
    colours, names, resolved = cell_colours(config), dict(cell_names(config)), {}
    for name, _, model, loss, noise in grid_rows(config):
        axes = names[name]
        paths = [model.class_path, *transforms, loss and loss.class_path, noise and noise.class_path]
        is_plain = loss is not None and loss.class_path is None and not loss.init_args
        resolved[name] = CellConfig(
            model=model,
            label=axes["label"],
            seed=axes["seed"],
            # A loss without options is that of `train`, so that a cell is the same however its loss is given.
            train=config.train if loss is None else replace(config.train, loss=loss.loss if is_plain else _NO_LOSS),
            scores=tuple(config.scores),
            rules=config.rules,
            data=data.name,
            data_digest=digest,
            version=TRAINING_VERSION,
            code=tuple((path, source_digest(path)) for path in paths if path is not None),
            choice=choice_key(data, config.scores[0]),
            loss=None if is_plain else loss,
            noise=noise,
        )
    folders = cell_folders(Path(config.output).absolute(), {name: cell.digest for name, cell in resolved.items()})
    return [
        Cell(
            name,
            cell,
            folders[name],
            tracking._replace(colour=colours[name]),
            names[name],
            None if doses is None else doses.of(cell.noise, cell.label, cell.seed),
            watches_labels=bool(config.noise),
        )
        for name, cell in resolved.items()
    ]
