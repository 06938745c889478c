"""Made-up results with the columns of a benchmark's."""

from __future__ import annotations

import math

import pandas as pd

FLOOR = {"iou": 0.04, "tpr": 1.0}
CEILING = {"iou": 0.71, "tpr": 0.81}
UPPER = {"iou": 0.86, "tpr": 0.9}


def row(name: str, role: str, values: dict[str, float], **more: float) -> dict[str, object]:
    scores: dict[str, object] = {}
    for score, value in values.items():
        share = (value - FLOOR[score]) / (CEILING[score] - FLOOR[score])
        scores |= {score: value, f"{score}_low": value - 0.02, f"{score}_high": value + 0.03}
        scores[f"{score}_normalized"] = share if FLOOR[score] < CEILING[score] else math.nan
    return {"name": name, "role": role, "n_images": 120, **scores, **more}


def leaderboard(models: dict[str, float]) -> pd.DataFrame:
    """One row per model with this IoU, among floor, ceiling and upper."""
    return pd.DataFrame(
        [
            row("average rater (ceiling)", "ceiling", CEILING),
            row("majority of raters (upper)", "upper", UPPER),
            *(
                row(name, "model", {"iou": iou, "tpr": 0.7}, rank=place)
                for place, (name, iou) in enumerate(models.items(), start=1)
            ),
            row("naive rater (floor)", "floor", FLOOR),
        ]
    )


def per_image(models: dict[str, float], images: int = 7) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"name": name, "role": role, "image_id": f"i{image}", "iou": iou + 0.01 * image, "tpr": 0.7}
            for name, role, iou in [
                ("average rater (ceiling)", "ceiling", 0.7),
                *((model, "model", value) for model, value in models.items()),
            ]
            for image in range(images)
        ]
    )


def curves(models: dict[str, float], epochs: int = 4) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"name": name, "epoch": epoch, "iou": iou * (epoch + 1) / epochs, "iou_floor": 0.11, "iou_ceiling": 0.77}
            for name, iou in models.items()
            for epoch in range(epochs)
        ]
    )


def comparisons(models: dict[str, float]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "name": name,
                "versus": "average rater",
                "score": score,
                "difference": -0.03,
                "low": -0.05,
                "high": -0.01,
                "p": 0.0004,
                "p_holm": 0.012,
                "verdict": "below",
            }
            for name in models
            for score in ("iou", "tpr")
        ]
    )
