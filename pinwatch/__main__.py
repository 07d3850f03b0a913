"""`python -m pinwatch` and the console script."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    from pinwatch.cli import main as cli_main

    sys.exit(cli_main())


if __name__ == "__main__":
    main()
