"""The Kyoto Cabinet store: kills, full disks, files of others, and one process at a time."""

import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from consecutiond.acker.stores import StoreError, kyotoreader, open_store, read_only
from consecutiond.acker.stores.base import Append, Changes, Chunk, Durability, Failed, Retained
from consecutiond.acker.stores.kyoto import KyotoStore
from consecutiond.acker.stores.kyotoreader import FORMER_VERSION, LOG, SCHEMA_VERSION, KyotoReader
from tests import needs

MIB = 2**20


@pytest.fixture(autouse=True)
def library() -> None:
    needs.kyoto()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "acker_db.kyoto"


@pytest.fixture
def store(path: Path) -> Iterator[KyotoStore]:
    with closing(KyotoStore(path, "fast")) as store:
        store.open()
        yield store


def append(id: int, body: bytes = b"values") -> Append:
    return Append(Chunk(id, id, 1, ("in",), body), None)


def row(position: int) -> Failed:
    return Failed(position, 1, ("in",), b"v", 0.0, "parse", "raised", "no", "", 0.0)


def child(code: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


COMMIT_FOR_EVER = """
import sys
from consecutiond.acker.stores import open_store
from consecutiond.acker.stores.base import Append, Changes, Chunk, Failed, Origin
store = open_store(f"kyoto:///{sys.argv[1]}", sys.argv[2])
while True:
    first = store.next_chunk()
    ids = range(first, first + 32)
    chunks = [Append(Chunk(id, id, 1, ("in",), b"x" * 10_000), Origin(b"producer", id)) for id in ids]
    rows = [Failed(id, 1, ("in",), b"v", 0.0, "parse", "raised", "no", "", 0.0) for id in ids]
    over = dict.fromkeys(range(max(1, first - 64), max(1, first - 32)), None)
    store.commit(Changes(appends=chunks, done=over, waiting=rows[:3], dead=rows[3:5], completed=7))
    print(ids[-1], flush=True)
"""


@pytest.mark.parametrize("durability", ["durable", "fast"])
def test_a_group_that_returned_survives_kill_9_and_none_is_there_in_part(path: Path, durability: Durability) -> None:
    returned = 0
    for round in range(6):
        process = child(COMMIT_FOR_EVER, path, durability)
        assert process.stdout is not None
        for _ in range(3 + round):
            returned = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        returned = max([returned, *map(int, process.stdout.read().split())])
        process.wait()
        process.stdout.close()
        # Readers and writers by turns: either must find the same after a kill.
        opened = read_only(f"kyoto:///{path}") if round % 2 else open_store(f"kyoto:///{path}", durability)
        with closing(opened) as store:
            last = store.next_chunk() - 1
            assert last in (returned, returned + 32)
            ids = list(range(max(1, last - 63), last + 1))
            assert [chunk.chunk.id for chunk in store.open_chunks(0, 1000)] == ids
            assert all(len(store.body(id)) == 10_000 for id in ids)
            totals, groups = store.totals(), last // 32
            assert (totals.accepted, totals.completed) == (last, groups * 7)
            assert (len(store.waiting(0, 10**6)), len(store.dead_letters(0, 10**6))) == (groups * 3, groups * 2)
            assert store.last_sequence(b"producer") == last


DIE_AT = """
import os, signal, sys
from consecutiond.acker.stores import kyotolib, open_store
from consecutiond.acker.stores.base import Append, Changes, Chunk
store = open_store(f"kyoto:///{sys.argv[1]}", "durable")
change, left = getattr(kyotolib.Database, sys.argv[2]), [int(sys.argv[3])]
def dying(*arguments, **options):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return change(*arguments, **options)
setattr(kyotolib.Database, sys.argv[2], dying)
chunks = [Append(Chunk(id, id, 1, ("in",), b"x" * 2**16), None) for id in range(2, 26)]
store.commit(Changes(appends=chunks, done={1: None}, completed=1))
print("not killed")
"""


@pytest.mark.parametrize("reader_first", [False, True])
@pytest.mark.parametrize("at", [("set", 2), ("set", 30), ("remove", 1), ("end", 1)], ids=lambda at: f"{at[0]}-{at[1]}")
def test_a_kill_in_mid_commit_leaves_the_store_as_it_was(path: Path, at: tuple[str, int], reader_first: bool) -> None:
    with closing(open_store(f"kyoto:///{path}", "durable")) as store:
        store.commit(Changes(appends=[append(1)]))
    process = child(DIE_AT, path, *at)
    assert process.communicate()[0] == ""
    assert process.returncode == -signal.SIGKILL
    assert Path(f"{path}.wal").stat().st_size
    opened = read_only(f"kyoto:///{path}") if reader_first else open_store(f"kyoto:///{path}", "durable")
    with closing(opened) as store:
        assert [chunk.chunk.id for chunk in store.open_chunks(0, 100)] == [1]
        assert (store.body(1), store.next_chunk(), store.totals().open) == (b"values", 2, 1)


def test_all_files_are_for_this_user_only(path: Path, store: KyotoStore) -> None:
    store.commit(Changes(appends=[append(1)]))
    files = list(path.parent.iterdir())
    assert {file.name for file in files} >= {"acker_db.kyoto", "acker_db.kyoto.lock"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


@pytest.mark.parametrize("durability", ["durable", "fast"])
def test_what_comes_and_goes_leaves_a_small_file(path: Path, durability: Durability) -> None:
    largest = 0
    with closing(open_store(f"kyoto:///{path}", durability)) as store:
        for id in range(1, 61):
            store.commit(Changes(appends=[append(id, os.urandom(MIB))]))
            store.commit(Changes(done={id: None}, completed=1))
            largest = max(largest, sum(file.stat().st_size for file in path.parent.iterdir()))
    assert largest < 15 * MIB


FAIL_TO_WRITE = """
import resource, sys
from consecutiond.acker.stores import StoreError, open_store
from consecutiond.acker.stores.base import Append, Changes, Chunk
store = open_store(f"kyoto:///{sys.argv[1]}", "durable")
store.commit(Changes(appends=[Append(Chunk(1, 1, 1, ("in",), b"values"), None)]))
group = Changes(appends=[Append(Chunk(2, 2, 1, ("in",), bytes(2**23)), None)], completed=1)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**22, hard))
for _ in range(2):
    try:
        store.commit(group)
        print("recorded")
    except StoreError as error:
        print(error)
    assert store.totals().accepted == 1 and store.body(1) == b"values"
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
store.commit(group)
print(store.totals().accepted, store.totals().completed, len(store.body(2)))
store.close()
"""


def test_a_write_that_the_system_refuses_changes_nothing_and_can_be_tried_again(path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    lines = child(FAIL_TO_WRITE, path).communicate()[0].splitlines()
    assert len(lines) == 3, lines
    assert all("nothing of this group was recorded" in line and "make room" in line for line in lines[:2])
    assert lines[2] == f"2 1 {8 * MIB}"
    with closing(read_only(f"kyoto:///{path}")) as reader:
        assert reader.totals().accepted == 2


def test_a_file_that_another_holds_is_refused_after_a_while(
    path: Path, store: KyotoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kyotoreader, "LOCK_PATIENCE_S", 0.05)
    for opened in (lambda: open_store(f"kyoto:///{path}", "fast"), lambda: read_only(f"kyoto:///{path}")):
        with pytest.raises(StoreError, match=r"in use by another.*`consecutiond status`"):
            opened()
    store.close()
    read_only(f"kyoto:///{path}").close()


def test_files_of_other_programs_are_refused_and_left_as_they_are(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    for opened in (lambda: open_store(f"kyoto:///{path}", "fast"), lambda: read_only(f"kyoto:///{path}")):
        with pytest.raises(StoreError, match=r"acker_db\.kyoto could not be opened.*another path"):
            opened()
    assert path.read_bytes() == b"no database" * 1000


def test_a_file_of_the_former_schema_is_read_and_taken_over(path: Path) -> None:
    with closing(KyotoStore(path, "fast")) as store:
        store.open()
        store.commit(Changes(appends=[append(1)]))
        former = msgspec.to_builtins(store._log()) | {"schema": FORMER_VERSION}
        for name in ("retained", "retained_bytes", "last_retained"):
            del former["counters"][name]
        store._opened().set(LOG, msgspec.msgpack.encode(former))
    with closing(read_only(f"kyoto:///{path}")) as reader:
        assert (reader.totals().accepted, reader.totals().retained) == (1, 0)
    with closing(open_store(f"kyoto:///{path}", "fast")) as again:
        again.commit(Changes(done={1: None}, completed=1, retained=[Retained(append(1, b"").chunk, b"\x01", 2.0, 6)]))
        assert (again.totals().retained, again.body(1)) == (1, b"values")
    with closing(KyotoReader(path)) as reader:
        reader.open()
        assert reader._log().schema == SCHEMA_VERSION


def test_places_that_cannot_be_are_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere/a\.kyoto could not be opened: No such file or directory"):
        open_store(f"kyoto:///{tmp_path}/nowhere/a.kyoto", "fast")
    with pytest.raises(StoreError, match="there is a # in it"):
        open_store(f"kyoto:///{tmp_path}/a#type=kch", "fast")


def test_without_the_library_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from consecutiond.acker.stores import kyotolib

    monkeypatch.setattr(kyotolib, "_LIBRARY", "libnowhere.so")
    monkeypatch.setattr(kyotolib, "find_library", lambda _name: None)
    with pytest.raises(StoreError, match="apt-get install libkyotocabinet16v5"):
        open_store(f"kyoto:///{tmp_path}/a.kyoto", "fast")
