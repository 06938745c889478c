"""Lightning callbacks: when the bounds are computed and logged, not what they are."""

from irrbench.callbacks.logger import SpoolingMLFlowLogger
from irrbench.callbacks.monitor import RaterBoundsMonitor
from irrbench.callbacks.predictions import ForwardAgain
from irrbench.callbacks.rated import Rated
from irrbench.callbacks.stopping import CeilingStopping

__all__ = ["CeilingStopping", "ForwardAgain", "Rated", "RaterBoundsMonitor", "SpoolingMLFlowLogger"]
