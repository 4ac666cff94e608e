"""Stores put together of two: what each holds, and what a restart of the acker makes of it."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from consecutiond.acker.stores import Store, StoreError, open_store, read_only, split
from consecutiond.acker.stores.base import Append, Audit, Changes, Chunk, Failed, Origin, Retained, Totals
from consecutiond.acker.stores.memory import MemoryStore
from consecutiond.acker.stores.pins import Pins
from consecutiond.acker.stores.split import AccountsApart, ValuesApart


def append(id: int, first: int, count: int = 3, origin: Origin | None = None) -> Append:
    return Append(Chunk(id, first, count, ("in",), b"%d" % id), origin)


def failed(position: int) -> Failed:
    return Failed(position, 1, ("in",), b"value", 1.0, "parse", "raised", "ValueError: no", "tb", 2.0)


class Faulty(MemoryStore):
    """Refuses what it is told to refuse, and counts what it is asked."""

    broken = False
    commits = 0

    def commit(self, changes: Changes) -> None:
        if self.broken:
            raise StoreError("no space left")
        self.commits += 1
        super().commit(changes)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.sqlite"


# --- values apart ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [True, False])
def test_no_value_of_an_input_is_in_the_store_of_the_accounts(*, keep: bool) -> None:
    accounts = MemoryStore()
    store = ValuesApart(accounts, keep=keep)
    store.open()
    store.commit(Changes(appends=[append(1, 1)]))
    assert accounts.body(1) == b""
    assert store.body(1) == (b"1" if keep else b"")


def test_values_in_memory_are_forgotten_with_their_chunk() -> None:
    store = ValuesApart(MemoryStore(), keep=True)
    store.open()
    store.commit(Changes(appends=[append(1, 1), append(2, 4)], done={1: None}, completed=3))
    store.commit(Changes(done={2: b"\x01"}, completed=1))
    assert store._bodies == {2: b"2"}
    store.commit(Changes(done={2: None}, completed=2))
    assert store._bodies == {}


def test_a_group_of_accounts_that_is_refused_leaves_no_value_behind() -> None:
    accounts = Faulty()
    store = ValuesApart(accounts, keep=True)
    store.open()
    accounts.broken = True
    with pytest.raises(StoreError, match="no space"):
        store.commit(Changes(appends=[append(1, 1)]))
    assert store._bodies == {}
    accounts.broken = False
    store.commit(Changes(appends=[append(1, 1)]))
    assert store.body(1) == b"1"


@pytest.mark.parametrize("input_store", ["memory", "off"])
def test_values_that_were_recorded_on_the_disk_are_read_from_there(url: str, input_store: Any) -> None:
    store = open_store(url, "fast")
    store.commit(Changes(appends=[append(1, 1)]))
    store.close()
    store = open_store(url, "fast", "disk", input_store)
    assert store.body(1) == b"1"
    store.close()


def test_after_a_restart_the_accounts_are_there_and_the_values_are_not(url: str) -> None:
    store = open_store(url, "fast", "disk", "memory")
    store.commit(Changes(appends=[append(1, 1)], done={1: b"\x01"}, waiting=[failed(1)]))
    store.close()
    for input_store in ("memory", "disk"):
        store = open_store(url, "fast", "disk", input_store)  # type: ignore[arg-type]
        assert (store.body(1), [row.body for row in store.waiting()]) == (b"", [b"value"])
        assert store.totals() == Totals(accepted=3, completed=0, failed=0, waiting=1, open=3)
        store.close()


# --- accounts apart --------------------------------------------------------------------------------------------------


@pytest.fixture
def apart(url: str) -> Iterator[Store]:
    store = open_store(url, "fast", "memory", "disk")
    yield store
    store.close()


def reopened(store: Store) -> Store:
    store.close()
    store.open()
    return store


def test_one_that_is_open_is_not_opened_again(apart: Store) -> None:
    apart.commit(Changes(appends=[append(1, 1)], done={1: b"\x01"}, completed=1))
    apart.open()
    assert apart.totals() == Totals(accepted=3, completed=1, failed=0, waiting=0, open=2)


def test_more_chunks_than_one_page_are_taken_up(apart: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "_PAGE", 2)
    apart.commit(Changes(appends=[append(id, 3 * id - 2) for id in range(1, 6)]))
    reopened(apart)
    assert [row.chunk.id for row in apart.open_chunks()] == [1, 2, 3, 4, 5]
    apart.commit(Changes(done={5: None}, completed=3))
    assert reopened(apart).totals() == Totals(accepted=15, completed=3, failed=0, waiting=0, open=12)


def test_no_failed_row_and_no_mark_is_in_the_store_of_the_values(apart: Store, url: str) -> None:
    apart.commit(Changes(appends=[append(1, 1), append(2, 4)], done={1: b"\x03", 2: None}, completed=3))
    apart.commit(Changes(waiting=[failed(1)], dead=[failed(2)]))
    values = read_only(url)
    assert (values.waiting(), values.dead_letters()) == ([], [])
    assert [(row.chunk.id, row.done) for row in values.open_chunks()] == [(1, b"")]
    assert values.totals() == Totals(accepted=6, completed=3, failed=0, waiting=0, open=3)
    values.close()


def test_marks_alone_are_no_commit_of_the_values() -> None:
    values = Faulty()
    store = AccountsApart(values)
    store.open()
    store.commit(Changes(appends=[append(1, 1)]))
    store.commit(Changes(done={1: b"\x01"}, completed=1))
    assert values.commits == 1
    assert store.totals().completed == 1


@pytest.mark.parametrize("end", ["waiting", "dead"])
def test_a_root_with_a_row_of_its_own_pins_its_chunk(apart: Store, end: str) -> None:
    apart.commit(Changes(appends=[append(1, 1)], done={1: None}, completed=2, **{end: [failed(2)]}))  # type: ignore[arg-type]
    assert apart.open_chunks() == []
    assert apart.body(1) == b"1"
    reopened(apart)
    assert [row.chunk.id for row in apart.open_chunks()] == [1]
    assert apart.totals() == Totals(accepted=3, completed=0, failed=0, waiting=0, open=3)


def test_a_chunk_leaves_when_all_are_completed_or_discarded(apart: Store) -> None:
    rows = [failed(position) for position in (1, 2, 3)]
    apart.commit(Changes(appends=[append(1, 1, 4)], done={1: None}, completed=1, waiting=rows))
    apart.commit(Changes(recovered=[1], completed=1, dropped=[2], dead=[failed(3)]))
    assert apart.body(1) == b"1"
    apart.commit(Changes(revived=[3]))
    with pytest.raises(StoreError, match="chunk 1"):
        apart.body(1)
    ended = Totals(accepted=4, completed=2, failed=0, waiting=0, open=0, discarded=2)
    assert apart.totals() == ended
    assert reopened(apart).totals() == ended


def test_a_row_of_no_chunk_that_is_held_pins_none(apart: Store) -> None:
    apart.commit(Changes(appends=[append(1, 1), append(2, 10)]))
    apart.commit(Changes(waiting=[failed(5), failed(20)], done={1: None, 2: None}, completed=6))
    assert reopened(apart).open_chunks() == []


def test_a_replayed_dead_letter_pins_its_chunk_until_it_is_completed(apart: Store) -> None:
    apart.commit(Changes(appends=[append(1, 1, 1)], done={1: None}, dead=[failed(1)]))
    apart.commit(Changes(waiting=[failed(1)], revived=[1]))
    assert apart.body(1) == b"1"
    apart.commit(Changes(recovered=[1], completed=1))
    assert reopened(apart).totals() == Totals(accepted=1, completed=1, failed=0, waiting=0, open=0)


def test_nothing_is_remembered_of_chunks_that_are_over() -> None:
    pins = Pins()
    for id in range(1, 101):
        pins.apply(pins.stage(Changes(appends=[append(id, 3 * id - 2)])))
        pins.apply(pins.stage(Changes(done={id: None}, completed=3)))
    assert (pins._chunks, pins._ids, pins._firsts) == ({}, [], [])


def test_what_producers_were_told_and_operators_did_survives(apart: Store) -> None:
    apart.commit(Changes(appends=[append(1, 1, origin=Origin(b"p", 7))], audits=[Audit(1.0, "me", "discard", 1, "1")]))
    salt = apart.salt
    reopened(apart)
    assert (apart.last_sequence(b"p"), len(apart.audits()), apart.salt) == (7, 1, salt)
    assert (apart.next_chunk(), apart.next_position()) == (2, 4)
    apart.commit(Changes(appends=[append(2, 4, origin=Origin(b"p", 8))]))
    assert apart.last_sequence(b"p") == 8


def test_a_group_of_values_that_is_refused_changes_no_account_and_can_be_committed_again() -> None:
    values = Faulty()
    store = AccountsApart(values)
    store.open()
    store.commit(Changes(appends=[append(1, 1)]))
    group = Changes(appends=[append(2, 4)], done={1: None}, completed=2, waiting=[failed(3)])
    values.broken = True
    with pytest.raises(StoreError, match="no space"):
        store.commit(group)
    assert store.totals() == Totals(accepted=3, completed=0, failed=0, waiting=0, open=3)
    values.broken = False
    store.commit(group)
    assert store.totals() == Totals(accepted=6, completed=2, failed=0, waiting=1, open=4)
    assert [row.chunk.id for row in values.open_chunks()] == [1, 2]


@pytest.mark.parametrize(("dead", "waiting"), [(1, 1), (1, 0), (0, 1)])
def test_a_log_with_failed_items_is_refused_since_memory_would_lose_them(url: str, dead: int, waiting: int) -> None:
    store = open_store(url, "fast")
    rows: dict[str, Any] = {"dead": [failed(1)][:dead], "waiting": [failed(2)][:waiting]}
    store.commit(Changes(appends=[append(1, 1)], done={1: b"\x03"}, completed=2 - dead - waiting, **rows))
    store.close()
    with pytest.raises(StoreError, match=f"{dead} failed items and {waiting} that wait"):
        open_store(url, "fast", "memory", "disk")
    store = open_store(url, "fast")
    assert (store.totals().failed, store.totals().waiting) == (dead, waiting)
    store.close()


def test_what_was_marked_when_the_accounts_were_on_the_disk_is_not_counted_twice(url: str) -> None:
    store = open_store(url, "fast")
    store.commit(Changes(appends=[append(1, 1, 10)], done={1: b"\x05\x02"}, completed=3))
    store.close()
    store = open_store(url, "fast", "memory", "disk")
    assert [row.done for row in store.open_chunks()] == [b"\x05\x02"]
    assert store.totals() == Totals(accepted=10, completed=3, failed=0, waiting=0, open=7)
    store.commit(Changes(done={1: None}, completed=7))
    assert reopened(store).totals() == Totals(accepted=10, completed=10, failed=0, waiting=0, open=0)
    store.close()


def test_what_was_retained_when_the_accounts_were_on_the_disk_is_counted_and_can_be_purged(url: str) -> None:
    store = open_store(url, "fast")
    chunk = append(1, 1).chunk
    batch = Retained(replace(chunk, body=b""), b"\x07", 1.0, len(chunk.body))
    store.commit(Changes(appends=[append(1, 1)], done={1: None}, completed=3, retained=[batch]))
    store.close()
    store = open_store(url, "fast", "memory", "disk")
    assert (store.totals().retained, store.body(1)) == (3, b"1")
    store.commit(Changes(purged=store.retained()))
    assert (store.totals().retained, store.retained()) == (0, [])
    assert reopened(store).totals() == Totals(accepted=3, completed=3, failed=0, waiting=0, open=0)
    store.close()


class AccountsMachine(RuleBasedStateMachine):
    """Roots end in all ways and the acker restarts: what the disk holds agrees with what has ended."""

    @initialize()
    def start(self) -> None:
        self.directory = TemporaryDirectory()
        self.url = f"sqlite:///{self.directory.name}/store.sqlite"
        self.store = open_store(self.url, "fast", "memory", "disk")
        #: of each chunk that is not over its first position and its count
        self.chunks: dict[int, tuple[int, int]] = {}
        #: position -> "open" (in its chunk), "row", "dead", "completed" or "discarded", of chunks that are not over
        self.state: dict[int, str] = {}
        self.next = (1, 1)
        self.accepted = self.completed = self.discarded = 0

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.directory.cleanup()

    @rule(count=st.integers(1, 5))
    def append(self, count: int) -> None:
        id, first = self.next
        self.next = id + 1, first + count
        self.chunks[id] = first, count
        self.state.update(dict.fromkeys(range(first, first + count), "open"))
        self.accepted += count
        self.store.commit(Changes(appends=[append(id, first, count)]))

    def having(self, *states: str) -> list[int]:
        return sorted(position for position, state in self.state.items() if state in states)

    @precondition(lambda self: self.having("open", "row", "dead"))
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Some roots of several chunks get on, in one group."""
        group, touched = Changes(), set()
        chosen = data.draw(st.lists(st.sampled_from(self.having("open", "row", "dead")), unique=True, min_size=1))
        for position in chosen:
            before = self.state[position]
            ends = {"open": ("row", "dead", "completed", "discarded"), "row": ("row", "dead", "completed", "discarded"),
                    "dead": ("row", "dead", "discarded")}[before]  # fmt: skip
            after = self.state[position] = data.draw(st.sampled_from(ends))
            touched |= {id for id, (first, count) in self.chunks.items() if first <= position < first + count}
            if after == "row":
                group.waiting.append(failed(position))
            elif after == "dead":
                group.dead.append(failed(position))
            elif after == "completed":
                group.completed += 1
            if before == "dead" and after != "dead":
                group.revived.append(position)
            elif after == "completed" and before == "row":
                group.recovered.append(position)
            elif after == "discarded":
                group.dropped.append(position)
        for id in touched:
            first, count = self.chunks[id]
            done = sum(1 << index for index in range(count) if self.state[first + index] != "open")
            group.done[id] = None if done == (1 << count) - 1 else done.to_bytes(1, "little")
        self.store.commit(group)
        for id in touched:
            first, count = self.chunks[id]
            states = [self.state[position] for position in range(first, first + count)]
            if all(state in ("completed", "discarded") for state in states):
                self.completed += states.count("completed")
                self.discarded += states.count("discarded")
                del self.chunks[id]
                for position in range(first, first + count):
                    del self.state[position]

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = open_store(self.url, "fast", "memory", "disk")
        self.state = dict.fromkeys(self.state, "open")

    @invariant()
    def the_disk_holds_exactly_what_is_not_over(self) -> None:
        if not hasattr(self, "store"):
            return
        values = read_only(self.url)
        totals, chunks = values.totals(), values.open_chunks()
        values.close()
        assert [row.chunk.id for row in chunks] == sorted(self.chunks)
        assert totals == Totals(
            self.accepted, self.completed, 0, 0, sum(count for _, count in self.chunks.values()), self.discarded
        )

    @invariant()
    def the_accounts_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        totals, states = self.store.totals(), list(self.state.values())
        assert totals.accepted == self.accepted
        assert totals.completed == self.completed + states.count("completed")
        assert totals.discarded == self.discarded + states.count("discarded")
        assert (totals.failed, totals.waiting) == (states.count("dead"), states.count("row"))
        assert totals.open == states.count("open") + states.count("row")


TestAccountsInMemory: Any = AccountsMachine.TestCase
TestAccountsInMemory.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
