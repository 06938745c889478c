"""Intraclass correlations: how much of what raters mark is the image, and how much the rater."""

from irrbench.icc.anova import ICCForm, shrout_fleiss
from irrbench.icc.area import AreaICCFit, area_icc, area_icc_from_counts
from irrbench.icc.area_uncertainty import AreaICCInterval, area_icc_interval
from irrbench.icc.blocks import BlockCounts, block_counts
from irrbench.icc.extent import ExtentICCFit, ExtentICCInterval, extent_icc, extent_icc_interval
from irrbench.icc.joint import JointICC, joint_icc
from irrbench.icc.pixel import PixelICCFit, pixel_icc
from irrbench.icc.uncertainty import PixelICCInterval, PixelICCTest, pixel_icc_interval, pixel_icc_test

__all__ = [
    "AreaICCFit",
    "AreaICCInterval",
    "BlockCounts",
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
    "extent_icc",
    "extent_icc_interval",
    "joint_icc",
    "pixel_icc",
    "pixel_icc_interval",
    "pixel_icc_test",
    "shrout_fleiss",
]
