"""An edge under random histories: every batch that it accepted is in exactly one place until it is over."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consecutiond_broker.cell import ALL, BETWEEN, Remains
from consecutiond_broker.edge import ANY, Batch, Edge, Receiver
from tests.simulation.machine import long, short

SENDERS, RECEIVERS = (b"up.0", b"up.1"), (b"down.0", b"down.1", b"down.2")
EDGE_WINDOW, WORKER_WINDOW = 3, 2


class Edges(RuleBasedStateMachine):
    """Senders and receivers that come, die and come again; those of the past may speak, too."""

    @initialize()
    def begin(self) -> None:
        self.edge = Edge(EDGE_WINDOW)
        self.accepted: list[Batch] = []
        self.over: set[int] = set()
        #: every delivery that there was, to whom
        self.deliveries: list[tuple[bytes, int]] = []
        #: batches of which an output has left: they may never be delivered again
        self.spent: set[int] = set()
        for peer in SENDERS:
            self.edge.join_source(peer, 1)
        for peer in RECEIVERS:
            self.admit(peer, 1, ())

    def end(self, *batches: Batch) -> None:
        for batch in batches:
            assert id(batch) not in self.over, "over twice"
            self.over.add(id(batch))

    # --- senders ---------------------------------------------------------------------------------------------

    @rule(peer=st.sampled_from(SENDERS), epoch=st.integers(1, 4))
    def sender_joins(self, peer: bytes, epoch: int) -> None:
        known = self.edge.sources.get(peer)
        source = self.edge.join_source(peer, epoch)
        assert (source is None) == (known is not None and known.epoch > epoch), "an older incarnation is fenced"
        if known is not None and known.epoch == epoch:
            assert source is known, "a connection that broke starts no count anew"

    @rule(peer=st.sampled_from(SENDERS), epoch=st.integers(1, 4))
    def sender_leaves(self, peer: bytes, epoch: int) -> None:
        self.edge.leave_source(peer, epoch)

    @rule(
        peer=st.sampled_from(SENDERS), step=st.sampled_from([1, 1, 1, 0, 2]), count=st.integers(1, 3),
        epoch=st.integers(1, 3), partition=st.sampled_from([ANY, ANY, 0]),
    )  # fmt: skip
    def sender_offers(self, peer: bytes, step: int, count: int, epoch: int, partition: int) -> None:
        """A step of 0 is a repetition, one of 2 leaves a gap."""
        source = self.edge.sources.get(peer)
        seq = step + (source.accepted if source is not None else 0)
        if source is not None and seq > source.taken + EDGE_WINDOW:
            return
        batch = Batch(epoch, count, [bytes(8 * count), b"", b""], partition=partition)
        late = epoch < self.edge.acker_epoch
        assert self.edge.offer(peer, seq, batch) == (source is not None and step == 1)
        if source is not None and step == 1:
            self.accepted.append(batch)
            if late:
                self.end(batch)

    # --- receivers -------------------------------------------------------------------------------------------

    def admit(self, peer: bytes, epoch: int, held: tuple[int, ...]) -> tuple[Receiver, list[Batch]] | None:
        answer = self.edge.join_receiver(peer, epoch, held)
        if answer is not None:
            receiver = answer[0]
            receiver.limit, receiver.partition = len(receiver.parked) + WORKER_WINDOW, int(peer[-1:])
            receiver.window = WORKER_WINDOW
        return answer

    @rule(peer=st.sampled_from(RECEIVERS), epoch=st.integers(1, 4), data=st.data())
    def receiver_joins(self, peer: bytes, epoch: int, data: st.DataObject) -> None:
        known = self.edge.receivers.get(peer)
        had = set(known.held) if known is not None else set()
        held = tuple(data.draw(st.sets(st.sampled_from(sorted(had))))) if had else ()
        answer = self.admit(peer, epoch, held)
        assert (answer is None) == (known is not None and known.epoch > epoch), "an older incarnation is fenced"
        if answer is None:
            return
        _, lost = answer
        self.end(*lost)
        same = known is not None and known.epoch == epoch
        assert len(lost) == len(had) - (len(held) if same else 0)

    @rule(most=st.integers(1, 6))
    def dispatch(self, most: int) -> None:
        for (peer, seq, batch), _ in zip(self.edge.dispatch(), range(most), strict=False):
            assert id(batch) not in self.spent, "its outputs have left, and it is delivered again in the same trees"
            assert batch.partition in (ANY, int(peer[-1:]))
            assert len(batch.skip) < batch.count
            self.deliveries.append((peer, seq))

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data(), peer=st.sampled_from([*RECEIVERS, None]), counts=st.booleans())
    def receiver_settles(self, data: st.DataObject, peer: bytes | None, counts: bool) -> None:
        """Anybody may settle anything, but only what is in its custody counts."""
        owner, seq = data.draw(st.sampled_from(self.deliveries))
        peer = peer or owner
        receiver = self.edge.receivers.get(peer)
        batch = receiver.held.get(seq) if receiver is not None else None
        assert self.edge.settle(peer, seq) is batch
        if batch is not None:
            self.end(batch)
        if receiver is not None and counts:
            # Whoever settles what was lost with a connection has counted it all the same.
            receiver.limit += 1

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def receiver_parks(self, data: st.DataObject) -> None:
        peer, seq = data.draw(st.sampled_from(self.deliveries))
        batch = self.edge.park(peer, seq, ())
        if batch is not None:
            self.edge.receivers[peer].limit += 1

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def delivery_cannot_be_sent(self, data: st.DataObject) -> None:
        peer, seq = data.draw(st.sampled_from(self.deliveries))
        if (
            peer in self.edge.receivers
            and seq in self.edge.receivers[peer].held
            and not self.edge.receivers[peer].parked
        ):
            self.edge.unreachable(peer, seq)
            self.deliveries.remove((peer, seq))

    @rule(peer=st.sampled_from(RECEIVERS), data=st.data())
    def receiver_dies(self, peer: bytes, data: st.DataObject) -> None:
        receiver = self.edge.receivers.get(peer)
        held = dict(receiver.held) if receiver is not None else {}
        remains = None
        if data.draw(st.booleans()):
            numbers = [0, *held]
            position = st.sampled_from([-1, 0, 1, 2, ALL])
            remains = Remains(
                data.draw(st.sampled_from(numbers)), data.draw(position), data.draw(st.sampled_from(numbers))
            )
        verdict = self.edge.bury(peer, remains)
        failed, redelivered = [batch for batch, _ in verdict.failed], [batch for batch, _ in verdict.redelivered]
        assert {id(batch) for batch in (*failed, *redelivered)} == {id(batch) for batch in held.values()}
        for seq, batch in held.items():
            if remains is None or seq <= remains.outputs:
                assert batch in failed, "an output has left, or may have: nobody else may have it in the same tree"
                self.spent.add(id(batch))
        for batch, suspect in verdict.redelivered:
            assert suspect < 0 or suspect in batch.skip, "the suspect goes along"
            if len(batch.skip) >= batch.count:
                self.end(batch)
        assert all(suspect in (-1, ALL, BETWEEN) or suspect >= 0 for _, suspect in verdict.failed)
        self.end(*failed)

    # --- acker -----------------------------------------------------------------------------------------------

    @rule(epoch=st.integers(1, 3))
    def acker_comes(self, epoch: int) -> None:
        if epoch < self.edge.acker_epoch:
            return
        queued = [*self.edge.queue, *(each for queue in self.edge.keyed.values() for each in queue)]
        self.edge.purge(epoch)
        self.end(*(batch for batch in queued if batch.acker_epoch < epoch))

    # --- what always holds -----------------------------------------------------------------------------------

    @invariant()
    def every_batch_is_in_one_place(self) -> None:
        if not hasattr(self, "edge"):
            return
        edge = self.edge
        queued = [*edge.queue, *(each for queue in edge.keyed.values() for each in queue)]
        held = [each for receiver in edge.receivers.values() for each in receiver.held.values()]
        places = [id(batch) for batch in (*queued, *held)]
        assert len(places) == len(set(places)), "in two places"
        assert {id(batch) for batch in self.accepted} == set(places) | self.over
        assert not set(places) & self.over

    @invariant()
    def nobody_gets_more_than_it_takes(self) -> None:
        if not hasattr(self, "edge"):
            return
        for receiver in self.edge.receivers.values():
            assert receiver.load <= WORKER_WINDOW
            assert receiver.parked <= receiver.held.keys()
        for source in self.edge.sources.values():
            queued = [*self.edge.queue, *(each for queue in self.edge.keyed.values() for each in queue)]
            assert source.accepted - source.taken == sum(batch.source is source for batch in queued) <= EDGE_WINDOW


TestEdges = short(Edges, 150, 50)
TestEdgesLong = long(Edges, 1500, 100)
