"""What the program that feeds a daemon has to know; apart from the program, so that a plan imports no server."""

import msgspec


class InputOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the program ``input``."""

    part: str
    #: where clients come: ``http://…``, ``tcp://…`` or ``ipc://…``
    uri: str
    acker_uri: str
    heart_uri: str
    control_uri: str
    pid_dir: str
    heartbeat_s: float
    #: most values in a batch
    batch_items: int
    #: bytes aimed at for a batch
    batch_bytes: int
    #: bytes of the largest single value
    max_message: int
    #: seconds until the whole graph must be up
    start_timeout_s: float
