"""What a worker has pushed and not yet sent: encoded values side by side, cut into messages a batch at a time."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from consecutiond_broker import codec
from consecutiond_broker.cell import INDEX
from consecutiond_broker.edge import ANY
from consecutiond_broker.errors import CodecError
from consecutiond_broker.ids import child_ids
from consecutiond_nodes.job import Errand, Job, run_starts
from consecutiond_nodes.ports import Downstream

#: most values that wait in a buffer before a slice is sent in the middle of a batch
MOST_VALUES: Final = 4096


class Numbers:
    """Numbers what each item pushes on one edge, where its values part into several buffers.

    Two buffers that counted on their own would give two children of one item the same id, which would cancel each other
    in the ledger, and the same key. Nor may the number depend on how many workers there are: keys outlive them.
    """

    __slots__ = ("_next", "_parent")

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A new batch begins."""
        self._parent, self._next = -1, 0

    def take(self, parent: int) -> int:
        """Return the number of the next value of an item."""
        if parent != self._parent:
            self._parent, self._next = parent, 0
        self._next += 1
        return self._next - 1


class Buffer:
    """Values on their way to the same edges.

    They are encoded when they are pushed: the node may change them afterwards, what cannot be carried is raised in the
    very line that pushes it, and what waits is bounded in bytes.

    Args:
        node: the node's name, for errors.
        ports: where every value goes.
        batch_bytes: size aimed at for one message.
        max_message: bytes; a value that is larger on its own cannot be carried.
        partition: the number of the only worker that may have the values.
        numbers: numbers the values of all buffers that lead to the same edge; None for a buffer that does so alone.
        writes: the values are pairs of an output's name and what was written to it.
    """

    def __init__(
        self,
        node: str,
        ports: tuple[Downstream, ...],
        batch_bytes: int,
        max_message: int,
        partition: int = ANY,
        numbers: Numbers | None = None,
        *,
        writes: bool = False,
    ) -> None:
        self.node, self.ports, self.partition, self.writes = node, ports, partition, writes
        self.batch_bytes, self.max_message = max(1, min(batch_bytes, max_message // 2)), max_message
        self._body = bytearray()
        #: where each value ends in the body
        self._ends: list[int] = []
        #: the position of the item that pushed each value; -1 outside of `process`
        self._parents: list[int] = []
        self._carry: tuple[int, int] = (-1, 0)
        self._numbers = numbers
        #: the number of each value, where several buffers share the numbers
        self._taken: list[int] = []

    def __len__(self) -> int:
        """Count the values that wait."""
        return len(self._ends)

    def appender(self, words: memoryview, full: Callable[["Buffer"], None]) -> Callable[[Any], None]:
        """Return the function that takes a value.

        Args:
            words: the worker's cell, which knows the item in hand.
            full: sends the buffer when enough waits in it.
        """
        body, ends, encode_into, batch_bytes = self._body, self._ends, codec.encode_into, self.batch_bytes
        add_end, add_parent = ends.append, self._parents.append
        numbers, add_taken = self._numbers, self._taken.append

        def push(value: Any) -> None:
            try:
                encode_into(value, body, -1)
            except Exception as error:
                self._refuse(value, error)
            size = len(body)
            add_end(size)
            add_parent(words[INDEX] - 1)
            if numbers is not None:
                add_taken(numbers.take(words[INDEX] - 1))
            if size >= batch_bytes or len(ends) >= MOST_VALUES:
                self._check_size(value)
                full(self)

        return push

    def _refuse(self, value: Any, error: Exception) -> None:
        """Take back what was written of a value that cannot be carried, and say so."""
        self._cut_body()
        culprit = value[1] if self.writes else value
        raise CodecError(f"node {self.node} {self._verb(value)} {codec.fault(culprit, error)}") from None

    def _check_size(self, value: Any) -> None:
        size = self._ends[-1] - (self._ends[-2] if len(self._ends) > 1 else 0)
        if size > self.max_message:
            self._pop()
            self._cut_body()
            most = f"more than max_message = {self.max_message}"
            raise CodecError(f"node {self.node} {self._verb(value)} a value of {size} bytes, {most}")

    def _verb(self, value: Any) -> str:
        return f"wrote to the output {value[0]!r}" if self.writes else "pushed"

    def _cut_body(self) -> None:
        del self._body[self._ends[-1] if self._ends else 0 :]

    def drop_from(self, parent: int) -> None:
        """Forget the outputs of the item in hand, which has failed."""
        while self._parents and self._parents[-1] == parent:
            self._pop()
        self._cut_body()

    def _pop(self) -> None:
        self._parents.pop()
        self._ends.pop()
        if self._taken:
            self._taken.pop()

    def clear(self) -> None:
        """Forget everything."""
        self._parents.clear()
        self._ends.clear()
        self._taken.clear()
        self._body.clear()

    def start(self) -> None:
        """A new batch begins."""
        self._carry = (-1, 0)
        if self._numbers is not None:
            self._numbers.start()

    def messages(self, most: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield ``(start, stop, body)`` of messages of at most ``most`` values.

        One has at most twice `batch_bytes`, or a single value: more than `batch_bytes` wait only if the last is large.
        """
        ends, start, begin, total = self._ends, 0, 0, len(self._ends)
        while start < total:
            stop = min(start + most, total)
            if ends[stop - 1] - begin > 2 * self.batch_bytes:
                stop = max(start + 1, bisect_right(ends, begin + self.batch_bytes, start, stop))
            yield start, stop, codec.head(stop - start) + self._body[begin : ends[stop - 1]]
            start, begin = stop, ends[stop - 1]

    def send(self, job: Job) -> None:
        """Send everything as children of the job's items and add their ids to its report."""
        if job.untracked:
            self.send_untracked(job)
            return
        messages = self._cut()
        parents = np.array(self._parents, dtype=np.intp)
        starts = run_starts(parents)
        ordinals = np.array(self._taken, dtype=np.uint64) if self._taken else self._ordinals(parents, starts)
        self.clear()
        if job.offsets is not None:
            self._send_joined(job, messages, parents, ordinals)
            return
        own, roots = job.ids[parents], job.roots[parents].tobytes()
        for port in self.ports:
            ids = child_ids(own, ordinals, port.salt)
            job.xors[parents[starts]] ^= ids if len(starts) == len(ids) else np.bitwise_xor.reduceat(ids, starts)
            raw = ids.tobytes()
            for start, stop, body in messages:
                part = [roots[8 * start : 8 * stop], raw[8 * start : 8 * stop], body]
                port.send(job, stop - start, part, partition=self.partition)

    def send_untracked(self, job: Job | Errand) -> None:
        """Send everything without roots and ids."""
        messages = self._cut()
        self.clear()
        for port in self.ports:
            for start, stop, body in messages:
                port.send(job, stop - start, [b"", b"", body], partition=self.partition)

    def _cut(self) -> list[tuple[int, int, bytes]]:
        """Return everything in messages that suit all receivers."""
        return list(self.messages(min(port.hint for port in self.ports)))

    def _send_joined(self, job: Job, messages: list[tuple[int, int, bytes]], parents: Any, ordinals: Any) -> None:
        """Send children of items that have several roots: each is a child in every one of these trees."""
        offsets = job.offsets
        assert offsets is not None  # noqa: S101 - the caller has asked
        lengths = np.diff(offsets)[parents]
        bounds = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(lengths)))
        entries = np.arange(bounds[-1]) - np.repeat(bounds[:-1] - offsets[parents], lengths)
        own, roots = job.ids[entries], job.roots[entries].tobytes()
        for port in self.ports:
            ids = child_ids(own, np.repeat(ordinals, lengths), port.salt)
            np.bitwise_xor.at(job.xors, entries, ids)
            raw = ids.tobytes()
            for start, stop, body in messages:
                first, last = 8 * int(bounds[start]), 8 * int(bounds[stop])
                spans = lengths[start:stop].astype("<u4").tobytes()
                port.send(job, stop - start, [roots[first:last], raw[first:last], body], spans, self.partition)

    def _ordinals(self, parents: "np.ndarray[tuple[int], np.dtype[np.intp]]", starts: Any) -> Any:
        """Number the outputs of each item from 0, going on where the last slice of the same item ended."""
        places = np.arange(len(parents))
        lengths = np.diff(starts, append=len(parents))
        ordinals = places - np.repeat(starts, lengths)
        parent, carried = self._carry
        if parents[0] == parent:
            ordinals[: lengths[0]] += carried
        last = int(parents[-1])
        self._carry = (last, int(ordinals[-1]) + 1)
        return ordinals.astype(np.uint64)
