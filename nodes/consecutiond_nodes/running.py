"""The life of a worker process: from its options to its exit code, on this machine or on another."""

import gc
import logging
from collections.abc import Callable
from typing import Final, Protocol

import zmq

from consecutiond_broker.errors import FencedError
from consecutiond_broker.partlog import bind_context
from consecutiond_broker.signals import Signals
from consecutiond_nodes.graph import Graph
from consecutiond_nodes.ports import Who
from consecutiond_nodes.raised import user_traceback
from consecutiond_nodes.worker import Worker, WorkerOptions
from consecutiond_nodes.workers import worker_class

log = logging.getLogger("consecutiond.worker")

#: the worker could not start: its target or its `begin` raised
EXIT_START_FAILED: Final = 3
#: a newer worker of the same name is running
EXIT_FENCED: Final = 4


class Voice(Protocol):
    """How a worker tells the heart how it is."""

    def say(self, state: str, detail: str = "") -> None:
        """Change the state; the heart hears of it at once."""

    def close(self) -> None:
        """Say the last word and stop."""


class Life:
    """One worker, from its making to its end.

    Args:
        options: what the plan says.
        who: its identity.
        context: the process's ZeroMQ context; it is ended with the worker.
        signals: gives those that end it, once the user's code is loaded; before that, they end it by themselves.
    """

    def __init__(
        self, options: WorkerOptions, who: Who, context: "zmq.Context[zmq.Socket[bytes]]",
        signals: Callable[[], Signals],
    ) -> None:  # fmt: skip
        self._options, self._who, self._context, self._signals = options, who, context, signals
        self._worker: Worker | None = None

    def stats(self) -> dict[str, object]:
        """Return the counters of the moment; none before it is made."""
        return self._worker.stats() if self._worker is not None else {}

    def run(self, graph_of: Callable[[], Graph], voice: Voice) -> int:
        """Make the worker, run it to its end, and return the exit code.

        Args:
            graph_of: gives the graph; it may run the user's code.
            voice: of the worker.
        """
        try:
            worker = self._made(graph_of())
            worker.begin()
        except FencedError as error:
            return _fenced(voice, error)
        except BaseException as error:  # whatever the user's code does at start, its traceback reaches whoever waits
            log.exception("worker.start_failed")
            voice.say("failed", getattr(error, "user_traceback", "") or user_traceback(error))
            voice.close()
            return EXIT_START_FAILED
        self._worker = worker
        bind_context(worker.log_context)
        _tame_collector()
        voice.say("ready")
        try:
            worker.run()
        except FencedError as error:
            return _fenced(voice, error)
        finally:
            voice.close()
            bind_context(dict)
            worker.close()
            self._context.term()
        return 0

    def _made(self, graph: Graph) -> Worker:
        node = graph[self._options.node]
        ways = graph.outlets(node.name), self._who, self._context, graph.keyed(node.name)
        worker = worker_class(node)(self._options, node, *ways)
        worker.listen(self._signals())
        return worker


def _fenced(voice: Voice, error: FencedError) -> int:
    log.error("worker.fenced error=%s", error)
    voice.say("failed", str(error))
    voice.close()
    return EXIT_FENCED


def _tame_collector() -> None:
    """Keep the cyclic collector off what lives for ever, and off every batch of small objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
