"""Every function of the package has types that fit."""

import subprocess
import sys
from pathlib import Path

import pytest

import irrbench

ROOT = Path(irrbench.__file__).parents[1]


@pytest.mark.slow
def test_types_fit():
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("not a checkout")
    pytest.importorskip("mypy", reason="mypy is not installed")
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
