"""Standard errors where images and raters were both drawn from many."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from irrbench.inference.ratios import divide
from irrbench.inference.resampling import Floats


def crossed_errors(
    samples: ArrayLike, image_samples: ArrayLike, *, num_groups: int, num_raters: int
) -> tuple[Floats, Floats]:
    """Standard errors and their degrees of freedom, from resamples of both and of images alone.

    What drawing raters adds to the variance rests on few raters. A bootstrap of ``n`` units is short by ``(n - 1) / n``
    of the variance, which is made up for part by part; the degrees of freedom are those of the sum of the parts.

    Args:
        samples: ``(T, M)`` resamples of groups of images and of raters.
        image_samples: ``(T, M)`` resamples of the groups alone.
        num_groups: ``G``, at least 2.
        num_raters: ``R``, at least 2.

    Returns:
        Standard errors ``(M,)`` and degrees of freedom ``(M,)``, those of images alone where raters add nothing.

    Example:
        >>> errors, degrees = crossed_errors([[-2.0], [2.0]], [[0.0], [0.0]], num_groups=9, num_raters=3)
        >>> (errors**2).round(9), degrees
        (array([6.]), array([2.]))

    Sources: Owen 2007, The pigeonhole bootstrap, doi 10.1214/07-AOAS122; Satterthwaite 1946, doi 10.2307/3002019.
    """
    both, images = (_variance(np.asarray(table, float)) for table in (samples, image_samples))
    by_images = images * num_groups / (num_groups - 1)
    by_raters = np.maximum(both - images, 0.0) * num_raters / (num_raters - 1)
    total = by_images + by_raters
    parts = by_images**2 / (num_groups - 1) + by_raters**2 / (num_raters - 1)
    degrees = divide(total**2, parts)
    return np.asarray(np.sqrt(total), float), np.where(parts > 0, degrees, float(num_groups - 1))


def _variance(samples: Floats) -> Floats:
    """Over the resamples that are defined; NaN where none is."""
    defined = ~np.isnan(samples)
    count = defined.sum(axis=0).astype(float)
    mean = divide(np.where(defined, samples, 0.0).sum(axis=0), count)
    return divide((np.where(defined, samples - mean, 0.0) ** 2).sum(axis=0), count)
