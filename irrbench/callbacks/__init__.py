"""Lightning callbacks: when the bounds are computed and logged, not what they are."""

from irrbench.callbacks.monitor import RaterBoundsMonitor

__all__ = ["RaterBoundsMonitor"]
