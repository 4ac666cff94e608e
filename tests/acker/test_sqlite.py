"""What only the SQLite store does: files, modes, guarantees, kills, damage, full disks."""

import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from consecutiond.acker.stores import Durability, ReadableStore, StoreError, open_store, read_only
from consecutiond.acker.stores import sqlite as sqlite_store
from consecutiond.acker.stores.base import Append, Changes, Chunk, Failed, Origin, Retained, Totals
from consecutiond.acker.stores.schema import FORMER_VERSION, SCHEMA_VERSION
from consecutiond.acker.stores.sqlite import SqliteStore

ROOT = Path(__file__).parents[2]
MIB = 2**20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "acker_db.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, "durable")
    store.open()
    yield store
    store.close()


def append(id: int, body: bytes = b"values", count: int = 1) -> Append:
    return Append(Chunk(id, id, count, ("in",), body), Origin(b"producer", id))


def row(position: int) -> Failed:
    return Failed(position, 1, ("in",), b"value", 0.0, "parse", "raised", "no", "", 0.0)


def child(program: str, *arguments: object) -> "subprocess.Popen[str]":
    """Start a Python program that can import the three floors; its output is a pipe of lines."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "broker"), str(ROOT / "nodes")]),
    }
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def both_ways(path: Path) -> list[Callable[[], ReadableStore]]:
    """Open the file to write and to read: what is refused to one must be refused to the other."""
    return [lambda: open_store(f"sqlite:///{path}", "durable"), lambda: read_only(path)]


def pragma(store: SqliteStore, name: str) -> object:
    return store._connection().execute(f"PRAGMA {name}").fetchone()[0]


@pytest.mark.parametrize(("durability", "level"), [("durable", 2), ("fast", 1)])
def test_synchronous_follows_the_durability_and_the_journal_is_a_wal(
    path: Path, durability: Durability, level: int
) -> None:
    with closing(SqliteStore(path, durability)) as store:
        store.open()
        assert pragma(store, "synchronous") == level
        assert pragma(store, "journal_mode") == "wal"
        assert store.durable == (durability == "durable")


def test_the_file_and_its_companions_are_private_whatever_the_umask(path: Path) -> None:
    umask = os.umask(0)
    try:
        with closing(open_store(f"sqlite:///{path}", "fast")) as store:
            store.commit(Changes(appends=[append(1)]))
            files = sorted(path.parent.iterdir())
            assert [file.name for file in files] == [path.name + end for end in ("", "-shm", "-wal")]
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    finally:
        os.umask(umask)


def test_a_relative_url_is_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_store("sqlite:///here.sqlite", "fast").close()
    assert (tmp_path / "here.sqlite").exists()


def test_a_path_with_every_odd_character_simply_works(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=ro#% ü%41.sqlite"
    with closing(open_store(f"sqlite:///{path}", "fast")) as store:
        store.commit(Changes(appends=[append(1)]))
    assert path.exists()
    with closing(read_only(path)) as reader:
        assert reader.totals().accepted == 1


def test_a_store_that_is_opened_in_one_thread_may_be_used_in_another(store: SqliteStore) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(store.commit, Changes(appends=[append(1)])).result()
    assert store.totals().accepted == 1


# Kills. The child says what has returned, the file must hold exactly that, or one whole group more.

COMMIT_FOR_EVER = """
import sys
from consecutiond.acker.stores import open_store
from consecutiond.acker.stores.base import Append, Changes, Chunk, Failed, Origin, Retained, Totals
store = open_store(f"sqlite:///{sys.argv[1]}", sys.argv[2])
while True:
    first = store.next_chunk()
    ids = range(first, first + 32)
    chunks = [Append(Chunk(id, id, 1, ("in",), b"x" * 100_000), Origin(b"producer", id)) for id in ids]
    rows = [Failed(id, 1, ("in",), b"v", 0.0, "parse", "raised", "no", "", 0.0) for id in ids]
    over = dict.fromkeys(range(first - 64, first - 32), None)
    store.commit(Changes(appends=chunks, done=over, waiting=rows[:3], dead=rows[3:5], completed=7))
    print(ids[-1], flush=True)
"""


@pytest.mark.parametrize("durability", ["durable", "fast"])
def test_a_group_that_returned_survives_kill_9_and_none_is_there_in_part(path: Path, durability: Durability) -> None:
    returned = 0
    for round in range(4):
        process = child(COMMIT_FOR_EVER, path, durability)
        assert process.stdout is not None
        for _ in range(3 + round):
            returned = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        returned = max([returned, *map(int, process.stdout.read().split())])
        process.wait()
        process.stdout.close()
        assert_whole_groups(path, returned)


def assert_whole_groups(path: Path, returned: int) -> None:
    with closing(SqliteStore(path, "durable")) as store:
        store.open()
        assert pragma(store, "integrity_check") == "ok"
        last = store.next_chunk() - 1
        groups = last // 32
        assert last in (returned, returned + 32)
        assert [chunk.chunk.id for chunk in store.open_chunks(0, 1000)] == list(range(max(1, last - 63), last + 1))
        assert all(len(store.body(id)) == 100_000 for id in range(max(1, last - 63), last + 1))
        assert store.last_sequence(b"producer") == last
        totals = store.totals()
        assert (totals.accepted, totals.completed) == (last, groups * 7)
        assert (totals.waiting, totals.failed) == (groups * 3, groups * 2)
        assert len(store.waiting(0, 10**6)) == groups * 3


DIE_AT = """
import os, signal, sys
from consecutiond.acker.stores.base import Append, Changes, Chunk
from consecutiond.acker.stores.sqlite import SqliteStore
store = SqliteStore(sys.argv[1], "durable")
if sys.argv[2] == "CREATE TABLE dead":
    import sqlite3
    connect = sqlite3.connect
    def traced(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.set_trace_callback(die)
        return connection
    sqlite3.connect = traced
def die(statement):
    if statement.startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
store.open()
store._connection().set_trace_callback(die)
# More than the page cache holds, so that half the group is in the write-ahead log when the end comes.
chunks = [Append(Chunk(id, id, 1, ("in",), b"x" * 2**20), None) for id in range(2, 26)]
store.commit(Changes(appends=chunks, done={1: None}, completed=1))
print("not killed")
"""


@pytest.mark.parametrize("statement", ["INSERT INTO bodies", "DELETE FROM chunks", "UPDATE counters", "COMMIT"])
def test_a_kill_in_mid_commit_leaves_the_store_as_it_was(path: Path, statement: str) -> None:
    with closing(open_store(f"sqlite:///{path}", "durable")) as store:
        store.commit(Changes(appends=[append(1)]))
    process = child(DIE_AT, path, statement)
    assert process.communicate()[0] == ""
    assert process.returncode == -signal.SIGKILL
    assert Path(f"{path}-wal").exists()
    with closing(open_store(f"sqlite:///{path}", "durable")) as store:
        assert [chunk.chunk.id for chunk in store.open_chunks(0, 100)] == [1]
        assert (store.body(1), store.next_chunk(), store.totals().open) == (b"values", 2, 1)


def test_a_kill_while_the_store_is_created_leaves_nothing_half_made(path: Path) -> None:
    process = child(DIE_AT, path, "CREATE TABLE dead")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(StoreError, match="never finished its first start"):
        read_only(path)
    with closing(open_store(f"sqlite:///{path}", "durable")) as store:
        store.commit(Changes(appends=[append(1)], dead=[row(1)]))
        assert store.totals().failed == 1


# Size.


@pytest.mark.parametrize("durability", ["durable", "fast"])
def test_300_mib_that_come_and_go_leave_a_small_file_and_a_small_log(path: Path, durability: Durability) -> None:
    largest = 0
    with closing(open_store(f"sqlite:///{path}", durability)) as store:
        for id in range(1, 301):
            store.commit(Changes(appends=[append(id, os.urandom(MIB))]))
            store.commit(Changes(done={id: None}, completed=1))
            largest = max(largest, sum(file.stat().st_size for file in path.parent.iterdir()))
    assert largest < 15 * MIB


def test_the_log_shrinks_again_after_one_huge_group(path: Path, store: SqliteStore) -> None:
    store.commit(Changes(appends=[append(id, bytes(MIB)) for id in range(1, 41)]))
    log = Path(f"{path}-wal")
    assert log.stat().st_size > 40 * MIB
    store.commit(Changes(appends=[append(41)]))
    assert log.stat().st_size <= 8 * MIB


def test_a_new_bitmap_does_not_write_the_body_again(path: Path, store: SqliteStore) -> None:
    store.commit(Changes(appends=[append(1, bytes(3 * MIB), count=8)]))
    store._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for done in range(1, 11):
        store.commit(Changes(done={1: bytes([done])}))
    assert Path(f"{path}-wal").stat().st_size < MIB


# Faults.


def test_a_full_disk_changes_nothing_and_the_group_can_be_tried_again(
    store: SqliteStore,
) -> None:
    store.commit(Changes(appends=[append(1)]))
    group = Changes(appends=[append(2, bytes(MIB))], done={1: None}, waiting=[row(1)], completed=1)
    store._connection().execute(f"PRAGMA max_page_count = {pragma(store, 'page_count')}")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"nothing of this group was recorded.*SQLITE_FULL.*make room"):
            store.commit(group)
        assert (store.next_chunk(), store.totals().open, store.body(1)) == (2, 1, b"values")
    store._connection().execute("PRAGMA max_page_count = 100000")
    store.commit(group)
    assert (store.next_chunk(), store.totals().waiting, store.totals().completed) == (3, 1, 1)


FAIL_TO_WRITE = """
import resource, sys
from consecutiond.acker.stores import StoreError, open_store
from consecutiond.acker.stores.base import Append, Changes, Chunk
store = open_store(f"sqlite:///{sys.argv[1]}", "durable")
group = Changes(appends=[Append(Chunk(1, 1, 1, ("in",), bytes(2**21)), None)])
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
for _ in range(2):
    try:
        store.commit(group)
        print("recorded")
    except StoreError as error:
        print(error)
    assert store.totals().accepted == 0
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
store.commit(group)
print(store.totals().accepted, len(store.body(1)))
"""


def test_a_write_that_the_system_refuses_changes_nothing_and_can_be_tried_again(path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    lines = child(FAIL_TO_WRITE, path).communicate()[0].splitlines()
    assert len(lines) == 3
    assert all("nothing of this group was recorded" in line and "SQLITE_IOERR" in line for line in lines[:2])
    assert lines[2] == f"1 {2 * MIB}"


def test_a_file_that_another_process_holds_is_refused_after_a_while(
    path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "BUSY_TIMEOUT_S", 0.05)
    with closing(SqliteStore(path, "fast")) as second:
        second.open()
        store._connection().execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"SQLITE_BUSY.*second acker"):
            second.commit(Changes(appends=[append(1)]))
        store._connection().execute("ROLLBACK")
        second.commit(Changes(appends=[append(1)]))


def test_a_second_acker_cannot_use_a_number_of_the_first(path: Path, store: SqliteStore) -> None:
    with closing(open_store(f"sqlite:///{path}", "fast")) as second:
        second.commit(Changes(appends=[append(1, b"second")]))
        with pytest.raises(StoreError, match="two ackers"):
            store.commit(Changes(appends=[append(1, b"first")]))
        assert second.body(1) == b"second"


@pytest.mark.parametrize(
    ("version", "age"), [(0, "older"), (FORMER_VERSION - 1, "older"), (SCHEMA_VERSION + 1, "newer")]
)
def test_another_schema_version_is_refused_untouched(path: Path, version: int, age: str) -> None:
    open_store(f"sqlite:///{path}", "durable").close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    content = path.read_bytes()
    text = f"{age} consecutiond .schema version {version}, this one reads {SCHEMA_VERSION}.*"
    for attempt in both_ways(path):
        with pytest.raises(StoreError, match=text):
            attempt()
    assert path.read_bytes() == content


def test_a_file_of_the_former_version_is_brought_up_to_date_by_an_acker_and_by_nobody_else(path: Path) -> None:
    with closing(open_store(f"sqlite:///{path}", "durable")) as store:
        store.commit(Changes(appends=[append(1, b"old"), append(2)], done={2: None}, completed=1))
    with closing(sqlite3.connect(path)) as connection:
        for statement in (
            "DROP TABLE retained", "ALTER TABLE counters DROP COLUMN retained",
            "ALTER TABLE chunks DROP COLUMN checksum",
            "ALTER TABLE counters DROP COLUMN retained_bytes", f"PRAGMA user_version = {FORMER_VERSION}",
        ):  # fmt: skip
            connection.execute(statement)
    content = path.read_bytes()
    with pytest.raises(StoreError, match="Start its consecutor once with this one"):
        read_only(path)
    assert path.read_bytes() == content
    batch = Retained(Chunk(1, 1, 1, ("in",), b""), b"\x01", 2.0, 3)
    with closing(open_store(f"sqlite:///{path}", "durable")) as store:
        assert store.totals() == Totals(2, 1, 0, 0, 1)
        store.commit(Changes(done={1: None}, completed=1, retained=[batch]))
    with closing(read_only(path)) as reader:
        assert (reader.totals().retained, reader.body(1)) == (1, b"old")


def test_what_a_start_reads_does_not_grow_with_what_is_kept(path: Path, store: SqliteStore) -> None:
    ids = range(1, 1001)
    kept = [Retained(Chunk(id, id, 1, ("in",), b""), b"\x01", 1.0, 6) for id in ids]
    store.commit(Changes(appends=[append(id) for id in ids], done=dict.fromkeys(ids), completed=1000, retained=kept))
    store.commit(Changes(appends=[append(1001)]))
    with closing(SqliteStore(path, "durable")) as again:
        again.open()
        read: list[str] = []
        again._connection().set_trace_callback(read.append)
        assert [row.chunk.id for row in again.open_chunks()] == [1001]
        assert (again.waiting(), again.totals().retained, again.next_chunk()) == ([], 1000, 1002)
    assert len(read) == 4
    assert not [query for query in read if "FROM retained" in query]


def test_the_database_of_another_program_is_refused_untouched(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    content = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        open_store(f"sqlite:///{path}", "durable")
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_no_database_is_refused_untouched(path: Path) -> None:
    path.write_text("not a database\n" * 500)
    for attempt in both_ways(path):
        with pytest.raises(StoreError, match=r"could not be opened.*SQLITE_NOTADB.*give the store another path"):
            attempt()
    assert path.read_text() == "not a database\n" * 500


def test_a_damaged_file_says_so_when_the_damage_is_met(path: Path) -> None:
    with closing(open_store(f"sqlite:///{path}", "durable")) as store:
        store.commit(Changes(appends=[append(id, bytes(100)) for id in range(1, 2000)]))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(20000)
        file.write(os.urandom(size - 20000))
    with pytest.raises(StoreError, match=r"SQLITE_CORRUPT.*damaged.*\.recover"):  # noqa: PT012 - where is open
        store = open_store(f"sqlite:///{path}", "durable")
        try:
            store.open_chunks(0, 10_000)
            store.commit(Changes(appends=[append(2000)], waiting=[row(1)], dead=[row(2)]))
        finally:
            store.close()


def test_a_missing_directory_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere/a\.sqlite could not be opened.*No such file or directory"):
        open_store(f"sqlite:///{tmp_path}/nowhere/a.sqlite", "durable")


def test_reading_a_store_that_never_was_is_a_clear_error_and_creates_nothing(path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store at"):
        read_only(path)
    assert not path.exists()


OPEN_AS_NOBODY = """
import os, sys
from consecutiond.acker.stores import StoreError, open_store
if os.geteuid() == 0:
    os.setuid(65534)
try:
    open_store(f"sqlite:///{sys.argv[1]}", "durable")
except StoreError as error:
    print(error)
"""


@pytest.fixture
def locked() -> Iterator[Path]:
    """A directory that can be read and not written; not below tmp_path, which another user may not enter."""
    directory = Path(tempfile.mkdtemp())
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


@pytest.mark.parametrize("there", [False, True], ids=["new file", "existing file"])
def test_a_directory_that_is_not_writable_is_a_clear_error_at_the_start(locked: Path, there: bool) -> None:
    path = locked / "acker_db.sqlite"
    if there:
        open_store(f"sqlite:///{path}", "durable").close()
        path.chmod(0o444)
    locked.chmod(0o555)
    said = child(OPEN_AS_NOBODY, path).communicate()[0]
    assert f"{path} could not be opened" in said
    assert "this user must be allowed to write" in said
    assert len(said.splitlines()) == 1


# Reading beside the acker and after it.


def test_a_reader_sees_every_commit_of_a_live_acker_and_can_change_nothing(path: Path, store: SqliteStore) -> None:
    store.commit(Changes(appends=[append(1)]))
    with closing(read_only(path)) as reader:
        assert reader.totals() == store.totals()
        store.commit(Changes(dead=[row(1)], done={1: None}))
        assert reader.dead_letters(0, 10) == [row(1)]
        assert (reader.salt, reader.open_chunks(0, 10)) == (store.salt, [])
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader._connection().execute("DELETE FROM dead")  # type: ignore[attr-defined]
        assert not hasattr(reader, "commit")


def test_a_reader_sees_what_a_killed_acker_had_committed(path: Path) -> None:
    process = child(COMMIT_FOR_EVER, path, "fast")
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    returned = max([32, *map(int, process.stdout.read().split())])
    process.wait()
    process.stdout.close()
    with closing(read_only(path)) as reader:
        assert reader.totals().accepted in (returned, returned + 32)
        assert len(reader.dead_letters(0, 10**6)) == reader.totals().failed


def test_a_reader_that_stays_open_does_not_make_the_log_grow(path: Path, store: SqliteStore) -> None:
    with closing(read_only(path)) as reader:
        for id in range(1, 31):
            store.commit(Changes(appends=[append(id, bytes(MIB))]))
            store.commit(Changes(done={id: None}))
            assert reader.open_chunks(0, 10) == []
            assert reader.next_chunk() == id + 1
    assert Path(f"{path}-wal").stat().st_size < 10 * MIB
