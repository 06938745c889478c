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


PROJECT = (ROOT / "pyproject.toml").read_text() if (ROOT / "pyproject.toml").exists() else ""
MODULES = {  # by the name of the package that brings them, where they are called otherwise
    "pillow": "PIL",
    "pytorch-lightning": "pytorch_lightning",
    "pyyaml": "yaml",
    "segmentation-models-pytorch": "segmentation_models_pytorch",
}
ALONE = {"numpy", "pandas", "scipy", "torch", "torchmetrics"}  # what the metrics need, and docs/start/install.md names
OF_TORCH = {"filelock", "jinja2"}


def requirements(name):
    """The entries of a list of requirements in pyproject.toml; there is no TOML reader in Python 3.10."""
    return re.findall(r'"([^"]+)"', re.search(rf"(?ms)^{name} = \[(.*?)^\]", PROJECT)[1])


def test_every_direct_dependency_has_a_lower_bound():
    extras = PROJECT.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    others = [
        text for text in re.findall(r'"([^"]+)"', extras) if not text.startswith(("irrbench[", "types-", "python_v"))
    ]
    assert len(requirements("dependencies")) > 10
    assert [
        text for text in requirements("dependencies") + others if not re.match(r"[\w.-]+(\[[\w,]+\])?>=\d", text)
    ] == []


def test_the_oldest_python_is_the_same_wherever_it_is_said():
    named = [tuple(map(int, text.split("."))) for text in re.findall(r"Python :: (3\.\d+)\"", PROJECT)]
    assert named == [(3, minor) for minor in range(10, 10 + len(named))]
    oldest = ".".join(map(str, named[0]))
    assert f'requires-python = ">={oldest}"' in PROJECT
    assert f'target-version = "py{oldest.replace(".", "")}"' in PROJECT
    assert f"Python {oldest} or newer" in (ROOT / "docs" / "start" / "install.md").read_text()


def test_the_metrics_need_few_packages():
    """As after `pip install --no-deps`: every other package cannot be imported by irrbench."""
    names = {re.split(r"[\[>=]", text)[0] for text in requirements("dependencies")}
    assert names >= ALONE | OF_TORCH
    lacking = sorted(MODULES.get(name, name) for name in names - ALONE - OF_TORCH)
    # pandas and torchmetrics import some of them themselves, where they are installed.
    code = f"""
import builtins
find = builtins.__import__
def guarded(name, globals=None, *more):
    if (globals or {{}}).get("__name__", "").startswith("irrbench") and name.partition(".")[0] in {lacking}:
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    return find(name, globals, *more)
builtins.__import__ = guarded
import torch
import irrbench
masks = torch.zeros(2, 3, 8, 9, dtype=torch.bool)
masks[..., 2:6, 2:7] = True
metric = irrbench.SegmentationBounds(scores=("iou", "hd95"), from_logits=False)
metric.update(masks[:, 0].float(), masks)
alpha = irrbench.KrippendorffAlpha()
alpha.update(masks)
print(float(metric.compute()["iou"]), float(metric.compute()["hd95"]), float(alpha.compute()))
print(all(getattr(irrbench, name) is not None for name in irrbench.__all__))
try:
    import irrbench._display
except ModuleNotFoundError as error:
    print(error.name)  # so that this test can fail
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1.0", "0.0", "1.0", "True", "yaml"], done.stderr
    install = (ROOT / "docs" / "start" / "install.md").read_text()
    assert f"pip install {' '.join(sorted(ALONE))}" in install


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
