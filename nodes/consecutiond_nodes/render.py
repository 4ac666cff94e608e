"""A graph as a picture: text for terminals, DOT for graphviz, Mermaid for documents."""

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from consecutiond_nodes.routing import Outlet, Router, describe
from consecutiond_nodes.vertex import Vertex

#: where the input's arrow starts
INPUT: Final = "input"


class Drawable(Protocol):
    """What a picture needs to know of a graph."""

    @property
    def nodes(self) -> Mapping[str, Vertex]:
        """The nodes by name, in topological order."""

    @property
    def mistakes(self) -> tuple[str, ...]:
        """What was written wrongly."""

    @property
    def roots(self) -> tuple[Vertex, ...]:
        """The nodes that no arrow of the graph enters."""

    def outlets(self, name: str) -> tuple[Outlet, ...]:
        """Where the values of a node go."""


def text(graph: Drawable) -> str:
    """Draw a graph with one line for each node and one lane for each arrow on its way to a later node.

    Args:
        graph: any graph; of one with cycles, the arrows back are named and not drawn.

    """
    picture = _Lanes()
    drawn: set[str] = set()
    for name, node in graph.nodes.items():
        drawn.add(name)
        picture.merge(name)
        outlets = graph.outlets(name)
        targets = list(dict.fromkeys(target for outlet in outlets for target in outlet.targets))
        back = [target for target in targets if target in drawn]
        picture.node(name, _label(node) + "".join(f"  (back to {target})" for target in back))
        picture.fork(name, [target for target in targets if target not in drawn], _routes(outlets))
    return "\n".join([*picture.lines, *(f"! {mistake.splitlines()[0]}" for mistake in graph.mistakes)])


class Arrow(NamedTuple):
    """One arrow of a picture: one edge of the running graph, with one broker and one socket."""

    source: str
    target: str
    router: Router | None = None

    @property
    def edge(self) -> str:
        """The name of the edge."""
        return f"{self.source}->{self.target}"


def arrows(graph: Drawable) -> list[Arrow]:
    """List the arrows of a graph; the first, one for each root, is that of the input.

    Args:
        graph: any graph.

    """
    found = [Arrow(INPUT, str(root.name)) for root in graph.roots]
    for name in graph.nodes:
        for outlet in graph.outlets(name):
            found += [Arrow(name, target, outlet.router) for target in outlet.targets]
    return found


def dot(graph: Drawable, labels: Mapping[str, str] | None = None) -> str:
    """Write a graph in the DOT language of graphviz; arrows of a router are dashed and bear its name.

    Args:
        graph: any graph.
        labels: what to write at arrows, by the name of the edge.

    """
    lines = ["digraph {", "  rankdir=LR;", "  node [shape=box];", f"  {_quoted(INPUT)} [shape=plaintext];"]
    lines += [f"  {_quoted(name)} [label={_quoted(_label(node))}];" for name, node in graph.nodes.items()]
    for arrow in arrows(graph):
        label = _arrow_label(arrow, labels)
        marks = ["style=dashed"] * (arrow.router is not None) + [f"label={_quoted(label)}"] * bool(label)
        style = f" [{', '.join(marks)}]" if marks else ""
        lines.append(f"  {_quoted(arrow.source)} -> {_quoted(arrow.target)}{style};")
    return "\n".join([*lines, "}"])


def mermaid(graph: Drawable, labels: Mapping[str, str] | None = None) -> str:
    """Write a graph as a Mermaid flow chart; arrows of a router are dotted and bear its name.

    Args:
        graph: any graph.
        labels: what to write at arrows, by the name of the edge.

    """
    # names may be words of Mermaid, such as `end`: numbers cannot
    keys = {name: f"n{number}" for number, name in enumerate(graph.nodes)}
    lines = ["flowchart LR", f"  {INPUT}([{INPUT}])"]
    lines += [f'  {keys[name]}["{_escaped(_label(node))}"]' for name, node in graph.nodes.items()]
    for arrow in arrows(graph):
        label = _escaped(_arrow_label(arrow, labels))
        start, line = ("-.", ".->") if arrow.router is not None else ("--", "-->")
        drawn = f'{start} "{label}" {line}' if label else "-->"
        lines.append(f"  {keys.get(arrow.source, arrow.source)} {drawn} {keys[arrow.target]}")
    return "\n".join(lines)


def _arrow_label(arrow: Arrow, labels: Mapping[str, str] | None) -> str:
    parts = [describe(arrow.router)] if arrow.router is not None else []
    if labels is not None and arrow.edge in labels:
        parts.append(labels[arrow.edge])
    return ", ".join(parts)


class _Lanes:
    """The lines drawn so far, and for each lane the node it leads to (None: free)."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._lanes: list[str | None] = []

    def merge(self, name: str) -> None:
        """Bring all lanes that lead to a node into the leftmost of them."""
        here = [lane for lane, target in enumerate(self._lanes) if target == name]
        if len(here) > 1:
            self._bar(here, "┴", "╯")
        for lane in here[1:]:
            self._lanes[lane] = None
        if not here:
            self._lanes[self._free(0)] = name
        self._trim()

    def node(self, name: str, label: str) -> None:
        """Draw the line of a node."""
        marks = ["●" if target == name else "│" if target is not None else " " for target in self._lanes]
        self.lines.append(f"{' '.join(marks)}  {label}")

    def fork(self, name: str, targets: list[str], routes: str) -> None:
        """Turn the lane of a node into one for each of its targets."""
        start = self._lanes.index(name)
        here = [start]
        self._lanes[start] = targets[0] if targets else None
        for target in targets[1:]:
            here.append(self._free(start + 1))
            self._lanes[here[-1]] = target
        self._trim()
        if len(here) > 1 or routes:
            self._bar(here, "┬", "╮", routes)

    def _bar(self, here: list[int], inner: str, last: str, label: str = "") -> None:
        line = ""
        for lane, target in enumerate(self._lanes):
            inside = here[0] <= lane < here[-1]
            if lane in here:
                mark = "├" if lane == here[0] else last if lane == here[-1] else inner
                mark = "│" if len(here) == 1 else mark
            elif target is not None:
                mark = "┼" if inside else "│"
            else:
                mark = "─" if inside else " "
            line += mark + ("─" if inside else " ")
        self.lines.append(f"{line} {label}".rstrip())

    def _free(self, start: int) -> int:
        for lane in range(start, len(self._lanes)):
            if self._lanes[lane] is None:
                return lane
        self._lanes.append(None)
        return len(self._lanes) - 1

    def _trim(self) -> None:
        while self._lanes and self._lanes[-1] is None:
            self._lanes.pop()


def _label(node: Vertex) -> str:
    return f"{node.name} x{node.num_workers}" if node.num_workers > 1 else str(node.name)


def _routes(outlets: tuple[Outlet, ...]) -> str:
    routed = [outlet for outlet in outlets if outlet.router is not None]
    return "; ".join(f"one of {', '.join(way.targets)} by {describe(way.router)}" for way in routed)


def _quoted(label: str) -> str:
    return '"' + str(label).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(label: str) -> str:
    return label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
