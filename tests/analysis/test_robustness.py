"""Score over the dose of label noise: by hand, against slow loops, and where cells, groups or margins are missing."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from irrbench.analysis.results import Questions, Resampling, Results, Trained, build_results
from tests.analysis.test_leaderboard import table

N = 12
STUDENT = Resampling(interval="student")
MARGIN = Questions(margins={"iou": 0.05})
BIAS = {"boundary": "none", "shift": "none", "shrink": "smaller", "grow": "larger", "own": "unknown"}
# By hand: clean .76, the average rater .7, the naive rater .1.
DOSES = {0: 0.76, 1: 0.72, 2: 0.66, 4: 0.5}


def record(loss: str = "bce", label: str = "majority", noise: str = "", dose: float = 0.0) -> Trained:
    recipe = f"unet {label} {loss}"
    return Trained(recipe, "unet", label, loss, noise, BIAS.get(noise, ""), dose, dose, 2 * dose, "px", noise_fit=dose)


def name_of(one: Trained) -> str:
    return " ".join(filter(None, [one.recipe, one.noise, f"{one.dose:g}" if one.dose else ""]))


def grid(curves: dict[tuple[str, str], dict[float, float]], **labels: float) -> dict[Trained, float]:
    """Records and means: by loss and noise the mean at each dose, and clean models on other labels."""
    made = {}
    for (loss, noise), by_dose in curves.items():
        for dose, mean in by_dose.items():
            made[record(loss, noise=noise if dose else "", dose=dose)] = mean
    return made | {record(label=label): mean for label, mean in labels.items()}


def build(
    means: dict[Trained, float],
    resampling: Resampling = STUDENT,
    questions: Questions = MARGIN,
    *,
    spread: float = 0.01,
    images: int = N,
    seeds: int = 1,
    score: str = "iou",
) -> tuple[Results, dict[str, pd.DataFrame]]:
    """Tables with these means exactly, spread over images and seeds."""
    rng = np.random.default_rng(3)
    centred = [0.05 * (x - x.mean()) for x in rng.normal(size=(2, images))]
    bounds = {"ceiling": (0.7 + centred[0]).tolist(), "floor": (0.1 + 0.2 * centred[1]).tolist()}
    tables, models = {}, {}
    for one, mean in means.items():
        shifts = rng.normal(size=seeds) * 0.01
        for seed, shift in enumerate(shifts - shifts.mean()):
            noise = rng.normal(size=images)
            values = mean + shift + centred[0] + spread * (noise - noise.mean())
            tables[f"{name_of(one)} {seed}"] = table(values.tolist(), score=score, **bounds)
            models[f"{name_of(one)} {seed}"] = name_of(one)
    trained = {name_of(one): one for one in means}
    return build_results(tables, resampling, questions=questions, models=models, trained=trained), tables


def only(frame: pd.DataFrame, **wanted: object) -> pd.Series:
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


ONE = {("bce", "boundary"): DOSES}


def test_by_hand():
    results, _ = build(grid(ONE, soft=0.78, random=0.4, **{"rater:r1": 0.69}))
    found = results.robustness
    assert found["dose"].tolist() == [0, 1, 2, 4]
    assert found["noise"].tolist() == ["boundary"] * 4
    assert found["name"].tolist() == [f"unet majority bce{end}" for end in ("", *(f" boundary {d}" for d in (1, 2, 4)))]
    assert found["iou"].tolist() == pytest.approx([0.76, 0.72, 0.66, 0.5])
    assert found["iou_normalized"].tolist() == pytest.approx([1.1, 0.62 / 0.6, 0.56 / 0.6, 0.4 / 0.6])
    assert found["ceiling_difference"].tolist() == pytest.approx([0.06, 0.02, -0.04, -0.2])
    assert found["clean_difference"].tolist() == pytest.approx([0, -0.04, -0.1, -0.26])
    assert found["noise_fit"].tolist() == [0, 1, 2, 4]
    assert found["unit"].tolist() == ["px"] * 4
    row = results.tolerance.iloc[0]
    # (.74 + .69 + 2 * .58) / 4, and of that (. - .1) / .6
    assert row["area"] == pytest.approx(0.6475)
    assert row["area_normalized"] == pytest.approx(0.9125)
    assert row["dose_below_ceiling"] == pytest.approx(1 + 0.02 / 0.06)
    assert row["dose_below_clean"] == pytest.approx(1 + 0.01 / 0.06)
    assert (row["first_below_ceiling"], row["first_below_clean"], row["worst"]) == (2, 2, pytest.approx(0.5))
    assert (row["doses"], row["largest_dose"], row["margin"], row["remark"]) == ("0, 1, 2, 4", 4, 0.05, "")
    places = results.equivalents.set_index("label")
    assert places["dose"].to_dict() == {
        "soft": 0, "random": pytest.approx(math.nan, nan_ok=True), "rater:r1": pytest.approx(1.5)
    }  # fmt: skip
    assert places.loc["soft", "words"] == "0"
    assert places.loc["random", "words"] == ">4"
    assert places.loc["soft", "sentence"] == (
        "Training on soft instead of majority costs nothing that boundary noise would cost."
    )
    assert places.loc["random", "sentence"] == (
        "Training on random instead of majority costs more than 4 doses of boundary noise."
    )
    low, high = (f"{places.loc['rater:r1', end]:.2g}" for end in ("low", "high"))
    assert places.loc["rater:r1", "sentence"] == (
        f"Training on rater:r1 instead of majority costs as much as 1.5 doses of boundary noise ({low} to {high})."
    )
    assert results.best["name"] == "unet soft bce"
    assert results.noisy == {f"unet majority bce boundary {dose}" for dose in (1, 2, 4)}


def test_without_noise_everything_is_as_before():
    means = {record("bce"): 0.7, record("gce"): 0.6}
    results, tables = build(means)
    models = {name: name[:-2] for name in tables}
    before = build_results(tables, STUDENT, questions=MARGIN, models=models)
    assert list(results.frames()) == list(before.frames())
    for name, frame in before.frames().items():
        pd.testing.assert_frame_equal(results.frames()[name], frame)


def test_pairs_of_models_have_the_same_noise_and_dose():
    results, _ = build(grid({(loss, noise): DOSES for loss in ("bce", "gce") for noise in ("boundary", "shrink")}))
    pairs = results.comparisons[results.comparisons["versus"].isin(results.models)]
    ends = [
        (one.partition("bce")[2], other.partition("gce")[2])
        for one, other in zip(pairs["name"], pairs["versus"], strict=True)
    ]
    assert sorted(one for one, _ in ends) == sorted(
        ["", *(f" {noise} {dose}" for noise in ("boundary", "shrink") for dose in (1, 2, 4))]
    )
    assert all(one == other for one, other in ends)
    assert len(results.comparisons) == 7 + 2 * 14
