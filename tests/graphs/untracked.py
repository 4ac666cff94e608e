"""Graphs for consecutors that track nothing."""

import asyncio
import time
from typing import Any

from consecutiond import GroupByNode, Item, Node
from tests.graphs.items import Later, Sink


class Double(Node):
    def process(self, value: int) -> None:
        self.push(2 * value)


class Negative(Node):
    def process(self, value: int) -> None:
        self.push(-value)


class Edges(Node):
    """Pushes before, after and without an item."""

    def begin(self) -> None:
        self.push("begin")

    def process(self, value: Any) -> None:
        self.push(value)

    def end(self) -> None:
        for number in range(3000):
            self.push(f"end {number}")


class Picky(Node):
    """Raises on every tenth value, after it has pushed something of it."""

    def process(self, value: int) -> None:
        self.push(value)
        if value % 10 == 3:
            raise ValueError("a three")


class Tens(GroupByNode):
    def key(self, value: int) -> int:
        return value // 10

    def process(self, batch: list[int]) -> None:
        self.push(batch)


class Wait(Node):
    max_in_flight = 20

    async def process(self, value: int) -> None:
        await asyncio.sleep(0.002 * (value % 3))
        if value % 10 == 3:
            raise ValueError("a three")
        self.push(value)


class Fails(Node):
    """Fails every second item by word."""

    def process(self, item: Item) -> None:
        if item.value % 2:
            item.fail("odd")
        else:
            self.push(item)


class Keys(Node):
    def process(self, value: int) -> None:
        self.write("out", self.item_key)


class Slow(Node):
    def process(self, value: int) -> None:
        time.sleep(0.001)
        self.push(value)


def route(value: int) -> str:
    return "even" if value % 2 == 0 else "odd"


shapes = Node("in") | [Double("even"), Negative("odd"), route] | [Node("left"), Node("right")] | Sink("sink")
edges = Edges("edges") | Sink("sink")
picky = Picky("picky") | Sink("sink")
later = Later("first") | Later("second") | Sink("sink")
groups = Node("in") | Tens("tens") | Sink("sink")
coroutine = Wait("wait") | Sink("sink")
fails = Fails("fails") | Sink("sink")
keys = Keys("keys")
slow = Slow("slow") | Sink("sink")
