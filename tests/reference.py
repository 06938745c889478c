"""Slow references: numpy and plain loops, no line of arithmetic shared with the package."""

import numpy as np

from irrbench import SCORES

PIXEL_SCORES = {name: score for name, score in SCORES.items() if score.evidence == "patterns"}  # known by name alone


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
    if name == "detection":
        return np.nan if tp + fn == 0 else float(tp > 0)
    if name == "false_alarm":
        return np.nan if tp + fn > 0 else float(fp > 0)
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


CANDIDATES = ("floor", "blank", "ceiling", "ceiling_of_two", "majority", "model")


def nanmean(values):
    """The mean of what is defined; NaN of nothing."""
    known = [value for value in values if not np.isnan(value)]
    return sum(known) / len(known) if known else np.nan


def on_fold(name, masks, roi, pred, raters, held_out, ties, empty_reference):
    """Each candidate's score on the reference without a rater, tied pixels read in one way."""
    kept = []
    for s in range(masks.shape[1]):
        label = majority([int(masks[r][s]) for r in raters if r != held_out], ties)
        if roi[s] and label is not None:
            whole = majority([int(masks[r][s]) for r in raters], ties) or 0
            kept.append((label, 1, 0, int(masks[held_out][s]), whole, int(pred[s])))
    columns = list(zip(*kept, strict=True)) if kept else [[]] * 6
    names = [who for who in CANDIDATES if who != "ceiling_of_two"]
    return {who: score(name, columns[0], x, empty_reference) for who, x in zip(names, columns[1:], strict=True)}


def on_others(name, masks, roi, raters, rater, empty_reference):
    """The mean score of the others on one rater alone."""
    inside = [s for s in range(masks.shape[1]) if roi[s]]
    own = [int(masks[rater][s]) for s in inside]
    return nanmean(
        [score(name, own, [int(masks[r][s]) for s in inside], empty_reference) for r in raters if r != rater]
    )


def bounds(name, masks, roi, pred, present, *, ties="average", empty_reference="drop"):
    """Scores of one image: a dict by candidate, and the lists of raters' scores and of the others' on each rater."""
    masks, roi, pred = (np.asarray(x).reshape(*np.shape(x)[:-2], -1) for x in (masks, roi, pred))
    raters = [r for r in range(len(masks)) if present[r]]
    readings = ("negative", "positive") if ties == "average" else (ties,)
    scores = {who: [] for who in CANDIDATES}
    by_rater, on_rater = [np.nan] * len(masks), [np.nan] * len(masks)
    for held_out in raters if len(raters) > 1 else []:
        read = [on_fold(name, masks, roi, pred, raters, held_out, ties, empty_reference) for ties in readings]
        for who in read[0]:
            scores[who].append(nanmean([values[who] for values in read]))
        scores["ceiling_of_two"].append(on_others(name, masks, roi, raters, held_out, empty_reference))
        by_rater[held_out], on_rater[held_out] = scores["ceiling"][-1], scores["ceiling_of_two"][-1]
    return {who: nanmean(values) for who, values in scores.items()} | {"raters": by_rater, "on_raters": on_rater}


def shares(masks, roi, present, ties):
    """Of one image: tied pixels by those that half of the peers mark, over all references; the share of empty ones."""
    masks, roi = np.asarray(masks).reshape(len(masks), -1), np.asarray(roi).flatten()
    raters = [r for r in range(len(masks)) if present[r]]
    readings = ("negative", "positive") if ties == "average" else (ties,)
    split, marked, empty = 0, 0, []
    for held_out in raters if len(raters) > 1 else []:
        peers = [[int(masks[r][s]) for r in raters if r != held_out] for s in range(len(roi)) if roi[s]]
        split += sum(2 * sum(votes) == len(votes) for votes in peers)
        marked += sum(2 * sum(votes) >= len(votes) for votes in peers)
        labels = [[label for votes in peers if (label := majority(votes, rule)) is not None] for rule in readings]
        empty.append(nanmean([float(not any(reading)) if reading else np.nan for reading in labels]))
    return split / marked if marked else np.nan, nanmean(empty)


def mask_bounds(compare, masks, roi, pred, present, *, ties="average"):
    """Candidate -> mean values of one image, by a function of two masks (reference, candidate) that gives several."""
    masks, pred = masks & roi, pred & roi
    raters = [r for r in range(len(masks)) if present[r]]

    def vote(of, rule):
        marked = zip(*np.nonzero(masks.any(0)), strict=True)  # all else has no vote
        votes = {place: [int(masks[r][place]) for r in of] for place in marked}
        mask = np.zeros(roi.shape, bool)
        for place, marks in votes.items():
            mask[place] = majority(marks, rule)
        return mask

    folds = {name: [] for name in ("floor", "blank", "ceiling", "majority", "model")}
    for held_out in raters if len(raters) > 1 else []:
        read = {name: [] for name in folds}
        for rule in ("negative", "positive") if ties == "average" else (ties,):
            reference = vote([r for r in raters if r != held_out], rule)
            candidates = (roi, np.zeros_like(roi), masks[held_out], vote(raters, rule), pred)
            for name, candidate in zip(folds, candidates, strict=True):
                read[name].append(compare(reference, candidate))
        for name, rows in folds.items():
            rows.append([nanmean(column) for column in zip(*read[name], strict=True)])
    return {name: [nanmean(column) for column in zip(*rows, strict=True)] for name, rows in folds.items()}
