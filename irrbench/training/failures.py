"""What errors of a training mean, where their own words do not say what to do."""

from __future__ import annotations

import re
from textwrap import shorten

import torch

from irrbench.config import ConfigError
from irrbench.data import DataError
from irrbench.training.cell import CellError
from irrbench.training.memory import REMEDIES

_SHORTAGE = (
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|unable to allocate|bad_alloc|"
    r"could not create a (?:memory|primitive)|can't start new thread|DataLoader worker .*(?:killed|exited unexpected)|"
    r"worker process .* was unexpectedly terminated|ended with code -9"
)
_NO_MEMORY = f"Memory did not suffice, it seems. {REMEDIES}"
_CHANNELS = (
    "A layer of the model takes {0} channels and got {1}. If it is the first layer, and the images have {1}: let the "
    "class take an argument in_channels, or convert the images."
)
_ONE_VALUE = (
    "Batch normalization cannot learn from a batch of one image that is one pixel large inside. Set train.batch_size "
    "to 2 or more, with two training images or train.crops_per_image: 2."
)
# What an error says, and what it means. In a sentence, {0}, {1} are the parts of the pattern.
_MEANINGS = (
    (_SHORTAGE, _NO_MEMORY),
    (r"to have (\d+) channels, but got (\d+) channels", _CHANNELS),
    (r"Expected more than 1 value per channel when training", _ONE_VALUE),
)


def explain(error: BaseException) -> str:
    """What an error means and what to do, in two sentences; empty where only its traceback says more.

    Example:
        >>> explain(MemoryError())[:47]
        'MemoryError. Memory did not suffice, it seems. '
        >>> explain(KeyError("a"))
        ''
    """
    found, sentence = str(error), ""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        sentence = _NO_MEMORY
    for pattern, meaning in _MEANINGS:
        match = re.search(pattern, found, re.IGNORECASE | re.DOTALL)
        if match and not sentence and isinstance(error, RuntimeError | OSError | SystemError | ValueError):
            sentence = meaning.format(*match.groups())
    if sentence:
        first = shorten(found.partition("\n")[0], 200).rstrip(". ")
        return f"{type(error).__name__}{first and f': {first}'}. {sentence}"
    if isinstance(error, CellError | ConfigError | DataError):
        return found
    return explain(error.__cause__) if error.__cause__ is not None else ""
