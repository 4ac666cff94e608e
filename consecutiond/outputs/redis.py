"""A list or a stream of a Redis server that holds every item once, however often it was written to it."""

import hashlib
import logging
import random
import time
from collections.abc import Sequence
from math import isinf
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from consecutiond.storeurls import REDIS, masked, scheme
from consecutiond_broker.errors import ConsecutiondError

if TYPE_CHECKING:
    from consecutiond.acker.stores.redislink import Link

log = logging.getLogger("consecutiond.output")

#: Appends values whose keys were not taken before. A value goes before its key: should the server refuse in the middle,
#: one may come twice, and none is lost.
#:   KEYS[1]  list, or stream with the field `value`: the values
#:   KEYS[2]  sorted set: the keys that were taken, with the second since 1970 at which they came last
#:   ARGV     now; the oldest second that is kept; "list" or "stream"; then key and value of each item.
#:            The key is 8 bytes, big-endian; none for a value that has no key.
_SCRIPT: Final = """
local now, oldest, kind = ARGV[1], ARGV[2], ARGV[3]
for place, wanted in ipairs({kind, 'zset'}) do
  local found = redis.call('TYPE', KEYS[place]).ok
  if found ~= 'none' and found ~= wanted then
    return redis.error_reply('WRONGTYPE ' .. KEYS[place] .. ' is a ' .. found .. ' and no ' .. wanted)
  end
end
for place = 4, #ARGV, 2 do
  local key, value = ARGV[place], ARGV[place + 1]
  if key == '' or not redis.call('ZSCORE', KEYS[2], key) then
    if kind == 'list' then
      redis.call('RPUSH', KEYS[1], value)
    else
      redis.call('XADD', KEYS[1], '*', 'value', value)
    end
  end
  if key ~= '' then
    redis.call('ZADD', KEYS[2], now, key)
  end
end
local old = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. oldest, 'LIMIT', 0, #ARGV)
for _, key in ipairs(old) do
  redis.call('ZREM', KEYS[2], key)
end
return #old
"""
_SHA: Final = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
#: what the server is, in errors
_WHAT: Final = "the output"
#: items of one script: it holds up the server for its other clients, a millisecond or two for so many
_MOST_ITEMS: Final = 1000
#: seconds before the second try, doubled each time, and the longest
_BACKOFF_S: Final = 0.05
_BACKOFF_MOST_S: Final = 2.0
#: how the errors begin that may be over soon; no waiting mends others
_PASSING: Final = (
    "OOM", "READONLY", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "No matching script",
    "Redis is loading",
)  # fmt: skip
_encode: Final = msgspec.json.Encoder().encode


class RedisOutputError(ConsecutiondError):
    """A server does not take what was written.

    Args:
        message: why, and what to do.
        for_good: no waiting mends it.
    """

    def __init__(self, message: str, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


class RedisOutput:
    """The container that is a list or a stream of a Redis server; values are JSON.

    What a batch has for it is appended by one script for each thousand items, which leaves out values whose keys were
    taken before, and notes the others. So nothing comes twice, also when the answer was lost and the script is sent
    again. While the server does not answer, or says that it cannot, the batch is tried again, ever more rarely; after
    `patience_s` its items fail, and are retried like others that fail.

    A value is as safe as the server makes it: what it loses, with ``appendfsync`` other than ``always``, was done and
    does not come again. The keys are in the sorted set ``{KEY}:keys``, some 100 bytes each. Keys that have not come for
    `keep_s` are taken out, and their items would be written again if they came later still.

    Nothing connects before the first value is there, so the module of a graph may make one.

    Args:
        url: ``redis://host:port/db``, ``rediss://…`` or ``unix:///path?db=0``; user and password as in the option
            `store`.
        key: the name of the list or stream.
        kind: ``"list"``: RPUSH; ``"stream"``: XADD, with the field ``value``.
        keep_s: seconds for which a key is kept after it came last; inf keeps all. It counts by this machine's clock.
        patience_s: seconds for which a batch is tried before its items fail.

    Raises:
        ValueError: an argument is wrong.
    """

    def __init__(
        self,
        url: str,
        key: str,
        kind: Literal["list", "stream"] = "list",
        *,
        keep_s: float = 7 * 86400.0,
        patience_s: float = 30.0,
    ) -> None:
        if scheme(url) not in REDIS:
            raise ValueError(f"{masked(url)!r} is no URL of a Redis server: redis://host:port/db or unix:///path?db=0")
        if not key or kind not in ("list", "stream"):
            raise ValueError(
                f'an output has a key that is not empty, and is a "list" or a "stream"; not {key!r}, {kind}'
            )
        if not (keep_s > 0 and patience_s >= 0):
            raise ValueError(f"keep_s is more than 0 seconds, patience_s at least 0; not {keep_s} and {patience_s}")
        self._url, self._kind, self._keep_s, self._patience_s = url, kind, keep_s, patience_s
        tagged = "{" in key.partition("}")[0]
        #: in a cluster both have to be at one place, which what is in braces decides
        self._names = (key, f"{key}:keys" if tagged else f"{{{key}}}:keys")
        self._items: list[tuple[bytes, bytes]] = []
        self._link: Link | None = None

    def append(self, value: Any) -> None:
        """Take a value that has no key."""
        self._items.append((b"", _encode(value)))

    def put(self, key: int, value: Any) -> None:
        """Take a value, unless its key was taken before."""
        self._items.append((key.to_bytes(8, "big"), _encode(value)))

    def put_many(self, keys: Sequence[int], values: Sequence[Any]) -> None:
        """Take those of some values whose keys were not taken before.

        Raises:
            TypeError: a value is nothing that JSON has; none was taken.
        """
        self._items += [(key.to_bytes(8, "big"), _encode(value)) for key, value in zip(keys, values, strict=True)]

    def flush(self) -> None:
        """Have the server take everything.

        Raises:
            RedisOutputError: it does not, and what to do; what came since the last flush has to come again.
        """
        items, self._items = self._items, []
        if items:
            self._append(items)

    def _append(self, items: list[tuple[bytes, bytes]]) -> None:
        wait_s, until = _BACKOFF_S, time.monotonic() + self._patience_s
        while (error := self._tried(items)) is not None:
            left_s = until - time.monotonic()
            if left_s <= 0 or error.for_good:
                raise error
            if wait_s == _BACKOFF_S:
                log.warning("output.waits: %s", error)
            time.sleep(min(left_s, wait_s * random.uniform(0.5, 1.0)))  # noqa: S311 - so that not all come at once
            wait_s = min(_BACKOFF_MOST_S, 2 * wait_s)

    def _tried(self, items: list[tuple[bytes, bytes]]) -> RedisOutputError | None:
        """Send everything; return what was wrong, None if the server has taken it."""
        from consecutiond.acker.stores.base import StoreError
        from consecutiond.acker.stores.redislink import Link, explained, first_error

        try:
            if self._link is None:
                self._link = Link(self._url, _load, _WHAT)
            error = first_error(self._link.send(*self._commands(items)))
        except StoreError as broken:
            return RedisOutputError(str(broken))
        if error is None:
            return None
        # The next connection loads the script again, which a server may have forgotten.
        self._link.close()
        told = explained(error)
        return RedisOutputError(
            f"{_WHAT} at {self._link.address} does not take what was written: {told}", not told.startswith(_PASSING)
        )

    def _commands(self, items: list[tuple[bytes, bytes]]) -> list[tuple[Any, ...]]:
        now = time.time()
        oldest = "-inf" if isinf(self._keep_s) else f"{now - self._keep_s:.3f}"
        head = ("EVALSHA", _SHA, 2, *self._names, f"{now:.3f}", oldest, self._kind)
        parts = [items[start : start + _MOST_ITEMS] for start in range(0, len(items), _MOST_ITEMS)]
        return [(*head, *(word for item in part for word in item)) for part in parts]

    def close(self) -> None:
        """End the connection; what was not flushed was not taken."""
        self._items.clear()
        if self._link is not None:
            self._link.close()


def _load(link: "Link") -> None:
    link.ask_now(("SCRIPT", "LOAD", _SCRIPT))
