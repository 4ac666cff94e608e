"""Looks at a Kyoto Cabinet file without changing it: a transaction that was cut off is left for the next start."""

import fcntl
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from consecutiond.acker.stores.base import StoreError
from consecutiond.acker.stores.kyotolib import READER, Database, KyotoError, load
from consecutiond.acker.stores.kyotoreader import FORMER_VERSION, LOG, MODE, SCHEMA_VERSION, Log
from consecutiond.doctor.check import Check


class KyotoFacts(Struct, frozen=True):
    """What is known of a file.

    Attributes:
        path: of the file.
        library: why the library cannot be loaded, else "".
        size: in bytes; None where there is no file.
        held: another process has it open.
        cut_off: a transaction was cut off, which the next start puts back.
        error: why it cannot be opened, else "".

    """

    path: str
    library: str = ""
    size: int | None = None
    held: bool = False
    cut_off: bool = False
    error: str = ""


def read(path: Path) -> KyotoFacts:
    """Look at a file."""
    try:
        load()
        size = path.stat().st_size
    except StoreError as error:
        return KyotoFacts(str(path), library=str(error))
    except FileNotFoundError:
        return KyotoFacts(str(path))
    except OSError as error:
        return KyotoFacts(str(path), size=0, error=f"{path} cannot be read: {error.strerror}")
    ahead = Path(f"{path}.wal")
    if ahead.exists() and ahead.stat().st_size:
        return KyotoFacts(str(path), size=size, cut_off=True, held=_is_held(path))
    if _is_held(path):
        return KyotoFacts(str(path), size=size, held=True)
    return KyotoFacts(str(path), size=size, error=_opened(path))


def _is_held(path: Path) -> bool:
    """Tell whether an acker, or a reader, has the lock beside the file."""
    try:
        fd = os.open(f"{path}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        # Nobody ever had it.
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _opened(path: Path) -> str:
    """Open the file for reading and return what is wrong with it, "" for nothing."""
    try:
        database = Database(os.fsencode(path) + b"#type=kch", READER | MODE)
    except KyotoError as error:
        return f"{path} cannot be opened: {error}"
    try:
        row = database.get(LOG)
        if row is None:
            return f"{path} holds no store: it is a database of another program"
        version = msgspec.msgpack.decode(row, type=Log).schema
    except (KyotoError, msgspec.DecodeError) as error:
        return f"{path} is damaged: {error}"
    finally:
        database.close()
    known = version in (SCHEMA_VERSION, FORMER_VERSION)
    return "" if known else f"{path} is of another version (schema {version}, not {SCHEMA_VERSION})"


def check(facts: KyotoFacts, *, durable: bool) -> list[Check]:
    """Judge a file.

    Args:
        facts: of it.
        durable: its transactions wait for the disk.

    """
    library = _library(facts)
    if facts.library:
        return [library]
    return [library, _file(facts), _durable(durable=durable)]


def _library(facts: KyotoFacts) -> Check:
    name, why = "kyoto.library", "The store is made with it."
    if not facts.library:
        return Check(name, "ok", "Kyoto Cabinet's library can be loaded", why)
    do = "Install libkyotocabinet16v5, or use the store sqlite."
    takes = "without the library the store cannot be opened"
    return Check(name, "problem", facts.library.rstrip("."), why, do, takes)


def _file(facts: KyotoFacts) -> Check:
    name, why = "kyoto.file", "The log is in it."
    if facts.size is None:
        return Check(name, "ok", f"there is none yet at {facts.path}; the first start makes it", why)
    if facts.held:
        do = "Ask again when it is stopped; `consecutiond status` asks its acker."
        return Check(name, "unknown", f"{facts.path} is in use, and admits one process at a time", why, do)
    if facts.cut_off:
        do = "Start the consecutor, which puts it back; then stop it, and ask again."
        return Check(name, "unknown", f"a commit of {facts.path} was cut off by a kill", why, do)
    if facts.error:
        do = "Keep a copy of the file, and give the store another path."
        takes = "the file cannot be used as it is, so nothing is accepted now"
        return Check(name, "problem", facts.error.rstrip("."), why, do, takes)
    return Check(name, "ok", f"{facts.path}, {facts.size:,} bytes", why)


def _durable(*, durable: bool) -> Check:
    name, why = "kyoto.durable", "Without it a power cut may damage the file as a whole."
    if durable:
        return Check(name, "ok", "each commit is on the disk before its receipt", why)
    return Check(name, "warning", "commits do not wait for the disk", why, "Set durability = durable, or use sqlite.")
