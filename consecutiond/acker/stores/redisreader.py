"""Reads a log on a Redis or Valkey server: a handful of keys whatever the log holds.

All keys of a log begin with ``{consecutiond:NAME}:``, which keeps them on one node of a cluster:

    log        hash         schema, salt, the counters, and who writes: see `_LOG`
    chunks     sorted set   number (8 bytes, most significant first) + chunk without its body
    done       sorted set   number of the chunk + bitmap
    waiting    sorted set   position + failed root
    dead       sorted set   position + failed root
    audits     sorted set   number + what an operator has done
    retained   sorted set   number + batch that is over and kept, without its body
    bodies     hash         number of the chunk -> body
    producers  hash         producer -> its highest sequence

All scores are 0: the order is that of the bytes, which is that of the numbers, and a page is one ZRANGEBYLEX.
"""

from typing import Final

import msgspec

from consecutiond.acker.stores import keyed, rows
from consecutiond.acker.stores.base import NoStoreError, StoreError
from consecutiond.acker.stores.keyed import Counters, Key
from consecutiond.acker.stores.keyedreader import KeyedReader, Page
from consecutiond.acker.stores.redislink import Command, Link
from consecutiond.acker.stores.redisserver import Server, inspect
from consecutiond.storeurls import redis_parts

#: raised by every change of the keys or rows; another one is refused, never guessed at
SCHEMA_VERSION: Final = 2
#: the one before it, which has no retained batches and differs in nothing else
FORMER_VERSION: Final = 1

#: the hash of a log, beside the tables
LOG: Final = "log"
_COUNTERS: Final = tuple(Counters.__struct_fields__)
#: what it holds besides the counters
_IDENTITY: Final = ("schema", "salt", "openings", "writer", "commit")


class Log(msgspec.Struct, frozen=True):
    """The hash of a log, as it was read."""

    salt: int
    #: how many ackers have opened the log so far
    openings: int
    #: drawn by the acker that opened it last: nobody else may write
    writer: bytes
    #: how many groups that one has committed
    commit: int
    counters: Counters


class RedisReader(KeyedReader):
    """Reads a log on a Redis server and changes nothing in it; also while an acker writes to it.

    Args:
        url: of the server, with ``?prefix=NAME`` for the log.

    """

    def __init__(self, url: str) -> None:
        server, self.log_name = redis_parts(url)
        if not self.log_name or any(character in self.log_name for character in "{}"):
            raise StoreError(
                "the log on a Redis server needs a name without braces: add ?prefix=NAME to its URL. A consecutor "
                "takes its own id."
            )
        self.link = Link(server, self._greet)
        self.name = f"the log {self.log_name!r} at {self.link.address}"
        self.server = Server()
        self.salt = 0
        self.durable = False
        self._keys = {table: self._key(table) for table in (*keyed.TABLES, LOG)}
        self._is_open = False

    def _key(self, table: str) -> bytes:
        return f"{{consecutiond:{self.log_name}}}:{table}".encode()

    def open(self) -> None:
        """Connect, and make sure that there is a log; does nothing when it is open already."""
        if self._is_open:
            return
        try:
            self.salt = self._existing().salt
        except BaseException:
            self.link.close()
            raise
        self._is_open = True

    def close(self) -> None:
        """End the connection; does nothing when there is none."""
        self._is_open = False
        self.link.close()

    def _greet(self, link: Link) -> None:
        self.server = inspect(link)

    def describe(self) -> str:
        """Say in one sentence what the store is opened for."""
        return f"{self.name} ({self.server.version or 'Redis'}), opened for reading only."

    # --- reading ---------------------------------------------------------------------------------------------

    def _opened(self) -> Link:
        if not self._is_open:
            raise StoreError(f"{self.name} is not open: call open() before using it.")
        return self.link

    def _counters(self) -> Counters:
        self._opened()
        return self._existing().counters

    def _existing(self) -> Log:
        (fields,) = self.link.ask(self._get_log())
        log = self._read_log(fields)
        if log is None:
            raise NoStoreError(f"there is no {self.name.removeprefix('the ')}: nothing was ever started with it.")
        return log

    def _get_log(self) -> Command:
        return ("HMGET", self._keys[LOG], *_IDENTITY, *_COUNTERS)

    def _read_log(self, fields: list[bytes | None]) -> Log | None:
        """Return what the hash of the log says, None when there is none."""
        if fields[0] is None:
            return None
        if fields[0] not in (b"%d" % SCHEMA_VERSION, b"%d" % FORMER_VERSION):
            raise StoreError(
                f"{self.name} was written by another version of consecutiond (schema {fields[0].decode()}, this one "
                f"reads {SCHEMA_VERSION}); it was not touched. Drain it with the version that wrote it, or give this "
                "one another name with ?prefix=NAME."
            )
        _, salt, openings, writer, commit, *counts = fields
        counters = Counters(**{name: int(count or 0) for name, count in zip(_COUNTERS, counts, strict=True)})
        return Log(int(salt or 0), int(openings or 0), writer or b"", int(commit or 0), counters)

    def _value(self, key: Key) -> bytes | None:
        (value,) = self._opened().ask(("HGET", self._keys[key.table], key.key))
        return value  # type: ignore[no-any-return]

    def _producers(self) -> dict[bytes, bytes]:
        (pairs,) = self._opened().ask(("HGETALL", self._keys[keyed.PRODUCERS]))
        return dict(zip(pairs[::2], pairs[1::2], strict=True))

    def _pages(self, *pages: Page) -> list[list[tuple[int, bytes]]]:
        asked = [
            ("ZRANGEBYLEX", self._keys[page.table], *_behind(page.after), "LIMIT", 0, page.limit) for page in pages
        ]
        answers = self._opened().ask_at_once(*asked)
        return [
            [(rows.number(row[: rows.NUMBER_BYTES]), row[rows.NUMBER_BYTES :]) for row in rows_] for rows_ in answers
        ]


def _behind(number: int) -> tuple[bytes, bytes]:
    return b"[" + rows.number_key(number + 1), b"+"


def only(key: bytes) -> tuple[bytes, bytes]:
    """Return the range that holds the row of one number."""
    return b"[" + key, b"(" + rows.number_key(rows.number(key) + 1)
