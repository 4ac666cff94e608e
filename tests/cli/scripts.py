"""Users' scripts that expose a command line, run as processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

#: seconds after which a script hangs; a slow machine needs a tenth of it
HANGS_S = 120

SHOUT = '''\
"""Shout what comes in."""

from consecutiond import Consecutor, Node

__version__ = "4.5"


class Shout(Node):
    def process(self, item):
        if item == "bad":
            raise ValueError("this one is bad")
        self.write("loud", item.upper() if isinstance(item, str) else item)


consecutor = Consecutor(Shout("shout"), max_attempts=1)
consecutor.expose_cli()
print("after the run")
'''


def environment(**more: str) -> dict[str, str]:
    """Return ours without any option but a test's architecture, and wide enough that help is not wrapped."""
    ours, kept = ("CONSECUTIOND_", "PYTHONUNBUFFERED"), "CONSECUTIOND_ARCHITECTURE"
    plain = {name: value for name, value in os.environ.items() if not name.startswith(ours) or name == kept}
    return {**plain, "COLUMNS": "400", "TERM": "dumb", **more}


def write(directory: Path, text: str = SHOUT, name: str = "shout.py") -> Path:
    """Make an executable script."""
    script = directory / name
    script.write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
    script.chmod(0o755)
    return script


def run(script: Path, *arguments: Any, input: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script in its directory to its end."""
    return subprocess.run(
        [sys.executable, script.name, *map(str, arguments)], cwd=script.parent, env=environment(**more), input=input,
        capture_output=True, text=True, timeout=HANGS_S, check=False,
    )  # fmt: skip


def shell(command: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command of bash; a pipe fails when any part of it does."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=cwd, capture_output=True, text=True, timeout=HANGS_S,
        check=False, env=environment(PATH=f"{cwd}:{os.environ['PATH']}", **more),
    )  # fmt: skip
