"""Events of the top floor: console on a terminal, JSON lines otherwise; a library that nobody asked is mute."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import structlog

from consecutiond_broker.partlog import JsonLines


class _Sink:
    """Where events go: nowhere, until a process of ours or a consecutor of threads says where."""

    def __init__(self) -> None:
        #: the newest is written to: of several consecutors of threads, the one that came up last
        self.streams: list[TextIO] = []
        self.lock = threading.Lock()
        #: of the standard library's logger, before anything was logged to a file
        self.level = logging.NOTSET
        self.renderer: structlog.types.Processor = structlog.processors.JSONRenderer()

    def msg(self, text: str) -> None:
        """Write one event."""
        with self.lock:
            if self.streams:
                self.streams[-1].write(f"{text}\n")
                self.streams[-1].flush()

    log = debug = info = warn = warning = error = err = critical = fatal = failure = exception = msg


_sink = _Sink()


def _render(logger: Any, name: str, event: structlog.types.EventDict) -> Any:
    return _sink.renderer(logger, name, event)


_PROCESSORS: tuple[structlog.types.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso"),
    structlog.processors.format_exc_info,
    _render,
)


def get_logger(role: str) -> Any:
    """Return a logger of ours; what the user's own program does with structlog has no part in it.

    Args:
        role: which part of the whole speaks.

    """
    return structlog.wrap_logger(
        _sink,
        processors=list(_PROCESSORS),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        context_class=dict,
        role=role,
    )


def log_events(**bound: object) -> None:
    """Send the events of this process to stderr, with the given names bound to each."""
    _sink.streams.append(sys.stderr)
    if sys.stderr.isatty():
        _sink.renderer = structlog.dev.ConsoleRenderer()
    structlog.contextvars.bind_contextvars(**bound)


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Send the events of parts that run as threads of this process to a file, those of all floors.

    Args:
        path: of the file; it is appended to.

    """
    handler = logging.FileHandler(path)
    handler.setFormatter(JsonLines({}))
    ours = logging.getLogger("consecutiond")
    with path.open("a") as stream:
        with _sink.lock:
            _sink.streams.append(stream)
            ours.addHandler(handler)
            if len(ours.handlers) == 1:
                _sink.level = ours.level
            ours.setLevel(logging.INFO)
        try:
            yield
        finally:
            # They end in any order, and the others' parts go on writing.
            with _sink.lock:
                _sink.streams.remove(stream)
                ours.removeHandler(handler)
                if not ours.handlers:
                    ours.setLevel(_sink.level)
            handler.close()
