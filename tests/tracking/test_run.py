from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

from irrbench.plots import MODEL_COLOURS
from irrbench.tracking import RunTracker, default_palette_colour, palette_beside

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # inside MLflow


@pytest.fixture
def tracker(store) -> RunTracker:
    return RunTracker(store.client, store.new_run())


def tags(tracker: RunTracker) -> dict[str, str]:
    return tracker.client.get_run(tracker.run_id).data.tags


def frame(*scores: float) -> pd.DataFrame:
    ids = [f"nodule{index}" for index in range(len(scores))]
    return pd.DataFrame({"name": "unet", "role": "model", "image_id": ids, "iou": scores, "f1": np.sqrt(scores)})


def test_scores_are_logged_at_their_step_and_undefined_ones_reported(tracker) -> None:
    skipped = tracker.log_scores({"val/iou": 0.5, "val/kappa": float("nan"), "val/f1": float("inf")}, step=7)
    assert skipped == ("val/kappa", "val/f1")
    (point,) = tracker.client.get_metric_history(tracker.run_id, "val/iou")
    assert (point.step, point.value) == (7, 0.5)
    assert set(tracker.client.get_run(tracker.run_id).data.metrics) == {"val/iou"}


def test_only_undefined_scores_send_nothing() -> None:
    assert RunTracker(client=None, run_id="none").log_scores({"val/iou": float("nan")}, step=0) == ("val/iou",)


def test_a_palette_beside_other_models_begins_with_free_colours(store) -> None:
    for name in ("unet", "fpn", "mine"):
        RunTracker(store.client, store.client.create_run(store.experiment_id, run_name=name).info.run_id).set_role(
            "model"
        )
    palette = palette_beside(store.client, store.experiment_id, ["mine"])
    assert palette == [*MODEL_COLOURS[2:], *MODEL_COLOURS[:2]]
    assert palette_beside(store.client, store.experiment_id, ["unet", "fpn", "mine"]) == list(MODEL_COLOURS)


def test_models_get_the_least_used_colour_and_keep_it(store) -> None:
    trackers = [RunTracker(store.client, store.new_run()) for _ in range(3)]
    for tracker in (*trackers, trackers[0]):
        tracker.set_role("model", bounds_id="val:1f")
    assert [tags(tracker)["mlflow.runColor"] for tracker in trackers] == [default_palette_colour(i) for i in range(3)]
    assert tags(trackers[0])["irrbench.role"] == "model"
    assert tags(trackers[0])["irrbench.bounds_id"] == "val:1f"


def test_a_given_colour_wins(tracker) -> None:
    tracker.set_role("model", colour="#123456")
    tracker.set_role("ceiling")
    assert tags(tracker)["mlflow.runColor"] == "#123456"


def test_reference_roles_have_fixed_colours(store) -> None:
    for role, colour in (("ceiling", "#000000"), ("floor", "#888888")):
        tracker = RunTracker(store.client, store.new_run())
        tracker.set_role(role)
        assert tags(tracker)["mlflow.runColor"] == colour


def test_an_unknown_role_is_refused(tracker) -> None:
    with pytest.raises(ValueError, match="expected a role out of model, ceiling, floor, upper, found 'roof'"):
        tracker.set_role("roof")


def test_per_image_table_is_replaced_not_appended(tracker, store) -> None:
    tracker.log_per_image("test", frame(0.1, 0.2, 0.3))
    tracker.log_per_image("test", frame(0.4, np.nan))
    table = store.read_table(tracker, "test")
    assert list(table.columns) == ["image", "iou", "f1"]
    assert list(table["image"]) == ["nodule0", "nodule1"]
    np.testing.assert_allclose(table["iou"].astype(float), [0.4, np.nan])
    parquet = pd.read_parquet(store.client.download_artifacts(tracker.run_id, "per_image/test.parquet"))
    assert list(parquet["iou"])[:1] == [0.4]
    assert json.loads(tags(tracker)["mlflow.loggedArtifacts"]) == [{"path": "per_image/test.json", "type": "table"}]


def test_each_loader_of_a_split_has_its_table(tracker, store) -> None:
    for loader, score in (("a", 0.1), ("b", 0.2)):
        tracker.log_per_image(f"val/{loader}", frame(score))
    assert [store.read_table(tracker, f"val/{loader}")["iou"].item() for loader in "ab"] == [0.1, 0.2]


def test_a_table_without_image_ids_is_refused(tracker) -> None:
    with pytest.raises(ValueError, match=r"column 'image'.*found \['iou'\]"):
        tracker.log_per_image("test", pd.DataFrame({"iou": [0.1]}))


def test_panels_are_kept_by_key_and_step(tracker) -> None:
    tracker.log_panel("val/nodule 1", np.full((5, 7, 3), 200, dtype=np.uint8), step=3)
    names = [file.path for file in tracker.client.list_artifacts(tracker.run_id, "images")]
    assert any("step+3" in name and name.endswith(".png") for name in names)


@pytest.mark.parametrize("picture", [np.zeros((5, 7, 3)), np.zeros((5, 7), dtype=np.uint8)])
def test_a_panel_that_is_no_picture_is_refused(tracker, picture) -> None:
    with pytest.raises(ValueError, match=r"uint8 picture of shape \(height, width, 3\), found"):
        tracker.log_panel("val/nodule1", picture, step=0)


def test_config_file_and_figure_are_artifacts(tracker, tmp_path) -> None:
    tracker.log_config({"model": {"encoder": "resnet18"}, "seed": 1})
    (tmp_path / "report.html").write_text("<p>")
    tracker.log_file(tmp_path / "report.html", "report")
    tracker.log_figure(Figure(), "figures/band.png")
    config = tracker.client.download_artifacts(tracker.run_id, "config.yaml")
    assert yaml.safe_load(Path(config).read_text()) == {"model": {"encoder": "resnet18"}, "seed": 1}
    found = [
        file.path for folder in ("report", "figures") for file in tracker.client.list_artifacts(tracker.run_id, folder)
    ]
    assert found == ["report/report.html", "figures/band.png"]


def test_data_sets_are_listed_with_split_and_a_digest_that_fits(tracker) -> None:
    tracker.log_dataset(frame(0.1, 0.2), name="nodules", digest="a" * 64, split="val")
    tracker.log_dataset({"raters": 4, "images": "rendered"}, name="nodules", digest="b1", split="test")
    inputs = {item.tags[0].value: item.dataset for item in tracker.client.get_run(tracker.run_id).inputs.dataset_inputs}
    assert json.loads(inputs["val"].profile)["num_rows"] == 2
    assert len(inputs["val"].digest) == 36
    assert inputs["test"].digest == "b1"
    assert json.loads(inputs["test"].source) == {"raters": 4, "images": "rendered"}


def test_finish_sets_the_status(tracker) -> None:
    tracker.finish("FAILED")
    assert tracker.client.get_run(tracker.run_id).info.status == "FAILED"
