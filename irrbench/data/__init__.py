"""Raters' masks from folders, from LIDC-IDRI, and as a torch data set."""

from irrbench.data.dataset import LABEL_STRATEGIES, SegmentationDataset, collate
from irrbench.data.folder import check_folder, load_folder
from irrbench.data.predictions import (
    ChosenThreshold,
    MasksAloneError,
    Predictions,
    choose_threshold,
    find_models,
    load_predictions,
)
from irrbench.data.rater_data import RaterData
from irrbench.data.readers import DataError, Problem

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
    "load_predictions",
]
