"""One item through one node by hand: every kind of node runs as in a worker, and nothing goes anywhere."""

from typing import Any

import pytest

from consecutiond_broker.errors import CodecError
from consecutiond_nodes.errors import OutputError
from consecutiond_nodes.groupby import GroupByNode
from consecutiond_nodes.item import Item
from consecutiond_nodes.node import Node
from consecutiond_nodes.trial import Trial

Shown = list[tuple[str, str, Any]]


def run(
    node: Node, value: Any, *others: Node, outputs: list[str] | None = None, route: Any = None
) -> tuple[Trial, Shown]:
    """Run a node with nodes behind it; return what came out."""
    shown: Shown = []
    graph = node | ([*others, route] if route else [*others]) if others else node.newest_graph()
    trial = Trial(graph, node.name, outputs, lambda *each: shown.append(each))
    try:
        trial.begin()
        trial.process(value)
        trial.end()
    finally:
        trial.close()
    return trial, shown


def test_what_a_plain_node_pushes_and_writes_is_shown() -> None:
    class Plain(Node):
        def begin(self) -> None:
            self.factor = 2

        def process(self, value: int) -> None:
            self.push(value * self.factor)
            self.write("out", value)

        def end(self) -> None:
            self.push("end")

    trial, shown = run(Plain("a"), 3, Node("b"), Node("c"))
    assert shown == [
        ("push", "b", 6), ("push", "c", 6), ("write", "out", 3), ("push", "b", "end"), ("push", "c", "end"),
    ]  # fmt: skip
    assert (trial.pushed, trial.written, trial.failed) == (2, 1, "")


def test_a_router_is_asked_and_its_mistakes_are_raised() -> None:
    assert run(Node("a"), 3, Node("b"), Node("c"), route=lambda _: "c")[1] == [("push", "c", 3)]
    with pytest.raises(Exception, match="which is not one of its targets"):
        run(Node("a"), 3, Node("b"), Node("c"), route=lambda _: "d")


def test_a_last_node_pushes_to_nobody() -> None:
    assert run(Node("a"), 3)[1] == [("push", "", 3)]


def test_what_a_worker_would_refuse_is_raised() -> None:
    class Bad(Node):
        def process(self, value: str) -> None:
            if value == "push":
                self.push(object())
            else:
                self.write(value, 1)

    with pytest.raises(CodecError, match="node a pushed object"):
        run(Bad("a"), "push")
    with pytest.raises(OutputError, match="'elsewhere', which is not registered"):
        run(Bad("a"), "elsewhere", outputs=["out"])
    assert run(Bad("a"), "out", outputs=["out"])[1] == [("write", "out", 1)]


def test_a_node_that_takes_items_gets_one_and_may_fail_it() -> None:
    class Items(Node):
        def process(self, item: Item) -> None:
            if item.value < 0:
                self.fail(item, "too small")
                return
            self.push(self.new_item(item.value + 1))
            self.push(item)

    trial, shown = run(Items("a"), 3, Node("b"))
    assert (shown, trial.failed) == ([("push", "b", 4), ("push", "b", 3)], "")
    trial, shown = run(Items("a"), -3, Node("b"))
    assert (shown, trial.failed) == ([], "too small")


def test_a_node_that_holds_items_may_keep_it() -> None:
    class Holds(Node):
        holds_items = True

        def begin(self) -> None:
            self.held: list[Item] = []

        def process(self, item: Item) -> None:
            self.held.append(item)

        def end(self) -> None:
            for item in self.held:
                self.push(item)

    assert run(Holds("a"), 3, Node("b"))[1] == [("push", "b", 3)]


def test_a_coroutine_runs_to_its_end_in_one_loop() -> None:
    import asyncio

    class Async(Node):
        async def begin(self) -> None:  # type: ignore[override]
            self.loop = asyncio.get_running_loop()

        async def process(self, value: int) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            self.push(asyncio.get_running_loop() is self.loop and value)

    assert run(Async("a"), 3, Node("b"))[1] == [("push", "b", 3)]


def test_a_group_of_one_is_processed_and_what_it_raises_comes_out() -> None:
    class Groups(GroupByNode):
        def key(self, value: int, /) -> int:
            return value

        def process(self, batch: list[int], /) -> None:
            self.push(10 // batch[0])

    assert run(Groups("a"), 5, Node("b"))[1] == [("push", "b", 2)]
    with pytest.raises(ZeroDivisionError):
        run(Groups("a"), 0, Node("b"))
