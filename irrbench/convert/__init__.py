"""Turns what annotation tools and archives export into a data folder: images, a mask for each rater, a manifest."""

from __future__ import annotations

from irrbench.convert.coco import convert_coco
from irrbench.convert.cvat import convert_cvat
from irrbench.convert.label_studio import convert_label_studio
from irrbench.convert.labelbox import convert_labelbox
from irrbench.convert.lidc import convert_lidc
from irrbench.convert.writing import Converted

__all__ = ["Converted", "convert_coco", "convert_cvat", "convert_label_studio", "convert_labelbox", "convert_lidc"]
