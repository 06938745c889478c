"""Starts a benchmark again and again, each time in a process of its own that has everything imported already.

Reads the arguments of a run from a line of standard input, says the new process's number, and, when it has ended, how.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from irrbench.commands import run_benchmark
from tests.training.conftest import small_config


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(json.loads(line))
        say(child)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def run(arguments: dict) -> None:
    code = 70
    try:
        place = Path(arguments["place"])
        os.chdir(place)
        sys.stdout = (place / "said.txt").open("a")
        torch.set_num_threads(1)
        sys.path.insert(0, arguments["path"])
        uri = f"sqlite:///{place / 'mlflow.db'}"
        config = small_config(Path(arguments["study"]), place / "out", uri, **arguments["changes"])
        code = run_benchmark(config, command="benchmark")
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
