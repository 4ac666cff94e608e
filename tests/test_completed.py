"""Pages of completed inputs that a log has kept: what is in them, what is not, and what happens to them meanwhile."""

from collections.abc import Iterator
from math import inf

import pytest
from msgspec.structs import replace

from consecutiond import kept
from consecutiond.acker.stores.base import Append, Changes, Chunk, Retained, StoreError
from consecutiond.acker.stores.memory import MemoryStore
from consecutiond_broker import codec


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    """Ten batches of three, each over a second after the last; of each the first and the third completed."""
    store = MemoryStore()
    store.open()
    chunks = [Chunk(id, 3 * id, 3, ("in",), codec.encode([f"{id}a", f"{id}b", f"{id}c"]), 5.0) for id in range(1, 11)]
    store.commit(Changes(appends=[Append(chunk, None) for chunk in chunks]))
    batches = [Retained(replace(chunk, body=b""), b"\x05", 100.0 + chunk.id, len(chunk.body)) for chunk in chunks]
    store.commit(Changes(done=dict.fromkeys(range(1, 11)), completed=20, retained=batches))
    yield store
    store.close()


def everything(store: MemoryStore, since: float = 0.0, until: float = inf) -> list[Retained]:
    found, after = [], 0
    while (page := kept.page(store, since, until, after, values=True)).last:
        found += page.batches
        after = page.last
    return found


def test_roots_that_completed_have_their_places_and_times(store: MemoryStore) -> None:
    first, second, *_ = (root for batch in everything(store) for root in kept.roots(batch))
    assert [(root.position, root.accepted_at, root.completed_at) for root in (first, second)] == [
        (3, 5.0, 101.0), (5, 5.0, 101.0),
    ]  # fmt: skip
    assert codec.decode(kept.body_of([first, second])) == ["1a", "1c"]


@pytest.mark.parametrize("look", [1, 3, 1000])
@pytest.mark.parametrize("most_bytes", [1, 8 << 20])
def test_pages_miss_nothing_whatever_their_size(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, look: int, most_bytes: int
) -> None:
    monkeypatch.setattr(kept, "LOOK", look)
    monkeypatch.setattr(kept, "_MOST_BYTES", most_bytes)
    assert [batch.chunk.id for batch in everything(store)] == list(range(1, 11))
    assert [batch.chunk.id for batch in everything(store, 103.0, 106.0)] == [3, 4, 5]
    assert len(kept.page(store, 0.0, inf, 0, values=True).batches) == min(look, 1 if most_bytes == 1 else 10)


def test_a_batch_that_is_taken_away_while_it_is_read_is_left_out(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, first = store.body, store.retained()[0]

    def purged(chunk: int) -> bytes:
        store.commit(Changes(purged=[first]))
        return body(chunk)

    monkeypatch.setattr(store, "body", purged)
    assert [batch.chunk.id for batch in everything(store)] == list(range(2, 11))


def test_a_store_that_fails_is_told(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(chunk: int) -> bytes:
        raise StoreError("the disk hangs")

    monkeypatch.setattr(store, "body", failing)
    with pytest.raises(StoreError, match="hangs"):
        everything(store)


def test_a_damaged_batch_has_no_roots_and_holds_no_other_up(store: MemoryStore) -> None:
    good = Chunk(11, 33, 1, ("in",), codec.encode(["good"]), 5.0, checksum=1)
    store.commit(Changes(retained=[Retained(good, b"\x01", 200.0, len(good.body))]))
    found = everything(store)
    assert (len(found), found[-1].chunk.body, list(kept.roots(found[-1]))) == (11, b"", [])


def test_roots_are_put_together_to_batches_of_bearable_size(store: MemoryStore) -> None:
    roots = [root for batch in everything(store) for root in kept.roots(batch)]
    assert [len(group) for group in kept.grouped(iter(roots), 8, 1 << 20)] == [8, 8, 4]
    assert [len(group) for group in kept.grouped(iter(roots), 1000, 6)] == [2] * 10
    assert [root for group in kept.grouped(iter(roots), 7, 20) for root in group] == roots
