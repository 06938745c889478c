"""Raters' masks from folders, from LIDC-IDRI, and as a torch data set."""

from irrbench.data.folder import check_folder, load_folder
from irrbench.data.problems import DataError, Problem
from irrbench.data.rater_data import RaterData

__all__ = ["DataError", "Problem", "RaterData", "check_folder", "load_folder"]
