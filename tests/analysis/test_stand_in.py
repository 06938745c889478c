"""Which score tells models apart, and may one stand in for a rater: on drawn masks, with the cases of no answer."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from irrbench import VotePatterns, segmentation_bounds
from irrbench.analysis.results import Questions, Resampling, build_results
from irrbench.stats import alternative_annotator_test
from irrbench.summary import bounds_table

N, SIDE = 36, 24
SCORES = ("iou", "f1", "accuracy", "tpr", "specificity")


def discs(radius: np.ndarray, shift: np.ndarray) -> torch.Tensor:
    """Masks ``(..., SIDE, SIDE)`` of discs that are moved to the right."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    return torch.from_numpy(np.hypot(y, x - shift[..., None, None]) < radius[..., None, None])


def scored(*models: tuple[float, float], raters: int = 4, images: int = N, spread: float = 0.6, present=None):
    """Per-image tables of models with an error of the radius and a shift, beside raters of some spread."""
    rng = np.random.default_rng(5)
    radius = rng.uniform(4, 7, images)
    masks = discs(radius[:, None] + spread * rng.normal(size=(images, raters)), rng.normal(0, spread, (images, raters)))
    present = None if present is None else torch.tensor(present)
    tables = {}
    for number, (error, shift) in enumerate(models):
        noise = 0.3 * rng.normal(size=images)
        preds = discs(np.maximum(radius + error + noise, 0), np.full(images, shift))
        patterns = VotePatterns.from_masks(masks, preds=preds, present=present)
        bounds = segmentation_bounds(patterns, SCORES)
        tables[f"m{number}"] = bounds_table([f"i{i:02}" for i in range(images)], [patterns], [bounds])
    return tables


def stand_in(tables, **questions) -> pd.DataFrame:
    frame = build_results(tables, questions=Questions(**questions)).alternative
    return frame.drop_duplicates(["name", "score"]).set_index(["name", "score"])


def test_careless_masks_are_tested_once_for_all_models(monkeypatch):
    tables, calls = scored((0, 0), (1, 0), (2, 1), (3, 2)), []
    alone = [stand_in({name: table}) for name, table in tables.items()]

    def counted(*args, **options):
        calls.append(args)
        return alternative_annotator_test(*args, **options)

    monkeypatch.setattr("irrbench.analysis.tables.alternative_annotator_test", counted)
    pd.testing.assert_frame_equal(stand_in(tables).sort_index(), pd.concat(alone).sort_index())
    assert len(calls) == len(SCORES) * (len(tables) + 2)


class TestStandIn:
    def test_a_good_mask_may_and_a_bad_one_is_not_shown_to(self):
        found = stand_in(scored((0, 0), (3, 2)))
        assert found.loc[("m0", "iou"), "verdict"] == "may stand in for a rater"
        assert found.loc[("m1", "iou"), "verdict"] == "not shown to stand in for a rater"
        assert (found["n_entered"] == 4).all()
        assert found.loc[("m0", "iou"), "remark"] == ""

    @pytest.mark.parametrize(("level", "wins"), [(0.95, 3), (0.97, 2), (0.99, 1)])
    def test_wins_are_at_what_the_level_leaves(self, level, wins):
        frame = build_results(scored((0.5, 0), (0, 0.5)), Resampling(level=level)).alternative
        found = frame[frame["score"] == "iou"]
        assert (found["wins"] == (found["p_corrected"] < 1 - level)).all()
        assert found["wins"].sum() == wins

    @pytest.mark.parametrize(
        ("score", "remark"),
        [
            ("tpr", "the score sees one kind of error only"),
            ("specificity", "the score sees one kind of error only"),
            ("accuracy", "the score counts the background, which every mask gets right"),
        ],
    )
    def test_no_verdict_by_a_score_that_a_poor_mask_can_have(self, score, remark):
        found = stand_in(scored((0, 0)))
        assert found.loc[("m0", score), "winning_rate"] >= 0.5  # it would pass
        assert found.loc[("m0", score), ["verdict", "remark"]].tolist() == ["no verdict", remark]

    def test_a_score_of_samples_has_a_verdict_and_counts_no_background(self, monkeypatch):
        tables = scored((0, 0), (3, 2))
        tables = {
            name: frame.rename(columns=lambda column: column.replace("iou", "energy_score")).pipe(
                lambda frame: frame.assign(**{c: 1 - frame[c] for c in frame if c.startswith("energy_score")})
            )
            for name, frame in tables.items()
        }
        found = stand_in(tables).loc[("m0", "energy_score")]
        assert found[["verdict", "remark"]].tolist() == ["may stand in for a rater", ""]
        for frame in tables.values():
            frame["energy_score_blank"] = 0.0
        remark = build_results(tables).separation.set_index("score").loc["energy_score", "remark"]
        assert remark == "a blank mask does better than the naive rater"

    @pytest.mark.parametrize(("role", "marks"), [("blank", "nothing"), ("floor", "everything")])
    def test_no_verdict_where_a_mask_without_knowledge_passes_too(self, role, marks):
        tables = scored((0, 0))
        for column in [c for c in tables["m0"] if str(c).startswith(f"iou_{role}")]:
            tables["m0"][column] = 1.0
        found = stand_in(tables).loc[("m0", "iou")]
        assert found["verdict"] == "no verdict"
        assert found["remark"] == f"a mask that marks {marks} would pass too"
        assert found["winning_rate"] == 1

    def test_fewer_than_three_raters(self):
        found = stand_in(scored((0, 0), raters=2)).loc[("m0", "iou")]
        assert found["verdict"] == "no verdict"
        assert found["remark"] == "only 2 raters; the test asks for three"

    def test_a_rater_with_few_images_does_not_enter(self):
        present = np.ones((N, 4), bool)
        present[29:, 0] = False  # 29 images
        tables = scored((0.2, 0), present=present)
        frame = build_results(tables, questions=Questions(min_images=30)).alternative.query("score == 'iou'")
        assert frame["n_images"].tolist() == [29, N, N, N]
        assert frame["n_groups"].tolist() == [29, N, N, N]
        assert frame["p"].isna().tolist() == [True, False, False, False]
        assert frame["n_entered"].tolist() == [3] * 4
        ordered = tables["m0"].sort_values("image_id")
        model, raters = (ordered[[f"iou{who}_fold{r}" for r in (1, 2, 3)]].to_numpy() for who in ("", "_ceiling"))
        expected = alternative_annotator_test(model, raters)  # as if the first had never been asked about
        assert frame["p_corrected"].tolist()[1:] == pytest.approx(expected.p_corrected.tolist())
        assert frame["winning_rate"].tolist() == [expected.winning_rate] * 4
        everybody = build_results(tables, questions=Questions(min_images=29)).alternative.query("score == 'iou'")
        assert everybody["n_entered"].tolist() == [4] * 4
        assert everybody["p"].notna().all()

    def test_too_few_images_for_anybody(self):
        found = stand_in(scored((0, 0), images=12)).loc[("m0", "iou")]
        assert found["verdict"] == "no verdict"
        assert found["remark"].startswith("0 of 4 raters have 30 images or more")
        assert math.isnan(found["winning_rate"])


class TestSeparation:
    def test_by_paired_t_tests_of_neighbours(self):
        tables = scored((0.1, 0.5), (0.3, 0.2), (1.2, 0), (-1, 0.4))
        frame = build_results(tables).separation.set_index("score")
        for score in SCORES:
            values = pd.DataFrame({name: table[score] for name, table in tables.items()})
            order = values.mean().sort_values(ascending=False).index
            pairs = list(pairwise(order))
            apart = [abs(stats.ttest_rel(values[one], values[other]).statistic) for one, other in pairs]
            assert frame.loc[score, "separation"] == pytest.approx(np.median(apart))
            assert frame.loc[score, "n_pairs"] == 3
        last = ["tpr", "specificity", "accuracy"]  # one kind of error only, or the background
        whole = [score for score in frame.index if score not in last]
        assert frame.index.tolist()[: len(whole)] == whole
        assert frame.loc[whole, "separation"].is_monotonic_decreasing
        assert frame.loc[["tpr", "specificity"], "remark"].str.contains("it sees one kind of error only").all()
        words = "it counts the background: a blank mask does better than the naive rater"
        assert frame.loc["accuracy", "remark"].endswith(words)
        assert (frame.loc[whole, "remark"] == "").all()

    def test_the_gap_to_the_naive_rater_decides_nothing(self):
        tables = scored((0.2, 0), (0.2, 1.5))
        table = tables["m0"]
        for name, frame in tables.items():
            # The floor and the ceiling always equally far apart, the models apart by luck only.
            frame["accuracy_floor"], frame["accuracy_ceiling"] = 0.1, 0.99 + 1e-4 * np.arange(N) / N
            frame["accuracy"] = table["accuracy"] + (name == "m1") * 0.01 * np.resize([1, -1.02], N)
        frame = build_results(tables).separation.set_index("score")
        gap = frame["gap"] / frame["gap_sd"]
        assert gap["accuracy"] > 10 * gap["iou"]
        assert frame.loc["accuracy", "separation"] < 1 < frame.loc["iou", "separation"]
        assert frame.index.tolist().index("accuracy") > frame.index.tolist().index("iou")

    def test_patients_count_and_equal_models_are_not_apart(self):
        tables = scored((0.2, 0), (0.2, 1.5))
        patients = {f"i{i:02}": i // 3 for i in range(N)}
        single, grouped = (
            build_results(tables, Resampling(groups)).separation.set_index("score") for groups in (None, patients)
        )
        difference = (tables["m0"]["iou"] - tables["m1"]["iou"]).to_numpy().reshape(-1, 3).mean(1)
        assert grouped.loc["iou", "separation"] == pytest.approx(abs(stats.ttest_1samp(difference, 0).statistic))
        assert grouped.loc["iou", "separation"] != pytest.approx(single.loc["iou", "separation"])
        raters = build_results(tables, Resampling(patients, generalize="raters")).separation.set_index("score")
        assert raters["separation"].to_dict() == pytest.approx(grouped["separation"].to_dict())
        twice = build_results({"a": tables["m0"], "b": tables["m0"]}).separation
        assert (twice["separation"] == 0).all()

    def test_one_model_has_no_neighbour(self):
        frame = build_results(scored((0.2, 0))).separation
        assert frame["separation"].isna().all()
        assert (frame["n_pairs"] == 0).all()
        assert frame["remark"].str.endswith("fewer than two models: nothing to tell apart").all()
        assert frame["gap"].notna().all()
