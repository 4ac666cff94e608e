"""One item through one node, here and now: what a debugger looks at."""

import asyncio
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from consecutiond_broker import codec
from consecutiond_broker.errors import CodecError
from consecutiond_nodes.exits import unregistered
from consecutiond_nodes.graph import Graph
from consecutiond_nodes.item import DONE, OPEN, Item
from consecutiond_nodes.routing import check_route
from consecutiond_nodes.workers import takes_items

#: takes "push" or "write", where the value goes to (a node or an output), and the value
Show = Callable[[str, str, Any], None]


class TrialItem(Item):
    """An item that belongs to no batch."""

    __slots__ = ()

    @property
    def waits(self) -> bool:
        """Whether it is neither acked nor failed."""
        return self.state != DONE

    def _mine(self, what: str) -> None:
        """Whatever its node says of it is allowed."""


class Trial:
    """Runs a node by hand: what it pushes and writes is shown, and goes nowhere.

    What a worker would refuse, a value that cannot be carried or an output that is not registered, is raised here, too.

    Args:
        graph: a valid graph.
        name: of the node.
        outputs: names of the registered outputs; None takes every name.
        show: is told what comes out.
    """

    def __init__(self, graph: Graph, name: str, outputs: Sequence[str] | None, show: Show) -> None:
        self.node = graph[name]
        self._outlets, self._outputs, self._show = graph.outlets(name), outputs, show
        #: why the node has failed the item, where it does so by a call
        self.failed = ""
        self.pushed = self.written = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        upstream = tuple(edge.name for edge in graph.edges if edge.downstream == name)
        downstream = tuple(edge.name for edge in graph.edges if edge.upstream == name)
        self.node.initialize(upstream or (f"input->{name}",), downstream, "")
        self.node.bind(self._push, self._write, lambda: 0, self)

    def begin(self) -> None:
        """Run `begin`."""
        self._complete(self.node.begin)

    def process(self, value: Any) -> None:
        """Run `process` on one value; a node that collects values gets a group of this one."""
        take = self.node._taker()
        if not takes_items(self.node):
            self._complete(take, value)
            return
        item = TrialItem(value, self)
        self._complete(take, item)
        self.node._finish_items()
        if item.state == OPEN and not self.node.holds_items:
            item.state = DONE

    def end(self) -> None:
        """Run `end`."""
        self._complete(self.node.end)

    def _complete(self, method: Callable[..., Any], *arguments: Any) -> None:
        """Call a method, and run it to its end if it is a coroutine; all of a node's in one loop, as in a worker."""
        returned = method(*arguments)
        if inspect.iscoroutine(returned):
            self._loop = self._loop or asyncio.new_event_loop()
            self._loop.run_until_complete(returned)

    def close(self) -> None:
        """Close the event loop, if there is one."""
        if self._loop is not None:
            self._loop.close()

    # --- what the node calls ---------------------------------------------------------------------------------

    def _push(self, value: Any) -> None:
        if isinstance(value, Item):
            value.state, value = DONE, value.value
        self._check(value, "pushed")
        self.pushed += 1
        for outlet in self._outlets:
            targets = outlet.targets
            if outlet.router is not None:
                target = outlet.router(value)
                check_route(outlet, target, self.node.name)
                targets = (target,)
            for target in targets:
                self._show("push", target, value)
        if not self._outlets:
            self._show("push", "", value)

    def _write(self, container_name: str, value: Any) -> None:
        if self._outputs is not None and container_name not in self._outputs:
            raise unregistered(self.node.name, container_name, self._outputs)
        self._check(value, "wrote")
        self.written += 1
        self._show("write", container_name, value)

    def _check(self, value: Any, did: str) -> None:
        try:
            codec.encode([value])
        except CodecError:
            raise CodecError(f"node {self.node.name} {did} {codec.faults([value])[0][1]}") from None

    def ack(self, item: Item) -> None:
        """The item is done."""
        item.state = DONE

    def fail(self, item: Item, reason: str) -> None:
        """The item has failed."""
        item.state = DONE
        self.failed = reason

    def new_item(self, value: Any, _anchors: Sequence[Item] | None) -> Item:
        """Make an item to push."""
        return TrialItem(value, self)

    @contextmanager
    def anchored(self, _items: Sequence[Item]) -> Iterator[None]:
        """Anchors mean nothing here."""
        yield

    def raised(self, _item: Item, error: BaseException) -> None:
        """What a group's `process` raises is wanted here."""
        raise error
