"""Turns what annotation tools and archives export into a data folder: images, a mask for each rater, a manifest."""

from __future__ import annotations

from irrbench.convert.coco import convert_coco
from irrbench.convert.labelbox import convert_labelbox
from irrbench.convert.lidc import convert_lidc
from irrbench.convert.writing import Converted

__all__ = ["Converted", "convert_coco", "convert_labelbox", "convert_lidc"]
