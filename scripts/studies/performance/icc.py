"""Mixed models on vote patterns, beside lme4 on pixels and blocks, where R is installed."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from irrbench.icc import AreaICCFit, BlockCounts, PixelICCFit, area_icc_from_counts, block_counts, joint_icc, pixel_icc
from irrbench.patterns import VotePatterns
from irrbench.simulate import draw_masks, draw_patterns
from studies.performance.counting import threads
from studies.performance.timing import Budget, Row, against, without_peer

NUM_RATERS = 4
_LIMIT = 1e-3  # seconds an image
_JOINT_LIMIT = 5.0  # seconds a data set
_PIXELS = 5000  # of the image that lme4 fits
_SIZES = (500, 1000, 2000, 4000, 8000, 12_000, 16_000, 24_000, 36_000, 50_000)
_FIT = """
suppressMessages(library(lme4))
x <- as.numeric(strsplit(readLines(file("stdin"))[1], " ")[[1]])
DATA
t <- system.time(m <- suppressMessages(suppressWarnings(
  glmer(FORMULA, d, binomial, control = glmerControl(optimizer = "bobyqa")))))[["elapsed"]]
v <- as.data.frame(VarCorr(m))
cat(sprintf("%.12g %.12g %.12g\\n", t, v$vcov[v$grp == "unit"] / (sum(v$vcov) + 1 / (p * (1 - p))),
            -2 * as.numeric(logLik(m))))
"""
_PIXEL_DATA = """
code <- rep(seq_along(x) - 1, x); S <- length(code); R <- log2(length(x))
y <- as.vector(sapply(seq_len(R) - 1, function(r) floor(code / 2^r) %% 2))
d <- data.frame(y = y, unit = factor(rep(1:S, R)), rater = factor(rep(1:R, each = S))); p <- mean(y)
"""
_BLOCK_DATA = """
R <- x[1]; D <- x[2]; n <- x[2 + seq_len(D)]; k <- x[2 + D + seq_len(D * R)]
d <- data.frame(k = k, n = rep(n, each = R), unit = factor(rep(1:D, each = R)), rater = factor(rep(1:R, D)),
                single = factor(seq_len(D * R))); p <- mean(k / rep(n, each = R))
"""
_IMAGE_DATA = """
R <- x[1]; N <- x[2]; counts <- matrix(x[-(1:2)], nrow = N, byrow = TRUE); d <- NULL
for (i in seq_len(N)) {
  code <- rep(seq_len(ncol(counts)) - 1, counts[i, ]); S <- length(code)
  y <- as.vector(sapply(seq_len(R) - 1, function(r) floor(code / 2^r) %% 2))
  d <- rbind(d, data.frame(y = y, image = i, unit = paste(i, rep(1:S, R)), rater = rep(1:R, each = S)))
}
for (name in c("image", "unit", "rater")) d[[name]] <- factor(d[[name]])
p <- mean(d$y)
"""


def rows(budget: Budget) -> Iterator[Row]:
    """A thousand images at once, against a limit; one image, against lme4."""
    with threads(1):
        yield _batch(_of_many_sizes(), "500 to 50,000 pixels", budget)
        yield _batch(_draw(1000, 1_000_000), "1,000,000 pixels", budget)
        yield from _pixel(budget)
        yield from _area(budget)
        yield from _joint(budget)


def _draw(images: int, pixels: int, seed: int = 0) -> VotePatterns:
    return draw_patterns(
        images, num_raters=NUM_RATERS, pixels=pixels, var_pixel=4.0, var_rater=0.25, intercept=-1.0, rng=seed
    )


def _of_many_sizes() -> VotePatterns:
    parts = [_draw(1000 // len(_SIZES), size, seed).counts for seed, size in enumerate(_SIZES)]
    return VotePatterns.from_counts(torch.cat(parts), num_raters=NUM_RATERS)


def _batch(patterns: VotePatterns, sizes: str, budget: Budget) -> Row:
    return against(
        "pixel ICC, an image of a batch of 1,000",
        f"{NUM_RATERS} raters, {sizes}",
        action=lambda: pixel_icc(patterns),
        seconds=_LIMIT,
        peer_name="goal",
        budget=budget,
        per=len(patterns),
        note=f"{int(pixel_icc(patterns).converged.sum())} of {len(patterns)} converged",
    )


def _pixel(budget: Budget) -> Iterator[Row]:
    """The first of a thousand images; our time is that of an image of the batch, and of one on its own."""
    many = _draw(1000, _PIXELS)
    one = VotePatterns.from_counts(many.counts[:1], num_raters=NUM_RATERS)
    size = f"{NUM_RATERS} raters, {_PIXELS:,} pixels"
    peer = _lme4(_PIXEL_DATA, "y ~ (1 | unit) + (1 | rater)", one.counts[0])
    yield _against_lme4(
        "pixel ICC, an image of a batch of 1,000",
        size,
        peer,
        lambda: pixel_icc(many),
        per=1000,
        goal=1000,
        budget=budget,
    )
    yield _against_lme4("pixel ICC, one image alone", size, peer, lambda: pixel_icc(one), budget=budget)


def _area(budget: Budget) -> Iterator[Row]:
    masks = draw_masks(100, num_raters=NUM_RATERS, size=(200, 200), smoothness=12, var_pixel=4.0, var_rater=0.25, rng=1)
    many = block_counts(masks, cells=10)
    one = BlockCounts(many.marked[:1], many.total[:1])
    numbers = [torch.tensor([NUM_RATERS, one.total.shape[1]]), one.total[0], one.marked[0].flatten()]
    peer = _lme4(_BLOCK_DATA, "cbind(k, n - k) ~ (1 | unit) + (1 | rater) + (1 | single)", torch.cat(numbers))
    size = f"{NUM_RATERS} raters, 100 blocks"
    for task, counts, per in (("an image of a batch of 100", many, 100), ("one image alone", one, 1)):
        action = partial(area_icc_from_counts, *counts)
        yield _against_lme4(f"area ICC, {task}", size, peer, action, per=per, budget=budget)


def _joint(budget: Budget) -> Iterator[Row]:
    """Of the pixels' share: eight images against lme4, and a size that lme4 cannot do against a goal."""
    few, many = (
        draw_patterns(
            images, num_raters=NUM_RATERS, pixels=pixels, var_pixel=4.0, var_rater=0.25, var_image=1.0,
            var_image_rater=0.25, intercept=-1.0, rng=2,
        )
        for images, pixels in ((8, 100), (200, 250_000))
    )  # fmt: skip
    numbers = torch.cat([torch.tensor([NUM_RATERS, len(few)]), few.counts.flatten()])
    peer = _lme4(_IMAGE_DATA, "y ~ (1 | image) + (1 | unit) + (1 | rater) + (1 | image:rater)", numbers)
    size = f"{len(few)} images x {NUM_RATERS} raters x 100 pixels"
    yield _against_lme4("joint ICC", size, peer, partial(_joint_fit, few), budget=budget)
    yield against(
        "joint ICC",
        f"200 images x {NUM_RATERS} raters x 250,000 pixels",
        action=partial(joint_icc, many),
        seconds=_JOINT_LIMIT,
        peer_name="goal",
        budget=budget,
    )


def _joint_fit(patterns: VotePatterns) -> _Fit:
    found = joint_icc(patterns)
    return _Fit(found.shares["pixel"][None], found.deviance[None])


class _Fit(NamedTuple):
    icc: Tensor
    deviance: Tensor


class _Peer(NamedTuple):
    seconds: float
    icc: float
    deviance: float


def _against_lme4(
    task: str,
    size: str,
    peer: _Peer | None,
    ours: Callable[[], PixelICCFit | AreaICCFit | _Fit],
    *,
    per: int = 1,
    goal: float = math.nan,
    budget: Budget,
) -> Row:
    if peer is None:
        return without_peer(task, size, "lme4", "R with lme4 is not installed")
    found = ours()
    equal = abs(found.icc[0].item() - peer.icc) < 1e-3 and found.deviance[0].item() < peer.deviance + 1e-3
    return against(
        task,
        size,
        action=ours,
        seconds=peer.seconds,
        peer_name="lme4",
        equal=equal,
        goal=goal,
        budget=budget,
        per=per,
        note="lme4 timed once, inside R",
    )


def _lme4(data: str, formula: str, numbers: Tensor) -> _Peer | None:
    if shutil.which("Rscript") is None:
        return None
    script = _FIT.replace("DATA", data).replace("FORMULA", formula)
    line = " ".join(map(str, numbers.tolist()))
    done = subprocess.run(["Rscript", "-e", script], input=line, capture_output=True, text=True, check=False)  # noqa: S603, S607
    return _Peer(*map(float, done.stdout.split())) if done.returncode == 0 else None
