"""What the intraclass correlations of single images have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from irrbench._results import ImagesResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class ICCResult(ImagesResult):
    """An intraclass correlation of each image, ``icc``, perhaps with an interval from ``low`` to ``high``."""

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Draw the ICC of each image from small to large, with intervals where there are any.

        Args:
            ax: where to draw; a new figure if not given.
        """
        from irrbench.plots.results import draw_ordered  # noqa: PLC0415 (imports matplotlib)

        frame = self.to_frame()
        return draw_ordered(frame["icc"], low=frame.get("low"), high=frame.get("high"), label="ICC", ax=ax)
