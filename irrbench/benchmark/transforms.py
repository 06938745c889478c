"""Transforms of training images from a configuration, of torchvision or albumentations, with everything drawn on them.

Each draw depends on seed, epoch and index alone, whatever process makes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irrbench.benchmark.config import ConfigError
from irrbench.models import build, check_class, import_class

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
