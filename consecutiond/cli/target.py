"""A target becomes a consecutor, with the options of the command line over those of the code."""

from typing import Any

from consecutiond.config import load_settings
from consecutiond.consecutor import Consecutor
from consecutiond.runtime import default_id
from consecutiond_nodes import importer


def consecutor_of(target: str, options: dict[str, Any]) -> Consecutor:
    """Import a target and return a new consecutor of its graph.

    Args:
        target: ``module:attribute`` or ``file.py[:attribute]``, a graph, a node or a consecutor.
        options: those of the command line; they win over the target's own.

    Raises:
        TargetError: the target cannot be imported; the user's own traceback is with it.
        GraphError: the graph has faults.
    """
    found = importer.load(target)
    own = found.options if isinstance(found, Consecutor) else {}
    merged = {**own, **options}
    if not load_settings(merged).id:
        # Only now, or the target's name would win over the environment's.
        merged["id"] = default_id(target)
    consecutor = Consecutor(importer.graph_of(found), target=target, **merged)
    if isinstance(found, Consecutor):
        for name, container in found.outputs.items():
            consecutor.register_output(name, container)
    return consecutor
