"""The stores behind one contract: which one is chosen by the scheme of its URL."""

from pathlib import Path

from consecutiond.acker.stores.base import Durability, NoStoreError, ReadableStore, Store, StoreError, Totals
from consecutiond.acker.stores.memory import MemoryStore
from consecutiond.acker.stores.split import AccountsApart, ValuesApart
from consecutiond.acker.stores.sqlite import SqliteReader, SqliteStore
from consecutiond.guarantee import Kept, sentence
from consecutiond.storeurls import REDIS, masked, scheme

__all__ = [
    "Durability", "NoStoreError", "ReadableStore", "Store", "StoreError", "Totals", "guarantee", "open_store",
    "read_only",
]  # fmt: skip

_FILES = {"sqlite": "an SQLite store", "kyoto": "a Kyoto Cabinet store"}
_KNOWN = (
    "memory://, sqlite:///relative/path and sqlite:////absolute/path, kyoto:///relative/path and "
    "kyoto:////absolute/path, redis://host:port/db, rediss://host:port/db and unix:///path/of/socket"
)


def open_store(url: str, durability: Durability, acker_store: Kept = "disk", input_store: Kept = "disk") -> Store:
    """Open the store that a URL names, created if need be.

    Args:
        url: ``memory://``; ``sqlite:///relative/path`` or ``sqlite:////absolute/path``, and likewise ``kyoto://``,
            where the path is taken as it stands, nothing in it is escaped; or ``redis://host:port/db?prefix=NAME``,
            ``rediss://`` likewise, ``unix:///path/of/socket?prefix=NAME``.
        durability: "durable" (a commit that returned survives a power cut) or "fast" (it survives any kill).
        acker_store: where the accounts are: "disk" is that store, "memory" the acker's own; "off" is as "memory".
        input_store: where the values of inputs are kept, likewise; "off": nowhere.

    Returns:
        The store, open.

    Raises:
        StoreError: the URL names no store, or the store cannot be opened.

    """
    store = _placed(_store(url, durability), acker_store, input_store)
    store.open()
    return store


def _placed(store: Store, acker_store: Kept, input_store: Kept) -> Store:
    """Put accounts and values where they are to be; in one place they are in one store."""
    if acker_store != "disk":
        if input_store == "disk":
            return AccountsApart(store)
        store = MemoryStore()
        if input_store == acker_store:
            return store
    return store if input_store == "disk" else ValuesApart(store, keep=input_store == "memory")


def guarantee(url: str, durability: Durability, acker_store: Kept = "disk", input_store: Kept = "disk") -> str:
    """Say in one sentence what the store that a URL names guarantees; nothing is opened.

    Args:
        url: as for `open_store`.
        durability: likewise.
        acker_store: likewise.
        input_store: likewise.

    Raises:
        StoreError: the URL names no store.

    """
    return sentence(_store(url, durability).describe(), acker_store, input_store)


def read_only(url: str | Path) -> ReadableStore:
    """Open a store to look into it and change nothing, also after its acker was killed.

    While an acker writes to it this works for SQLite and Redis, but not for Kyoto Cabinet.

    Args:
        url: as for `open_store`; a path is one of an SQLite file.

    Returns:
        The store, open; close it after use.

    Raises:
        NoStoreError: there is no store yet.
        StoreError: the URL names no store that can be read from another process, or it cannot be read.

    """
    reader = _reader(f"sqlite:///{url.absolute()}" if isinstance(url, Path) else url)
    reader.open()
    return reader


def _store(url: str, durability: Durability) -> Store:
    if durability not in ("durable", "fast"):
        raise StoreError(f"durability {durability!r} is unknown: it is 'durable' or 'fast'.")
    if url == "memory://":
        return MemoryStore()
    if scheme(url) in REDIS:
        # Only those who use it pay for the import.
        from consecutiond.acker.stores.redis import RedisStore

        return RedisStore(url, durability)
    path = _path(url)
    if scheme(url) == "kyoto":
        from consecutiond.acker.stores.kyoto import KyotoStore

        return KyotoStore(path, durability)
    return SqliteStore(path, durability)


def _reader(url: str) -> ReadableStore:
    if url == "memory://":
        raise NoStoreError(
            "a store in memory is its acker's alone, and gone with it: only `consecutiond status` sees it."
        )
    if scheme(url) in REDIS:
        from consecutiond.acker.stores.redisreader import RedisReader

        return RedisReader(url)
    path = _path(url)
    if scheme(url) == "kyoto":
        from consecutiond.acker.stores.kyotoreader import KyotoReader

        return KyotoReader(path)
    return SqliteReader(path)


def _path(url: str) -> str:
    kind, _, path = url.partition("://")
    if kind not in _FILES:
        raise StoreError(f"no store is known for {masked(url)!r}. Known are {_KNOWN}.")
    if not path.startswith("/") or path in ("/", "/:memory:"):
        raise StoreError(
            f"{url!r} names no file: {_FILES[kind]} is {kind}:///relative/path or {kind}:////absolute/path "
            "(count the slashes); a store that keeps nothing is memory://."
        )
    return path[1:]
