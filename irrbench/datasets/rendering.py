"""Images drawn around real outlines: something like a lung window of CT, made for one nodule at a time.

The masks are real, the pixels are not: wherever such images are used, results must say "rendered images". The readers'
subtlety sets the contrast of a nodule, their texture the width of its edge. Vessels, vessel cross-sections, hazy
patches and a chest wall are as bright as many nodules, so that brightness alone does not find the nodule.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from irrbench.data.readers import Mask

Plane = NDArray[np.float64]
FINE = 2


def render_nodule(masks: Mask, *, subtlety: float, texture: float, rng: Generator) -> NDArray[np.uint8]:
    """One image ``(H, W)`` for the masks ``(R, H, W)`` of one nodule.

    Only uniform random numbers are drawn and pixels are rounded to 8 bit, so that machines agree.

    Args:
        masks: the readers' masks.
        subtlety: 1 (extremely subtle) to 5 (obvious): sets the contrast.
        texture: 1 (ground glass) to 5 (solid): sets the width of the edge.
        rng: all randomness of this image.
    """
    shape = masks.shape[1:]
    room = distance_transform_edt(~masks.any(0))
    fine, coarse = _noise(rng, shape, 1.0), _noise(rng, shape, 5.0)
    image = rng.uniform(0.12, 0.24) + rng.uniform(0.015, 0.035) * fine + 0.025 * coarse  # lung tissue
    haze = np.clip(_noise(rng, shape, min(shape) / 12) - 0.8, 0, None)  # has no border, so is no nodule
    image = image + rng.uniform(0, 0.12) * haze
    bright = np.maximum(_vessels(rng, shape), _spots(rng, room))
    image = np.maximum(image, image * (1 - bright) + bright * rng.uniform(0.55, 0.8))
    # The nodule is a blend of all readers' masks, so that no reader is the truth behind the image.
    solid, weights = (texture - 1) / 4, -np.log(1 - rng.random(len(masks)))
    share = np.tensordot(weights / weights.sum(), masks.astype(np.float64), axes=1)
    soft = gaussian_filter(share, 0.6 + 1.6 * (1 - solid))
    contrast = (0.06 + 0.09 * subtlety) * (0.55 + 0.45 * solid) * rng.uniform(0.85, 1.2)
    grain = 1 + (0.1 + 0.15 * (1 - solid)) * _noise(rng, shape, 1.2)
    core = gaussian_filter((share > 0.75).astype(np.float64), 1.5) * rng.uniform(0, 0.25)
    image = image * (1 - 0.4 * soft * solid) + contrast * soft * grain + core * soft * solid
    image = _add_wall(image, room, rng)
    image = gaussian_filter(image, 0.5) + 0.022 * _noise(rng, shape, 0.5)
    image = rng.uniform(0.85, 1.1) * image + rng.uniform(-0.03, 0.03)
    pixels: NDArray[np.uint8] = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return pixels


def _noise(rng: Generator, shape: tuple[int, ...], sigma: float) -> Plane:
    """Smooth noise of unit variance."""
    noise = gaussian_filter(rng.random(shape) - 0.5, sigma, mode="wrap")
    return np.asarray((noise - noise.mean()) / noise.std())


def _vessels(rng: Generator, shape: tuple[int, ...]) -> Plane:
    """Gently bent tubes that taper, 0 to 1; drawn twice as fine and averaged."""
    fine = tuple(FINE * side for side in shape)
    radius, strength, side = np.zeros(fine), np.zeros(fine), min(fine)
    along = np.linspace(0, 1, 3 * side)[:, None]
    for _ in range(int(rng.integers(2, 8))):
        angle, length, bend = rng.uniform(0, 2 * np.pi), side * rng.uniform(0.3, 1.3), rng.uniform(-0.25, 0.25)
        step = np.array([np.sin(angle), np.cos(angle)])
        bent = (along - 0.5) * step + bend * along * (1 - along) * 4 * step[::-1] * (1, -1)
        path = rng.uniform(0, 1, 2) * fine + length * bent  # (N, 2), y and x
        on = ((path >= 0) & (path < np.array(fine))).all(1)
        y, x = path[on].astype(int).T
        radius[y, x] = (FINE * rng.uniform(0.7, 1.9) * np.linspace(1, 0.5, len(path)))[on]
        strength[y, x] = rng.uniform(0.35, 0.95)
    if not radius.any():
        return np.zeros(shape)
    distance, (y, x) = distance_transform_edt(radius == 0, return_indices=True)
    tubes = strength[y, x] * np.exp(-((distance / radius[y, x]) ** 4))
    return np.asarray(tubes.reshape(shape[0], FINE, shape[1], FINE).mean((1, 3)))


def _spots(rng: Generator, room: Plane) -> Plane:
    """Vessels cut across: small, round or oval, nodule-like, 0 to 1; at some distance from the nodule."""
    y, x = np.indices(room.shape, dtype=np.float64)
    canvas = np.zeros(room.shape)
    for _ in range(int(rng.integers(2, 7))):
        radius, stretch, angle = rng.uniform(1.2, 3.4), rng.uniform(1.0, 1.5), rng.uniform(0, np.pi)
        places = np.argwhere(room > 2.5 * radius + 2)
        pick = rng.random()
        if len(places) == 0:
            continue
        dy, dx = (grid - at for grid, at in zip((y, x), places[int(pick * len(places))], strict=True))
        u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        ratio = (u / stretch) ** 2 / radius**2 + (v * stretch) ** 2 / radius**2
        canvas = np.maximum(canvas, rng.uniform(0.45, 1.0) * np.exp(-(ratio**2)))
    return canvas


def _add_wall(image: Plane, room: Plane, rng: Generator) -> Plane:
    """The chest wall in one image out of three: a bright, gently curved border that may touch the nodule."""
    chance, angle, reach, level = rng.random(), rng.uniform(0, 2 * np.pi), rng.random(), rng.uniform(0.6, 0.8)
    bend, grain = rng.uniform(0, 0.006), 0.02 * _noise(rng, image.shape, 1.0)
    if chance > 1 / 3:
        return image
    y, x = np.indices(image.shape, dtype=np.float64)
    y, x = y - image.shape[0] / 2, x - image.shape[1] / 2
    depth = x * np.cos(angle) + y * np.sin(angle) + bend * (y * np.cos(angle) - x * np.sin(angle)) ** 2
    start = max(float(depth[room <= 1].max()), float(depth.max()) * (0.45 + 0.5 * reach))
    wall = 1 / (1 + np.exp(-(depth - start) / 0.6))
    return np.asarray(image * (1 - wall) + wall * (level + grain))
