"""``python -m irrbench`` is the command ``irrbench``."""

import sys

from irrbench.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
