"""How far the raters agree on each image, as columns beside the model's scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from irrbench.agreement import gwet_ac1, percent_agreement
from irrbench.icc import pixel_icc
from irrbench.metrics.rows import Images

if TYPE_CHECKING:
    import pandas as pd


def reliability_table(images: Iterable[Images]) -> pd.DataFrame:
    """Agreement of the raters, one row an image.

    Args:
        images: as :meth:`irrbench.SegmentationBounds.images` gives them.

    Returns:
        Columns ``image_id``, ``icc_pixel`` (see :func:`irrbench.icc.pixel_icc`; NaN where undefined or not converged),
        ``ac1`` (Gwet) and ``agreement`` (share of agreeing pairs of raters). With several classes ``icc_pixel`` is the
        mean over the classes, each against the rest, that have one in the image. About a millisecond an image.
    """
    import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

    return pd.concat([pd.DataFrame(_columns(some)) for some in images], ignore_index=True)


def _columns(some: Images) -> dict[str, object]:
    fits = [pixel_icc(patterns) for patterns in some.classes]
    icc = torch.stack([fit.icc.masked_fill(~fit.converged, torch.nan) for fit in fits]).nanmean(0)
    votes = some.classes[0] if len(some.classes) == 1 else some.classes
    return {
        "image_id": list(some.image_ids),
        "icc_pixel": icc.numpy(),
        "ac1": gwet_ac1(votes).numpy(),
        "agreement": percent_agreement(votes).numpy(),
    }
