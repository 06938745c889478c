"""Names and types of the package, for type checkers and editors; at run time they are fetched when first used."""

from irrbench.agreement import ClassVotes as ClassVotes
from irrbench.agreement import cohen_kappa as cohen_kappa
from irrbench.agreement import fleiss_kappa as fleiss_kappa
from irrbench.agreement import gwet_ac1 as gwet_ac1
from irrbench.agreement import krippendorff_alpha as krippendorff_alpha
from irrbench.agreement import percent_agreement as percent_agreement
from irrbench.agreement import prevalence as prevalence
from irrbench.agreement import why_undefined as why_undefined
from irrbench.bounds import Bounds as Bounds
from irrbench.bounds import mask_bounds as mask_bounds
from irrbench.bounds import sample_bounds as sample_bounds
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
from irrbench.metrics import ProbabilityLevels as ProbabilityLevels
from irrbench.metrics import SegmentationBounds as SegmentationBounds
from irrbench.panels import PanelCurve as PanelCurve
from irrbench.panels import panel_curve as panel_curve
from irrbench.patterns import VotePatterns as VotePatterns
from irrbench.samples import generalized_energy_distance as generalized_energy_distance
from irrbench.scores import DEFAULT_SCORES as DEFAULT_SCORES
from irrbench.scores import SCORES as SCORES
from irrbench.summary import ScoreSummary as ScoreSummary
from irrbench.summary import summarize as summarize
from irrbench.surfaces import rater_distances as rater_distances

__version__: str
