"""Two processes give the numbers of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def run(kind, strategy, devices, folder):
    folder.mkdir()
    script = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.callbacks.two_processes",
        kind,
        strategy,
        str(devices),
        str(folder),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


@pytest.mark.parametrize(("kind", "strategy"), [("padded", "ddp_fork"), ("padded", "ddp"), ("uneven", "ddp_fork")])
def test_two_processes_give_the_numbers_of_one(tmp_path, kind, strategy):
    alone = run(kind, "auto", 1, tmp_path / "one")[0]
    both = run(kind, strategy, 2, tmp_path / "two")
    assert len(both) == 2
    for rank in both:
        assert rank["ids"] == alone["ids"]  # all images, each once
        for mine, expected in zip(rank["history"], alone["history"], strict=True):
            assert mine == pytest.approx(expected, abs=1e-9, nan_ok=True)
        assert rank["logged"] == pytest.approx(alone["logged"], abs=1e-6, nan_ok=True)  # Lightning keeps float32
