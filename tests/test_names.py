import ast
import subprocess
import sys
from pathlib import Path

import pytest

import irrbench


def test_every_public_name_is_there_and_typed():
    tree = ast.parse(Path(irrbench.__file__).with_suffix(".pyi").read_text())
    typed = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(irrbench.__all__) == typed
    assert set(irrbench.__all__) <= set(dir(irrbench))
    for name in irrbench.__all__:
        assert getattr(irrbench, name).__module__.startswith("irrbench") if callable(getattr(irrbench, name)) else True
    with pytest.raises(AttributeError, match="has no attribute 'Bound'"):
        irrbench.Bound  # noqa: B018


def test_a_command_line_need_not_wait_for_torch():
    code = "import sys, irrbench; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
