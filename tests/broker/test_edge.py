"""The edge's policy: credit, custody, turns, and what becomes of batches when somebody dies."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consecutiond_broker.cell import BETWEEN, Remains
from consecutiond_broker.edge import FIRST_HINT, Batch, Edge
from consecutiond_broker.wire import UNTRACKED

A, B, UP = b"down:a.0", b"down:a.1", b"up:in.0"
ACKER = 1


def batch(name: str = "", count: int = 3, acker_epoch: int = ACKER) -> Batch:
    return Batch(acker_epoch, count, [name.encode()])


def names(batches: Any) -> list[str]:
    return [batch.frames[0].decode() for batch in batches]


def edge_with(*receivers: bytes, limit: int = 100, window: int = 100, senders: tuple[bytes, ...] = (UP,)) -> Edge:
    edge = Edge(window)
    for sender in senders:
        edge.join_source(sender, 1)
    for receiver in receivers:
        admitted = edge.join_receiver(receiver, 1, ())
        assert admitted is not None
        admitted[0].limit = limit
    return edge


def offer(edge: Edge, *batches: Batch, peer: bytes = UP) -> None:
    for each in batches:
        assert edge.offer(peer, edge.sources[peer].accepted + 1, each)


def delivered(edge: Edge) -> list[tuple[bytes, int, str]]:
    return [(peer, seq, each.frames[0].decode()) for peer, seq, each in edge.dispatch()]


def grants(edge: Edge) -> dict[bytes, tuple[int, int, int]]:
    return {peer: (accepted, limit, hint) for peer, accepted, limit, hint in edge.grants()}


class TestSenders:
    def test_only_the_next_batch_of_a_known_sender_is_accepted(self) -> None:
        edge = edge_with()
        assert not edge.offer(b"up:stranger.0", 1, batch())
        assert not edge.offer(UP, 2, batch())
        assert edge.offer(UP, 1, batch("first"))
        assert not edge.offer(UP, 1, batch("again"))
        assert not edge.offer(UP, 3, batch())
        assert edge.offer(UP, 2, batch("second"))
        assert names(edge.queue) == ["first", "second"]

    def test_a_sender_that_reconnects_keeps_its_count(self) -> None:
        edge = edge_with()
        offer(edge, batch(), batch())
        source = edge.join_source(UP, 1)
        assert source is not None
        assert source.accepted == 2

    def test_a_new_incarnation_of_a_sender_starts_at_one_and_the_queue_stays(self) -> None:
        edge = edge_with()
        offer(edge, batch("old"))
        source = edge.join_source(UP, 2)
        assert source is not None
        assert source.accepted == 0
        assert edge.offer(UP, 1, batch("new"))
        assert names(edge.queue) == ["old", "new"]

    def test_an_older_incarnation_of_a_sender_is_fenced_and_disturbs_nobody(self) -> None:
        edge = edge_with()
        edge.join_source(UP, 2)
        offer(edge, batch())
        assert edge.join_source(UP, 1) is None
        assert edge.sources[UP].accepted == 1

    def test_the_batches_of_a_sender_that_left_stay(self) -> None:
        edge = edge_with(A)
        offer(edge, batch("last"))
        edge.leave_source(UP, 1)
        assert delivered(edge) == [(A, 1, "last")]


class TestGrants:
    def test_a_grant_is_what_left_the_queue_plus_the_window(self) -> None:
        edge = edge_with(A, limit=2, window=4)
        assert grants(edge) == {UP: (0, 4, FIRST_HINT)}
        offer(edge, batch(), batch(), batch())
        assert grants(edge) == {UP: (3, 4, FIRST_HINT)}
        delivered(edge)
        assert grants(edge) == {UP: (3, 6, FIRST_HINT)}

    def test_a_grant_that_did_not_change_is_not_repeated(self) -> None:
        edge = edge_with(A)
        grants(edge)
        assert grants(edge) == {}

    def test_the_queue_is_bounded_by_the_window_of_each_sender(self) -> None:
        """Taken + window: a sender that obeys its grant never has more than the window in the queue."""
        edge = edge_with(A, limit=5, window=3)
        for _ in range(20):
            accepted, limit = edge.sources[UP].accepted, edge.sources[UP].taken + edge.window
            if accepted < limit:
                offer(edge, batch())
            delivered(edge)
        assert len(edge.queue) == 3
        assert edge.sources[UP].accepted == 5 + 3

    def test_the_hint_is_what_suits_the_slowest_receiver(self) -> None:
        edge = edge_with(A, B)
        edge.receivers[A].hint, edge.receivers[B].hint = 100, 2
        assert edge.hint == 2
        edge.bury(B, None)
        assert edge.hint == 100
        edge.bury(A, None)
        assert edge.hint == FIRST_HINT

    def test_a_batch_that_comes_back_does_not_open_the_window_twice(self) -> None:
        edge = edge_with(A, window=4)
        offer(edge, batch())
        delivered(edge)
        edge.bury(A, Remains(1, -1, 0))
        edge.join_receiver(A, 2, ())[0].limit = 9  # type: ignore[index]
        delivered(edge)
        assert grants(edge)[UP][:2] == (1, 1 + 4)


class TestDispatch:
    def test_without_credit_nothing_is_delivered(self) -> None:
        edge = edge_with(A, limit=0)
        offer(edge, batch())
        assert delivered(edge) == []
        edge.receivers[A].limit = 1
        assert delivered(edge) == [(A, 1, "")]

    def test_a_receiver_never_gets_more_than_its_credit(self) -> None:
        edge = edge_with(A, limit=2)
        offer(edge, *(batch() for _ in range(5)))
        assert len(delivered(edge)) == 2
        edge.settle(A, 1)
        assert delivered(edge) == [], "a settlement brings credit only with its new limit"
        edge.receivers[A].limit = 3
        assert len(delivered(edge)) == 1

    def test_batches_leave_in_the_order_they_came(self) -> None:
        edge = edge_with(A)
        offer(edge, *(batch(str(n)) for n in range(5)))
        assert [name for _, _, name in delivered(edge)] == ["0", "1", "2", "3", "4"]

    def test_equally_loaded_receivers_take_turns(self) -> None:
        edge = edge_with(A, B)
        offer(edge, *(batch() for _ in range(4)))
        assert [peer for peer, _, _ in delivered(edge)] == [A, B, A, B]

    def test_idle_receivers_take_turns_across_settlements(self) -> None:
        """With one batch at a time nobody is ever loaded: still everybody gets work."""
        edge = edge_with(A, B)
        served = []
        for _ in range(4):
            offer(edge, batch())
            [(peer, seq, _)] = delivered(edge)
            served.append(peer)
            edge.settle(peer, seq)
        assert served == [A, B, A, B]

    def test_the_least_loaded_receiver_comes_first(self) -> None:
        edge = edge_with(A, B)
        offer(edge, *(batch() for _ in range(4)))
        for peer, seq, _ in delivered(edge):
            if peer == B:
                edge.settle(B, seq)
        offer(edge, batch(), batch(), batch())
        assert [peer for peer, _, _ in delivered(edge)][:2] == [B, B]

    def test_a_delivery_that_could_not_be_sent_is_first_in_the_queue_and_waits_for_a_greeting(self) -> None:
        edge = edge_with(A)
        offer(edge, batch("one"), batch("two"))
        for peer, seq, _ in edge.dispatch():
            edge.unreachable(peer, seq)
        assert names(edge.queue) == ["one", "two"]
        assert edge.held == 0
        assert delivered(edge) == []
        edge.join_receiver(A, 1, ())
        assert [name for _, _, name in delivered(edge)] == ["one", "two"]


class TestCustody:
    def test_a_batch_is_held_until_its_receiver_settles_it(self) -> None:
        edge = edge_with(A)
        offer(edge, batch("one"))
        [(_, seq, _)] = delivered(edge)
        assert edge.held == 1
        assert names([edge.settle(A, seq)]) == ["one"]
        assert edge.held == 0

    def test_nobody_settles_twice_or_what_another_holds(self) -> None:
        edge = edge_with(A, B)
        offer(edge, batch("one"))
        [(holder, seq, _)] = delivered(edge)
        assert holder == A
        assert edge.settle(B, seq) is None
        assert edge.settle(b"down:stranger.0", seq) is None
        assert edge.settle(A, seq + 1) is None
        assert edge.settle(A, seq) is not None
        assert edge.settle(A, seq) is None

    @pytest.mark.parametrize("remains", [None, Remains(0, -1, 0)])
    def test_the_dead_settle_nothing(self, remains: Remains | None) -> None:
        edge = edge_with(A)
        offer(edge, batch("one"))
        [(_, seq, _)] = delivered(edge)
        edge.bury(A, remains)
        assert edge.settle(A, seq) is None

    def test_every_change_moves_the_activity_counter(self) -> None:
        """Two looks with the same counter prove that no batch moved in between."""
        edge = edge_with(A)
        seen = [edge.activity]

        def moved() -> bool:
            seen.append(edge.activity)
            return seen[-1] > seen[-2]

        offer(edge, batch(), batch(acker_epoch=9), batch())
        assert moved()
        edge.receivers[A].limit = 1
        delivered(edge)
        assert moved()
        edge.settle(A, 1)
        assert moved()
        edge.purge(ACKER)
        assert moved()
        edge.bury(A, None)
        assert moved()
        edge.join_receiver(A, 2, ())
        assert moved()


class TestReconnection:
    def test_what_a_receiver_does_not_hold_any_more_is_handed_out_as_lost(self) -> None:
        edge = edge_with(A)
        offer(edge, batch("one"), batch("two"), batch("three"))
        delivered(edge)
        admitted = edge.join_receiver(A, 1, (2,))
        assert admitted is not None
        receiver, lost = admitted
        assert names(lost) == ["one", "three"]
        assert names(receiver.held.values()) == ["two"]

    def test_credit_counts_from_what_the_receiver_holds(self) -> None:
        edge = edge_with(A, limit=3)
        offer(edge, *(batch() for _ in range(6)))
        delivered(edge)
        edge.join_receiver(A, 1, (1,))
        assert len(delivered(edge)) == 2

    def test_a_delivery_unknown_to_the_edge_is_passed_over(self) -> None:
        edge = edge_with(A)
        admitted = edge.join_receiver(A, 1, (77,))
        assert admitted is not None
        assert admitted[1] == []
        assert edge.held == 0

    def test_an_older_incarnation_is_fenced_and_disturbs_nobody(self) -> None:
        edge = edge_with()
        edge.join_receiver(A, 2, ())[0].limit = 5  # type: ignore[index]
        offer(edge, batch())
        delivered(edge)
        assert edge.join_receiver(A, 1, ()) is None
        assert edge.held == 1
        assert edge.receivers[A].epoch == 2

    def test_a_newer_incarnation_does_not_inherit_custody(self) -> None:
        """Its predecessor may live on somewhere: what that held is lost without proof, and it settles nothing."""
        edge = edge_with(A)
        offer(edge, batch("one"))
        delivered(edge)
        admitted = edge.join_receiver(A, 2, (1,))
        assert admitted is not None
        assert names(admitted[1]) == ["one"]
        assert edge.settle(A, 1) is None

    def test_a_newer_incarnation_has_one_turn_and_not_two(self) -> None:
        edge = edge_with(A, B)
        edge.join_receiver(A, 2, ())[0].limit = 100  # type: ignore[index]
        offer(edge, *(batch() for _ in range(4)))
        assert sorted(peer for peer, _, _ in delivered(edge)) == [A, A, B, B]


class TestDeath:
    """Deliveries 1, 2 and 3 of three items each are in the hands of a worker that dies; 4 is queued."""

    @pytest.fixture
    def edge(self) -> Edge:
        edge = edge_with(A, limit=3)
        offer(edge, batch("one"), batch("two"), batch("three"), batch("four"))
        delivered(edge)
        return edge

    def test_without_a_cell_nothing_is_proven_and_everything_fails_uncharged(self, edge: Edge) -> None:
        verdict = edge.bury(A, None)
        assert [(names([b]), suspect) for b, suspect in verdict.failed] == [
            (["one"], -1), (["two"], -1), (["three"], -1)
        ]  # fmt: skip
        assert verdict.redelivered == []
        assert names(edge.queue) == ["four"]

    def test_when_no_output_has_left_everything_is_redelivered_first_and_in_order(self, edge: Edge) -> None:
        verdict = edge.bury(A, Remains(0, -1, 0))
        assert verdict.failed == []
        assert names(edge.queue) == ["one", "two", "three", "four"]
        assert [each.skip for each in edge.queue] == [(), (), (), ()]

    def test_batches_up_to_the_newest_with_outputs_fail_and_the_others_are_redelivered(self, edge: Edge) -> None:
        verdict = edge.bury(A, Remains(0, -1, 2))
        assert names(each for each, _ in verdict.failed) == ["one", "two"]
        assert names(edge.queue) == ["three", "four"]

    def test_the_suspect_is_not_processed_again_and_its_neighbours_are(self, edge: Edge) -> None:
        verdict = edge.bury(A, Remains(delivery=2, position=1, outputs=1))
        assert names(each for each, _ in verdict.failed) == ["one"]
        assert [(names([b]), suspect) for b, suspect in verdict.redelivered] == [
            (["two"], 1),
            (["three"], -1),
        ]
        assert [each.skip for each in edge.queue] == [(1,), (), ()]

    def test_the_suspect_of_a_batch_with_outputs_is_named_in_its_failure(self, edge: Edge) -> None:
        verdict = edge.bury(A, Remains(delivery=2, position=1, outputs=2))
        assert [(names([b]), suspect) for b, suspect in verdict.failed] == [(["one"], -1), (["two"], 1)]

    def test_a_position_outside_the_batch_suspects_nobody(self, edge: Edge) -> None:
        verdict = edge.bury(A, Remains(delivery=1, position=3, outputs=0))
        assert [(names([each]), suspect) for each, suspect in verdict.failed] == [(["one"], BETWEEN)]
        assert [suspect for _, suspect in verdict.redelivered] == [-1, -1]
        assert edge.queue[0].skip == ()

    @pytest.mark.parametrize("outputs", [0, 2])
    def test_a_batch_in_execution_without_an_item_in_hand_is_told_apart(self, edge: Edge, outputs: int) -> None:
        verdict = edge.bury(A, Remains(delivery=2, position=-1, outputs=outputs))
        assert (["two"], BETWEEN) in [(names([each]), suspect) for each, suspect in verdict.failed]

    def test_suspects_add_up_over_several_deaths(self, edge: Edge) -> None:
        """Three items that kill a worker each: the batch is not redelivered without an item to process."""
        delivery = 1
        for epoch, suspect in ((2, 1), (3, 0), (4, 2)):
            edge.bury(A, Remains(delivery, suspect, 0))
            edge.join_receiver(A, epoch, ())[0].limit = 1  # type: ignore[index]
            [(_, delivery, name)] = delivered(edge)
            if epoch < 4:
                assert name == "one"
        assert name == "two"
        assert "one" not in names(edge.queue)

    def test_a_redelivered_batch_has_a_new_number(self, edge: Edge) -> None:
        edge.bury(A, Remains(0, -1, 0))
        edge.join_receiver(A, 2, ())[0].limit = 1  # type: ignore[index]
        assert delivered(edge) == [(A, 4, "one")]

    def test_of_an_untracked_batch_only_what_had_not_begun_goes_to_another(self) -> None:
        edge = edge_with(A)
        offer(edge, batch("in hand", count=5, acker_epoch=UNTRACKED), batch("not begun", acker_epoch=UNTRACKED))
        delivered(edge)
        verdict = edge.bury(A, Remains(delivery=1, position=2, outputs=1))
        assert verdict.failed == []
        [(lost, positions)] = verdict.lost
        assert (names([lost]), positions) == (["in hand"], {0, 1})
        assert [(each.frames, suspect) for each, suspect in verdict.redelivered] == [
            ([b"in hand"], 2), ([b"not begun"], -1),
        ]  # fmt: skip
        assert lost.roots(positions) == bytes(16), "as many zeros as items: there are no root keys"
        assert [sorted(each.skip) for each in edge.queue] == [[0, 1, 2], []]

    def test_an_untracked_batch_that_is_done_is_given_to_nobody(self) -> None:
        edge = edge_with(A)
        offer(edge, batch("done", acker_epoch=UNTRACKED), batch("not begun", acker_epoch=UNTRACKED))
        delivered(edge)
        verdict = edge.bury(A, Remains(delivery=0, position=-1, outputs=1))
        assert (names(each for each, _ in verdict.failed), names(edge.queue)) == (["done"], ["not begun"])

    def test_only_what_the_dead_held_is_touched(self, edge: Edge) -> None:
        edge.join_receiver(B, 1, ())[0].limit = 1  # type: ignore[index]
        delivered(edge)
        edge.bury(A, None)
        assert names(edge.receivers[B].held.values()) == ["four"]

    def test_one_that_is_unknown_leaves_nothing_behind(self, edge: Edge) -> None:
        verdict = edge.bury(b"down:stranger.0", None)
        assert verdict.failed == verdict.redelivered == []
        edge.bury(A, None)
        assert edge.bury(A, None).failed == []


class TestPurge:
    def test_no_acker_has_untracked_batches_dropped(self) -> None:
        edge = edge_with()
        offer(edge, batch("free", acker_epoch=UNTRACKED))
        assert edge.purge(65_535) == 0
        offer(edge, batch("later", acker_epoch=UNTRACKED))
        assert names(edge.queue) == ["free", "later"]

    def test_queued_batches_of_other_ackers_go_and_those_in_custody_stay(self) -> None:
        edge = edge_with(A, limit=1)
        offer(edge, batch("held", acker_epoch=1), batch("old", acker_epoch=1), batch("new", acker_epoch=2))
        delivered(edge)
        assert edge.purge(2) == 1
        assert names(edge.queue) == ["new"]
        assert edge.held == 1

    def test_what_was_purged_no_longer_counts_against_its_sender(self) -> None:
        edge = edge_with(window=3)
        offer(edge, *(batch(acker_epoch=1) for _ in range(3)))
        grants(edge)
        edge.purge(2)
        assert grants(edge)[UP][:2] == (3, 6)


class Conservation(RuleBasedStateMachine):
    """Whatever happens, every accepted batch is in exactly one place: queued, held by one receiver, or gone for a
    reason that was told (settled, failed, lost, purged, all of its items crashed).
    """

    @initialize(window=st.integers(1, 4))
    def start(self, window: int) -> None:
        self.edge = Edge(window)
        self.accepted = 0
        self.gone: list[Batch] = []
        self.epochs = dict.fromkeys((A, B), 0)
        self.joined: set[bytes] = set()
        self.edge.join_source(UP, 1)
        self.acker = 1

    @rule(count=st.integers(1, 3))
    def a_sender_obeys_its_grant(self, count: int) -> None:
        source = self.edge.sources[UP]
        if source.accepted < source.taken + self.edge.window:
            assert self.edge.offer(UP, source.accepted + 1, Batch(self.acker, count, [b""]))
            self.accepted += 1

    @rule(back=st.integers(0, 3))
    def a_sender_repeats_or_skips(self, back: int) -> None:
        seq = self.edge.sources[UP].accepted + (-back if back else 2)
        assert not self.edge.offer(UP, seq, Batch(self.acker, 1, [b""]))

    @rule(peer=st.sampled_from([A, B]), limit=st.integers(0, 4))
    def a_fresh_receiver_joins(self, peer: bytes, limit: int) -> None:
        self.epochs[peer] += 1
        receiver, lost = self.edge.join_receiver(peer, self.epochs[peer], ())  # type: ignore[misc]
        receiver.limit = limit
        self.gone += lost
        self.joined.add(peer)

    @rule(peer=st.sampled_from([A, B]), data=st.data())
    def a_receiver_reconnects(self, peer: bytes, data: st.DataObject) -> None:
        if peer in self.joined:
            known = self.edge.receivers[peer].held
            held = data.draw(st.sets(st.sampled_from(sorted(known)))) if known else set()
            _, lost = self.edge.join_receiver(peer, self.epochs[peer], tuple(held))  # type: ignore[misc]
            self.gone += lost

    @rule(peer=st.sampled_from([A, B]))
    def an_old_incarnation_comes_back(self, peer: bytes) -> None:
        if peer in self.joined:
            assert self.edge.join_receiver(peer, self.epochs[peer] - 1, ()) is None

    @rule(refuse=st.booleans())
    def batches_are_handed_out(self, refuse: bool) -> None:
        for peer, seq, _ in self.edge.dispatch():
            receiver = self.edge.receivers[peer]
            assert receiver.delivered <= receiver.limit
            if refuse:
                self.edge.unreachable(peer, seq)

    @rule(peer=st.sampled_from([A, B]), seq=st.integers(1, 12), more=st.integers(0, 2))
    def a_receiver_settles(self, peer: bytes, seq: int, more: int) -> None:
        held = peer in self.joined and seq in self.edge.receivers[peer].held
        settled = self.edge.settle(peer, seq)
        assert (settled is not None) == held
        if settled is not None:
            self.edge.receivers[peer].limit += more
            self.gone.append(settled)

    @precondition(lambda self: self.joined)
    @rule(data=st.data(), proven=st.booleans())
    def a_receiver_dies(self, data: st.DataObject, proven: bool) -> None:
        peer = data.draw(st.sampled_from(sorted(self.joined)))
        held = self.edge.receivers[peer].held
        delivery, outputs = (data.draw(st.sampled_from([0, *held])) for _ in "do")
        # an item that is skipped is never in execution, so it is never suspected twice
        skipped = held[delivery].skip if delivery else ()
        suspect = data.draw(st.sampled_from([place for place in range(-1, 4) if place not in skipped]))
        remains = Remains(delivery, suspect, outputs)
        verdict = self.edge.bury(peer, remains if proven else None)
        assert proven or not verdict.redelivered
        self.gone += [each for each, _ in verdict.failed]
        self.gone += [each for each, _ in verdict.redelivered if len(set(each.skip)) == each.count]
        self.joined.discard(peer)

    @rule()
    def the_acker_is_another_one(self) -> None:
        self.acker += 1
        queued = list(self.edge.queue)
        self.edge.purge(self.acker)
        self.gone += [each for each in queued if each not in self.edge.queue]

    @invariant()
    def every_batch_is_in_exactly_one_place(self) -> None:
        held = [each for receiver in self.edge.receivers.values() for each in receiver.held.values()]
        places = [*self.edge.queue, *held, *self.gone]
        assert len(places) == len({id(each) for each in places}) == self.accepted
        assert self.edge.held == len(held)

    @invariant()
    def the_queue_is_bounded(self) -> None:
        mine = [each for each in self.edge.queue if each.source is self.edge.sources[UP]]
        assert len(mine) <= self.edge.window

    @invariant()
    def no_batch_is_redelivered_without_an_item_to_process(self) -> None:
        assert all(len(set(each.skip)) < each.count for each in self.edge.queue)


TestConservation = Conservation.TestCase
TestConservation.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
