"""The acker's store on a Redis or Valkey server: one transaction a group. `redisreader` says which keys there are."""

import secrets
from typing import Any, Final

import msgspec

from consecutiond.acker.stores import keyed
from consecutiond.acker.stores.base import Changes, Durability, Head, StoreError, StoreFullError
from consecutiond.acker.stores.keyed import Counters, Decision, Key
from consecutiond.acker.stores.numbered import LogLostError, Numbered
from consecutiond.acker.stores.redislink import Command, Link, explained, first_error, is_full
from consecutiond.acker.stores.redisreader import LOG, SCHEMA_VERSION, Log, RedisReader, only

#: milliseconds that the server has to synchronise its disk
_SYNC_MS: Final = 10_000
#: times that a group is tried anew because something changed the log in between; one acker writes, so one is many
_RACES: Final = 5
#: values in one request at the utmost: a request is worked off as a whole
_MANY: Final = 1000
#: KEYS: first the hash of the log, then its other keys. ARGV: openings, writer and commit of the log as it was seen,
#: then commands on the keys, each behind the number of its words. Returns 0 when somebody has written to the log since.
#: A transaction would do the same, but a server whose memory is full takes none.
_WHEN_FULL: Final = b"""#!lua flags=allow-oom
local seen = redis.call('HMGET', KEYS[1], 'openings', 'writer', 'commit')
if seen[1] ~= ARGV[1] or seen[2] ~= ARGV[2] or seen[3] ~= ARGV[3] then
    return 0
end
local at = 4
while at <= #ARGV do
    local words = tonumber(ARGV[at])
    redis.call(unpack(ARGV, at + 1, at + words))
    at = at + words + 1
end
return 1
"""


class RedisStore(RedisReader):
    """The acker's `Store` on a Redis server.

    Invariants: a group is one transaction, which the server begins only if nothing of the log has changed since its
    keys, types, writer and numbers were looked at; an acker whose log was opened by another since writes nothing; a
    group whose answer was lost is recognised by its number when it comes again.

    Args:
        url: as for `RedisReader`.
        durability: "durable": each group is on the server's disk before `commit` returns, if the server can do that.

    """

    def __init__(self, url: str, durability: Durability) -> None:
        super().__init__(url)
        self._wants_disk = durability == "durable"
        self._writer = secrets.token_hex(8).encode()
        self._openings = 0
        #: the server has refused a group for want of memory, and has taken no new batch since
        self._is_full = False
        self._numbered = Numbered()

    def open(self) -> None:
        """Connect, create the log if need be, and take it over; does nothing when it is open already."""
        if self._is_open:
            return
        try:
            self._take_over()
        except BaseException:
            self.link.close()
            raise
        self._is_open = True

    def _greet(self, link: Link) -> None:
        super()._greet(link)
        self.durable = self._wants_disk and self.server.can_be_durable
        if self._is_open:
            # A server that was restarted may have lost something, which must come out before anything is read of it.
            (fields,) = link.ask_now(self._get_log())
            self._ours(self._read_log(fields))

    def _counters(self) -> Counters:
        (fields,) = self._opened().ask(self._get_log())
        return self._ours(self._read_log(fields)).counters

    def body(self, chunk: int) -> bytes:
        """Return the body of a chunk."""
        try:
            return super().body(chunk)
        except StoreError:
            # If the log is gone as a whole, that is what has to be said.
            self._counters()
            raise

    def describe(self) -> str:
        """Say in one sentence what the store guarantees as the server is set."""
        if not self.server.version:
            return f"{self.name}: what a receipt is worth depends on the server, which was not asked."
        # Settings that stop new work from being safe may be mended while the acker runs; so nothing is refused.
        text = f"{self.name} ({self.server.version}): {self.server.promise(durable=self._wants_disk)}"
        if self._wants_disk:
            return f"{text}."
        return f"{text}; the store waits for no disk of its own accord (durability fast)."

    def _take_over(self) -> None:
        for _ in range(_RACES):
            fields, *_ = self._look([])
            log = self._read_log(fields)
            new = log is None
            self.salt = secrets.randbits(64) if log is None else log.salt
            self._openings = 1 if log is None else log.openings + 1
            # A log of the former schema lacks nothing but what counts as 0.
            identity = {
                "schema": SCHEMA_VERSION, "openings": self._openings, "writer": self._writer, "commit": 0,
            }  # fmt: skip
            created = {"salt": self.salt, **msgspec.structs.asdict(Counters())} if new else {}
            if self._execute([_hset(self._keys[LOG], identity | created)]):
                self._numbered = Numbered()
                return
        raise self._contended()

    # --- writing ---------------------------------------------------------------------------------------------

    def commit(self, changes: Changes) -> None:
        """Apply one group in one transaction.

        Raises:
            StoreError: nothing was changed, or it is not known whether anything was; the same `changes` may be
                committed again, and are applied once.
            LogLostError: the server has lost what it had confirmed.

        """
        self._opened()
        for _ in range(_RACES):
            if self._try(changes):
                return
        raise self._contended()

    def _try(self, changes: Changes) -> bool:
        asked = keyed.looked_up(changes)
        fields, held, retained, bodies, *answers = self._look(asked)
        log = self._ours(self._read_log(fields))
        if held + retained != bodies:
            raise StoreError(
                f"{self.name} is damaged: {held + retained} chunks and {bodies} bodies. Probably somebody deleted "
                "keys of it, or the server evicted them: stop the consecutor and restore the server's files."
            )
        if self._numbered.is_applied(changes, log.commit):
            self._synchronise(again=True)
            self._numbered.end(log.counters.accepted)
            return True
        found = {key: _found(key, answer) for key, answer in zip(asked, answers, strict=True)}
        decision = keyed.decide(changes, log.counters, found)
        self._numbered.begin(changes)
        commands = self._written(decision, found)
        # What it adds is little, and bounded by the work that is open; what it takes away is what has to make room.
        past = self._is_full and not changes.appends and self.server.works_when_full
        if not (self._execute_when_full(log, commands) if past else self._execute(commands)):
            self._numbered.abandon()
            return False
        self._is_full = self._is_full and not changes.appends
        self._synchronise(again=False)
        self._numbered.end(decision.counters.accepted)
        return True

    def adopt(self, head: Head) -> None:
        """Become the log whose rows were committed here, in one transaction."""
        self._opened()
        for _ in range(_RACES):
            fields, *_ = self._look([])
            counters = self._ours(self._read_log(fields)).counters.adopted(head)
            producers = self._keys[keyed.PRODUCERS]
            commands = [
                _hset(self._keys[LOG], msgspec.structs.asdict(counters) | {"salt": head.salt}),
                ("DEL", producers),
                *_many("HSET", producers, list(keyed.producer_rows(head).items())),
            ]
            if self._execute(commands):
                self._synchronise(again=False)
                self.salt = head.salt
                return
        raise self._contended()

    def _look(self, asked: list[Key]) -> list[Any]:
        """Watch all keys; return the hash of the log, how many chunks, retained ones and bodies, and what was asked."""
        keys = self._keys
        commands = [("UNWATCH",), ("WATCH", *keys.values()), *(("TYPE", key) for key in keys.values())]
        answers = self.link.try_ask(
            *commands, self._get_log(), ("ZCARD", keys[keyed.CHUNKS]), ("ZCARD", keys[keyed.RETAINED]),
            ("HLEN", keys[keyed.BODIES]), *(_presence(keys[key.table], key) for key in asked),
        )  # fmt: skip
        types, rest = answers[2 : len(commands)], answers[len(commands) :]
        self._refuse_foreign(dict(zip(keys, types, strict=True)))
        error = first_error(answers)
        if error is not None:
            raise StoreError(f"{self.name} cannot be read: {explained(error)}")
        return rest

    def _refuse_foreign(self, types: dict[str, Any]) -> None:
        for table, found in types.items():
            wanted = b"zset" if table in keyed.SORTED else b"hash"
            if isinstance(found, bytes) and found not in (wanted, b"none"):
                raise StoreError(
                    f"the key {self._keys[table].decode()} at {self.link.address} is of another program: it is a "
                    f"{found.decode()}, where the log has a {wanted.decode()}. Nothing was changed. Remove "
                    "or rename that key, or give the log another name with ?prefix=NAME."
                )
        if types[LOG] == b"none" and any(found != b"none" for found in types.values()) and not self._openings:
            raise StoreError(
                f"{self.name} is damaged: it has chunks, and no key {self._keys[LOG].decode()}. Probably somebody "
                "deleted that: restore the server's files, or give the log another name with ?prefix=NAME."
            )

    def _ours(self, log: Log | None) -> Log:
        """Return the log, which this acker may write to.

        Raises:
            StoreError: another one has taken it over.
            LogLostError: the server lost what it had confirmed.

        """
        if log is None:
            raise LogLostError(f"{self.name} is gone from the server. {self._numbered.loss(0)}")
        if log.openings > self._openings or (log.openings == self._openings and log.writer != self._writer):
            raise StoreError(
                f"{self.name} was opened by another acker after this one, which therefore writes nothing any more. "
                "Probably two consecutors of one id use the server: stop this one, or give one of them another "
                "name with ?prefix=NAME."
            )
        if log.openings < self._openings or log.commit < self._numbered.done:
            raise LogLostError(
                f"{self.name} went back to an earlier state. Probably the server was restarted and had not written all "
                f"of it ({self.server.promise(durable=self._wants_disk)}). {self._numbered.loss(log.counters.accepted)}"
            )
        return log

    def _execute(self, commands: list[Command]) -> bool:
        """Run a transaction; return False when something watched has changed and nothing was done."""
        *queued, done = self.link.send(("MULTI",), *commands, ("EXEC",))
        if done is None:
            return False
        error = first_error([*queued, done] if isinstance(done, Exception) else done)
        self._check(error)
        return True

    def _execute_when_full(self, log: Log, commands: list[Command]) -> bool:
        """Do what `_execute` does, on a server whose memory is full."""
        others = [key for name, key in self._keys.items() if name != LOG]
        said = [word for command in commands for word in (len(command), *command)]
        seen = log.openings, log.writer, log.commit
        (done,) = self.link.send(("EVAL", _WHEN_FULL, 1 + len(others), self._keys[LOG], *others, *seen, *said))
        self._check(first_error([done]))
        return bool(done)

    def _check(self, error: Exception | None) -> None:
        if error is None:
            return
        said = f"{self.name} could not be written (nothing was recorded): {explained(error)}"
        if is_full(error):
            self._is_full = True
            raise StoreFullError(said)
        raise StoreError(said)

    def _written(self, decision: Decision, found: keyed.Found) -> list[Command]:
        counters = msgspec.structs.asdict(decision.counters) | {"commit": self._numbered.next}
        commands = [_hset(self._keys[LOG], counters)]
        for table in keyed.TABLES:
            key = self._keys[table]
            writes = {each.key: value for each, value in decision.writes.items() if each.table == table}
            put = {each: value for each, value in writes.items() if value is not None}
            gone = [each for each, value in writes.items() if value is None]
            if table in keyed.SORTED:
                # A row may be there already under its number, and has then other bytes.
                commands += [("ZREMRANGEBYLEX", key, *only(each)) for each in writes]
                commands += _many("ZADD", key, [(0, each + row) for each, row in put.items()])
            else:
                commands += _many("HDEL", key, [(each,) for each in gone])
                commands += _many("HSET", key, list(put.items()))
        return commands

    def _synchronise(self, *, again: bool) -> None:
        """Have what was written on the server's disk, if that is wanted and it does not go there by itself."""
        if not self.durable or self.server.always:
            return
        if again:
            # The server waits for what this connection wrote; the group came over another one.
            self.link.ask(("HSET", self._keys[LOG], "synchronised", self._numbered.done))
        ((local, _),) = self.link.ask_now(("WAITAOF", 1, 0, _SYNC_MS))
        if not local:
            raise StoreError(
                f"{self.name} has taken a group, but has not synchronised its disk within {_SYNC_MS / 1000:.0f} s. "
                "Probably the disk hangs: see the server's log. It is asked again."
            )

    def _contended(self) -> StoreError:
        return StoreError(
            f"{self.name} is changed by somebody else all the time: a group was tried {_RACES} times. Probably another "
            "program writes to its keys: give the log another name with ?prefix=NAME."
        )


def _presence(table: bytes, key: Key) -> Command:
    if key.table in keyed.SORTED:
        return ("ZLEXCOUNT", table, *only(key.key))
    return ("HGET", table, key.key)


def _found(key: Key, answer: Any) -> bytes | None:
    if key.table in keyed.SORTED:
        return b"" if answer else None
    return answer  # type: ignore[no-any-return]


def _hset(key: bytes, fields: dict[str, Any]) -> Command:
    return ("HSET", key, *(each for pair in fields.items() for each in pair))


def _many(verb: str, key: bytes, pairs: list[tuple[Any, ...]]) -> list[Command]:
    """Return requests that do one thing for many values, none of them huge."""
    slices = (pairs[at : at + _MANY] for at in range(0, len(pairs), _MANY))
    return [(verb, key, *(value for pair in part for value in pair)) for part in slices]
