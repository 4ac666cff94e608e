"""The `.consecution/ID/` directory of one consecutor: where its files are, and the lock that says it is live."""

import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from consecutiond.shortlink import ShortLink
from consecutiond_broker import child
from consecutiond_broker.errors import ConsecutiondError

_ID: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
#: seconds for which a taken lock is asked for again: `is_live` of another process holds it for microseconds
_LOCK_PATIENCE_S: Final = 0.2
_LOCK_PAUSE_S: Final = 0.01
#: bytes that supervisor adds to the name of its socket while it binds: a dot and its pid
_SUPERVISOR_SUFFIX: Final = 11


class RunDirError(ConsecutiondError):
    """The directory of a consecutor cannot be used."""


class LiveError(RunDirError):
    """A live consecutor has the id already."""


def check_id(id: str) -> str:
    """Return a consecutor's id, which names a directory.

    Raises:
        RunDirError: it is not made of 1 to 64 letters, digits, ``_``, ``.`` and ``-``, or begins with ``.`` or ``-``.

    """
    if not _ID.fullmatch(id):
        raise RunDirError(
            f"{id!r} cannot be the id of a consecutor: it names a directory, so it has 1 to 64 letters, digits, '_',"
            " '.' or '-', the first of them no '.' or '-'. Try for example 'wordcount'."
        )
    return id
