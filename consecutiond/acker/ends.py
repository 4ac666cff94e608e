"""How a graph ends: node by node, from the top, driven by the one process that knows that nothing more will come."""

from collections.abc import Mapping

from consecutiond_broker import wire

#: phases, in order
RUNNING, ENDING, ENDED, BEGINNING, FINISHED = "running", "ending", "ended", "beginning", "finished"


class Ends:
    """The pure state machine of `begin` and `end`.

    A node ends when no root is open above it or in it. What its `end` pushes enters after it, so the next node ends
    only when that is done too. A root that fails after its entry node has ended waits for another round.

    Args:
        nodes: the workers of each node, in topological order.
    """

    def __init__(self, nodes: Mapping[str, tuple[str, ...]]) -> None:
        self._nodes = {name: frozenset(workers) for name, workers in nodes.items()}
        self._order = tuple(nodes)
        self.phase = RUNNING
        self.round = 1
        self._ended = 0
        self._done: set[str] = set()
        #: ``(node, "begin" | "end", traceback)`` of the user's code that raised
        self.errors: list[tuple[str, str, str]] = []

    @property
    def current(self) -> str | None:
        """The node whose `end` is running."""
        return self._order[self._ended] if self.phase == ENDING and self._ended < len(self._order) else None

    def has_ended(self, node: str) -> bool:
        """Whether a root may no longer enter this node (or `output`, which never ends)."""
        if self.phase == RUNNING or node not in self._nodes:
            return False
        if self.phase == BEGINNING:
            return True
        place = self._order.index(node)
        return place < self._ended or (place == self._ended and self.phase == ENDING)

    def start(self) -> list[tuple[str, wire.Turn]]:
        """The input has ended and nothing is open: the first node ends. Returns ``(worker, message)``."""
        self.phase, self._ended = ENDING, 0
        return self._ask()

    def advance(self) -> list[tuple[str, wire.Turn]]:
        """The current node has ended and nothing is open: go on with the next."""
        self._ended += 1
        if self._ended == len(self._order):
            self.phase = ENDED
            return []
        return self._ask()

    def again(self) -> list[tuple[str, wire.Turn]]:
        """Roots wait for another round: every node begins anew."""
        self.phase, self._ended = BEGINNING, 0
        self.round += 1
        self._done = set()
        return [turn for node in self._order for turn in self._turns(node, "begin")]

    def finish(self) -> None:
        """Nothing waits: this was the last round."""
        self.phase = FINISHED

    def _ask(self) -> list[tuple[str, wire.Turn]]:
        self._done = set()
        return self._turns(self._order[self._ended], "end")

    def _turns(self, node: str, what: str) -> list[tuple[str, wire.Turn]]:
        return [(worker, wire.Turn(what, self.round)) for worker in sorted(self._nodes[node])]

    def joined(self, node: str, worker: str, state: int) -> wire.Turn | None:
        """A worker has greeted, fresh or after an interruption: return what it has to catch up with.

        Args:
            node: its node.
            worker: its name.
            state: the round that it has begun, negative if it has ended it; 0 for a fresh one, which has run `begin`.
        """
        if node == self.current and worker not in self._done:
            return wire.Turn("end", self.round)
        if self.phase == BEGINNING and worker not in self._done:
            if state < 0:
                return wire.Turn("begin", self.round)
            self._done.add(worker)
            self._all_begun()
        if self.phase == RUNNING and state < 0:
            # An acker that was killed during the end does not know how far it was: all begin again.
            self.round = max(self.round, 1 - state)
            return wire.Turn("begin", self.round)
        return None

    def done(self, message: wire.TurnDone) -> None:
        """A worker has run its `begin` or `end`."""
        expected = "begin" if self.phase == BEGINNING else "end"
        if message.round != self.round or message.what != expected or message.worker in self._done:
            return
        if message.what == "end" and message.node != self.current:
            return
        if message.traceback:
            self.errors.append((message.worker, message.what, message.traceback))
        self._done.add(message.worker)
        self._all_begun()

    def _all_begun(self) -> None:
        if self.phase == BEGINNING and self._done >= frozenset().union(*self._nodes.values()):
            self.phase = RUNNING

    def current_done(self) -> bool:
        """Whether every worker of the node that ends has run its `end`."""
        node = self.current
        return node is not None and self._done >= self._nodes[node]
