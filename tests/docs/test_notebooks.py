"""Each notebook is a script and an .ipynb, which say the same; neither holds outputs."""

import json
from pathlib import Path

import pytest

import irrbench

NOTEBOOKS = Path(irrbench.__file__).parents[1] / "docs" / "notebooks"

jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed")
pytestmark = pytest.mark.skipif(not NOTEBOOKS.exists(), reason="not a checkout")


def cells(notebook):
    return [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in notebook["cells"]]


@pytest.mark.parametrize("script", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_script_and_notebook_say_the_same(script):
    notebook = json.loads(script.with_suffix(".ipynb").read_text())
    assert cells(notebook) == cells(jupytext.read(script)), "run jupytext --update --to ipynb docs/notebooks/*.py"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])


def test_there_is_no_notebook_without_a_script():
    stems = {path.stem for path in NOTEBOOKS.glob("*.py")}
    assert stems == {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    assert len(stems) >= 3
