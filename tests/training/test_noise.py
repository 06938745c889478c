"""Models of label noise: each a function of mask, strength and generator."""

from __future__ import annotations

import numpy as np
import pytest

from irrbench.training.noise import NOISE_MODELS, make_noise


def blob(shape=(48, 40), centre=(22, 19), radius=8.0, lobes=0.2):
    offsets = [axis - c for axis, c in zip(np.indices(shape), centre, strict=True)]
    angle = np.arctan2(offsets[0], offsets[1])
    return np.sqrt(sum(o**2 for o in offsets)) < radius * (1 + lobes * np.sin(3 * angle))


def rng(*key):
    return np.random.default_rng(key)


def named(name, masks=None):
    return make_noise(name, masks=lambda: [blob(radius=4)] if masks is None else masks)


@pytest.mark.parametrize("name", NOISE_MODELS)
def test_strength_0_is_the_mask_itself_and_a_seed_gives_one_mask(name):
    mask, noise = blob(), named(name)
    assert (noise(mask, 0, rng(1)) == mask).all()
    strength = {"px": 2.0, "share": 0.4, "components": 2.0}[noise.unit]
    found = noise(mask, strength, rng(1))
    assert found.dtype == bool
    assert (noise(mask, strength, rng(1)) == found).all()
    assert mask.sum() == blob().sum()  # untouched
