"""What a broker process must know, and how any part finds its own options in the plan file."""

from pathlib import Path
from typing import TypeVar

import msgspec

from consecutiond_broker.tcp import Listen

T = TypeVar("T")


class BrokerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of one edge broker."""

    #: the name of its program
    part: str
    #: the name of the edge, ``upstream->downstream``
    edge: str
    #: where it listens for workers
    uri: str
    #: where the acker listens
    acker_uri: str
    #: where the heart listens for beats
    heart_uri: str
    #: directory of pid files, epochs and cells
    pid_dir: str
    #: batches that each sender may have in the queue
    window: int = 4
    #: batches of the acker that may be in the queue
    acker_window: int = 8
    #: seconds between heartbeats
    heartbeat_s: float = 0.5
    #: bytes; a larger message is not read
    max_message: int = 64 << 20
    #: where it listens for workers on other machines, if there are any
    listen: Listen | None = None


def load_options(plan: Path, part: str, kind: type[T]) -> T:
    """Read the options of one part from the plan file, ``{"parts": {PART: {…}}}``."""
    parts = msgspec.json.decode(plan.read_bytes(), type=dict[str, dict[str, msgspec.Raw]])["parts"]
    return msgspec.json.decode(parts[part], type=kind)
