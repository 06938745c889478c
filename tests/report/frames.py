"""Made-up results with the columns of a benchmark's."""

from __future__ import annotations

import math

import pandas as pd

from irrbench.analysis.results import Results

FLOOR = {"iou": 0.04, "tpr": 1.0}
CEILING = {"iou": 0.71, "tpr": 0.81}
MAJORITY, UPPER = {"iou": 0.86, "tpr": 0.9}, {"iou": 0.9, "tpr": 1.0}
PAIRS, BLANK = {"iou": 0.65, "tpr": 0.77}, {"iou": 0.0, "tpr": 0.0}


def row(name: str, role: str, values: dict[str, float], **more: float) -> dict[str, object]:
    scores: dict[str, object] = {}
    for score, value in values.items():
        share = (value - FLOOR[score]) / (CEILING[score] - FLOOR[score])
        scores |= {score: value, f"{score}_low": value - 0.02, f"{score}_high": value + 0.03}
        known = FLOOR[score] < CEILING[score]
        ends = (share - 0.05, share + 0.04) if role == "model" else (math.nan, math.nan)
        shares = (share, *ends) if known else (math.nan,) * 3
        scores |= dict(zip((f"{score}_normalized{end}" for end in ("", "_low", "_high")), shares, strict=True))
    return {"name": name, "role": role, "n_images": 120, "n_groups": 60, **scores, **more}


def leaderboard(models: dict[str, float]) -> pd.DataFrame:
    """One row per model with this IoU, among the references."""
    return pd.DataFrame(
        [
            row("best possible (upper)", "upper", UPPER),
            row("majority of raters", "majority", MAJORITY),
            row("average rater (ceiling)", "ceiling", CEILING),
            row("one rater on one other", "ceiling_of_two", PAIRS),
            *(
                row(name, "model", {"iou": iou, "tpr": 0.7}, rank=place)
                for place, (name, iou) in enumerate(models.items(), start=1)
            ),
            row("blank mask", "blank", BLANK),
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
    """Each model against the average rater, and each pair."""
    names = list(models)
    pairs = [(name, "average rater (ceiling)", -0.03, "below") for name in names]
    pairs += [
        (one, other, models[one] - models[other], "not distinguishable")
        for place, one in enumerate(names)
        for other in names[place + 1 :]
    ]
    return pd.DataFrame(
        [
            {"name": name, "versus": versus, "score": score, "difference": difference}
            | {"low": difference - 0.02, "high": difference + 0.02, "p": 0.0004, "p_holm": 0.012, "verdict": verdict}
            | {"value": 0.6, "versus_value": 0.5, "normalized_difference": difference / 0.67}
            for name, versus, difference, verdict in pairs
            for score in ("iou", "tpr")
        ]
    )


def verdicts(models: dict[str, float], *, margin: float = math.nan) -> pd.DataFrame:
    rows = []
    for score in ("iou", "tpr"):
        for name, value in models.items():
            row = {"name": name, "score": score, "value": value, "margin": margin}
            for bound, level in (("floor", 0.04), ("ceiling", 0.71)):
                gap = value - level
                row |= {f"{bound}_difference{end}": gap + by for end, by in (("", 0), ("_low", -0.02), ("_high", 0.02))}
            row |= {"floor_p_holm": 0.0001, "floor_verdict": "better than the naive rater", "ceiling_p_holm": 0.4}
            row |= {"n_models": len(models), "reason": ""}
            row |= {
                f"ceiling_difference_{end}_simultaneous": row[f"ceiling_difference_{end}"] for end in ("low", "high")
            }
            word = "inconclusive" if margin > 0 else "no margin declared"
            rows.append(row | {"ceiling_verdict": word, "equivalence_p_holm": 0.5, "equivalence_verdict": word})
    return pd.DataFrame(rows)


def subgroups(models: dict[str, float], counts: dict[str, int]) -> pd.DataFrame:
    """A leaderboard for each site with that many images."""
    parts = [
        leaderboard(models).assign(
            column="site", subgroup=site, n_images=n, n_groups=n, cut="", warning=f"only {n} images" if n < 10 else ""
        )
        for site, n in counts.items()
    ]
    return pd.concat(parts, ignore_index=True)


def results(frame: pd.DataFrame, **changes: object) -> Results:
    """Results with this leaderboard."""
    return Results(leaderboard=frame, **{"per_image": per_image({}), "unit": "patient_id"} | changes)
