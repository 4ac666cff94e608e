"""What became of the start, on disk: a new heart must not begin it again, nor forget that it is to stop."""

from pathlib import Path
from typing import Final

import msgspec

_NAME: Final = "graph.start"


class Start(msgspec.Struct, frozen=True):
    """The end of a start: the graph was up once, or it was given up."""

    #: pid and start time of the root that it is about; what another root left means nothing
    root: tuple[int, int]
    #: whether every part was up at one time
    ready: bool
    #: why it was given up, or empty
    failed: str
    #: until when a stop may drain, in monotonic seconds of this machine; None while nobody has asked for one
    drain_until: float | None = None


def read_start(pid_dir: Path, root: tuple[int, int]) -> Start:
    """Return what became of the start under this root; nothing yet, if there is no readable word of it."""
    try:
        found = msgspec.json.decode((pid_dir / _NAME).read_bytes(), type=Start)
    except (OSError, msgspec.DecodeError):
        found = None
    return found if found is not None and found.root == root else Start(root, ready=False, failed="")


def write_start(pid_dir: Path, start: Start) -> None:
    """Record it, complete or not at all."""
    draft = pid_dir / f"{_NAME}.draft"
    draft.write_bytes(msgspec.json.encode(start))
    draft.replace(pid_dir / _NAME)
