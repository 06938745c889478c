"""How good can a segmentation score honestly get, on labels that several people drew differently?

Tensors in, tensors out: nothing of Lightning, MLflow, segmentation-models-pytorch or matplotlib is imported here. Names
are fetched from their modules when first used, so that a command line need not wait for torch to say what it can do.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {  # types are in __init__.pyi
    "agreement": "ClassVotes cohen_kappa fleiss_kappa gwet_ac1 krippendorff_alpha percent_agreement prevalence "
    "why_undefined",
    "bounds": "Bounds mask_bounds sample_bounds segmentation_bounds",
    "consensus": "StapleFit majority staple staple_probability vote_share",
    "icc": "AreaICCFit ExtentICCFit JointICC PixelICCFit area_icc area_icc_from_counts extent_icc joint_icc pixel_icc "
    "shrout_fleiss",
    "metrics": "AreaICC ExtentICC GwetAC1 KrippendorffAlpha PixelICC ProbabilityLevels SegmentationBounds",
    "panels": "PanelCurve panel_curve",
    "patterns": "VotePatterns",
    "samples": "generalized_energy_distance",
    "scores": "DEFAULT_SCORES SCORES",
    "summary": "ScoreSummary summarize",
    "surfaces": "rater_distances",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 (one list of names is enough)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
