"""What is seen of a consecutor from outside while it runs: when each root was complete, and how much memory it took."""

import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec

_TURN_S = 0.01
_MEMORY_S = 0.25
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


class Watch(threading.Thread):
    """Follows a file of JSON lines, and the resident memory of processes.

    Args:
        sink: the file, None: none is followed.
        outputs: all that it has of an id whose root is complete, as for the oracle.
        pids: returns the pid of each part, by its name.
    """

    def __init__(
        self, sink: Path | None, outputs: Callable[[int], Collection[Any]], pids: Callable[[], dict[str, int]]
    ) -> None:
        super().__init__(daemon=True)
        self._sink, self._outputs, self._pids = sink, outputs, pids
        self._missing: dict[int, set[Any]] = {}
        self._end = 0
        #: when the root of each id was complete, monotonic seconds
        self.complete: dict[int, float] = {}
        #: their ids in the order of their completion, and the times in the same order
        self.order: list[int] = []
        self._times: list[float] = []
        self._first: dict[str, int] = {}
        self._most: dict[str, int] = {}
        self._over = threading.Event()
        self.error: BaseException | None = None
        self.start()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        try:
            next_memory = 0.0
            while not self._over.wait(_TURN_S):
                self._follow()
                if time.monotonic() >= next_memory:
                    self._measure()
                    next_memory = time.monotonic() + _MEMORY_S
        except BaseException as error:
            self.error = error

    # --- completions -------------------------------------------------------------------------------------------

    def recovery_s(self, since: float, first: int) -> float | None:
        """Return how long after a moment the first root was complete that began after it; None: none yet.

        Args:
            since: the moment, monotonic seconds.
            first: the lowest id that was not drawn at that moment.
        """
        assert self.error is None, self.error
        for index in range(bisect_right(self._times, since), len(self._times)):
            if self.order[index] >= first:
                return self._times[index] - since
        return None

    def first_after(self, moment: float) -> float | None:
        """Return when the first root was complete after a moment, monotonic seconds; None: none yet."""
        assert self.error is None, self.error
        index = bisect_right(self._times, moment)
        return self._times[index] if index < len(self._times) else None

    def _follow(self) -> None:
        if self._sink is None or not self._sink.exists():
            return
        with self._sink.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < self._end:
                # A part of a line that a kill had left was cut off.
                self._end = size
            file.seek(self._end)
            text, newline, _ = file.read().rpartition(b"\n")
        self._end += len(text) + len(newline)
        now = time.monotonic()
        for line in text.split(b"\n") if text else ():
            try:
                item = msgspec.json.decode(line)
            except msgspec.DecodeError:
                # We came into the middle of a line, because the file was cut and grew again between two looks.
                continue
            self._note(tuple(item) if isinstance(item, list) else item, now)

    def _note(self, item: Any, now: float) -> None:
        number = item[0] if isinstance(item, tuple) else item
        if number in self.complete:
            return
        missing = self._missing.get(number)
        if missing is None:
            missing = self._missing[number] = set(self._outputs(number))
        missing.discard(item)
        if not missing:
            del self._missing[number]
            self.complete[number] = now
            self.order.append(number)
            # Last: whoever looks from another thread goes by the times.
            self._times.append(now)

    # --- memory ------------------------------------------------------------------------------------------------

    def growth(self) -> tuple[str, float]:
        """Return the part whose memory grew most over what it was at first, and by how many MiB at its peak."""
        assert self.error is None, self.error
        grown = {name: (most - self._first[name]) / _MIB for name, most in self._most.items()}
        name = max(grown, key=grown.__getitem__)
        return name, grown[name]

    def grown(self, name: str) -> float:
        """Return by how many MiB a part's memory has grown at its peak."""
        return (self._most[name] - self._first[name]) / _MIB

    def _measure(self) -> None:
        for name, pid in self._pids().items():
            memory = resident(pid)
            # One that has just been restarted is not its full size yet, but counts from where its first one began.
            if memory:
                self._first.setdefault(name, memory)
                self._most[name] = max(self._most.get(name, 0), memory)


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has, 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0
