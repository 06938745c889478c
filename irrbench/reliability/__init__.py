"""How reliable are a data set's raters? Agreement and intraclass correlations at pixel, area and extent level."""

from irrbench.config import StudyOptions
from irrbench.reliability.measures import Measure, select_measures
from irrbench.reliability.study import Study, study

__all__ = ["Measure", "Study", "StudyOptions", "select_measures", "study"]
