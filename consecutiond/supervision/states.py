"""What the parts of supervision share: program, root options, names, exit codes; imports nothing."""

from dataclasses import dataclass, field
from typing import Final

#: the program that the root's signals go to and that the root restarts by itself
HEART: Final = "heart"
#: the name of the root itself, in its pid file
ROOT: Final = "root"

#: exit code of the root: it ended in order
EXIT_OK: Final = 0
#: exit code of the root: its configuration is not usable, or its socket is taken
EXIT_BAD_CONF: Final = 2
#: exit code of a worker: its target could not be loaded, or its `begin` raised
EXIT_START_FAILED: Final = 3
#: exit code of any part: a newer incarnation of it is running
EXIT_FENCED: Final = 4
#: exit code of the root: the graph did not come up; the same as the command line's
EXIT_NOT_UP: Final = 6
#: exit code of any part, the root included: its parent was gone before it could bind its life to it
EXIT_ORPHAN: Final = 5


@dataclass(frozen=True)
class Program:
    """One process under the root; never part of a group, since a group cannot grow while it runs."""

    #: unique; no white space, none of ``: / [ ] %``
    name: str
    #: the command line; its first element is an absolute path, or looked up in PATH
    argv: tuple[str, ...]
    #: what is added to the root's environment
    env: dict[str, str] = field(default_factory=dict)
    #: whether the root restarts it by itself; only the heart is
    autorestart: bool = False
    #: a lower one is started earlier and stopped later; those that are equal are stopped together
    priority: int = 500
    #: seconds between TERM and KILL when it is stopped
    stop_wait_s: int = 10


@dataclass(frozen=True)
class RootOptions:
    """What the root's configuration says beside its programs."""

    #: the working directory of every program, absolute
    directory: str
    #: bytes after which the log of the root, and of each program's accidental output, is rotated
    log_max_bytes: int = 10 << 20
    #: rotated logs that are kept, for each log
    log_backups: int = 1
    #: one of supervisor's: critical, error, warn, info, debug, trace, blather
    log_level: str = "info"
    #: attempts to start a program that cannot even be executed
    start_retries: int = 3
