"""The one tree of exceptions that this project raises; every floor hangs its own on it."""


class ConsecutiondError(Exception):
    """Anything this project raises on purpose: its text says what, where, why and what to do."""


class WireError(ConsecutiondError):
    """A peer sent frames that are not of the protocol; they are counted and dropped, the peer stays."""


class CodecError(ConsecutiondError):
    """A value cannot be carried by the codec of the consecutor."""


class FencedError(ConsecutiondError):
    """A newer incarnation of this part is running; this one may do nothing more."""
