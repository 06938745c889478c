"""Fixtures of the trainings, for the tests of whole benchmarks."""

from tests.training.conftest import grid, nets, store, study, with_nets

__all__ = ["grid", "nets", "store", "study", "with_nets"]
