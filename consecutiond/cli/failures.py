"""What the command line says about an error, and which exit code it becomes."""

import sys

from consecutiond.acker.stores import StoreError
from consecutiond.cli import exits
from consecutiond.cli.choosing import ChoiceError
from consecutiond.config import ConfigError
from consecutiond.control import ControlError
from consecutiond.feeder import GoneError
from consecutiond.inputs.errors import InputError, InputUriError
from consecutiond.operator import OperatorError, RefusedRequestError
from consecutiond.rundir import RunDirError
from consecutiond.runtime import StartError
from consecutiond.supervision.supervisord import SupervisorError
from consecutiond_broker.errors import CodecError, ConsecutiondError
from consecutiond_broker.recorder import RefusedError
from consecutiond_nodes.errors import GraphError, NodeError, PictureError, TargetError
from consecutiond_nodes.remote import AwayError, ConnectError, TurnedAwayError

_CODES: tuple[tuple[type[ConsecutiondError], int], ...] = (
    (RunDirError, exits.BAD_DIRECTORY),
    (StartError, exits.START_FAILED),
    (SupervisorError, exits.START_FAILED),
    (RefusedError, exits.STOPPED),
    (GoneError, exits.STOPPED),
    (ControlError, exits.NOT_RUNNING),
    (OperatorError, exits.NOT_RUNNING),
    (RefusedRequestError, exits.STOPPED),
    (StoreError, exits.START_FAILED),
    (ChoiceError, exits.USAGE),
    (AwayError, exits.NOT_RUNNING),
    (TurnedAwayError, exits.TURNED_AWAY),
    (ConnectError, exits.USAGE),
    (CodecError, exits.USAGE),
    (InputError, exits.USAGE),
    (InputUriError, exits.USAGE),
    (PictureError, exits.USAGE),
    (ConfigError, exits.BAD_TARGET),
    (GraphError, exits.BAD_TARGET),
    (NodeError, exits.BAD_TARGET),
    (TargetError, exits.BAD_TARGET),
)


def explain(error: BaseException) -> int | None:
    """Print an error of ours on stderr, the user's own traceback first; return its exit code.

    Returns:
        None when the error is not one of ours: then it is the user's, or a bug, and its traceback is wanted.
    """
    if not isinstance(error, ConsecutiondError):
        return None
    traceback = getattr(error, "user_traceback", "")
    if traceback:
        print(traceback.rstrip(), file=sys.stderr)
    print(f"consecutiond: error: {error}", file=sys.stderr)
    return next((code for kind, code in _CODES if isinstance(error, kind)), exits.BAD_TARGET)
