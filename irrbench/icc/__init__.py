"""Intraclass correlations: how much of what raters mark is the image, and how much the rater."""

from irrbench.icc.pixel import PixelICCFit, pixel_icc
from irrbench.icc.uncertainty import PixelICCInterval, PixelICCTest, pixel_icc_interval, pixel_icc_test

__all__ = ["PixelICCFit", "PixelICCInterval", "PixelICCTest", "pixel_icc", "pixel_icc_interval", "pixel_icc_test"]
