"""The picture of what a plan runs: one arrow for each edge, which is one broker and one URI."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from consecutiond.rundir import RunDirError
from consecutiond_nodes.render import Arrow, Picture, node_label

#: the options of every part by its name, as they stand in `plan.json`
Parts = Mapping[str, Mapping[str, Any]]


def read_parts(plan: Path) -> Parts:
    """Read the options of all parts from a plan file.

    Raises:
        RunDirError: there is no such file, or it is no plan.
    """
    try:
        return parts_of(plan.read_bytes())
    except OSError as error:
        raise RunDirError(f"the plan {plan} cannot be read: {error.strerror}; was it ever started?") from None
    except msgspec.DecodeError as error:
        raise RunDirError(f"{plan} is no plan: {error}") from None


def parts_of(plan: bytes) -> Parts:
    """Take the parts out of the content of a plan file.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return msgspec.json.decode(plan, type=dict[str, dict[str, dict[str, Any]]])["parts"]


def workers_of(parts: Parts) -> dict[str, list[str]]:
    """Return the names of the workers of each node, in topological order of the nodes."""
    return dict(parts["acker"]["nodes"])


def edges_of(parts: Parts) -> dict[str, str]:
    """Return the URI of every edge by its name: those with a broker here, and those that only a worker here knows."""
    brokers = (options for options in parts.values() if "edge" in options)
    # Where other machines come in, that address says more than the one at which the parts here meet.
    brokered = {each["edge"]: (each.get("listen") or each)["uri"] for each in brokers}
    known = {end["name"]: end["uri"] for options in parts.values() for end in _ends(options)}
    return brokered | {edge: uri for edge, uri in known.items() if edge not in brokered}


def broker_of(parts: Parts, edge: str) -> str:
    """Return the name of the part that is an edge's broker; nothing if it is not here."""
    return next((name for name, options in parts.items() if options.get("edge") == edge), "")


def _ends(options: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
    if "worker" in options:
        yield from options["upstream"]
        yield from options["downstream"].values()
        if options["output"] is not None:
            yield options["output"]


def picture_of_plan(parts: Parts, routers: Picture | None = None) -> Picture:
    """Say what is drawn of a plan.

    Args:
        parts: of the plan.
        routers: a picture of the same graph that knows its routers, which a plan does not.
    """
    known = {arrow.edge: arrow for arrow in routers.arrows} if routers is not None else {}
    arrows = []
    for edge, uri in edges_of(parts).items():
        source, _, target = edge.partition("->")
        arrows.append(known.get(edge, Arrow(source, target))._replace(uri=uri))
    nodes = {name: node_label(name, len(workers)) for name, workers in workers_of(parts).items()}
    return Picture(nodes, tuple(arrows))
