"""Training: models, batches, one cell of a grid, and the grid."""

from __future__ import annotations

from irrbench.training.classes import build as build
from irrbench.training.classes import check_class as check_class
from irrbench.training.classes import import_class as import_class
from irrbench.training.classes import source_digest as source_digest
from irrbench.training.models import SegmentationModule as SegmentationModule
from irrbench.training.models import check_model as check_model
from irrbench.training.models import check_network as check_network
from irrbench.training.models import create_module as create_module
from irrbench.training.models import create_network as create_network
from irrbench.training.models import predictions_of as predictions_of
from irrbench.training.models import trains_itself as trains_itself
