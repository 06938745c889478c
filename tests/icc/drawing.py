"""Patterns drawn pixel by pixel from the crossed logistic model, sharing no code with the package."""

import numpy as np
import torch

from irrbench import VotePatterns


def draw_counts(rng, *, raters, pixels, intercept, var_pixel, var_rater):
    pixel = rng.normal(0, var_pixel**0.5, pixels)[:, None]
    rater = rng.normal(0, var_rater**0.5, raters)
    marks = rng.random((pixels, raters)) < 1 / (1 + np.exp(-(intercept + pixel + rater)))
    return np.bincount((marks << np.arange(raters)).sum(1), minlength=2**raters)


def patterns_of(*counts, present=None):
    counts = torch.as_tensor(np.array(counts))
    return VotePatterns.from_counts(counts, num_raters=counts.shape[1].bit_length() - 1, present=present)
