"""One ``Callback`` class for both of Lightning's namespaces."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__all__ = ["Callback", "LightningModule", "Trainer"]

NAMESPACES = ("pytorch_lightning", "lightning.pytorch")


def callback_bases() -> tuple[type, ...]:
    """The ``Callback`` of every installed Lightning: a trainer of either takes a class that inherits from all."""
    installed = [name for name in NAMESPACES if find_spec(name.partition(".")[0]) is not None]
    return tuple(import_module(name).Callback for name in installed)


if TYPE_CHECKING:
    from pytorch_lightning import Callback
else:
    Callback = type("Callback", callback_bases(), {"__doc__": "A callback for trainers of any installed Lightning."})

Trainer = Any  # of either namespace, which share no base class
LightningModule = Any
