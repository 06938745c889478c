"""What R gives: lme4 1.1-31, glmer(cbind(y, n - y) ~ (1 | block) + (1 | rater) + (1 | obs), binomial), bobyqa.

The counts are drawn by Python's own generator, whose stream does not change, and by inverting distribution functions.
"""

import random
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import expit, ndtri
from scipy.stats import binom


class Truth(NamedTuple):
    blocks: int
    raters: int
    smallest: int  # pixels of a block
    largest: int
    intercept: float
    var_block: float
    var_rater: float
    var_over: float


class Case(NamedTuple):
    truth: Truth
    marks: int  # sum of the counts, so that other draws are seen as such
    deviance: float
    icc: float  # meanobs
    var_block: float
    var_rater: float
    var_over: float
    intercept: float


def draw(truth, seed):
    """Marks by block and rater ``(D, R)`` and pixels by block ``(D,)``."""
    source = random.Random(seed)

    def uniform(*shape):
        return np.array([source.random() for _ in range(int(np.prod(shape)))]).reshape(shape)

    sizes = np.floor(truth.smallest + uniform(truth.blocks) * (truth.largest + 1 - truth.smallest)).astype(int)
    eta = truth.intercept + truth.var_block**0.5 * ndtri(uniform(truth.blocks, 1))
    eta = eta + truth.var_rater**0.5 * ndtri(uniform(1, truth.raters))
    eta = eta + truth.var_over**0.5 * ndtri(uniform(truth.blocks, truth.raters))
    return binom.ppf(uniform(truth.blocks, truth.raters), sizes[:, None], expit(eta)).astype(int), sizes


def tensors(*drawn):
    return tuple(torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))


def discs(centres, radii, size=64):
    place = np.arange(size)
    one = [(place[:, None] - y) ** 2 + (place - x) ** 2 < r * r for (y, x), r in zip(centres, radii, strict=True)]
    return torch.from_numpy(np.array(one))[None]


LESION = discs([(30, 28), (31, 33), (28, 30), (33, 31)], [15, 17, 14, 16])
LME4 = [
    Case(Truth(100, 3, 80, 100, -1, 2, 0.3, 0), 6501, 1946.48458, 0.259577, 1.955041, 0.05140104, 0, -1.575461),
    Case(
        Truth(100, 4, 2400, 2600, -1, 4, 0.3, 1),
        330691,
        5629.61477,
        0.3910902,
        3.880987,
        0.572434,
        0.9476601,
        -1.275185,
    ),
    Case(Truth(100, 5, 20, 60, 0, 1, 0, 0), 9425, 2819.11814, 0.2237069, 1.162321, 0.002006786, 0, -0.201906),
    Case(
        Truth(100, 4, 400, 400, -4, 3, 0.3, 0.5),
        7477,
        2607.50451,
        0.09318215,
        2.378817,
        0.2930885,
        0.4087898,
        -4.241907,
    ),
    Case(
        Truth(100, 6, 100, 100, 1, 6, 0.5, 0.3), 36224, 3889.37258, 0.6258195, 8.725489, 0.7022287, 0.3348691, 0.9504661
    ),
    Case(
        Truth(100, 4, 2500, 2500, -6, 36, 2, 9), 188699, 3532.2406, 0.6426172, 28.95302, 1.709915, 7.859883, -5.567065
    ),
    Case(
        Truth(100, 3, 100, 100, 0, 0, 0.3, 0.5),
        13373,
        2514.76391,
        0.01461293,
        0.07034837,
        0.2325548,
        0.4635938,
        -0.2511549,
    ),
    Case(
        Truth(225, 3, 40, 50, -0.5, 9, 0.2, 1), 13290, 4131.19887, 0.6436216, 9.191388, 0.03370784, 1.001798, -0.491415
    ),
    Case(
        Truth(225, 4, 900, 1000, -2, 16, 1, 4), 274405, 9443.77471, 0.6344955, 15.37588, 0.4850208, 3.789539, -2.244816
    ),
    Case(Truth(225, 5, 10, 30, 0.5, 0.5, 0, 0.5), 12974, 6057.88651, 0.1116517, 0.5804698, 0, 0.4731409, 0.4677936),
    Case(
        Truth(225, 6, 50, 50, -5, 2, 0.3, 0.2), 1536, 3136.26774, 0.03971595, 1.87517, 0.1861966, 0.1845552, -4.828961
    ),
    Case(
        Truth(400, 3, 600, 650, -1.5, 25, 0.5, 6), 327835, 11498.9246, 0.7085956, 24.88085, 0.1952451, 5.97047, -1.09116
    ),
    Case(
        Truth(400, 4, 100, 120, -1, 3, 0, 0),
        62534,
        10689.7222,
        0.4223117,
        3.202256,
        0.0002305696,
        0.002846405,
        -0.9402609,
    ),
    Case(Truth(400, 4, 30, 30, -6, 4, 0.5, 1), 732, 2143.62412, 0.03655, 2.586671, 0.8137953, 0.781038, -6.233803),
    Case(
        Truth(400, 6, 20, 25, 0, 1, 0.2, 0.1), 23403, 11932.7542, 0.2022962, 1.15428, 0.4067995, 0.07725291, -0.3360453
    ),
]
