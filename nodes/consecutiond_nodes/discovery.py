"""Which object of a module is meant when none is named, and under which name an object can be found."""

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from consecutiond_nodes.errors import GraphError, TargetError
from consecutiond_nodes.graph import Graph, Node, as_graph

#: The module name of a target that is a file; not its own name, which could hide an installed module.
FILE_MODULE = "__consecutiond_main__"


def graph_of(thing: object) -> Graph:
    """Give the graph of a graph, a node, or anything with an attribute `graph`, such as a consecutor.

    Args:
        thing: one of these.

    Raises:
        GraphError: it is none of these, or a node of two unrelated graphs.

    """
    graph = _own_graph(thing)
    return as_graph(thing) if graph is None else graph


def only_candidate(module: ModuleType, target: str) -> object:
    """Find what a target without an attribute means.

    Args:
        module: the module that the target names.
        target: as the user wrote it, for errors.

    Returns:
        The one consecutor in the module, or, without any, the one graph that is not a part of another.

    Raises:
        TargetError: there is nothing of the kind, or more than one.

    """
    things = _globals(module)
    consecutors = {name: thing for name, thing in things.items() if _own_graph(thing) is not None}
    found = consecutors or _largest_graphs(things)
    # one object may have several names, and every node of a graph is a name of it
    distinct = {id(thing): name for name, thing in reversed(found.items())}
    names = [name for name in found if name in distinct.values()]
    if len(names) == 1:
        return found[names[0]]
    if names:
        text = f"the target {target!r} has several candidates: {', '.join(names)}"
        raise TargetError(f"{text}; name one, as in {target}:{names[0]}")
    advice = "make one at the top level of the module, as in `graph = A() | B()`"
    if has_main_block(module):
        advice += ', before `if __name__ == "__main__":`, whose block does not run here'
    raise TargetError(f"the target {target!r} has no graph, no node and no consecutor; {advice}")


def find_target(thing: object) -> str | None:
    """Find the target under which other processes can load an object of this one.

    Only what a module's source binds when it is imported counts: not what stands under
    `if __name__ == "__main__":`, nor what was put into the module later.

    Args:
        thing: a graph, a node, or something with an attribute `graph`.

    Returns:
        `path/to/script.py:name` or `module:name`, or None: it is no global of any module, or the program
        was typed in and has no file.

    """
    modules = [sys.modules["__main__"], *sys.modules.values()]
    places = [(_place(module), module) for module in modules if isinstance(module, ModuleType)]
    loadable = [(place, module, _globals(module)) for place, module in places if place]
    for place, module, things in loadable:
        for name, candidate in things.items():
            if candidate is thing and _binds(module, name):
                return f"{place}:{name}"
    if isinstance(thing, Graph):
        for place, module, things in loadable:
            for name, candidate in things.items():
                if _same(thing, _node_graph(candidate) or _own_graph(candidate)) and _binds(module, name):
                    return f"{place}:{name}"
    return None


def _same(graph: Graph, other: Graph | None) -> bool:
    """Say whether two graphs have the same nodes and arrows; a lone node makes its graph anew each time."""
    return other is not None and graph.contains(other) and other.contains(graph)


def _binds(module: ModuleType, name: str) -> bool:
    """Say whether importing a module binds a name; True where there is no source to ask."""
    try:
        tree = ast.parse(Path(getattr(module, "__file__", None) or "").read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True
    # a star may bind anything: the name was found in the module, so it may have come from there
    return not {name, "*"}.isdisjoint(_bound(tree))


def _bound(node: ast.AST) -> Iterator[str]:
    """Give the names that statements bind when a module is imported, however deep in `with` or `try`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child.name
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif isinstance(child, ast.alias):
            yield child.asname or child.name.partition(".")[0]
        elif isinstance(child, ast.If) and _is_main_test(child.test):
            for statement in child.orelse:
                yield from _bound(ast.Module([statement], []))
        elif not isinstance(child, ast.Lambda | ast.GeneratorExp | ast.ListComp | ast.SetComp | ast.DictComp):
            yield from _bound(child)


def _is_main_test(test: ast.expr) -> bool:
    names = [child.id for child in ast.walk(test) if isinstance(child, ast.Name)]
    values = [child.value for child in ast.walk(test) if isinstance(child, ast.Constant)]
    return "__name__" in names and "__main__" in values


def has_main_block(module: ModuleType) -> bool:
    """Say whether the source of a module has an `if __name__ == "__main__":`.

    Args:
        module: any module; one without a readable source has none.

    """
    try:
        source = Path(getattr(module, "__file__", None) or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(line.startswith("if __name__ ==") for line in source.splitlines())


def _globals(module: ModuleType) -> dict[str, object]:
    things = list(vars(module).items())
    return {name: thing for name, thing in things if not name.startswith("__") and name.isidentifier()}


def _place(module: ModuleType) -> str | None:
    """What stands before the colon of a target; None for what a second process could not import."""
    name = getattr(module, "__name__", None)
    spec = getattr(module, "__spec__", None)
    if name == "__main__" and spec is not None and spec.name != "__main__":
        # run with python -m: its relative imports need the package
        return str(spec.name)
    if name in ("__main__", FILE_MODULE):
        file = getattr(module, "__file__", None)
        return os.path.abspath(file) if file and os.path.isfile(file) else None
    return name if name and sys.modules.get(name) is module else None


def _own_graph(thing: object) -> Graph | None:
    # Ask the type: sys.modules is full of proxies and lazy properties of strangers, which may raise anything.
    if issubclass(type(thing), (type, ModuleType, Node, Graph)):
        return None
    try:
        if not hasattr(type(thing), "graph") and "graph" not in getattr(thing, "__dict__", ()):
            return None
        graph = getattr(thing, "graph", None)
    except Exception:
        return None
    return graph if isinstance(graph, Graph) else None


def _node_graph(thing: object) -> Graph | None:
    if not issubclass(type(thing), Node):
        return None
    try:
        return as_graph(thing)
    except GraphError:
        # a node of several graphs stands for none
        return None


def _largest_graphs(things: dict[str, object]) -> dict[str, object]:
    """Give the graphs of a module that are not parts of others; lone nodes only if nothing is wired."""
    named = dict(_graphs_of(things))
    wired = [graph for graph in named.values() if graph.fan_by_key] or list(named.values())
    largest: list[Graph] = []
    for graph in wired:
        if not any(other.contains(graph) for other in largest):
            largest = [other for other in largest if not graph.contains(other)] + [graph]
    # by identity, and not by `in`: of two equal graphs one is enough
    kept = {id(graph) for graph in largest}
    return {name: graph for name, graph in named.items() if id(graph) in kept}


def _graphs_of(things: dict[str, object]) -> Iterator[tuple[str, Graph]]:
    """Give the graphs under their own names first, then under those of nodes."""
    for name, thing in things.items():
        if type(thing) is Graph:
            yield name, thing
    for name, thing in things.items():
        if (graph := _node_graph(thing)) is not None:
            yield name, graph
