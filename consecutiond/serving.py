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


def serve(consecutor: "Consecutor", make: Callable[[Feeder], Server]) -> "Summary":
    """Run a consecutor with a server as its input; Ctrl-C is the ordinary end.

    Returns:
        What the run came to, also when another thread has ended it.
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
        while not server.wait(_LOOK_S) and not session.closed:
            if isinstance(session.feeder.error, GoneError):
                raise session.feeder.error
            if not session.ending and not session.runtime.alive():
                raise GoneError("the consecutor ended; what has a receipt is in its log")
    except KeyboardInterrupt:
        print("consecutiond: interrupted; finishing what was accepted (again to stop at once)", file=sys.stderr)
    except BaseException as error:
        consecutor.give_up(session, error)
        raise
    if session.ending or session.closed:
        # A main thread that went on now could end the process, and whoever ends the session with it.
        return consecutor.wait_over(session)
    return consecutor.down()
