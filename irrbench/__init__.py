"""How good can a segmentation score honestly get, on labels that several people drew differently?

Tensors in, tensors out: nothing of Lightning, MLflow, segmentation-models-pytorch or matplotlib is imported here.
"""

from irrbench.agreement import (
    cohen_kappa,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
    percent_agreement,
    prevalence,
)
from irrbench.bounds import Bounds, segmentation_bounds
from irrbench.consensus import majority, vote_share
from irrbench.metrics import SegmentationBounds
from irrbench.patterns import VotePatterns
from irrbench.scores import DEFAULT_SCORES, SCORES
from irrbench.summary import ScoreSummary, summarize

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_SCORES",
    "SCORES",
    "Bounds",
    "ScoreSummary",
    "SegmentationBounds",
    "VotePatterns",
    "cohen_kappa",
    "fleiss_kappa",
    "gwet_ac1",
    "krippendorff_alpha",
    "majority",
    "percent_agreement",
    "prevalence",
    "segmentation_bounds",
    "summarize",
    "vote_share",
]
