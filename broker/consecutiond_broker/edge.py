"""One edge as a pure policy: bounded queue, dispatch, custody and redelivery. It knows no sockets and no values.

Every batch that was accepted is owned by this edge until the receiver's settlement: it is either in the queue or in
the custody of exactly one receiver. Credit bounds both sides. A sender may run ``window`` batches ahead of what has
left the queue; a receiver says how many deliveries it will take in all.
"""

import math
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from consecutiond_broker import codec, spans
from consecutiond_broker.cell import ALL, BETWEEN, Remains
from consecutiond_broker.errors import CodecError
from consecutiond_broker.wire import UNTRACKED

#: bytes of an item that is told with its failure
_MOST_TOLD: Final = 1 << 20
#: A batch that any receiver may have.
ANY: Final = -1
#: Items per batch asked of senders before any receiver has said what it can take.
FIRST_HINT: Final = 16


class Source:
    """One incarnation of a sender. ``accepted`` counts its batches, ``taken`` those that left the queue."""

    __slots__ = ("accepted", "epoch", "granted", "taken")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.accepted = 0
        self.taken = 0
        self.granted = (0, 0, 0)


class Batch:
    """A batch in this edge's custody: raw frames, whose acker epoch and count are all that is looked at.

    ``born`` is ``(attempt, accepted_ms, spans, path)`` of the head, passed on as it is. ``skip`` are the positions of
    items that are over: settled by a receiver that holds the others, or suspected of a crash.
    """

    __slots__ = ("acker_epoch", "born", "count", "frames", "partition", "skip", "source")

    def __init__(
        self,
        acker_epoch: int,
        count: int,
        frames: list[bytes],
        source: Source | None = None,
        born: tuple[int, int, bytes, tuple[str, ...]] = (1, 0, b"", ()),
        partition: int = ANY,
    ) -> None:
        self.acker_epoch = acker_epoch
        self.count = count
        self.frames = frames
        self.source = source
        self.born = born
        #: the number of the only receiver that may have it
        self.partition = partition
        self.skip: tuple[int, ...] = ()

    def item(self, position: int) -> bytes:
        """Return one of its items as a batch of one; no bytes if it is too large to be told with a failure."""
        try:
            item = codec.join([codec.split(self.frames[2])[position]])
        except (CodecError, IndexError):
            # Its sender was no worker of ours, or had a bug; the failure is told all the same.
            return b""
        return item if len(item) <= _MOST_TOLD else b""

    @property
    def untracked(self) -> bool:
        """Whether nobody tracks its items: none of them may be processed twice."""
        return self.acker_epoch == UNTRACKED

    def roots(self, positions: set[int]) -> bytes:
        """Return the root keys of some of its items; when they are not tracked, as many zeros."""
        if self.untracked:
            return bytes(8 * len(positions))
        return spans.of_items(self.frames[0], self.born[2], positions, self.count)


class Receiver:
    """One incarnation of a worker that takes from this edge. ``parked`` are the deliveries that its node holds."""

    __slots__ = ("delivered", "epoch", "held", "hint", "limit", "parked", "partition", "reachable", "window")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.delivered = 0
        self.limit = 0
        #: deliveries in its custody at once. Its limit alone would let them grow: a delivery that it had not read when
        #: it greeted anew has failed here, and yet it settles and counts that.
        self.window: float = math.inf
        self.hint = FIRST_HINT
        self.held: dict[int, Batch] = {}
        self.parked: set[int] = set()
        #: its number among the receivers
        self.partition = ANY
        self.reachable = True

    @property
    def load(self) -> int:
        """Deliveries that it works on, or will."""
        return len(self.held) - len(self.parked)

    @property
    def has_credit(self) -> bool:
        """Whether it takes one more."""
        return self.reachable and self.delivered < self.limit and self.load < self.window


class Verdict(NamedTuple):
    """What becomes of the batches that a lost receiver held."""

    #: the batch, and the position of the item that is suspected of the crash (-1: none, and no attempt is charged;
    #: ALL: any; BETWEEN: none was in execution, though the batch was)
    failed: list[tuple[Batch, int]]
    #: the batch, and the position of the suspect; without it the batch goes to another receiver in the same trees
    redelivered: list[tuple[Batch, int]]
    #: untracked batches, and the positions of items before the suspect, whose outputs are gone with the receiver
    lost: list[tuple[Batch, set[int]]]


class Edge:
    """The state of one edge.

    Args:
        window: batches that each sender may have in the queue.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.queue: deque[Batch] = deque()
        #: batches that only one receiver may have, by its number
        self.keyed: dict[int, deque[Batch]] = {}
        self.sources: dict[bytes, Source] = {}
        self.receivers: dict[bytes, Receiver] = {}
        self.activity = 0
        #: the newest acker that is known; batches of older ones are dropped
        self.acker_epoch = 0
        self._deliveries = 0
        self._turn: deque[bytes] = deque()

    # --- senders ---------------------------------------------------------------------------------------------

    def join_source(self, peer: bytes, epoch: int) -> Source | None:
        """Admit a sender; a known incarnation keeps its count. None: a newer one is known, this one is fenced."""
        known = self.sources.get(peer)
        if known is not None and known.epoch > epoch:
            return None
        if known is None or known.epoch < epoch:
            known = self.sources[peer] = Source(epoch)
        return known

    def leave_source(self, peer: bytes, epoch: int) -> None:
        """Forget a sender; its queued batches stay, and so does a newer incarnation."""
        source = self.sources.get(peer)
        if source is not None and source.epoch <= epoch:
            del self.sources[peer]

    def offer(self, peer: bytes, seq: int, batch: Batch, epoch: int = 0) -> bool:
        """Take a batch into custody, if it is the sender's next one; anything else it will send again.

        Args:
            peer: the sender.
            seq: the number of the batch.
            batch: the batch.
            epoch: which incarnation has sent it; a fenced one may still have the connection. 0: there is only one.
        """
        source = self.sources.get(peer)
        if source is None or seq != source.accepted + 1 or epoch not in (0, source.epoch):
            return False
        source.accepted = seq
        self.enqueue(source, batch)
        return True

    def enqueue(self, source: Source, batch: Batch) -> None:
        """Put an accepted batch into the queue, unless its acker is dead: then nobody tracks it any more."""
        self.activity += 1
        if batch.acker_epoch < self.acker_epoch:
            source.taken += 1
            return
        batch.source = source
        self._queue_of(batch).append(batch)

    def _queue_of(self, batch: Batch) -> deque[Batch]:
        return self.queue if batch.partition == ANY else self.keyed.setdefault(batch.partition, deque())

    @property
    def queued(self) -> int:
        """Batches in the queue."""
        return len(self.queue) + sum(map(len, self.keyed.values()))

    @property
    def hint(self) -> int:
        """Items per batch that suit the slowest receiver."""
        return min((r.hint for r in self.receivers.values()), default=FIRST_HINT)

    def grants(self) -> Iterator[tuple[bytes, int, int, int]]:
        """Yield ``(sender, accepted, limit, hint)`` for every sender whose grant has changed since the last call."""
        hint = self.hint
        for peer, source in self.sources.items():
            grant = (source.accepted, source.taken + self.window, hint)
            if grant != source.granted:
                source.granted = grant
                yield peer, *grant

    # --- receivers -------------------------------------------------------------------------------------------

    def join_receiver(self, peer: bytes, epoch: int, held: tuple[int, ...]) -> tuple[Receiver, list[Batch]] | None:
        """Admit a receiver at its (re)connection.

        Args:
            peer: its identity.
            epoch: its incarnation; an older one than known is fenced.
            held: the deliveries that it says are in its hands.

        Returns:
            The receiver and the batches whose fate is unknown: they were on their way, in either direction, when the
            connection broke, or their holder was replaced without a proof of its death. None for a fenced one.
        """
        known = self.receivers.get(peer)
        if known is not None and known.epoch > epoch:
            return None
        if known is None or known.epoch < epoch:
            lost = list(known.held.values()) if known else []
            known = self.receivers[peer] = Receiver(epoch)
            if peer not in self._turn:
                self._turn.append(peer)
        else:
            lost = [known.held.pop(seq) for seq in list(known.held) if seq not in held]
            known.parked &= known.held.keys()
            known.delivered = len(known.held)
        known.reachable = True
        self.activity += 1
        return known, lost

    def dispatch(self) -> Iterator[tuple[bytes, int, Batch]]:
        """Yield ``(receiver, delivery, batch)`` while there are batches and credit, the least loaded receiver first.

        Equals take turns. Every yielded batch is in the receiver's custody.
        """
        while self.queue and (peer := self._next_receiver()) is not None:
            yield self._hand_out(peer, self.queue.popleft())
        if any(self.keyed.values()):
            for peer, receiver in list(self.receivers.items()):
                mine = self.keyed.get(receiver.partition)
                while mine and receiver.has_credit:
                    yield self._hand_out(peer, mine.popleft())

    def _hand_out(self, peer: bytes, batch: Batch) -> tuple[bytes, int, Batch]:
        receiver = self.receivers[peer]
        if batch.source is not None:
            batch.source.taken += 1
            batch.source = None
        self._deliveries += 1
        receiver.delivered += 1
        receiver.held[self._deliveries] = batch
        self.activity += 1
        return peer, self._deliveries, batch

    def _next_receiver(self) -> bytes | None:
        best, load = None, 0
        for peer in self._turn:
            receiver = self.receivers[peer]
            if receiver.has_credit and (best is None or receiver.load < load):
                best, load = peer, receiver.load
        if best is not None:
            self._turn.remove(best)
            self._turn.append(best)
        return best

    def unreachable(self, peer: bytes, seq: int) -> None:
        """A delivery could not even be sent: it goes back to the head of the queue, the receiver must join anew."""
        receiver = self.receivers[peer]
        receiver.reachable = False
        receiver.delivered -= 1
        batch = receiver.held.pop(seq)
        self._queue_of(batch).appendleft(batch)

    def settle(self, peer: bytes, seq: int, epoch: int = 0) -> Batch | None:
        """Release a batch that its receiver has settled. None: it was not (or no longer) in its custody.

        Args:
            peer: the receiver.
            seq: the number of the delivery.
            epoch: which incarnation settles; a fenced one may still have the connection. 0: there is only one.
        """
        receiver = self._receiver(peer, epoch)
        if receiver is None:
            return None
        batch = receiver.held.pop(seq, None)
        receiver.parked.discard(seq)
        if batch is not None:
            self.activity += 1
        return batch

    def _receiver(self, peer: bytes, epoch: int) -> Receiver | None:
        receiver = self.receivers.get(peer)
        return receiver if receiver is not None and epoch in (0, receiver.epoch) else None

    def park(self, peer: bytes, seq: int, done: tuple[int, ...], epoch: int = 0) -> Batch | None:
        """Keep a batch of which a node holds items: those at the positions in ``done`` are over. None: not its."""
        receiver = self._receiver(peer, epoch)
        batch = receiver.held.get(seq) if receiver is not None else None
        if receiver is None or batch is None:
            return None
        batch.skip = (*batch.skip, *done)
        receiver.parked.add(seq)
        self.activity += 1
        return batch

    def bury(self, peer: bytes, remains: Remains | None) -> Verdict:
        """A receiver has died: decide what becomes of what it held.

        Args:
            peer: its identity.
            remains: what its cell says; None when nothing can be proved.

        Returns:
            Batches of which no output had left are redelivered inside the same trees, without the item that was in
            execution; the others have to be failed by the acker, since a part of their trees is already on its way.
            The redelivered ones are at the head of the queue when this returns.
        """
        receiver = self.receivers.pop(peer, None)
        if receiver is None:
            return Verdict([], [], [])
        self._turn.remove(peer)
        verdict = Verdict([], [], [])
        for seq, batch in sorted(receiver.held.items()):
            suspect = remains.position if remains is not None and remains.delivery == seq else -1
            if suspect >= batch.count and suspect != ALL:
                suspect = -1
            if suspect == ALL:
                verdict.failed.append((batch, ALL))
                continue
            if batch.untracked and suspect >= 0:
                verdict.lost.append((batch, set(range(suspect)).difference(batch.skip)))
                batch.skip = tuple({*batch.skip, *range(suspect)})
            elif suspect == -1 and remains is not None and remains.delivery == seq:
                verdict.failed.append((batch, BETWEEN))
                continue
            elif remains is None or seq <= remains.outputs:
                verdict.failed.append((batch, suspect))
                continue
            if suspect >= 0:
                batch.skip = (*batch.skip, suspect)
            verdict.redelivered.append((batch, suspect))
        for batch, _ in reversed(verdict.redelivered):
            if len(batch.skip) < batch.count:
                self._queue_of(batch).appendleft(batch)
        self.activity += 1
        return verdict

    def purge(self, acker_epoch: int) -> int:
        """Drop queued batches of older acker epochs, whose trees nobody tracks any more; return how many."""
        self.acker_epoch = acker_epoch
        dropped = [
            each for queue in (self.queue, *self.keyed.values()) for each in queue if each.acker_epoch < acker_epoch
        ]
        for batch in dropped:
            self._queue_of(batch).remove(batch)
            if batch.source is not None:
                batch.source.taken += 1
        self.activity += 1
        return len(dropped)

    @property
    def held(self) -> int:
        """Batches that receivers work on."""
        return sum(receiver.load for receiver in self.receivers.values())

    @property
    def items(self) -> tuple[int, int]:
        """Items in the queue, and items in the custody of receivers; other threads may ask, too."""
        # Lists, made in one step, because the edge goes on meanwhile.
        queued = [each for queue in (self.queue, *list(self.keyed.values())) for each in list(queue)]
        held = [each for receiver in list(self.receivers.values()) for each in list(receiver.held.values())]
        waiting, working = (sum(each.count - len(set(each.skip)) for each in part) for part in (queued, held))
        return waiting, working

    @property
    def parked(self) -> int:
        """Batches of the living acker that nodes hold."""
        return sum(
            receiver.held[seq].acker_epoch >= self.acker_epoch
            for receiver in self.receivers.values()
            for seq in receiver.parked
        )
