"""Intraclass correlations: the shares of pixel, place, image and rater in the variance of what raters mark."""

from irrbench.icc.area import (
    AreaICCFit,
    BlockCounts,
    BlockShareICC,
    area_icc,
    area_icc_from_counts,
    block_counts,
    block_share_icc,
)
from irrbench.icc.bootstrap import (
    AreaICCInterval,
    PixelICCInterval,
    PixelICCTest,
    area_icc_interval,
    pixel_icc_interval,
    pixel_icc_test,
)
from irrbench.icc.extent import ExtentICCFit, ExtentICCInterval, extent_icc, extent_icc_interval
from irrbench.icc.joint import JointICC, joint_icc
from irrbench.icc.pixel import PixelICCFit, pixel_icc
from irrbench.icc.shrout_fleiss import ICCForm, shrout_fleiss

__all__ = [
    "AreaICCFit",
    "AreaICCInterval",
    "BlockCounts",
    "BlockShareICC",
    "ExtentICCFit",
    "ExtentICCInterval",
    "ICCForm",
    "JointICC",
    "PixelICCFit",
    "PixelICCInterval",
    "PixelICCTest",
    "area_icc",
    "area_icc_from_counts",
    "area_icc_interval",
    "block_counts",
    "block_share_icc",
    "extent_icc",
    "extent_icc_interval",
    "joint_icc",
    "pixel_icc",
    "pixel_icc_interval",
    "pixel_icc_test",
    "shrout_fleiss",
]
