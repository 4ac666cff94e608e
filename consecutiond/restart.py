"""A rolling restart as it is asked for and told: what the command line and the heart say to each other."""

from typing import Literal

import msgspec

#: what became of it: `under way`; `done`; `failed`: a successor did not come up, or a part could not be ended;
#: `broken off`: the consecutor is not up, is stopped, or its heart died; `busy`: with another restart; `unknown`: there
#: is no such part
Outcome = Literal["under way", "done", "failed", "broken off", "busy", "unknown"]


class Request(msgspec.Struct, frozen=True):
    """Restart the parts of a node; or tell how far that is."""

    #: drawn by whoever asks; the same one again is the same restart
    token: str
    #: the name of the node, `output` or `input`; empty: all nodes, from the top of the graph
    node: str = ""
    #: seconds that each part may take to end; None: as long as a stop of the consecutor may take
    end_s: float | None = None
    #: false: only tell
    begin: bool = True


class Progress(msgspec.Struct, frozen=True):
    """How far it is."""

    outcome: Outcome
    #: why it is not done, or empty
    error: str = ""
    #: parts whose successors are up, in order
    restarted: tuple[str, ...] = ()
    #: parts that did not end in time and were killed
    killed: tuple[str, ...] = ()
    #: the part at which it is, or at which it ended before its time
    at: str = ""
    #: parts that were not touched yet
    left: tuple[str, ...] = ()
