"""Which worker runs a node: chosen once, by what its `process` is."""

import inspect

from consecutiond_nodes.node import Node
from consecutiond_nodes.outputs import OutputNode
from consecutiond_nodes.worker import Worker


def worker_class(node: Node) -> type[Worker]:
    """Return the class of worker that runs a node; the plain one is the fastest.

    Args:
        node: the user's object.

    """
    # Imported when needed: most nodes take plain values.
    if isinstance(node, OutputNode):
        from consecutiond_nodes.outputworker import OutputWorker

        return OutputWorker
    if inspect.iscoroutinefunction(node.process):
        from consecutiond_nodes.asyncworker import AsyncWorker

        return AsyncWorker
    if takes_items(node):
        from consecutiond_nodes.itemworker import ItemWorker

        return ItemWorker
    return Worker


def takes_items(node: Node) -> bool:
    """Say whether a node wants items: by its class, or by the annotation of what its `process` gets."""
    if node.takes_items or node.holds_items:
        return True
    parameters = list(inspect.signature(node.process).parameters.values())
    annotation = parameters[0].annotation if parameters else None
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__qualname__", "")
    return name.rpartition(".")[2] == "Item"
