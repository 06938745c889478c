"""Data sets that come with a package of their own: LIDC-IDRI."""

from irrbench.datasets.lidc import load_lidc

__all__ = ["load_lidc"]
