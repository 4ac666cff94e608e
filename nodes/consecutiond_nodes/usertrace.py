"""The user's own part of a traceback, without our frames and those of the import machinery."""

import sys
import traceback
from pathlib import Path

_OURS = ("consecutiond", "consecutiond_broker", "consecutiond_nodes")


def user_traceback(error: BaseException) -> str:
    """Format an error, and those that led to it, as python does, but with only the user's frames.

    Args:
        error: what the user's code raised.

    """
    shown = traceback.TracebackException.from_exception(error)
    _cut(shown, _hidden_directories(), set())
    return "".join(shown.format())


def is_ours(filename: str) -> bool:
    """Say whether a frame of a traceback is ours, or of the import machinery, by the file of its code."""
    return filename.startswith(_hidden_directories())


def _cut(shown: traceback.TracebackException | None, hidden: tuple[str, ...], seen: set[int]) -> None:
    # errors may lead to each other in a circle
    if shown is None or id(shown) in seen:
        return
    seen.add(id(shown))
    kept = [frame for frame in shown.stack if not frame.filename.startswith(hidden)]
    shown.stack = traceback.StackSummary.from_list(kept)
    for inner in (shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())):
        _cut(inner, hidden, seen)


def _hidden_directories() -> tuple[str, ...]:
    import_machinery = ("<frozen importlib", f"{Path(traceback.__file__).parent / 'importlib'}/")
    files = (getattr(sys.modules.get(name), "__file__", None) for name in _OURS)
    return import_machinery + tuple(f"{Path(file).parent}/" for file in files if file)
