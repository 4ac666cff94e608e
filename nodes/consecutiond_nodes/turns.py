"""`begin` and `end` of a node, driven by the acker; what they push becomes roots that enter after the node."""

import logging
from collections.abc import Callable
from typing import Protocol

import zmq

from consecutiond_broker import wire
from consecutiond_broker.dealer import Dealer
from consecutiond_broker.errors import WireError
from consecutiond_broker.recorder import WINDOW, Recorder, RefusedError
from consecutiond_nodes.job import Errand
from consecutiond_nodes.outbox import Buffer
from consecutiond_nodes.ports import Context, Who
from consecutiond_nodes.raised import user_traceback

log = logging.getLogger("consecutiond.worker")


class Runner(Protocol):
    """What turns need of the worker whose node takes them."""

    stopping: bool

    def wait(self) -> None:
        """Read what arrives, for a second at the utmost."""


class Turns:
    """A worker's line to the acker: which turns its node has taken, and the recorder of what was pushed in them.

    Args:
        context: the process's ZeroMQ context.
        acker_uri: where the acker listens.
        node: the node's name.
        who: the worker's identity.
        most: items in one batch of what is recorded.
        runner: the worker.
        poller: wakes the worker for what the acker says.
        tracked: what is pushed is recorded; else it goes straight to the brokers.
    """

    def __init__(
        self, context: Context, acker_uri: str, node: str, who: Who, most: int, runner: Runner, poller: zmq.Poller,
        *, tracked: bool = True,
    ) -> None:  # fmt: skip
        self._context, self._acker_uri, self._poller, self._runner = context, acker_uri, poller, runner
        self._node, self._who, self._most = node, who, most
        self._errand = None if tracked else Errand()
        #: whether the newest turn was an `end`: a node that has ended works no more
        self.ended = False
        #: the turn that the acker has asked for
        self.asked: wire.Turn | None = None
        self._round = 0
        self._done: list[bytes] | None = None
        self._greetings = 0
        self._recorder: Recorder | None = None
        self.acker = Dealer(context, acker_uri, f"N:{who.identity}".encode(), self._greet)
        self.acker.register(poller)

    def _greet(self) -> list[bytes]:
        who = self._who
        self._greetings += 1
        state = -self._round if self.ended else self._round
        return [wire.pack(wire.NodeJoin(wire.VERSION, self._node, who.name, who.epoch, state))]

    def pump(self) -> None:
        """Read what the acker says."""
        self.acker.check_connection()
        for frames in self.acker.messages(10):
            self._receive(wire.unpack(frames))
        if self._recorder is not None:
            self._recorder.pump()

    def _receive(self, head: wire.Head) -> None:
        if not isinstance(head, wire.Turn):
            raise WireError(f"the acker sent {type(head).__name__} to a worker")
        if (head.what == "end") == self.ended and head.round == self._round and self._done is not None:
            self.acker.send(self._done)
        else:
            self.asked = head

    def take(self, turn: wire.Turn, run: Callable[[], None], buffers: list[Buffer]) -> None:
        """Run `begin` or `end`, record what it has pushed, and tell the acker."""
        greetings, raised = self._greetings, ""
        try:
            run()
            self.record_all(buffers)
        except BaseException as error:  # the user's code; the acker carries its traceback to whoever waits
            log.exception("node.%s_raised", turn.what)
            raised = user_traceback(error)
            for buffer in buffers:
                buffer.clear()
        if self._outstanding:
            # We stop, and not all is recorded. The acker must not go on: our successor takes this turn again.
            return
        if self.asked == turn:
            self.asked = None
        self.ended, self._round = turn.what == "end", turn.round
        who = self._who
        done = wire.TurnDone(turn.what, turn.round, self._node, who.name, who.epoch, raised, self._lost())
        self._done = [wire.pack(done)]
        self.acker.send(self._done)
        if self._greetings != greetings:
            # The acker, perhaps a new one, was greeted in the middle and knows a state that is past.
            self.acker.send(self._greet())

    def _lost(self) -> int:
        """Return how many untracked values went down with a broker since the last turn."""
        if self._errand is None:
            return 0
        lost, self._errand.lost = self._errand.lost, 0
        return lost

    @property
    def _outstanding(self) -> int:
        if self._errand is not None:
            return self._errand.waiting
        return self._recorder.outstanding if self._recorder is not None else 0

    def record_all(self, buffers: list[Buffer]) -> None:
        """Record everything that waits, and wait for the receipts."""
        for buffer in buffers:
            self.record(buffer)
        self._wait_below(1)

    def record(self, buffer: Buffer) -> None:
        """Values pushed outside `process` have no parent: they become roots, recorded before they travel."""
        if not len(buffer):
            return
        if self._errand is not None:
            buffer.send_untracked(self._errand)
            self._wait_below(WINDOW)
            return
        if self._recorder is None:
            self._recorder = Recorder(self._context, self._acker_uri, inside=True)
            self._recorder.register(self._poller)
        entry = tuple(port.edge for port in buffer.ports)
        for start, stop, body in buffer.messages(self._most):
            self._recorder.append(body, stop - start, entry)
            self._wait_below(WINDOW)
        buffer.clear()

    def _wait_below(self, most: int) -> None:
        """Wait until fewer batches are without a receipt.

        Raises:
            RefusedError: the acker takes no more.
        """
        while self._outstanding >= most and not self._runner.stopping:
            if self._recorder is not None and self._recorder.refused:
                raise RefusedError(self._recorder.refused)
            self._runner.wait()

    def close(self) -> None:
        """Close the connections."""
        self.acker.close()
        if self._recorder is not None:
            self._recorder.close()
