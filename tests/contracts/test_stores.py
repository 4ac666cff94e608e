"""The one contract of all stores: every test here holds for every implementation."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from consecutiond.acker.stores import Durability, Store, StoreError, open_store
from consecutiond.acker.stores.base import (
    Append,
    Audit,
    Changes,
    Chunk,
    Failed,
    Group,
    Head,
    OpenChunk,
    Origin,
    Retained,
    Totals,
    Where,
)
from consecutiond.guarantee import Kept
from tests import needs
from tests.redis_server import shared

URLS: dict[str, Callable[[Path], str]] = {
    "memory": lambda directory: "memory://",
    "sqlite": lambda directory: f"sqlite:///{directory}/store.sqlite",
    "kyoto": lambda directory: kyoto_url(directory),
    "redis": lambda directory: shared().url(str(directory).replace("/", "_")),
}
PERSISTENT = {"sqlite", "kyoto", "redis"}
#: where accounts and values are, for stores that are put together of two, each with an SQLite file
SPLIT: dict[str, tuple[Kept, Kept]] = {
    "values in memory": ("disk", "memory"),
    "values nowhere": ("disk", "off"),
    "accounts in memory": ("memory", "disk"),
    "accounts in memory, values nowhere": ("memory", "off"),
}
#: for tests of what only a store has that holds both
whole = pytest.mark.parametrize("kind", URLS, indirect=True)


def opened(kind: str, directory: Path, durability: Durability) -> Store:
    if kind in SPLIT:
        return open_store(URLS["sqlite"](directory), durability, *SPLIT[kind])
    return open_store(URLS[kind](directory), durability)


def held(store: Store, body: bytes) -> bytes:
    """What a store has of the body of a chunk that was appended."""
    return body if store.keeps_values else b""


def kyoto_url(directory: Path) -> str:
    needs.kyoto()
    return f"kyoto:///{directory}/store.kyoto"


@pytest.fixture(params=[*URLS, *SPLIT])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(kind: str, tmp_path: Path) -> Iterator[Store]:
    store = opened(kind, tmp_path, "durable")
    yield store
    store.close()


def append(id: int, first: int, count: int = 3, origin: Origin | None = None, body: bytes = b"values") -> Append:
    return Append(Chunk(id, first, count, ("in-parse",), body), origin)


def failed(position: int, attempts: int = 1, error: str = "ValueError: no") -> Failed:
    return Failed(position, attempts, ("in-parse", "in-count"), b"value", 12.5, "parse", "raised", error, "tb", 9.25)


def test_a_new_store_is_empty_and_numbers_from_one(store: Store) -> None:
    assert (store.next_chunk(), store.next_position()) == (1, 1)
    assert store.totals() == Totals(accepted=0, completed=0, failed=0, waiting=0, open=0)
    assert store.open_chunks(0, 10) == []
    assert store.waiting(0, 10) == store.dead_letters(0, 10) == []


def test_a_chunk_comes_back_as_it_was_recorded_with_its_body_apart(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1, 3, body=b"\x00\xffvalues")]))
    assert store.open_chunks(0, 10) == [OpenChunk(Chunk(1, 1, 3, ("in-parse",), b""), b"")]
    assert store.body(1) == held(store, b"\x00\xffvalues")


@whole
def test_a_chunk_comes_back_with_its_checksum_open_and_retained(store: Store) -> None:
    chunk = Chunk(1, 1, 3, ("in-parse",), b"values", 1.5, 0xFFFF_FFFF)
    store.commit(Changes(appends=[Append(chunk, None)]))
    assert store.open_chunks()[0].chunk.checksum == 0xFFFF_FFFF
    bare = replace(chunk, body=b"")
    store.commit(Changes(done={1: None}, completed=3, retained=[Retained(bare, b"\x07", 2.5, 6)]))
    assert [batch.chunk.checksum for batch in store.retained()] == [0xFFFF_FFFF]


def test_a_chunk_may_have_no_body(store: Store, kind: str) -> None:
    """Those whose values are elsewhere have none."""
    store.commit(Changes(appends=[append(1, 1, body=b""), append(2, 4)]))
    store.commit(Changes(done={1: b"\x01", 2: None}, completed=4))
    assert (store.body(1), [row.chunk.id for row in store.open_chunks()]) == (b"", [1])
    if kind in PERSISTENT:
        store.close()
        store.open()
        assert store.body(1) == b""


def test_numbers_go_on_behind_gaps_and_after_every_chunk_is_deleted(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1, 3), append(5, 10, 4)]))
    store.commit(Changes(done={1: None, 5: None}, completed=7))
    assert store.open_chunks(0, 10) == []
    assert (store.next_chunk(), store.next_position()) == (6, 14)


@pytest.mark.parametrize(
    "bad",
    [append(1, 4), append(2, 3), append(2, 4, count=0), append(2, 2**63 - 1, count=2)],
    ids=["id used", "position used", "no roots", "out of range"],
)
def test_a_number_used_twice_or_out_of_range_is_refused_and_the_whole_group_with_it(store: Store, bad: Append) -> None:
    store.commit(Changes(appends=[append(1, 1)]))
    before = snapshot(store)
    with pytest.raises(StoreError):
        store.commit(Changes(appends=[bad], done={1: None}, waiting=[failed(1)], completed=1))
    assert snapshot(store) == before


def test_a_group_whose_last_chunk_is_refused_records_none_and_the_rest_can_be_committed_again(
    store: Store,
) -> None:
    good = [append(1, 1, origin=Origin(b"p", 1)), append(2, 4)]
    with pytest.raises(StoreError, match="chunk 2"):
        store.commit(Changes(appends=[*good, append(2, 9)]))
    assert store.last_sequence(b"p") == 0
    store.commit(Changes(appends=good))
    assert [chunk.chunk.id for chunk in store.open_chunks(0, 10)] == [1, 2]


def test_a_bitmap_replaces_the_former_one_and_leaves_the_body(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1, 10), append(2, 11)]))
    store.commit(Changes(done={1: b"\x01\x00"}, completed=1))
    store.commit(Changes(done={1: b"\x05\x02"}, completed=2))
    assert [chunk.done for chunk in store.open_chunks(0, 10)] == [b"\x05\x02", b""]
    assert store.body(1) == held(store, b"values")


def test_a_chunk_that_is_over_is_gone_with_its_body(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1), append(2, 4)]))
    store.commit(Changes(done={1: None}, completed=3))
    assert [chunk.chunk.id for chunk in store.open_chunks(0, 10)] == [2]
    with pytest.raises(StoreError, match="chunk 1"):
        store.body(1)
    assert store.body(2) == held(store, b"values")


def test_a_chunk_may_begin_and_end_in_one_group(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1), append(2, 4)], done={1: None, 2: b"\x01"}, completed=4))
    assert [(chunk.chunk.id, chunk.done) for chunk in store.open_chunks(0, 10)] == [(2, b"\x01")]
    assert store.totals() == Totals(accepted=6, completed=4, failed=0, waiting=0, open=2)


def test_reports_on_what_the_store_does_not_hold_change_nothing(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1)]))
    before = snapshot(store)
    store.commit(Changes(done={7: b"\x01", 8: None}, recovered=[99], forget=[b"nobody"]))
    assert snapshot(store) == before


def test_a_waiting_root_is_replaced_by_position(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1)], done={1: b"\x01"}, waiting=[failed(1)]))
    again = replace(failed(1, attempts=2), body=b"other", due=99.5, node="count", kind="crashed", error="")
    store.commit(Changes(waiting=[again]))
    assert store.waiting(0, 10) == [again]
    assert store.totals().waiting == 1


def test_a_recovered_root_waits_no_longer(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1)], done={1: b"\x03"}, waiting=[failed(1), failed(2)]))
    store.commit(Changes(recovered=[1], completed=1))
    assert store.waiting(0, 10) == [failed(2)]
    assert store.totals() == Totals(accepted=3, completed=1, failed=0, waiting=1, open=2)


def test_a_dead_letter_waits_no_longer_and_is_not_open(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1)], done={1: b"\x03"}, waiting=[failed(1), failed(2)]))
    store.commit(Changes(dead=[failed(1, attempts=3)]))
    assert store.waiting(0, 10) == [failed(2)]
    assert store.dead_letters(0, 10) == [failed(1, attempts=3)]
    assert store.totals() == Totals(accepted=3, completed=0, failed=1, waiting=1, open=2)


def test_within_a_group_dead_and_recovered_come_after_waiting(store: Store) -> None:
    roots = [failed(1), failed(2), failed(3)]
    store.commit(Changes(appends=[append(1, 1)], done={1: None}, waiting=roots, dead=[failed(1)], recovered=[2]))
    assert store.waiting(0, 10) == [failed(3)]
    assert store.dead_letters(0, 10) == [failed(1)]


def test_a_root_dead_twice_is_counted_once(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1)], done={1: b"\x01"}, dead=[failed(1)]))
    store.commit(Changes(dead=[failed(1, attempts=3)]))
    assert store.dead_letters(0, 10) == [failed(1, attempts=3)]
    assert store.totals() == Totals(accepted=3, completed=0, failed=1, waiting=0, open=2)


def test_a_producers_sequence_is_its_highest_until_it_says_goodbye(store: Store) -> None:
    first, second, late = (Origin(b"p\x00", sequence) for sequence in (1, 2, 1))
    store.commit(Changes(appends=[append(1, 1, origin=first), append(2, 4, origin=second)]))
    store.commit(Changes(appends=[append(3, 7, origin=late), append(4, 10, origin=Origin(b"q", 8))]))
    assert [store.last_sequence(producer) for producer in (b"p\x00", b"q", b"unknown")] == [2, 8, 0]
    store.commit(Changes(forget=[b"p\x00"]))
    assert [store.last_sequence(producer) for producer in (b"p\x00", b"q")] == [0, 8]


def test_goodbye_comes_after_the_appends_of_its_group(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1, origin=Origin(b"p", 1))], forget=[b"p"]))
    assert store.last_sequence(b"p") == 0


def test_pages_are_in_order_start_behind_after_and_miss_nothing(store: Store) -> None:
    store.commit(Changes(appends=[append(id, id, 1) for id in range(1, 8)]))
    store.commit(Changes(waiting=[failed(position) for position in (6, 1, 4, 2)]))
    store.commit(Changes(dead=[failed(position) for position in (7, 3, 5)]))
    assert [chunk.chunk.id for chunk in store.open_chunks(2, 3)] == [3, 4, 5]
    assert [row.position for row in store.waiting(0, 2)] == [1, 2]
    assert [row.position for row in store.waiting(2, 2)] == [4, 6]
    assert [row.position for row in store.dead_letters(3, 9)] == [5, 7]
    assert store.open_chunks(7, 3) == []


def test_text_that_no_utf8_carries_does_not_stop_a_commit_and_stays_readable(store: Store) -> None:
    """A traceback may hold a file name that is not UTF-8: the root must reach the dead letters."""
    odd = replace(failed(1), error="open '\udcff' \x00 ü", entry=("a,b", "ü"))
    store.commit(Changes(appends=[append(1, 1)], waiting=[odd, failed(2)], dead=[odd]))
    letter = store.dead_letters(0, 10)[0]
    assert letter.error == "open '\\udcff' \x00 ü"
    assert letter.entry == ("a,b", "ü")


def test_a_log_that_adopts_the_head_of_another_is_that_log(store: Store, kind: str, tmp_path: Path) -> None:
    """What a copy does: the rows by commits, then salt, numbers, counts and producers."""
    store.commit(Changes(appends=[append(1, 1), append(7, 20, origin=Origin(b"q", 9))], done={7: b"\x01"}))
    store.commit(Changes(dead=[failed(1)], waiting=[failed(2)], forget=[b"q"]))
    head = Head(2**64 - 3, 50, 400, 399, 300, 60, {b"p\x00": 5, b"r": 2**40})
    store.adopt(head)
    assert store.head() == head
    assert (store.salt, store.next_chunk(), store.next_position()) == (2**64 - 3, 50, 400)
    assert store.totals() == Totals(accepted=399, completed=300, failed=1, waiting=1, open=38, discarded=60)
    assert [store.last_sequence(name) for name in (b"p\x00", b"q", b"r")] == [5, 0, 2**40]
    assert [each.chunk.id for each in store.open_chunks()] == [1, 7]
    store.commit(Changes(appends=[append(50, 400, origin=Origin(b"p\x00", 6))]))
    assert (store.totals().accepted, store.last_sequence(b"p\x00")) == (402, 6)
    if kind in PERSISTENT:
        store.close()
        store.open()
        assert (store.salt, store.next_chunk(), store.last_sequence(b"r")) == (2**64 - 3, 51, 2**40)


def test_an_empty_group_changes_nothing(store: Store) -> None:
    before = snapshot(store)
    store.commit(Changes())
    assert snapshot(store) == before


def test_a_closed_store_refuses_everything_and_closing_or_opening_twice_is_harmless(store: Store) -> None:
    store.open()
    salt = store.salt
    store.commit(Changes(appends=[append(1, 1)]))
    store.open()
    assert (store.salt, store.next_chunk()) == (salt, 2)
    store.close()
    store.close()
    for call in (store.totals, store.next_chunk, store.next_position, lambda: store.commit(Changes())):
        with pytest.raises(StoreError, match="not open"):
            call()


def test_stores_have_different_salts_of_64_bits(kind: str, tmp_path: Path) -> None:
    salts = set()
    for number in range(8):
        directory = tmp_path / str(number)
        directory.mkdir()
        store = opened(kind, directory, "fast")
        salts.add(store.salt)
        store.close()
    assert len(salts) == 8
    assert 2**32 < max(salts) < 2**64


@whole
def test_what_survives_a_restart_is_everything_or_nothing(kind: str, tmp_path: Path) -> None:
    store = opened(kind, tmp_path, "durable")
    store.commit(Changes(appends=[append(1, 1, origin=Origin(b"p", 3)), append(2, 4)]))
    store.commit(Changes(done={1: b"\x03"}, waiting=[failed(1)], dead=[failed(2)]))
    before, salt = snapshot(store), store.salt
    store.close()
    again = opened(kind, tmp_path, "durable")
    after = snapshot(again)
    if kind in PERSISTENT:
        assert (after, again.salt, again.last_sequence(b"p")) == (before, salt, 3)
        assert again.body(2) == b"values"
    else:
        assert after["totals"].accepted == 0
        assert again.salt != salt
    again.close()


def test_the_sentence_on_the_guarantee_differs_where_the_guarantee_does(kind: str, tmp_path: Path) -> None:
    said = []
    for durability in ("durable", "fast"):
        store = opened(kind, tmp_path, durability)
        said.append((store.durable, store.describe()))
        store.close()
    if kind in PERSISTENT or "disk" in SPLIT.get(kind, ()):
        assert [durable for durable, _ in said] == [True, False]
        assert said[0][1] != said[1][1]
    else:
        assert not any(durable for durable, _ in said)
        assert "lost" in said[0][1]


@pytest.mark.parametrize("url", ["redi://localhost", "store.sqlite", "", "memory://x", "sqlite:/x", "SQLITE:////x"])
def test_an_unknown_url_is_refused_with_the_known_ones(url: str) -> None:
    with pytest.raises(StoreError, match=r"memory://, sqlite:///relative/path and sqlite:////absolute/path"):
        open_store(url, "durable")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://relative", "sqlite:///:memory:"])
def test_an_sqlite_url_without_a_file_is_refused_with_the_right_forms(url: str) -> None:
    with pytest.raises(StoreError, match=r"count the slashes"):
        open_store(url, "durable")


def test_a_durability_that_does_not_exist_is_refused() -> None:
    with pytest.raises(StoreError, match="'durable' or 'fast'"):
        open_store("memory://", "Durable")  # type: ignore[arg-type]


# --- dead letters and what operators do with them -----------------------------------------------------------------


def letter(position: int, error: str = "ValueError: no", **more: Any) -> Failed:
    return replace(failed(position, 3, error), **more)


def positions(rows: list[Failed]) -> list[int]:
    return [row.position for row in rows]


def test_a_row_keeps_what_is_known_of_the_failure(store: Store) -> None:
    row = letter(1, handed_out=5, edge="in->parse", item=b"\x91\x01", path=("in", "parse"))
    store.commit(Changes(appends=[append(1, 1)], dead=[row], waiting=[replace(row, position=2)]))
    assert store.dead_letters() == [row]
    assert store.waiting() == [replace(row, position=2)]


def test_a_dead_letter_that_is_revived_waits_and_one_that_is_not_among_the_waiting_is_discarded(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1)], done={1: None}, dead=[letter(1), letter(2), letter(3)]))
    store.commit(Changes(waiting=[replace(letter(1), attempts=0)], revived=[1, 2]))
    assert (positions(store.dead_letters()), positions(store.waiting())) == ([3], [1])
    assert store.waiting()[0].attempts == 0
    assert store.totals() == Totals(accepted=3, completed=0, failed=1, waiting=1, open=1, discarded=1)
    store.commit(Changes(recovered=[1], completed=1))
    assert store.totals() == Totals(accepted=3, completed=1, failed=1, waiting=0, open=0, discarded=1)


def test_what_is_dropped_by_policy_is_counted_as_discarded(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1)], done={1: None}, dropped=[1, 2], completed=1))
    assert store.totals() == Totals(accepted=3, completed=1, failed=0, waiting=0, open=0, discarded=2)


def test_an_edited_dead_letter_replaces_the_former_one(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1)], done={1: None}, completed=2, dead=[letter(2)]))
    store.commit(Changes(dead=[replace(letter(2), body=b"better")]))
    assert [row.body for row in store.dead_letters()] == [b"better"]
    assert store.totals().failed == 1


LETTERS = [
    letter(1, "ValueError: bad value 'x' at 10", node="parse", failed_at=100.0),
    letter(2, "ValueError: bad value 'yy' at 7", node="parse", failed_at=200.0),
    letter(3, "ValueError: bad value 'z' at 3", node="load", failed_at=300.0),
    letter(4, "KeyError: 'id'", node="parse", failed_at=400.0),
    letter(5, "load.0 died", node="load", kind="crashed", failed_at=500.0),
]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (Where(), [1, 2, 3, 4, 5]),
        (Where(node="parse"), [1, 2, 4]),
        (Where(kind="crashed"), [5]),
        (Where(error="bad value"), [1, 2, 3]),
        (Where(error="%"), []),
        (Where(shape="ValueError: bad value … at #"), [1, 2, 3]),
        (Where(since=200.0), [2, 3, 4, 5]),
        (Where(until=200.0), [1]),
        (Where(since=200.0, until=400.0, node="load"), [3]),
        (Where(positions=(4, 2, 77)), [2, 4]),
        (Where(positions=tuple(range(2, 3000))), [2, 3, 4, 5]),
        (Where(node="nowhere"), []),
    ],
)
def test_dead_letters_are_found_by_conditions_that_all_hold(store: Store, where: Where, found: list[int]) -> None:
    store.commit(Changes(appends=[append(1, 1, 5)], done={1: None}, dead=LETTERS))
    assert positions(store.dead_letters(where=where)) == found
    assert positions(store.dead_letters(2, 2, where)) == [position for position in found if position > 2][:2]
    assert store.count_dead(where) == len(found)
    assert sum(group.count for group in store.groups(where)) == len(found)


def test_dead_letters_that_look_alike_are_a_group(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1, 5)], done={1: None}, dead=LETTERS))
    assert store.groups() == [
        Group("parse", "raised", "ValueError: bad value … at #", 2, 200.0, 1),
        Group("load", "raised", "ValueError: bad value … at #", 1, 300.0, 3),
        Group("parse", "raised", "KeyError: …", 1, 400.0, 4),
        Group("load", "crashed", "load.# died", 1, 500.0, 5),
    ]
    store.commit(Changes(revived=[1, 4]))
    assert [(group.count, group.example) for group in store.groups()] == [(1, 2), (1, 3), (1, 5)]


def test_what_operators_have_done_is_kept_in_order_and_numbered(store: Store) -> None:
    first, second = Audit(1.5, "ann@host", "replay", 3, "node=parse"), Audit(2.5, "bob@host", "discard", 1, "7")
    store.commit(Changes(audits=[first]))
    store.commit(Changes(audits=[second, second]))
    assert store.audits() == [replace(first, number=1), replace(second, number=2), replace(second, number=3)]
    assert store.audits(1, 1) == [replace(second, number=2)]


# --- batches that are kept when they are over ------------------------------------------------------------------------


def kept(id: int, first: int, completed: bytes = b"\x07", at: float = 5.5, body: bytes = b"", **more: Any) -> Retained:
    return Retained(Chunk(id, first, 3, ("in-parse",), body, 1.25), completed, at, len(body) or 6, **more)


@whole
def test_a_retained_chunk_is_over_and_keeps_its_body(store: Store) -> None:
    chunks = [append(1, 1), append(2, 4), append(3, 7)]
    store.commit(Changes(appends=chunks))
    store.commit(Changes(done={1: None, 2: None}, completed=5, dead=[failed(2)], retained=[kept(1, 1, b"\x05")]))
    assert [row.chunk.id for row in store.open_chunks()] == [3]
    assert store.retained() == [kept(1, 1, b"\x05", number=1)]
    assert [store.body(1), store.body(3)] == [b"values", b"values"]
    with pytest.raises(StoreError, match="chunk 2"):
        store.body(2)
    assert store.totals() == Totals(
        accepted=9, completed=5, failed=1, waiting=0, open=3, retained=2, retained_bytes=6
    )  # fmt: skip


@whole
def test_a_chunk_may_begin_and_be_retained_in_one_group(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1)], done={1: None}, completed=3, retained=[kept(1, 1)]))
    assert (store.body(1), store.open_chunks(), store.retained()) == (b"values", [], [kept(1, 1, number=1)])


@whole
def test_a_root_that_completed_from_its_own_row_is_retained_with_its_body_and_takes_a_number(
    store: Store, kind: str
) -> None:
    store.commit(Changes(appends=[append(1, 1)], done={1: None}, completed=2, waiting=[failed(1)]))
    alone = Retained(Chunk(2, 1, 1, ("in-parse",), b"alone", 1.25), b"\x01", 8.0, 5)
    store.commit(Changes(recovered=[1], completed=1, retained=[alone]))
    assert store.retained() == [replace(alone, chunk=replace(alone.chunk, body=b""), number=1)]
    assert (store.body(2), store.next_chunk(), store.next_position()) == (b"alone", 3, 4)
    assert (store.totals().retained, store.totals().retained_bytes) == (1, 5)
    if kind in PERSISTENT:
        store.close()
        store.open()
        assert (store.body(2), store.next_chunk()) == (b"alone", 3)


@whole
def test_what_is_purged_is_gone_with_its_body_and_its_number_is_not_used_again(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1), append(2, 4)], done={1: None, 2: None}, completed=6,
                         retained=[kept(2, 4, at=3.0), kept(1, 1, b"\x01", at=4.0)]))  # fmt: skip
    first, second = store.retained()
    assert [first.chunk.id, second.chunk.id] == [2, 1]
    store.commit(Changes(purged=[first]))
    assert store.retained() == [second]
    with pytest.raises(StoreError, match="chunk 2"):
        store.body(2)
    assert store.body(1) == b"values"
    assert store.totals() == Totals(6, 6, 0, 0, 0, retained=1, retained_bytes=6)
    # A group that is sent again purges nothing twice.
    before = snapshot(store)
    store.commit(Changes(purged=[first]))
    assert snapshot(store) == before
    store.commit(Changes(purged=[second]))
    assert store.totals() == Totals(6, 6, 0, 0, 0)
    store.commit(Changes(appends=[append(3, 7)], done={3: None}, completed=3, retained=[kept(3, 7)]))
    assert [batch.number for batch in store.retained()] == [3]


@whole
def test_retained_batches_are_read_in_pages_in_the_order_in_which_they_were_over(store: Store) -> None:
    order = [3, 1, 5, 2, 4]
    store.commit(Changes(appends=[append(id, 3 * id) for id in range(1, 6)]))
    for id in order:
        store.commit(Changes(done={id: None}, completed=3, retained=[kept(id, 3 * id, at=10.0 - id)]))
    assert [batch.chunk.id for batch in pages(store.retained, lambda batch: batch.number)] == order
    assert [batch.chunk.id for batch in store.retained(1, 3)] == [1, 5, 2]


@whole
def test_a_refused_group_retains_and_purges_nothing(store: Store) -> None:
    store.commit(Changes(appends=[append(1, 1), append(2, 4)], done={1: None}, completed=3, retained=[kept(1, 1)]))
    before = snapshot(store)
    with pytest.raises(StoreError):
        store.commit(
            Changes(appends=[append(1, 1)], done={2: None}, retained=[kept(2, 4)], purged=store.retained())
        )  # fmt: skip
    assert snapshot(store) == before
    assert store.body(1) == store.body(2) == b"values"


def snapshot(store: Store) -> dict[str, Any]:
    """Everything that can be read from a store by pages of two, so that paging is exercised everywhere."""
    return {
        "numbers": (store.next_chunk(), store.next_position()),
        "totals": store.totals(),
        "chunks": pages(store.open_chunks, lambda row: row.chunk.id),
        "waiting": pages(store.waiting, lambda row: row.position),
        "dead": pages(store.dead_letters, lambda row: row.position),
        "groups": store.groups(),
        "retained": pages(store.retained, lambda row: row.number),
    }


Row = TypeVar("Row")


def pages(read: Callable[[int, int], list[Row]], number: Callable[[Row], int]) -> list[Row]:
    rows: list[Row] = []
    while page := read(number(rows[-1]) if rows else 0, 2):
        rows += page
    return rows


class Model:
    """The roots of a store as plain sets: what any store must agree with after every commit."""

    def __init__(self) -> None:
        self.chunks: dict[int, tuple[int, int, set[int]]] = {}
        self.waiting: dict[int, Failed] = {}
        self.dead: dict[int, Failed] = {}
        self.sequences: dict[bytes, int] = {}
        #: number -> the batch as it is read
        self.retained: dict[int, Retained] = {}
        self.last_retained = 0
        self.accepted = self.completed = self.discarded = 0
        self.next_chunk = self.next_position = 1

    def bitmap(self, id: int) -> bytes:
        _, count, done = self.chunks[id]
        if not done:
            return b""
        return sum(1 << index for index in done).to_bytes((count + 7) // 8, "little")


class StoreMachine(RuleBasedStateMachine):
    """Stages random but lawful changes, commits them in groups, and compares the store with the model.

    The acker's life: batches arrive, roots complete, fail, recover or die, chunks end, groups are refused and
    committed again, the process restarts. Conservation is checked after every step.
    """

    kind: str

    @initialize()
    def start(self) -> None:
        self.directory = TemporaryDirectory()
        self.store = self.reopened()
        self.model, self.committed, self.changes = Model(), Model(), Changes()

    def reopened(self) -> Store:
        return opened(self.kind, Path(self.directory.name), "fast")

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.directory.cleanup()

    @rule(count=st.integers(1, 20), skip=st.integers(0, 3), producer=st.sampled_from([None, b"p", b"q"]))
    def append(self, count: int, skip: int, producer: bytes | None) -> None:
        model = self.model
        id, first = model.next_chunk + skip, model.next_position + skip
        origin = None
        if producer is not None:
            model.sequences[producer] = model.sequences.get(producer, 0) + 1
            origin = Origin(producer, model.sequences[producer])
            # Goodbyes come last in a group; one that is already staged would take this append along.
            if producer in self.changes.forget:
                model.sequences.pop(producer)
        self.changes.appends.append(append(id, first, count, origin, body=b"%d" % id))
        model.chunks[id] = (first, count, set())
        model.accepted += count
        model.next_chunk, model.next_position = id + 1, first + count

    @rule(producer=st.sampled_from([b"p", b"q"]))
    def goodbye(self, producer: bytes) -> None:
        self.changes.forget.append(producer)
        self.model.sequences.pop(producer, None)

    def take(self, data: st.DataObject) -> list[int]:
        """Draw some open roots of one chunk, mark them, end a chunk that is done, and keep it or not.

        Returns:
            Their positions.
        """
        id = data.draw(st.sampled_from(sorted(self.model.chunks)))
        first, count, done = self.model.chunks[id]
        left = sorted(set(range(count)) - done)
        taken = data.draw(st.lists(st.sampled_from(left), unique=True, min_size=1))
        done.update(taken)
        self.changes.done[id] = self.model.bitmap(id) if len(done) < count else None
        if len(done) == count:
            del self.model.chunks[id]
            if self.kind not in SPLIT and data.draw(st.booleans()):
                completed = data.draw(st.integers(1, 2**count - 1)).to_bytes((count + 7) // 8, "little")
                self.keep(Retained(Chunk(id, first, count, ("in-parse",), b""), completed, 1.5, len(b"%d" % id)))
        return [first + index for index in taken]

    def keep(self, batch: Retained) -> None:
        self.changes.retained.append(batch)
        self.model.last_retained += 1
        number = self.model.last_retained
        self.model.retained[number] = replace(batch, chunk=replace(batch.chunk, body=b""), number=number)

    @precondition(lambda self: self.committed.retained)
    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        """The acker reads the oldest ones and takes some away."""
        known = sorted(self.committed.retained)
        for number in known[: data.draw(st.integers(1, len(known)))]:
            # In a group that is sent again, or by an acker that has read them twice, they may be gone already.
            self.changes.purged.append(self.committed.retained[number])
            self.model.retained.pop(number, None)

    @precondition(lambda self: self.model.chunks)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        positions = self.take(data)
        self.changes.completed += len(positions)
        self.model.completed += len(positions)

    @precondition(lambda self: self.model.chunks)
    @rule(data=st.data(), at_once=st.booleans())
    def fail(self, data: st.DataObject, at_once: bool) -> None:
        for position in self.take(data):
            staged, rows = (
                (self.changes.dead, self.model.dead) if at_once else (self.changes.waiting, self.model.waiting)
            )
            rows[position] = failed(position)
            staged.append(rows[position])

    @precondition(lambda self: self.model.waiting.keys() - set(self.changes.revived))
    @rule(data=st.data(), end=st.sampled_from(["again", "recover", "die"]))
    def retry(self, data: st.DataObject, end: str) -> None:
        # What an operator has revived is emitted only once that is committed.
        position = data.draw(st.sampled_from(sorted(self.model.waiting.keys() - set(self.changes.revived))))
        row = self.model.waiting.pop(position)
        row = replace(row, attempts=row.attempts + 1)
        if end == "again":
            self.model.waiting[position] = row
            self.changes.waiting.append(row)
        elif end == "die":
            self.model.dead[position] = row
            self.changes.dead.append(row)
        else:
            self.changes.recovered.append(position)
            self.changes.completed += 1
            self.model.completed += 1
            if self.kind not in SPLIT and data.draw(st.booleans()):
                # A batch of one, under a chunk's number.
                chunk = Chunk(self.model.next_chunk, position, 1, ("in-parse",), b"%d" % self.model.next_chunk)
                self.keep(Retained(chunk, b"\x01", 2.5, len(chunk.body)))
                self.model.next_chunk += 1

    @precondition(lambda self: self.committed.dead)
    @rule(data=st.data(), end=st.sampled_from(["replay", "discard", "edit"]))
    def operate(self, data: st.DataObject, end: str) -> None:
        """An operator acts on what is a dead letter in the store, once in a group."""
        touched = {*self.changes.revived, *(row.position for row in self.changes.dead)}
        left = sorted(self.committed.dead.keys() - touched)
        if not left:
            return
        position = data.draw(st.sampled_from(left))
        row = replace(self.model.dead[position], attempts=0, body=b"by hand")
        if end == "edit":
            self.model.dead[position] = row
            self.changes.dead.append(row)
            return
        del self.model.dead[position]
        self.changes.revived.append(position)
        if end == "replay":
            self.model.waiting[position] = row
            self.changes.waiting.append(row)
        else:
            self.model.discarded += 1

    @rule()
    def commit(self) -> None:
        self.store.commit(self.changes)
        self.changes = Changes()
        self.committed = copy.deepcopy(self.model)

    @precondition(lambda self: self.model.next_chunk > 1)
    @rule()
    def commit_is_refused(self) -> None:
        refused = copy.copy(self.changes)
        refused.appends = [*refused.appends, append(1, 1)]
        with pytest.raises(StoreError):
            self.store.commit(refused)

    @precondition(lambda self: self.kind in PERSISTENT)
    @rule()
    def reopen(self) -> None:
        salt = self.store.salt
        self.store.close()
        self.store = self.reopened()
        assert self.store.salt == salt

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        model, found = self.committed, snapshot(self.store)
        assert found["numbers"] == (model.next_chunk, model.next_position)
        assert [(row.chunk.id, row.done) for row in found["chunks"]] == [
            (id, model.bitmap(id)) for id in sorted(model.chunks)
        ]
        assert found["waiting"] == [model.waiting[position] for position in sorted(model.waiting)]
        assert found["dead"] == [model.dead[position] for position in sorted(model.dead)]
        assert found["retained"] == [model.retained[number] for number in sorted(model.retained)]
        ids = [*model.chunks, *(batch.chunk.id for batch in model.retained.values())]
        assert all(self.store.body(id) == held(self.store, b"%d" % id) for id in ids)
        assert (found["totals"].retained, found["totals"].retained_bytes) == (
            sum(batch.count for batch in model.retained.values()),
            sum(batch.size for batch in model.retained.values()),
        )
        for producer in (b"p", b"q"):
            assert self.store.last_sequence(producer) == model.sequences.get(producer, 0)

    @invariant()
    def accepted_is_completed_and_failed_and_open(self) -> None:
        if not hasattr(self, "store"):
            return
        totals, found = self.store.totals(), snapshot(self.store)
        parts = totals.completed + totals.failed + totals.discarded + totals.open
        assert totals.accepted == parts == self.committed.accepted
        assert totals.discarded == self.committed.discarded
        assert sum(group.count for group in found["groups"]) == totals.failed
        marked = sum(int.from_bytes(row.done, "little").bit_count() for row in found["chunks"])
        in_chunks = sum(row.chunk.count for row in found["chunks"]) - marked
        assert totals.open == in_chunks + len(found["waiting"])
        assert (totals.waiting, totals.failed) == (len(found["waiting"]), len(found["dead"]))


def machine(kind: str) -> Any:
    """A test case of the state machine for one kind of store."""
    case: Any = type(f"Machine{kind}", (StoreMachine,), {"kind": kind})
    case = case.TestCase
    case.settings = settings(
        max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
    return case


TestMemoryAgreesWithAModel = machine("memory")
TestSqliteAgreesWithAModel = machine("sqlite")
TestKyotoAgreesWithAModel = machine("kyoto")
TestRedisAgreesWithAModel = machine("redis")
TestValuesInMemoryAgreesWithAModel = machine("values in memory")
TestValuesNowhereAgreesWithAModel = machine("values nowhere")
TestAccountsInMemoryAgreesWithAModel = machine("accounts in memory")
