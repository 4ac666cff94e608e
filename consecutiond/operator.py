"""The failed items of one consecutor, for operators: the same whether it runs or not.

What is only read comes from the store where that can be read beside its acker, so that no look holds the acker up.
What is changed goes through the acker while there is one; else through the store, under the consecutor's lock.
"""

import getpass
import os
import shlex
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import msgspec

from consecutiond.acker.stores import Store, open_store, read_only
from consecutiond.acker.stores.base import EVERY, Audit, Failed, Group, ReadableStore, Retained, Where
from consecutiond.deadletters import CHANGING, MOST, Outcome, Request, decide, encode, read
from consecutiond.entrance import Entrance, LiveEntrance, StoppedEntrance
from consecutiond.guarantee import Kept
from consecutiond.kept import KeptPage
from consecutiond.rundir import LiveError, RunDir
from consecutiond_broker.errors import ConsecutiondError

#: seconds to wait for an acker, which may just be restarted
PATIENCE_S: Final = 30.0
#: seconds after which a request is sent again
_AGAIN_S: Final = 1.0
#: how the URLs begin of stores that can be read while their acker writes
_SHARED: Final = ("sqlite:", "redis:", "rediss:", "unix:")
_MEMORY: Final = "memory://"

Answer = TypeVar("Answer")


class OperatorError(ConsecutiondError):
    """There is no such consecutor, it does not answer, or it keeps no failed items."""


class RefusedRequestError(ConsecutiondError):
    """The request was understood, and nothing was done."""


class _Way(Protocol):
    """Where requests are answered."""

    def ask(self, request: Request, kind: type[Answer]) -> Answer: ...

    def close(self) -> None: ...


class Operator:
    """Lists, replays, edits and discards the failed items of one consecutor.

    Args:
        directory: the consecutor's.
        patience_s: seconds to wait for an acker that does not answer.

    Raises:
        OperatorError: there is no such consecutor, or it keeps no failed items.
        RunDirError: its plan cannot be read.
    """

    def __init__(self, directory: RunDir, patience_s: float = PATIENCE_S) -> None:
        self._directory, self._patience_s = directory, patience_s
        if not directory.is_one():
            there = ", ".join(each.id for each in RunDir.all(directory.base)) or "none"
            raise OperatorError(f"there is no consecutor {directory.id!r} in {directory.base} (there is: {there})")
        #: options of every part, as they were when it was last started
        self.parts = read_plan(directory)
        #: whether it ran when we came
        self.live = directory.is_live()
        acker = self.parts.get("acker", {})
        self._store = acker.get("store", f"sqlite:///{directory.store}")
        self._durability = acker.get("durability", "durable")
        #: the names of its edges, and the node that each leads to
        self.edges: Mapping[str, str] = acker.get("targets", {})
        self._accounts: Kept = acker.get("acker_store", "disk")
        if self._accounts == "off":
            raise OperatorError(
                f"{directory.id} runs with tracking = false: failed items are counted and not kept, so there are none "
                "to list or replay. Run it without --no-tracking to have them kept"
            )
        if not self.live and (self._store == _MEMORY or self._accounts == "memory"):
            raise OperatorError(f"{directory.id} {self._gone(acker.get('input_store', 'disk'))}")
        self._who = f"{getpass.getuser()}@{socket.gethostname()}"
        self._reader: _Way | None = None
        self._writer: _Way | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Both may be the same.
        for way in {self._reader, self._writer}:
            if way is not None:
                way.close()
        self._reader = self._writer = None

    def _gone(self, input_store: Kept) -> str:
        """Say why there are no failed items any more."""
        if self._store != _MEMORY and input_store == "disk":
            return (
                "kept its accounts in memory (acker_store = memory) and has stopped, so nobody knows what had failed: "
                "those items are open again, and tried when it is started. `acker_store = disk` keeps them as failed"
            )
        option = "acker_store = memory" if self._accounts == "memory" else "store = memory://"
        return (
            f"kept its log in memory ({option}) and has stopped, so its failed items are gone. A store on disk keeps "
            f"them: leave the option `{option.partition(' ')[0]}` out"
        )

    @property
    def id(self) -> str:
        """The consecutor's id."""
        return self._directory.id

    @property
    def words(self) -> str:
        """How a command line names it: the id, and its place where that is not the default one."""
        return named(self._directory)

    def is_live(self) -> bool:
        """Return whether it runs now."""
        return self._directory.is_live()

    # --- reading ---------------------------------------------------------------------------------------------

    def groups(self, where: Where = EVERY) -> list[Group]:
        """Return the groups of failed items that look alike, the largest first."""
        return self._read(Request("groups", where), list[Group])

    def count(self, where: Where = EVERY) -> int:
        """Return how many failed items there are."""
        return self._read(Request("count", where), int)

    def page(self, where: Where = EVERY, after: int = 0, limit: int = MOST) -> list[Failed]:
        """Return some failed items at positions above `after`; none means that there are no more."""
        return self._read(Request("list", where, after, limit), list[Failed])

    def pages(self, where: Where = EVERY, after: int = 0, limit: int = MOST) -> Iterator[list[Failed]]:
        """Yield all failed items in pages, in the order of their positions."""
        while page := self.page(where, after, limit):
            yield page
            after = page[-1].position

    def audits(self) -> Iterator[Audit]:
        """Yield what operators have done, the oldest first."""
        after = 0
        while page := self._read(Request("audits", after=after), list[Audit]):
            yield from page
            after = page[-1].number

    def still_open(self, positions: list[int]) -> set[int]:
        """Return which of these roots are being tried, or wait to be."""
        found: set[int] = set()
        for start in range(0, len(positions), MOST):
            where = Where(positions=tuple(positions[start : start + MOST]))
            found |= set(self._read(Request("open", where), list[int]))
        return found

    def kept(
        self, since: float = EVERY.since, until: float = EVERY.until, *, values: bool = False
    ) -> Iterator[list[Retained]]:
        """Yield completed inputs that are kept, in pages that may be empty, in the order in which batches were over.

        Args:
            since: only what was over then or later; seconds since 1970.
            until: only what was over before.
            values: with the values.
        """
        request = Request("kept", Where(since=since, until=until), with_values=values)
        while (page := self._read(request, KeptPage)).last:
            yield page.batches
            request = msgspec.structs.replace(request, after=page.last)

    @property
    def retains(self) -> bool:
        """Whether completed inputs were to be kept when it was last started."""
        # None is for ever.
        return bool(self.parts.get("acker", {}).get("retain_s", 0) != 0)

    def _read(self, request: Request, kind: type[Answer]) -> Answer:
        if self._reader is None:
            beside = (self._store.startswith(_SHARED) and self._accounts == "disk") or not self.live
            self._reader = _Stored(read_only(self._store)) if beside else self._line()
        return self._reader.ask(request, kind)

    # --- changing --------------------------------------------------------------------------------------------

    def act(self, request: Request) -> Outcome:
        """Replay, discard or edit: at most as many as one request may act on.

        Raises:
            RefusedRequestError: nothing was done; the text says why.
            OperatorError: it does not answer, or was started or has stopped meanwhile.
            StoreError: the store cannot be written.
        """
        if self._writer is None:
            self._writer = self._line() if self.live else self._unattended()
        return self._writer.ask(msgspec.structs.replace(request, who=self._who), Outcome)

    def entrance(self, what: str, which: str) -> Entrance:
        """Return where inputs are entered again.

        Args:
            what: what the audit trail calls it.
            which: how they were chosen, for people.
        """
        deed = self._who, what, which
        if self.live:
            return LiveEntrance(self._directory.socket_uri("acker"), self.is_live, deed)
        way = self._unattended()
        self._writer = way
        return StoppedEntrance(way.store, self.parts["acker"]["input_edge"], deed)

    def _unattended(self) -> "_Unattended":
        if self._reader is not None:
            # Some stores admit one opener at a time: whoever writes to them reads, too.
            self._reader.close()
            self._reader = None
        self._reader = way = _Unattended(self)
        return way

    def _line(self) -> "_Line":
        return _Line(self._directory, self._patience_s)

    def lock(self) -> tuple[int, bytes]:
        """Become the only one who may change the store; return the lock, and what was written in it."""
        signature = self._directory.lock.read_bytes() if self._directory.lock.exists() else b""
        try:
            return self._directory.acquire(), signature
        except LiveError:
            raise OperatorError(f"{self.id} was started just now, so nothing was changed: ask again") from None

    def open_store(self) -> Store:
        """Open the store for writing; only the holder of the lock may do it."""
        return open_store(self._store, self._durability)


class _Stored:
    """A store that is read beside its acker, or without one."""

    def __init__(self, store: ReadableStore) -> None:
        self._store = store

    def ask(self, request: Request, kind: type[Answer]) -> Answer:
        answer: Answer = read(request, self._store)
        return answer

    def close(self) -> None:
        self._store.close()


class _Unattended:
    """The store of a consecutor that does not run, and cannot be started meanwhile."""

    def __init__(self, operator: Operator) -> None:
        # When nobody knows the edges, the next start sees what is not there any more.
        self._edges = operator.edges.keys() or None
        self._lock, self._signature = operator.lock()
        try:
            #: open for writing
            self.store = operator.open_store()
        except BaseException:
            self._release()
            raise

    def ask(self, request: Request, kind: type[Answer]) -> Answer:
        if request.verb not in CHANGING:
            answer: Answer = read(request, self.store)
            return answer
        letters = self.store.dead_letters(request.after, min(max(1, request.limit), MOST), request.where)
        decision = decide(request, letters, self._edges, ())
        if decision.error:
            raise RefusedRequestError(decision.error)
        if decision.positions:
            self.store.commit(decision.changes(request, time.time()))
        return msgspec.convert(decision.outcome, kind)

    def close(self) -> None:
        self.store.close()
        self._release()

    def _release(self) -> None:
        # It says who ran the consecutor last, and that was not us.
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, self._signature, 0)
        os.close(self._lock)


class _Line:
    """A connection to a running acker."""

    def __init__(self, directory: RunDir, patience_s: float) -> None:
        # Only those who need it pay for the import.
        import zmq

        self._directory, self._patience_s, self._number = directory, patience_s, 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self._socket.setsockopt(zmq.IDENTITY, b"C:" + os.urandom(6).hex().encode())
        self._socket.connect(directory.socket_uri("acker"))

    def ask(self, request: Request, kind: type[Answer]) -> Answer:
        """Send a request until it is answered; an acker acts once on one that it hears again."""
        from consecutiond_broker import wire

        self._number += 1
        question = wire.pack(wire.Ask(self._number, request.verb, encode(request)))
        deadline, next_ask = time.monotonic() + self._patience_s, 0.0
        while (now := time.monotonic()) < deadline:
            if now >= next_ask:
                self._socket.send(question)
                next_ask = now + _AGAIN_S
            if self._socket.poll(100):
                head = wire.unpack(self._socket.recv_multipart())
                # One that was sent again may be answered twice.
                if isinstance(head, wire.Answer) and head.number == self._number:
                    return _decoded(head, kind)
            elif not self._directory.is_live():
                raise OperatorError(
                    f"{self._directory.id} ended before its acker had answered; ask again, now that it is stopped"
                )
        raise OperatorError(
            f"{self._directory.id} runs, and its acker did not answer within {self._patience_s:g} s: it is being "
            f"started or stopped, or its disk does not answer. See `consecutiond status {self._directory.id}`, then "
            "ask again"
        )

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def _decoded(head: Any, kind: type[Answer]) -> Answer:
    if head.error:
        raise RefusedRequestError(head.error)
    return msgspec.msgpack.decode(head.body, type=kind)


def named(directory: RunDir) -> str:
    """Return how a command line names a consecutor: the id, and its place where that is not the default one."""
    default = Path(".consecution").absolute()
    return directory.id if directory.base == default else f"{directory.id} --dir {shlex.quote(str(directory.base))}"


def read_plan(directory: RunDir) -> Mapping[str, Mapping[str, Any]]:
    """Return the options of every part of a consecutor; nothing if it never came to a plan.

    Raises:
        RunDirError: the plan cannot be read.
    """
    if not directory.plan.exists():
        return {}
    from consecutiond.planpicture import read_parts

    return read_parts(directory.plan)
