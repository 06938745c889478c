"""Turns what annotation tools and archives export into a data folder: images, a mask for each rater, a manifest."""

from irrbench.data.convert.coco import convert_coco
from irrbench.data.convert.labelbox import convert_labelbox
from irrbench.data.convert.lidc_dicom import convert_lidc
from irrbench.data.convert.writing import Converted

__all__ = ["Converted", "convert_coco", "convert_labelbox", "convert_lidc"]
