"""The command line: messages, exit codes, files, MLflow."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from irrbench._files import read_frame
from irrbench.commands import ConfigError
from irrbench.commands.raters import log_study, metrics_of, study_digest
from irrbench.config import ReliabilityConfig, StudyOptions, load_study_config
from irrbench.data import load_folder
from irrbench.tracking import Run, open_store
from irrbench.tracking.charts import AGREEMENT, decode
from irrbench.tracking.run import log_reliability
from irrbench.tracking.spool import sessions
from irrbench.tracking.store import NOTE_TAG, VIEW_KEY, VIEW_TAG
from irrbench.tracking.view import update_chart_view
from tests.training.study import ids, save, write_study

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:sqlalchemy")
SCRIPT = Path(__file__).parents[2] / "scripts" / "reliability.py"
CONFIG = Path(__file__).parents[2] / "configs" / "reliability.yaml"
QUICKLY = ["--study.cells", "[3]", "--study.quadrature", "false", "--study.resamples", "20", "--study.min_images", "2"]
EVIL = "<script>alert('&')</script>"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("reliability_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = write_study(tmp_path_factory.mktemp("data") / "toy")
    for image_id in ids("test"):
        mask = np.zeros((32, 40), np.uint8)
        mask[8:20, 10:22] = 255
        save(root / "masks" / "anna@2" / f"{image_id}.png", mask)
    manifest = pd.read_csv(root / "manifest.csv")
    manifest.assign(age=np.arange(len(manifest)) * 1.5, site=[EVIL, "B"] * (len(manifest) // 2)).to_csv(
        root / "manifest.csv", index=False
    )
    return root


@pytest.fixture(scope="module")
def done(script, folder, tmp_path_factory):
    """One run of the command for all tests that only look at what it left."""
    place = tmp_path_factory.mktemp("run")
    uri = f"sqlite:///{place / 'mlflow.db'}"
    flags = [
        "--data",
        str(folder),
        "--output",
        str(place / "out"),
        "--tracking-uri",
        uri,
        "--covariates",
        "age",
        "site",
    ]
    assert script.main([*flags, *QUICKLY]) == 0
    return place


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["--study.cell", "[3]"], "unknown flag '--study.cell'. Did you mean '--study.cells'?"),
        (["--study.resamples", "some"], "study.resamples"),
        (["toy"], "expected flags, found 'toy'"),
        (["--data", "nowhere"], "nowhere: found nothing; expected a data folder"),
        (
            ["--exclude-below", "0.99"],
            "study: exclude_below and exclude_above must be 0 <= exclude_below < exclude_above",
        ),
        (["--targets", "1.5"], "study: targets and level must lie between 0 and 1, found targets [1.5]"),
        (["--workers", "0"], "workers must be a whole number of 1 or more; found '0'"),
    ],
)
def test_bad_usage_is_one_message_and_code_2(script, capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert script.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("reliability: ")
    assert message in error
    assert "Traceback" not in error


def test_unknown_covariates_are_named_with_the_columns(script, capsys, folder, tmp_path):
    flags = ["--data", str(folder), "--output", str(tmp_path), "--tracking-uri", "none", "--covariates", "agee"]
    assert script.main([*flags, *QUICKLY]) == 2
    assert "no column 'agee' in the manifest; its columns are split, group, age, site" in capsys.readouterr().err


def test_the_terminal_says_once_that_repeats_are_copies_and_that_an_image_is_left_out(script, capsys, tmp_path):
    root = write_study(tmp_path / "toy")
    shutil.copytree(root / "masks" / "anna", root / "masks" / "anna@2")
    for mask in (root / "masks").glob(f"*/{ids('train')[0]}.png"):
        save(mask, np.zeros((32, 40), np.uint8))
    flags = ["--data", str(root), "--output", str(tmp_path / "out"), "--tracking-uri", "none"]
    assert script.main([*flags, *QUICKLY]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("anna@2 is equal to anna on 15 of 15 marked images") == 1
    assert said.count(" of 16 images left out: ") == 1


def test_nothing_left_is_code_2_with_the_remedy(script, capsys, folder, tmp_path):
    flags = ["--data", str(folder), "--output", str(tmp_path), "--tracking-uri", "none", "--exclude-below", "0.9"]
    assert script.main([*flags, *QUICKLY]) == 2
    assert "no image to study (16 of 16 images left out" in capsys.readouterr().err


def test_a_store_that_cannot_be_opened_is_code_2_before_anything_is_measured(script, capsys, folder, tmp_path):
    flags = ["--data", str(folder), "--output", str(tmp_path), "--tracking-uri", "nonsense://x"]
    assert script.main([*flags, *QUICKLY]) == 2
    said = capsys.readouterr().err
    assert "tracking_uri: expected the address of an MLflow store, found 'nonsense://x'" in said
    assert "db upgrade" not in said


def test_check_lists_problems(script, capsys, folder, tmp_path):
    assert script.main(["--check", "--data", str(folder)]) == 0
    root = write_study(tmp_path / "broken")
    save(root / "masks" / "anna@2" / "test0.png", np.zeros((3, 4), np.uint8))
    assert script.main(["--check", "--data", str(root)]) == 2
    assert "anna@2/test0.png" in capsys.readouterr().out.replace("\n", "")


def test_configuration_file_states_the_defaults():
    assert load_study_config(CONFIG) == ReliabilityConfig()


def test_unknown_key_in_yaml_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("study: {exclude_belo: 0}\n")
    with pytest.raises(ConfigError, match=r"unknown key 'exclude_belo'\. Did you mean 'exclude_below'\?"):
        load_study_config(tmp_path / "c.yaml")


def test_everything_is_left_behind(done):
    output = done / "out"
    written = {"report.html", "config.yaml", "results.json", "tables", "figures"}
    assert {path.name for path in output.iterdir()} == written
    record = json.loads((output / "results.json").read_text(), parse_constant=pytest.fail)
    assert (record["format"], record["kind"]) == (1, "reliability")
    assert {"data", "options", "measures", "tables"} <= record.keys()
    tables = {path.stem for path in (output / "tables").iterdir()}
    assert {"measures", "across_images", "joint", "scores", "raters", "leave_one_out", "per_image"} <= tables
    figures = {path.name for path in (output / "figures").iterdir()}
    names = ("masks", "measures", "average_and_naive_rater", "leave_one_out", "pairs", "within_raters")
    assert {f"{name}{ending}" for name in names for ending in (".png", ".svg", ".pdf")} <= figures
    assert load_study_config(output / "config.yaml").study.covariates == ["age", "site"]


def test_tables_come_back_as_they_were(done):
    per_image = read_frame(done / "out" / "tables" / "per_image.csv")
    measures = pd.read_csv(done / "out" / "tables" / "measures.csv").set_index("measure")
    assert len(per_image) == 16 - len(pd.read_csv(done / "out" / "tables" / "excluded.csv"))
    assert per_image["alpha"].mean() == pytest.approx(measures.loc["alpha", "mean"])


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_report_needs_nothing_and_runs_its_own_script_alone(done):
    text = (done / "out" / "report.html").read_text()
    parsed = Page(text)
    assert not {"link", "iframe", "object", "embed"} & {tag for tag, _ in parsed.tags}
    (script,) = [attributes for tag, attributes in parsed.tags if tag == "script"]
    assert f"script-src 'nonce-{script['nonce']}';" in text
    for _, attributes in parsed.tags:
        for key in ("src", "href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:"))
    assert text.count("<script") == 1
    assert EVIL in parsed.text
    assert "made on " in parsed.text
    sections = {attributes.get("id") for tag, attributes in parsed.tags if tag == "section"}
    assert {"findings", "limits", "masks", "measures", "across", "scores", "raters", "within", "pairs"} <= sections
    for part in ("are conventions", "Krippendorff's alpha", "anna", "--covariates age site"):
        assert part in parsed.text


def test_the_run_has_metrics_tables_and_files(done, folder):
    client, experiment_id = open_store(f"sqlite:///{done / 'mlflow.db'}", "irrbench: toy")
    (run,) = client.search_runs([experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["irrbench.role"] == "reliability"
    study = yaml.safe_load((done / "out" / "config.yaml").read_text())["study"]
    data, options = load_folder(folder), StudyOptions(**study)
    assert run.data.tags["irrbench.run_key"] == study_digest(data, options), (
        "the same study is written into its run again"
    )
    assert study_digest(data, replace(options, resamples=21)) != study_digest(data, options)
    measures = pd.read_csv(done / "out" / "tables" / "measures.csv").set_index("measure")
    assert all("/" in key for key in run.data.metrics)
    assert run.data.metrics["reliability/alpha"] == pytest.approx(measures.loc["alpha", "mean"])
    assert {"reliability/ICC_2_1", "reliability/extent_icc_low", "reliability/joint_icc_pixel_laplace"} <= set(
        run.data.metrics
    )
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id, "reliability")}
    assert {"reliability/report.html", "reliability/tables", "reliability/figures"} <= artifacts
    shown = {item.path for item in client.list_artifacts(run.info.run_id, "images")}
    assert any("masks" in path for path in shown)
    assert any("measures" in path for path in shown)
    assert [item.path for item in client.list_artifacts(run.info.run_id, "per_image")] == [
        "per_image/reliability.json",
        "per_image/reliability.parquet",
    ]


@pytest.mark.slow
def test_a_store_that_fails_later_costs_a_warning_and_the_study_waits_in_the_spool(found, tmp_path, caplog):
    (tmp_path / "report.html").write_text("a report")
    run = Run.new("http://127.0.0.1:9", "toy", spool=tmp_path / "spool")
    assert log_study(run, found, [tmp_path / "report.html"]) is None
    assert "MLflow" in caplog.text
    assert str(tmp_path / "spool") in caplog.text
    assert len(sessions(tmp_path / "spool")) == 1


def test_metrics_have_names_that_mlflow_takes(found):
    import re

    assert all(re.fullmatch(r"[\w./ -]+", key) for key in metrics_of(found))


def test_most_images_left_out_stands_on_top(script, capsys, folder, tmp_path):
    save_to = tmp_path / "out"
    flags = ["--data", str(folder), "--output", str(save_to), "--tracking-uri", "none", "--exclude-below", "0.09"]
    assert script.main([*flags, *QUICKLY]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "of 16 images left out" in said
    note = (save_to / "report.html").read_text().partition('<p class="note"')[2].partition("</p>")[0]
    assert "--exclude-below 0" in note
    assert yaml.safe_load((save_to / "config.yaml").read_text())["study"]["exclude_below"] == 0.09


def test_an_experiment_without_models_has_a_view_of_its_own_which_theirs_replaces(found, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client, experiment_id = open_store(uri, "toy")
    options = {
        "params": {"cells": [4, 5]},
        "per_image": found.per_image,
        "files": [],
        "pictures": {"masks": np.zeros((4, 6, 3), dtype=np.uint8)},
        "note": "a note",
        "data_name": "toy",
        "digest": "1f3a",
    }

    def log(**metrics: float) -> None:
        assert log_reliability(Run.new(uri, "toy", spool=tmp_path / "spool"), metrics=metrics, **options) is not None

    for _ in range(2):
        log(ac1=0.9, pixel_icc=0.6, pixel_icc_quadrature=0.7, alpha=0.5, extent_icc=np.nan)
    assert client.search_runs([experiment_id])[0].data.params == {"data": "toy", "cells": "[4, 5]"}
    tags = client.get_experiment(experiment_id).tags
    charts = decode(tags[VIEW_TAG])["compareRunCharts"]
    keys = [f"reliability/{key}" for key in ("alpha", "pixel_icc_quadrature", "pixel_icc", "ac1")]
    drawn = [
        (chart["type"], chart["metricKey"]) for chart in charts if not chart["deleted"] and chart["type"] != "IMAGE"
    ]
    assert drawn == [("BAR", key) for key in keys]
    assert [chart["imageKeys"] for chart in charts if chart["type"] == "IMAGE"] == [["reliability/masks"]]
    assert set(AGREEMENT) <= set(metrics_of(found))
    assert VIEW_KEY in tags[NOTE_TAG]
    update_chart_view(client, experiment_id, scores=["iou"])
    models = client.get_experiment(experiment_id).tags[VIEW_TAG]
    log(alpha=0.6)
    assert client.get_experiment(experiment_id).tags[VIEW_TAG] == models
    assert "[Charts: agreement of the raters](" in client.get_experiment(experiment_id).tags[NOTE_TAG]
    assert {run.info.run_name for run in client.search_runs([experiment_id])} == {"raters · toy"}


def test_a_run_that_cannot_be_finished_is_marked_as_failed(found, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client, experiment_id = open_store(uri, "toy")
    with pytest.raises(FileNotFoundError, match="nothing-there"):
        log_reliability(
            Run.new(uri, "toy", spool=tmp_path / "spool"),
            metrics={"alpha": 0.5, "undefined": np.nan},
            params={},
            per_image=found.per_image,
            files=[tmp_path / "nothing-there.html"],
            note="a note",
            data_name="toy",
            digest="1f3a",
        )
    (run,) = client.search_runs([experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.metrics == {"reliability/alpha": 0.5}
