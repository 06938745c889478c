"""Fixtures of the trainings, for the tests of whole benchmarks."""

from tests.training.conftest import empty_database, grid, nets, store, study, with_nets

__all__ = ["empty_database", "grid", "nets", "store", "study", "with_nets"]
