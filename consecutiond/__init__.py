"""consecutiond: a supervised daemon that runs a directed graph of Python nodes and loses nothing.

Everything that users need is here. The names are loaded on first use, because every worker imports this module and
its start-up time is multiplied by their number.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from consecutiond_broker.errors import ConsecutiondError
from consecutiond_nodes.graph import Graph
from consecutiond_nodes.item import Item
from consecutiond_nodes.node import BaseNode, Node

if TYPE_CHECKING:
    from consecutiond.consecutor import Consecutor, Summary
    from consecutiond.outputs.jsonlines import JsonLinesOutput
    from consecutiond.outputs.redis import RedisOutput
    from consecutiond_nodes.groupby import GroupByNode

__version__ = "0.1.0"

__all__ = [
    "BaseNode",
    "ConsecutiondError",
    "Consecutor",
    "Graph",
    "GroupByNode",
    "Item",
    "JsonLinesOutput",
    "Node",
    "RedisOutput",
    "Summary",
]

_LATER = {
    "Consecutor": "consecutiond.consecutor",
    "GroupByNode": "consecutiond_nodes.groupby",
    "JsonLinesOutput": "consecutiond.outputs.jsonlines",
    "RedisOutput": "consecutiond.outputs.redis",
    "Summary": "consecutiond.consecutor",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'consecutiond' has no attribute {name!r}")
