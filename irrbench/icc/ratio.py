"""From variances to a repeatability, in the ways of R's package rptR.

Source: Nakagawa & Schielzeth 2010, doi 10.1111/j.1469-185X.2010.00141.x; Nakagawa, Johnson & Schielzeth 2017, doi
10.1098/rsif.2017.0213; Stoffel, Nakagawa & Schielzeth 2017, doi 10.1111/2041-210X.12797.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Expect = Literal["meanobs", "liability", "latent"]
Scale = Literal["link", "observation"]
_LOGIT_TO_PROBIT = (16 * math.sqrt(3) / (15 * math.pi)) ** 2


def repeatability(
    group: Tensor,
    total: Tensor,
    *,
    intercept: Tensor,
    mean: Tensor,
    expect: Expect = "meanobs",
    scale: Scale = "link",
) -> Tensor:
    """Share of a group's variance in all variance of a logistic mixed model, ``(B,)``.

    Args:
        group: ``(B,)`` variance of the effect in question.
        total: ``(B,)`` sum of the variances of all random effects.
        intercept: ``(B,)`` on the logit scale.
        mean: ``(B,)`` mean of the observations.
        expect: what stands for the variance of a single observation on the logit scale: ``"meanobs"``, ``1 / (p (1 -
            p))`` at the observed mean; ``"latent"``, the same at the mean that the model implies; ``"liability"``,
            ``pi**2 / 3``.
        scale: ``"link"``, the logit scale; ``"observation"``, the scale of zeros and ones by linearising the logistic
            curve at the intercept, where ``expect`` plays no part.

    Raises:
        ValueError: if ``expect`` or ``scale`` has no such meaning.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> repeatability(4 * one, 5 * one, intercept=0 * one, mean=one / 2)
        tensor([0.4444], dtype=torch.float64)
    """
    check_option("expect", expect, get_args(Expect))
    check_option("scale", scale, get_args(Scale))
    if scale == "observation":
        residual = _binomial(intercept.sigmoid(), (-intercept).sigmoid())
    elif expect == "liability":
        residual = torch.full_like(group, math.pi**2 / 3)
    elif expect == "meanobs":
        residual = _binomial(mean, 1 - mean)
    else:
        logit = intercept / (1 + _LOGIT_TO_PROBIT * total).sqrt()
        residual = _binomial(logit.sigmoid(), (-logit).sigmoid())
    return group / (total + residual)


def check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that an option does not have.

    Raises:
        ValueError: naming the option, its values and what came.
    """
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, found {value!r}.")


def _binomial(p: Tensor, q: Tensor) -> Tensor:
    return 1 / (p * q)
