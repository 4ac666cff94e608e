"""Take out every rule of tracking, back-pressure and the end, one at a time, and see a test fail.

Run ``python -m tests.simulation.mutants`` (``WORD …`` chooses rules whose names hold a word, ``--jobs N`` runs several
at a time, ``--markdown`` prints the table of docs/architecture.md). Nothing is changed in place: each rule is taken out
of a copy in a temporary directory, in which its tests run. A rule that no test misses is the exit code 1.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from tests.simulation.rules import RULES, Mutant

ROOT: Final = Path(__file__).resolve().parents[2]
_COPIED: Final = ("consecutiond", "broker", "nodes", "tests")
#: seconds for the tests of one rule; a rule that is missing may as well hang them
_PATIENCE_S: Final = 600
#: exit codes of pytest: a test failed; the guard against hangs ended it
_FAILED: Final = (1,)


def source(root: Path, mutant: Mutant) -> str:
    """Return the file without the rule.

    Raises:
        ValueError: what is to be taken out is not there exactly once.
    """
    text = (root / mutant.file).read_text()
    found = text.count(mutant.old)
    if found != 1:
        raise ValueError(f"{mutant.rule}: {mutant.file} holds what is to be changed {found} times:\n{mutant.old}")
    return text.replace(mutant.old, mutant.new)


def copy(source_: Path, to: Path) -> None:
    """Copy the code and its tests."""
    for folder in _COPIED:
        shutil.copytree(source_ / folder, to / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source_ / "pyproject.toml", to)


def judge(whole: Path, mutant: Mutant) -> tuple[str, str]:
    """Return ``("missed", …)`` when a test fails without the rule, with what pytest has said."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        root = Path(name)
        copy(whole, root)
        (root / mutant.file).write_text(source(root, mutant))
        paths = os.pathsep.join(str(root / folder) for folder in ("", "broker", "nodes"))
        environment = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": name}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=60", *mutant.tests]
        try:
            done = subprocess.run(
                command, cwd=root, env=environment, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
            )
        except subprocess.TimeoutExpired:
            return "hung", f"the tests took longer than {_PATIENCE_S} s"
        said = done.stdout + done.stderr
        if "Timeout" in said or done.returncode in _FAILED:
            return "missed", said
        return ("not missed" if done.returncode == 0 else f"exit {done.returncode}"), said


def markdown(mutants: Iterable[Mutant]) -> str:
    """Return the table of rules and tests."""
    rows = [f"| {each.topic} | {each.rule} | `{each.tests[0].removeprefix('tests/')}` |" for each in mutants]
    return "\n".join(["| | rule | a test that fails without it |", "|---|---|---|", *rows])


def main() -> int:
    """Judge all rules, or those that were named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    chosen = [each for each in RULES if not options.words or any(word in each.rule for word in options.words)]
    if options.markdown:
        print(markdown(RULES))
        return 0
    kept = 0
    # One state of the code for all of them, whoever changes it meanwhile.
    with tempfile.TemporaryDirectory(prefix="mutants-") as whole, ThreadPoolExecutor(options.jobs) as pool:
        copy(ROOT, Path(whole))
        for mutant, (outcome, said) in zip(chosen, pool.map(partial(judge, Path(whole)), chosen), strict=True):
            print(f"{outcome:<11} {mutant.topic:<13} {mutant.rule}  ->  {mutant.tests[0]}", flush=True)
            if outcome != "missed":
                kept += 1
                print("\n".join(said.splitlines()[-15:]), flush=True)
    print(f"{len(chosen) - kept} of {len(chosen)} rules are missed by a test when they are taken out")
    return 1 if kept else 0


if __name__ == "__main__":
    sys.exit(main())
