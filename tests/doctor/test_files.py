"""What doctor says of SQLite and Kyoto Cabinet files, permissions, disks, limits, clocks and versions."""

import os
import shutil
import sqlite3
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from consecutiond.acker.stores import open_store
from consecutiond.acker.stores.base import Append, Audit, Changes, Chunk, Totals
from consecutiond.doctor import clock, disk, files, kyoto, limits, log, sqlite, store, versions
from consecutiond.doctor.check import Check, in_one_sentence, worst
from consecutiond.doctor.clock import ClockFacts
from consecutiond.doctor.disk import DiskFacts
from consecutiond.doctor.limits import LimitFacts
from tests import needs

ROOT = Path(__file__).parents[2]


def bad(checks: list[Check] | tuple[Check, ...]) -> dict[str, str]:
    return {check.name: check.status for check in checks if check.status != "ok"}


def filled(url: str, size: int = 1000) -> None:
    with closing(open_store(url, "durable")) as log:
        for number in range(1, 40):
            chunk = Chunk(number, number, 1, ("in",), bytes([number]) * size, 1000.0 + number)
            log.commit(Changes(appends=[Append(chunk, None)]))


def everything(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(directory.iterdir())}


# --- SQLite --------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir(mode=0o700)
    return tmp_path / "home"


def look(path: Path, durability: str = "durable") -> store.Seen:
    return store.look(f"sqlite:///{path}", durability)  # type: ignore[arg-type]


def killed(home: Path, into: Path) -> Path:
    """Copy a store as a kill of its acker would leave it."""
    url = f"sqlite:///{home}/log"
    with closing(open_store(url, "durable")) as log:
        log.commit(Changes(appends=[Append(Chunk(1, 1, 5, ("in",), b"v", 7.0), None)]))
        into.mkdir()
        for path in home.iterdir():
            shutil.copy(path, into)
    return into / "log"


def test_a_store_that_was_closed_is_sound_and_stays_as_it_is_to_the_last_file(home: Path) -> None:
    filled(f"sqlite:///{home}/log")
    before = everything(home)
    assert list(before) == ["log"], "a closed store has no companions"
    seen = look(home / "log")
    assert not bad(seen.checks)
    assert [check.name for check in seen.checks] == [
        "sqlite.file", "sqlite.journal", "sqlite.synchronous", "sqlite.integrity", "log.counts"
    ]  # fmt: skip
    assert seen.checks[2].seen.endswith("synchronous FULL")
    assert look(home / "log", "fast").checks[2].seen.endswith("synchronous NORMAL")
    assert seen.newest == 1039.0
    assert everything(home) == before


def test_a_store_whose_acker_was_killed_is_read_with_its_write_ahead_log_and_stays_as_it_is(
    home: Path, tmp_path: Path
) -> None:
    path = killed(home, tmp_path / "left")
    before = everything(path.parent)
    assert list(before) == ["log", "log-shm", "log-wal"]
    seen = look(path)
    assert not bad(seen.checks)
    assert "5 accepted: 0 completed, 0 failed, 0 discarded, 5 open" in seen.checks[-1].seen
    assert everything(path.parent) == before
    (path.parent / "log-shm").unlink()
    before = everything(path.parent)
    seen = look(path)
    assert bad(seen.checks) == {"sqlite.file": "unknown"}
    assert "has lost its -shm file, which only a start makes again" in seen.checks[0].seen
    assert everything(path.parent) == before


def test_a_store_is_looked_at_while_an_acker_writes_to_it(home: Path) -> None:
    with closing(open_store(f"sqlite:///{home}/log", "durable")) as writing:
        for number in range(1, 30):
            writing.commit(Changes(appends=[Append(Chunk(number, number, 1, ("in",), b"v" * 9000, 1.0), None)]))
            seen = look(home / "log")
            assert not bad(seen.checks)
            assert f"{number} accepted" in seen.checks[-1].seen


def test_a_store_that_is_not_there_yet_is_said_so_and_not_made(home: Path) -> None:
    seen = look(home / "log")
    assert not bad(seen.checks)
    assert "there is none yet" in seen.checks[0].seen
    assert not list(home.iterdir())


def test_a_damaged_page_is_found(home: Path) -> None:
    filled(f"sqlite:///{home}/log", size=50_000)
    with sqlite3.connect(home / "log") as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'bodies'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with (home / "log").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 64)
    seen = look(home / "log")
    assert bad(seen.checks)["sqlite.integrity"] == "problem"
    assert in_one_sentence(seen.promise, seen.checks).endswith("; but its file is damaged.")


def test_files_that_are_no_store_are_told_apart(home: Path) -> None:
    (home / "text").write_text("once upon a time" * 100)
    assert "is no SQLite database" in look(home / "text").checks[0].seen
    with sqlite3.connect(home / "other") as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    assert "database of another program" in look(home / "other").checks[0].seen
    filled(f"sqlite:///{home}/newer")
    with sqlite3.connect(home / "newer") as connection:
        connection.execute("PRAGMA user_version = 1000")
    connection.close()
    for name in ("text", "other", "newer"):
        seen = look(home / name)
        assert bad(seen.checks) == {"sqlite.file": "problem"}
        assert "nothing is accepted now" in in_one_sentence(seen.promise, seen.checks)
    assert "written by newer consecutiond" in look(home / "newer").checks[0].seen


def test_an_sqlite_that_does_not_wait_for_the_disk_is_a_problem() -> None:
    facts = sqlite.SqliteFacts("f", 100, wal=True, synchronous=1, fault="")
    assert bad(sqlite.check(facts, durable=True)) == {"sqlite.synchronous": "problem"}
    assert bad(sqlite.check(facts, durable=False)) == {}
    unfinished = sqlite.SqliteFacts("f", 100, synchronous=2, fault=None)
    assert bad(sqlite.check(unfinished, durable=True)) == {"sqlite.journal": "warning", "sqlite.integrity": "unknown"}


# --- other stores --------------------------------------------------------------------------------------------


def test_a_kyoto_cabinet_file_is_opened_for_reading_and_stays_as_it_is(home: Path) -> None:
    needs.kyoto()
    url = f"kyoto:///{home}/log"
    assert "there is none yet" in store.look(url, "durable").checks[1].seen
    assert not list(home.iterdir())
    filled(url)
    before = everything(home)
    assert not bad(store.look(url, "durable").checks)
    assert bad(store.look(url, "fast").checks) == {"kyoto.durable": "warning"}
    with closing(open_store(url, "durable")):
        held = store.look(url, "durable")
    assert bad(held.checks) == {"kyoto.file": "unknown"}
    assert "is in use, and admits one process at a time" in held.checks[1].seen
    (home / "log.wal").write_bytes(b"cut off")
    assert "was cut off by a kill" in store.look(url, "durable").checks[1].seen
    (home / "log.wal").unlink()
    assert {name: content for name, (content, _) in everything(home).items()} == {
        name: content for name, (content, _) in before.items()
    }
    (home / "log").write_bytes(b"x" * 1000)
    assert bad(store.look(url, "durable").checks) == {"kyoto.file": "problem"}


def test_without_its_library_kyoto_cabinet_is_a_problem() -> None:
    checks = kyoto.check(kyoto.KyotoFacts("f", library="cannot be loaded"), durable=True)
    assert bad(checks) == {"kyoto.library": "problem"}


def test_a_store_in_memory_is_a_warning_and_one_of_no_kind_a_problem() -> None:
    assert bad(store.look("memory://", "durable").checks) == {"store.memory": "warning"}
    seen = store.look("postgres://x", "durable")
    assert bad(seen.checks) == {"store.url": "problem"}
    assert in_one_sentence(seen.promise, seen.checks) == "Nothing is guaranteed: the store has no place."


def test_a_log_that_contradicts_itself_is_a_problem() -> None:
    assert bad(log.check(log.LogFacts(Totals(10, 5, 5, 0, 0)))) == {}
    assert bad(log.check(log.LogFacts(Totals(10, 8, 5, 0, -3)))) == {"log.counts": "problem"}
    assert log.check(log.LogFacts()) == []


def test_the_newest_record_counts_whatever_it_is(home: Path) -> None:
    filled(f"sqlite:///{home}/log")
    with closing(open_store(f"sqlite:///{home}/log", "durable")) as writing:
        writing.commit(Changes(done=dict.fromkeys(range(1, 40)), completed=39, audits=[Audit(1.0, "me", "x", 1, "")]))
    assert look(home / "log").newest == 0.0, "all of it is done"


# --- permissions ---------------------------------------------------------------------------------------------


@pytest.fixture
def consecutor(tmp_path: Path) -> Path:
    """What a start makes, as it makes it."""
    home = tmp_path / "base" / "flow"
    for path in (home, home / "socket_files", home / "pid_files", home / "log_files"):
        path.mkdir(mode=0o700, parents=True)
    for name in ("plan.json", "acker_db.sqlite"):
        (home / name).touch(0o600)
    return home


def of(home: Path, *uris: str) -> dict[str, str]:
    return bad(files.check(files.read(home.parent, home, home / "acker_db.sqlite", uris)))


def test_a_directory_as_a_start_makes_it_is_sound(consecutor: Path) -> None:
    assert of(consecutor, f"ipc://{consecutor}/socket_files/acker.sock", "tcp://127.0.0.1:1") == {}


@pytest.mark.parametrize(
    ("name", "mode", "found"),
    [
        ("", 0o755, {"files.directory": "warning"}),
        ("socket_files", 0o750, {"files.inside": "warning"}),
        ("plan.json", 0o644, {"files.inside": "warning"}),
        ("acker_db.sqlite", 0o640, {"files.store": "warning"}),
        ("..", 0o777, {"files.above": "warning"}),
        ("..", 0o1777, {}),
    ],
)
def test_rights_that_others_should_not_have(consecutor: Path, name: str, mode: int, found: dict[str, str]) -> None:
    (consecutor / name).chmod(mode)
    assert of(consecutor) == found


def test_what_belongs_to_somebody_else_or_cannot_be_written_is_a_problem() -> None:
    ours = files.Place("/x", "directory", 5, 0o700)
    for place, said in (
        (files.Place("/x", "directory", 6, 0o700), "belongs to user 6, and this is user 5"),
        (files.Place("/x", "directory", 5, 0o500, usable=False), "cannot be written by this user"),
        (files.Place("/x", "file", -1, 0, usable=False, error="Permission denied"), "cannot be looked at"),
    ):
        (check,) = [each for each in files.check(files.FileFacts(5, ours, place)) if each.name == "files.directory"]
        assert check.status == "problem"
        assert said in check.seen
        assert check.do


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_seen(consecutor: Path) -> None:
    os.chown(consecutor / "plan.json", 12345, -1)
    assert of(consecutor) == {"files.inside": "problem"}


def test_the_path_of_a_socket_has_its_limit(consecutor: Path) -> None:
    def named(path: str) -> dict[str, str]:
        return bad(files.check(files.FileFacts(5, sockets=[path])))

    assert named("/" + "x" * 106) == {}
    assert named("/" + "x" * 107) == {"files.socket_paths": "problem"}
    assert named("/" + "ä" * 60) == {"files.socket_paths": "problem"}, "it is bytes that count"
    wide = files.Place("/tmp/consecutiond-5", "directory", 5, 0o777)
    facts = files.FileFacts(5, sockets=["/tmp/consecutiond-5/x/a.sock"], link=wide)
    assert bad(files.check(facts)) == {"files.socket_paths": "problem"}


# --- disks ---------------------------------------------------------------------------------------------------

MOUNTS = """\
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:30 / /tmp rw,nosuid - tmpfs tmpfs rw,size=100k
31 27 0:31 / /srv/my\\040nfs rw - nfs4 server:/x rw,vers=4
32 27 0:32 / /read ro,relatime - ext4 /dev/vdb ro
33 27 0:33 / /fast rw - ext4 /dev/vdc rw,nobarrier
34 30 0:34 / /tmp/disk rw - xfs /dev/vdd rw
35 27 0:35 / /fuse rw - fuse.sshfs me@there rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        ("/x/log", "ext4", "ok"), ("/tmp", "tmpfs", "warning"), ("/tmp/a", "tmpfs", "warning"), ("/tmpx", "ext4", "ok"),
        ("/srv/my nfs/log", "nfs4", "warning"), ("/read/log", "ext4", "problem"), ("/fast/log", "ext4", "warning"),
        ("/tmp/disk/log", "xfs", "ok"), ("/fuse/log", "fuse.sshfs", "warning"),
    ],
)  # fmt: skip
def test_file_systems(path: str, kind: str, status: str) -> None:
    found, options = disk.mount_of(path, MOUNTS)
    assert found == kind
    facts = DiskFacts(path, 1 << 40, 10**6, found, options)
    checks = disk.check(facts, "log", log=True, durable=True)
    assert [check.status for check in checks] == ["ok", "ok", status]
    assert bool(checks[2].takes) == (status != "ok")


@pytest.mark.parametrize(
    ("free", "inodes", "found"),
    [
        (1 << 40, None, {}), (500 << 20, 10**6, {"log.space": "warning"}), (1 << 20, 10**6, {"log.space": "problem"}),
        (1 << 40, 500, {"log.inodes": "warning"}), (1 << 40, 5, {"log.inodes": "problem"}),
    ],
)  # fmt: skip
def test_space(free: int, inodes: int | None, found: dict[str, str]) -> None:
    assert bad(disk.check(DiskFacts("/x", free, inodes, "ext4"), "log", log=True, durable=True)) == found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=50", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting a tmpfs needs root's rights: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_small_disk_in_memory_is_seen_as_it_is(small_disk: Path) -> None:
    facts = disk.read(small_disk / "not" / "there" / "log")
    assert facts.kind == "tmpfs"
    checks = disk.check(facts, "log", log=True, durable=True)
    assert bad(checks) == {"log.space": "problem", "log.inodes": "problem", "log.filesystem": "warning"}
    assert in_one_sentence("A promise.", checks) == (
        "A promise; but its file is in memory (tmpfs), so a restart of the machine takes all."
    )


# --- limits, clock, versions ---------------------------------------------------------------------------------


def test_limits_of_this_process_and_of_one_that_is_not_there() -> None:
    assert limits.read(None).error == ""
    assert limits.read(os.getpid()).files == limits.read(None).files
    assert bad(limits.check(limits.read(2**22 + 1), 5, running=True)) == {"limits.read": "unknown"}


def test_soft_limits_are_those_that_count() -> None:
    text = (
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max processes             1000                 unlimited            processes \n"
        "Max open files            unlimited            4096                 files     \n"
    )
    assert limits.soft_limits(text) == {"Max open files": None, "Max processes": 1000}


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (LimitFacts("x"), {}),
        (LimitFacts("x", files=1024), {}),
        (LimitFacts("x", files=150), {"limits.files": "warning"}),
        (LimitFacts("x", files=100), {"limits.files": "problem"}),
        (LimitFacts("x", processes=1000, used=850), {"limits.processes": "warning"}),
        (LimitFacts("x", processes=1000, used=950), {"limits.processes": "problem"}),
        (LimitFacts("x", tasks=512, grouped=500), {"limits.tasks": "problem"}),
        (LimitFacts("x", tasks=512, grouped=100), {}),
    ],
)
def test_limits_against_what_twenty_parts_need(facts: LimitFacts, found: dict[str, str]) -> None:
    assert bad(limits.check(facts, 20, running=False)) == found


def test_what_runs_already_needs_no_more_room_for_itself() -> None:
    facts = LimitFacts("x", processes=1000, used=950)
    assert bad(limits.check(facts, 20, running=True)) == {}


@pytest.mark.parametrize(
    ("now", "newest", "kept", "found"),
    [
        (1.8e9, 0.0, True, {}), (1.8e9, 1.8e9 - 5, True, {}), (1.8e9, 1.8e9 + 60, True, {"clock.time": "warning"}),
        (1.0e9, 0.0, True, {"clock.time": "problem"}), (1.8e9, 0.0, False, {"clock.kept": "warning"}),
        (1.8e9, 0.0, None, {"clock.kept": "unknown"}),
    ],
)  # fmt: skip
def test_clocks(now: float, newest: float, kept: bool | None, found: dict[str, str]) -> None:
    assert bad(clock.check(ClockFacts(now, kept), newest)) == found


def test_the_clock_is_only_asked() -> None:
    assert clock.read().now > 1.6e9


def test_the_oldest_versions_are_those_that_pip_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"python": project["requires-python"].removeprefix(">=")}
    for requirement in project["dependencies"]:
        name, _, version = requirement.partition(">=")
        wanted[name] = version.partition(",")[0]
    common = versions.OLDEST.keys() & wanted.keys()
    assert common == {"python", "pyzmq", "redis", "supervisor"}
    assert {name: versions.OLDEST[name][0] for name in common} == {name: wanted[name] for name in common}


def test_versions() -> None:
    assert bad(versions.check(versions.read())) == {}
    found = versions.read() | {"libzmq": "4.3.2", "supervisor": "", "pyzmq": "27.0.1rc1"}
    assert bad(versions.check(found)) == {"versions.libzmq": "problem", "versions.supervisor": "problem"}


def test_the_worst_counts() -> None:
    def made(status: str) -> Check:
        return Check("a.b", status, "", "")  # type: ignore[arg-type]

    assert worst([]) == "ok"
    assert worst([made("ok"), made("unknown")]) == "unknown"
    assert worst([made("unknown"), made("warning"), made("ok")]) == "warning"
    assert worst([made("warning"), made("problem")]) == "problem"
