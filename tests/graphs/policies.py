"""Nodes that fail, each with a policy of its own."""

import asyncio
import time
from typing import Any

from consecutiond import Node
from tests.graphs.items import Sink

#: values that get stuck
STUCK = (13, 57)


class Tries(Node):
    """Never works for a string."""

    def __init__(self, name: str, **policy: Any) -> None:
        self.name = name
        # `super().__init__()` was never called, and need not be.
        self.set_failure_policy(**policy)

    def process(self, value: Any) -> None:
        if isinstance(value, str):
            raise ValueError(f"no text: {value}")
        self.push(value)


class Sleeps(Node):
    """Sleeps for ever over some values."""

    def __init__(self) -> None:
        self.set_failure_policy(timeout_s=0.2, max_attempts=2)

    def process(self, value: int) -> None:
        if value in STUCK:
            self.push("never seen")
            time.sleep(3600)
        self.push(value)


class Catches(Node):
    """Catches whatever is raised in it."""

    def __init__(self) -> None:
        self.set_failure_policy(timeout_s=0.2, max_attempts=1)

    def process(self, value: int) -> None:
        if value in STUCK:
            try:
                time.sleep(3600)
            except BaseException:
                pass
        self.push(value)


class Holds(Node):
    """Runs code of a library that lets nobody else run, and does not come back."""

    def __init__(self) -> None:
        self.set_failure_policy(timeout_s=0.5, max_attempts=1)

    def process(self, value: int) -> None:
        if value in STUCK:
            sum(range(10**13))
        self.push(value)


class Awaits(Node):
    def __init__(self) -> None:
        self.set_failure_policy(timeout_s=0.2, max_attempts=2)

    async def process(self, value: int) -> None:
        if value in STUCK:
            await asyncio.sleep(3600)
        self.push(value)


class Fans(Node):
    """Is slow only because those after it are: waiting for them does not count."""

    def __init__(self) -> None:
        self.set_failure_policy(timeout_s=0.3, max_attempts=1)

    def process(self, value: int) -> None:
        for number in range(300):
            self.push("x" * 10_000 + str(number))


class FansAndSleeps(Fans):
    """Goes on after that, and for ever."""

    def process(self, value: int) -> None:
        super().process(value)
        time.sleep(3600)


class Slow(Node):
    def process(self, value: Any) -> None:
        time.sleep(0.01)
        self.write("out", value[-3:])


drop = Tries("drop", exhausted="drop", max_attempts=2) | Sink("sink")
stop = Tries("stop", exhausted="stop", max_attempts=1) | Sink("sink")
own = Node("in") | [Tries("one", max_attempts=1), Tries("four", max_attempts=4)] | Sink("sink")
aged = Tries("aged", max_attempts=1000, backoff_s=0.05, backoff_max_s=0.05, max_age_s=0.5) | Sink("sink")
sleeps = Sleeps() | Sink("sink")
catches = Catches() | Sink("sink")
holds = Holds() | Sink("sink")
awaits = Awaits() | Sink("sink")
fans = Fans() | Slow("slow")
fans_and_sleeps = FansAndSleeps() | Slow("slow")
