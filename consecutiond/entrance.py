"""Where an operator enters inputs: at the acker as any producer does, or in the log of a consecutor that is stopped."""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from consecutiond.acker.stores.base import Append, Audit, Changes, Chunk, Store
from consecutiond_broker.errors import ConsecutiondError

if TYPE_CHECKING:
    pass

#: milliseconds between two looks at whether the consecutor is still there
_LOOK_MS: Final = 200
#: seconds that batches on their way may still get their receipts after the acker has said that it takes no more
_GRACE_S: Final = 1.0

#: who enters, what the deed is called, and what was chosen
Deed = tuple[str, str, str]


class ClosedError(ConsecutiondError):
    """Nothing more can be entered; what was recorded stays."""


class Entrance(Protocol):
    """Takes batches; each is recorded once, together with its entry in the audit trail."""

    @property
    def recorded(self) -> int:
        """How many roots are in the log."""
        ...

    def put(self, body: bytes, count: int) -> None:
        """Hand a batch over; waits while the consecutor cannot take more. Raises ClosedError."""

    def finish(self) -> None:
        """Wait until all is recorded that was handed over. Raises ClosedError."""

    def close(self) -> None:
        """Let go of the consecutor."""


class LiveEntrance:
    """Enters at a running acker, as a producer of its own.

    A batch has a number, and is sent again under it when the acker was replaced; so it is recorded once.

    Args:
        uri: the acker's socket.
        alive: tells whether the consecutor runs.
        deed: what the audit trail gets with each batch.
    """

    def __init__(self, uri: str, alive: Callable[[], bool], deed: Deed) -> None:
        # Only those who need it pay for the import.
        import zmq

        from consecutiond_broker.recorder import Recorder

        self._alive, self._deed = alive, deed
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._recorder = Recorder(self._context, uri, inside=False)
        self._poller = zmq.Poller()
        self._recorder.register(self._poller)
        #: number of each batch on its way, and its roots
        self._on_way: deque[tuple[int, int]] = deque()
        self._recorded = 0
        self._refused_at = 0.0

    @property
    def recorded(self) -> int:
        """How many roots are in the log."""
        return self._recorded

    def put(self, body: bytes, count: int) -> None:
        """Hand a batch over; waits while the consecutor cannot take more."""
        from consecutiond_broker.recorder import WINDOW

        while len(self._on_way) >= WINDOW:
            self._turn()
        if self._recorder.refused:
            self.finish()
            raise ClosedError(self._recorder.refused)
        self._on_way.append((self._recorder.append(body, count, audit=self._deed), count))
        self._turn(0)

    def finish(self) -> None:
        """Wait until all is recorded that was handed over."""
        while self._on_way:
            self._turn()

    def _turn(self, wait_ms: int = _LOOK_MS) -> None:
        self._poller.poll(wait_ms)
        recorder = self._recorder
        recorder.pump()
        while self._on_way and self._on_way[0][0] <= recorder.recorded:
            self._recorded += self._on_way.popleft()[1]
        recorder.positions.clear()
        if not self._on_way:
            return
        if not self._alive():
            raise ClosedError("the consecutor ended before it had answered; what was on its way is recorded or not")
        if recorder.refused:
            self._refused_at = self._refused_at or time.monotonic()
            if time.monotonic() > self._refused_at + _GRACE_S:
                raise ClosedError(f"{recorder.refused}; what was on its way may be recorded or not")

    def close(self) -> None:
        """Say goodbye, if nothing is on its way, and close the connection."""
        if not self._on_way:
            self._recorder.end(wait=False)
        self._recorder.close()
        self._context.destroy()


class StoppedEntrance:
    """Enters in the log of a consecutor that does not run; the next start takes it up.

    Args:
        store: its log, which nobody else has.
        edge: the edge at which input enters.
        deed: what the audit trail gets with each batch.
    """

    def __init__(self, store: Store, edge: str, deed: Deed) -> None:
        self._store, self._edge, self._deed = store, edge, deed
        self.recorded = 0

    def put(self, body: bytes, count: int) -> None:
        """Record a batch."""
        now, store = time.time(), self._store
        who, what, which = self._deed
        chunk = Chunk(store.next_chunk(), store.next_position(), count, (self._edge,), body, now)
        store.commit(Changes(appends=[Append(chunk, None)], audits=[Audit(now, who, what, count, which)]))
        self.recorded += count

    def finish(self) -> None:
        """Everything is recorded already."""

    def close(self) -> None:
        """The store is whose it was."""
