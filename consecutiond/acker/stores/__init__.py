"""The stores behind one contract: which one is chosen by the scheme of its URL."""

from pathlib import Path

from consecutiond.acker.stores.base import Durability, ReadableStore, Store, StoreError, Totals
from consecutiond.acker.stores.memory import MemoryStore
from consecutiond.acker.stores.sqlite import SqliteReader, SqliteStore

__all__ = ["Durability", "ReadableStore", "Store", "StoreError", "Totals", "guarantee", "open_store", "read_only"]

_KNOWN = "memory://, sqlite:///relative/path and sqlite:////absolute/path"


def open_store(url: str, durability: Durability) -> Store:
    """Open the store that a URL names, created if need be.

    Args:
        url: ``memory://``, ``sqlite:///relative/path`` or ``sqlite:////absolute/path``; the path is taken as
            it stands, nothing in it is escaped.
        durability: "durable" (a commit that returned survives a power cut) or "fast" (it survives any kill).

    Returns:
        The store, open.

    Raises:
        StoreError: the URL names no store, or the store cannot be opened.

    """
    store = _store(url, durability)
    store.open()
    return store


def guarantee(url: str, durability: Durability) -> str:
    """Say in one sentence what the store that a URL names guarantees; nothing is opened.

    Args:
        url: as for `open_store`.
        durability: likewise.

    Raises:
        StoreError: the URL names no store.

    """
    return _store(url, durability).describe()


def _store(url: str, durability: Durability) -> Store:
    if durability not in ("durable", "fast"):
        raise StoreError(f"durability {durability!r} is unknown: it is 'durable' or 'fast'.")
    if url == "memory://":
        return MemoryStore()
    scheme, _, path = url.partition("://")
    if scheme != "sqlite":
        raise StoreError(f"no store is known for {url!r}. Known are {_KNOWN}.")
    if not path.startswith("/") or path in ("/", "/:memory:"):
        raise StoreError(
            f"{url!r} names no file: an SQLite store is sqlite:///relative/path or sqlite:////absolute/path "
            "(count the slashes); a store that keeps nothing is memory://."
        )
    return SqliteStore(path[1:], durability)


def read_only(path: str | Path) -> ReadableStore:
    """Open an SQLite store to look into it, also while an acker writes to it or after it was killed.

    Args:
        path: of the file.

    Returns:
        The store, open; close it after use.

    Raises:
        StoreError: there is no store at the path, or it cannot be read.

    """
    reader = SqliteReader(path)
    reader.open()
    return reader
