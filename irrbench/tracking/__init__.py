"""What irrbench tells MLflow: model runs, the two runs that hold the bounds, and a chart view that shows both.

The bounds of a data set are two runs of their own with the *same metric keys* as the models, because that is what every
default chart of MLflow draws together. MLflow itself is imported when a function is called, not with this package; its
modules are imported when a name of theirs is first used: a command that shows a link needs few of them.

A call on a :class:`Run` is recorded once, as the name of a function in :mod:`irrbench.tracking.calls` and its arguments
(:mod:`irrbench.tracking.records`), and that function performs it in the store: soon, by a worker thread, or later, by
``irrbench sync`` (:mod:`irrbench.tracking.delivery`, :mod:`irrbench.tracking.sync`).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_HOMES = {
    "calls": {"palette_beside"},
    "dose_curves": {"log_dose_curves"},
    "records": {"RunAddress"},
    "run": {"Run"},
    "store": {"DEFAULT_TRACKING_URI", "chart_link", "open_store"},
    "view": {"save_chart_view"},
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
