"""One run of a consecutor in the calling process: its processes, its feeder, and the thread that fills containers."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from consecutiond.control import ControlError
from consecutiond.feeder import Feeder, GoneError
from consecutiond.outputthread import OutputThread
from consecutiond.runtime import Runtime, default_id, main_name
from consecutiond.threadruntime import ThreadRuntime
from consecutiond_broker.errors import ConsecutiondError
from consecutiond_broker.recorder import RefusedError
from consecutiond_nodes import importer

if TYPE_CHECKING:
    from consecutiond.consecutor import Consecutor, Summary
    from consecutiond.inputs.opening import Server


class Session:
    """From `up` to `down`.

    Args:
        consecutor: whose graph, options and outputs these are.
    """

    def __init__(self, consecutor: "Consecutor") -> None:
        settings = consecutor.settings
        target = consecutor.target or importer.find_target(consecutor.graph) or ""
        if not settings.id:
            settings = settings.model_copy(update={"id": default_id(target or main_name())})
        self._outputs = consecutor.outputs
        self._any_output = consecutor.other_output
        names = None if self._any_output is not None else tuple(self._outputs)
        kind = ThreadRuntime if settings.architecture == "thread" else Runtime
        self.runtime = kind(consecutor.graph, settings, target, names, local_output=True)
        self.feeder: Feeder
        self._output: OutputThread | None = None
        self._base: dict[str, Any] = {}
        self._last: dict[str, Any] = {}
        self._began = self._ended = 0.0
        self._closed = False
        #: the server that is the input, if one is
        self.server: Server | None = None
        self.ending = False

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self._closed

    def _end_input(self) -> None:
        """Have the server finish what has come, before the input is said to have ended."""
        self.ending = True
        if self.server is not None:
            self.server.stop()

    def open(self) -> None:
        """Start everything; whatever goes wrong, nothing is left running."""
        try:
            self._open()
        except BaseException:
            self._close(self.runtime.shutdown)
            raise

    def _open(self) -> None:
        runtime, settings = self.runtime, self.runtime.settings
        runtime.prepare()
        runtime.spawn(die_with_parent=True)
        if runtime.plan.output is not None:
            self._output = OutputThread(runtime.plan.output, self._outputs, self._any_output, runtime.context)
        runtime.wait_ready()
        self._base = runtime.status()
        self._began = time.monotonic()
        self.feeder = Feeder(
            runtime.context, runtime.plan.acker_uri, batch_items=settings.batch_items,
            batch_bytes=settings.batch_bytes, max_message=settings.max_message, alive=runtime.alive,
        )  # fmt: skip

    def feed(self, iterable: Iterable[Any], progress: Callable[[int], None] | None) -> None:
        """Hand over everything that an iterable yields."""
        self.feeder.feed(iterable, progress)

    def finish(self, progress: Callable[[int], None] | None = None) -> "Summary":
        """End the input, wait for the end of the graph, stop every part."""
        try:
            self._end_input()
            self._last = msgspec.json.decode(self.feeder.finish(progress))
        except BaseException as error:
            self.abandon(error)
            raise
        self._close(self.runtime.shutdown)
        return self.summary()

    def stop(self) -> "Summary":
        """Drain and stop; what is open stays in the log."""
        self._remember()
        try:
            self._end_input()
            self._drain()
        finally:
            self._close(self.runtime.shutdown)
        return self.summary()

    def abandon(self, error: BaseException) -> None:
        """Something was raised in the calling process: finish what was accepted, then stop.

        A second Ctrl-C, or a consecutor that is gone already, is not waited for: the log keeps everything.
        """
        if self._closed:
            return
        try:
            if not isinstance(error, GoneError):
                self._finish_accepted(error)
        except (KeyboardInterrupt, ConsecutiondError):
            # The log keeps what is open.
            pass
        finally:
            self._close(self.runtime.shutdown)

    def _finish_accepted(self, error: BaseException) -> None:
        self._remember()
        if isinstance(error, KeyboardInterrupt):
            print("consecutiond: interrupted; finishing what is open (again to stop at once)", file=sys.stderr)
        if isinstance(error, (KeyboardInterrupt, RefusedError)):
            self._drain()
        else:
            self._last = msgspec.json.decode(self.feeder.finish())

    def _drain(self) -> None:
        """Have everything finished that is open; the containers are still needed, and Ctrl-C ends the wait."""
        self._last = {**self._last, **self.runtime.stop()}

    def _remember(self) -> None:
        try:
            self._last = self.runtime.status()
        except ControlError:
            # It is going down already; the summary then has the counters of the start.
            self._last = self._last or self._base

    def _close(self, stop: Callable[[], object]) -> None:
        """Stop every part and everything of ours; a Ctrl-C must not leave half of it."""
        if self._closed:
            return
        self._closed = True
        if self.server is not None:
            self.server.stop(0.0)
        self._ended = self._ended or time.monotonic()
        with _uninterrupted():
            if self._output is not None:
                self._output.close()
            if hasattr(self, "feeder"):
                self.feeder.close()
            stop()
            self.runtime.wait_gone()
            self.runtime.context.destroy(linger=0)

    def summary(self) -> "Summary":
        """Return what the run came to, once it is over."""
        from consecutiond.consecutor import Summary

        base, last = self._base, {**self._last, **self.runtime.logged()}
        gained = {name: (last.get(name) or 0) - (base.get(name) or 0) for name in ("accepted", "completed", "failed")}
        completed: int | None = gained.pop("completed")
        lost = 0
        if not self.runtime.settings.tracking:
            completed, lost = None, last.get("lost") or 0
        return Summary(
            **gained, completed=completed, lost=lost, taken_over=base.get("open") or 0, open=last.get("open") or 0,
            seconds=self._ended - self._began, stats=last,
            node_errors=[tuple(error) for error in last.get("node_errors", [])],
        )  # fmt: skip


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold off Ctrl-C, and TERM where python handles it; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
    previous = [(number, signal.signal(number, signal.SIG_IGN)) for number in handled]
    try:
        yield
    finally:
        for number, handler in previous:
            signal.signal(number, handler)
