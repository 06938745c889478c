"""Turns what annotation tools, archives and public sets hold into a data folder: images, raters' masks, a manifest.

Names are fetched from their modules when first used, so that a command line need not wait for torch to say what it can
do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from irrbench.convert.coco import convert_coco
    from irrbench.convert.cvat import convert_cvat
    from irrbench.convert.label_studio import convert_label_studio
    from irrbench.convert.labelbox import convert_labelbox
    from irrbench.convert.lidc import convert_lidc
    from irrbench.convert.public.converting import convert_public
    from irrbench.convert.writing import Converted

_HOME_OF = {
    "Converted": "writing",
    "convert_coco": "coco",
    "convert_cvat": "cvat",
    "convert_label_studio": "label_studio",
    "convert_labelbox": "labelbox",
    "convert_lidc": "lidc",
    "convert_public": "public.converting",
}

__all__ = [
    "Converted",
    "convert_coco",
    "convert_cvat",
    "convert_label_studio",
    "convert_labelbox",
    "convert_lidc",
    "convert_public",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
