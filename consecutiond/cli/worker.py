"""``consecutiond worker``: one worker of a remote node, in the foreground of another machine."""

import os
import sys

from consecutiond.cli import exits
from consecutiond_broker.partlog import log_to_stderr
from consecutiond_nodes import importer
from consecutiond_nodes.errors import TargetError
from consecutiond_nodes.remote import Door, check_graph, read_connection, run_worker

#: none of them computes with the threads that numerical libraries start, unless the user says so
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def work(target: str, node: str, connect: str, number: int | None, patience_s: float) -> int:
    """Join a consecutor as a worker of a node, and work until its graph ends; return the exit code.

    Args:
        target: the graph, as it is imported here.
        node: the name of the node.
        connect: a connection file, or the uri of a consecutor on this machine.
        number: which worker to be; None takes a free place.
        patience_s: seconds for which a consecutor that is away is waited for.
    """
    for name in _ONE_THREAD:
        os.environ.setdefault(name, "1")
    connection = read_connection(connect)
    graph = importer.graph_of(importer.load(target))
    graph.validate()
    if node not in graph:
        raise TargetError(f"the graph of {target} has no node {node!r}; it has: {', '.join(graph)}")
    log_to_stderr(f"worker-{node}")
    given = Door(connection, patience_s).ask(node, number)
    check_graph(graph, given.options, target)
    print(f"consecutiond: {given.options.worker} joins {connection.uri}; Ctrl-C ends it", file=sys.stderr, flush=True)
    code = run_worker(graph, given, connection, patience_s)
    return exits.START_FAILED if code else exits.OK
