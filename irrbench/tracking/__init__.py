"""What irrbench tells MLflow: model runs, the two runs that hold the bounds, and a chart view that shows both.

The bounds of a data set are two runs of their own with the *same metric keys* as the models, because that is what every
default chart of MLflow draws together. MLflow itself is imported when a function is called, not with this package.

A call on a :class:`Run` is recorded once, as the name of a function in :mod:`irrbench.tracking.calls` and its arguments
(:mod:`irrbench.tracking.records`), and that function performs it in the store: soon, by a worker thread, or later, by
``irrbench sync`` (:mod:`irrbench.tracking.delivery`, :mod:`irrbench.tracking.sync`).
"""

from irrbench.tracking.calls import palette_beside
from irrbench.tracking.dose_curves import log_dose_curves
from irrbench.tracking.records import RunAddress
from irrbench.tracking.run import Run
from irrbench.tracking.store import DEFAULT_TRACKING_URI, chart_link, open_store
from irrbench.tracking.view import save_chart_view

__all__ = [
    "DEFAULT_TRACKING_URI",
    "Run",
    "RunAddress",
    "chart_link",
    "log_dose_curves",
    "open_store",
    "palette_beside",
    "save_chart_view",
]
