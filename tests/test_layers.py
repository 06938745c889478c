"""Imports point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import irrbench

PACKAGE = Path(irrbench.__file__).parent
LAYERS = (
    ("_cache", "_display", "_looks", "_progress", "_results", "_counting"),
    ("scores", "folds", "patterns", "upper"),
    ("geometry",),
    ("mask_evidence", "surfaces", "surfaces_dense", "lesions", "centrelines", "samples", "probabilities"),
    ("evidence",),
    ("plots",),
    ("bounds", "cuts", "panels", "agreement", "consensus"),
    ("stats", "summary", "icc", "simulate", "cases"),
    ("metrics",),
    ("tracking",),
    ("evaluation",),
    ("callbacks",),
    ("config", "grid_config", "_files", "_settings"),
    ("data",),
    ("datasets", "convert"),
    ("training",),
    ("analysis", "reliability"),
    ("report",),
    ("commands",),
    ("__main__",),
)
ONLY = {
    "skimage": "centrelines",
    "mlflow": "tracking",
    "jinja2": "report",
    "PIL": ("data", "datasets", "convert", "plots", "report"),
    "segmentation_models_pytorch": "training",
}


def imported(source):
    """Modules that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "irrbench":
                yield from (f"irrbench.{alias.name}" for alias in node.names)


def layer_of(module):
    return next((i for i, names in enumerate(LAYERS) if module in names), None)


def violations(module, source):
    """Imports by a module of the package of what lies above it, or of what is another's alone."""
    own = layer_of(module)
    for name in imported(source):
        root, *rest = name.split(".")
        if root == "irrbench" and rest and own is not None and (layer_of(rest[0]) or 0) > own:
            yield f"{module} imports {name}"
        if root in ONLY and module not in ONLY[root]:
            yield f"{module} imports {root}"


def sources():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            yield parts[0], path


def test_every_module_has_a_layer():
    assert {module for module, _ in sources()} == {name for names in LAYERS for name in names}


@pytest.mark.parametrize(("module", "path"), [pytest.param(m, p, id=str(p.relative_to(PACKAGE))) for m, p in sources()])
def test_imports_point_one_way(module, path):
    assert not list(violations(module, path.read_text()))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bounds", "from irrbench.metrics import SegmentationBounds"),
        ("metrics", "def f():\n    import irrbench.tracking.run"),
        ("callbacks", "from irrbench import data"),
        ("callbacks", "from mlflow import MlflowClient"),
        ("analysis", "from PIL import Image"),
    ],
)
def test_this_test_can_fail(module, source):
    assert list(violations(module, source))


def test_importing_the_core_imports_no_framework():
    heavy = ("pytorch_lightning", "lightning", "mlflow", "segmentation_models_pytorch", "matplotlib", "pandas", "PIL")
    # torchmetrics brings some of these itself where they are installed: what counts is what we add.
    code = (
        "import sys, torch, torchmetrics; before = set(sys.modules); from irrbench import *; "
        f"print([m for m in {heavy} if m in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["callbacks", "configs"])
def test_folders_at_the_top_are_links_and_nothing_that_is_installed(name):
    top = PACKAGE.parent / name
    if not (PACKAGE.parent / "pyproject.toml").exists():
        pytest.skip("not a checkout")
    assert top.is_symlink()
    assert top.resolve() == PACKAGE / name
    code = f"import importlib.util as u; print(u.find_spec({name!r}), u.find_spec('irrbench') is not None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.home())
    assert done.stdout.split() == ["None", "True"]
