"""What a cell trains on: checked splits, image statistics, and batches of turned and transformed images.

Every random draw depends on seed, epoch and index alone, so that neither the number of loading processes nor a restart
changes a training.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from irrbench.bounds import segmentation_bounds
from irrbench.config import ConfigError, RulesConfig
from irrbench.data import DataError, SegmentationDataset, collate
from irrbench.data.dataset import references, spacings_of
from irrbench.evidence import EVIDENCE
from irrbench.grid_config import TrainConfig
from irrbench.scores import SCORES
from irrbench.summary import bounds_table
from irrbench.training.classes import build, import_class
from irrbench.training.label_noise import NOISE, VAL_NOISE, LabelNoise
from irrbench.training.losses import ANNOTATORS, SOFT_LABELS
from irrbench.training.windows import random_crop, sides

if TYPE_CHECKING:
    from irrbench.data import RaterData

Item = dict[str, Any]
# What is drawn on an image and changes together with it; from `annotations` a model learns each rater's errors.
PLANES = ("label", "masks", "annotations", "roi")
STATISTICS_IMAGES = 256
# The purposes of random numbers, see `draws`. Labels are drawn without such a number; a purpose 0 would repeat their
# draws.
TURN, ORDER, TRANSFORM, TORCH, CROP = 1, 2, 3, 4, 5


def draws(seed: int, epoch: int, index: int, purpose: int) -> np.random.Generator:
    """Random numbers that depend on seed, epoch, index and purpose alone."""
    return np.random.default_rng([seed, epoch, index, purpose])


class Transforms:
    """Changes an item: the image, and label, raters' masks and ROI with it.

    Args:
        transforms: ``class_path`` and ``init_args`` of each, in order.

    Raises:
        ConfigError: if one cannot be made, with the nearest names, or the extra that is missing.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any]]) -> None:
        self._steps: list[Callable[[Item, int], Item]] = []
        try:
            for of_albumentations, group in groupby(transforms, lambda each: _is_albumentations(each["class_path"])):
                made: Any = [build(each["class_path"], each.get("init_args") or {}) for each in group]
                if of_albumentations:
                    from albumentations import Compose  # noqa: PLC0415

                    made = Compose(made)
                self._steps.append(partial(_albumentations if of_albumentations else _torchvision, made))
        except ValueError as error:
            raise ConfigError(f"train.transforms: {error}") from error

    def __call__(self, item: Item, seed: int) -> Item:
        """The changed item; its random changes depend on the seed alone.

        Raises:
            ValueError: if image and masks are no longer of one size.
        """
        for number, step in enumerate(self._steps):
            item = step(item, (seed + number) % 2**32)
        sizes = {key: tuple(item[key].shape[-2:]) for key in ("image", *planes_of(item))}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"train.transforms must change image and masks alike, found sizes {sizes} afterwards. Leave out "
                "transforms that take images alone and change their size."
            )
        return item


def planes_of(item: Item) -> list[str]:
    """The planes that an item has, in the order of :data:`PLANES`."""
    return [key for key in PLANES if key in item]


def _is_albumentations(path: str) -> bool:
    """Whether a class is one of albumentations, or is derived from one.

    Raises:
        ValueError: if it cannot be imported, or the extra is missing.
    """
    # albumentations asks a server for its latest version at every import; compute nodes may have no network.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    if path.partition(".")[0] == "albumentations":
        try:
            import albumentations  # noqa: F401, PLC0415
        except ModuleNotFoundError as error:
            raise ValueError(f"{path} needs albumentations: pip install 'irrbench[augment]'.") from error
    return any(base.__module__.partition(".")[0] == "albumentations" for base in import_class(path).__mro__)


def _torchvision(transforms: Sequence[Any], item: Item, seed: int) -> Item:
    """Call transforms one after another on a dict of torchvision's own tensors."""
    from torchvision import tv_tensors  # noqa: PLC0415 (seconds)

    sample: Any = {key: tv_tensors.Mask(item[key]) for key in planes_of(item) if key != "roi"}
    sample |= {"image": tv_tensors.Image(item["image"]), "roi": tv_tensors.Mask(item["roi"][None].to(torch.uint8))}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for transform in transforms:
            sample = transform(sample)
    plain = {key: value.as_subclass(Tensor) for key, value in sample.items()}
    return item | plain | {"roi": plain["roi"][0].bool()}


def _albumentations(compose: Any, item: Item, seed: int) -> Item:
    """Call composed transforms on arrays with channels last."""
    compose.set_random_seed(seed)
    stacks = {key: item[key] for key in planes_of(item)} | {"roi": item["roi"][None].to(torch.uint8)}
    planes = [np.ascontiguousarray(plane) for stack in stacks.values() for plane in stack.numpy()]
    image = np.ascontiguousarray(item["image"].permute(1, 2, 0).numpy())
    done = compose(image=image, masks=planes)
    # All planes come back as numbers of one type.
    changed = iter(torch.from_numpy(np.ascontiguousarray(plane)) for plane in done["masks"])
    of = {key: torch.stack([next(changed) for _ in stack]) for key, stack in stacks.items()}
    cut = {key: (plane > 0.5).to(torch.uint8) for key, plane in of.items() if key in ("masks", "annotations")}
    pixels = np.atleast_3d(done["image"]).transpose(2, 0, 1)
    return item | {
        "image": torch.from_numpy(np.ascontiguousarray(pixels)),
        "label": of["label"].float(),
        **cut,
        "roi": of["roi"][0] > 0.5,
    }


def check_splits(data: RaterData) -> None:
    """Refuse data without training, validation or test images, or of other than 2-D images.

    Raises:
        ConfigError: if a split is empty or the images are not 2-D.
    """
    sizes = {split: len(data.split(split)) for split in ("train", "val", "test")}
    if empty := [split for split, size in sizes.items() if not size]:
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


def choice_key(data: RaterData, score: str) -> str:
    """The column by which an epoch is chosen: that of all images where one rater alone drew some; else empty.

    Args:
        data: with validation images.
        score: the main score.
    """
    val = data.split("val")
    alone = any(val.present(i).sum() == 1 for i in range(len(val)))
    return f"{score}_all" if alone and SCORES[score].evidence == "patterns" else ""


def check_scored(data: RaterData, score: str, rules: RulesConfig) -> None:
    """Refuse data on which the main score is undefined for every validation image, or every test image.

    Whether a score is defined depends on the masks alone, so this is known before anything is trained.

    Args:
        data: with all splits.
        score: the main score.
        rules: of the scores.

    Raises:
        ConfigError: with what was found and what to do.
    """
    for name, column, lost in (
        ("val", choice_key(data, score) or score, "choose an epoch"),
        ("test", score, "test a model"),
    ):
        split = data.split(name)
        if not len(split) or any(_is_defined(split, index, score, column, rules) for index in range(len(split))):
            continue
        empty = not any(split.masks(index).any() for index in range(len(split)))
        alone = all(split.present(index).sum() < 2 for index in range(len(split)))
        found = "all masks are empty" if empty else "each has one rater" if alone else "no reference there defines it"
        change = "set rules.empty_reference: score, or " if empty and SCORES[score].takes_empty else ""
        raise ConfigError(
            f"{data.name}: {score} is undefined on all {len(split)} {name} images ({found}), so it cannot {lost}. Give "
            f"{name} other images in manifest.csv, or {change}put another score first in `scores`."
        )


def _is_defined(data: RaterData, index: int, score: str, column: str, rules: RulesConfig) -> bool:
    """Whether an image has the score, or that on the one mask where ``column`` has it, whatever the model."""
    drawn, preds = references(data, index), torch.ones(1, *data.shape(index), dtype=torch.uint8)
    kinds = {"patterns", SCORES[score].evidence}
    evidence: dict[str, Any] = {k: EVIDENCE[k].make(**drawn, preds=preds, **rules.options) for k in kinds}
    bounds = segmentation_bounds(evidence, [score], ties=rules.ties, empty_reference=rules.empty_reference)
    table = bounds_table(data.image_ids[index : index + 1], [evidence["patterns"]], [bounds], rebuilt=False)
    return any(name in table and bool(table[name].notna().any()) for name in (score, column))


class ImageFacts(NamedTuple):
    """Number of channels of the images, and each channel's mean and standard deviation over training images."""

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def image_facts(data: RaterData) -> ImageFacts:
    """Statistics of the training images, of 256 evenly spaced ones where there are more."""
    train = data.split("train")
    chosen = np.unique(np.linspace(0, len(train) - 1, min(len(train), STATISTICS_IMAGES)).round().astype(int))
    moments = []
    for place in chosen:
        image = train.image(int(place))
        pixels = image.reshape(len(image), -1).astype(float)
        moments.append([np.full(len(image), pixels.shape[1]), pixels.sum(1), (pixels**2).sum(1)])
    count, total, squares = np.array(moments).sum(0)  # of (N, 3, C)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-8))
    # Rounded, because the facts are part of a cell's digest.
    return ImageFacts(len(mean), tuple(np.round(mean, 6).tolist()), tuple(np.round(std, 6).tolist()))


def data_digest(data: RaterData, facts: ImageFacts, scores: Sequence[str] = ()) -> str:
    """Digest of masks, raters, splits, groups and image statistics; images of equal statistics have the same digest.

    Where one of the scores measures distances, the images' spacings are part of it.
    """
    splits = sorted(zip(data.image_ids, data.manifest["split"], data.groups, strict=True))
    text = repr((data.digest(), [tuple(map(str, row)) for row in splits], tuple(facts)))
    if spacings := spacings_of(data, scores):
        text += repr(sorted(zip(data.image_ids, spacings, strict=True)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class TrainingSet(Dataset[dict[str, Any]]):
    """Training images, or crops of them, flipped and turned at random together with everything drawn on them.

    Args:
        data: the training split.
        label: label strategy.
        seed: of labels, crops and turns.
        train: whether to crop, to flip and turn, and further changes, see :class:`Transforms`.
        noise: what spoils the labels, not the masks.
    """

    def __init__(
        self, data: RaterData, *, label: str, seed: int, train: TrainConfig, noise: LabelNoise | None = None
    ) -> None:
        self._items = SegmentationDataset(data, label=label, seed=seed)
        self._seed, self._train, self._noise, self._label = seed, train, noise, label
        self._transforms = Transforms(train.transforms) if train.transforms else None
        self._crops = 1 if train.crop is None else train.crops_per_image
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by persistent workers

    def __len__(self) -> int:
        return len(self._items) * self._crops

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that labels, crops and turns are drawn for."""
        self._items.set_epoch(epoch)
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item, epoch = dict(self._items[index // self._crops]), int(self._epoch)
        clean = item["label"]
        item |= spoilt_labels(item, self._label, self._noise, index // self._crops, epoch)
        turn = int(draws(self._seed, epoch, index, TURN).integers(8)) if self._train.augment else 0
        if self._train.crop is not None:
            height, width = sides(self._train.crop)
            window = (width, height) if turn % 2 else (height, width)  # as it lies before the turn
            rng, foreground = draws(self._seed, epoch, index, CROP), self._train.crop_foreground
            item = random_crop(item, ("image", *planes_of(item)), window, foreground=foreground, rng=rng, label=clean)
        if self._train.augment:
            item |= {key: turned(item[key], turn) for key in ("image", *planes_of(item))}
        if self._transforms is not None:
            item = self._transforms(item, int(draws(self._seed, epoch, index, TRANSFORM).integers(2**32)))
        return item


def spoilt_labels(item: Item, label: str, noise: LabelNoise | None, index: int, epoch: int) -> Item:
    """The labels of an item with noise; of the strategy ``annotators`` every rater's, and their mean as the label."""
    if label == ANNOTATORS:
        annotations, present = item["masks"], item["present"]
        if noise is not None:
            annotations = noise(annotations.float(), index, epoch, item["roi"]).round().to(torch.uint8)
        annotations = annotations * present.view(-1, *[1] * (annotations.ndim - 1)).to(torch.uint8)
        share = annotations.float().sum(0, keepdim=True) / present.sum()
        return {"annotations": annotations, "label": share if noise is not None else item["label"]}
    return {} if noise is None else {"label": noise(item["label"], index, epoch, item["roi"])}


class WatchedSet(Dataset[dict[str, Any]]):
    """Validation images with one plane more, ``trained_label``: a label made as those of the training images are.

    Args:
        data: the validation split.
        label: label strategy of the training images.
        seed: of the labels.
        noise: what spoils them.
    """

    def __init__(self, data: RaterData, *, label: str, seed: int, noise: LabelNoise | None) -> None:
        self._items = SegmentationDataset(data)
        same = label == self._items.label
        self._labels = None if same else SegmentationDataset(data, label=label, seed=seed)
        self._label, self._noise = label, noise

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self._items[index]
        drawn = item if self._labels is None else self._labels.drawn(index)
        found = {**drawn, **spoilt_labels(drawn, self._label, self._noise, index, 0)}
        return {**item, "trained_label": found["label"]}


def can_watch(data: RaterData, label: str) -> bool:
    """Whether the validation images can have labels made as those of the training images, which are masks."""
    if label in (ANNOTATORS, *SOFT_LABELS):
        return False
    try:
        SegmentationDataset(data.split("val"), label=label)
    except DataError:  # a rater who lacks some
        return False
    return True


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


class EpochOrder(Sampler[int]):
    """A random order for each epoch that depends on seed and epoch alone.

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
        """Set the epoch."""
        self._epoch = epoch


class Loaders(NamedTuple):
    """Batches of the three splits, and the training set and its order, which depend on the epoch."""

    train: DataLoader[Item]
    val: DataLoader[Item]
    test: DataLoader[Item]
    training: TrainingSet
    order: EpochOrder

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that order, labels and augmentation are drawn for."""
        self.training.set_epoch(epoch)
        self.order.set_epoch(epoch)


def make_loaders(
    data: RaterData,
    *,
    label: str,
    seed: int,
    train: TrainConfig,
    noise: Callable[[int], LabelNoise] | None = None,
    watch: bool = False,
) -> Loaders:
    """Batches of the three splits; only training images are shuffled and augmented.

    Args:
        data: with all three splits.
        label: label strategy of the training images.
        seed: of their order, labels and augmentation.
        train: batch sizes, crops, augmentation and number of loading processes.
        noise: gives what spoils the labels, by the purpose of its random numbers.
        watch: whether training and validation batches have ``trained_label``, see :class:`WatchedSet`.
    """
    spoil = None if noise is None else noise(NOISE)
    training = TrainingSet(data.split("train"), label=label, seed=seed, train=train, noise=spoil)
    order = EpochOrder(len(training), seed=seed)
    # Without a generator of their own, loaders would draw from torch's global one, once more in a process that resumes.
    options: dict[str, Any] = {
        "num_workers": train.num_workers,
        "persistent_workers": train.num_workers > 0,
        "generator": torch.Generator().manual_seed(seed),
    }
    fit_options = {"batch_size": train.batch_size, "collate_fn": collate, **options}
    eval_options = {**fit_options, "batch_size": train.eval_batch_size or train.batch_size}
    if train.crop is not None:  # windows slide over one image at a time, in its own size
        eval_options |= {"batch_size": 1, "collate_fn": partial(collate, multiple=1)}
    # Batch norm cannot learn from a last batch of one image.
    drop_last = len(training) > train.batch_size
    val: Dataset[Item] = SegmentationDataset(data.split("val"))
    if watch:
        val = WatchedSet(data.split("val"), label=label, seed=seed, noise=noise and noise(VAL_NOISE))
    return Loaders(
        DataLoader(training, sampler=order, drop_last=drop_last, **fit_options),
        DataLoader(val, **eval_options),
        DataLoader(SegmentationDataset(data.split("test")), **eval_options),
        training,
        order,
    )
