"""The exceptions of the graph floor: nodes, graphs, routes and the targets they are loaded from."""

from consecutiond_broker.errors import ConsecutiondError


class NodeError(ConsecutiondError):
    """A node was used in a way, or at a time, in which it cannot work."""


class GraphError(ConsecutiondError):
    """A graph cannot be run as it is wired; `faults` lists every reason, one text each."""

    def __init__(self, *faults: str) -> None:
        super().__init__(*faults)
        self.faults: list[str] = list(faults)

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return self.faults[0]
        numbered = [_indented(number, fault) for number, fault in enumerate(self.faults, 1)]
        return "\n".join([f"the graph has {len(self.faults)} faults:", *numbered])


class UnknownNodeError(GraphError, KeyError):
    """A graph was asked for a node that it does not have."""


class PictureError(ConsecutiondError):
    """A picture of a graph cannot be drawn."""


class RouteError(ConsecutiondError):
    """A router returned something that is not the name of one of its targets."""


class OutputError(ConsecutiondError):
    """A node wrote to an output that is not registered."""


class TargetError(ConsecutiondError):
    """A target cannot be loaded; `user_traceback` is the user's own part of the traceback, or empty."""

    def __init__(self, message: str, user_traceback: str = "") -> None:
        super().__init__(message, user_traceback)
        self.message = message
        self.user_traceback = user_traceback

    def __str__(self) -> str:
        return self.message


def _indented(number: int, fault: str) -> str:
    return f"  {number}. " + fault.replace("\n", "\n     ")
