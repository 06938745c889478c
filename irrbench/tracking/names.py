"""Tags, roles and names under which the runs of an experiment know one another."""

from __future__ import annotations

ROLE_TAG = "irrbench.role"
BOUNDS_TAG = "irrbench.bounds_id"
KEY_TAG = "irrbench.run_key"
COLOUR_TAG = "mlflow.runColor"
NOTE_TAG = "mlflow.note.content"
LOGGED_ARTIFACTS_TAG = "mlflow.loggedArtifacts"
VIEW_KEY = "irrbench"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"

ROLES = ("model", "ceiling", "floor", "upper")
DEFAULT_SCORES = ("iou", "accuracy", "tpr", "ppv", "f1")
