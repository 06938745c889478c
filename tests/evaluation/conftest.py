"""Fixtures for sinks."""

from __future__ import annotations

from tests.evaluation.fake_wandb import bounds_runs  # noqa: F401
