"""``consecutiond failed replay --debug``: one failed item through its node, in the foreground, under a debugger."""

import inspect
import os
import pdb
import re
import sys
from bdb import BdbQuit
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from consecutiond.acker.stores.base import Failed
from consecutiond.cli import exits
from consecutiond.cli.choosing import ChoiceError
from consecutiond.cli.failedvalues import json_of, value_of
from consecutiond.deadletters import NO_VALUE
from consecutiond_nodes import importer
from consecutiond_nodes.graph import Graph
from consecutiond_nodes.trial import Trial
from consecutiond_nodes.usertrace import is_ours, user_traceback

#: the line of supervisord.conf that says where every program runs
_DIRECTORY = re.compile(r"^directory = (.+)$", re.MULTILINE)


def debug_failed(
    letter: Failed, parts: Mapping[str, Mapping[str, Any]], conf: Path, target: str | None, *, stop: bool, end: bool
) -> int:
    """Run the item that failed through the node in which it did; nothing is sent, and nothing changes in the log.

    Args:
        letter: the failed item.
        parts: of the plan.
        conf: the configuration of the root, which tells where the programs run.
        target: what to import instead of the plan's target.
        stop: stop at the first line of `process`, and not only at an exception.
        end: run `end`, too.

    Returns:
        The exit code: 1 if it fails here, too.
    """
    value = _item(letter)
    _go_home(conf)
    graph = _graph(parts, target, letter.node)
    outputs = _outputs(parts)
    trial = Trial(graph, letter.node, outputs, _show)
    print(f"process of {letter.node} gets {_text(value)} (position {letter.position}); nothing is sent or recorded")
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    try:
        trial.begin()
        if stop and terminal:
            _run_to_process(trial, value)
        else:
            trial.process(value)
        if end:
            trial.end()
    except BdbQuit:
        print("the debugger was left; process did not come to its end")
        return exits.OK
    except ChoiceError:
        raise
    except BaseException as error:  # whatever the user's code raises is what we are here for
        return _raised(error, terminal=terminal)
    finally:
        trial.close()
    if trial.failed:
        print(f"{letter.node} failed it: {trial.failed}")
        return exits.SOME_FAILED
    print(f"process returned; it pushed {trial.pushed:,} and wrote {trial.written:,}, and did not fail")
    return exits.OK


def _item(letter: Failed) -> Any:
    if not letter.body:
        raise ChoiceError(f"position {letter.position}: {NO_VALUE}")
    if not letter.failed_item:
        raise ChoiceError(
            f"the item that failed at position {letter.position} is not known: it was too large to be kept, or its "
            "root was edited. Only the whole can be replayed, from its root"
        )
    return value_of(letter.failed_item)


def _go_home(conf: Path) -> None:
    """Go where the workers run: relative targets and files are looked for there."""
    found = _DIRECTORY.search(conf.read_text(encoding="utf-8", errors="replace")) if conf.exists() else None
    directory = found[1].replace("%%", "%") if found else ""
    if directory not in ("", "/") and Path(directory).is_dir():
        os.chdir(directory)


def _graph(parts: Mapping[str, Mapping[str, Any]], target: str | None, node: str) -> Graph:
    target = target or next((part["target"] for part in parts.values() if part.get("target")), "")
    if not target:
        raise ChoiceError("nobody knows where its graph stands: say it with --target file.py:graph")
    graph = importer.graph_of(importer.load(target))
    graph.validate()
    if node not in graph:
        raise ChoiceError(
            f"it failed in {node!r}, which is no node of {target} (there are {', '.join(graph)}): only the code of a "
            "node can be debugged here"
        )
    return graph


def _outputs(parts: Mapping[str, Mapping[str, Any]]) -> list[str] | None:
    """Return the names of the registered outputs; None where every name is taken."""
    return next((part["outputs"] for part in parts.values() if "outputs" in part), None)


def _show(what: str, where: str, value: Any) -> None:
    if what == "write":
        print(f"write to {where}: {_text(value)}")
    else:
        print(f"push to {where or 'nobody'}: {_text(value)}")


def _text(value: Any) -> str:
    return json_of(value).decode()


# --- the debugger ----------------------------------------------------------------------------------------------------


def _run_to_process(trial: Trial, value: Any) -> None:
    """Stop at the first line of the user's `process`."""
    code = inspect.unwrap(trial.node.process).__code__
    debugger = pdb.Pdb()
    fault = debugger.set_break(debugger.canonic(code.co_filename), code.co_firstlineno, True, None, code.co_name)
    if fault:
        raise ChoiceError(f"--break: {fault}; its source cannot be read from here")
    # What it would ask at our own first line is answered for the user.
    debugger.rcLines.append("continue")
    returned = False

    def process() -> None:
        nonlocal returned
        trial.process(value)
        returned = True

    debugger.runcall(process)
    if not returned:
        # `runcall` takes it for the end.
        raise BdbQuit


def _raised(error: BaseException, *, terminal: bool) -> int:
    print(user_traceback(error).rstrip(), file=sys.stderr)
    if terminal and not isinstance(error, SystemExit | KeyboardInterrupt):
        print("post mortem: `up` and `down` move, `p name` prints, `q` ends", file=sys.stderr)
        pdb.post_mortem(_users_part(error.__traceback__))
    return exits.SOME_FAILED


def _users_part(at: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the first frame of the user's; all of it, if there is none."""
    found = at
    while found is not None and is_ours(found.tb_frame.f_code.co_filename):
        found = found.tb_next
    return found or at
