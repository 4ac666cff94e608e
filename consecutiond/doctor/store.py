"""The store of a subject: which areas look at it, what it promises as it is set, and what its log holds."""

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from consecutiond.acker.stores import guarantee as promise_of
from consecutiond.acker.stores.base import Durability, NoStoreError, ReadableStore, StoreError
from consecutiond.acker.stores.redis import RedisStore
from consecutiond.acker.stores.redisreader import RedisReader
from consecutiond.doctor import kyoto, log, redis, redisfacts, sqlite
from consecutiond.doctor.check import Check
from consecutiond.guarantee import MEMORY
from consecutiond.storeurls import REDIS, file_of, scheme


class Seen(Struct, frozen=True):
    """What was found out about a store.

    Attributes:
        promise: what it guarantees as it is set, as one sentence; "" where it could not be asked.
        checks: of it.
        newest: when the newest record of its log was made, wall clock; 0 where there is none, or nobody knows.

    """

    promise: str
    checks: tuple[Check, ...]
    newest: float = 0.0


def look(url: str, durability: Durability) -> Seen:
    """Look at the store that a URL names; change nothing."""
    if scheme(url) == "memory":
        why, do = "Nothing of it survives its acker.", "Set `store = sqlite`, unless nothing matters."
        return Seen(MEMORY, (Check("store.memory", "warning", "the log is in memory", why, do),))
    try:
        promise = promise_of(url, durability)
        return _redis(url, durability) if scheme(url) in REDIS else _file(url, durability, promise)
    except StoreError as error:
        why, do = "The log is there.", "Correct the option `store`."
        return Seen("", (Check("store.url", "problem", str(error).rstrip("."), why, do, "the store has no place"),))


def _file(url: str, durability: Durability, promise: str) -> Seen:
    path, durable = file_of(url) or Path(), durability == "durable"
    if scheme(url) == "kyoto":
        return Seen(promise, tuple(kyoto.check(kyoto.read(path), durable=durable)))
    facts = sqlite.read(path, durable=durable)
    found = _log(lambda: sqlite.UntouchingReader(path)) if facts.synchronous is not None else log.LogFacts()
    return Seen(promise, (*sqlite.check(facts, durable=durable), *log.check(found)), found.newest)


def _redis(url: str, durability: Durability) -> Seen:
    facts = redisfacts.read(url)
    checks = redis.check(facts, durable=durability == "durable")
    if facts.error:
        return Seen("", tuple(checks))
    # While it reads its data it answers nothing that a reader asks.
    found = log.LogFacts() if redis.is_loading(facts) else _log(lambda: RedisReader(url))
    return Seen(_promise_of_server(url, durability), (*checks, *log.check(found)), found.newest)


def _promise_of_server(url: str, durability: Durability) -> str:
    store = RedisStore(url, durability)
    try:
        # The store asks the server at each new connection; it is not opened, which would take the log over.
        store.link.send(("PING",))
        return store.describe()
    finally:
        store.link.close()


def _log(make: Callable[[], ReadableStore]) -> log.LogFacts:
    try:
        reader = make()
        reader.open()
    except NoStoreError:
        return log.LogFacts()
    except StoreError as error:
        return log.LogFacts(error=str(error))
    try:
        return log.read(reader)
    finally:
        reader.close()
