"""A score of any direction and range, and of any evidence, goes the whole way from masks to the report."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from irrbench import SegmentationBounds, VotePatterns, segmentation_bounds, summarize
from irrbench.callbacks import CeilingStopping, RaterBoundsMonitor
from irrbench.config import ConfigError, load_study_config
from irrbench.cuts import cut_scores
from irrbench.scores import gain, record
from irrbench.summary import REFERENCES
from tests.callbacks.toys import Module, Toy, loader, trainer
from tests.other_scores import Areas, register

SCORES = ("iou", "error", "odds", "area_error")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    register(monkeypatch)


def batch(n=6):
    toy = Toy(n)
    return toy.image[:, 0], toy.masks, toy.roi, toy.names


def test_a_record_knows_direction_range_and_ends():
    assert (record("error").best, record("error").worst) == (0, 1)
    assert (record("odds").best, record("odds").worst) == (math.inf, 0)
    assert gain("error", 0.25) == -0.25
    assert gain("odds_class1", 3.0) == 3.0
    assert record("odds").clip(np.array([-1.0, 7.0, np.inf, np.nan])).tolist()[:3] == [0.0, 7.0, np.inf]
    assert record("error").clip(np.array([-1.0, 1.5])).tolist() == [0.0, 1.0]


def test_an_empty_reference_by_the_rule_of_the_score():
    masks = torch.zeros(1, 3, 4)
    kept = {
        rule: [
            segmentation_bounds(
                VotePatterns.from_masks(masks, preds=preds), ["iou", "odds"], empty_reference=rule
            ).model
            for preds in (torch.zeros(1, 4), torch.ones(1, 4))
        ]
        for rule in ("drop", "score")
    }
    assert all(v["iou"].isnan().all() and v["odds"].isnan().all() for v in kept["drop"])
    assert [v["iou"].item() for v in kept["score"]] == [1, 0]
    assert [v["odds"].item() for v in kept["score"]] == [math.inf, 0]


def test_other_evidence_is_scored_by_the_same_function_and_stored_by_the_metric():
    preds, masks, roi, names = batch()
    evidence = {
        "patterns": VotePatterns.from_masks(masks, roi=roi, preds=preds > 0.2),
        "areas": Areas.from_masks(masks, roi=roi, preds=preds > 0.2),
    }
    bounds = segmentation_bounds(evidence, SCORES)
    assert torch.equal(
        bounds.model["area_error"], segmentation_bounds(evidence["areas"], ["area_error"]).model["area_error"]
    )
    metric = SegmentationBounds(SCORES, from_logits=False, threshold=0.2)
    clipped = preds.clamp(0, 1)
    for part in (slice(4, 6), slice(0, 4)):
        metric.update(clipped[part], masks[part], roi[part], names[part])
    table = metric.per_image().set_index("image_id").loc[names]
    for candidate in (*REFERENCES, "model"):
        for score in SCORES:
            column = score if candidate == "model" else f"{score}_{candidate}"
            np.testing.assert_array_equal(table[column], getattr(bounds, candidate)[score])
    for r in range(masks.shape[1]):
        np.testing.assert_array_equal(table[f"area_error_ceiling_fold{r}"], bounds.raters["area_error"][:, r])


@pytest.mark.parametrize("background", [False, True])
def test_other_evidence_of_label_maps_and_missing_raters(background):
    g = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 3, (4, 3, 5, 6), generator=g)
    preds = torch.randint(0, 3, (4, 5, 6), generator=g)
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    metric = SegmentationBounds(["area_error"], num_classes=3, include_background=background)
    metric.update(preds, masks, present=present)
    table = metric.per_image()
    for c in range(0 if background else 1, 3):
        own = segmentation_bounds(Areas.from_masks(masks == c, preds=preds == c, present=present), ["area_error"])
        np.testing.assert_array_equal(table[f"area_error_class{c}"], own.model["area_error"])
        np.testing.assert_array_equal(table[f"area_error_class{c}_ceiling"], own.ceiling["area_error"])
    assert table["area_error"].isna().tolist() == [False, False, False, True]


def test_patches_are_refused_where_an_image_is_no_sum_of_them():
    with pytest.raises(ValueError, match=r"`aggregate` adds counts of patches, and area_error of an image is no sum"):
        SegmentationBounds(["iou", "area_error"], aggregate="image")


@pytest.mark.parametrize("score", SCORES)
def test_a_prediction_is_scored_at_every_cut_by_any_evidence(score, monkeypatch):
    _, masks, roi, _ = batch()
    levels = torch.randint(0, 5, roi.shape, generator=torch.Generator().manual_seed(0))
    present = torch.ones(masks.shape[:2], dtype=torch.bool)
    present[1, 0] = False
    monkeypatch.setattr("irrbench.cuts._MOST_CELLS", 2**5)  # several parts
    found = cut_scores(masks, levels, score, num_levels=5, roi=roi, present=present)
    for cut in range(1, 5):
        metric = SegmentationBounds([score], from_logits=False)
        metric.update(levels >= cut, masks, roi, present=present)
        np.testing.assert_array_equal(found[:, cut - 1], metric.per_image()[score])


def test_a_study_of_raters_takes_scores_of_masks():
    with pytest.raises(ConfigError, match="scores must be of masks, as raters draw nothing else; leave out 'ged'"):
        load_study_config(None, ["--study.scores", "[iou, ged]"])
    assert load_study_config(None, ["--study.scores", "[error, area_error]"]).study.scores == ["error", "area_error"]


def test_evidence_that_is_missing_is_named():
    _, masks, _, _ = batch()
    with pytest.raises(ValueError, match="the score 'area_error' needs the evidence 'areas'; given: patterns"):
        segmentation_bounds(VotePatterns.from_masks(masks), ["iou", "area_error"])


def test_normalized_scores_lie_between_the_bounds_whatever_the_direction():
    preds, masks, roi, names = batch(10)
    metric = SegmentationBounds(SCORES)
    metric.update(preds - 0.3, masks, roi, names)
    table = metric.per_image()
    for score, s in summarize(table).items():
        assert s.normalized == pytest.approx((s.model - s.floor) / (s.ceiling - s.floor)), score
        assert gain(score, s.floor) < gain(score, s.model)
        assert s.normalized > 0
        assert s.reason == ""
    # A floor that is better than the ceiling has no normalized score.
    worse = table.assign(error_floor=table["error_ceiling"] / 2)
    assert summarize(worse)["error"].reason == "the naive rater scores at least as well as the average rater"


def test_the_callback_watches_keeps_and_stops_by_them(tmp_path):
    monitor = RaterBoundsMonitor(roi="roi", image_id="id", scores=SCORES, print_link=False)
    best = ModelCheckpoint(tmp_path, monitor="val/error", mode="min", save_weights_only=True)
    early = EarlyStopping("val/area_error", mode="min", patience=50)
    near = CeilingStopping(score="error", margin=1.0, patience=2, min_groups=2, verbose=False)
    torch.manual_seed(0)
    run = trainer([monitor, best, early, near], tmp_path, max_epochs=12, enable_checkpointing=True)
    run.fit(Module(), loader(), loader())
    errors = [row["val/error"] for row in monitor.history]
    assert float(best.best_model_score) == pytest.approx(min(errors), abs=1e-6)
    assert float(early.best_score) == pytest.approx(min(row["val/area_error"] for row in monitor.history), abs=1e-6)
    assert len(errors) == 2  # within the margin from the beginning: the second check in a row stops
    table = monitor.tables["val"]
    advantage = (table["error_ceiling"] - table["error"]).mean()
    assert sum(near.interval) / 2 == pytest.approx(advantage)
    assert "average rater - model" in near.reason
    assert not near.check(table.assign(error=table["error_ceiling"] + 1.5))


def test_where_lower_is_better_a_worse_model_never_reaches_the_ceiling():
    _, masks, roi, names = batch(10)
    metric = SegmentationBounds(["error"], from_logits=False)
    metric.update(torch.zeros(masks.shape[0], *masks.shape[2:]), masks, roi, names)
    blank = metric.per_image()
    assert not CeilingStopping(score="error", patience=1).check(blank)
    perfect = blank.assign(error=0.0)
    assert CeilingStopping(score="error", patience=1).check(perfect)


def simulated_tables():
    """Three models of falling quality on the same images, as tables per image."""
    _, masks, roi, names = batch(40)
    majority = masks.float().mean(1)
    noise = torch.randn(majority.shape, generator=torch.Generator().manual_seed(1))
    tables = {}
    for name, amount in (("good", 0.1), ("fair", 0.6), ("poor", 2.0)):
        metric = SegmentationBounds(SCORES)
        metric.update(majority - 0.5 + amount * noise, masks, roi, names)
        tables[name] = metric.per_image()
    return tables


@pytest.mark.parametrize("main", ["error", "odds", "area_error"])
def test_tables_and_verdicts_rank_by_gain(main):
    from irrbench.analysis.results import Questions, build_results

    order = (main, *(score for score in SCORES if score != main))
    columns = simulated_tables()
    tables = {
        name: table[[c for c in table if not str(c).startswith(SCORES)]].join(
            table[[c for score in order for c in table if c == score or str(c).startswith(f"{score}_")]]
        )
        for name, table in columns.items()
    }
    found = build_results(tables, questions=Questions(margins={main: 0.01}))
    board = found.leaderboard
    models = board[board["role"] == "model"]
    best = models.loc[models["rank"] == 1, "name"].item()
    means = {name: float(table[main].mean()) for name, table in tables.items()}
    assert best == (max if record(main).higher_is_better else min)(means, key=means.get)
    unknown = board["role"].isin(["upper", "ceiling_of_two"])  # found for scores of votes alone
    assert board.loc[unknown, main].isna().all() == (main == "area_error")
    board = board[board[main].notna()]
    assert (board[f"{main}_low"] >= record(main).range[0]).all()
    assert (board[f"{main}_high"] <= record(main).range[1]).all()
    assert (board[f"{main}_low"] <= board[main]).all()
    assert (board[main] <= board[f"{main}_high"]).all()
    normalized = models.set_index("name")[f"{main}_normalized"]
    assert normalized["poor"] < normalized["good"]
    verdicts = found.verdicts
    rows = verdicts[verdicts["score"] == main].set_index("name")
    assert set(rows.index) == set(tables)
    text = " ".join(map(str, rows.loc["poor"].tolist())).lower()
    assert "inferior" in text or "inconclusive" in text or not pd.isna(rows.loc["poor"]).all()
