"""One run of a consecutor in the calling process: its processes, its feeder, and the thread that fills containers."""

import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from consecutiond.control import ControlError
from consecutiond.feeder import Feeder, GoneError
from consecutiond.outputthread import OutputThread
from consecutiond.runtime import Runtime, default_id
from consecutiond_broker.errors import ConsecutiondError
from consecutiond_broker.recorder import RefusedError
from consecutiond_nodes import importer

if TYPE_CHECKING:
    from consecutiond.consecutor import Consecutor, Summary


class TargetUnknownError(ConsecutiondError):
    """Workers would not find the graph."""


class Session:
    """From `up` to `down`.

    Args:
        consecutor: whose graph, options and outputs these are.
    """

    def __init__(self, consecutor: "Consecutor") -> None:
        target = consecutor.target or importer.find_target(consecutor.graph)
        if target is None:
            raise TargetUnknownError(
                "workers import the graph, and it stands nowhere where they can find it.\n"
                "  wrong: def main(): graph = A() | B(); Consecutor(graph).up()\n"
                "  right: graph = A() | B()          # at the top level of a module or script\n"
                '  or:    Consecutor(graph, target="module:attribute")'
            )
        settings = consecutor.settings
        if not settings.id:
            settings = settings.model_copy(update={"id": default_id(target)})
        self._outputs = consecutor.outputs
        self._any_output = consecutor.other_output
        names = None if self._any_output is not None else tuple(self._outputs)
        self.runtime = Runtime(consecutor.graph, settings, target, names, local_output=True)
        self.feeder: Feeder
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._output: OutputThread | None = None
        self._base: dict[str, Any] = {}
        self._last: dict[str, Any] = {}
        self._began = self._ended = 0.0
        self._closed = False

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
        self._context = zmq.Context()
        if runtime.plan.output is not None:
            self._output = OutputThread(runtime.plan.output, self._outputs, self._any_output, self._context)
        runtime.wait_ready()
        self._base = runtime.status()
        self._began = time.monotonic()
        self.feeder = Feeder(
            self._context, runtime.plan.acker_uri, batch_items=settings.batch_items,
            batch_bytes=settings.batch_bytes, max_message=settings.max_message, alive=runtime.alive,
        )  # fmt: skip

    def feed(self, iterable: Iterable[Any], progress: Callable[[int], None] | None) -> None:
        """Hand over everything that an iterable yields."""
        self.feeder.feed(iterable, progress)

    def finish(self, progress: Callable[[int], None] | None = None) -> "Summary":
        """End the input, wait for the end of the graph, stop every part."""
        try:
            self._last = msgspec.json.decode(self.feeder.finish(progress))
        except BaseException as error:
            self.abandon(error)
            raise
        self._ended = time.monotonic()
        self._close(self.runtime.shutdown)
        return self._summary()

    def stop(self) -> "Summary":
        """Drain and stop; what is open stays in the log."""
        self._remember()
        self._ended = time.monotonic()
        self._close(self.runtime.stop)
        return self._summary()

    def abandon(self, error: BaseException) -> None:
        """Something was raised in the calling process: finish what was accepted, then stop.

        A second Ctrl-C, or a consecutor that is gone already, is not waited for: the log keeps everything.
        """
        if self._closed:
            return
        if isinstance(error, GoneError):
            self._close(self.runtime.shutdown)
            return
        if isinstance(error, KeyboardInterrupt):
            print("consecutiond: interrupted; finishing what is open (again to stop at once)", file=sys.stderr)
        try:
            self._remember()
            if isinstance(error, (KeyboardInterrupt, RefusedError)):
                self._close(self.runtime.stop)
            else:
                self._last = msgspec.json.decode(self.feeder.finish())
                self._close(self.runtime.shutdown)
        except (KeyboardInterrupt, ConsecutiondError):
            self._close(self.runtime.shutdown)

    def _remember(self) -> None:
        try:
            self._last = self.runtime.status()
        except ControlError:
            # It is going down already; the summary then has the counters of the start.
            self._last = self._last or self._base

    def _close(self, stop: Callable[[], None]) -> None:
        """Stop every part and everything of ours; a second Ctrl-C must not leave half of it."""
        if self._closed:
            return
        self._closed = True
        previous = _ignore_interrupts()
        try:
            if stop == self.runtime.stop:
                # Draining still needs the containers.
                stop()
            if self._output is not None:
                self._output.close()
            if hasattr(self, "feeder"):
                self.feeder.close()
            if stop != self.runtime.stop:
                stop()
            self.runtime.wait_gone()
            if self._context is not None:
                self._context.destroy(linger=0)
        finally:
            if previous is not None:
                signal.signal(signal.SIGINT, previous)

    def _summary(self) -> "Summary":
        from consecutiond.consecutor import Summary

        base, last = self._base, self._last
        gained = {name: last.get(name, 0) - base.get(name, 0) for name in ("accepted", "completed", "failed")}
        return Summary(
            **gained, taken_over=base.get("open", 0), open=last.get("open", 0),
            seconds=self._ended - self._began, stats=last,
            node_errors=[tuple(error) for error in last.get("node_errors", [])],
        )  # fmt: skip


def _ignore_interrupts() -> Any:
    """Hold Ctrl-C off; None when this is not the main thread, which alone can."""
    try:
        return signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:
        return None
