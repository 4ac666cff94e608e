"""What flows through a running consecutor: its plan as a picture, with the counters of its brokers and workers."""

import sys
from collections.abc import Mapping
from typing import Any, Final

from consecutiond.cli.graph import View
from consecutiond.control import ask
from consecutiond.effective import Given, resolve
from consecutiond.planpicture import Parts, broker_of, picture_of_plan, read_parts, workers_of
from consecutiond.rundir import RunDir
from consecutiond_nodes.render import node_label

#: seconds to wait for a heart
_TIMEOUT_S: Final = 5.0
#: counters of a broker, by what JSON calls them
_COUNTERS: Final = {
    "items": "items",
    "items_per_s": "rate",
    "items_queued": "items_queued",
    "items_held": "items_held",
    "batches_queued": "queued",
    "batches_held": "held",
    "batches_parked": "parked",
}


def live_view(id: str, given: Given) -> View | None:
    """Look at a running consecutor; the user's code is not imported.

    Args:
        id: the consecutor's.
        given: the options of the command line.

    Returns:
        None when it does not run, which is said on stderr.

    Raises:
        ControlError: it does not answer.
        RunDirError: its plan cannot be read.
    """
    settings = resolve(given=given).settings
    directory = RunDir(settings.dir, id)
    if not directory.is_live():
        print(f"consecutiond: error: no consecutor {id!r} is running in {settings.dir}", file=sys.stderr)
        return None
    status = ask(directory.socket_uri("control"), "status", _TIMEOUT_S, directory.is_live)
    parts = read_parts(directory.plan)
    picture = picture_of_plan(parts)
    edges = {arrow.edge: _edge(parts, status["parts"], arrow.edge) for arrow in picture.arrows}
    nodes = {name: _node(status["parts"], names) for name, names in workers_of(parts).items()}
    labelled = picture._replace(
        nodes={name: _node_label(name, node["running"]) for name, node in nodes.items()},
        arrows=tuple(arrow._replace(label=_edge_label(edges[arrow.edge])) for arrow in picture.arrows),
    )
    about = {"id": id, "state": status["state"], "uptime_s": status["uptime_s"]}
    return View(labelled, about, nodes, edges)


def _edge(parts: Parts, status: Mapping[str, Any], edge: str) -> dict[str, Any]:
    broker = broker_of(parts, edge)
    known = status.get(broker, {"state": "unknown", "stats": {}})
    counters = {name: known["stats"].get(key) for name, key in _COUNTERS.items()}
    return {"broker": broker, "state": known["state"], **counters}


def _edge_label(edge: Mapping[str, Any]) -> str:
    if edge["state"] != "ready" or edge["items_per_s"] is None:
        return str(edge["state"])
    batches = edge["batches_queued"] + edge["batches_held"] + edge["batches_parked"]
    depth = f"{edge['items_queued'] + edge['items_held']:,} items in {batches:,} batches" if batches else "empty"
    return f"{edge['items_per_s']:,.0f} items/s, {depth}"


def _node(status: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    unknown = {"pid": 0, "state": "unknown", "restarts": 0, "stats": {}}
    running = []
    for name in names:
        known = status.get(f"node-{name}", unknown)
        numbers = {key: known["stats"].get(key) for key in ("items", "failures")}
        running.append({"name": name, **{key: known[key] for key in ("pid", "state", "restarts")}, **numbers})
    return {"workers": len(names), "running": running}


def _node_label(name: str, workers: list[dict[str, Any]]) -> str:
    ready = sum(worker["state"] == "ready" for worker in workers)
    return node_label(name, len(workers)) + ("" if ready == len(workers) else f" ({ready} ready)")
