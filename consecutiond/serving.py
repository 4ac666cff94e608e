"""A server as the input of a consecutor: until a signal, `down` or `stop` from elsewhere, or the consecutor's end."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from consecutiond.feeder import Feeder, GoneError
from consecutiond.inputs.opening import Server

if TYPE_CHECKING:
    from consecutiond.consecutor import Consecutor, Summary

#: seconds between looks at whether the consecutor is still there
_LOOK_S = 0.1


def serve(consecutor: "Consecutor", make: Callable[[Feeder], Server]) -> "Summary | None":
    """Run a consecutor with a server as its input; Ctrl-C is the ordinary end.

    Returns:
        What the run came to; None when another thread has ended it, which then has the summary.
    """
    session = consecutor.open_session("a server")
    try:
        server = make(session.feeder)
    except BaseException as error:
        consecutor.give_up(session, error)
        raise
    session.server = server
    server.start()
    print(f"consecutiond: {session.runtime.settings.id} takes input at {server.endpoint}", file=sys.stderr)
    try:
        while not server.wait(_LOOK_S):
            if not session.closed and not session.runtime.alive():
                raise GoneError("the consecutor ended; what has a receipt is in its log")
    except KeyboardInterrupt:
        print("consecutiond: interrupted; finishing what was accepted (again to stop at once)", file=sys.stderr)
    except BaseException as error:
        consecutor.give_up(session, error)
        raise
    if session.closed or session.ending:
        return None
    return consecutor.down()
