"""The foreground, apart from what runs in it."""

import os
import subprocess
import sys

from consecutiond.cli import exits
from tests.cli.scripts import HANGS_S, environment

PENDING = """
import sys
from types import SimpleNamespace
from consecutiond.cli.foreground import ReaderGoneError, run_foreground

def produce():
    sys.stdout.write("pending")
    raise ReaderGoneError("gone")

sys.exit(run_foreground(SimpleNamespace(outputs={}, other_output=None, last=None), produce, quiet=True))
"""


def test_what_is_left_for_a_reader_that_has_gone_is_no_error_at_the_end_of_the_interpreter() -> None:
    readable, writable = os.pipe()
    os.close(readable)
    ended = subprocess.run(
        [sys.executable, "-c", PENDING], stdout=writable, stderr=subprocess.PIPE, text=True, env=environment(),
        timeout=HANGS_S, check=False,
    )  # fmt: skip
    os.close(writable)
    assert ended.returncode == exits.STOPPED
    assert ended.stderr == "consecutiond: nobody reads the output any more; what is open stays in the log\n"
