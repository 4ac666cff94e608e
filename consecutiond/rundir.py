"""The `.consecution/ID/` directory of one consecutor: where its files are, and the lock of the living."""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from pathlib import Path
from typing import Final, NamedTuple

from consecutiond_broker import child
from consecutiond_broker.errors import ConsecutiondError

#: files of a run, and drafts of them, which end in a pid; a counter of epochs is never one, whatever its part's name
_STALE: Final = re.compile(r"\.(pid|cell|stacks|start)$|\.(pid|epoch)\.[0-9]+$|\.start\.draft$")
_ID: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
#: bytes of the longest path of a Unix socket, see unix(7)
_SOCKET_PATH_MAX: Final = 107
#: bytes that supervisor appends to the name of its socket while it binds: a dot and its pid
_SUPERVISOR_SUFFIX: Final = 11
#: where short links are made; TMPDIR does not count, since every process must compute the same path
_LINK_PARENTS: Final = ("/tmp", "/var/tmp")  # noqa: S108 - the directory below is private and verified
#: seconds for which a taken lock is asked for again: the `is_live` of another process has it for microseconds
_LOCK_PATIENCE_S: Final = 0.2
_LOCK_PAUSE_S: Final = 0.01


class RunDirError(ConsecutiondError):
    """The directory of a consecutor cannot be used."""


class LiveError(RunDirError):
    """A live consecutor has the id already."""


def check_id(id: str) -> str:
    """Return a consecutor's id, which names a directory.

    Raises:
        RunDirError: it is not 1 to 64 letters, digits, ``_``, ``.`` or ``-``, or begins with ``.`` or ``-``.

    """
    if not _ID.fullmatch(id):
        raise RunDirError(
            f"{id!r} cannot be the id of a consecutor: it names a directory, so it has 1 to 64 letters,"
            " digits, '_', '.' or '-', and begins with a letter, a digit or '_'. Try for example 'wordcount'."
        )
    return id


def sign_lock(fd: int) -> None:
    """Write into a lock who holds it: pid, start time, and the wall clock's seconds, for people to read."""
    pid, started = child.identity()
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{pid} {started} {time.time():.0f}\n".encode(), 0)


class Signature(NamedTuple):
    """What the lock says of its newest holder."""

    pid: int
    #: start time of the process, as `child.start_time` tells it
    started: int
    #: seconds since 1970
    since: int


class RunDir:
    """Paths of one consecutor, and what is done to its directory as a whole.

    Making one touches nothing; `create` makes the directory. Every path is absolute.

    Args:
        base: the directory that holds all consecutors, `.consecution` by default.
        id: the consecutor's id.

    Raises:
        RunDirError: the id is none, see `check_id`.

    """

    check_id = staticmethod(check_id)

    def __init__(self, base: Path, id: str) -> None:
        self.id = check_id(id)
        self.base = Path(os.path.abspath(base))
        self.path = self.base / id
        self.pid_dir = self.path / "pid_files"
        self.socket_dir = self.path / "socket_files"
        self.log_dir = self.path / "log_files"
        self.conf = self.path / "supervisord.conf"
        self.plan = self.path / "plan.json"
        self.store = self.path / "acker_db.sqlite"
        self.lock = self.path / "lock"

    @classmethod
    def all(cls, base: Path) -> "list[RunDir]":
        """Return every consecutor that has a directory, by id, but for those that other users hide."""
        if not base.is_dir():
            return []
        names = sorted(entry.name for entry in base.iterdir() if os.path.isfile(entry / "lock"))
        return [cls(base, name) for name in names if _ID.fullmatch(name)]

    # --- making and removing -----------------------------------------------------------------------------

    def create(self) -> None:
        """Make the directory, for this user only, with its subdirectories; those that exist are kept.

        Raises:
            RunDirError: it cannot be made or written to, is no directory, or belongs to somebody else.

        """
        try:
            self.base.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
            self.check_owner()
            self.path.chmod(0o700)
            for directory in (self.pid_dir, self.socket_dir, self.log_dir):
                directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise RunDirError(
                f"cannot make the consecutor's directory {self.path}: {error.strerror} ({error.filename})."
                " Probably the place is not writable for this user, or a file is in the way; choose another"
                " place with --dir."
            ) from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise RunDirError(
                f"the consecutor's directory {self.path} is not writable for this user, probably because its"
                " file system is mounted read-only; choose another place with --dir."
            )

    def check_owner(self) -> None:
        """Make sure that the directory is this user's.

        Raises:
            RunDirError: it is somebody else's.

        """
        owner = self.path.stat().st_uid
        if owner != os.geteuid():
            raise RunDirError(
                f"the consecutor's directory {self.path} belongs to user {owner}, and this is user"
                f" {os.geteuid()}: run as that user, or choose another id than {self.id!r}, or another place"
                " with --dir."
            )

    def leftovers(self) -> str | None:
        """Say in a sentence which files an earlier run did not clear away, or return None.

        A run that ended in order leaves its store and its logs, and nothing else.
        """
        found = [
            _counted(len(list(directory.glob(pattern))), noun)
            for directory, pattern, noun in (
                (self.pid_dir, "*.pid", "pid file"),
                (self.pid_dir, "*.cell", "cell"),
                (self.socket_dir, "*", "socket file"),
            )
        ]
        found = [part for part in found if part]
        if found and self.store.exists():
            found.append(f"the store {self.store.name} ({self.store.stat().st_size:,} bytes)")
        return f"an earlier run left {', '.join(found)} in {self.path}" if found else None

    def sweep(self) -> None:
        """Remove the pid, cell and socket files of an earlier run; store, epochs and logs stay.

        Only the holder of the lock may do it. The short link stays: the run that begins has the same one.
        """
        for path in self.pid_dir.glob("*"):
            if _STALE.search(path.name):
                path.unlink(missing_ok=True)
        for path in self.socket_dir.glob("*"):
            path.unlink(missing_ok=True)

    def is_one(self) -> bool:
        """Return whether there is a directory of a consecutor at the path, and not something else."""
        return self.lock.is_file() or (self.pid_dir.is_dir() and self.socket_dir.is_dir())

    def remove(self) -> None:
        """Remove the directory and all that is in it, the store too, and its short link.

        It first takes another name, so that a start that comes meanwhile makes a new one. Only the holder of the lock
        may do it.

        Raises:
            RunDirError: a part of it cannot be removed, or it is only a link.

        """
        if self.path.is_symlink():
            raise RunDirError(
                f"{self.path} is a link to {self.path.resolve()}, and so is not removed: remove both by hand"
            )
        self.release_links()
        doomed = self.base / f".{self.id}.{secrets.token_hex(4)}.removed"
        try:
            self.path.rename(doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            raise RunDirError(
                f"the consecutor's directory {self.path} cannot be removed: {error.strerror} ({error.filename})."
                " Probably something in it belongs to another user, or its file system is read-only."
            ) from error

    # --- the lock ----------------------------------------------------------------------------------------

    def acquire(self) -> int:
        """Become the only consecutor of this id, for as long as any process has the descriptor open.

        Returns:
            The descriptor, which is not inherited by itself: it is handed to the root, whose life is then the
            lock's.

        Raises:
            LiveError: a live consecutor has the id.
            RunDirError: the directory is missing or not writable.

        """
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while (fd := self._try_lock()) is None:
            if time.monotonic() > deadline:
                raise LiveError(
                    f"there is a live consecutor with id {self.id} ({self._holder()}):"
                    f" stop it with `consecutiond stop {self.id}`, or choose another id with --id"
                )
            time.sleep(_LOCK_PAUSE_S)
        sign_lock(fd)
        return fd

    def _try_lock(self) -> int | None:
        try:
            fd = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RunDirError(f"cannot open the lock {self.lock}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A lock whose directory is being removed by somebody else guards nothing.
            if os.fstat(fd).st_ino == self.lock.stat().st_ino:
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        return None

    def is_live(self) -> bool:
        """Return whether a live consecutor holds the lock."""
        try:
            fd = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def signature(self) -> Signature | None:
        """Return who holds the lock, or was the last to; None while the holder is just starting."""
        try:
            words = self.lock.read_text(errors="replace").split()
        except FileNotFoundError:
            return None
        if len(words) != 3 or not all(word.isdecimal() for word in words):
            return None
        return Signature(*map(int, words))

    def _holder(self) -> str:
        signature = self.signature()
        if signature is None:
            return "just starting"
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(signature.since))
        return f"pid {signature.pid}, since {since}"

    # --- pids --------------------------------------------------------------------------------------------

    def write_pid(self, name: str) -> None:
        """Record pid and start time of this process under a part's name."""
        pid, started = child.identity()
        draft = self.pid_dir / f"{name}.pid.{pid}"
        draft.write_text(f"{pid} {started}\n")
        draft.replace(self.pid_dir / f"{name}.pid")

    def read_pids(self) -> dict[str, tuple[int, int]]:
        """Return pid and start time by part, as recorded; whether they still live is another question."""
        pids = {}
        for path in self.pid_dir.glob("*.pid"):
            words = path.read_text(errors="replace").split()
            if len(words) == 2 and all(word.isdecimal() for word in words):
                pids[path.name.removesuffix(".pid")] = int(words[0]), int(words[1])
        return pids

    # --- sockets -----------------------------------------------------------------------------------------

    def socket_uri(self, name: str, *, look_only: bool = False) -> str:
        """Return the URI of a socket; the same in every process.

        A path beyond what a Unix socket can have goes through a short link in a private directory, which is
        made here when it is missing. The consecutor's directory must have been created.

        Args:
            name: of the socket.
            look_only: make nothing; the URI is what it will be when the consecutor is started.

        Raises:
            RunDirError: the name has a slash, or the private directory is not to be trusted.

        """
        return f"ipc://{self._socket_path(name, _SOCKET_PATH_MAX, look_only=look_only)}"

    @property
    def supervisor_socket(self) -> Path:
        """The path of the socket on which the root speaks XML-RPC."""
        return Path(self._socket_path("supervisor", _SOCKET_PATH_MAX - _SUPERVISOR_SUFFIX))

    @property
    def supervisor_address(self) -> str:
        """The same path, to look at only: nothing is made for it."""
        return self._socket_path("supervisor", _SOCKET_PATH_MAX - _SUPERVISOR_SUFFIX, look_only=True)

    def _socket_path(self, name: str, limit: int, *, look_only: bool = False) -> str:
        if "/" in name or "\0" in name:
            raise RunDirError(f"{name!r} cannot name a socket: it would be a file in {self.socket_dir}")
        direct = f"{self.socket_dir}/{name}.sock"
        if len(os.fsencode(direct)) <= limit:
            return direct
        link = self._link()[0] if look_only else self._make_link()
        if len(os.fsencode(f"{link}/{name}.sock")) > limit:
            name = _digest(name)
        return f"{link}/{name}.sock"

    def _link(self) -> tuple[str, str]:
        """Return the path of the short link, and what it has to point to."""
        parents = [path for path in _LINK_PARENTS if os.path.isdir(path)]
        target = os.path.realpath(self.socket_dir)
        return f"{parents[0]}/consecutiond-{os.geteuid()}/{_digest(target)}", target

    def _make_link(self) -> str:
        link, target = self._link()
        _make_private(os.path.dirname(link))
        if not _points_to(link, target):
            # A link takes its name in one step, or a process that looks at it now would find none.
            draft = f"{link}.{secrets.token_hex(4)}"
            os.symlink(target, draft)
            os.replace(draft, link)
        return link

    def release_links(self) -> None:
        """Remove the short link, if there is one; no process may need its sockets any more."""
        link, target = self._link()
        if _points_to(link, target):
            os.unlink(link)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count > 1 else ''}" if count else ""


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def _points_to(link: str, target: str) -> bool:
    try:
        return os.readlink(link) == target
    except OSError:
        # Missing, or not a link at all.
        return False


def _make_private(directory: str) -> None:
    """Make a directory for this user only in a place where everybody may write; trust no other."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise RunDirError(
            f"{directory} should be a directory of this user that nobody else can enter, and it is not."
            " Somebody may want to listen in on sockets: remove it, or choose a shorter place for the"
            " consecutor with --dir."
        )
