"""What operators do to dead letters while the acker runs: replayed, discarded, edited, each once, and noted."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from consecutiond.acker.policies import Policies, Policy
from consecutiond.acker.stores.base import Where
from consecutiond.deadletters import Outcome, Request, encode
from consecutiond_broker import codec, wire
from tests.acker.bench import IN, MID, Bench, Edge, Peer, benches


@pytest.fixture(params=["memory", "sqlite"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path, request.param, max_attempts=1)


@pytest.fixture
def entry(bench: Bench) -> Edge:
    return bench.up()


@pytest.fixture
def client(bench: Bench) -> Peer:
    return bench.peer("C:operator")


def bury(bench: Bench, entry: Edge, *values: Any, **fail: Any) -> None:
    """Record values, and have all of them fail."""
    bench.producer().record(*values)
    left = len(values)
    while left:
        for batch in entry.take():
            left -= len(batch.values)
            for place in range(len(batch.values)):
                known = {"kind": "raised", "charged": True, "node": "parse", "error": "E: no", "traceback": "tb"} | fail
                entry.report((), (), wire.Fail(roots=batch.roots[[place]].tobytes(), **known))
    bench.until(lambda: bench.stats()["failed"] == len(values))


def ask(client: Peer, verb: str, number: int = 1, **more: Any) -> wire.Answer:
    client.send(wire.Ask(number, verb, encode(Request(verb, who="ann@host", which="all", **more))))  # type: ignore[arg-type]
    client.bench.until(lambda: any(answer.number == number for answer in client.of(wire.Answer)))
    return next(answer for answer in client.of(wire.Answer) if answer.number == number)


def outcome(answer: wire.Answer) -> Outcome:
    assert answer.error == ""
    return msgspec.msgpack.decode(answer.body, type=Outcome)


def test_a_replayed_root_is_emitted_again_as_a_first_attempt_and_completes(
    bench: Bench, entry: Edge, client: Peer
) -> None:
    bury(bench, entry, "a", "b", "c")
    assert outcome(ask(client, "replay", where=Where(positions=(1, 3)))) == Outcome(2, 3)
    batches = entry.take(2)
    assert sorted(value for batch in batches for value in batch.values) == ["a", "c"]
    assert [batch.head.attempt for batch in batches] == [1, 1]
    entry.complete(*batches)
    bench.until(lambda: bench.stats()["completed"] == 2)
    assert {name: bench.stats()[name] for name in ("accepted", "failed", "open", "discarded")} == {
        "accepted": 3, "failed": 1, "open": 0, "discarded": 0,
    }  # fmt: skip


def test_one_that_fails_again_is_a_dead_letter_again_with_all_its_hand_outs(
    bench: Bench, entry: Edge, client: Peer
) -> None:
    bury(bench, entry, "a")
    ask(client, "replay")
    entry.fail(*entry.take(), error="E: still")
    bench.until(lambda: bench.stats()["failed"] == 1)
    [letter] = bench.dead()
    assert (letter.attempts, letter.handed_out, letter.error) == (1, 2, "E: still")


def test_a_request_that_is_sent_twice_is_done_once_and_answered_twice(bench: Bench, entry: Edge, client: Peer) -> None:
    bury(bench, entry, "a")
    first = ask(client, "replay")
    client.heard.clear()
    again = ask(client, "replay")
    assert outcome(first) == outcome(again) == Outcome(1, 1)
    assert ask(client, "audits", 2).body == encode(bench.read(lambda store: store.audits()))
    assert len(bench.read(lambda store: store.audits())) == 1
    entry.complete(*entry.take())
    bench.settle()
    assert entry.batches == []


def test_two_who_replay_the_same_do_not_double_it(bench: Bench, entry: Edge, client: Peer) -> None:
    bury(bench, entry, "a", "b")
    other = bench.peer("C:other")
    bench.store.gate.clear()
    requests = [encode(Request("replay", who=who)) for who in ("ann", "bob")]
    for peer, request in zip((client, other), requests, strict=True):
        peer.send(wire.Ask(1, "replay", request))
    bench.until(lambda: len(bench.acker.operations._answers) == 2)
    bench.store.gate.set()
    found = [outcome(peer.expect(wire.Answer)[0]) for peer in (client, other)]
    assert sum(each.count for each in found) == 2
    entry.complete(*entry.take(2))
    bench.until(lambda: bench.stats()["completed"] == 2)
    bench.settle()
    assert entry.batches == []


def test_from_the_node_it_enters_at_the_edge_before_it_with_the_item_that_failed(
    bench: Bench, entry: Edge, client: Peer
) -> None:
    bury(bench, entry, "root", node="count", edge=MID, item=codec.encode(["derived"]), path=("parse", "count"))
    assert outcome(ask(client, "replay", start="node")) == Outcome(1, 1)
    [batch] = bench.mid.take()
    assert batch.values == ["derived"]
    bench.mid.fail(batch, error="E: no again")
    bench.until(lambda: bench.stats()["failed"] == 1)
    # The root's own value is kept, and another replay can begin with it.
    assert outcome(ask(client, "replay", 2, start="root")) == Outcome(1, 1)
    [batch] = entry.take()
    assert batch.values == ["root"]
    entry.complete(batch)
    bench.until(lambda: bench.stats()["completed"] == 1)


def test_a_replay_from_a_node_survives_the_acker(bench: Bench, entry: Edge, client: Peer) -> None:
    bury(bench, entry, "root", node="count", edge=MID, item=codec.encode(["derived"]))
    ask(client, "replay", start="node")
    bench.restart()
    bench.up()
    [batch] = bench.mid.take()
    assert batch.values == ["derived"]
    bench.mid.complete(batch)
    bench.until(lambda: bench.stats()["completed"] == 1)


@pytest.mark.parametrize(
    ("fail", "why"),
    [({"edge": ""}, "not known on which edge"), ({"edge": MID}, "too large to be kept"),
     ({"edge": "gone->away", "item": b"\x91\x01"}, "no edge gone->away any more")],
)  # fmt: skip
def test_what_cannot_be_replayed_from_its_node_is_left_and_said(
    bench: Bench, entry: Edge, client: Peer, fail: dict[str, Any], why: str
) -> None:
    bury(bench, entry, "a", **fail)
    found = outcome(ask(client, "replay", start="node"))
    assert (found.count, found.last) == (0, 1)
    [(position, said)] = found.left
    assert position == 1
    assert why in said
    assert len(bench.dead()) == 1


def test_at_its_first_node_the_item_is_the_root(bench: Bench, entry: Edge, client: Peer) -> None:
    bury(bench, entry, "a", edge=IN, item=codec.encode(["a"]))
    assert bench.dead()[0].item == b""
    assert outcome(ask(client, "replay", start="node")) == Outcome(1, 1)
    assert entry.take()[0].values == ["a"]


def test_discarded_ones_are_gone_and_counted(bench: Bench, entry: Edge, client: Peer) -> None:
    bury(bench, entry, "a", "b")
    assert outcome(ask(client, "discard", where=Where(positions=(2,)))) == Outcome(1, 2)
    assert [letter.position for letter in bench.dead()] == [1]
    stats = bench.stats()
    assert (stats["accepted"], stats["failed"], stats["discarded"], stats["open"]) == (2, 1, 1, 0)


def test_an_edited_one_is_replayed_with_its_new_value(bench: Bench, entry: Edge, client: Peer) -> None:
    bury(bench, entry, "a", "b")
    value = codec.encode(["better"])
    assert outcome(ask(client, "edit", where=Where(positions=(2,)), value=value)) == Outcome(1, 2)
    ask(client, "replay", 2, where=Where(positions=(2,)))
    assert entry.take()[0].values == ["better"]


@pytest.mark.parametrize("value", [b"", b"\xc1", codec.encode([]), codec.encode([1, 2])])
def test_an_edit_to_what_is_not_one_value_is_refused(bench: Bench, entry: Edge, client: Peer, value: bytes) -> None:
    bury(bench, entry, "a")
    assert ask(client, "edit", where=Where(positions=(1,)), value=value).error
    assert codec.decode(bench.dead()[0].body) == ["a"]


def test_only_one_can_be_edited_at_a_time(bench: Bench, entry: Edge, client: Peer) -> None:
    bury(bench, entry, "a", "b")
    assert "not 2" in ask(client, "edit", value=codec.encode([1])).error
    assert "not 0" in ask(client, "edit", 2, where=Where(node="x"), value=codec.encode([1])).error


def test_every_action_is_noted_with_who_what_and_how_many(bench: Bench, entry: Edge, client: Peer) -> None:
    bury(bench, entry, "a", "b", "c", "d")
    ask(client, "edit", 1, where=Where(positions=(1,)), value=codec.encode([1]))
    ask(client, "discard", 2, where=Where(positions=(1, 2)))
    ask(client, "replay", 3)
    ask(client, "replay", 4, where=Where(node="nowhere"))
    audits = bench.read(lambda store: store.audits())
    assert [(audit.who, audit.what, audit.count, audit.which) for audit in audits] == [
        ("ann@host", "edit", 1, "1 (all)"), ("ann@host", "discard", 2, "1 2 (all)"),
        ("ann@host", "replay from root", 2, "3 4 (all)"),
    ]  # fmt: skip


def test_they_are_listed_counted_and_grouped(bench: Bench, entry: Edge, client: Peer) -> None:
    bury(bench, entry, "a", "b", "c")
    rows = msgspec.msgpack.decode(ask(client, "list", limit=2, after=1).body)
    assert [row["position"] if isinstance(row, dict) else row[0] for row in rows] == [2, 3]
    assert msgspec.msgpack.decode(ask(client, "count", 2).body) == 3
    [group] = msgspec.msgpack.decode(ask(client, "groups", 3).body)
    assert (group["count"] if isinstance(group, dict) else group[3]) == 3


def test_replays_wait_for_the_bounds_of_live_input(bench: Bench, entry: Edge, client: Peer) -> None:
    bury(bench, entry, *range(20))
    bench.acker.options = replace(bench.acker.options, max_pending=4)
    ask(client, "replay")
    bench.settle()
    assert len(entry.values) == 4
    # They may have come together.
    entry.complete(*entry.take())
    bench.until(lambda: len(entry.values) == 4)


def test_a_replayed_root_has_all_its_time_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, policies=Policies(Policy(max_attempts=1, max_age_s=0.3)))
    entry, client = bench.up(), bench.peer("C:operator")
    bury(bench, entry, "a")
    bench.until(lambda: time.time() > bench.dead()[0].accepted_at + 0.3)
    ask(client, "replay")
    [batch] = entry.take()
    assert batch.values == ["a"]
    entry.complete(batch)
    bench.until(lambda: bench.stats()["completed"] == 1)
    bench.close()


def test_nothing_is_changed_while_the_graph_is_being_stopped(bench: Bench, entry: Edge, client: Peer) -> None:
    bury(bench, entry, "a")
    bench.peer("H:other").send(wire.Drain("it is told to stop"))
    bench.until(lambda: bench.acker.draining)
    assert "it is told to stop" in ask(client, "replay").error
    assert ask(client, "count", 2).error == ""


def test_garbage_is_refused_and_harms_nobody(bench: Bench, entry: Edge, client: Peer) -> None:
    client.send(wire.Ask(1, "replay", b"\xc1"))
    assert "no request" in client.expect(wire.Answer)[0].error
    client.send(wire.Ask(2, "fly", encode({"verb": "fly"})))
    assert "no request" in client.expect(wire.Answer, 2)[1].error
