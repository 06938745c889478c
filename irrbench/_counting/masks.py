"""Which pixels of a mask are foreground: values of any dtype to bytes.

Masks are bool, or numbers that are 0 and 1, or 0 and 255.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_TILE = 2**16  # numbers that are looked at twice while a core's cache holds them
_VOID, _MOST_CLASSES = 255, 64  # what numbers in a mask that is none probably are
_BYTES = (torch.uint8, torch.int8)
_SAME_BITS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
    torch.int16: torch.int16,
    torch.int32: torch.int32,
    torch.int64: torch.int64,
}


def as_foreground(values: Tensor, name: str, *, validate: bool) -> Tensor:
    """Bool, or integers of one byte of which anything but 0 is foreground, without a copy where the dtype allows it.

    Args:
        values: bool, or numbers that are 0 and 1, or 0 and 255.
        name: of the argument, for the error.
        validate: whether to look at every value; without it anything but 0 is foreground.

    Raises:
        ValueError: if there are other values.
    """
    if values.dtype is torch.bool:
        return values
    if values.dtype in _BYTES:
        if validate:
            _check_bytes(values, name)
        return values
    if not validate:
        return values != 0
    return _foreground_of_numbers(values, name)


def as_presence(present: Tensor, *, validate: bool = True) -> Tensor:
    """Bool out of bool, or of numbers that are 0 and 1.

    Args:
        present: ``(B, R)``.
        validate: whether to look at every value; without it anything but 0 is present.

    Raises:
        ValueError: if there are other values.
    """
    if present.dtype is torch.bool:
        return present
    is_present = present != 0
    if validate and not torch.equal(is_present.to(present.dtype), present):
        raise ValueError(
            f"`present` must hold 0 and 1 (or bool), who rated which image; found the values {_listed(present)}. "
            "Raters have no weights: pass `present > 0`, or what else tells who rated."
        )
    return is_present


def blank_absent(masks: Tensor, present: Tensor | None, *, validate: bool) -> tuple[Tensor, Tensor]:
    """The masks with 0 in those of absent raters, who may have anything there, and who is present as bool.

    Args:
        masks: ``(B, R, *S)``.
        present: ``(B, R)``, bool or 0/1; all if not given.
        validate: whether to look at the values, which waits for the device; without it masks stay as they are.

    Raises:
        ValueError: if `present` has other values.
    """
    if present is None:
        return masks, torch.ones(masks.shape[:2], dtype=torch.bool, device=masks.device)
    present = as_presence(present, validate=validate)
    if not validate or masks.dtype is torch.bool or present.all():
        return masks, present
    is_absent = ~present.to(masks.device)
    return masks.masked_fill(is_absent.view(*is_absent.shape, *[1] * (masks.ndim - 2)), 0), present


def as_bits(values: Tensor, name: str, *, validate: bool) -> Tensor:
    """0/1 as uint8; all else as in :func:`as_foreground`."""
    foreground = as_foreground(values, name, validate=validate)
    return (foreground if foreground.dtype is torch.bool else foreground != 0).view(torch.uint8)


def _check_bytes(values: Tensor, name: str) -> None:
    # Read as signed bytes, 255 is -1: one look at the extremes tells 0/1 from 0/255 from anything else.
    low, high = (x.item() for x in torch.aminmax(values.view(torch.int8))) if values.numel() else (0, 0)
    if not (low >= 0 and high <= 1) and not (low == -1 and high <= 0):
        raise _not_a_mask(values, name)


def _foreground_of_numbers(values: Tensor, name: str) -> Tensor:
    found = None
    if values.device.type == "cpu" and values.dtype in _SAME_BITS:
        found = next((foreground for one in (1, 255) if (foreground := _where_is(values, one)) is not None), None)
    if found is not None:
        return found
    # Two values, of which one is 0: whatever is not 0 is the largest.
    foreground = values != 0
    top = values.max().item() if values.numel() else 0
    if (top in (1, 255) and torch.equal(foreground, values == top)) or (top == 0 and not foreground.any()):
        return foreground
    raise _not_a_mask(values, name)


def _where_is(values: Tensor, one: int) -> Tensor | None:
    """Where that value is; None if there are others than it and 0. Bits are compared, as integers."""
    as_integers = _SAME_BITS[values.dtype]
    wanted = int(torch.tensor(one).to(values.dtype).view(as_integers).item())
    bits = values.contiguous().view(as_integers).flatten().numpy()
    foreground = np.empty(len(bits), bool)
    for start in range(0, len(bits), _TILE):
        tile, found = bits[start : start + _TILE], foreground[start : start + _TILE]
        np.equal(tile, wanted, out=found)
        if np.count_nonzero(tile) != np.count_nonzero(found):
            return None
    return torch.from_numpy(foreground).view(values.shape)


def _not_a_mask(values: Tensor, name: str) -> ValueError:
    expected = f"`{name}` must hold 0 and 1 (or 0 and 255, or bool)"
    return ValueError(f"{expected}, found the values {_listed(values)}. {_remedy(values, name)}")


def _listed(values: Tensor) -> str:
    shown = list(dict.fromkeys(f"{v:g}" for v in values.unique().tolist()))  # NaN is never the same twice
    return ", ".join(shown[:6]) + (", ..." if len(shown) > 6 else "")


def _remedy(values: Tensor, name: str) -> str:
    """What to do about a mask with these values."""
    if name == "roi":
        return "Pass `roi > 0`, or what else tells the pixels that count."
    missing = advise_on_missing(values) if name == "masks" else ""
    found = [v for v in values.unique().tolist() if not math.isnan(v)]
    if not all(float(v).is_integer() for v in found):
        return "Probabilities and soft labels must be cut at a threshold first."
    if values.isnan().any():
        return missing or "NaN is no opinion: take pixels that do not count out by `roi`."
    void = [v for v in found if v < 0 or v == _VOID]
    most = max((v for v in found if v not in void), default=0)
    if most > _MOST_CLASSES:
        return f"If all but 0 is marked, pass `{name} != 0`."
    words = [f"Class numbers need `num_classes={most + 1:g}` (patterns: `from_labels`)."] if most > 1 else []
    words += [missing or advise_on_void(void[0])] if len(void) == 1 else []
    return " ".join(words) or "Marks are 1, all else is 0."


def advise_on_void(value: float) -> str:
    """What to do about a value for void in masks."""
    return f"If {value:g} is void, pass `ignore_index={value:g}` (metrics, evaluator and monitor have it)."


def advise_on_missing(masks: Tensor) -> str:
    """What to do where a rater's mask of an image is NaN, negative or 255 everywhere; nothing where none is.

    Args:
        masks: ``(B, R, *S)``, some values of which are no marks.
    """
    planes = masks.flatten(2)
    first = planes[:, :, :1]
    is_even = ((planes == first) | (planes.isnan() & first.isnan())).all(2)
    values = [v for v in first[:, :, 0][is_even].unique().tolist() if math.isnan(v) or v < 0 or v == _VOID]
    if not values or int((planes[~is_even] == values[0]).sum()):
        return ""  # what is in parts of other masks is void
    how = "~masks.isnan().flatten(2).all(2)" if math.isnan(values[0]) else f"(masks != {values[0]:g}).flatten(2).any(2)"
    return f"A rater who has {values[0]:g} everywhere did not rate the image: say by `present` (B, R) who did, `{how}`."
