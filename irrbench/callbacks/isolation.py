"""A call that leaves no trace: not in random numbers, not in buffers, not in the mode of a module."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Restore random states (Python's, NumPy's, torch's), and the module's modes and buffers, after a call.

    Nothing in it waits for an accelerator. The module's parameters are not looked after.

    Args:
        module: that the call may use; it may draw random numbers on its device.
    """
    modes = [(part, part.training) for part in module.modules()]
    buffers = [(part, *item) for part in module.modules() for item in part.named_buffers(recurse=False)]
    before = [buffer.detach().clone() for _, _, buffer in buffers]
    device = next((x.device for x in [*module.parameters(), *module.buffers()] if x.device.type != "cpu"), None)
    options = {"device_type": device.type} if device else {}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (the user's)
    try:
        with torch.random.fork_rng([device] if device else [], **options):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for part, mode in modes:
            part.training = mode
        for (part, name, buffer), value in zip(buffers, before, strict=True):
            if getattr(part, name, None) is not buffer:
                setattr(part, name, buffer)
            buffer.data.copy_(value)  # a graph that holds it for its backward pass does not notice
