"""Every fault that a wiring can have, found together."""

import re
from collections import defaultdict

from consecutiond_nodes.endpoints import Endpoints
from consecutiond_nodes.vertex import Vertex
from consecutiond_nodes.wiring import Wiring

#: Characters; a name becomes part of file and program names.
MAX_NAME_LENGTH = 64
#: They name the two ends of a graph: the edges `input->a` and `z->output`.
RESERVED_NAMES = frozenset({"input", "output"})

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def faults(wiring: Wiring) -> list[str]:
    """List all faults of a wiring, those written wrongly first; an empty list means that it can run.

    Args:
        wiring: what `|` has built.

    """
    return [
        *wiring.mistakes,
        *_root_faults(wiring),
        *_illegal_names(wiring),
        *_duplicate_names(wiring),
        *_cycles(wiring),
        *_double_arrows(wiring),
        *_keyed_roots(wiring),
        *Endpoints(wiring).faults,
    ]


def _root_faults(wiring: Wiring) -> list[str]:
    if len(wiring.roots) == 1 or (not wiring.vertices and wiring.mistakes):
        return []
    if not wiring.vertices:
        return ["no root: the graph is empty\nright: a | b"]
    if not wiring.roots:
        return ["no root: every node has another one before it, so no value can come in"]
    names = ", ".join(repr(root.name) for root in wiring.roots)
    several = ", ".join(str(root.name) for root in wiring.roots[:3])
    return [
        f"several roots: {names}; the input enters a graph at one node, so put one before them\n"
        f"wrong: [{several}] | next\nright: source | [{several}] | next"
    ]


def _illegal_names(wiring: Wiring) -> list[str]:
    return [
        f"{type(vertex).__name__} node has the name {vertex.name!r}, {reason}"
        for vertex in wiring.vertices
        if (reason := _why_illegal(vertex.name))
    ]


def _why_illegal(name: object) -> str:
    if not isinstance(name, str):
        return f"which is of type {type(name).__name__}; a name is a string"
    if name in RESERVED_NAMES:
        return "which is reserved for an end of the graph; choose another"
    if len(name) > MAX_NAME_LENGTH:
        return f"which is {len(name)} characters long; at most {MAX_NAME_LENGTH} are possible"
    if not _NAME.fullmatch(name):
        return "which is not legal; use letters, digits, '_', '.' and '-', and begin with neither '.' nor '-'"
    return ""


def _duplicate_names(wiring: Wiring) -> list[str]:
    named: dict[object, list[Vertex]] = defaultdict(list)
    for vertex in wiring.vertices:
        # keyed by text too: a name that is not even a string may not be hashable
        named[(type(vertex.name), str(vertex.name))].append(vertex)
    return [_duplicate(same) for same in named.values() if len(same) > 1]


def _duplicate(same: list[Vertex]) -> str:
    kinds = [type(vertex).__name__ for vertex in same]
    return (
        f"duplicate names: {len(same)} nodes ({', '.join(kinds)}) have the name {same[0].name!r}; "
        "names tell nodes apart\n"
        f"wrong: {kinds[0]}() | {kinds[1]}()\n"
        f'right: {kinds[0]}("first") | {kinds[1]}("second")'
    )


def _cycles(wiring: Wiring) -> list[str]:
    """Report one cycle after the other, each with vertices of its own."""
    after: dict[int, list[int]] = {id(vertex): [] for vertex in wiring.vertices}
    for source, target in wiring.arrows():
        after[id(source)].append(id(target))
    names = {id(vertex): str(vertex.name) for vertex in wiring.vertices}
    found = []
    while _strip_ends(after):
        path = _walk(after)
        circle = " -> ".join(names[one] for one in [*path, path[0]])
        found.append(f"cycle: {circle}; values would go round for ever")
        for one in path:
            del after[one]
    return found


def _strip_ends(after: dict[int, list[int]]) -> bool:
    """Remove vertices that lead nowhere until each one left leads to another; say whether any are left."""
    before: dict[int, list[int]] = {one: [] for one in after}
    count: dict[int, int] = dict.fromkeys(after, 0)
    for one, targets in after.items():
        for target in targets:
            if target in after:
                before[target].append(one)
                count[one] += 1
    dead = [one for one, arrows in count.items() if not arrows]
    while dead:
        one = dead.pop()
        del after[one]
        for source in before[one]:
            count[source] -= 1
            if not count[source]:
                dead.append(source)
    return bool(after)


def _walk(after: dict[int, list[int]]) -> list[int]:
    """Follow arrows until a vertex comes again, and give the circle from there."""
    here = next(iter(after))
    path: dict[int, None] = {}
    while here not in path:
        path[here] = None
        here = next(target for target in after[here] if target in after)
    walked = list(path)
    return walked[walked.index(here) :]


def _double_arrows(wiring: Wiring) -> list[str]:
    ways: dict[tuple[int, int], int] = defaultdict(int)
    found = []
    for source, target in wiring.arrows():
        ways[id(source), id(target)] += 1
        if ways[id(source), id(target)] == 2:
            found.append(
                f"two arrows lead from {source.name!r} to {target.name!r}, at least one through a router, so "
                "that a value could go there twice; leave the node out of one of the lists\n"
                "wrong: a | [b, [b, c, route]]\nright: a | [b, c, route]"
            )
    return found


def _keyed_roots(wiring: Wiring) -> list[str]:
    """The input is shared out by the acker, which runs no code of users and opens no values."""
    return [
        f"the first node, {root.name!r}, has several workers and a key; nobody before it can look at the values to "
        f"choose one\nwrong: {root.name} | b\nright: Node('source') | {root.name} | b"
        for root in wiring.roots
        if root.worker_key is not None and root.num_workers > 1 and len(wiring.roots) == 1
    ]
