"""What a monitor tells its user: what is scored, in one line, and which of its options do nothing, and why."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence

import torch
from torch import Tensor

from irrbench.callbacks.batch import Sample
from irrbench.callbacks.captures import is_explained
from irrbench.evaluation.evaluator import Evaluator
from irrbench.evaluation.mlflow_sink import MLflowSink
from irrbench.evaluation.sinks import Sink
from irrbench.evaluation.tensorboard_sink import TensorBoardSink
from irrbench.evaluation.wandb_sink import WandbSink
from irrbench.metrics.inputs import to_mask
from irrbench.scores import record


def announce(
    name: str,
    preds: Tensor,
    sample: Sample,
    *,
    num_classes: int | None,
    from_logits: bool,
    threshold: float,
) -> str:
    """Which tensor it is, its range, how much it marks beside the raters, and what looks wrong with it.

    Reads the values, so it waits for the device.

    Args:
        name: of the predictions.
        preds: as :meth:`irrbench.SegmentationBounds.update` takes them.
        sample: the batch they belong to.
        num_classes: as there.
        from_logits: as there.
        threshold: as there.
    """
    masks, size, space = sample.masks, len(sample.masks), tuple(sample.masks.shape[2:])
    preds = preds.to(masks.device)  # a step may return them from elsewhere
    has_channels = num_classes is not None and preds.shape[1:] == (num_classes, *space)
    if has_channels:
        marks = preds.argmax(1) != 0
    else:
        marks = to_mask(preds.reshape(size, *space), from_logits=from_logits, threshold=threshold) != 0
    roi = torch.ones_like(marks) if sample.roi is None else sample.roi.to(masks.device) != 0
    rated = roi[:, None].expand_as(masks)
    if sample.present is not None:
        rated = rated & (sample.present.to(masks.device) != 0).view(*sample.present.shape, *[1] * len(space))
    shares = [(x & y).sum() / y.sum() for x, y in ((marks, roi), (masks != 0, rated))]
    low, high, marked, by_raters = torch.stack([preds.min().double(), preds.max().double(), *shares]).tolist()
    kind = "a mask" if not preds.is_floating_point() else "logits" if from_logits else "probabilities"
    if has_channels:
        kind = "class scores"
    is_share = low >= -1e-6 and high <= 1 + 1e-6
    notes = {
        "all lie in [0, 1]: if they are probabilities, pass `from_logits=False`": kind == "logits" and is_share,
        "but probabilities lie in [0, 1]: for logits pass `from_logits=True`": kind == "probabilities" and not is_share,
        "it marks nothing": marked == 0,
        "it marks everything": marked == 1,
        "it follows from the raters' masks alone: is it a label?": bool(is_explained(preds, [], masks)),
    }
    values = kind if kind == "a mask" else f"{kind} {low:.2g} .. {high:.2g}"
    where = f"marks {_percent(marked)} of pixels, raters {_percent(by_raters)}"
    if math.isnan(marked):
        where = "no pixel of these images lies in the ROI"
    elif math.isnan(by_raters):
        where = f"marks {_percent(marked)} of pixels, nobody rated these images"
    line = f"{name}: {tuple(preds.shape)}, {values}, {where}"
    return "; ".join([line, *(note for note, applies in notes.items() if applies)])


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent == 0 or percent >= 1 else f"{percent:.1g} %"


def shown_nowhere(
    *, image: bool, reliability: bool, sinks: Sequence[Sink], loggers: Sequence[object], is_binary: bool
) -> Iterator[str]:
    """Options of a monitor that do nothing with these loggers, each with a sentence on it.

    Args:
        image: whether it is given.
        reliability: whether it is given.
        sinks: what was found.
        loggers: in which.
        is_binary: whether the masks are no label maps.
    """
    names = ", ".join(type(x).__name__ for x in loggers)
    if image and not is_binary:
        yield "`image=` shows nothing: pictures are drawn of binary masks, found num_classes=."
    elif image and not sinks:
        yield f"`image=` shows nothing: pictures go to MLflow, TensorBoard and W&B; found {names or 'no logger'}."
    if reliability and names and not any(isinstance(x, MLflowSink | TensorBoardSink | WandbSink) for x in sinks):
        where = (
            f"tables of images go to MLflow, W&B and TensorBoard, found {names}. They are in `tables` of the monitor."
        )
        yield f"`reliability=` logs nothing: {where}"


def why_no_fit(train: Evaluator, *, label: object, is_monitored: bool, owner: str) -> str:
    """That training images with labels have no ``noise_fit``, and why; empty where they have, or the next epoch may.

    Args:
        train: the training images.
        label: where their labels are.
        is_monitored: whether validation is.
        owner: what the monitor is called.
    """
    score = train.scores[0]
    if train.noise_fit or score not in train.summary or math.isnan(train.summary[score].label_gap):
        return ""
    summaries = [x.summary[score] for x in train.validation if x.summary]
    reason = "" if is_monitored else "no validation is monitored"
    if summaries and all(math.isnan(x.label_gap) for x in summaries):
        reason = f"no label was found in the validation batches by `label={label!r}`"
    if not reason:
        return ""
    return (
        f"{train.split}/{score}_noise_fit is not logged: {reason}. It compares how well the model fits the labels of "
        "training and of validation images: let the validation data give a label that is made in the same way as in "
        f'training, where `label=` of {owner} finds it, and monitor the stages ("train", "validate").'
    )


def no_bounds(key: str, sample: Sample, watched: Container[object]) -> str:
    """That there are no bounds where one rater alone drew each image, by the first batch of a loader; or nothing.

    Args:
        key: of the main score.
        sample: the batch.
        watched: keys that callbacks watch.
    """
    present = sample.present
    if present is None or present.is_meta or present.sum(1).amax() > 1 or f"{key}_all" in watched:
        return ""
    split, _, score = key.rpartition("/")
    if record(score).evidence != "patterns":
        return (
            f"{split}: one rater drew each image of the first batch, and bounds need two: {key} leaves such images "
            "out, and is NaN without others. Scores of votes, such as iou, are then scored on the one mask."
        )
    return (
        f"{split}: one rater drew each image of the first batch, and bounds need two. Watch {key}_all "
        "(EarlyStopping, ModelCheckpoint), the mean over all images, there on the one mask; "
        f"{key} leaves such images out, and is NaN without others."
    )


def equal_masks(evaluator: Evaluator) -> str:
    """That all raters drew the same on each of several images, as copies of one mask do; or nothing."""
    if evaluator.table is None:
        return ""
    alpha = evaluator.table.loc[evaluator.table["n_raters"] > 1, "alpha"]  # NaN where all pixels are of one value
    if (alpha == 1).sum() < 2 or (alpha < 1).any():
        return ""
    return f"{evaluator.split}: the raters' masks are equal on all {len(alpha)} images. Were they made from one?"
