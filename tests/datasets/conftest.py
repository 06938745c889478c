"""The real data of the tests of data folders."""

from tests.data.conftest import real_data

__all__ = ["real_data"]
