"""The code of the pages runs as it stands there, from top to bottom."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import irrbench
from irrbench.simulate import draw_lesions

DOCS = Path(irrbench.__file__).parents[1] / "docs"
RATERS = ("anna", "ben", "carla")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DOCS.exists(), reason="not a checkout")]


def run_page(name, folder):
    """Run its python and bash blocks in their order, in a folder; python blocks share their names."""
    names = {}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    blocks = re.findall(r"```(python|bash)\n(.*?)```", (DOCS / name).read_text(), flags=re.DOTALL)
    assert blocks, f"{name} has no code"
    for language, block in blocks:
        if language == "python":
            exec(block, names)  # noqa: S102
            continue
        command = ["bash", "-euc", block]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return names


@pytest.mark.parametrize("page", ["loaders", "rules", "threshold"])
def test_howto_pages_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(f"howto/{page}.md", tmp_path)


def test_first_number_runs_and_is_what_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run_page("start/first_number.md", tmp_path)
    assert names["values"]["iou_normalized"].item() == pytest.approx(1.34, abs=0.01)
    assert names["bounds"].raters["iou"].shape == (8, 3)
    assert capsys.readouterr().out.startswith("floor ")


def test_training_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_page("tutorials/training.md", tmp_path)
    lesions = draw_lesions(2, sensitivity=[1, 1, 1], specificity=[1, 1, 1])
    item = names["MyData"](lesions.truth[:, None].float(), lesions.masks)[1]
    assert item["masks"].shape == (3, 64, 64)
    assert item["label"].shape == (1, 64, 64)


def test_raters_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_page("tutorials/raters.md", tmp_path)
    assert len(names["found"].per_image) == 6


def test_own_data_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page("tutorials/own_data.md", tmp_path)
    rows = pd.read_csv(tmp_path / "outputs/benchmark/leaderboard.csv").set_index("name")
    assert rows.loc["mine", "iou"] > rows[rows["role"] == "ceiling"]["iou"].item()
    assert (tmp_path / "outputs/benchmark/report.html").exists()


def make_nnunet_files(folder):
    """Write the layout of the page: eight cases, three raters, predictions with --save_probabilities."""
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    lesions = draw_lesions(8, sensitivity=[0.9, 0.8, 0.85], specificity=[0.99, 0.995, 0.99], size=(40, 48))
    raw, predictions = folder / "nnUNet_raw/Dataset501_Lesion", folder / "predictions"

    def save(array, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        volume = array.numpy().astype(np.uint8)[..., None]
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([0.7, 0.7, 2.5, 1])), path)

    for i, truth in enumerate(lesions.truth):
        save(100 + 80 * truth, raw / f"imagesTs/case_{i:03d}_0000.nii.gz")
        save(truth, predictions / f"case_{i:03d}.nii.gz")
        foreground = truth.numpy()[..., None].transpose(2, 1, 0) * 0.8 + 0.1  # axes as SimpleITK has them
        np.savez_compressed(predictions / f"case_{i:03d}.npz", probabilities=np.stack([1 - foreground, foreground]))
        for r, rater in enumerate(RATERS):
            save(lesions.masks[i, r], raw / f"labelsTs_{rater}/case_{i:03d}.nii.gz")
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    plans = {"image_reader_writer": "SimpleITKIO"}
    for name, content in (("dataset", about), ("plans", plans), ("predict_from_raw_data_args", {})):
        (predictions / f"{name}.json").write_text(json.dumps(content))
    (raw / "dataset.json").write_text(json.dumps(about))


def test_nnunet_page_runs_on_files_of_that_layout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_nnunet_files(tmp_path)
    run_page("tutorials/nnunet.md", tmp_path)
    rows = pd.read_csv(tmp_path / "outputs/benchmark/leaderboard.csv").set_index("name")
    assert rows.loc["nnunet", "n_images"] == 8
    assert rows.loc["nnunet", "iou"] > rows[rows["role"] == "ceiling"]["iou"].item()  # wrong axes would be far below
