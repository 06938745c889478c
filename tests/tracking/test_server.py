"""A real MLflow server, and a real browser on the page that the printed link opens."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from irrbench.commands.main import main
from irrbench.tracking import Run, RunAddress, chart_link, open_store, save_chart_view
from irrbench.tracking.dose_curves import log_dose_curves
from irrbench.tracking.reference_runs import ReferenceRuns
from irrbench.tracking.server import local_server
from tests.callbacks.outages import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),  # inside MLflow
]
SCORES = ("iou", "f1")
RECIPES = {"ce": 0.7, "gce": 0.68}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path):
    """Serve an empty store; what is logged through it lands in its own folder."""
    folder = tmp_path_factory.mktemp("served")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    shutil.copy(empty_database, folder / "mlflow.db")
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with local_server(uri, host="127.0.0.1", port=port):
            yield f"http://127.0.0.1:{port}", uri


def test_the_address_of_the_store_is_on_no_command_line(monkeypatch) -> None:
    started = []

    def start(command, *, env, **_):
        started.append((command, env))
        raise OSError("no process here")

    monkeypatch.setattr(subprocess, "Popen", start)
    uri = "postgresql://me:s3cret@host/db"
    port = free_port()
    with pytest.raises(OSError, match="no process here"), local_server(uri, host="127.0.0.1", port=port):
        pass
    ((command, environment),) = started
    assert not [part for part in command if "s3cret" in part or "host/db" in part]
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri


def log_two_models(uri: str, client, experiment_id: str) -> dict[str, Run]:
    runs = {}
    for name, top in (("unet", 0.5), ("fpn", 0.65)):
        run = Run(uri, RunAddress(run_id=client.create_run(experiment_id, run_name=name).info.run_id))
        run.set_role("model", bounds_id="val:1f test:9c")
        for epoch in range(3):
            run.log_scores({f"val/{score}": top * (epoch + 1) / 3 for score in SCORES}, step=epoch)
        run.log_scores({f"test/{score}": top for score in SCORES} | {"test/hd95": 9 * top, "test/n_images": 3}, step=0)
        run.log_panel("val/nodule1", np.full((6, 8, 3), 90, dtype=np.uint8), step=2)
        run.log_per_image("test", pd.DataFrame({"image": ["a", "b", "c"], "iou": [top] * 3}))
        run.log_dataset("two nodules", name="nodules", digest="9c", split="test")
        run.finish()
        assert run.drain(limit=120) == 0
        runs[name] = run
    for split, digest, sibling in (("val", "1f", None), ("test", "9c", "val:1f")):
        pair = ReferenceRuns.find_or_create(client, experiment_id, split=split, bounds_id=digest, sibling=sibling)
        bounds = ({f"{split}/{score}": value for score in SCORES} for value in (0.6, 0.1))
        pair.log(*bounds, last_step=2)
    assert save_chart_view(client, experiment_id, scores=(*SCORES, "hd95"))
    return runs


def test_everything_works_through_a_server(server, tmp_path, capsys) -> None:
    address, _ = server
    client, experiment_id = open_store(address, "through http")
    runs = log_two_models(address, client, experiment_id)
    names = [run.info.run_name for run in client.search_runs([experiment_id], order_by=["metrics.`test/iou` DESC"])]
    assert names == ["fpn", "average rater (ceiling)", "unet", "naive rater (floor)"]
    table = client.download_artifacts(runs["fpn"].run_id, "per_image/test.json", str(tmp_path))
    assert '"columns":["image","iou"]' in Path(table).read_text()
    runs["fpn"].log_per_image("test", pd.DataFrame({"image": ["z"], "iou": [0.1]}))
    assert runs["fpn"].drain(limit=120) == 0
    table = client.download_artifacts(runs["fpn"].run_id, "per_image/test.json", str(tmp_path))
    assert '"data":[["z",0.1]]' in Path(table).read_text()
    capsys.readouterr()  # MLflow prints addresses of its own when a run ends
    assert main(["ui", "--tracking-uri", address, "--experiment", "through http", "--no-browser"]) == 0
    assert capsys.readouterr().out.strip() == chart_link(address, experiment_id)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_link_opens_charts_of_models_between_floor_and_ceiling(server, tmp_path) -> None:
    address, uri = server
    client, experiment_id = open_store(uri, "seen in a browser")
    log_two_models(uri, client, experiment_id)
    page = dump_page(chart_link(address, experiment_id), tmp_path / "profile", until="js-line")

    rows = re.findall(r'href="#/experiments/\d+/runs/[0-9a-f]{32}"[^>]*>(?:<[^>]*>)*([^<]+)', page)
    assert rows[:4] == ["fpn", "average rater (ceiling)", "unet", "naive rater (floor)"]  # all, best first
    for text in ("iou between floor and ceiling", "test/iou", "val/iou", "test/f1", "val/f1", "val/nodule1"):
        assert f">{text}" in page
    assert ">test: hd95 (lower is better)" in page
    assert ">test/n_images" not in page
    assert "does not exist" not in page
    bars = re.findall(r'<g class="point"><path[^>]*fill: rgb\((\d+), (\d+), (\d+)\)', page)
    assert ("0", "0", "0") in bars
    assert ("136", "136", "136") in bars
    lines = re.findall(r'<path class="js-line"[^>]*stroke: rgb\((\d+), (\d+), (\d+)\)', page)
    assert ("0", "0", "0") in lines
    assert ("136", "136", "136") in lines


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_scores_over_the_dose_of_noise_are_lines_over_the_dose_itself(server, tmp_path) -> None:
    address, uri = server
    doses = (0.0, 0.5, 4.0)
    rows = [{"recipe": r, "noise": "flip", "dose": d, "iou": top - d / 10} for r, top in RECIPES.items() for d in doses]
    model = Run.new(uri, "doses in a browser")
    model.create(run_name="unet ce")
    model.join_bounds("test", "9c")
    runs = log_dose_curves(pd.DataFrame(rows), "iou", beside=model, bounds=(0.1, 0.65))
    assert runs["gce"].drain(limit=120) == 0
    client, experiment_id = open_store(uri, "doses in a browser")
    assert save_chart_view(client, experiment_id, scores=SCORES)
    page = dump_page(chart_link(address, experiment_id), tmp_path / "profile", until="js-line")
    assert ">robustness/flip/iou" in page
    assert ">robustness/dose" in page  # the axis
    colours = set(re.findall(r'<path class="js-line"[^>]*stroke: (rgb\([^)]*\))', page))
    assert len(colours) == 2 + len(RECIPES)
    assert {"rgb(0, 0, 0)", "rgb(136, 136, 136)"} < colours


def dump_page(address: str, profile: Path, *, until: str) -> str:
    """Return the page once a text is in it: a busy machine may need a second look."""
    page = ""
    for budget in (30_000, 60_000, 120_000):
        command = [CHROMIUM, *FLAGS.split(), "--no-first-run", f"--user-data-dir={profile}", "--window-size=1600,3000"]
        command += [f"--virtual-time-budget={budget}", "--dump-dom", address]
        page = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout
        if until in page:
            break
    return page
