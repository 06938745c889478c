"""Label noise in units of the raters: what strength gives a dose on a data set, and what such labels look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from irrbench.plots.noise import noise_panels
from irrbench.training.doses import DoseError, KeyedLabel, calibrate, largest_dose, train_ceiling
from irrbench.training.noise import NOISE_MODELS, NoiseModel, make_noise, spoil

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from irrbench.data import RaterData

DOSES = (0.5, 1.0, 2.0, 4.0)


def majority_labels(data: RaterData) -> list[KeyedLabel]:
    """The majority of each training image, its ROI, and a key."""
    train = data.split("train")
    masks = [2 * train.masks(i)[train.present(i)].sum(0) > train.present(i).sum() for i in range(len(train))]
    return [(mask.astype(np.float32), train.roi(i), (0, 0, i)) for i, mask in enumerate(masks)]


def _model(name: str, labels: Sequence[KeyedLabel]) -> NoiseModel:
    return make_noise(name, masks=lambda: [label > 0 for label, _, _ in labels])


def calibration_table(data: RaterData, *, doses: Sequence[float] = DOSES) -> pd.DataFrame:
    """Doses asked for and got on the majority's masks of the training images.

    Args:
        data: with a training split.
        doses: asked for.

    Returns:
        One row a model and dose: ``noise``, ``dose``, ``reached``, ``strength``, ``unit``, ``label_iou``, ``area``
        (mean over images of the noisy label's size by the clean one's) and ``largest`` (dose that the model reaches);
        NaN where it cannot reach the dose.
    """
    import pandas as pd  # noqa: PLC0415

    labels, unit = majority_labels(data), 1 - train_ceiling(data.split("train"))
    marked = [keyed for keyed in labels if keyed[0].any()]
    rows = []
    for name in NOISE_MODELS:
        noise = _model(name, labels)
        largest = largest_dose(labels, noise, unit=unit)
        for dose in doses:
            row: dict[str, object] = {"noise": name, "dose": dose, "unit": noise.unit, "largest": largest}
            try:
                found = calibrate(labels, noise, [dose], unit=unit)[0]
            except DoseError:
                rows.append(row)
                continue
            areas = [spoil(label, noise, found.strength, key).sum() / label.sum() for label, _, key in marked]
            row |= {"reached": found.reached, "strength": found.strength, "label_iou": found.label_iou}
            rows.append({**row, "area": float(np.mean(areas))})
    return pd.DataFrame(rows)


def noise_picture(
    data: RaterData, index: int, *, models: Sequence[str] = tuple(NOISE_MODELS), doses: Sequence[float] = (0.5, 1, 2)
) -> Figure:
    """One training image with its raters' masks, and its majority spoilt by each model at each dose that it reaches.

    Args:
        data: with a training split.
        index: of the image in that split.
        models: noise models.
        doses: of the columns.
    """
    train, labels = data.split("train"), majority_labels(data)
    unit = 1 - train_ceiling(train)
    clean, roi, key = labels[index]
    noisy: dict[str, dict[float, np.ndarray]] = {}
    for name in models:
        noise, noisy[name] = _model(name, labels), {}
        for dose in doses:
            try:
                found = calibrate(labels, noise, [dose], unit=unit)[0]
            except DoseError:
                break
            noisy[name][dose] = spoil(clean, noise, found.strength, key, roi) > 0
    there = train.present(index)
    raters = {
        name: mask for name, mask, is_there in zip(train.raters, train.masks(index), there, strict=True) if is_there
    }
    return noise_panels(train.image(index), raters, noisy, clean=clean > 0)
