"""What a cell trains on: checked splits, image statistics, augmented batches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from irrbench.config import ConfigError, TrainConfig
from irrbench.data import SegmentationDataset, collate
from irrbench.training import build, check_class, import_class

if TYPE_CHECKING:
    from irrbench.data import RaterData

# Transforms of training images from a configuration, of torchvision or albumentations, with everything drawn on them.
#
# Each draw depends on seed, epoch and index alone, whatever process makes it.


Item = dict[str, Any]
Step = Callable[[Item, int], Item]
PLANES = ("label", "masks", "roi")


def check_transforms(transforms: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what cannot be made.

    Raises:
        ConfigError: with the nearest names, or the extra that is missing.
    """
    for each in transforms:
        path = each["class_path"]
        _prepare(path)
        try:
            check_class(path, each.get("init_args") or {})
        except ValueError as error:
            raise ConfigError(f"train.transforms: {error}") from error
    make_transforms(transforms)


class Transforms:
    """Changes an item: the image, and label, raters' masks and ROI with it.

    Args:
        transforms: ``class_path`` and ``init_args`` of each, in order.

    Raises:
        ConfigError: if one cannot be made.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any]]) -> None:
        self._steps = make_transforms(transforms)

    def __call__(self, item: Item, seed: int) -> Item:
        """The changed item; the seed alone decides what is drawn.

        Raises:
            ValueError: if image and masks are no longer of one size.
        """
        for number, step in enumerate(self._steps):
            item = step(item, (seed + number) % 2**32)
        sizes = {key: tuple(item[key].shape[-2:]) for key in ("image", *PLANES)}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"train.transforms must change image and masks alike, found sizes {sizes} afterwards. Leave out what "
                "works on images alone and changes their size."
            )
        return item


def make_transforms(transforms: Sequence[Mapping[str, Any]]) -> list[Step]:
    """One step for each run of transforms of one library.

    Raises:
        ConfigError: if one cannot be made.
    """
    steps: list[Step] = []
    try:
        for of_albumentations, group in groupby(transforms, key=lambda each: _prepare(each["class_path"])):
            made = [build(each["class_path"], each.get("init_args") or {}) for each in group]
            steps.append(_Albumentations(made) if of_albumentations else _Torchvision(made))
    except ValueError as error:
        raise ConfigError(f"train.transforms: {error}") from error
    return steps


def _prepare(path: str) -> bool:
    """Whether a class is one of albumentations, or is derived from one.

    Raises:
        ConfigError: if it is, and the extra is missing.
    """
    # It asks a server for its latest version at every import, which a computing node may not reach.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    if path.partition(".")[0] == "albumentations":
        try:
            import albumentations  # noqa: F401, PLC0415
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"train.transforms: {path} needs albumentations: pip install 'irrbench[augment]'."
            ) from error
    try:
        return any(base.__module__.partition(".")[0] == "albumentations" for base in import_class(path).__mro__)
    except ValueError as error:
        raise ConfigError(f"train.transforms: {error}") from error


class _Torchvision:
    """Calls transforms one after another on a dict of torchvision's own tensors."""

    def __init__(self, transforms: Sequence[Any]) -> None:
        self._transforms = transforms

    def __call__(self, item: Item, seed: int) -> Item:
        from torchvision import tv_tensors  # noqa: PLC0415 (seconds)

        sample: Any = {key: tv_tensors.Mask(item[key]) for key in ("label", "masks")}
        sample |= {"image": tv_tensors.Image(item["image"]), "roi": tv_tensors.Mask(item["roi"][None].to(torch.uint8))}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for transform in self._transforms:
                sample = transform(sample)
        plain = {key: value.as_subclass(Tensor) for key, value in sample.items()}
        return item | plain | {"roi": plain["roi"][0].bool()}


class _Albumentations:
    """Calls transforms on arrays with channels last."""

    def __init__(self, transforms: Sequence[Any]) -> None:
        from albumentations import Compose  # noqa: PLC0415

        self._compose = Compose(transforms)

    def __call__(self, item: Item, seed: int) -> Item:
        self._compose.set_random_seed(seed)
        roi = item["roi"][None].to(torch.uint8)
        planes = [np.ascontiguousarray(plane) for key in (item["label"], item["masks"], roi) for plane in key.numpy()]
        image = np.ascontiguousarray(item["image"].permute(1, 2, 0).numpy())
        done = self._compose(image=image, masks=planes)
        # They come back as one type of number.
        label, *masks, region = (torch.from_numpy(np.ascontiguousarray(plane)) for plane in done["masks"])
        changed = np.atleast_3d(done["image"]).transpose(2, 0, 1)
        return item | {
            "image": torch.from_numpy(np.ascontiguousarray(changed)),
            "label": label[None].float(),
            "masks": (torch.stack(masks) > 0.5).to(torch.uint8),
            "roi": region > 0.5,
        }


_SAMPLE = 256  # images that the statistics are taken from
# What random numbers are for. The random rater's have no such number, and none of these is 0, which would add nothing.
TURN, ORDER, TRANSFORM, TORCH = 1, 2, 3, 4


class ImageFacts(NamedTuple):
    """Channels of the images, and each channel's mean and standard deviation over training images."""

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Loaders(NamedTuple):
    """Batches of the three splits, and what wants to know the epoch: the training set and its order."""

    train: DataLoader[dict[str, Any]]
    val: DataLoader[dict[str, Any]]
    test: DataLoader[dict[str, Any]]
    training: TrainingSet
    order: EpochOrder

    def set_epoch(self, epoch: int) -> None:
        """Draw order, labels and augmentation for an epoch."""
        self.training.set_epoch(epoch)
        self.order.set_epoch(epoch)


def check_splits(data: RaterData) -> None:
    """Refuse data that a model cannot be trained, chosen and tested on.

    Raises:
        ConfigError: if a split is empty or the images are not 2-D.
    """
    sizes = {split: len(data.split(split)) for split in ("train", "val", "test")}
    empty = [split for split, size in sizes.items() if not size]
    if empty:
        found = ", ".join(f"{size} {split}" for split, size in sizes.items())
        raise ConfigError(
            f"{data.name}: no images in {' and '.join(empty)} (found {found}); training needs some in each. Give a "
            "manifest.csv with a column split (train, val, test), or score finished predictions with --predictions."
        )
    axes = len(data.shape(0))
    if axes != 2:
        raise ConfigError(
            f"{data.name}: images have {axes} axes; the built-in models train on 2-D images. Cut slices, or score "
            "finished predictions with --predictions NAME=DIR, which may have three axes too."
        )


def image_facts(data: RaterData) -> ImageFacts:
    """Statistics of the training images (of evenly spaced ones where there are many)."""
    train = data.split("train")
    chosen = np.unique(np.linspace(0, len(train) - 1, min(len(train), _SAMPLE)).round().astype(int))
    sums = np.array([_moments(train.image(int(i))) for i in chosen])  # (N, 3, C)
    count, total, squares = sums.sum(0)
    mean = total / count
    # Rounded, because the facts are part of a cell's digest.
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-8))
    return ImageFacts(len(mean), tuple(np.round(mean, 6).tolist()), tuple(np.round(std, 6).tolist()))


def _moments(image: np.ndarray[Any, Any]) -> Any:
    pixels = image.reshape(len(image), -1).astype(float)
    return np.stack([np.full(len(image), pixels.shape[1]), pixels.sum(1), (pixels**2).sum(1)])


class TrainingSet(Dataset[dict[str, Any]]):
    """Training images, flipped and turned at random together with everything drawn on them.

    The draw depends on seed, epoch and index alone.

    Args:
        data: the training split.
        label: label strategy.
        seed: of labels and turns.
        augment: whether to flip and turn.
        transforms: what else is done to them, see :mod:`irrbench.training.batches`.
    """

    def __init__(
        self,
        data: RaterData,
        *,
        label: str,
        seed: int,
        augment: bool,
        transforms: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._items = SegmentationDataset(data, label=label, seed=seed)
        self._seed, self._augment = seed, augment
        self._transforms = Transforms(transforms) if transforms else None
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that live on

    def __len__(self) -> int:
        return len(self._items)

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch, so that labels and turns are drawn anew."""
        self._items.set_epoch(epoch)
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item, epoch = self._items[index], int(self._epoch)
        if self._augment:
            turn = int(draws(self._seed, epoch, index, TURN).integers(8))
            item |= {key: turned(item[key], turn) for key in ("image", "label", "masks", "roi")}
        if self._transforms is not None:
            item = self._transforms(item, int(draws(self._seed, epoch, index, TRANSFORM).integers(2**32)))
        return item


class EpochOrder(Sampler[int]):
    """A random order for each epoch that depends on seed and epoch alone, and not on the epochs before.

    Args:
        size: number of images.
        seed: of the orders.

    Example:
        >>> order = EpochOrder(4, seed=0)
        >>> first = list(order)
        >>> order.set_epoch(1)
        >>> list(order) == first, sorted(order)
        (False, [0, 1, 2, 3])
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self._size, self._seed, self._epoch = size, seed, 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        yield from draws(self._seed, self._epoch, 0, ORDER).permutation(self._size).tolist()

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch."""
        self._epoch = epoch


def draws(seed: int, epoch: int, index: int, kind: int) -> np.random.Generator:
    """Random numbers that depend on seed, epoch, index and what they are for."""
    return np.random.default_rng([seed, epoch, index, kind])


def turned(plane: Tensor, turn: int) -> Tensor:
    """One of the 8 flips and quarter turns of the last two axes.

    Example:
        >>> turned(torch.tensor([[1, 2, 3], [4, 5, 6]]), 1)
        tensor([[3, 6],
                [2, 5],
                [1, 4]])
    """
    rotated = torch.rot90(plane, turn % 4, (-2, -1))
    return (rotated.flip(-1) if turn >= 4 else rotated).contiguous()


def make_loaders(data: RaterData, *, label: str, seed: int, train: TrainConfig) -> Loaders:
    """Batches of the three splits; the order of training is drawn from the seed."""
    training = TrainingSet(
        data.split("train"), label=label, seed=seed, augment=train.augment, transforms=train.transforms
    )
    order = EpochOrder(len(training), seed=seed)
    options: dict[str, Any] = {"num_workers": train.num_workers, "persistent_workers": train.num_workers > 0}
    # Iterators of loaders without one draw from torch's own generator, once more or less in a process that resumes.
    options["generator"] = torch.Generator().manual_seed(seed)
    return Loaders(
        train=DataLoader(
            training,
            batch_size=train.batch_size,
            sampler=order,
            # Batch norm cannot learn from a last batch of one image.
            drop_last=len(training) > train.batch_size,
            collate_fn=collate,
            **options,
        ),
        val=DataLoader(SegmentationDataset(data.split("val")), train.batch_size, collate_fn=collate, **options),
        test=DataLoader(SegmentationDataset(data.split("test")), train.batch_size, collate_fn=collate, **options),
        training=training,
        order=order,
    )


def data_digest(data: RaterData, facts: ImageFacts) -> str:
    """Digest of masks, raters, splits and groups, and of the images so far as their statistics tell them apart."""
    splits = sorted(zip(data.image_ids, data.manifest["split"], data.groups, strict=True))
    text = repr((data.digest(), [tuple(map(str, row)) for row in splits], tuple(facts)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
