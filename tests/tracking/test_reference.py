from __future__ import annotations

import logging
import threading

import pandas as pd
import pytest
from pytorch_lightning.loggers import MLFlowLogger

from irrbench.tracking import Run, RunAddress
from irrbench.tracking.calls import describe_dataset
from irrbench.tracking.connection import StoredRun
from irrbench.tracking.reference_runs import ReferenceRuns

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # inside MLflow

NAN = float("nan")


def find(store, split="val", bounds_id="1f", sibling=None) -> ReferenceRuns:
    return ReferenceRuns.find_or_create(
        store.client, store.experiment_id, split=split, bounds_id=bounds_id, sibling=sibling
    )


def ids(pair: ReferenceRuns) -> tuple[str, str]:
    return pair.ceiling.run_id, pair.floor.run_id


def history(run: StoredRun, key: str) -> dict[int, float]:
    return {point.step: point.value for point in run.client.get_metric_history(run.run_id, key)}


def test_the_pair_looks_like_two_finished_runs_of_their_own(store) -> None:
    pair = find(store)
    for stored, name, role, colour in (
        (pair.ceiling, "average rater (ceiling)", "ceiling", "#000000"),
        (pair.floor, "naive rater (floor)", "floor", "#888888"),
    ):
        run = store.client.get_run(stored.run_id)
        assert (run.info.run_name, run.info.status) == (name, "FINISHED")
        assert run.data.tags["irrbench.role"] == role
        assert run.data.tags["mlflow.runColor"] == colour
        assert "mlflow.parentRunId" not in run.data.tags


def test_the_same_data_finds_the_same_pair(store) -> None:
    assert ids(find(store)) == ids(find(store, bounds_id="val:1f"))
    assert len(store.client.search_runs([store.experiment_id])) == 2


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_pair_whose_maker_was_killed_is_ended_by_whoever_finds_it(store, split) -> None:
    pair = find(store)
    for run_id in ids(pair):
        store.client.update_run(run_id, status="RUNNING")
    assert ids(find(store, split, "1f" if split == "val" else "9c", sibling="val:1f")) == ids(pair)
    assert {store.client.get_run(run_id).info.status for run_id in ids(pair)} == {"FINISHED"}


@pytest.mark.parametrize("other", ["2f", "1f0", "f", "1_"])
def test_other_data_gets_another_pair(store, other) -> None:
    assert not set(ids(find(store))) & set(ids(find(store, bounds_id=other)))


def test_a_digest_with_wildcard_characters_finds_only_itself(store) -> None:
    plain = find(store, bounds_id="1xf")
    assert ids(find(store, bounds_id="1_f")) != ids(plain)
    assert ids(find(store, bounds_id="1xf")) == ids(plain)


def test_test_split_joins_the_pair_of_its_validation_split(store) -> None:
    validation = find(store)
    test = find(store, split="test", bounds_id="9c", sibling="val:1f")
    assert ids(test) == ids(validation)
    assert store.client.get_run(test.floor.run_id).data.tags["irrbench.bounds_id"] == "val:1f test:9c"
    assert ids(find(store, split="test", bounds_id="9c")) == ids(validation)
    assert ids(find(store)) == ids(validation)


def test_loaders_of_one_split_share_a_pair(store) -> None:
    first = find(store, split="val/a")
    second = find(store, split="val/b", bounds_id="9c", sibling="val/a:1f")
    assert ids(first) == ids(second)
    second.log({"test/b/iou": 0.7, "val/b/iou": 0.6}, {"val/b/iou": 0.1}, last_step=3)
    assert (len(history(first.ceiling, "test/b/iou")), len(history(first.ceiling, "val/b/iou"))) == (1, 2)


def test_a_sibling_that_has_another_test_split_is_not_joined(store) -> None:
    find(store)
    first = find(store, split="test", bounds_id="9c", sibling="val:1f")
    second = find(store, split="test", bounds_id="aa", sibling="val:1f")
    assert not set(ids(first)) & set(ids(second))


def test_an_unknown_sibling_is_no_obstacle(store) -> None:
    pair = find(store, split="test", bounds_id="9c", sibling="val:unknown")
    assert store.client.get_run(pair.ceiling.run_id).data.tags["irrbench.bounds_id"] == "test:9c"


def test_a_deleted_run_is_made_anew_and_the_other_kept(store) -> None:
    before = find(store)
    store.client.delete_run(before.floor.run_id)
    after = find(store)
    assert after.ceiling.run_id == before.ceiling.run_id
    assert after.floor.run_id != before.floor.run_id


def test_trainings_that_find_no_bounds_at_the_same_time_make_one_pair(store, monkeypatch, read_together) -> None:
    """The second one does not even look until the first has made them."""
    found = []
    read_together("search_runs", 2)
    threads = [threading.Thread(target=lambda: found.append(ids(find(store)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    assert found == [ids(find(store))] * 2
    assert len(store.client.search_runs([store.experiment_id])) == 2


def test_of_two_pairs_made_at_once_everybody_uses_the_oldest(store) -> None:
    oldest = find(store)
    for role in ("ceiling", "floor"):
        twin = store.client.create_run(store.experiment_id, tags={"irrbench.role": role})
        store.client.set_tag(twin.info.run_id, "irrbench.bounds_id", "val:1f")
    assert ids(find(store)) == ids(oldest)


def test_an_id_that_would_break_the_search_is_refused(store) -> None:
    with pytest.raises(ValueError, match=r"letters, digits.*found \"val:1' or\""):
        find(store, bounds_id="1' or")


def test_validation_is_a_line_and_test_a_bar(store) -> None:
    pair = find(store)
    pair.log({"val/iou": 0.7, "test/iou": 0.6, "val/kappa": NAN}, {"val/iou": 0.1, "test/iou": 0.2}, last_step=9)
    assert history(pair.ceiling, "val/iou") == {0: 0.7, 9: 0.7}
    assert history(pair.floor, "val/iou") == {0: 0.1, 9: 0.1}
    assert history(pair.ceiling, "test/iou") == {0: 0.6}
    assert history(pair.ceiling, "val/kappa") == {}
    assert store.client.get_run(pair.ceiling.run_id).info.status == "FINISHED"


def test_the_line_has_a_point_at_the_end_of_every_training_once(store) -> None:
    pair = find(store)
    for last in (9, 4, 14, 9):
        pair.log({"val/iou": 0.7, "test/iou": 0.6}, {"val/iou": 0.1, "test/iou": 0.2}, last_step=last)
    assert len(store.client.get_metric_history(pair.ceiling.run_id, "val/iou")) == 4
    assert history(pair.ceiling, "val/iou") == {0: 0.7, 4: 0.7, 9: 0.7, 14: 0.7}
    assert len(store.client.get_metric_history(pair.ceiling.run_id, "test/iou")) == 1


def test_the_line_has_a_point_at_every_step_of_the_model(store) -> None:
    run = store.new_run()
    for step in (0, 1, 3, 7, 12):  # those of a training that was killed at 7 before its bounds were drawn so far
        run.log_scores({"val/site (A)/iou": 0.4}, step=step)
    run.log_bounds_line("val/site (A)", "1f", {"val/site (A)/iou": 0.7}, {"val/site (A)/iou": 0.1}, last_step=12)
    assert run.drain() == 0
    pair = find(store, split="val/site _A_")
    assert sorted(history(pair.floor, "val/site _A_/iou")) == [0, 1, 3, 7, 12]
    assert history(pair.ceiling, "val/site _A_/iou") == dict.fromkeys((0, 1, 3, 7, 12), 0.7)


def test_trainings_at_the_same_time_draw_and_name_the_bounds_once(store, tmp_path, monkeypatch, read_together) -> None:
    """Of two that find nothing at the same moment, the second one waits and sees what the first has written."""
    trainings = [Run(store.uri, store.new_run().address, tmp_path / f"spool{number}") for number in range(3)]
    read_together("get_metric_history", 3)
    for run in trainings:
        run.log_bounds("val", "1f", {"data": "lidc", "ties": "average"})
        run.log_bounds_line("val", "1f", {"val/iou": 0.7}, {"val/iou": 0.1}, last_step=8)
    assert [run.drain(limit=60) for run in trainings] == [0, 0, 0]
    monkeypatch.undo()
    pair = find(store)
    for one, name in ((pair.ceiling, "average"), (pair.floor, "naive")):
        points = store.client.get_metric_history(one.run_id, "val/iou")
        assert sorted(point.step for point in points) == [0, 8]
        assert store.client.get_run(one.run_id).info.run_name == f"{name} rater · lidc · ties average"


def test_a_training_of_one_epoch_gives_one_point(store) -> None:
    pair = find(store)
    pair.log({"val/iou": 0.7}, {"val/iou": 0.1}, last_step=0)
    assert history(pair.ceiling, "val/iou") == {0: 0.7}


def test_tables_lie_at_the_models_path(store) -> None:
    run = store.new_run()
    for role, x in (("ceiling", 0.7), ("floor", 0.1)):
        run.log_bounds_table("val", "1f", role, pd.DataFrame({"image": ["a", "b", "c"], "iou": [x, x, x]}))
    run.drain()
    pair = find(store)
    assert list(store.read_table(pair.ceiling.run_id, "val")["iou"]) == [0.7, 0.7, 0.7]
    assert list(store.read_table(pair.floor.run_id, "val")["iou"]) == [0.1, 0.1, 0.1]


def test_rules_are_parameters_and_description(store, caplog) -> None:
    pair = find(store)
    pair.log_rules({"ties": "negative", "val/n_images": 30})
    with caplog.at_level(logging.WARNING):
        pair.log_rules({"ties": "exclude", "test/n_images": 12})
    run = store.client.get_run(pair.floor.run_id)
    assert run.data.params == {"ties": "negative", "val/n_images": "30", "test/n_images": "12"}
    assert "- ties: exclude" in run.data.tags["mlflow.note.content"]
    assert "- val/n_images: 30" in run.data.tags["mlflow.note.content"]
    assert "MLflow keeps the first value of a parameter; of run" in caplog.text
    assert "ties (kept negative, now exclude)" in caplog.text


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_runs_of_lightnings_own_logger_are_ordinary_runs(store) -> None:
    logger = MLFlowLogger(tracking_uri=store.uri, experiment_name="from lightning")
    run = Run(store.uri, RunAddress(run_id=logger.run_id))
    run.set_role("model", bounds_id="val:1f")
    run.log_scores({"val/iou": 0.4}, step=2)
    run.drain()
    pair = ReferenceRuns.find_or_create(logger.experiment, logger.experiment_id, split="val", bounds_id="1f")
    pair.log({"val/iou": 0.7}, {"val/iou": 0.1}, last_step=2)
    names = {run.data.tags["irrbench.role"] for run in store.client.search_runs([logger.experiment_id])}
    assert names == {"model", "ceiling", "floor"}


def test_bounds_are_named_after_data_and_rules_and_carry_their_data(store) -> None:
    run = store.new_run()
    data = describe_dataset("nodules of two scanners", name="lidc", digest="d1")
    rules = {"data": "lidc", "ties": "average", "empty_reference": "drop", "val/n_images": 3}
    run.log_bounds("val", "1f", rules, data)
    run.log_bounds("val", "2f", {**rules, "ties": "negative", "empty_reference": "score"}, data)
    run.log_bounds("val", "3f", {**rules, "val/n_images": 4}, data)  # other images of the same name
    run.log_bounds("val", "1f", rules, data)
    assert run.drain() == 0
    found = store.client.search_runs([store.experiment_id], "tags.`irrbench.role` = 'ceiling'")
    assert sorted(run.info.run_name for run in found) == [
        "average rater · lidc · ties average",
        "average rater · lidc · ties average · 3f",
        "average rater · lidc · ties negative · empty references score",
    ]
    for one in store.client.search_runs([store.experiment_id], "tags.`irrbench.role` != 'model'"):
        (given,) = one.inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest, given.tags[0].value) == ("lidc", "d1", "val")


def test_bounds_of_the_version_before_get_a_name_and_their_data_and_a_users_name_stays(store) -> None:
    before = find(store)  # as it was made then: without a name of its own, without data
    store.client.update_run(before.floor.run_id, name="my floor")
    run = store.new_run()
    run.log_bounds("val", "1f", {"data": "lidc", "ties": "average"}, describe_dataset("x", name="lidc", digest="d1"))
    assert run.drain() == 0
    ceiling, floor = (store.client.get_run(run_id) for run_id in ids(before))
    assert (ceiling.info.run_name, floor.info.run_name) == ("average rater · lidc · ties average", "my floor")
    assert len(ceiling.inputs.dataset_inputs) == len(floor.inputs.dataset_inputs) == 1
    assert ids(find(store)) == ids(before)
