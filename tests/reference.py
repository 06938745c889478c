"""Slow references: numpy and plain loops, no line shared with the package."""

import warnings

import numpy as np


def majority(votes, rule):
    """1, 0 or None (left out) from a list of 0/1."""
    ones, zeros = sum(votes), len(votes) - sum(votes)
    if ones != zeros:
        return int(ones > zeros)
    return {"negative": 0, "positive": 1, "exclude": None}[rule]


def score(name, reference, candidate, empty_reference):
    """One score from two lists of 0/1; NaN where undefined."""
    n = len(reference)
    if n == 0:
        return np.nan
    tp = sum(r == 1 and c == 1 for r, c in zip(reference, candidate, strict=True))
    tn = sum(r == 0 and c == 0 for r, c in zip(reference, candidate, strict=True))
    fp = sum(r == 0 and c == 1 for r, c in zip(reference, candidate, strict=True))
    fn = n - tp - tn - fp
    if name == "accuracy":
        return (tp + tn) / n
    if name == "specificity":
        return np.nan if tn + fp == 0 else tn / (tn + fp)
    if name == "kappa":
        if tp + fn in (0, n):
            return np.nan
        chance = ((tp + fn) * (tp + fp) + (tn + fp) * (tn + fn)) / n**2
        return ((tp + tn) / n - chance) / (1 - chance)
    if tp + fn == 0:
        return np.nan if empty_reference == "drop" else float(tp + fp == 0)
    if tp == 0:
        return 0.0
    return {
        "iou": tp / (tp + fp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "tpr": tp / (tp + fn),
        "ppv": tp / (tp + fp),
    }[name]


def bounds(name, masks, roi, pred, present, *, ties="negative", empty_reference="drop"):
    """Scores of one image: dict of floor, ceiling, upper, model, and the list of raters' scores."""
    masks, roi, pred = (np.asarray(x).reshape(*np.shape(x)[:-2], -1) for x in (masks, roi, pred))
    raters = [r for r in range(len(masks)) if present[r]]
    scores = {"floor": [], "ceiling": [], "upper": [], "model": []}
    by_rater = [np.nan] * len(masks)
    for held_out in raters if len(raters) > 1 else []:
        kept = []
        for s in range(masks.shape[1]):
            label = majority([int(masks[r][s]) for r in raters if r != held_out], ties)
            if roi[s] and label is not None:
                whole = majority([int(masks[r][s]) for r in raters], ties) or 0
                kept.append((label, 1, int(masks[held_out][s]), whole, int(pred[s])))
        columns = list(zip(*kept, strict=True)) if kept else [[]] * 5
        for who, column in zip(scores, columns[1:], strict=True):
            scores[who].append(score(name, columns[0], column, empty_reference))
        by_rater[held_out] = scores["ceiling"][-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mean of nothing is NaN, as it should be
        means = {who: np.nanmean(values) if values else np.nan for who, values in scores.items()}
    return means | {"raters": by_rater}
