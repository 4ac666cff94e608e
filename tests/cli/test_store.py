"""`consecutiond store copy`, and what the other verbs say of logs that are no SQLite file."""

import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from consecutiond.acker.stores import open_store, read_only, transfer
from consecutiond.acker.stores.base import Append, Audit, Changes, Chunk, Failed, Origin, Retained, StoreError
from consecutiond.cli import exits
from tests import needs
from tests.redis_server import RedisServer, free_port, shared
from tests.system.shell import Shell, wait_for

FLOW = """
    from consecutiond import Node

    class Picky(Node):
        def process(self, value):
            if value == "bad":
                raise ValueError("bad")
            self.write("out", value)

    graph = Picky("picky")
"""
KINDS = ("sqlite", "kyoto", "redis")


@pytest.fixture
def flow(shell: Shell) -> Shell:
    needs.kyoto()
    shell.write("flow.py", FLOW)
    return shell


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[RedisServer]:
    """A server with a password."""
    server = RedisServer(tmp_path / "locked", free_port(), requirepass="s3cret")
    yield server.start()
    server.close()


def url(kind: str, directory: Path, name: str) -> str:
    place = directory / f"{name}.{kind}"
    return shared().url(str(place).replace("/", "_")) if kind == "redis" else f"{kind}:///{place}"


def filled(store_url: str) -> None:
    """Make a log in which everything there can be is: chunks with and without marks, rows, gaps, producers, audits."""
    with closing(open_store(store_url, "fast")) as store:
        chunks = [Chunk(id, 10 * id, 9, ("in", "ü"), b"%d" % id * 20_000, 7.5) for id in range(1, 350)]
        store.commit(Changes(appends=[Append(chunk, Origin(b"p\x00", chunk.id)) for chunk in chunks]))
        done = {id: None if id % 3 else b"\x05\x00" for id in range(1, 340)}
        store.commit(Changes(done=done, completed=9 * 200, dropped=[500, 510, 520]))
        store.commit(Changes(waiting=[row(position) for position in range(1, 500)]))
        store.commit(Changes(dead=[row(position) for position in range(600, 1100)]))
        store.commit(Changes(revived=[600], audits=[Audit(1.0, "me", "discard", 1, "600")]))
        over = [Retained(replace(chunk, body=b""), b"\xff\x01", 8.5, len(chunk.body)) for chunk in chunks[-6:]]
        store.commit(Changes(done={batch.chunk.id: None for batch in over}, completed=54, retained=over))
        alone = Chunk(400, 600, 1, ("in", "ü"), b"alone", 7.5)
        store.commit(Changes(retained=[Retained(alone, b"\x01", 9.5, 5)], purged=store.retained()[:2]))


def row(position: int) -> Failed:
    return Failed(position, 1, ("in",), b"v", 1.0, "parse", "raised", "no", "tb", 2.0, 3.0, 4, "e", b"i", ("parse",))


def everything(store_url: str) -> list[Any]:
    with closing(read_only(store_url)) as store:
        chunks, kept = store.open_chunks(limit=10**6), store.retained(limit=10**6)
        return [
            [replace(each, number=0) for each in kept], [store.body(each.chunk.id) for each in kept],
            store.head(), store.totals(), chunks, [store.body(each.chunk.id) for each in chunks],
            store.waiting(limit=10**6), store.dead_letters(limit=10**6), store.audits(limit=10**6),
        ]  # fmt: skip


def conserved(found: dict[str, Any]) -> tuple[int, int, int]:
    assert found["accepted"] == found["completed"] + found["failed"] + found["open"]
    return found["accepted"], found["completed"], found["failed"]


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_a_copy_holds_the_same_between_any_two_stores(flow: Shell, source: str, target: str) -> None:
    here, there = url(source, flow.directory, "from"), url(target, flow.directory, "to")
    filled(here)
    done = flow.run("store", "copy", here, there, "--json")
    assert done.returncode == exits.OK, done.stderr
    said = msgspec.json.decode(done.stdout)
    assert (said["from"], said["to"]) == (here, there)
    assert (said["chunks"], said["waiting"], said["failed"], said["audits"]) == (117, 499, 499, 1)
    assert said["retained"] == 4 * 9 + 1
    assert everything(here) == everything(there)
    # What holds a log is not overwritten, the copy included.
    again = flow.run("store", "copy", here, there)
    assert (again.returncode, again.stdout) == (exits.REFUSED, "")
    assert "holds a log already" in again.stderr
    assert everything(here) == everything(there)


@pytest.mark.parametrize("kind", ["kyoto", "redis"])
def test_a_consecutor_goes_on_in_another_store_where_it_stopped(flow: Shell, kind: str) -> None:
    setting = "kyoto" if kind == "kyoto" else shared().url()
    assert flow.run("run", "flow.py", "--id", "one", stdin="bad\ngood\n").returncode == exits.SOME_FAILED
    assert flow.run("store", "copy", "one", setting).returncode == exits.OK
    done = flow.run("run", "flow.py", "--id", "one", "--store", setting, stdin="better\n")
    assert done.returncode == exits.OK, done.stderr
    assert conserved(flow.status("one")) == (3, 2, 1)
    [entry] = msgspec.json.decode(flow.run("ls", "--json").stdout)
    assert conserved(entry) == (3, 2, 1)
    listed = flow.run("failed", "list", "one", "--each", "--json")
    assert msgspec.json.decode(listed.stdout.splitlines()[0])["value"] == "bad"
    if kind == "redis":
        client = shared().client()
        client.delete(*client.keys("{consecutiond:one}:*"))


def test_the_log_of_a_live_consecutor_is_not_copied_from_or_over(flow: Shell) -> None:
    assert flow.run("start", "flow.py", "--id", "one", "--detach").returncode == exits.OK
    log, free = f"sqlite:///{flow.home('one')}/acker_db.sqlite", f"sqlite:///{flow.directory}/free.sqlite"
    for words in (("one", "kyoto"), (log, free), (free, log)):
        done = flow.run("store", "copy", *words)
        assert (done.returncode, done.stdout) == (exits.BAD_DIRECTORY, "")
        assert "one is running" in done.stderr
        assert "`consecutiond stop one` first" in done.stderr
    assert flow.run("stop", "one").returncode == exits.OK
    assert flow.run("store", "copy", "one", "kyoto").returncode == exits.OK


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nobody", "kyoto"), exits.NOT_RUNNING, "there is no consecutor 'nobody' (there is: none)"),
        (("sqlite:////nowhere/log", "sqlite:////tmp/x"), exits.NOT_RUNNING, "there is no store at /nowhere/log"),
        (("sqlite:////nowhere/log", "kyoto"), exits.USAGE, "give its id, not a URL"),
        (("sqlite:////a/../b", "sqlite:////b"), exits.USAGE, "are one store"),
        (("sqlite:////b", "memory://"), exits.USAGE, "gone with this command"),
        (("postgres://b", "sqlite:////b"), exits.START_FAILED, "no store is known for 'postgres://b'"),
    ],
)
def test_what_cannot_be_copied_is_told(shell: Shell, words: tuple[str, str], code: int, said: str) -> None:
    done = shell.run("store", "copy", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_copy_that_differs_is_found_out(tmp_path: Path) -> None:
    """A target that alters what it is given: whatever the fault is, it must not pass for a copy."""
    filled(f"sqlite:///{tmp_path}/from")
    with closing(read_only(f"sqlite:///{tmp_path}/from")) as original:
        for number, fault in enumerate(("done", "waiting", "appends", "retained")):
            with closing(open_store(f"sqlite:///{tmp_path}/to{number}", "fast")) as target:
                commit = target.commit

                def altering(changes: Changes, fault: str = fault, commit: Any = commit) -> None:
                    found = getattr(changes, fault)
                    if fault == "done":
                        found = dict(list(found.items())[1:])
                    elif fault == "waiting":
                        found = [msgspec.structs.replace(each, attempts=9) for each in found]
                    elif fault == "retained":
                        found = [replace(each, chunk=replace(each.chunk, body=b"other")) for each in found]
                    else:
                        found = [
                            Append(msgspec.structs.replace(each.chunk, body=b"other"), each.origin) for each in found
                        ]
                    commit(msgspec.structs.replace(changes, **{fault: found}))

                target.commit = altering  # type: ignore[method-assign]
                with pytest.raises(StoreError, match="differs from the original"):
                    transfer.copy(original, target, lambda _rows: None)


# What is said of servers.


def test_a_start_whose_server_is_down_fails_and_says_so(flow: Shell) -> None:
    done = flow.run("start", "flow.py", "--id", "one", "--store", f"redis://127.0.0.1:{free_port()}/0", "--detach")
    assert done.returncode == exits.START_FAILED
    assert "the server is down, or the address is wrong: start it" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_password_is_shown_nowhere_and_is_in_private_files_only(flow: Shell, locked: RedisServer) -> None:
    flow.environment["CONSECUTIOND_STORE"] = locked.url(tcp=True, password="s3cret")
    said = []

    def run(*words: str) -> None:
        done = flow.run(*words)
        assert done.returncode == exits.OK, done.stderr
        said.append(done.stdout + done.stderr)

    run("start", "flow.py", "--id", "one", "--detach")
    wait_for(lambda: flow.status("one").get("guarantee"), "the guarantee")
    run("status", "one")
    run("ls", "--json")
    run("ls")
    run("stop", "one")
    run("ls", "--json")
    said.append(flow.run("status", "one").stdout)
    run("store", "copy", "one", "sqlite")
    said.append(flow.run("store", "copy", "one", "sqlite").stderr)
    locked.kill()
    said.append(str(flow.status("one")))
    said.append(flow.run("start", "flow.py", "--id", "one", "--detach").stderr)
    assert any("server is down" in each for each in said)
    assert any("127.0.0.1" in each for each in said)
    assert not [each for each in said if "s3cret" in each]
    for path in flow.home("one").rglob("*"):
        if path.is_file() and b"s3cret" in path.read_bytes():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
