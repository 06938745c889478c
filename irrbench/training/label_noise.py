"""The spoilt labels of a cell: which noise at which strength, found on the training labels before anything is trained.

An image's noise depends on seed and image alone (and on the epoch where it is renewed), so that cells that differ in
model or loss train on the same wrong labels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from irrbench._cache import ByteCache
from irrbench._files import write_json
from irrbench.config import BenchmarkConfig, ConfigError
from irrbench.data import SegmentationDataset
from irrbench.grid_config import NoiseConfig
from irrbench.training.classes import source_digest
from irrbench.training.doses import Calibration, KeyedLabel, calibrate, train_ceiling
from irrbench.training.losses import ANNOTATORS
from irrbench.training.mask_noise import Mask
from irrbench.training.noise import OWN, NoiseModel, make_noise, spoil
from irrbench.training.results import read_plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from irrbench.data import RaterData

DOSES = "doses.json"  # in the output folder: the strengths that were found
NOISE_VERSION = 1  # raised when a change of the code changes labels or strengths
# The purposes of random numbers, see irrbench.training.batches.draws.
NOISE, VAL_NOISE = 6, 7
_SPOILT: ByteCache[NDArray[np.float32]] = ByteCache(2**28)  # labels, for the cells of this process
_FAR = 0.02  # relative difference of dose asked and dose got, from which on it is said


@dataclass(frozen=True)
class CellNoise:
    """The noise of one cell.

    Attributes:
        model: name among :data:`irrbench.training.noise.NOISE_MODELS`.
        dose: in units of the raters' disagreement, above 0.
        class_path: import path of a class in its place.
        init_args: its arguments.
        renewed: whether it is drawn anew in each epoch.
    """

    model: str
    dose: float
    class_path: str | None = None
    init_args: dict[str, Any] = field(default_factory=dict)
    renewed: bool = False

    @classmethod
    def of(cls, config: NoiseConfig, dose: float) -> CellNoise:
        """One dose of a configured noise."""
        return cls(noise_name(config), float(dose), config.class_path, dict(config.init_args), config.renewed)

    def make(self, data: RaterData, label: str) -> NoiseModel:
        """The model itself; components of other images come from the labels of ``data``."""

        @cache
        def masks() -> list[Mask]:
            return [one > 0.5 for one, *_ in CleanLabels(data, label, seed=0)]

        return make_noise(self.model, class_path=self.class_path, init_args=self.init_args, masks=masks)


def noise_name(config: NoiseConfig) -> str:
    """What a configured noise is called among the models."""
    return config.model if config.class_path is None else OWN


class LabelNoise:
    """Spoils the labels of the images of one split.

    Args:
        noise: the noise.
        strength: of it.
        seed: of the cell.
        renewed: whether an image's noise is drawn anew in each epoch.
        purpose: of the random numbers; other ones on validation than on training images.
        identity: of the noise; labels that were made once are found by it.
    """

    def __init__(
        self, noise: NoiseModel, strength: float, *, seed: int, renewed: bool, purpose: int = NOISE, identity: str = ""
    ) -> None:
        self._noise, self._strength, self._seed, self._renewed = noise, strength, seed, renewed
        self._purpose, self._identity = purpose, identity

    def __call__(self, labels: Tensor, index: int, epoch: int, roi: Tensor) -> Tensor:
        """Spoilt labels ``(L, *S)`` of labels ``(L, *S)`` of one image, each with noise of its own."""
        region = None if bool(roi.all()) else roi.numpy()
        key = noise_key(self._seed, epoch if self._renewed else 0, index, self._purpose)
        keys = [key] if len(labels) == 1 else [[*key, number] for number in range(len(labels))]
        done = [self._spoilt(label.numpy(), each, region) for label, each in zip(labels, keys, strict=True)]
        return torch.from_numpy(np.stack(done))

    def _spoilt(
        self, label: NDArray[np.float32], key: Sequence[int], roi: NDArray[np.bool_] | None
    ) -> NDArray[np.float32]:
        def make() -> NDArray[np.float32]:
            return spoil(label, self._noise, self._strength, key, roi)

        if self._renewed:
            return make()
        told = hashlib.blake2b(label.tobytes(), digest_size=16)
        told.update(b"" if roi is None else roi.tobytes())
        return _SPOILT.find((self._identity, self._strength, tuple(key), told.digest()), make)


def noise_key(seed: int, epoch: int, index: int, purpose: int = NOISE) -> list[int]:
    """The key of an image's random numbers."""
    return [seed, epoch, index, purpose]


class CleanLabels(Sequence[KeyedLabel]):
    """Labels of the first epoch, made when asked for: each with its ROI (None: all) and the key of its noise.

    Args:
        data: the training split.
        label: the label strategy; ``annotators`` gives every mask of every image.
        seed: of labels and noise.
    """

    def __init__(self, data: RaterData, label: str, *, seed: int) -> None:
        self._items, self._seed = SegmentationDataset(data, label=label, seed=seed), seed
        self._places: list[tuple[int, int | None]] = [(index, None) for index in range(len(data))]
        if label == ANNOTATORS:
            present = [data.present(index).nonzero()[0].tolist() for index in range(len(data))]
            self._places = [(index, rater) for index, raters in enumerate(present) for rater in raters]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, number: int) -> KeyedLabel: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[KeyedLabel]: ...

    def __getitem__(self, number: int | slice) -> KeyedLabel | Sequence[KeyedLabel]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        index, rater = self._places[number]
        drawn, key = self._items.drawn(index), noise_key(self._seed, 0, index)
        roi = None if bool(drawn["roi"].all()) else drawn["roi"].numpy()
        if rater is None:
            return drawn["label"][0].numpy(), roi, key
        return drawn["masks"][rater].float().numpy(), roi, [*key, rater]


class Doses:
    """The strength of each noise of a grid at each of its doses, found on the training labels.

    Args:
        found: by label strategy, seed and noise.
    """

    def __init__(self, found: Mapping[tuple[str, int, str], Calibration]) -> None:
        self._found = dict(found)

    def __len__(self) -> int:
        return len(self._found)

    def of(self, noise: CellNoise | None, label: str, seed: int) -> Calibration | None:
        """That of a cell; None without noise."""
        return None if noise is None else self._found[label, seed, identity(noise)]

    @property
    def cautions(self) -> list[str]:
        """Doses that are not quite what was asked, as few images give coarse steps."""
        far: dict[str, list[str]] = {}
        for (_, _, name), each in self._found.items():
            if abs(each.reached - each.dose) > _FAR * each.dose:
                far.setdefault(_title(name), []).append(f"{each.reached:.3g} for {each.dose:g}")
        return [
            f"Noise {model} comes in coarse steps on these training images: it gives the doses "
            f"{', '.join(dict.fromkeys(doses))}. The dose that was reached is in robustness.csv."
            for model, doses in far.items()
        ]

    @property
    def lines(self) -> list[str]:
        """What was found, a line for each noise and label: strengths, and what becomes of the marked area."""
        by_noise: dict[tuple[str, str], dict[float, Calibration]] = {}
        for (label, _, name), each in self._found.items():
            by_noise.setdefault((_title(name), label), {}).setdefault(each.dose, each)
        return [
            f"{model} on {label}: "
            + ", ".join(f"dose {dose:g} at {each.strength:.3g} (area {each.area:.2f})" for dose, each in found.items())
            for (model, label), found in by_noise.items()
        ]


def _title(name: str) -> str:
    """What a noise of this identity is called: its model, or its class."""
    known = json.loads(name)
    return str(known["class_path"] or known["model"])


def identity(noise: CellNoise) -> str:
    """What tells a noise from others."""
    return json.dumps(asdict(noise), sort_keys=True)


def find_doses(
    config: BenchmarkConfig, data: RaterData, *, place: Path | None = None, report: Callable[[str], None] | None = None
) -> Doses:
    """Calibrate all noise of a grid on the training labels.

    Args:
        config: of the grid.
        data: with training images.
        place: a folder in which the strengths are kept: what was found once is never found anew, so that cells that are
            trained later have the labels of those that are finished.
        report: called with what is being done, where that may take long.

    Raises:
        ConfigError: for every dose that a model cannot reach; or raters who agree exactly, which leaves no unit.
    """
    wanted = [
        (label, seed, noise, [CellNoise.of(noise, dose) for dose in noise.doses if dose > 0])
        for label in config.labels
        for seed in config.seeds
        for noise in config.noise
        if noise.spoils(label) and any(dose > 0 for dose in noise.doses)
    ]
    if not wanted:
        return Doses({})
    finder = _Finder(config, data.split("train"), place)
    found: dict[tuple[str, int, str], Calibration] = {}
    problems: list[str] = []
    for label, seed, noise, cells in wanted:
        if report is not None and not finder.knows(label, seed, cells):
            report(f"finding the strength of {noise.label} on {label}, seed {seed}")
        try:
            found |= finder.find(label, seed, cells)
        except ValueError as error:
            problems.append(f"noise on {label}, seed {seed}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return Doses(found)


class _Finder:
    """Finds strengths, and keeps them.

    Args:
        config: of the grid.
        train: the training images.
        place: the folder, or None.
    """

    def __init__(self, config: BenchmarkConfig, train: RaterData, place: Path | None) -> None:
        self._train, self._place = train, place
        self._rules: dict[str, Any] = {"ties": config.rules.ties, "empty_reference": config.rules.empty_reference}
        basis = [NOISE_VERSION, train.digest(), list(train.image_ids), self._rules]
        self._basis = json.dumps(basis, sort_keys=True)
        self._known = _read(place)
        self._labels: tuple[str, int, CleanLabels] | None = None

    def knows(self, label: str, seed: int, cells: Sequence[CellNoise]) -> bool:
        """Whether nothing is left to be found."""
        return all(self._key(label, seed, cell) in self._known for cell in cells)

    def find(self, label: str, seed: int, cells: Sequence[CellNoise]) -> dict[tuple[str, int, str], Calibration]:
        """The strengths of one noise at several doses.

        Raises:
            ValueError: for a dose that it does not reach.
        """
        keys = [self._key(label, seed, cell) for cell in cells]
        missing = {key: cell for key, cell in zip(keys, cells, strict=True) if key not in self._known}
        if missing:
            doses = [cell.dose for cell in missing.values()]
            made = calibrate(self._clean(label, seed), self._model(cells[0], label), doses, unit=1 - self._ceiling)
            self._known |= dict(zip(missing, made, strict=True))
            if self._place is not None:
                write_json(self._place / DOSES, {key: each._asdict() for key, each in self._known.items()})
        return {(label, seed, identity(cell)): self._known[key] for cell, key in zip(cells, keys, strict=True)}

    @cached_property
    def _ceiling(self) -> float:
        return train_ceiling(self._train, **self._rules)

    def _model(self, cell: CellNoise, label: str) -> NoiseModel:
        return cell.make(self._train, label)

    def _clean(self, label: str, seed: int) -> CleanLabels:
        if self._labels is None or self._labels[:2] != (label, seed):
            self._labels = (label, seed, CleanLabels(self._train, label, seed=seed))
        return self._labels[2]

    def _key(self, label: str, seed: int, cell: CellNoise) -> str:
        code = "" if cell.class_path is None else source_digest(cell.class_path)
        return hashlib.sha256(f"{self._basis} {label} {seed} {identity(cell)} {code}".encode()).hexdigest()[:16]


def _read(place: Path | None) -> dict[str, Calibration]:
    """The strengths of an earlier call; none where the file is missing or holds anything else."""
    with suppress(Exception):
        if place is not None:
            return {str(key): _calibration(value) for key, value in read_plain(place / DOSES).items()}
    return {}


def _calibration(value: Mapping[str, Any]) -> Calibration:
    whole = {"num_images"}
    numbers = {name: (int if name in whole else float)(value[name]) for name in Calibration._fields}
    if not all(np.isfinite(number) for number in numbers.values()):
        raise ValueError(str(value))
    return Calibration(**numbers)  # type: ignore[arg-type]


def label_noise(
    purpose: int, *, noise: CellNoise, found: Calibration, train: RaterData, label: str, seed: int
) -> LabelNoise:
    """What spoils a cell's labels.

    Args:
        purpose: of the random numbers.
        noise: of the cell.
        found: its strength.
        train: the training images, whose components may be pasted.
        label: the label strategy.
        seed: of the cell.
    """
    others = train.digest() if noise.class_path or noise.model == "invent" else ""
    return LabelNoise(
        noise.make(train, label),
        found.strength,
        seed=seed,
        renewed=noise.renewed,
        purpose=purpose,
        identity=f"{identity(replace(noise, dose=1.0))} {others}",
    )
