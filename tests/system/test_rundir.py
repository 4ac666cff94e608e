"""The directory of a consecutor: its lock, its sockets, what is left in it, and who may use it."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from consecutiond import rundir as rundir_module
from consecutiond.rundir import LiveError, RunDir, RunDirError, check_id
from consecutiond_broker.child import identity
from consecutiond_broker.epochs import next_epoch

REPOSITORY = Path(__file__).parents[2]
PATH = os.pathsep.join(str(REPOSITORY / floor) for floor in ("", "broker", "nodes"))


@pytest.fixture
def rundir() -> Iterator[RunDir]:
    # Not `tmp_path`, which may be too long for the path of a socket.
    with tempfile.TemporaryDirectory(prefix="c") as short:
        rundir = RunDir(Path(short, "base"), "count")
        rundir.create()
        yield rundir
        rundir.release_links()


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[RunDir]:
    """A directory whose socket paths are too long."""
    rundir = RunDir(tmp_path / ("d" * 100), "count")
    rundir.create()
    yield rundir
    rundir.release_links()


def in_process(code: str, rundir: RunDir, **environment: str) -> str:
    """Run code in another process, with the same `rundir`; return what it prints."""
    prelude = "import sys\nfrom pathlib import Path\nfrom consecutiond.rundir import *\n"
    prelude += "rundir = RunDir(Path(sys.argv[1]), sys.argv[2])\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + code, str(rundir.base), rundir.id],
        env=os.environ | {"PYTHONPATH": PATH} | environment, check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("id", ["a", "0", "_x", "word-count_2.1", "A" * 64])
def test_an_id_that_can_name_a_directory_is_taken(id: str) -> None:
    assert check_id(id) == id == RunDir.check_id(id)


@pytest.mark.parametrize("id", ["", ".", "..", ".hidden", "-x", "a/b", "/", "a b", "ü", "a\n", "a\0", "A" * 65, "a:b"])
def test_an_id_that_cannot_is_refused_wherever_it_comes_in(id: str, tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="cannot be the id"):
        check_id(id)
    with pytest.raises(RunDirError, match="cannot be the id"):
        RunDir(tmp_path, id)


def test_creating_makes_a_private_directory_and_may_be_done_again(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path / "a" / "b", "count")
    assert not rundir.base.exists()
    rundir.create()
    rundir.store.write_text("kept")
    rundir.path.chmod(0o755)
    rundir.create()
    assert stat.S_IMODE(rundir.path.stat().st_mode) == 0o700
    assert rundir.store.read_text() == "kept"
    assert sorted(path.name for path in rundir.path.iterdir()) == [
        "acker_db.sqlite", "log_files", "pid_files", "socket_files",
    ]  # fmt: skip


def test_paths_are_absolute_whatever_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children and root work in other directories."""
    monkeypatch.chdir(tmp_path)
    rundir = RunDir(Path("x/../.consecution"), "count")
    assert rundir.path == tmp_path / ".consecution" / "count"


@pytest.mark.parametrize("place", ["base", "base/count", "base/count/pid_files"])
def test_a_file_in_the_way_is_a_clear_error(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("a file")
    with pytest.raises(RunDirError, match="choose another place with --dir"):
        RunDir(tmp_path / "base", "count").create()
    assert (tmp_path / place).read_text() == "a file"


def test_a_place_that_is_not_writable_is_a_clear_error() -> None:
    """Not even for the superuser: nothing can be made below /proc."""
    with pytest.raises(RunDirError, match="cannot make the consecutor's directory /proc/self/x/count"):
        RunDir(Path("/proc/self/x"), "count").create()


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give a directory away")
def test_the_directory_of_somebody_else_is_not_used(rundir: RunDir) -> None:
    os.chown(rundir.path, 12345, 12345)
    with pytest.raises(RunDirError, match="belongs to user 12345"):
        rundir.create()


# --- lock ----------------------------------------------------------------------------------------------------


def test_a_second_consecutor_of_one_id_is_refused_and_told_about_the_first(rundir: RunDir) -> None:
    fd = rundir.acquire()
    assert rundir.is_live()
    with pytest.raises(LiveError) as caught:
        RunDir(rundir.base, "count").acquire()
    text = str(caught.value)
    assert f"pid {os.getpid()}, since 2" in text
    assert "`consecutiond stop count`" in text
    os.close(fd)
    assert not rundir.is_live()
    os.close(RunDir(rundir.base, "count").acquire())


def test_another_id_is_another_lock(rundir: RunDir) -> None:
    other = RunDir(rundir.base, "other")
    other.create()
    first, second = rundir.acquire(), other.acquire()
    os.close(first)
    assert other.is_live()
    assert not rundir.is_live()
    os.close(second)


def test_the_lock_goes_with_its_process_and_lives_in_the_one_it_is_handed_to(rundir: RunDir) -> None:
    """After the hand-over the first process has no part in it; kill -9 of the second frees it."""
    fd = rundir.acquire()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=(fd,)) as holder:
        os.close(fd)
        assert rundir.is_live()
        holder.send_signal(signal.SIGKILL)
    assert not rundir.is_live()


def test_the_lock_is_not_inherited_by_itself(rundir: RunDir) -> None:
    fd = rundir.acquire()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False) as bystander:
        os.close(fd)
        # The kernel lets us go on a moment before it has closed the descriptor on the other side.
        deadline = time.monotonic() + 20
        while live := rundir.is_live():
            if time.monotonic() > deadline:
                break
        bystander.kill()
    assert not live


def test_asking_whether_it_is_live_never_makes_an_acquisition_fail(rundir: RunDir) -> None:
    """`status` has a lock of its own for a moment; a start that meets it must not report a live consecutor."""
    code = "print(flush=True)\nwhile True: rundir.is_live()"
    prelude = "import sys\nfrom pathlib import Path\nfrom consecutiond.rundir import RunDir\n"
    prelude += "rundir = RunDir(Path(sys.argv[1]), sys.argv[2])\nrundir.lock.touch()\n"
    with subprocess.Popen(
        [sys.executable, "-c", prelude + code, str(rundir.base), rundir.id],
        env=os.environ | {"PYTHONPATH": PATH}, stdout=subprocess.PIPE,
    ) as asking:  # fmt: skip
        assert asking.stdout is not None
        asking.stdout.readline()
        for _ in range(300):
            os.close(rundir.acquire())
        assert asking.poll() is None
        asking.kill()


def test_a_lock_whose_directory_was_removed_and_made_anew_guards_nothing(rundir: RunDir) -> None:
    """The holder of the removed one does not keep anybody out of the new directory."""
    old = rundir.acquire()
    rundir.remove()
    rundir.create()
    new = rundir.acquire()
    assert rundir.is_live()
    os.close(new)
    os.close(old)


def test_without_a_directory_nobody_is_live_and_nothing_can_be_acquired(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path, "count")
    assert not rundir.is_live()
    with pytest.raises(RunDirError, match="cannot open the lock"):
        rundir.acquire()


# --- leftovers -----------------------------------------------------------------------------------------------


def littered(rundir: RunDir) -> None:
    rundir.write_pid("heart")
    rundir.write_pid("node-a.0")
    (rundir.pid_dir / "node-a.0-3.cell").write_bytes(b"cell")
    (rundir.socket_dir / "edge.sock").write_bytes(b"")
    (rundir.log_dir / "heart.log").write_text("log")
    rundir.store.write_text("store")
    next_epoch(rundir.pid_dir, "heart")


def test_leftovers_name_what_is_there_and_nothing_is_left_by_a_fresh_directory(rundir: RunDir) -> None:
    assert rundir.leftovers() is None
    littered(rundir)
    assert rundir.leftovers() == (
        f"an earlier run left 2 pid files, 1 cell, 1 socket file, the store acker_db.sqlite (5 bytes) in {rundir.path}"
    )


def test_sweeping_removes_what_is_stale_and_keeps_store_epochs_and_logs(rundir: RunDir) -> None:
    littered(rundir)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(rundir.socket_dir / "stale.sock"))
    rundir.sweep()
    left = {str(path.relative_to(rundir.path)) for path in rundir.path.rglob("*") if path.is_file()}
    assert left == {"acker_db.sqlite", "log_files/heart.log", "pid_files/heart.epoch"}
    assert list(rundir.socket_dir.iterdir()) == []
    assert next_epoch(rundir.pid_dir, "heart") == 2


def test_a_socket_uri_stays_good_over_a_sweep(deep: RunDir) -> None:
    """The plan may be made before or after; the short link must be there when the sockets are bound."""
    uri = deep.socket_uri("edge")
    deep.sweep()
    assert deep.socket_uri("edge") == uri
    assert Path(uri.removeprefix("ipc://")).parent.is_dir()


def test_pids_are_recorded_with_start_times_and_read_back(rundir: RunDir) -> None:
    rundir.write_pid("broker-a->b")
    pid, started = map(int, in_process("rundir.write_pid('node-x.0'); print(*child.identity())", rundir).split())
    assert rundir.read_pids() == {"broker-a->b": identity(), "node-x.0": (pid, started)}


@pytest.mark.parametrize("content", ["", "12", "12 x", "-1 5", "1 2 3", "\0\udcff"])
def test_a_damaged_pid_file_proves_nothing_and_is_left_out(rundir: RunDir, content: str) -> None:
    rundir.write_pid("good")
    (rundir.pid_dir / "bad.pid").write_text(content, errors="surrogateescape")
    assert set(rundir.read_pids()) == {"good"}


def test_removing_takes_everything_and_the_link(deep: RunDir) -> None:
    littered(deep)
    link = Path(deep.socket_uri("edge").removeprefix("ipc://")).parent
    assert link.is_symlink()
    deep.remove()
    assert not deep.path.exists()
    assert not link.is_symlink()
    assert deep.base.exists()


def test_all_lists_consecutors_by_id_and_nothing_else(tmp_path: Path) -> None:
    base = tmp_path / "base"
    assert RunDir.all(base) == []
    for id in ("b", "a"):
        rundir = RunDir(base, id)
        rundir.create()
        os.close(rundir.acquire())
    (base / "a file").write_text("x")
    (base / "no consecutor").mkdir()
    (base / ".git").mkdir()
    assert [rundir.id for rundir in RunDir.all(base)] == ["a", "b"]


# --- sockets -------------------------------------------------------------------------------------------------


def can_talk(uri: str) -> bool:
    """Bind and connect it for real."""
    with zmq.Context() as context, context.socket(zmq.PULL) as pull, context.socket(zmq.PUSH) as push:
        pull.bind(uri)
        push.connect(uri)
        push.send(b"hello")
        return pull.poll(10_000) == zmq.POLLIN and pull.recv() == b"hello"


def test_a_short_path_is_used_as_it_is(rundir: RunDir) -> None:
    uri = rundir.socket_uri("edge-a-b")
    assert uri == f"ipc://{rundir.socket_dir}/edge-a-b.sock"
    assert can_talk(uri)


def test_exactly_107_bytes_are_used_as_they_are_and_one_more_is_not(rundir: RunDir) -> None:
    """Bytes, not characters, are what the kernel counts."""
    room = 107 - len(os.fsencode(rundir.socket_dir)) - len("/.sock")
    fits, over = "e" * room, "e" * (room + 1)
    assert rundir.socket_uri(fits) == f"ipc://{rundir.socket_dir}/{fits}.sock"
    assert not rundir.socket_uri(over).startswith(f"ipc://{rundir.socket_dir}")
    assert not rundir.socket_uri("ü" + "e" * (room - 1)).startswith(f"ipc://{rundir.socket_dir}")
    assert can_talk(rundir.socket_uri(fits))
    assert can_talk(rundir.socket_uri(over))


@pytest.mark.parametrize("name", ["edge", "e" * 64, "e" * 200, "ü" * 100])
def test_a_long_path_goes_through_a_short_link_into_the_directory(deep: RunDir, name: str) -> None:
    uri = deep.socket_uri(name)
    path = Path(uri.removeprefix("ipc://"))
    assert len(os.fsencode(path)) <= 107
    assert path.parent.resolve() == deep.socket_dir.resolve()
    assert can_talk(uri)


def test_different_names_and_directories_have_different_sockets(deep: RunDir, tmp_path: Path) -> None:
    other = RunDir(tmp_path / ("d" * 99), "count")
    other.create()
    names = ["edge", "e" * 64, "e" * 200, "e" * 199 + "f", "e" * 201]
    assert len({some.socket_uri(name) for some in (deep, other) for name in names}) == 10
    other.release_links()


def test_every_process_computes_the_same_uri(deep: RunDir, tmp_path: Path) -> None:
    """Whatever its TMPDIR and hash seed, and whether it comes by a symbolic link or not."""
    alias = tmp_path / "alias"
    alias.symlink_to(deep.base)
    code = "print(rundir.socket_uri('edge'), rundir.socket_uri('e' * 200), rundir.supervisor_socket)"
    here = f"{deep.socket_uri('edge')} {deep.socket_uri('e' * 200)} {deep.supervisor_socket}\n"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert in_process(code, deep, TMPDIR=str(elsewhere), PYTHONHASHSEED="7") == here
    assert os.path.realpath(alias / "count" / "socket_files") == os.path.realpath(deep.socket_dir)


def test_supervisors_socket_leaves_room_for_what_it_appends_while_binding(rundir: RunDir, deep: RunDir) -> None:
    for some in (rundir, deep):
        assert len(os.fsencode(some.supervisor_socket)) + len(".4194304") <= 107


def test_a_name_with_a_slash_is_refused(rundir: RunDir) -> None:
    with pytest.raises(RunDirError, match="cannot name a socket"):
        rundir.socket_uri("../elsewhere")


@pytest.fixture
def link_parent(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for links that is this test's own."""
    parent = tmp_path_factory.mktemp("t")
    monkeypatch.setattr(rundir_module, "_LINK_PARENTS", (str(parent),))
    return parent / f"consecutiond-{os.geteuid()}"


def test_the_directory_of_links_is_for_this_user_only(link_parent: Path, deep: RunDir) -> None:
    deep.socket_uri("edge")
    found = link_parent.lstat()
    assert stat.S_IMODE(found.st_mode) == 0o700
    assert [entry.is_symlink() for entry in link_parent.iterdir()] == [True]


def test_a_directory_of_links_that_others_can_enter_is_not_trusted(link_parent: Path, deep: RunDir) -> None:
    link_parent.mkdir()
    link_parent.chmod(0o770)
    with pytest.raises(RunDirError, match="nobody else can enter"):
        deep.socket_uri("edge")
    assert list(link_parent.iterdir()) == []


def test_a_symbolic_link_in_place_of_the_directory_is_not_followed(
    link_parent: Path, deep: RunDir, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    trap.mkdir(mode=0o700)
    link_parent.symlink_to(trap)
    with pytest.raises(RunDirError, match="listen in"):
        deep.socket_uri("edge")
    assert list(trap.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can make the directory of somebody else")
def test_the_directory_of_somebody_else_is_not_trusted(link_parent: Path, deep: RunDir) -> None:
    link_parent.mkdir(mode=0o700)
    os.chown(link_parent, 12345, 12345)
    with pytest.raises(RunDirError, match="listen in"):
        deep.socket_uri("edge")


def test_a_link_that_points_elsewhere_is_put_right(link_parent: Path, deep: RunDir, tmp_path: Path) -> None:
    link = Path(deep.socket_uri("edge").removeprefix("ipc://")).parent
    link.unlink()
    link.symlink_to(tmp_path)
    deep.socket_uri("edge")
    assert link.resolve() == deep.socket_dir.resolve()
    assert list(link_parent.iterdir()) == [link]


def test_a_link_removed_by_a_cleaner_comes_back(link_parent: Path, deep: RunDir) -> None:
    uri = deep.socket_uri("edge")
    Path(uri.removeprefix("ipc://")).parent.unlink()
    assert deep.socket_uri("edge") == uri
    assert can_talk(uri)


def test_releasing_removes_our_link_only(link_parent: Path, deep: RunDir, tmp_path: Path) -> None:
    other = RunDir(tmp_path / ("o" * 100), "count")
    other.create()
    uri = other.socket_uri("edge")
    deep.socket_uri("edge")
    assert len(list(link_parent.iterdir())) == 2
    deep.release_links()
    deep.release_links()
    assert [str(path) for path in link_parent.iterdir()] == [str(Path(uri.removeprefix("ipc://")).parent)]


def test_a_short_directory_makes_no_link(link_parent: Path, rundir: RunDir) -> None:
    rundir.socket_uri("edge")
    rundir.release_links()
    assert not link_parent.exists()
