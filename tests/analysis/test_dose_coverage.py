"""How often areas and doses hold the truth, by simulation: patients of two images, three seeds of each model.

The table in `docs/explanation/doses.md` is :func:`shares` with 1,000 studies of each kind.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit

from irrbench.analysis.candidates import Candidates, Generalize, Resampling
from irrbench.analysis.dose_response import first_below, trapezoid_weights
from irrbench.analysis.robustness import Trained, find_curves, tolerance_frame

DOSES = (0.0, 0.5, 1.0, 2.0, 4.0)
CEILING, FLOOR, SEEDS, MARGIN = 1.45, -2.4, 3, 0.03
# Logits of the model at each dose.
CURVES = {
    "steady": (1.75, 1.65, 1.5, 1.2, 0.6),
    "late": (1.7, 1.7, 1.68, 1.6, 0.6),
    "up again": (1.7, 1.75, 1.55, 1.3, 1.35),
    "flat": (1.6, 1.57, 1.53, 1.45, 1.3),
}
SEED_SD, SAME_IMAGE, ALONE = 0.1, 0.3, 0.35  # of models, on the logit scale
BOUNDS = ("ceiling", "ceiling_of_two", "majority", "upper", "blank", "floor")
TRAINED = {f"m{dose:g}": Trained("r", noise="shift" if dose else "", bias="none", dose=dose) for dose in DOSES}


def draw_images(rng: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How easy each image is, and the average and the naive rater's scores."""
    easy = rng.normal(0, 0.55, patients).repeat(2) + rng.normal(0, 0.5, 2 * patients)
    raters = (CEILING + easy + rng.normal(0, 0.45, easy.shape), FLOOR + 0.3 * easy + rng.normal(0, 0.3, easy.shape))
    return easy, *map(expit, raters)


def draw(rng: np.random.Generator, patients: int, logits: tuple[float, ...], generalize: Generalize) -> Candidates:
    easy, ceiling, floor = draw_images(rng, patients)
    models = []
    for logit in logits:
        for_all = logit + easy + rng.normal(0, SAME_IMAGE, easy.shape)
        own = rng.normal(0, SEED_SD, SEEDS)
        models += [expit(for_all + of_seed + rng.normal(0, ALONE, easy.shape)) for of_seed in own]
    references = [ceiling, ceiling - 0.05, ceiling + 0.05, ceiling + 0.1, np.zeros_like(floor), floor]
    ids = tuple(map(str, range(len(easy))))
    seeds = np.arange(len(BOUNDS), len(BOUNDS) + len(models)).reshape(len(logits), SEEDS)
    return Candidates(
        names=(*BOUNDS, *TRAINED),
        roles=(*BOUNDS, *["model"] * len(TRAINED)),
        members=(*((k,) for k in range(len(BOUNDS))), *(tuple(row) for row in seeds.tolist())),
        image_ids=ids,
        tables={"iou": np.column_stack([*references, *models])},
        folds={},
        without={},
        resampling=Resampling({name: int(name) // 2 for name in ids}, generalize=generalize),
    )


def truth(logits: tuple[float, ...]) -> dict[str, float]:
    """Of all images and seeds there might be."""
    rng = np.random.default_rng(1)
    easy, ceiling, floor = draw_images(rng, 200_000)
    error = rng.normal(0, math.hypot(SEED_SD, SAME_IMAGE, ALONE), easy.shape)
    means = np.array([expit(logit + easy + error).mean() for logit in logits])
    area = float(trapezoid_weights(DOSES) @ means)
    return {
        "area": area,
        "area_normalized": (area - floor.mean()) / (ceiling.mean() - floor.mean()),
        "dose_below_ceiling": first_below(DOSES, means - ceiling.mean()),
        "dose_below_clean": first_below(DOSES, means - means[0] + MARGIN),
    }


def shares(curve: str, patients: int, generalize: Generalize, studies: int) -> dict[str, float]:
    """How often each interval holds the truth, and how often `first_below_ceiling` comes before the true dose."""
    known, rng, found = truth(CURVES[curve]), np.random.default_rng(patients), []
    for _ in range(studies):
        candidates = draw(rng, patients, CURVES[curve], generalize)
        (row,) = tolerance_frame(candidates, find_curves(candidates, TRAINED), MARGIN).to_dict("records")
        held = {name: row[f"{name}_low"] <= value <= row[f"{name}_high"] for name, value in known.items()}
        found.append({**held, "too early": row["first_below_ceiling"] < known["dose_below_ceiling"]})
    return {name: float(np.mean([study[name] for study in found])) for name in found[0]}


@pytest.mark.slow
@pytest.mark.parametrize("curve", CURVES)
def test_intervals_that_count_seeds_hold_areas_and_doses(curve):
    found = shares(curve, 60, "seeds", 200)
    assert min(found["area"], found["area_normalized"]) > 0.9
    assert min(found["dose_below_ceiling"], found["dose_below_clean"]) > 0.93
    assert found["too early"] < 0.03


@pytest.mark.slow
def test_intervals_that_do_not_count_seeds_are_too_short_for_recipes():
    found = shares("steady", 200, "images", 100)
    assert found["dose_below_ceiling"] < 0.85
    assert found["dose_below_clean"] < 0.7
