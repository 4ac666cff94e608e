"""A target becomes a consecutor, with the options of the command line over those of the code."""

from consecutiond.consecutor import Consecutor
from consecutiond.effective import Given
from consecutiond.runtime import default_id
from consecutiond_nodes import importer


def consecutor_of(target: str, given: Given) -> Consecutor:
    """Import a target and return a new consecutor of its graph.

    Args:
        target: ``module:attribute`` or ``file.py[:attribute]``, a graph, a node or a consecutor.
        given: what the command line said; it wins over the target's own.

    Raises:
        TargetError: the target cannot be imported; the user's own traceback is with it.
        GraphError: the graph has faults.
    """
    found = importer.load(target)
    own = found.options if isinstance(found, Consecutor) else {}
    consecutor = Consecutor(importer.graph_of(found), target=target, **own)
    consecutor.configure(given, {"id": default_id(target)})
    if isinstance(found, Consecutor):
        for name, container in found.outputs.items():
            consecutor.register_output(name, container)
    return consecutor
