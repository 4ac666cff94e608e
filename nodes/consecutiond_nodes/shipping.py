"""Graphs that no other process could import, such as those made in a function or in a notebook, sent by value."""

import os
import pickle
import stat
import sys
from pathlib import Path
from typing import Any, Final

from consecutiond_nodes.errors import TargetError
from consecutiond_nodes.usertrace import user_traceback

#: A target that begins with this names a file that `pack` has written.
SCHEME: Final = "shipped:"


def pack(graph: object) -> bytes:
    """Make a graph into bytes, with the code of whatever cannot be imported.

    Classes and functions of importable modules travel by name; those of `__main__` and those made in functions by
    value, together with the globals that they use.

    Args:
        graph: any.

    Raises:
        TargetError: something in it, an open file or a lock for example, cannot travel.

    """
    # Here, because a graph that can be imported needs none of it.
    import cloudpickle

    try:
        payload: bytes = cloudpickle.dumps(graph)
    except Exception as error:  # pickling runs the user's code, and fails in many ways
        raise TargetError(
            "workers would have to import the graph, and it stands nowhere where they can find it; nor can it be sent "
            f"to them, because something that it uses cannot travel ({type(error).__name__}: {error}).\n"
            "Either put the graph at the top level of its module or script, or open such things in `begin`",
            user_traceback(error),
        ) from error
    return pickle.dumps((list(sys.path), payload))


def load(target: str) -> Any:
    """Read what `pack` has made.

    Args:
        target: `SCHEME` and the path of the file.

    Raises:
        TargetError: the file is not this user's own, or what is in it cannot be loaded.

    """
    path = Path(target.removeprefix(SCHEME))
    found = path.stat()
    # Loading runs code, so it has to be ours and nobody else may have written it.
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise TargetError(f"{path} is not a file of this user alone, so it is not loaded")
    places, payload = pickle.loads(path.read_bytes())  # noqa: S301 - our own file, just checked
    sys.path.extend(place for place in places if place not in sys.path)
    try:
        return pickle.loads(payload)  # noqa: S301
    except Exception as error:  # the user's modules are imported here
        raise TargetError(
            f"the graph that was sent cannot be loaded: {type(error).__name__}: {error}", user_traceback(error)
        ) from error
