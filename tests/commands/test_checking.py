"""The check refuses what a benchmark refuses before it trains, says what it understood, and names one cause once."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from irrbench.commands import check, load_config, run_benchmark
from irrbench.config import ConfigError, load_study_config
from irrbench.data import DataError
from tests.training.study import RATERS, ids, save, write_predictions, write_study


@pytest.fixture
def root(study, tmp_path):
    return Path(shutil.copytree(study, tmp_path / "copy"))


def checked(config):
    """The exit code and the lines that were printed."""
    stream = io.StringIO()
    code = check(config, console=Console(file=stream, highlight=False, markup=False, emoji=False, width=100))
    return code, stream.getvalue().splitlines()


def manifest_of(root, row):
    lines = [row(split, number, name) for split in ("train", "val", "test") for number, name in enumerate(ids(split))]
    (root / "manifest.csv").write_text("\n".join(["image_id,split,group", *lines]) + "\n")


def no_validation(root):
    manifest_of(root, lambda split, _, name: f"{name},{'train' if split == 'val' else split},{name}")


def no_test(root):
    manifest_of(root, lambda split, _, name: f"{name},{'train' if split == 'test' else split},{name}")


def volumes(root):
    for path in [*root.glob("images/*.png"), *root.glob("masks/*/*.png")]:
        path.unlink()
        np.save(path.with_suffix(".npy"), np.random.default_rng(0).random((5, 6, 7)) < 0.5)


def ben_lacks_one(root):
    (root / "masks/ben/train0.png").unlink()


def suffixes(root):
    for path in root.glob("masks/*/*.png"):
        path.rename(path.with_name(f"{path.stem}_seg.png"))


REFUSED = {
    "no validation images": (no_validation, [], r"no images in val \(found 11 train, 0 val, 5 test\)"),
    "no test images": (no_test, [], r"no images in test \(found 13 train, 3 val, 0 test\)"),
    "volumes": (volumes, [], "images have 3 axes; the built-in models train on 2-D images"),
    "label of a rater": (ben_lacks_one, ["--labels", "[rater:ben]"], "found no mask; expected one by ben for each"),
    "unknown rater": (lambda _: None, ["--labels", "[rater:zoe]"], "expected rater:<name> with one of anna, ben, cem"),
    "unknown model": (lambda _: None, ["--models", "[{architecture: unett}]"], "unett"),
    "unknown column": (lambda _: None, ["--statistics.subgroups", "[site]"], "statistics.subgroups: .*site"),
    "masks with a suffix": (suffixes, [], r"48 times: masks/anna/\w+_seg\.png: found suffix '_seg' behind the"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_check_refuses_what_the_benchmark_refuses(root, tmp_path, name):
    break_it, flags, message = REFUSED[name]
    break_it(root)
    store = tmp_path / "store.db"
    allow = ["--folder.allow_missing", "true"]
    changes = {"data": str(root), "output": str(tmp_path / "out"), "tracking_uri": f"sqlite:///{store}"}
    config = load_config(None, [*flags, *allow], changes=changes)
    with pytest.raises((ConfigError, DataError), match=message):
        run_benchmark(config, console=Console(file=io.StringIO()))
    assert not store.exists()
    code, lines = checked(config)
    assert code == 2
    found = [line for line in lines if line.startswith("- ")]
    assert len(found) == 1, found
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(found[0])


def test_what_was_understood_is_said_with_predictions(study, tmp_path):
    folder = write_predictions(tmp_path / "good", ids("test"))
    code, lines = checked(load_config(None, [], changes={"data": str(study), "predictions": {"good": str(folder)}}))
    assert code == 0
    names = [line.split(" ", 1)[0] for line in lines[:-1]]
    assert names[:3] == ["images", "splits", "raters"]
    assert lines[-2].startswith("predictions good: ")
    assert lines[-2].endswith(", on the 5 test images")
    assert lines[-1] == f"{study}: no problems found"


def test_predictions_of_several_models_are_checked_all(study, tmp_path):
    folders = {
        name: str(write_predictions(tmp_path / name, [f"{i}_{name}" for i in ids("test")])) for name in ("a", "b")
    }
    code, lines = checked(load_config(None, [], changes={"data": str(study), "predictions": folders}))
    assert code == 2
    assert [line[:11] for line in lines if "behind the image's id" in line] == ["- 5 times: "] * 2
    assert lines[-1].endswith(": 10 problems of 2 kinds")


def test_a_model_with_the_name_of_a_bound_is_refused_by_the_check_too(study, tmp_path):
    folder = write_predictions(tmp_path / "good", ids("test"))
    config = load_config(None, [], changes={"data": str(study), "predictions": {"naive rater (floor)": str(folder)}})
    assert checked(config)[1][-2].startswith("- --predictions: 'naive rater (floor)' is the name of a bound")


def test_predictions_that_are_not_there_are_one_line(study, tmp_path):
    config = load_config(None, [], changes={"data": str(study), "predictions": {"a": str(tmp_path / "none")}})
    found = [line for line in checked(config)[1] if line.startswith("- ")]
    assert len(found) == 1
    assert "none: found no such folder" in found[0]


def test_cautions_are_said_and_are_no_problems(root):
    shutil.rmtree(root / "masks/cem")
    shutil.copytree(root / "masks/anna", root / "masks/cem")
    (root / "masks_old").mkdir()
    shutil.copy(root / "masks/anna/test0.png", root / "masks")
    code, lines = checked(load_config(None, [], changes={"data": str(root)}))
    assert code == 0
    cautions = [line for line in lines if line.startswith("Caution: ")]
    assert cautions[0].startswith("Caution: cem is equal to anna on 16 of 16 marked images (100%)")
    assert cautions[1].startswith("Caution: Not read: masks_old/, masks/test0.png (a data folder holds images/, ")


def test_two_raters_are_said_before_training(tmp_path):
    root = write_study(tmp_path / "two", raters=RATERS[:2])
    _, lines = checked(load_config(None, [], changes={"data": str(root)}))
    assert any("there the label `majority` is the intersection of both masks" in line for line in lines)
    _, lines = checked(load_study_config(None, [], changes={"data": str(root)}))
    assert not any("label" in line for line in lines)


def test_a_study_of_raters_needs_no_splits_but_its_columns(root):
    no_validation(root)
    config = load_study_config(None, [], changes={"data": str(root)})
    assert checked(config)[0] == 0
    code, lines = checked(load_study_config(None, [], changes={"data": str(root), "study.covariates": ["site"]}))
    assert code == 2
    assert any("covariates: no column 'site'" in line for line in lines)


def test_images_that_a_study_leaves_out_are_said_before(root):
    code, lines = checked(load_study_config(None, ["--study.exclude_below", "0.05"], changes={"data": str(root)}))
    assert code == 0
    assert any(re.search(r"Caution: \d+ of 16 images left out: .* marked under 5% of the ROI", line) for line in lines)
    flags = ["--study.exclude_below", "0.9"]
    code, lines = checked(load_study_config(None, flags, changes={"data": str(root)}))
    assert code == 2
    assert any("found no image to study (16 of 16 images left out" in line for line in lines)


def test_a_benchmark_without_a_store_is_refused():
    with pytest.raises(ConfigError, match=r"none is for `irrbench reliability`; .* sqlite:///outputs/mlflow"):
        load_config(None, [], changes={"tracking_uri": "none"})
    assert load_study_config(None, [], changes={"tracking_uri": None}).tracking_uri is None


def test_an_image_of_one_rater_is_said(root):
    for rater in RATERS[1:]:
        (root / "masks" / rater / "test1.png").unlink()
    save(root / "masks/ben/test1.png", np.zeros((32, 40), np.uint8))
    (root / "masks/ben/test1.png").unlink()
    _, lines = checked(load_config(None, ["--folder.allow_missing", "true"], changes={"data": str(root)}))
    assert any("1 of 16 images have one rater (test1)" in line for line in lines)
