"""The command line: ``consecutiond run | start | push | status | stop``."""

import sys

from consecutiond.cli.app import app
from consecutiond.cli.failures import explain


def main() -> None:
    """Run the command line; every error of ours is one text on stderr and an exit code, never a traceback of ours."""
    try:
        app(prog_name="consecutiond", standalone_mode=True)
    except Exception as error:
        code = explain(error)
        if code is None:
            raise
        sys.exit(code)


__all__ = ["main"]
