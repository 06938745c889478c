"""Raters' masks from folders, from LIDC-IDRI, and as a torch data set."""

from irrbench.data.dataset import SegmentationDataset, collate
from irrbench.data.folder import check_folder, load_folder
from irrbench.data.labels import LABEL_STRATEGIES
from irrbench.data.lidc import load_lidc
from irrbench.data.prediction_files import find_models
from irrbench.data.predictions import Predictions, load_predictions
from irrbench.data.problems import DataError, Problem
from irrbench.data.rater_data import RaterData
from irrbench.data.thresholds import ChosenThreshold, MasksAloneError, choose_threshold

__all__ = [
    "LABEL_STRATEGIES",
    "ChosenThreshold",
    "DataError",
    "MasksAloneError",
    "Predictions",
    "Problem",
    "RaterData",
    "SegmentationDataset",
    "check_folder",
    "choose_threshold",
    "collate",
    "find_models",
    "load_folder",
    "load_lidc",
    "load_predictions",
]
