"""Graphs of nodes that take items: they hold, join, fail, group, and run as coroutines."""

import asyncio
import os
import threading
from typing import Any

from consecutiond import GroupByNode, Item, Node


class Sevens(Node):
    """Joins seven items to one, which is derived from all of them."""

    holds_items = True

    def begin(self) -> None:
        self.items: list[Item] = []

    def process(self, item: Item) -> None:
        self.items.append(item)
        if len(self.items) == 7:
            self.flush()

    def flush(self) -> None:
        self.push(self.new_item([item.value for item in self.items], anchors=self.items))
        for item in self.items:
            self.ack(item)
        self.items = []

    def end(self) -> None:
        if self.items:
            self.flush()


class Unsure(Node):
    """Fails some joined items at the first attempt of their roots, so that all of their roots are tried again."""

    def process(self, item: Item) -> None:
        if item.attempt == 1 and item.value[0] % 3 == 0:
            item.fail("not yet")
        else:
            self.push(item)


class Sink(Node):
    def process(self, value: Any) -> None:
        self.write("out", value)


class Keeper(Node):
    """Holds everything and never acks."""

    holds_items = True

    def process(self, item: Item) -> None:
        pass


class Hasty(Keeper):
    """The same, with little patience."""

    hold_timeout_s = 0.05


class Later(Node):
    """Holds one item at a time: each is pushed when the next comes, or at the end."""

    holds_items = True
    waiting: Item | None

    def begin(self) -> None:
        # In threads it is the same object in every run.
        self.waiting = None

    def process(self, item: Item) -> None:
        if self.waiting is not None:
            self.push(self.waiting)
        self.waiting = item

    def end(self) -> None:
        if self.waiting is not None:
            self.push(self.waiting)


class Tens(GroupByNode):
    def key(self, value: int) -> int:
        return value // 10

    def process(self, batch: list[int]) -> None:
        if batch[0] // 10 == 5:
            raise ValueError("no fifties")
        self.push(batch)
        self.write("keys", self.item_key)


class Wait(Node):
    """A coroutine; most of its items are in flight at once."""

    max_in_flight = 20

    def begin(self) -> None:
        self.now = self.most = 0

    async def process(self, value: int) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.002 * (value % 3))
        self.now -= 1
        if value % 10 == 3:
            raise ValueError("a three")
        self.push(value)
        self.push(-value)

    async def end(self) -> None:
        await asyncio.sleep(0)
        self.write("most", self.most)


class Deadly(Node):
    """A coroutine that ends its process on one value, while others are in flight."""

    async def process(self, value: int) -> None:
        await asyncio.sleep(0.001)
        if value == 77:
            os._exit(9)
        self.push(value)


class Owner(Node):
    """Tells which worker had which value."""

    def process(self, value: int) -> None:
        self.write("owners", [value % 7, os.getpid(), threading.get_ident()])


def owners() -> Owner:
    node = Owner("owner")
    node.set_num_workers(3, key=lambda value: value % 7)
    return node


join = Node("in") | Sevens("sevens") | Unsure("unsure") | Sink("sink")
two_holders = Later("first") | Later("second") | Sink("sink")
left = Node("in") | Keeper("keeper")
hasty = Node("in") | Hasty("hasty") | Sink("sink")
groups = Node("in") | Tens("tens") | Sink("sink")
coroutine = Wait("wait") | Sink("sink")
deadly = Deadly("deadly") | Sink("sink")
keyed = Node("in") | owners()
