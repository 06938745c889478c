"""Benchmarks by scores of borders: tolerance and spacing from the configuration to leaderboard, report and MLflow."""

from __future__ import annotations

import itertools
import shutil

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist

from irrbench import mask_bounds
from irrbench.commands.checking import check
from irrbench.commands.loading import score_predictions, settle_tolerance
from irrbench.commands.raters import study_digest
from irrbench.config import ConfigError, FinishedConfig, RulesConfig, StudyOptions, load_config
from irrbench.data import DataError, load_folder, load_predictions
from irrbench.data.dataset import references
from irrbench.reliability import borders
from irrbench.tracking.store import RESULT_TAGS
from irrbench.training.cell import Tracking
from irrbench.training.results import load_cell
from tests.training.conftest import run_recorded, small_config
from tests.training.study import RATERS, disk, ids

SCORES = ["iou", "nsd", "hd95", "masd"]


def write_masks(folder, wider):
    folder.mkdir(parents=True)
    for image_id in [*ids("val"), *ids("test")]:
        np.save(folder / f"{image_id}.npy", disk(image_id, wider))
    return str(folder)


def finished(study, store, tmp_path, *, name="out", scores=SCORES, **changes):
    folders = {model: tmp_path / model for model in ("near", "far")}
    for model, wider in (("near", 0.5), ("far", 4.0)):
        if not folders[model].exists():
            write_masks(folders[model], wider)
    predictions = {model: str(folder) for model, folder in folders.items()}
    return run_recorded(small_config(study, tmp_path / name, store, predictions=predictions, scores=scores, **changes))


def runs_of(uri):
    client = mlflow.MlflowClient(uri)
    return client.search_runs([e.experiment_id for e in client.search_experiments()])


def the_run(uri, **tags):
    (found,) = [r for r in runs_of(uri) if all(r.data.tags.get(f"irrbench.{k}") == v for k, v in tags.items())]
    return found


@pytest.mark.parametrize(
    ("main", "changes", "unit"),
    [("nsd", {"rules.tolerance": "raters"}, "px"), ("hd95", {"folder.spacing": [2, 0.5]}, "mm")],
)
def test_finished_predictions(study, store, tmp_path, monkeypatch, main, changes, unit):
    monkeypatch.setattr(borders, "far_images", lambda *_: "one image decides the tolerance.")
    scores = [main, *(score for score in SCORES if score != main)]
    more = {"statistics.blind": True, "statistics.subgroups": ["group"], "statistics.failure": {"hd95": 1.5}}
    result = finished(study, store, tmp_path, scores=scores, **changes, **more)
    assert result.code == 0, result.text
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("name")
    models = board[board["role"] == "model"]
    assert models["rank"].to_dict() == {"near": 1, "far": 2}  # the least distance, or the most within the tolerance
    assert models.index.tolist() == ["near", "far"]
    assert (board[[f"{s}_low" for s in SCORES]].min() >= 0).all()
    assert 0 < models.loc["far", "hd95_normalized"] < models.loc["near", "hd95_normalized"]
    # The same by the function alone.
    test = load_folder(study, spacing=changes.get("folder.spacing")).split("test")
    settled, said, _ = settle_tolerance(result.config, load_folder(study))
    tolerance = settled.rules.tolerance
    for name, wider in (("near", 0.5), ("far", 4.0)):
        found = [
            mask_bounds(preds=preds[None], scores=SCORES, tolerance=tolerance, **references(test, i))
            for i, image_id in enumerate(test.image_ids)
            for preds in [torch.from_numpy(disk(image_id, wider))]
        ]
        for score in SCORES:
            mean = np.mean([bounds.model[score].item() for bounds in found])
            assert models.loc[name, score] == pytest.approx(mean)
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert "score over 1.5" in failures["failure"].tolist()
    words = {"nsd": f"NSD at {tolerance:.3g} {unit}", "hd95": f"HD95 in {unit}", "masd": f"MASD in {unit}"}
    report = (tmp_path / "out" / "report.html").read_text()
    figures = (tmp_path / "out" / "figures" / "scores.svg").read_text()
    assert all(title in report for title in words.values())
    assert {"px": "distances are in pixels", "mm": "of each image, in mm"}[unit] in report
    assert "(lower is better)" in figures
    text = " ".join(result.text.split())
    assert words[main] in text
    if main == "nsd":
        assert said in text
        assert "Caution: one image decides the tolerance." in text
        assert '<p class="caution" role="note">one image decides the tolerance.</p>' in report
        assert said.replace("'", "&#39;") in report
        assert "tolerance: raters" in (tmp_path / "out" / "config.yaml").read_text()
    written = (tmp_path / "out" / "config.yaml").read_text()
    assert written.startswith(f"# The tolerance of this run: {tolerance:g} {unit}\n")
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert board["tolerance"].tolist() == pytest.approx([tolerance] * len(board))
    assert set(board["distance_unit"]) == {unit}
    run = next(run for run in runs_of(store) if run.info.run_name == "near")
    assert run.data.metrics["test/hd95"] == pytest.approx(models.loc["near", "hd95"])
    assert run.data.tags[RESULT_TAGS[1]].endswith(" mm") == (main == "hd95")
    rules = the_run(store, role="ceiling").data.params
    spacing = {"px": "1 px", "mm": "of each image, in mm"}[unit]
    assert [rules[name] for name in ("spacing", "tolerance")] == [spacing, f"{tolerance:g} {unit}"]


def test_two_tolerances_never_share_reference_runs(study, store, tmp_path):
    data = load_folder(study)
    predictions = load_predictions(write_masks(tmp_path / "near", 0.5), data, split="test")
    for tolerance in (50.0, 60.0):  # so large that all scores are equal
        tracking, rules = Tracking(store, "tolerances", "#000000"), RulesConfig(tolerance=tolerance)
        options = {"scores": ("nsd",), "rules": rules, "tracking": tracking, "spool": tmp_path / "spool"}
        scored = score_predictions("near", predictions, **options)
        assert scored.table["nsd"].eq(1).all()
    ceilings = [run for run in runs_of(store) if run.data.tags.get("irrbench.role") == "ceiling"]
    assert sorted(run.info.run_name for run in ceilings) == [
        "average rater · study · ties average · tolerance 50 px",
        "average rater · study · ties average · tolerance 60 px",
    ]
    assert len({run.data.tags["irrbench.bounds_id"] for run in ceilings}) == 2
    assert len([run for run in runs_of(store) if run.info.run_name == "near"]) == 2


def test_the_raters_give_the_tolerance(study, store, tmp_path):
    gathered = []
    for image_id in ids("train"):
        masks = [disk(image_id, r - 1.0) for r in range(len(RATERS))]
        borders = [np.argwhere(mask & ~inner(mask)) for mask in masks]
        for one, other in itertools.permutations(range(3), 2):
            gathered += cdist(borders[one], borders[other]).min(1).tolist()
    expected = np.quantile(gathered, 0.95)
    config = small_config(study, tmp_path / "x", store, scores=["nsd"], **{"rules.tolerance": "raters"})
    settled, text, caution = settle_tolerance(config, load_folder(study))
    assert expected <= settled.rules.tolerance * (1 + 1e-6) < expected * 1.001
    assert text == (
        f"Tolerance {settled.rules.tolerance:g} px: the 95th percentile of the distances between raters' borders on 8 "
        "training images."
    )
    assert caution == ""


def inner(mask):
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def test_the_raters_give_no_tolerance_without_training_images(study, store, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(study, bare)
    (bare / "manifest.csv").unlink()
    config = small_config(bare, tmp_path / "out", store, scores=["nsd"], **{"rules.tolerance": "raters"})
    scored_on_all = load_config(
        None, changes={"scores": ["nsd"], "rules.tolerance": "raters", "predictions": {"a": "b"}}
    )
    with pytest.raises(ConfigError, match=r"takes the distances .* on the training images, and there is none"):
        settle_tolerance(scored_on_all, load_folder(bare))
    assert settle_tolerance(config, load_folder(bare))[0].rules.tolerance > 0  # a grid has splits by a hash
    unused = small_config(study, tmp_path / "out", store, scores=["iou"], **{"rules.tolerance": "raters"})
    assert settle_tolerance(unused, load_folder(study)) == (
        small_config(study, tmp_path / "out", store, scores=["iou"]),
        "",
        "",
    )


@pytest.mark.usefixtures("with_nets")
def test_a_training_keeps_the_epoch_of_least_distance(study, store, tmp_path):
    changes = {"scores": ["hd95", "nsd"], "models": [{"class_path": "tiny_nets.Net"}], "labels": ["majority"]}
    more = {"train.max_epochs": 4, "train.lr": 0.05, "folder.spacing": 0.3, "rules.tolerance": "raters"}
    result = run_recorded(small_config(study, tmp_path / "out", store, **changes, **more))
    assert result.code == 0, result.text
    (folder,) = (tmp_path / "out" / "cells").iterdir()
    cell = load_cell(folder.name, folder)
    assert cell.facts["best_epoch"] == cell.curve.set_index("epoch")["hd95"].idxmin()
    diagonal = 0.3 * np.hypot(32, 40)
    assert cell.table["hd95"].max() <= diagonal + 1e-6
    # What the training scored is what its masks score by the function.
    test = load_folder(study, spacing=0.3).split("test")
    tolerance = cell.facts["config"]["rules"]["tolerance"]
    assert isinstance(tolerance, float)
    table = cell.table.set_index("image_id")
    for i, image_id in enumerate(test.image_ids):
        mask = torch.from_numpy(cell.prediction(image_id))[None]
        bounds = mask_bounds(preds=mask, scores=["hd95", "nsd"], tolerance=tolerance, **references(test, i))
        for score in ("hd95", "nsd"):
            assert table.loc[image_id, score] == pytest.approx(bounds.model[score].item())
            assert table.loc[image_id, f"{score}_ceiling"] == pytest.approx(bounds.ceiling[score].item())


def test_another_spacing_is_another_cell_and_another_run_where_distances_are_measured(study):
    from irrbench.training.batches import data_digest, image_facts

    pixels, near, far = (load_folder(study, spacing=spacing) for spacing in (None, 0.3, 0.5))
    facts = image_facts(pixels)
    assert len({data_digest(data, facts, ["iou"]) for data in (pixels, near, far)}) == 1
    assert data_digest(pixels, facts, ["hd95"]) == data_digest(pixels, facts)
    assert len({data_digest(data, facts, ["iou", "hd95"]) for data in (pixels, near, far)}) == 3
    config = {scores: StudyOptions(scores=list(scores)) for scores in (("iou",), ("hd95",))}
    keys = {(scores, i): study_digest(d, c) for scores, c in config.items() for i, d in enumerate((pixels, near, far))}
    assert [len({keys[scores, i] for i in range(3)}) for scores in config] == [1, 3]


def test_a_threshold_is_chosen_by_distances(study, store, tmp_path):
    folder = tmp_path / "maps"
    folder.mkdir()
    for image_id in [*ids("val"), *ids("test")]:
        maps = [0.22 * disk(image_id, 8), 0.62 * disk(image_id, 0), 0.92 * disk(image_id, -3)]
        np.save(folder / f"{image_id}.npy", np.max(maps, axis=0).astype(np.float32))
    changes = {"predictions": {"maps": str(folder)}, "scores": ["hd95"], "finished": FinishedConfig("auto")}
    result = run_recorded(small_config(study, tmp_path / "out", store, **changes))
    assert result.code == 0, result.text
    assert "maps: threshold 0.5, the best on the validation images" in result.text


def test_mixed_spacings_are_refused_at_once_and_by_check(study, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(study, mixed)
    text = (mixed / "manifest.csv").read_text().splitlines()
    rows = [f"{row},{'mm' if not i else '' if i == 1 else 0.5}" for i, row in enumerate(text)]
    (mixed / "manifest.csv").write_text("\n".join(rows) + "\n")
    config = load_config(None, changes={"data": str(mixed), "folder.spacing": "mm", "scores": ["hd95"]})
    assert check(config) == 2
    with pytest.raises(DataError, match=r"spacing of train0: found .*; expected 1 or 2 lengths in mm"):
        run_recorded(config)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rules.tolerance", "0"], "rules.tolerance"),
        (["--rules.tolerance", "-1"], "rules.tolerance"),
        (["--rules.tolerance", "people"], "rules.tolerance"),
        (["--rules.lesion_iou", "0"], "rules.lesion_iou"),
        (["--rules.lesion_iou", "1.1"], "rules.lesion_iou"),
        (
            ["--scores", "[iou, nsd]", "--rules.ties", "exclude"],
            "leaves single pixels out of a .*, which nsd cannot",
        ),
        (
            ["--scores", "[ged, iou]"],
            "ged is of several samples an image",
        ),
        (["--scores", "[nsd, hd96]"], "found 'hd96'"),
    ],
)
def test_wrong_rules_are_refused_before_anything_is_read(flags, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, flags)


def test_rules_that_no_score_depends_on_change_no_key():
    rules = load_config(None, ["--rules.tolerance", "3", "--rules.lesion_iou", "0.5"]).rules
    plain = {"ties": "average", "empty_reference": "drop", "threshold": 0.5}
    assert rules.of(["iou", "hd95"]) == plain
    assert rules.of(["nsd"]) == plain | {"tolerance": 3.0}
    assert rules.of(["lesion_f1"]) == plain | {"lesion_iou": 0.5}
