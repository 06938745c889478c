"""How good can a segmentation score honestly get, on labels that several people drew differently?

Tensors in, tensors out: nothing of Lightning, MLflow, segmentation-models-pytorch or matplotlib is imported here. Names
are fetched from their modules when first used, so that a command line need not wait for torch to say what it can do.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from irrbench.agreement import ClassVotes as ClassVotes
    from irrbench.agreement import cohen_kappa as cohen_kappa
    from irrbench.agreement import fleiss_kappa as fleiss_kappa
    from irrbench.agreement import gwet_ac1 as gwet_ac1
    from irrbench.agreement import krippendorff_alpha as krippendorff_alpha
    from irrbench.agreement import percent_agreement as percent_agreement
    from irrbench.agreement import prevalence as prevalence
    from irrbench.agreement import why_undefined as why_undefined
    from irrbench.bounds import Bounds as Bounds
    from irrbench.bounds import segmentation_bounds as segmentation_bounds
    from irrbench.consensus import StapleFit as StapleFit
    from irrbench.consensus import majority as majority
    from irrbench.consensus import staple as staple
    from irrbench.consensus import staple_probability as staple_probability
    from irrbench.consensus import vote_share as vote_share
    from irrbench.icc import AreaICCFit as AreaICCFit
    from irrbench.icc import ExtentICCFit as ExtentICCFit
    from irrbench.icc import JointICC as JointICC
    from irrbench.icc import PixelICCFit as PixelICCFit
    from irrbench.icc import area_icc as area_icc
    from irrbench.icc import area_icc_from_counts as area_icc_from_counts
    from irrbench.icc import extent_icc as extent_icc
    from irrbench.icc import joint_icc as joint_icc
    from irrbench.icc import pixel_icc as pixel_icc
    from irrbench.icc import shrout_fleiss as shrout_fleiss
    from irrbench.metrics import AreaICC as AreaICC
    from irrbench.metrics import ExtentICC as ExtentICC
    from irrbench.metrics import GwetAC1 as GwetAC1
    from irrbench.metrics import KrippendorffAlpha as KrippendorffAlpha
    from irrbench.metrics import PixelICC as PixelICC
    from irrbench.metrics import SegmentationBounds as SegmentationBounds
    from irrbench.patterns import VotePatterns as VotePatterns
    from irrbench.scores import DEFAULT_SCORES as DEFAULT_SCORES
    from irrbench.scores import SCORES as SCORES
    from irrbench.summary import ScoreSummary as ScoreSummary
    from irrbench.summary import summarize as summarize

__version__ = "0.1.0"

_HOMES = {
    "agreement": (
        "ClassVotes",
        "cohen_kappa",
        "fleiss_kappa",
        "gwet_ac1",
        "krippendorff_alpha",
        "percent_agreement",
        "prevalence",
        "why_undefined",
    ),
    "bounds": ("Bounds", "segmentation_bounds"),
    "consensus": ("StapleFit", "majority", "staple", "staple_probability", "vote_share"),
    "icc": (
        "AreaICCFit",
        "ExtentICCFit",
        "JointICC",
        "PixelICCFit",
        "area_icc",
        "area_icc_from_counts",
        "extent_icc",
        "joint_icc",
        "pixel_icc",
        "shrout_fleiss",
    ),
    "metrics": ("AreaICC", "ExtentICC", "GwetAC1", "KrippendorffAlpha", "PixelICC", "SegmentationBounds"),
    "patterns": ("VotePatterns",),
    "scores": ("DEFAULT_SCORES", "SCORES"),
    "summary": ("ScoreSummary", "summarize"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 (one list of names is enough)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
