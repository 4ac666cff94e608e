"""What the heart has to know; apart from the heart itself, so that making a plan imports no supervision."""

from typing import Any

import msgspec

from consecutiond_broker.tcp import Listen


class DoorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the heart has to know about workers on other machines."""

    listen: Listen
    #: part -> options of the worker, as plain data
    workers: dict[str, dict[str, Any]]
    #: part -> what is typed to start it
    commands: dict[str, str]


class HeartOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the heart."""

    part: str
    alive_uri: str
    control_uri: str
    acker_uri: str
    supervisor_socket: str
    pid_dir: str
    #: every part that must be up before input is read
    parts: tuple[str, ...]
    #: of these, the ones that live in the calling process and are not restarted
    local_parts: tuple[str, ...]
    #: of these, the one that feeds the acker, which is stopped before the others drain; empty if there is none
    input_part: str = ""
    #: how workers on other machines come in, if there are any; they are among `parts`, and nobody here starts them
    door: DoorOptions | None = None
    #: of these, the workers whose cells can be seen from here
    worker_parts: tuple[str, ...] = ()
    #: what can be restarted on request -> its parts: nodes from the top of the graph, then output and input. Only these
    #: parts are given up when they cannot live; without brokers and acker nothing flows at all
    restartable: dict[str, tuple[str, ...]] = {}
    #: early deaths within `restart_window_s` after which a part is given up; 0: never
    restart_limit: int = 0
    restart_window_s: float = 300.0
    #: seconds without progress after which a graph with work to do is stalled, and a worker at one item worth a word
    stall_s: float = 60.0
    start_timeout_s: float
    stop_timeout_s: float
    #: where a stop can be asked for; empty when the calling process listens there itself
    kill_uri: str = ""
    #: parts in the order in which they are killed when a stop takes too long, together those of one depth
    kill_tiers: tuple[tuple[str, ...], ...] = ()
