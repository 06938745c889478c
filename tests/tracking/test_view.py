from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from irrbench.scores import SCORES as SCORES_BY_NAME
from irrbench.tracking import Run, save_chart_view
from irrbench.tracking.calls import metrics
from irrbench.tracking.charts import chart_keys, decode, encode, view_state, with_doses
from irrbench.tracking.files import parse_name
from irrbench.tracking.reference_runs import ReferenceRuns
from irrbench.tracking.view import MAX_TAG, drawn_scores, linked_note

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # inside MLflow

TAG = "mlflow.sharedViewState.irrbench"
SCORES = ("iou", "f1")


def saved(store) -> dict:
    return decode(store.client.get_experiment(store.experiment_id).tags[TAG])


def log_model(store, *splits: str) -> Run:
    run = store.new_run()
    run.set_role("model")
    run.log_scores({f"{split}/{score}": 0.5 for split in splits for score in SCORES} | {"val/loss": 1.0}, step=0)
    assert run.drain() == 0
    return run


def test_main_score_leads_then_test_then_validation(store) -> None:
    log_model(store, "val", "test")
    assert save_chart_view(store.client, store.experiment_id, scores=SCORES)
    state = saved(store)
    charts = [(chart["type"], chart["metricKey"]) for chart in state["compareRunCharts"]]
    assert charts == [("BAR", "test/iou"), ("BAR", "test/f1"), ("LINE", "val/iou"), ("LINE", "val/f1")]
    assert [section["name"] for section in state["compareRunSections"]] == [
        "iou between floor and ceiling",
        "test",
        "val",
    ]
    headline = [chart["metricKey"] for chart in state["compareRunCharts"] if "floor" in chart["metricSectionId"]]
    assert headline == ["test/iou", "val/iou"]
    assert state["runsHiddenMode"] == "SHOW_ALL"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`test/iou`", False)


def test_every_chart_has_its_section_and_a_name_of_its_own(store) -> None:
    log_model(store, "val", "test")
    save_chart_view(store.client, store.experiment_id, scores=SCORES)
    state = saved(store)
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == len(state["compareRunCharts"])


def test_without_a_test_runs_are_ordered_by_validation(store) -> None:
    log_model(store, "val")
    save_chart_view(store.client, store.experiment_id, scores=SCORES)
    assert saved(store)["orderByKey"] == "metrics.`val/iou`"
    assert {chart["type"] for chart in saved(store)["compareRunCharts"]} == {"LINE"}


def test_a_later_validation_keeps_the_test_charts(store) -> None:
    log_model(store, "val", "test")
    save_chart_view(store.client, store.experiment_id, scores=SCORES)
    log_model(store, "val")
    save_chart_view(store.client, store.experiment_id, scores=SCORES)
    assert saved(store)["orderByKey"] == "metrics.`test/iou`"


def test_an_experiment_without_scores_gets_a_view_all_the_same(store) -> None:
    assert save_chart_view(store.client, store.experiment_id)
    assert saved(store)["compareRunCharts"] == []


def test_pictures_open_at_the_step_that_most_runs_share(store) -> None:
    picture = np.zeros((4, 6, 3), dtype=np.uint8)
    for last in (5, 9):
        run = log_model(store, "val")
        for step in (2, 5, last):
            run.log_panel("val/nodule1", picture, step=step)
        assert run.drain() == 0
    save_chart_view(store.client, store.experiment_id, scores=SCORES)
    (card,) = [chart for chart in saved(store)["compareRunCharts"] if chart["type"] == "IMAGE"]
    assert (card["imageKeys"], card["step"]) == (["val/nodule1"], 5)


def test_other_files_among_the_pictures_are_passed_over() -> None:
    assert parse_name("images/notes.txt") is None
    assert parse_name("images/a#b%step%3%timestamp%1%x.png") == ("a/b", 3)


def test_runs_are_ordered_by_what_is_better() -> None:
    assert view_state(["test/iou"], "iou", {})["orderByAsc"] is False
    lower = replace(SCORES_BY_NAME["iou"], name="error", higher_is_better=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCORES_BY_NAME, "error", lower)
        assert view_state(["test/error/site1"], "error", {})["orderByAsc"] is True


def test_scores_are_found_in_keys_with_a_loaders_name() -> None:
    keys = ["val/iou/site2", "val/iou/site1", "val/loss", "epoch", "train/iou", "test/f1", "val/iou_floor"]
    assert chart_keys(keys, SCORES) == ["test/f1", "val/iou/site1", "val/iou/site2", "train/iou"]


def test_state_survives_the_tag() -> None:
    state = view_state(["test/iou", "val/iou"], "iou", {"val/ä": 3})
    assert decode(encode(state)) == state
    assert encode(state).startswith("deflate;")


def test_a_view_too_large_for_the_tag_keeps_the_first_charts(store) -> None:
    run = store.new_run()
    run.set_role("model")
    noise = np.random.default_rng(0)
    run.log_scores({f"val/iou/{noise.bytes(60).hex()}": 0.5 for _ in range(400)} | {"test/iou": 0.4}, step=0)
    assert run.drain() == 0
    assert save_chart_view(store.client, store.experiment_id)
    tag = store.client.get_experiment(store.experiment_id).tags[TAG]
    assert len(tag) <= MAX_TAG
    assert decode(tag)["compareRunCharts"][0]["metricKey"] == "test/iou"


def test_note_starts_with_the_link_and_keeps_the_users_words(store) -> None:
    store.client.set_experiment_tag(store.experiment_id, "mlflow.note.content", "My words.\n\nMore.")
    for _ in range(2):
        save_chart_view(store.client, store.experiment_id)
    note = store.client.get_experiment(store.experiment_id).tags["mlflow.note.content"]
    assert note.count("viewStateShareKey=irrbench") == 1
    first, blank, *rest = note.split("\n")
    assert f"](#/experiments/{store.experiment_id}/runs?" in first
    assert (blank, rest) == ("", ["My words.", "", "More."])


def test_note_moves_the_link_up_when_words_were_put_above_it() -> None:
    link = linked_note("", "1")
    assert linked_note(f"Above.\n{link}\nBelow.", "1") == f"{link}\n\nAbove.\nBelow."


def test_a_store_that_fails_costs_a_warning_only(caplog) -> None:
    class Broken:
        def search_runs(self, *args: object, **options: object) -> list:
            raise OSError("disk full")

    with caplog.at_level(logging.WARNING):
        assert not save_chart_view(Broken(), "1")
    assert "could not save the chart view of experiment 1: disk full" in caplog.text


@pytest.mark.parametrize("role", ["ceiling", "floor"])
def test_reference_runs_alone_give_charts_too(store, role) -> None:
    pair = ReferenceRuns.find_or_create(store.client, store.experiment_id, split="val", bounds_id="1f")
    metrics(getattr(pair, role), values={"val/iou": 0.5}, step=0)
    save_chart_view(store.client, store.experiment_id)
    assert [chart["metricKey"] for chart in saved(store)["compareRunCharts"]] == ["val/iou"]


def test_tables_show_the_model_between_its_bounds() -> None:
    columns = view_state(["test/iou"], "iou", {})["selectedColumns"]
    assert columns[:4] == [f"tags.`irrbench.{name}`" for name in ("floor", "model", "ceiling", "normalized")]


def test_charts_that_say_nothing_are_hidden_and_losses_stay(store) -> None:
    run = store.new_run()
    run.set_role("model")
    shown = {"val/iou": 0.5, "val/loss": 1.0, "train/loss": 2.0}
    run.log_scores({**shown, "val/n_images": 3, "val/iou_normalized": 0.5, "val/iou_floor": 0.1, "epoch": 1}, step=0)
    assert run.drain() == 0
    save_chart_view(store.client, store.experiment_id, scores=SCORES)
    charts = saved(store)["compareRunCharts"]
    hidden = {(chart["metricKey"], chart["type"]) for chart in charts if chart["deleted"] and chart["isGenerated"]}
    keys = ("val/n_images", "val/iou_normalized", "val/iou_floor", "epoch")
    assert hidden == {(key, kind) for key in keys for kind in ("BAR", "LINE")}
    assert [chart["metricKey"] for chart in charts if not chart["deleted"]] == ["val/iou"]


def test_forty_models_get_a_higher_card_for_their_bars() -> None:
    heights = [view_state(["test/iou"], "iou", {}, runs=n)["compareRunSections"][0]["cardHeight"] for n in (5, 40)]
    assert heights == [400, 1070]


def test_floor_and_ceiling_stay_where_the_page_does_not_load_all_runs(store, monkeypatch) -> None:
    for number in range(3):
        run = log_model(store, "val")
        run.join_bounds("val", "1f")
        run.log_bounds("val", "1f", {"data": "lidc", "ties": "average"})
        assert run.drain() == 0, number
    save_chart_view(store.client, store.experiment_id, scores=SCORES)
    assert saved(store)["orderByKey"] == "metrics.`val/iou`"
    monkeypatch.setattr("irrbench.tracking.view.SHOWN_RUNS", 4)
    monkeypatch.setattr("irrbench.tracking.view.MAX_RUNS", 2)  # the bounds are older than the latest models
    save_chart_view(store.client, store.experiment_id, scores=SCORES)
    assert saved(store)["orderByKey"] == "metrics.`val/iou`"
    monkeypatch.setattr("irrbench.tracking.view.SHOWN_RUNS", 3)
    save_chart_view(store.client, store.experiment_id, scores=SCORES)
    order = f"{saved(store)['orderByKey']} ASC"
    assert saved(store)["orderByAsc"]
    first = store.client.search_runs([store.experiment_id], order_by=[order], max_results=3)
    assert [run.data.tags["irrbench.role"] for run in first] == ["ceiling", "floor", "model"]


def test_sections_say_unit_tolerance_and_direction(store) -> None:
    run = log_model(store, "test")
    run.log_scores({"test/hd95": 4.0, "test/nsd": 0.8}, step=0)
    run.join_bounds("test", "1f")
    run.log_bounds("test", "1f", {"data": "lidc", "spacing": "0.7 x 0.7 mm", "tolerance": "2 mm"})
    assert run.drain() == 0
    save_chart_view(store.client, store.experiment_id, scores=(*SCORES, "hd95", "nsd"))
    sections = {section["name"]: section["columns"] for section in saved(store)["compareRunSections"]}
    remarks = "hd95 in mm (lower is better), nsd at 2 mm"
    assert sections == {"iou between floor and ceiling": 1, "test": 1, f"test: {remarks}": 2}
    state = view_state(["test/hd95", "val/hd95"], "hd95", {}, options={"spacing": "1 units of spacing"})
    (section,) = state["compareRunSections"]
    assert section["name"] == "hd95 in units of spacing (lower is better) between floor and ceiling"
    assert state["orderByAsc"]


def test_charts_that_mlflow_makes_itself_fill_the_rows() -> None:
    keys = ["test/iou", "val/iou", "val/f1"]
    columns = {
        len(own): view_state(keys, "iou", {}, logged=[*keys, *own])["compareRunSections"][-1]["columns"]
        for own in ([], ["val/loss"], ["val/loss", "val/lr"], ["val/n_images"] * 4)
    }
    assert columns == {0: 1, 1: 2, 2: 3, 4: 1}


@pytest.mark.parametrize("tag", ["", "deflate;eJw", "deflate;!", "words"])
def test_a_broken_view_has_no_scores(tag) -> None:
    assert drawn_scores(tag) == ()


def test_a_run_without_scores_keeps_the_main_score_of_the_view(store) -> None:
    log_model(store, "val", "test")
    save_chart_view(store.client, store.experiment_id, scores=("f1", "iou"))
    before = saved(store)
    study = store.new_run("raters")
    study.set_role("model")
    study.set_tags({"irrbench.role": "reliability"})
    study.log_scores({"reliability/alpha": 0.5, "reliability/alpha_se": 0.1}, step=0)
    study.save_first_view()
    assert study.drain() == 0
    after = saved(store)
    assert after["orderByKey"] == before["orderByKey"] == "metrics.`test/f1`"
    assert [chart["metricKey"] for chart in after["compareRunCharts"] if chart["deleted"]] == [
        "reliability/alpha_se"
    ] * 2


def test_names_with_brackets_break_no_link(store) -> None:
    once = linked_note("My words.", "1", {"Charts: a [b]\nc": "irrbench-1f"})
    assert once.startswith("[Charts: a (b) c](#/")
    assert linked_note(once, "1", {"Charts: a [b]\nc": "irrbench-1f"}) == once


def test_data_sets_and_rules_of_one_experiment_have_views_of_their_own(store) -> None:
    names = [("lidc", "average"), ("lidc", "negative"), ("eczema", "average")]
    for number, (data, ties) in enumerate(names):
        run = log_model(store, "val")
        run.join_bounds("val", f"{number}f")
        run.log_bounds("val", f"{number}f", {"data": data, "ties": ties})
        assert run.drain() == 0
        save_chart_view(store.client, store.experiment_id, scores=SCORES)
        views = [key for key in store.client.get_experiment(store.experiment_id).tags if "sharedViewState" in key]
        assert len(views) == (1 if number == 0 else number + 3)
    tags = store.client.get_experiment(store.experiment_id).tags
    own = decode(tags["mlflow.sharedViewState.irrbench-1f"])
    assert own["searchFilter"] == "tags.`irrbench.bounds_id` LIKE '%val:1f%'"
    found = store.client.search_runs([store.experiment_id], own["searchFilter"])
    assert sorted(run.data.tags["irrbench.role"] for run in found) == ["ceiling", "floor", "model"]
    note = tags["mlflow.note.content"].splitlines()
    assert [line.partition("](")[0] for line in note[1:]] == [
        "- [Charts: eczema · ties average",
        "- [Charts: lidc · ties average",
        "- [Charts: lidc · ties negative",
        "- [Charts: all data sets and rules",
    ]
    latest, everything = saved(store), decode(tags["mlflow.sharedViewState.irrbench-all"])
    assert note[0].startswith("[Charts: models between naive rater and average rater (eczema · ties average)](")
    assert latest["searchFilter"] == "tags.`irrbench.bounds_id` LIKE '%val:2f%'"
    assert everything["searchFilter"] == ""
    store.client.set_experiment_tag(store.experiment_id, "mlflow.note.content", "\n".join([*note, "", "My words."]))
    save_chart_view(store.client, store.experiment_id, scores=SCORES)
    again = store.client.get_experiment(store.experiment_id).tags["mlflow.note.content"]
    assert again.splitlines() == [*note, "", "My words."]


def test_a_view_without_noise_is_what_it_was(store) -> None:
    logged = ["test/iou", "val/iou", "val/iou_normalized", "train/iou", "train/loss", "epoch"]
    state = view_state(chart_keys(logged, SCORES), "iou", {})
    assert with_doses(state, logged, "iou") is state
    log_model(store, "val", "test")
    save_chart_view(store.client, store.experiment_id, scores=SCORES)
    tags = store.client.get_experiment(store.experiment_id).tags
    keys = ["test/iou", "test/f1", "val/iou", "val/f1"]
    assert [key for key in tags if "sharedViewState" in key] == [TAG]
    assert tags[TAG] == encode(view_state(keys, "iou", {}, runs=1, logged=[*keys, "val/loss"]))


def test_a_grid_that_is_still_running_shows_a_dot_for_each_model(store) -> None:
    for dose, value in ((0.0, 0.7), (2.0, 0.6)):
        run = log_model(store, "val")
        run.log_scores({"test/iou": value, "noise/dose": dose}, step=0)
        assert run.drain() == 0
    save_chart_view(store.client, store.experiment_id, scores=SCORES)
    first, *others = saved(store)["compareRunCharts"]
    assert (first["type"], first["runsCountToCompare"]) == ("SCATTER", 100)
    assert first["metricSectionId"] == saved(store)["compareRunSections"][0]["uuid"]
    assert saved(store)["orderByKey"] == "metrics.`test/iou`"
    assert "SCATTER" not in {chart["type"] for chart in others}


def test_labels_that_are_learnt_by_heart_are_a_line_beside_the_main_score() -> None:
    keys = chart_keys(["train/iou_noise_fit", "train/iou_label", "train/f1_noise_fit", "train/iou", "val/iou"], SCORES)
    assert keys == ["val/iou", "train/iou", "train/iou_noise_fit"]
    state = view_state(keys, "iou", {})
    assert {(chart["type"], chart["metricSectionId"]) for chart in state["compareRunCharts"]} == {
        ("LINE", "irrbench-iou-between-floor-and-ceiling")
    }
    assert state["orderByKey"] == "metrics.`val/iou`"
