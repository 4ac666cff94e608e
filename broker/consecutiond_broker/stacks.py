"""Stack dumps: what every thread of a process is at, asked for from outside, even while C code holds the interpreter.

`faulthandler` writes them in the signal's handler itself, in C, so a process that never comes back to its
interpreter answers as well. The signal is one of the real-time signals, which no user code has by accident.
"""

import faulthandler
import signal
from pathlib import Path
from typing import Final

#: asks a process for its stacks
DUMP: Final = signal.Signals(signal.SIGRTMIN)
#: bytes of a dump that are read, from its end
_MOST: Final = 32 << 10


def path_of(pid_dir: Path, part: str, epoch: int) -> Path:
    """Return the file to which one incarnation of a part dumps."""
    return pid_dir / f"{part}-{epoch}.stacks"


class Stacks:
    """The answering side: from now on this process dumps its stacks when it is asked to.

    Args:
        path: the file, made anew; every dump is added to it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        faulthandler.register(DUMP, self._file, all_threads=True)

    def close(self) -> None:
        """Answer no more, and remove the file: the process ended in order."""
        # Ignored from here on; without a handler the signal would end the process.
        faulthandler.unregister(DUMP)
        signal.signal(DUMP, signal.SIG_IGN)
        self._file.close()
        self._path.unlink(missing_ok=True)


def read(path: Path) -> str:
    """Return what was dumped, "" if nothing was; of a very long dump its end."""
    try:
        data = path.read_bytes()
    except OSError:
        return ""
    return data[-_MOST:].decode(errors="replace")
