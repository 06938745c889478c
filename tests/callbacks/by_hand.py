"""The score of predictions on the held-out raters' majorities, ties averaged, in plain numpy."""

import numpy as np


def iou(masks, preds, roi=None):
    """Mean over images of the mean over raters left out.

    Args:
        masks: ``(N, R, *S)``.
        preds: ``(N, *S)`` bool.
        roi: ``(N, *S)``.
    """
    masks, preds = np.asarray(masks) != 0, np.asarray(preds) != 0
    roi = np.ones_like(preds) if roi is None else np.asarray(roi) != 0
    return np.nanmean([_image(*image) for image in zip(masks, preds, roi, strict=True)])


def _image(masks, pred, roi):
    masks, pred = masks[:, roi], pred[roi]
    folds = [[_iou(ref, pred) for ref in _references(np.delete(masks, r, 0))] for r in range(len(masks))]
    means = [np.nanmean(fold) for fold in folds if not np.isnan(fold).all()]
    return np.mean(means) if means else np.nan


def _references(peers):
    votes = peers.sum(0)
    return votes > len(peers) / 2, votes >= len(peers) / 2


def _iou(reference, pred):
    return (reference & pred).sum() / (reference | pred).sum() if reference.any() else np.nan
