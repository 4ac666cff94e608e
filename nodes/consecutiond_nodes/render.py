"""A graph as a picture: text for terminals, DOT for graphviz, Mermaid for documents."""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Protocol

from consecutiond_nodes.routing import Outlet, describe
from consecutiond_nodes.vertex import Vertex

#: where the input's arrow starts
INPUT: Final = "input"
#: where the arrow to the outputs starts: every node may write to them, on one edge
ANY: Final = "*"


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


class Arrow(NamedTuple):
    """One arrow of a picture: one edge of the running graph, with one broker and one socket."""

    source: str
    target: str
    #: the router that chooses among this arrow and others, in words
    router: str = ""
    #: which of the ways out of its source it belongs to; a router chooses among the arrows of one way
    way: int = 0
    #: where its broker listens, if that is known
    uri: str = ""
    #: what else is written at it
    label: str = ""

    @property
    def edge(self) -> str:
        """The name of the edge."""
        return f"{self.source}->{self.target}"


class Picture(NamedTuple):
    """What is drawn. Arrows may begin and end at what is no node: the input, and the outputs."""

    #: what is written in each node, by its name, in topological order
    nodes: Mapping[str, str]
    arrows: tuple[Arrow, ...]
    mistakes: tuple[str, ...] = ()

    @property
    def ends(self) -> list[str]:
        """Where arrows begin and end that is no node."""
        named = (end for arrow in self.arrows for end in (arrow.source, arrow.target))
        return list(dict.fromkeys(end for end in named if end not in self.nodes))


def picture_of(graph: Drawable, labels: Mapping[str, str] | None = None) -> Picture:
    """Say what is drawn of a graph; the first arrows, one for each root, are those of the input.

    Args:
        graph: any graph.
        labels: what to write at arrows, by the name of the edge.

    """
    found = [Arrow(INPUT, str(root.name)) for root in graph.roots]
    for name in graph.nodes:
        for way, outlet in enumerate(graph.outlets(name)):
            router = describe(outlet.router) if outlet.router is not None else ""
            found += [Arrow(name, target, router, way) for target in outlet.targets]
    arrows = tuple(arrow._replace(label=(labels or {}).get(arrow.edge, "")) for arrow in found)
    nodes = {name: node_label(str(node.name), node.num_workers) for name, node in graph.nodes.items()}
    return Picture(nodes, arrows, graph.mistakes)


def node_label(name: str, workers: int) -> str:
    """Name a node and how many workers it has, if they are several."""
    return f"{name} x{workers}" if workers > 1 else name


def text(picture: Picture) -> str:
    """Draw nodes with one line for each, and one lane for each arrow on its way to a later node.

    Args:
        picture: of a graph with cycles, the arrows back are named and not drawn; nor are input and outputs.

    """
    lanes = _Lanes()
    drawn: set[str] = set()
    leaving: dict[str, list[Arrow]] = {}
    for arrow in picture.arrows:
        if arrow.target in picture.nodes:
            leaving.setdefault(arrow.source, []).append(arrow)
    for name, label in picture.nodes.items():
        drawn.add(name)
        lanes.merge(name)
        arrows = leaving.get(name, [])
        targets = list(dict.fromkeys(arrow.target for arrow in arrows))
        back = [target for target in targets if target in drawn]
        lanes.node(name, label + "".join(f"  (back to {target})" for target in back))
        lanes.fork(name, [target for target in targets if target not in drawn], _routes(arrows))
    return "\n".join([*lanes.lines, *(f"! {mistake.splitlines()[0]}" for mistake in picture.mistakes)])


def dot(picture: Picture) -> str:
    """Write a picture in the DOT language of graphviz; arrows of a router are dashed and bear its name.

    Args:
        picture: the URIs of its arrows become tooltips.

    """
    lines = ["digraph {", "  rankdir=LR;", "  node [shape=box];"]
    lines += [f"  {_quoted(end)} [{_end_marks(end)}];" for end in picture.ends]
    lines += [f"  {_quoted(name)} [label={_quoted(label)}];" for name, label in picture.nodes.items()]
    for arrow in picture.arrows:
        label = _arrow_label(arrow)
        marks = ["style=dashed"] * bool(arrow.router) + [f"label={_quoted(label)}"] * bool(label)
        marks += [f"tooltip={_quoted(arrow.uri)}"] * bool(arrow.uri)
        style = f" [{', '.join(marks)}]" if marks else ""
        lines.append(f"  {_quoted(arrow.source)} -> {_quoted(arrow.target)}{style};")
    return "\n".join([*lines, "}"])


def mermaid(picture: Picture) -> str:
    """Write a picture as a Mermaid flow chart; arrows of a router are dotted and bear its name.

    Args:
        picture: the URIs of its arrows become comments, since Mermaid has no place for them.

    """
    # names may be words of Mermaid, such as `end`: numbers cannot
    keys = {name: f"n{number}" for number, name in enumerate(picture.nodes)}
    keys |= {end: end if end != ANY else "any" for end in picture.ends}
    lines = ["flowchart LR", *(f"  {keys[end]}([{_end_label(end)}])" for end in picture.ends)]
    lines += [f'  {keys[name]}["{_escaped(label)}"]' for name, label in picture.nodes.items()]
    for arrow in picture.arrows:
        label = _escaped(_arrow_label(arrow))
        start, line = ("-.", ".->") if arrow.router else ("--", "-->")
        drawn = f'{start} "{label}" {line}' if label else "-->"
        lines += [f"  %% {arrow.edge} is {arrow.uri}"] * bool(arrow.uri)
        lines.append(f"  {keys[arrow.source]} {drawn} {keys[arrow.target]}")
    return "\n".join(lines)


def _end_label(end: str) -> str:
    return "any node" if end == ANY else end


def _end_marks(end: str) -> str:
    return "shape=plaintext" + (f", label={_quoted(_end_label(end))}" if end == ANY else "")


def _arrow_label(arrow: Arrow) -> str:
    return ", ".join(part for part in (arrow.router, arrow.label) if part)


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


def _routes(arrows: Iterable[Arrow]) -> str:
    ways: dict[tuple[int, str], list[str]] = {}
    for arrow in arrows:
        if arrow.router:
            ways.setdefault((arrow.way, arrow.router), []).append(arrow.target)
    return "; ".join(f"one of {', '.join(targets)} by {router}" for (_, router), targets in ways.items())


def _quoted(label: str) -> str:
    return '"' + str(label).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(label: str) -> str:
    return label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
