"""Two models that two scores rank differently: which score sees which fault.

The raters' masks are real (four radiologists' outlines of lung nodules, LIDC-IDRI), but for the vessels, which are
simulated. The models are made from those masks, each with one fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage

from irrbench import SegmentationBounds
from irrbench.datasets.lidc import load_lidc
from irrbench.plots.style import figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Masks = NDArray[np.bool_]  # (R, H, W)
Maker = Callable[[Masks, np.random.Generator], NDArray[Any]]  # gives (H, W), or (M, H, W) samples
NUM_SAMPLES = 4


class Example(NamedTuple):
    """Two models and the two scores that rank them differently.

    Attributes:
        question: what each score asks.
        masks: ``(R, H, W)`` of each image.
        models: by what is wrong with it: a mask, a map of probabilities or several samples of an image's masks.
        scores: two names.
    """

    question: str
    masks: Sequence[Masks]
    models: Mapping[str, Maker]
    scores: tuple[str, str]


def examples(*, images: int | None = None) -> Iterator[Example]:
    """All of them.

    Args:
        images: nodules; all of the test split if not given.
    """
    data = load_lidc(size=64, progress=False).split("test")
    nodules = [np.asarray(data.masks(i)) > 0 for i in range(len(data))][:images]
    overlap: dict[str, Maker] = {"1 pixel too large everywhere": _wide, "a quarter missing at one side": _bitten}
    yield Example("area or border?", nodules, overlap, ("iou", "nsd"))
    worst: dict[str, Maker] = {"a quarter missing at one side": _bitten, "a speck far away": _stray}
    yield Example("area or worst place?", nodules, worst, ("iou", "hd95"))
    several: dict[str, Maker] = {"the large one alone": _largest, "all, each too small by 2 pixels": _narrow}
    yield Example("area or lesions?", collages(nodules), several, ("iou", "lesion_f1"))
    thin: dict[str, Maker] = {"1 pixel too wide, whole": _wide, "right width, interrupted": _interrupted}
    yield Example("area or connection?", vessels(), thin, ("iou", "cldice"))
    maps: dict[str, Maker] = {"the share of votes": _share, "the same, cut at .5": _cut}
    yield Example("mask or probability?", nodules, maps, ("iou", "brier"))
    samples: dict[str, Maker] = {
        f"{NUM_SAMPLES} samples that differ as people do": _varied,
        "the same mask each time": _same,
    }
    yield Example("one mask or the spread of people?", nodules, samples, ("iou", "ged"))


def score_example(example: Example, *, tolerance: float = 2.0, seed: int = 0) -> pd.DataFrame:
    """Both models' two scores between floor and ceiling.

    Args:
        example: which.
        tolerance: of ``nsd``, in pixels.
        seed: of the models' faults.

    Returns:
        A row a model: ``question``, ``model``, and for both scores ``s``, ``s_floor``, ``s_ceiling``, ``s_normalized``.
    """
    rows = []
    for name, make in example.models.items():
        rng = np.random.default_rng(seed)
        metric = SegmentationBounds(example.scores, from_logits=False, tolerance=tolerance)
        for masks in example.masks:
            made = torch.from_numpy(np.asarray(make(masks, rng)))
            options = {} if made.ndim == 2 else {"samples": made[None]}
            mask = made.float() if made.ndim == 2 else made.float().mean(0)
            metric.update(mask[None], torch.from_numpy(masks)[None], **options)
        values = {key: float(value) for key, value in metric.compute().items()}
        ends = ("", "_floor", "_ceiling", "_normalized")
        found = {score + end: values[score + end] for score in example.scores for end in ends}
        rows.append({"question": example.question, "model": name, **found})
    return pd.DataFrame(rows)


def majority(masks: Masks) -> Masks:
    """What at least half of the raters mark."""
    return np.asarray(2 * masks.sum(0) >= len(masks))


def _wide(masks: Masks, _: np.random.Generator) -> Masks:
    return np.asarray(ndimage.binary_dilation(majority(masks)))


def _narrow(masks: Masks, _: np.random.Generator) -> Masks:
    whole = majority(masks)
    inner = ndimage.binary_erosion(whole, iterations=2)
    labels, count = ndimage.label(whole)
    lost = [k for k in range(1, count + 1) if not inner[labels == k].any()]
    return np.asarray(inner | np.isin(labels, lost))


def _bitten(masks: Masks, rng: np.random.Generator) -> Masks:
    whole = majority(masks)
    places = np.argwhere(whole)
    if not len(places):
        return whole
    angle = rng.uniform(0, 2 * np.pi)
    along = places @ np.array([np.sin(angle), np.cos(angle)])
    whole[tuple(places[along > np.quantile(along, 0.75)].T)] = False
    return whole


def _stray(masks: Masks, rng: np.random.Generator) -> Masks:
    whole = majority(masks)
    y, x = (int(rng.integers(2, side - 2)) for side in whole.shape)
    whole[y - 1 : y + 2, x - 1 : x + 2] = True
    return whole


def _largest(masks: Masks, _: np.random.Generator) -> Masks:
    labels, count = ndimage.label(majority(masks), np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return np.asarray(labels == 1 + int(sizes.argmax()) if count else labels > 0)


def _interrupted(masks: Masks, rng: np.random.Generator) -> Masks:
    whole = majority(masks)
    places = np.argwhere(whole)
    for y, x in places[rng.choice(len(places), 12, replace=False)]:
        whole[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = False
    return whole


def _share(masks: Masks, _: np.random.Generator) -> NDArray[np.float64]:
    return np.asarray(masks.mean(0))


def _cut(masks: Masks, _: np.random.Generator) -> NDArray[np.float64]:
    return np.asarray(masks.mean(0) > 0.5, dtype=float)


def _varied(masks: Masks, rng: np.random.Generator) -> Masks:
    share = ndimage.gaussian_filter(masks.mean(0), 1.0)
    levels = (np.arange(NUM_SAMPLES) + rng.uniform(size=NUM_SAMPLES)) / NUM_SAMPLES
    return np.stack([share > 0.2 + 0.6 * level for level in levels])


def _same(masks: Masks, _: np.random.Generator) -> Masks:
    return np.repeat((ndimage.gaussian_filter(masks.mean(0), 1.0) > 0.5)[None], NUM_SAMPLES, 0)


def collages(nodules: Sequence[Masks], *, seed: int = 0) -> list[Masks]:
    """One large and three small nodules in one image of twice the side, 40 images."""
    rng = np.random.default_rng(seed)
    sizes = np.array([masks.mean(0).sum() for masks in nodules])
    order = np.argsort(sizes)
    small, large = order[: len(order) // 2], order[-len(order) // 4 :]
    images = []
    for _ in range(40):
        chosen = [rng.choice(large), *rng.choice(small, 3, replace=False)]
        tiles = [nodules[i] for i in rng.permutation(chosen)]
        images.append(np.block([[tiles[0], tiles[1]], [tiles[2], tiles[3]]]))
    return images


def vessels(*, images: int = 40, raters: int = 4, side: int = 96, seed: int = 0) -> list[Masks]:
    """Simulated vessels, three pixels wide, that raters draw up to a pixel beside their place."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(images):
        lines = [_line(rng, side) for _ in range(3)]
        drawn = [np.any([_draw(line + rng.normal(0, 0.5, 2), side) for line in lines], axis=0) for _ in range(raters)]
        found.append(np.stack(drawn))
    return found


def _line(rng: np.random.Generator, side: int) -> NDArray[np.float64]:
    t = np.linspace(0, 1, 4 * side)
    phase, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.85) * side
    line = np.stack([height + 0.12 * side * np.sin(2 * np.pi * t + phase), t * (side - 1)], 1)
    return line if rng.random() < 0.5 else line[:, ::-1]


def _draw(line: NDArray[np.float64], side: int) -> Masks:
    mask = np.zeros((side, side), bool)
    y, x = line.round().astype(int).clip(0, side - 1).T
    mask[y, x] = True
    return np.asarray(ndimage.binary_dilation(mask, np.ones((3, 3))))


def draw_disagreement(example: Example, table: pd.DataFrame, *, columns: int = 4) -> Figure:
    """Both models' contours on a few images, and beside them both scores between floor and ceiling.

    Args:
        example: whose models are masks.
        table: as :func:`score_example` gives.
        columns: images.
    """
    from matplotlib.figure import Figure as NewFigure  # noqa: PLC0415 (drawn here alone)

    sizes = np.array([majority(masks).sum() for masks in example.masks])
    shown = np.argsort(sizes)[(np.linspace(0.55, 0.95, columns) * len(sizes)).astype(int)]
    with figure_style():
        figure = NewFigure(figsize=(8.4, 3.6), layout="constrained")
        axes = figure.subplots(2, columns + 2, width_ratios=[1] * columns + [1.5] * 2)
        for row, (name, make) in enumerate(example.models.items()):
            rng = np.random.default_rng(0)
            masks_of = {i: make(masks, rng) for i, masks in enumerate(example.masks)}
            for ax, i in zip(axes[row], shown, strict=False):
                _contours(ax, example.masks[i], np.asarray(masks_of[int(i)]))
            axes[row, 0].set_title(name, loc="left", fontsize=8)
            for ax, score in zip(axes[row, columns:], example.scores, strict=True):
                _bar(ax, score, table.iloc[row], best=table[score].idxmax() == row, has_title=row == 0)
    return figure


def _contours(ax: Axes, masks: Masks, model: Masks) -> None:
    places = np.argwhere(masks.any(0) | model)
    low, high = places.min(0) - 3, places.max(0) + 3
    ax.set(xticks=[], yticks=[], xlim=(low[1], high[1]), ylim=(high[0], low[0]), aspect="equal", frame_on=False)
    for mask in masks:
        ax.contour(mask.astype(float), [0.5], colors=["#59636E"], linewidths=0.8)
    ax.contourf(model.astype(float), [0.5, 1.5], colors=["#007896"], alpha=0.35)


def _bar(ax: Axes, score: str, row: pd.Series, *, best: bool, has_title: bool) -> None:
    ax.axvspan(row[f"{score}_floor"], row[f"{score}_ceiling"], color="#E9ECEF")
    ax.barh([0], [row[score]], height=0.4, color="#007896" if best else "#9AA0A6")
    ax.text(row[score], 0.32, f"{row[score]:.2f}" + ("  better" if best else ""), fontsize=8, ha="right", va="bottom")
    ax.set(yticks=[], xlim=(0, 1), ylim=(-0.5, 0.7))
    ax.tick_params(labelsize=8)
    if has_title:
        ax.set_title({"iou": "IoU", "nsd": "NSD at 2 px"}[score], fontsize=8)
