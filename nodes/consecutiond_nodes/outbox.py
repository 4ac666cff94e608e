"""What a worker has pushed and not yet sent: values side by side, turned into messages a batch at a time."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from consecutiond_broker import codec
from consecutiond_broker.errors import CodecError
from consecutiond_broker.ids import child_ids
from consecutiond_nodes.job import Job, run_starts
from consecutiond_nodes.ports import Downstream

#: most values that wait in a buffer before a slice is sent in the middle of a batch
MOST_VALUES: Final = 4096


class Buffer:
    """Values on their way to the same edges.

    Args:
        node: the node's name, for errors.
        ports: where every value goes.
        batch_bytes: size aimed at for one message.
        max_message: bytes; a value that is larger on its own cannot be carried.
    """

    def __init__(self, node: str, ports: tuple[Downstream, ...], batch_bytes: int, max_message: int) -> None:
        self.node, self.ports = node, ports
        self.batch_bytes, self.max_message = batch_bytes, max_message
        self.values: list[Any] = []
        self.parents: list[int] = []
        #: how many values may wait; follows the size of the values seen
        self.limit = 64
        self._carry: tuple[int, int] = (-1, 0)

    def drop_from(self, parent: int) -> None:
        """Forget the outputs of the item in hand, which has failed."""
        while self.parents and self.parents[-1] == parent:
            self.parents.pop()
            self.values.pop()

    def start(self) -> None:
        """A new batch begins."""
        self._carry = (-1, 0)

    def encoded(self, most: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield ``(start, stop, body)`` of messages of at most ``most`` values, about `batch_bytes` long.

        Raises:
            CodecError: a value cannot be carried. Nothing was yielded from that slice on.
        """
        per, start, total = min(most, self.limit), 0, len(self.values)
        while start < total:
            stop = min(start + per, total)
            body = codec.encode(self.values[start:stop])
            per = self._fit(len(body), stop - start, most)
            if len(body) > self.max_message:
                if stop - start == 1:
                    raise CodecError(f"a value of {len(body)} bytes, more than max_message = {self.max_message}")
                per = max(1, (stop - start) // 2)
                continue
            yield start, stop, body
            start = stop

    def _fit(self, size: int, count: int, most: int) -> int:
        """Learn from one message how many values make up `batch_bytes`."""
        self.limit = max(1, min(MOST_VALUES, self.batch_bytes * count // max(size, 1)))
        return min(most, self.limit)

    def send(self, job: Job) -> None:
        """Send everything as children of the job's items and add their ids to its report.

        A value that cannot be carried fails the item that pushed it; everything else goes out.
        """
        most = min(port.hint for port in self.ports)
        while self.values:
            try:
                messages = list(self.encoded(most))
            except CodecError:
                self._fail_unserialisable(job)
                continue
            self._send_encoded(job, messages)
            self.values.clear()
            self.parents.clear()

    def _send_encoded(self, job: Job, messages: list[tuple[int, int, bytes]]) -> None:
        parents = np.array(self.parents, dtype=np.intp)
        starts = run_starts(parents)
        ordinals = self._ordinals(parents, starts)
        own, roots = job.ids[parents], job.roots[parents].tobytes()
        for port in self.ports:
            ids = child_ids(own, ordinals, port.salt)
            job.xors[parents[starts]] ^= ids if len(starts) == len(ids) else np.bitwise_xor.reduceat(ids, starts)
            raw = ids.tobytes()
            for start, stop, body in messages:
                port.send(job, stop - start, [roots[8 * start : 8 * stop], raw[8 * start : 8 * stop], body])

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

    def _fail_unserialisable(self, job: Job) -> None:
        bad: dict[int, str] = {}
        faults = codec.faults(self.values) or [
            (place, f"a value of more than max_message = {self.max_message} bytes")
            for place, value in enumerate(self.values)
            if len(codec.encode([value])) > self.max_message
        ]
        for place, reason in faults:
            bad.setdefault(self.parents[place], reason)
        for parent, reason in bad.items():
            job.fail(parent, "unserialisable", self.node, f"node {self.node} pushed {reason}", "")
        kept = [(value, parent) for value, parent in zip(self.values, self.parents, strict=True) if parent not in bad]
        self.values[:] = [value for value, _ in kept]
        self.parents[:] = [parent for _, parent in kept]
