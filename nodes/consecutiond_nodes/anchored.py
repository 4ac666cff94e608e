"""Outputs that are anchored to items by name: of items that a node has held, and of several items at once.

The common output, a child of the item in execution, takes the faster way through `outbox`.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from consecutiond_broker import codec, spans
from consecutiond_broker.edge import ANY
from consecutiond_broker.errors import CodecError
from consecutiond_broker.ids import child_ids
from consecutiond_nodes.item import Item
from consecutiond_nodes.job import Bundle, Job
from consecutiond_nodes.ports import Downstream

#: Children that are anchored later are numbered from here, so that none has the number of a child that its parent
#: pushed in its own `process`: two equal ids would cancel each other.
_FIRST: Final = 1 << 32

_Output = tuple[Any, tuple[Item, ...]]


class Lane:
    """Anchored outputs on their way to the same edges.

    Args:
        ports: where every value goes.
        most_bytes: of one value.
        unserialisable: is told of each item whose output cannot be carried, and why.
        partition: the number of the only worker that may have the values.

    """

    def __init__(
        self,
        ports: tuple[Downstream, ...],
        most_bytes: int,
        unserialisable: Callable[[Item, str], None],
        partition: int = ANY,
    ) -> None:
        self._partition = partition
        self.ports, self._most_bytes, self._unserialisable = ports, most_bytes, unserialisable
        self.outputs: list[_Output] = []

    def add(self, value: Any, anchors: tuple[Item, ...]) -> None:
        """Keep an output until `send`."""
        self.outputs.append((value, anchors))

    def drop(self, item: Item) -> None:
        """Forget the outputs of an item that has failed.

        One that other items share goes out: they may be acked already, and would miss it.
        """
        self.outputs = [output for output in self.outputs if output[1] != (item,)]

    def send(self, current: Job | None) -> None:
        """Send everything.

        Args:
            current: the job in execution, whose settlement has to wait for what is sent during it.

        """
        outputs, self.outputs = self.outputs, []
        most = min(port.hint for port in self.ports)
        for alike in _alike(outputs):
            for start in range(0, len(alike), most):
                self._send(alike[start : start + most], current)

    def _send(self, outputs: list[_Output], current: Job | None) -> None:
        body, reason = self._encoded([value for value, _ in outputs])
        if not reason:
            self._send_encoded(outputs, body, current)
        elif len(outputs) == 1:
            for item in outputs[0][1]:
                self._unserialisable(item, reason)
        else:
            half = len(outputs) // 2
            self._send(outputs[:half], current)
            self._send(outputs[half:], current)

    def _encoded(self, values: list[Any]) -> tuple[bytes, str]:
        try:
            body = codec.encode(values)
        except CodecError as error:
            faults = codec.faults(values)
            return b"", f"pushed {faults[0][1] if faults else error}"
        if len(body) > self._most_bytes:
            return b"", f"pushed a value of {len(body)} bytes, more than max_message = {self._most_bytes}"
        return body, ""

    def _send_encoded(self, outputs: list[_Output], body: bytes, current: Job | None) -> None:
        if any(item.job.untracked for _, anchors in outputs for item in anchors if item.job):
            self._send_untracked(outputs, body, current)
            return
        entries = [
            [
                (item.job, item.position, entry)
                for item in anchors
                if item.job
                for entry in item.job.entries(item.position)
            ]
            for _, anchors in outputs
        ]
        flat = [each for mine in entries for each in mine]
        roots = np.array([job.roots[entry] for job, _, entry in flat], dtype=np.uint64)
        own = np.array([job.ids[entry] for job, _, entry in flat], dtype=np.uint64)
        shared = tuple(dict.fromkeys((*(job for job, _, _ in flat), *((current,) if current is not None else ()))))
        bundle, lengths = Bundle(shared), spans.pack([len(mine) for mine in entries])
        for port in self.ports:
            ordinals = np.array([n for mine in entries for n in _ordinals(mine, port.salt)], dtype=np.uint64)
            ids = child_ids(own, ordinals, port.salt)
            for (job, _, entry), id in zip(flat, ids, strict=True):
                job.xors[entry] ^= id
            port.send(bundle, len(outputs), [roots.tobytes(), ids.tobytes(), body], lengths, self._partition)

    def _send_untracked(self, outputs: list[_Output], body: bytes, current: Job | None) -> None:
        """Send values without roots and ids; those jobs wait for them all the same whose items they are made of."""
        jobs = [item.job for _, anchors in outputs for item in anchors if item.job]
        bundle = Bundle(tuple(dict.fromkeys((*jobs, *((current,) if current is not None else ())))))
        for port in self.ports:
            port.send(bundle, len(outputs), [b"", b"", body], b"", self._partition)


def _ordinals(entries: list[tuple[Job, int, int]], salt: int) -> Iterator[int]:
    """Number one output among the later children of each of its anchors."""
    seen: dict[tuple[Job, int], int] = {}
    for job, position, _ in entries:
        if (job, position) not in seen:
            seen[job, position] = ordinal = job.ordinals.get((position, salt), _FIRST)
            job.ordinals[position, salt] = ordinal + 1
        yield seen[job, position]


def _alike(outputs: list[_Output]) -> Iterator[list[_Output]]:
    """Cut outputs where the attempt or the time of their roots changes, since a message has one of each."""
    start = 0
    keys = [(max(item.attempt for item in a), min(item.accepted_ms for item in a)) for _, a in outputs]
    for place in range(1, len(outputs) + 1):
        if place == len(outputs) or keys[place] != keys[start]:
            yield outputs[start:place]
            start = place
