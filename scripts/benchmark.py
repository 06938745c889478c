#!/usr/bin/env python
"""The command ``irrbench benchmark``, for a checkout."""

import sys
from collections.abc import Sequence

from irrbench.commands.main import main as run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(arguments, command="benchmark")


if __name__ == "__main__":
    sys.exit(main())
