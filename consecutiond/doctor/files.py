"""Who owns and who may read what a consecutor has on the disk, and how long the paths of its sockets are."""

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from consecutiond.doctor.check import Check

#: bytes of the longest path of a Unix socket, see unix(7)
_SOCKET_PATH_MAX: Final = 107
#: what others must not have: of directories and files anything, of sockets the right to write, which is to connect
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022
_IPC: Final = "ipc://"


class Place(Struct, frozen=True):
    """One file, directory or socket.

    Attributes:
        path: of it.
        kind: "directory", "file" or "socket".
        owner: its user.
        mode: its permissions.
        usable: this user may use it: write it, and enter a directory.
        error: why it cannot be looked at, else "".

    """

    path: str
    kind: str
    owner: int
    mode: int
    usable: bool = True
    error: str = ""


class FileFacts(Struct, frozen=True):
    """What is known of all of them.

    Attributes:
        user: who asks.
        above: the directory that holds all consecutors; None where there is none yet.
        directory: the consecutor's; None likewise.
        inside: what is in it.
        store: the files of the store.
        sockets: paths that sockets have or will have.
        link: the private directory through which the paths of sockets are short; None where there is none.

    """

    user: int
    above: Place | None = None
    directory: Place | None = None
    inside: Sequence[Place] = ()
    store: Sequence[Place] = ()
    sockets: Sequence[str] = ()
    link: Place | None = None


def read(base: Path, directory: Path | None, store: Path | None, uris: Iterable[str]) -> FileFacts:
    """Look at files.

    Args:
        base: the directory that holds all consecutors.
        directory: the consecutor's, which may not be there yet; None where there is no consecutor.
        store: the file of the store; None where it is no file.
        uris: of sockets.

    """
    own = _place(directory) if directory else None
    beside = [Path(f"{store}{end}") for end in ("", "-wal", "-shm", ".wal", ".lock")] if store else []
    paths = sorted({uri.removeprefix(_IPC) for uri in uris if uri.startswith(_IPC)})
    links = {os.path.dirname(os.path.dirname(path)) for path in paths if directory and not _is_in(path, directory)}
    found = [_place(Path(link)) for link in links if os.path.basename(link) == f"consecutiond-{os.geteuid()}"]
    return FileFacts(
        os.geteuid(), _place(base), own, _inside(directory) if own and directory and not own.error else (),
        [place for path in beside if (place := _place(path))], paths, next((each for each in found if each), None),
    )  # fmt: skip


def _is_in(path: str, directory: Path) -> bool:
    return Path(path).is_relative_to(directory)


def _inside(directory: Path) -> list[Place]:
    wanted = [directory / name for name in ("socket_files", "pid_files", "log_files", "output_files")]
    wanted += [directory / name for name in ("plan.json", "keys.json", "connection.json", "graph.pickle")]
    try:
        wanted += sorted((directory / "socket_files").iterdir())
    except OSError:
        # It is among those that are looked at one by one.
        pass
    return [place for path in wanted if (place := _place(path))]


def _place(path: Path) -> Place | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return Place(str(path), "file", -1, 0, usable=False, error=str(error.strerror))
    kinds = ((stat.S_ISDIR, "directory"), (stat.S_ISSOCK, "socket"))
    kind = next((name for test, name in kinds if test(found.st_mode)), "file")
    wanted = os.R_OK | os.W_OK | (os.X_OK if kind == "directory" else 0)
    return Place(str(path), kind, found.st_uid, stat.S_IMODE(found.st_mode), os.access(path, wanted))


def check(facts: FileFacts) -> list[Check]:
    """Judge files."""
    return [_above(facts), _directory(facts), _inside_it(facts), *_store(facts), *_sockets(facts)]


def _above(facts: FileFacts) -> Check:
    name, why = "files.above", "Who can rename a consecutor's directory can put another one in its place."
    if facts.above is None:
        return Check(name, "ok", "there is no directory of consecutors yet", why)
    where = f"{facts.above.path} has mode {facts.above.mode:04o}"
    if facts.above.error:
        return Check(name, "problem", _unseen(facts.above), why, "Choose a place of this user's with --dir.")
    if facts.above.mode & _OTHERS_WRITE and not facts.above.mode & stat.S_ISVTX:
        return Check(name, "warning", f"{where}: others may write there", why, f"chmod go-w {facts.above.path}")
    return Check(name, "ok", where, why)


def _directory(facts: FileFacts) -> Check:
    name, why = "files.directory", "Whoever gets into it can feed the graph, stop it, and read its values."
    place = facts.directory
    if place is None:
        return Check(name, "ok", "there is none yet; a start makes it with mode 0700", why)
    return _judged(name, why, [place], facts.user) or Check(name, "ok", f"{place.path} is ours, mode 0700", why)


def _inside_it(facts: FileFacts) -> Check:
    name, why = "files.inside", "Sockets obey whoever can write to them; the plan may have a password in it."
    sockets = sum(place.kind == "socket" for place in facts.inside)
    seen = f"{len(facts.inside) - sockets} files and directories and {sockets} sockets are for this user only"
    return _judged(name, why, facts.inside, facts.user) or Check(name, "ok", seen, why)


def _store(facts: FileFacts) -> list[Check]:
    name, why = "files.store", "It holds every value that is not done, and whoever can write to it can change them."
    if not facts.store:
        return []
    seen = f"{facts.store[0].path} and what is beside it are for this user only"
    return [_judged(name, why, facts.store, facts.user) or Check(name, "ok", seen, why)]


def _judged(name: str, why: str, places: Iterable[Place], user: int) -> Check | None:
    """Return what is wrong with places, the worst first; None for nothing."""
    unseen = [place for place in places if place.error]
    if unseen:
        return Check(name, "problem", _unseen(unseen[0]), why, "Run it as the user whose it is.")
    foreign = [place for place in places if place.owner != user]
    if foreign:
        seen = f"{foreign[0].path} belongs to user {foreign[0].owner}, and this is user {user}{_more(foreign)}"
        return Check(name, "problem", seen, why, "Run it as that user, or choose another --dir or --id.")
    useless = [place for place in places if not place.usable]
    if useless:
        seen = f"{useless[0].path} (mode {useless[0].mode:04o}) cannot be written by this user{_more(useless)}"
        return Check(name, "problem", seen, why, "Give this user the right, or see whether it is mounted read-only.")
    wide = [place for place in places if place.mode & (_OTHERS_WRITE if place.kind == "socket" else _OTHERS)]
    if wide:
        seen = f"others may use {wide[0].path} (mode {wide[0].mode:04o}){_more(wide)}"
        return Check(name, "warning", seen, why, f"chmod go-rwx {' '.join(place.path for place in wide)}")
    return None


def _unseen(place: Place) -> str:
    return f"{place.path} cannot be looked at: {place.error}"


def _more(places: list[Place]) -> str:
    return f", and {len(places) - 1} more" if len(places) > 1 else ""


def _sockets(facts: FileFacts) -> list[Check]:
    name, why = "files.socket_paths", f"The path of a Unix socket has at most {_SOCKET_PATH_MAX} bytes."
    if not facts.sockets:
        return []
    longest = max(facts.sockets, key=lambda path: len(os.fsencode(path)))
    length = len(os.fsencode(longest))
    seen = f"the longest has {length}: {longest}"
    if length > _SOCKET_PATH_MAX:
        return [Check(name, "problem", seen, why, "Give the edge a shorter uri, in `connect_with`.")]
    link = facts.link
    if link is not None and (link.kind != "directory" or link.owner != facts.user or link.mode & _OTHERS):
        seen = f"{link.path}, through which they are short, is not a directory of this user's alone"
        return [Check(name, "problem", seen, why, "Remove it; or choose a shorter --dir.")]
    return [Check(name, "ok", seen, why)]
