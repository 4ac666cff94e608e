"""The graph, an immutable value that `|` builds, and the node that it is built from.

The two classes name each other in their signatures, so they share a file; users find `Node` in `node.py`.
"""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

from consecutiond_nodes import endpoints, render, validation, wiring
from consecutiond_nodes.errors import GraphError, PictureError, UnknownNodeError
from consecutiond_nodes.keys import Keyed
from consecutiond_nodes.routing import Outlet
from consecutiond_nodes.vertex import Vertex
from consecutiond_nodes.wiring import Branch, Wiring

if TYPE_CHECKING:
    from consecutiond_nodes.testing import TestRun

__all__ = ["Edge", "Graph", "Node", "Outlet", "as_graph"]


class Edge(NamedTuple):
    """One arrow of a graph, by the names of its two nodes."""

    upstream: str
    downstream: str

    @property
    def name(self) -> str:
        """The name of the edge: `upstream->downstream`."""
        return f"{self.upstream}->{self.downstream}"


class Graph(Wiring):
    """Nodes and the arrows between them; `|` gives a new graph and changes neither side.

    A graph with faults can be built, looked at and printed; `validate` says what is wrong with it.
    """

    def __or__(self, other: Branch) -> "Graph":
        return _remembered(wiring.join(self, other))

    def __ror__(self, other: Sequence[Branch]) -> "Graph":
        return _remembered(wiring.join(other, self))

    @property
    def nodes(self) -> "dict[str, Node]":
        """The nodes by name, in topological order; of nodes with one name (a fault), the first."""
        # str: what is not even a string is another fault, and a faulty graph can be printed all the same
        named: dict[str, Node] = {}
        for vertex in self.order:
            named.setdefault(str(vertex.name), cast("Node", vertex))
        return named

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The arrows, in the topological order of the nodes that they leave."""
        return tuple(
            Edge(name, target) for name in self.nodes for outlet in self.outlets(name) for target in outlet.targets
        )

    @property
    def uris(self) -> dict[str, str]:
        """The uris that `connect_with` has given to edges, by the name of the edge."""
        return endpoints.Endpoints(self).uris

    @property
    def root(self) -> "Node":
        """The node at which the input enters.

        Raises:
            GraphError: there is none, or there are several.

        """
        if len(self.roots) != 1:
            self.validate()
        return cast("Node", self.roots[0])

    @property
    def leaves(self) -> "tuple[Node, ...]":
        """The nodes after which nothing comes."""
        return cast("tuple[Node, ...]", self.ends)

    def outlets(self, name: str) -> tuple[Outlet, ...]:
        """Say where the values go that a node pushes: to every one of these outlets.

        Args:
            name: the name of the node.

        Returns:
            One outlet for all targets that get every value, if there are any, then one for each router.

        Raises:
            UnknownNodeError: the graph has no such node.

        """
        node = self[name]
        fans = self.fans_from.get(id(node), [])
        plain = tuple(str(fan.targets[0].name) for fan in fans if fan.router is None)
        routed = [
            Outlet(tuple(str(target.name) for target in fan.targets), fan.router)
            for fan in fans
            if fan.router is not None
        ]
        return (Outlet(plain), *routed) if plain else tuple(routed)

    def keyed(self, name: str) -> dict[str, Keyed]:
        """Say among whose workers the values that a node pushes are shared out by key.

        Args:
            name: the name of the node that pushes.

        """
        targets = (self[target] for outlet in self.outlets(name) for target in outlet.targets)
        return {
            target.name: Keyed(target.num_workers, target.worker_key)
            for target in targets
            if target.worker_key is not None and target.num_workers > 1
        }

    def validate(self) -> None:
        """Check the whole graph.

        Raises:
            GraphError: it cannot run; the error lists all faults.

        """
        if faults := validation.faults(self):
            raise GraphError(*faults)

    def replace(self, nodes: "Mapping[str, Node]") -> "Graph":
        """Make the same graph with other nodes in some places, for tests say.

        Args:
            nodes: what stands for each name; it takes that name.

        Returns:
            A new graph; this one and its nodes stay as they are.

        Raises:
            UnknownNodeError: the graph has no node of such a name.

        """
        others = {id(self[name]): node for name, node in nodes.items()}
        for name, node in nodes.items():
            node.name = name
        return _remembered(wiring.exchange(self, cast("dict[int, Vertex]", others)))

    def test(self, inputs: Iterable[Any], replace: "Mapping[str, Node] | None" = None) -> "TestRun":
        """Run the graph here and now, without processes and sockets: for unit tests.

        Every node has one worker, which is the node itself; values travel encoded, as they do between processes.

        Args:
            inputs: what comes in.
            replace: nodes that stand in for others, by name.

        Returns:
            What was written to each output, and what each node pushed.

        Raises:
            GraphError: the graph has faults.
            Exception: whatever a node or a router raises, as it is.

        """
        from consecutiond_nodes.testing import Bench

        graph = self.replace(replace) if replace else self
        graph.validate()
        bench = Bench(graph)
        bench.feed(inputs)
        return bench.run

    def dot(self, labels: Mapping[str, str] | None = None) -> str:
        """Write the graph in the DOT language of graphviz.

        Args:
            labels: what to write at arrows, by the name of the edge.

        """
        return render.dot(render.picture_of(self, labels))

    def mermaid(self, labels: Mapping[str, str] | None = None) -> str:
        """Write the graph as a Mermaid flow chart, which many web pages draw.

        Args:
            labels: what to write at arrows, by the name of the edge.

        """
        return render.mermaid(render.picture_of(self, labels))

    def plot(self, file_name: str | Path = "graph", kind: str | None = None) -> Path:
        """Draw the graph into a file, with graphviz.

        Args:
            file_name: of the picture; it gets the ending of its kind if it has none.
            kind: "svg", "png" or "pdf"; by default what the ending of the name says, or "svg".

        Returns:
            The path of the picture.

        Raises:
            PictureError: graphviz is not installed, or the kind is unknown.

        """
        # Here, because every worker imports this module and none of them draws.
        from consecutiond_nodes import picture

        path, kind = picture.kind_of(Path(file_name), kind)
        path.write_bytes(picture.draw(self.dot(), kind))
        return path

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Show the graph in a notebook: as SVG where graphviz is installed, as Mermaid and as text anywhere."""
        from consecutiond_nodes import picture

        bundle = {"text/plain": str(self), "text/vnd.mermaid": self.mermaid()}
        with contextlib.suppress(PictureError):
            bundle["image/svg+xml"] = picture.draw(self.dot(), "svg").decode()
        return bundle

    def __getitem__(self, name: str) -> "Node":
        if not isinstance(name, str):
            _missing_bar(repr(self), name)
        if (node := self.nodes.get(name)) is not None:
            return node
        known = list(map(str, self.nodes))
        close = difflib.get_close_matches(name, known, 1)
        advice = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(known)}"
        raise UnknownNodeError(f"the graph has no node {name!r}; {advice}")

    def __contains__(self, node: object) -> bool:
        return id(node) in self.vertex_by_id or (isinstance(node, str) and node in self.nodes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.vertices)

    def __reduce__(self) -> tuple[Any, ...]:
        # The keys are identities, which are others in a copy and in another process.
        return _rebuilt, (self.vertices, self.fans, self.mistakes)

    def __repr__(self) -> str:
        names = [str(vertex.name) for vertex in self.order[:6]]
        more = [f"... {len(self)} nodes"] if len(self) > len(names) else []
        return f"<Graph {', '.join([*names, *more])}>"

    def __str__(self) -> str:
        return render.text(render.picture_of(self))


class Node(Vertex):
    """What a user subclasses: write `process`, and `begin` and `end` if needed; wire with `|`.

    A node remembers the largest graphs that it is in, so that any node can stand for its graph.
    """

    _graphs: tuple[Graph, ...] = ()

    def __or__(self, other: Branch) -> Graph:
        return _remembered(wiring.join(self, other))

    def __ror__(self, other: Sequence[Branch]) -> Graph:
        return _remembered(wiring.join(other, self))

    def __getitem__(self, key: Any) -> NoReturn:
        _missing_bar(self.name, key)

    # a class with __getitem__ would pass for iterable without this
    __iter__ = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy is in none of the graphs that the original is in, and what a worker has bound is the worker's.
        ours = ("_graphs", "_push", "_write", "_key", "_items", "push", "write")
        return {name: value for name, value in self.__dict__.items() if name not in ours}

    def add_downstream(self, other: Branch) -> Graph:
        """Draw an arrow from this node, without `|`; the order in which arrows are added does not matter.

        Args:
            other: a node, or whatever may stand on the right of `|`.

        Returns:
            A new graph: the newest one of this node, and of the other node, with the arrow.

        Raises:
            GraphError: one of the two nodes is in unrelated graphs.

        """
        known = [self.newest_graph()]
        if isinstance(other, Node):
            known.append(other.newest_graph())
        return _remembered(wiring.connect(wiring.union(known), [self], other))

    def newest_graph(self) -> Graph:
        """Give the graph that contains this node and every other graph that it is in.

        Raises:
            GraphError: the node is in unrelated graphs, neither of which contains the other.

        """
        # a copy.copy of a node inherits its memory, but is in none of these graphs
        graphs = [graph for graph in self._graphs if self in graph]
        if len(graphs) > 1:
            raise GraphError(_unrelated(self, graphs[-2], graphs[-1]))
        return graphs[0] if graphs else Graph({id(self): self})


def _rebuilt(vertices: tuple[Vertex, ...], fans: tuple[wiring.Fan, ...], mistakes: tuple[str, ...]) -> Graph:
    return Graph({id(vertex): vertex for vertex in vertices}, {fan.key: fan for fan in fans}, mistakes)


def as_graph(thing: object) -> Graph:
    """Give the graph that something stands for.

    Args:
        thing: a graph, or any node of one.

    Raises:
        GraphError: it is neither, or a node of two unrelated graphs.

    """
    if isinstance(thing, Graph):
        return thing
    if isinstance(thing, Node):
        return thing.newest_graph()
    raise GraphError(wiring.not_a_node(thing))


def _remembered(joined: Wiring) -> Graph:
    """Make the graph and let its nodes remember it in the place of those that it contains."""
    graph = Graph(joined.vertex_by_id, joined.fan_by_key, joined.mistakes)
    # Each older graph is known to many nodes and is compared once. Only the largest are kept: a chain of
    # n nodes leaves one graph and not n behind.
    covered: dict[int, bool] = {}
    for node in cast("tuple[Node, ...]", graph.vertices):
        kept = []
        for old in node._graphs:
            if id(old) not in covered:
                covered[id(old)] = graph.contains(old)
            if not covered[id(old)]:
                kept.append(old)
        if not kept or not any(old.contains(graph) for old in kept):
            kept.append(graph)
        node._graphs = tuple(kept)
    return graph


def _unrelated(node: Node, one: Graph, other: Graph) -> str:
    only_one, only_other = (_difference(*pair) for pair in ((one, other), (other, one)))
    return (
        f"node {node.name!r} is in two unrelated graphs, {one!r} (it alone has {only_one}) and {other!r} "
        f"(it alone has {only_other}), so it cannot stand for either; `|` builds a new graph and never "
        f"extends an old one\nwrong: {node.name} | b; {node.name} | c; Consecutor({node.name})\n"
        f"right: graph = {node.name} | [b, c]; Consecutor(graph)"
    )


def _difference(graph: Graph, other: Graph) -> str:
    edges = [edge.name for edge in graph.edges if edge not in other.edges]
    return ", ".join(edges[:3] + ["..."] * (len(edges) > 3)) or "other routers or nodes"


def _missing_bar(left: str, key: object) -> NoReturn:
    elements = key if isinstance(key, list | tuple) else [key]
    shown = ", ".join(str(getattr(element, "name", element)) for element in elements)
    raise GraphError(
        f"{wiring.user_line()}: nodes and graphs have no items to pick with [ ] like this\n"
        f"wrong: {left} [{shown}]\n"
        f"You probably meant `{left} | [{shown}]`"
    )
