"""One model's run and its bounds, whatever its loaders are called and however often it is scored."""

from __future__ import annotations

import getpass
import shutil
import subprocess

import pytest
import torch

from irrbench.evaluation import Evaluator, MLflowSink

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # inside MLflow


def score(sink, *splits, seed=0, shift=0, **options) -> dict[str, float]:
    g = torch.Generator().manual_seed(seed)
    masks = torch.rand(5, 3, 6, 7, generator=g) < 0.5
    values = {}
    for number, split in enumerate(splits):
        evaluator = Evaluator(split, sinks=[sink], scores=["iou"], from_logits=False, num_panels=1, **options)
        image = torch.rand(5, 1, 6, 7, generator=g)
        ids = [f"{split}{i}" for i in range(5)]
        evaluator.update(masks[:, 0].roll(shift, 1), masks.roll(number, 2), image_id=ids, image=image)
        values |= evaluator.finish(0)
        evaluator.close(0)
    sink.close()
    return values


def roles(store) -> dict[str, list]:
    found: dict[str, list] = {}
    for run in store.client.search_runs([store.experiment_id]):
        found.setdefault(run.data.tags.get("irrbench.role", ""), []).append(run)
    return found


def test_odd_names_of_loaders_cost_nobody_anything(store, tmp_path, caplog) -> None:
    spool = tmp_path / "spool"
    loaders = ["val/plain", "val/site A (2019)", "val/site A [2019]", "val/a:b", "val/..", "val/" + "x" * 400]
    values = score(MLflowSink.new_run(store.uri, "nodules", data_name="lidc"), *loaders)
    found = roles(store)
    assert {role: len(runs) for role, runs in found.items()} == {"model": 1, "ceiling": 1, "floor": 1}
    model, ceiling, floor = (found[role][0].data for role in ("model", "ceiling", "floor"))
    keys = sorted(key for key in model.metrics if key.endswith("/iou"))
    assert len(keys) == len(loaders)
    assert model.metrics["val/plain/iou"] == values["val/plain/iou"]
    assert model.metrics["val/site A _2019_/iou"] == values["val/site A (2019)/iou"]
    for bounds, name in ((ceiling, "ceiling"), (floor, "floor")):
        assert sorted(bounds.metrics) == keys
        assert bounds.metrics["val/site A _2019_/iou"] == pytest.approx(values[f"val/site A (2019)/iou_{name}"])
        assert bounds.tags["irrbench.bounds_id"] == model.tags["irrbench.bounds_id"]
    assert len(model.tags["irrbench.bounds_id"].split()) == len(loaders)
    said = [r.getMessage() for r in caplog.records if "MLflow does not take the name" in r.getMessage()]
    assert len(said) == 4
    assert "what it has there is called 'val/site A _2019_'" in said[0]
    assert not [r for r in caplog.records if "never will" in r.getMessage()]
    assert not spool.exists()


def test_tables_show_the_test_between_its_bounds_with_three_digits(store) -> None:
    values = score(MLflowSink.new_run(store.uri, "nodules", data_name="lidc"), "val", "test", "val")
    tags = roles(store)["model"][0].data.tags
    wanted = {"floor": "test/iou_floor", "model": "test/iou", "ceiling": "test/iou_ceiling"}
    assert {name: tags[f"irrbench.{name}"] for name in wanted} == {k: f"{values[v]:.3f}" for k, v in wanted.items()}
    assert (tags["irrbench.score"], tags["irrbench.bounds"]) == ("test/iou", "lidc · ties average")


def test_of_several_loaders_tables_show_the_first_and_test_before_validation(store) -> None:
    sink = MLflowSink.new_run(store.uri, "nodules")
    shown = []
    for split in ("val/a", "val/b", "test/a", "test/b", "val/a"):
        score(sink, split)
        shown.append(store.client.get_run(sink.run.run_id).data.tags["irrbench.score"])
    assert shown == ["val/a/iou", "val/a/iou", "test/a/iou", "test/a/iou", "test/a/iou"]


def test_a_data_set_is_the_same_whatever_the_rules(store) -> None:
    for ties in ("average", "negative"):
        score(MLflowSink.new_run(store.uri, "nodules", data_name="lidc"), "test", ties=ties)
    score(MLflowSink.new_run(store.uri, "nodules", data_name="eczema"), "test", seed=1)
    found = roles(store)
    inputs = {run.info.run_name: run.inputs.dataset_inputs[0].dataset for runs in found.values() for run in runs}
    assert len({data.digest for data in inputs.values()}) == 2
    assert len(found["ceiling"]) == len(found["floor"]) == 3
    assert inputs["average rater · lidc · ties negative"].digest == inputs["naive rater · lidc · ties average"].digest


def test_a_run_with_a_key_is_written_again_unless_it_was_deleted(store) -> None:
    def again(shift=0):
        sink = MLflowSink.new_run(store.uri, "nodules", name="unet", key="k1", data_name="lidc")
        return score(sink, "test", shift=shift), sink.run.run_id

    _, first = again()
    pictures = sorted(file.path for file in store.client.list_artifacts(first, "images"))
    values, second = again()
    assert first == second
    assert sorted(file.path for file in store.client.list_artifacts(first, "images")) == pictures
    assert {role: len(runs) for role, runs in roles(store).items()} == {"model": 1, "ceiling": 1, "floor": 1}
    run = store.client.get_run(first)
    assert (run.data.metrics["test/iou"], run.info.status) == (values["test/iou"], "FINISHED")
    assert [len(store.client.get_metric_history(first, key)) for key in ("test/iou", "test/n_images")] == [1, 1]
    store.client.delete_run(first)
    _, third = again()
    assert third != first
    assert [run.info.run_id for run in roles(store)["model"]] == [third]


@pytest.mark.skipif(shutil.which("git") is None, reason="no git on this machine")
def test_a_run_says_how_it_was_made_and_no_password(store, tmp_path, monkeypatch) -> None:
    for command in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "c", "--allow-empty"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr("sys.argv", ["/bin/irrbench", "benchmark", "--tracking-uri", "http://me:secret@host:5000"])
    sink = MLflowSink.new_run(store.uri, "nodules", tags={"irrbench.predictions": "/data/unet"})
    score(sink, "test")
    (run,) = roles(store)["model"]
    tags = run.data.tags
    assert run.info.user_id == tags["mlflow.user"] == getpass.getuser()  # what MLflow's pages show as its user
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert tags["irrbench.predictions"] == "/data/unet"
    assert tags["irrbench.command"] == "irrbench benchmark --tracking-uri http://PASSWORD@host:5000"
    assert len(tags["mlflow.source.git.commit"]) == len(commit.stdout.strip())
