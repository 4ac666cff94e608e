"""One run of a consecutor in the calling process: its processes, its feeder, and the thread that fills containers."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from consecutiond.chaining import Chain
from consecutiond.control import ControlError
from consecutiond.feeder import Feeder, GoneError, ReaderGoneError
from consecutiond.inputs.killsocket import KillSocket
from consecutiond.outputthread import OutputThread
from consecutiond.runtime import Runtime, StartError, default_id, main_name
from consecutiond.threadruntime import ThreadRuntime
from consecutiond_broker.errors import ConsecutiondError
from consecutiond_broker.recorder import RefusedError
from consecutiond_nodes import importer

if TYPE_CHECKING:
    from consecutiond.consecutor import Consecutor, Summary
    from consecutiond.inputs.opening import Server

#: seconds that a server may take to finish what its clients have sent
_SERVER_S: Final = 10.0
_EARLY: Final = "the consecutor was told to stop before every part was up"


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
        self._chain = Chain(consecutor.outputs, settings.id, settings.dir)
        self._outputs = self._chain.containers
        #: ids of the consecutors of which this one is an output
        self.fed_by: set[str] = set()
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
        #: somebody has asked for a stop: nothing more is taken
        self.stopping = False
        self._kill: KillSocket | None = None
        self._lock = threading.RLock()
        self._gone = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self._closed

    def _end_input(self, within_s: float = _SERVER_S) -> None:
        """Have the server finish what has come, before the input is said to have ended."""
        self.ending = True
        if self.server is not None:
            self.server.stop(min(within_s, _SERVER_S))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread begin or end the session at a time; Ctrl-C in another one cuts a stop short."""
        try:
            self._lock.acquire()
        except KeyboardInterrupt:
            self.runtime.shutdown()
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    # --- the start -------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start everything; whatever goes wrong, nothing is left running."""
        try:
            self._spawn()
            self.runtime.wait_ready()
            self._begin()
        except BaseException as error:
            with self._alone():
                self._close(self.runtime.shutdown)
                self._chain.abandon(error)
            if self.stopping and isinstance(error, StartError):
                raise RefusedError(_EARLY) from None
            raise

    def _spawn(self) -> None:
        with self._alone():
            runtime = self.runtime
            self._chain.open()
            runtime.prepare()
            runtime.spawn(die_with_parent=True)
            self._kill = KillSocket(runtime.kill_uri, runtime.settings.stop_timeout_s, self._told_to_stop)
            if runtime.plan.output is not None:
                self._output = OutputThread(
                    runtime.plan.output, self._outputs, self._any_output, runtime.context, self._reader_gone
                )

    def _begin(self) -> None:
        with self._alone():
            if self._closed:
                raise RefusedError(_EARLY)
            runtime, settings = self.runtime, self.runtime.settings
            self._base = runtime.status()
            self._began = time.monotonic()
            self.feeder = Feeder(
                runtime.context, runtime.plan.acker_uri, batch_items=settings.batch_items,
                batch_bytes=settings.batch_bytes, max_message=settings.max_message, alive=runtime.alive,
            )  # fmt: skip

    def _reader_gone(self) -> None:
        """Nobody reads what the containers print: end, or every item would fail, to the end of the input."""
        if hasattr(self, "feeder"):
            self.feeder.fail(ReaderGoneError("nobody reads the output any more"))

    def _told_to_stop(self, stop_s: float) -> None:
        """Somebody wrote to the kill socket, which goes on listening; the thread outlives a main thread that ends."""
        threading.Thread(target=self.stop, args=(stop_s,), name="stopper", daemon=False).start()

    # --- the end ---------------------------------------------------------------------------------------------

    def feed(self, iterable: Iterable[Any], progress: Callable[[int], None] | None) -> None:
        """Hand over everything that an iterable yields."""
        self.feeder.feed(iterable, progress)

    def finish(self, progress: Callable[[int], None] | None = None) -> "Summary":
        """End the input, wait for the end of the graph, stop every part; a stop meanwhile cuts it short."""
        if self.stopping:
            return self.stop()
        try:
            self._end_input()
            self._last = msgspec.json.decode(self.feeder.finish(progress))
        except BaseException as error:
            self.abandon(error)
            if self.stopping and isinstance(error, GoneError):
                return self.summary()
            raise
        with self._alone():
            self._close(self.runtime.shutdown)
            self._chain.finish()
        return self.summary()

    def stop(self, stop_s: float | None = None) -> "Summary":
        """Drain and stop; what is open stays in the log. Where somebody else does so already, wait for that.

        Args:
            stop_s: seconds after which what is not done is cut off; None takes the option ``stop_timeout_s``.
        """
        self.stopping = True
        until = time.monotonic() + (self.runtime.settings.stop_timeout_s if stop_s is None else stop_s)
        with self._alone():
            if not self._closed:
                self._remember()
                try:
                    self._end_input(max(0.0, until - time.monotonic()))
                    self._drain(max(0.0, until - time.monotonic()))
                finally:
                    self._close(self.runtime.shutdown)
            self._chain.stop(stop_s)
        return self.summary()

    def abandon(self, error: BaseException) -> None:
        """Something was raised in the calling process: finish what was accepted, then stop.

        A second Ctrl-C, or a consecutor that is gone already, is not waited for: the log keeps everything.
        """
        try:
            if isinstance(error, (KeyboardInterrupt, RefusedError)):
                if not self.stopping and isinstance(error, KeyboardInterrupt):
                    print("consecutiond: interrupted; finishing what is open (again to stop at once)", file=sys.stderr)
                self.stop()
            elif not self._closed and not isinstance(error, GoneError):
                self._remember()
                self._last = msgspec.json.decode(self.feeder.finish())
        except (KeyboardInterrupt, ConsecutiondError):
            # The log keeps what is open.
            pass
        finally:
            with self._alone():
                self._close(self.runtime.shutdown)
                self._chain.abandon(error)

    def _drain(self, stop_s: float) -> None:
        """Have everything finished that is open; the containers are still needed, and Ctrl-C ends the wait."""
        self._last = {**self._last, **self.runtime.stop(stop_s)}

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
            self._chain.give_up()
            left = self._output is not None and not self._output.close()
            if hasattr(self, "feeder"):
                self.feeder.close()
            stop()
            if self._kill is not None:
                self._kill.close()
            self.runtime.wait_gone()
            if not left:
                self.runtime.context.destroy(linger=0)
        self._gone.set()

    def wait_over(self) -> "Summary":
        """Wait until somebody else has ended it; Ctrl-C cuts that short."""
        try:
            self._gone.wait()
        except KeyboardInterrupt:
            self.runtime.shutdown()
            self._gone.wait()
        return self.summary()

    def summary(self) -> "Summary":
        """Return what the run came to, once it is over."""
        from consecutiond.consecutor import Summary

        base, last = self._base, {**self._last, **self.runtime.logged()}
        names = ("accepted", "completed", "failed", "discarded")
        gained = {name: (last.get(name) or 0) - (base.get(name) or 0) for name in names}
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
