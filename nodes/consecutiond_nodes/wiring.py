"""The raw value behind a graph: vertices, the fans between them, and what was written wrongly on the way."""

import heapq
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from consecutiond_nodes.routing import Router, describe
from consecutiond_nodes.vertex import Vertex

#: What may stand on the right of `|`.
Branch: TypeAlias = "Vertex | Wiring | Callable[[Any], str] | Sequence[Branch]"

_PACKAGE = str(Path(__file__).parent)


class Fan(NamedTuple):
    """Arrows that leave one vertex together: one arrow, or the several that a router chooses from."""

    source: Vertex
    targets: tuple[Vertex, ...]
    router: Router | None

    @property
    def key(self) -> "Key":
        """The fan by the identities of its parts: users may redefine `==` and `hash` of their nodes."""
        return id(self.source), id(self.router), *map(id, self.targets)


#: The key of a fan.
Key: TypeAlias = tuple[int, ...]


class Door(NamedTuple):
    """A way into the right side of a `|`: what becomes a fan for each vertex on the left."""

    targets: tuple[Vertex, ...]
    router: Router | None


@dataclass(frozen=True, eq=False, repr=False)
class Wiring:
    """An immutable set of vertices and fans; joining two makes a third. `mistakes` are texts of faults.

    Kept in dicts that nobody changes, because the union of two dicts is fast and keeps the written order.
    """

    vertex_by_id: dict[int, Vertex] = field(default_factory=dict)
    fan_by_key: dict[Key, Fan] = field(default_factory=dict)
    mistakes: tuple[str, ...] = ()

    @cached_property
    def vertices(self) -> tuple[Vertex, ...]:
        """The vertices in the order in which they were written."""
        return tuple(self.vertex_by_id.values())

    @cached_property
    def fans(self) -> tuple[Fan, ...]:
        """The fans in the order in which they were written."""
        return tuple(self.fan_by_key.values())

    @cached_property
    def roots(self) -> tuple[Vertex, ...]:
        """The vertices that no arrow enters."""
        entered = {id(target) for fan in self.fans for target in fan.targets}
        return tuple(vertex for vertex in self.vertices if id(vertex) not in entered)

    @cached_property
    def ends(self) -> tuple[Vertex, ...]:
        """The vertices that no arrow leaves."""
        left = {id(fan.source) for fan in self.fans}
        return tuple(vertex for vertex in self.vertices if id(vertex) not in left)

    @cached_property
    def fans_from(self) -> dict[int, list[Fan]]:
        """The fans that leave each vertex, by its identity; none for an end."""
        leaving: dict[int, list[Fan]] = {}
        for fan in self.fans:
            leaving.setdefault(id(fan.source), []).append(fan)
        return leaving

    @cached_property
    def order(self) -> tuple[Vertex, ...]:
        """The vertices in topological order, as near to the written order as possible; cycles come last."""
        rank = {id(vertex): place for place, vertex in enumerate(self.vertices)}
        waits = dict.fromkeys(rank, 0)
        after: dict[int, list[int]] = {one: [] for one in rank}
        for source, target in self.arrows():
            waits[id(target)] += 1
            after[id(source)].append(id(target))
        ready = [rank[one] for one, count in waits.items() if not count]
        done: list[int] = []
        while ready:
            done.append(heapq.heappop(ready))
            for follower in after[id(self.vertices[done[-1]])]:
                waits[follower] -= 1
                if not waits[follower]:
                    heapq.heappush(ready, rank[follower])
        in_cycles = sorted(set(rank.values()) - set(done))
        return tuple(self.vertices[place] for place in (*done, *in_cycles))

    def arrows(self) -> Iterable[tuple[Vertex, Vertex]]:
        """Give every arrow as (upstream, downstream), in the order of the fans."""
        return ((fan.source, target) for fan in self.fans for target in fan.targets)

    def contains(self, other: "Wiring") -> bool:
        """Say whether all vertices and fans of `other` are in this one, by identity.

        Args:
            other: the possibly smaller one.

        """
        return (
            other.vertex_by_id.keys() <= self.vertex_by_id.keys() and other.fan_by_key.keys() <= self.fan_by_key.keys()
        )


def union(parts: Iterable[Wiring]) -> Wiring:
    """Put wirings side by side; what they share is there once.

    Args:
        parts: any number of them.

    """
    vertices: dict[int, Vertex] = {}
    fans: dict[Key, Fan] = {}
    mistakes: dict[str, None] = {}
    for part in parts:
        vertices |= part.vertex_by_id
        fans |= part.fan_by_key
        mistakes |= dict.fromkeys(part.mistakes)
    return Wiring(vertices, fans, tuple(mistakes))


def join(left: object, right: object) -> Wiring:
    """Make what `left | right` means: an arrow from every end of the left to every root of the right.

    Args:
        left: anything that may be written on the left of `|`.
        right: anything that may be written on its right.

    """
    before, doors = read(left)
    lost = [_lost_router(door.router) for door in doors if door.router is not None]
    base = union([before, Wiring(mistakes=tuple(lost))]) if lost else before
    return connect(base, before.ends, right)


def connect(base: Wiring, sources: Iterable[Vertex], right: object) -> Wiring:
    """Add `right` and the arrows that lead to it from some vertices.

    Args:
        base: the wiring that contains the sources.
        sources: where the new arrows start.
        right: anything that may be written on the right of `|`.

    """
    after, doors = read(right)
    fans = [Fan(source, door.targets, door.router) for source in sources for door in doors]
    return union([base, after, Wiring(fan_by_key={fan.key: fan for fan in fans})])


def exchange(base: Wiring, others: Mapping[int, Vertex]) -> Wiring:
    """Put other vertices into the places of some.

    Args:
        base: the wiring.
        others: what comes into the place of a vertex, by the identity of that one.

    """

    def now(vertex: Vertex) -> Vertex:
        return others.get(id(vertex), vertex)

    vertices = [now(vertex) for vertex in base.vertices]
    fans = [Fan(now(fan.source), tuple(map(now, fan.targets)), fan.router) for fan in base.fans]
    return Wiring({id(vertex): vertex for vertex in vertices}, {fan.key: fan for fan in fans}, base.mistakes)


def read(written: object) -> tuple[Wiring, list[Door]]:
    """Understand one side of a `|`.

    Args:
        written: what the user wrote there.

    Returns:
        What it contains, and the ways into it. What cannot be understood is among the mistakes.

    """
    if isinstance(written, Vertex):
        return Wiring({id(written): written}), [Door((written,), None)]
    if isinstance(written, Wiring):
        return written, [Door((root,), None) for root in written.roots]
    if isinstance(written, list | tuple):
        return _read_list(written)
    return Wiring(mistakes=(not_a_node(written),)), []


def _read_list(written: Sequence[object]) -> tuple[Wiring, list[Door]]:
    routers: list[Any] = [element for element in written if _is_router(element)]
    pairs = [read(element) for element in written if not _is_router(element)]
    doors = [door for _, inner in pairs for door in inner]
    mistakes = [] if written else [_empty_list()]
    if routers:
        mistakes += _router_mistakes(routers, doors, bare=not pairs)
        targets = {id(target): target for door in doors for target in door.targets}
        doors = [Door(tuple(targets.values()), routers[0])] if targets else []
    return union([*(body for body, _ in pairs), Wiring(mistakes=tuple(mistakes))]), doors


def _is_router(element: object) -> bool:
    if isinstance(element, type):
        # calling a class makes an instance: only one of str can be a name; others lack their parentheses
        return issubclass(element, str)
    return callable(element) and not isinstance(element, Vertex | Wiring)


def _router_mistakes(routers: list[Any], doors: list[Door], *, bare: bool) -> list[str]:
    mistakes = []
    if len(routers) > 1:
        names = " and ".join(map(describe, routers))
        mistakes.append(
            f"{user_line()}: one list has several routers, {names}; a value can follow only one\n"
            "wrong: a | [b, c, route_1, route_2]\n"
            "right: a | [[b, c, route_1], [d, e, route_2]]"
        )
    if bare:
        mistakes.append(
            f"{user_line()}: a route to nowhere: the list of the router {describe(routers[0])} has no nodes\n"
            "wrong: a | [route]\nright: a | [b, c, route]"
        )
    if inner := [door.router for door in doors if door.router is not None]:
        mistakes.append(
            f"{user_line()}: the list of the router {describe(routers[0])} contains a list with a router of "
            f"its own, {describe(inner[0])}, which has no name to be routed to; put a node before it\n"
            "wrong: a | [b, [c, d, route_2], route_1]\n"
            "right: a | [b, x | [c, d, route_2], route_1]"
        )
    return mistakes


def not_a_node(thing: object) -> str:
    """Say what something is that stands where a node should, and what was probably meant.

    Args:
        thing: anything but a node, a graph or a list.

    """
    said, wrong, right = _explained(thing)
    return f"{user_line()}: {said}\nwrong: {wrong}\nright: {right}"


def _explained(thing: object) -> tuple[str, str, str]:
    if isinstance(thing, type):
        name = thing.__name__
        return (
            f"{name} is a class, not a node; did you forget the parentheses?",
            f"a | {name}",
            f"a | {name}()",
        )
    if isinstance(thing, types.UnionType):
        return f"{thing} are classes, not nodes; did you forget the parentheses?", "A | B", "A() | B()"
    if isinstance(thing, str):
        return f"the string {thing!r} is not a node", f"a | {thing!r}", f"a | Node({thing!r})"
    if thing is None:
        said = "None is not a node; does a function that should give a node lack its return?"
        return said, "a | None", "a | b"
    if isinstance(thing, set | frozenset | dict | range | types.GeneratorType):
        return f"a {type(thing).__name__} is not a node; branches stand in a list", "a | {b, c}", "a | [b, c]"
    if callable(thing):
        said = f"{describe(thing)} is a function, not a node; a router stands in the list it chooses from"
        return said, "a | route", "a | [b, c, route]"
    return f"{_shown(thing)} (of type {type(thing).__name__}) is not a node", f"a | {_shown(thing)}", "a | b"


def _empty_list() -> str:
    return f"{user_line()}: an empty list leads nowhere\nwrong: a | []\nright: a | [b, c]"


def _lost_router(router: object) -> str:
    return (
        f"{user_line()}: the router {describe(router)} has no node before its list, so nothing to route\n"
        "wrong: [b, c, route] | d\nright: a | [b, c, route] | d"
    )


def user_line() -> str:
    """Find where the user's code called us, as `census.py:30`."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _shown(thing: object) -> str:
    text = repr(thing)
    return text if len(text) <= 60 else f"{text[:57]}..."
