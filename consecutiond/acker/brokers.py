"""The acker's view of the brokers: who they are, what they may be sent, and which of their reports were applied."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from consecutiond.acker.lanes import Entry, Ready
from consecutiond.acker.stores.base import StoreError
from consecutiond_broker import codec, wire
from consecutiond_broker.errors import WireError
from consecutiond_broker.ids import name_salt


class Edge:
    """One edge's broker."""

    __slots__ = ("applied", "confirmed", "epoch", "greeting", "hint", "limit", "name", "peer", "salt", "sent", "unsent")

    def __init__(self, name: str) -> None:
        self.name = name
        self.salt = name_salt(name)
        self.peer = b""
        #: of its greetings the one that was answered last
        self.greeting = 0
        self.epoch = self.limit = self.sent = 0
        #: the last report that was applied, and the last of which the broker knows that
        self.applied = self.confirmed = 0
        self.hint = 1
        #: ``(count, frames, attempt, accepted_ms)``
        self.unsent: deque[tuple[int, list[bytes], int, int]] = deque()


class Brokers:
    """All brokers. Pure but for `send`.

    Args:
        send: ``(peer, head, frames)``; tells whether the peer is there.
        reach: for every edge the edges at which a root can enter and reach it, itself among them.
        acker_epoch: goes with every batch.
    """

    def __init__(self, send: Callable[..., bool], reach: Mapping[str, tuple[str, ...]], acker_epoch: int) -> None:
        self._send, self._reach, self._acker_epoch = send, reach, acker_epoch
        self.edges = {name: Edge(name) for name in reach}
        #: edges whose broker has not greeted this acker yet. Nothing is emitted before all have: a root that is on its
        #: way when a broker greets has to be tried anew, since nobody can say what an earlier broker had of it.
        self.missing = set(reach)

    def refuse_strangers(self, entries: Iterable[Entry]) -> None:
        """Check that every root of the log can enter somewhere.

        Raises:
            StoreError: the log was written for another graph.
        """
        strangers = sorted({name for entry in entries for name in entry if name not in self.edges})
        if strangers:
            raise StoreError(
                f"the log holds roots that enter at {', '.join(strangers)}, which this graph does not have. Probably "
                "the graph was changed while they were open: let the old one finish them, or remove the log."
            )

    def join(self, peer: bytes, head: wire.EdgeJoin) -> frozenset[str]:
        """Admit a broker; return the edges at which the roots entered that it, or an earlier one, may have lost.

        Raises:
            WireError: it is none of ours, or a newer one has greeted.
        """
        edge = self.edges.get(head.edge)
        if edge is None:
            raise WireError(f"there is no edge {head.edge!r}")
        if head.version != wire.VERSION or head.epoch < edge.epoch:
            raise WireError(f"a broker of {head.edge} with epoch {head.epoch}, version {head.version} is fenced")
        if head.epoch == edge.epoch and 0 < head.greeting <= edge.greeting:
            # It comes twice; what was sent since then is not lost.
            return frozenset()
        if head.epoch > edge.epoch:
            edge.applied = edge.confirmed = 0
        edge.greeting = head.greeting
        edge.peer, edge.epoch, edge.limit, edge.hint, edge.sent = peer, head.epoch, head.limit, head.hint, 0
        entries = frozenset(self._reach[head.edge])
        for name in entries:
            self.edges[name].unsent.clear()
        self.missing.discard(edge.name)
        return entries

    def welcome(self, name: str) -> None:
        """Tell a broker who we are and where it stands."""
        edge = self.edges[name]
        self._send(edge.peer, wire.EdgeJoined(self._acker_epoch, edge.applied, edge.greeting))

    def of(self, peer: bytes) -> Edge | None:
        """Return the edge whose broker this is."""
        edge = self.edges.get(peer[2:].decode(errors="replace"))
        return edge if edge is not None and edge.peer == peer else None

    # --- batches ---------------------------------------------------------------------------------------------

    def free(self, entry: Entry) -> bool:
        """Whether nothing waits for credit at any of these edges."""
        return not any(self.edges[name].unsent for name in entry)

    def unsent(self) -> bool:
        """Whether anything waits for credit anywhere."""
        return any(edge.unsent for edge in self.edges.values())

    def hand_over(self, edge: Edge, roots: bytes, ids: bytes, ready: Ready) -> None:
        """Send roots, in batches of the size that the edge's receivers can use, as far as its credit goes."""
        count, per, born = len(roots) // 8, max(1, edge.hint), (ready.attempt, ready.accepted_ms)
        if count <= per:
            edge.unsent.append((count, [roots, ids, ready.body], *born))
        else:
            values = codec.split(ready.body)
            for start in range(0, count, per):
                stop = min(start + per, count)
                part = [roots[8 * start : 8 * stop], ids[8 * start : 8 * stop], codec.join(values[start:stop])]
                edge.unsent.append((stop - start, part, *born))
        self._send_batches(edge)

    def grant(self, peer: bytes, head: wire.Grant) -> None:
        """Take a broker's credit, and use it."""
        edge = self.of(peer)
        if edge is not None and (edge.epoch, edge.greeting) == (head.broker_epoch, head.greeting):
            # Credit only rises between two greetings; less comes from a message that has been overtaken.
            edge.limit, edge.hint = max(edge.limit, head.limit), head.hint
            self._send_batches(edge)

    def _send_batches(self, edge: Edge) -> None:
        while edge.unsent and edge.sent < edge.limit:
            count, frames, attempt, accepted_ms = edge.unsent[0]
            head = wire.Batch(edge.epoch, edge.sent + 1, self._acker_epoch, count, attempt, accepted_ms)
            if not self._send(edge.peer, head, *frames):
                # The broker is gone; its successor's greeting retries every root that entered here.
                return
            edge.unsent.popleft()
            edge.sent += 1

    # --- reports ---------------------------------------------------------------------------------------------

    def new_reports(self, peer: bytes, head: wire.Reports) -> Iterator[int]:
        """Yield the places of the reports that are to be applied; each counts as applied from then on."""
        edge = self.of(peer)
        if edge is None or edge.epoch != head.broker_epoch:
            return
        for place, acker_epoch in enumerate(head.acker_epochs):
            seq = head.first + place
            if seq <= edge.applied:
                # XOR is not idempotent: a report that comes twice is applied once.
                continue
            edge.applied = seq
            if acker_epoch in (self._acker_epoch, wire.UNTRACKED):
                yield place

    def confirm(self) -> None:
        """Tell the brokers which reports they may forget."""
        for edge in self.edges.values():
            if edge.applied != edge.confirmed:
                edge.confirmed = edge.applied
                self._send(edge.peer, wire.Applied(edge.epoch, edge.applied))

    # --- backstop --------------------------------------------------------------------------------------------

    def probe(self, number: int) -> None:
        """Ask every broker what it holds."""
        for edge in self.edges.values():
            self._send(edge.peer, wire.Probe(number))
