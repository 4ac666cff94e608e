"""The command line: ``consecutiond run | start | push | status | stop | graph | ls | clean``."""

import sys

from consecutiond.cli.app import app


def main() -> None:
    """Run the command line; every error of ours is one text on stderr and an exit code, never a traceback of ours."""
    try:
        app(prog_name="consecutiond", standalone_mode=True)
    except Exception as error:
        # Here, because it knows every kind of error, and so would import everything for each verb.
        from consecutiond.cli.failures import explain

        code = explain(error)
        if code is None:
            raise
        sys.exit(code)


__all__ = ["main"]
