"""What is installed, and what the README says."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import irrbench

ROOT = Path(irrbench.__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="not a checkout")


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_no_top_level_callbacks(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("irrbench-*.whl"))).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"irrbench"}
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "irrbench").rglob("*.py")}
    configurations = {f"irrbench/configs/{name}.yaml" for name in ("default", "folder", "reliability")}
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "irrbench/report/templates").iterdir()}
    assert here | configurations | templates <= set(names)
    assert {"irrbench/py.typed", "irrbench/__init__.pyi", "irrbench/plots/figures.mplstyle"} <= set(names)
    assert any(name.endswith("LICENSE") for name in names)


def python_blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)


def test_the_readmes_lines_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = python_blocks(ROOT / "README.md")
    names = {}
    exec(block, names)  # noqa: S102
    assert names["monitor"] in names["trainer"].callbacks


def test_the_scores_of_other_evidence_in_the_documentation_run():
    (block,) = (block for block in python_blocks(ROOT / "docs/howto/scores.md") if "draw_lesions" in block)
    names = {}
    exec(block, names)  # noqa: S102
    assert (names["bounds"].model["hd95"] > 0).all()
    assert {"nsd", "brier_floor", "ged_ceiling"} <= set(names["metric"].compute())
    assert names["monitor"].scores == ("iou", "ged")


def test_the_measures_on_arrays_in_the_documentation_run():
    (block,) = (block for block in python_blocks(ROOT / "docs/howto/measures.md") if "draw_lesions" in block)
    names = {}
    exec(block, names)  # noqa: S102
    assert 0 < names["joint_icc"](names["patterns"]).icc_pixel < 1
    assert (names["krippendorff_alpha"](names["patterns"]) > 0.3).all()


def test_the_readme_leads_with_two_commands():
    assert re.search(r"make benchmark.*\nmake test", (ROOT / "README.md").read_text()[:1500])


def test_the_package_speaks_of_itself_alone():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    assert not [p for p in paths if p.is_file() and p.stat().st_size > 400_000]
