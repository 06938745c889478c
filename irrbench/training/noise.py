"""Label noise: the models by name or by class, and labels that are spoilt by them.

A new model is a function in :mod:`irrbench.training.mask_noise` and one more entry in :data:`NOISE_MODELS`. How strong
a model has to be is no number that a user gives: :mod:`irrbench.training.doses` finds it.

Axes: ``S`` pixels of one image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from irrbench._settings import nearest
from irrbench.training import mask_noise
from irrbench.training.classes import arguments_of, build, check_class
from irrbench.training.mask_noise import AtStrength, Mask

Label = NDArray[np.float32]  # (*S), in [0, 1]
Prepare = Callable[[Mask, np.random.Generator], AtStrength]
Masks = Callable[[], Sequence[Mask]]
OWN = "class_path"  # what stands in the place of a model's name where a class is given
_MOST_COMPONENTS = 256.0
_MOST_OF_OWN = 1e6
_NUM_REPEATED = 8  # masks


@dataclass(frozen=True)
class NoiseModel:
    """One way to spoil a mask.

    Attributes:
        name: as in a configuration; the import path of a class.
        bias: whether spoilt masks are on average as large as the mask, ``smaller`` or ``larger``.
        unit: of the strength: ``px``, ``share`` or ``components``; empty where only the class knows it.
        text: what it does, one sentence.
        largest: from the image's shape, the largest strength that makes sense.
        prepare: from a mask ``(*S)`` and a generator, a function that gives the spoilt mask at any strength.
    """

    name: str
    bias: Literal["none", "smaller", "larger", "unknown"]
    unit: str
    text: str
    largest: Callable[[tuple[int, ...]], float]
    prepare: Prepare

    def __call__(self, mask: Mask, strength: float, rng: np.random.Generator) -> Mask:
        """The spoilt mask ``(*S)``.

        Raises:
            ValueError: if the strength is negative or no number.
        """
        _check_strength(strength)
        return self.prepare(mask, rng)(strength)


def _check_strength(strength: float) -> None:
    if not 0 <= strength < math.inf:
        raise ValueError(f"the strength of label noise must be a number of 0 or more, found {strength}.")


def _across(shape: tuple[int, ...]) -> float:
    return 2.0 * math.hypot(*shape)


def _all(_shape: tuple[int, ...]) -> float:
    return 1.0


def _most_components(_shape: tuple[int, ...]) -> float:
    return _MOST_COMPONENTS


def _no_donors(_mask: Mask, _rng: np.random.Generator) -> AtStrength:
    raise ValueError("noise invent pastes components of other masks: make it by make_noise('invent', masks=...).")


NOISE_MODELS: dict[str, NoiseModel] = {
    model.name: model
    for model in (
        NoiseModel("boundary", "none", "px", "The border moves to and fro at random.", _across, mask_noise.boundary),
        NoiseModel("shrink", "smaller", "px", "The border moves inward, unevenly.", _across, mask_noise.shrink),
        NoiseModel("grow", "larger", "px", "The border moves outward, unevenly.", _across, mask_noise.grow),
        NoiseModel("shift", "none", "px", "The mask moves in a random direction.", _across, mask_noise.shift),
        NoiseModel("simplify", "none", "px", "Outlines become polygons of few corners.", _across, mask_noise.simplify),
        NoiseModel("miss", "smaller", "share", "Whole components are left out.", _all, mask_noise.miss),
        NoiseModel(
            "invent", "larger", "components", "Components of other images are pasted.", _most_components, _no_donors
        ),
        NoiseModel("flip", "larger", "share", "Single pixels change sides.", _all, mask_noise.flip),
    )
}


def check_noise(model: str, *, class_path: str | None = None, init_args: Mapping[str, Any] | None = None) -> None:
    """Refuse a model that there is not, and options that it does not take.

    Args:
        model: a name among :data:`NOISE_MODELS`; ``class_path`` where a class is given.
        class_path: import path of a class, called with mask, strength and generator.
        init_args: its arguments; the built-in models have none.

    Raises:
        ValueError: with the nearest name.

    Example:
        >>> check_noise("bondary")
        Traceback (most recent call last):
        ...
        ValueError: there is no noise model 'bondary'. Did you mean 'boundary'?
    """
    if model in NOISE_MODELS:
        if class_path is not None or init_args:
            given = "class_path" if class_path is not None else f"init_args ({', '.join(init_args or ())})"
            raise ValueError(
                f"noise model {model!r} takes no options, found {given}. Leave it out, or write model: {OWN} for a "
                "class of your own."
            )
    elif model != OWN:
        raise ValueError(f"there is no noise model {model!r}. {nearest(model, [*NOISE_MODELS, OWN])}")
    elif class_path is None:
        raise ValueError(f"noise model {OWN!r} needs a class_path such as my_package.MyNoise, found none.")
    else:
        check_class(class_path, init_args or {})


def make_noise(
    model: str,
    *,
    class_path: str | None = None,
    init_args: Mapping[str, Any] | None = None,
    masks: Masks | None = None,
) -> NoiseModel:
    """The noise model of a name, or of a class.

    Args:
        model: a name among :data:`NOISE_MODELS`; ``class_path`` where a class is given.
        class_path: import path of a class, called with mask ``(*S)`` bool, strength and generator, which returns a mask
            of the same shape, the same one each time for the same of all three. Its attribute ``largest``, if it has
            one, is the largest strength that makes sense.
        init_args: its arguments.
        masks: gives the masks of other images, for ``invent`` and for classes whose ``__init__`` takes ``masks``.

    Raises:
        ValueError: for an unknown name or option, with the nearest one; for ``invent`` without masks.

    Example:
        >>> mask = np.zeros((3, 8), bool)
        >>> mask[1, 2:6] = True
        >>> shift = make_noise("shift")
        >>> shift(mask, 2.0, np.random.default_rng(0)).sum(), shift.unit, shift.bias
        (np.int64(4), 'px', 'none')
    """
    check_noise(model, class_path=class_path, init_args=init_args)
    if class_path is not None:
        return _own_noise(class_path, dict(init_args or {}), masks)
    if model == "invent":
        if masks is None:
            raise ValueError("noise invent pastes components of other masks: give some, masks=lambda: [...].")
        return replace(NOISE_MODELS[model], prepare=mask_noise.Invention(masks).prepare)
    return NOISE_MODELS[model]


def _own_noise(path: str, init_args: dict[str, Any], masks: Masks | None) -> NoiseModel:
    known = arguments_of(check_class(path, init_args))
    if masks is not None and "masks" in (known or ()) and "masks" not in init_args:
        init_args["masks"] = masks()
    function = build(path, init_args)
    if not callable(function):
        raise ValueError(f"{path} must be called with mask, strength and generator: give it a method __call__.")
    largest = _largest_of(function, path)
    own = _Own(function, path, largest)
    return NoiseModel(path, "unknown", "", f"Masks as {path} spoils them.", own.largest_of, own.prepare)


def _largest_of(function: Any, path: str) -> float:
    given = getattr(function, "largest", _MOST_OF_OWN)
    try:
        largest = float(given)
    except (TypeError, ValueError):
        largest = math.nan
    if not 0 < largest < math.inf:
        raise ValueError(
            f"attribute largest of {path} must be a number above 0, the largest strength; found {given!r}."
        )
    return largest


class _Own:
    """A user's function of mask, strength and generator.

    On the first masks that mark something it is called twice each time: doses would not be what they are said to be if
    it drew random numbers of its own.
    """

    def __init__(self, function: Callable[[Mask, float, np.random.Generator], Any], path: str, largest: float) -> None:
        self.function, self.path, self.largest = function, path, largest
        self._left = _NUM_REPEATED

    def largest_of(self, _shape: tuple[int, ...]) -> float:
        return self.largest

    def prepare(self, mask: Mask, rng: np.random.Generator) -> AtStrength:
        """The function at any strength, each time with the same draws."""
        start, is_repeated = copy.deepcopy(rng), self._left > 0 and bool(mask.any())
        self._left -= is_repeated

        def at(strength: float) -> Mask:
            found = self._called(mask, strength, start)
            if is_repeated and (self._called(mask, strength, start) != found).any():
                raise ValueError(
                    f"{self.path} gives another mask when it is called again with the same mask, strength and "
                    "generator. Draw all random numbers from the generator that it is given, such as rng.random(), not "
                    "from np.random, and keep nothing from one call to the next."
                )
            return found

        return at

    def _called(self, mask: Mask, strength: float, rng: np.random.Generator) -> Mask:
        try:
            found = self.function(mask.copy(), strength, copy.deepcopy(rng))
        except Exception as error:  # a user's class may raise anything
            reason = f"{type(error).__name__}: {error}".rstrip(". ")
            raise ValueError(
                f"{self.path} fails when it is called with mask, strength and generator: "
                f"{reason}. It must take (mask, strength, rng): bool (*S), a number and a numpy.random.Generator."
            ) from error
        return self._checked(found, mask.shape)

    def _checked(self, found: Any, shape: tuple[int, ...]) -> Mask:
        spoilt = np.asarray(found)
        if spoilt.shape != shape:
            raise ValueError(f"{self.path} must return a mask of shape {shape}, found {spoilt.shape}.")
        if spoilt.dtype != bool and not np.isin(spoilt, (0, 1)).all():
            raise ValueError(
                f"{self.path} must return a mask of bool, or of 0 and 1, found {spoilt.dtype} with others."
            )
        return spoilt.astype(bool)


# Labels


def spoil(
    label: NDArray[Any], noise: NoiseModel, strength: float, key: Sequence[int], roi: Mask | None = None
) -> Label:
    """A label with noise: hard labels stay hard, and soft ones stay in [0, 1].

    A soft label is the weighted sum of the masks of pixels that have each of its levels at least. Every one of these
    masks is spoilt by the same draws, and they are summed again.

    Args:
        label: ``(*S)`` in [0, 1].
        noise: the model, see :func:`make_noise`.
        strength: of the noise, in its unit; 0 gives the label itself.
        key: seed of the draws: numbers such as seed, epoch and index. The same key gives the same noise.
        roi: ``(*S)`` bool; outside of it the label stays as it is.

    Raises:
        ValueError: if the strength is negative or no number.

    Example:
        >>> spoil(np.array([0.0, 0.5, 1.0]), make_noise("flip"), 1.0, [0])
        array([1. , 0.5, 0. ], dtype=float32)
    """
    _check_strength(strength)
    return PreparedLabel(label, noise, key, roi)(strength)


class PreparedLabel:
    """What :func:`spoil` gives, as a function of the strength; arguments as there."""

    def __init__(self, label: NDArray[Any], noise: NoiseModel, key: Sequence[int], roi: Mask | None = None) -> None:
        self.clean, self.roi = np.asarray(label, np.float32), roi
        levels = np.unique(self.clean[self.clean > 0]) if self.clean.any() else np.ones(1)
        self._weights = np.diff(levels.astype(float), prepend=0.0)
        self._masks = [self.clean >= level for level in levels]
        self._parts = [noise.prepare(mask, np.random.default_rng(list(key))) for mask in self._masks]

    def __call__(self, strength: float) -> Label:
        """The label ``(*S)`` with noise."""
        if not strength:
            return self.clean.copy()
        total = sum(weight * part(strength) for weight, part in zip(self._weights, self._parts, strict=True))
        spoilt = np.asarray(total, np.float32).clip(0, 1)
        return spoilt if self.roi is None else np.where(self.roi, spoilt, self.clean)

    def agreement(self, strength: float) -> float:
        """:func:`label_iou` of the label with noise and without it."""
        if len(self._parts) == 1:  # masks alone, which is faster
            return label_iou(self._masks[0], self._parts[0](strength), self.roi)
        return label_iou(self.clean, self(strength), self.roi)

    def sizes(self, strength: float) -> tuple[float, float]:
        """Marked pixels without noise and with it, inside the ROI; of soft labels the sums."""
        both = (self.clean, self(strength))
        return tuple(_total(label if self.roi is None else label[self.roi]) for label in both)  # type: ignore[return-value]


def label_iou(clean: Label | Mask, noisy: Label | Mask, roi: Mask | None = None) -> float:
    """IoU of two labels in [0, 1]: sum of the smaller over sum of the larger values; NaN where both mark nothing.

    Args:
        clean: ``(*S)``.
        noisy: ``(*S)``.
        roi: ``(*S)`` bool, the pixels that count; None: all.

    Example:
        >>> label_iou(np.array([1.0, 0.5, 0.0]), np.array([1.0, 0.0, 0.5]))
        0.5
    """
    if roi is not None:
        clean, noisy = clean[roi], noisy[roi]
    common, *sizes = (_total(part) for part in (np.minimum(clean, noisy), clean, noisy))
    union = sum(sizes) - common
    return common / union if union else math.nan


def _total(label: Label | Mask) -> float:
    return float(np.count_nonzero(label) if label.dtype == bool else label.sum(dtype=float))
