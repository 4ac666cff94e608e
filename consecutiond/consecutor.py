"""The Consecutor: a graph, its options and its outputs; up, push, down."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from consecutiond_broker.errors import ConsecutiondError
from consecutiond_nodes import importer
from consecutiond_nodes.graph import Graph, as_graph
from consecutiond_nodes.outputs import Container

if TYPE_CHECKING:
    from consecutiond.config import Settings
    from consecutiond.session import Session


class StateError(ConsecutiondError):
    """A method was called at a time at which it cannot work."""


@dataclass(frozen=True)
class Summary:
    """What a run came to; counts are of this run alone.

    ``accepted + taken_over = completed + failed + open`` always holds.
    """

    #: roots accepted
    accepted: int
    #: roots that an earlier run had left open
    taken_over: int
    #: roots whose trees are complete
    completed: int
    #: roots kept as failed
    failed: int
    #: roots that stay in the log
    open: int
    #: from the first push to the end, without the start-up
    seconds: float
    #: ``(worker, "begin" | "end", traceback)`` where the user's code raised
    node_errors: list[tuple[str, str, str]] = field(default_factory=list)
    #: the acker's own counters
    stats: dict[str, Any] = field(default_factory=dict)


class Consecutor:
    """Runs a graph.

    Args:
        graph: a graph, or any node of one.
        architecture: "process": every part is a supervised process.
        target: how workers import the graph, ``module:attribute`` or ``file.py:attribute``; found by itself for
            graphs that stand at the top level of a script or module.
        options: every field of :class:`consecutiond.config.Settings`, such as ``id``, ``dir``, ``store``,
            ``durability``, ``max_pending``.

    Raises:
        GraphError: the graph has faults; all are listed.
        ConfigError: an option is unknown or has a bad value; all are listed.
    """

    def __init__(self, graph: Any, architecture: str = "process", *, target: str | None = None, **options: Any) -> None:
        self.graph: Graph = as_graph(graph)
        self.graph.validate()
        self.outputs: dict[str, Container] = {}
        #: takes ``(name, value)`` of every output that is not registered; None makes such a write an error
        self.other_output: Container | None = None
        self.target = target
        self.options = {"architecture": architecture, **options}
        self._settings: Settings | None = None
        self._session: Session | None = None
        self._lock = threading.Lock()
        if not importer.loading:
            # A worker that imports this only wants the graph, and must not pay for the configuration's imports.
            self.settings  # noqa: B018 - reports bad options here, where they were written

    @property
    def settings(self) -> "Settings":
        """The effective options."""
        if self._settings is None:
            from consecutiond.config import load_settings

            self._settings = load_settings(self.options)
        return self._settings

    def register_output(self, name: str, container: Container) -> Self:
        """Have everything that nodes `write` under a name appended to a container.

        Args:
            name: the name that nodes use.
            container: anything with ``append``; it is called from another thread of this process.

        Raises:
            StateError: the consecutor is up already.
            TypeError: the container has no ``append``.
        """
        if self._session is not None:
            raise StateError(f"register_output({name!r}) came after up(): register outputs before the start")
        if not callable(getattr(container, "append", None)):
            raise TypeError(f"an output container has a method append(value); {container!r} has none")
        self.outputs[name] = container
        return self

    def up(self) -> Self:
        """Start every part; return when all are up.

        Raises:
            StartError: a part did not come up; the text has the user's own traceback.
            RunDirError: the directory cannot be used, or a live consecutor has the id.
            StateError: it is up already.
        """
        if importer.loading:
            # A script without `if __name__ == "__main__"` is being imported by a worker: it has what it came for.
            raise importer.Loaded(self)
        with self._lock:
            if self._session is not None:
                raise StateError("up() was called twice: one consecutor has one input stream; call down() first")
            from consecutiond.session import Session

            self._session = Session(self)
        try:
            self._session.open()
        except BaseException:
            self._session = None
            raise
        return self

    def _up(self, what: str) -> "Session":
        if self._session is None:
            raise StateError(f"{what} needs a running consecutor: call up() first")
        return self._session

    def push(self, value: Any) -> None:
        """Hand one value to the graph; it is recorded in the input log when this returns.

        Blocks under back-pressure. Each call waits for the disk: use `push_many` or `produce_from_iterable` for
        speed.

        Raises:
            CodecError: the value cannot be carried; it was not accepted.
            RefusedError: the consecutor is being stopped; the value was not accepted.
            StateError: the consecutor is not up.
        """
        self._up("push").feeder.push_many([value])

    #: a consecutor is a container, too
    append = push

    def push_many(self, values: Iterable[Any]) -> None:
        """Hand several values over; all are recorded when this returns. Raises what `push` raises."""
        self._up("push_many").feeder.push_many(list(values))

    def down(self, progress: Callable[[int], None] | None = None) -> Summary:
        """End the input, let the graph finish and end, node by node, and stop every part.

        Returns:
            What the run came to.

        Raises:
            StateError: the consecutor is not up.
        """
        session = self._up("down")
        try:
            return session.finish(progress)
        finally:
            self._session = None

    def stop(self) -> Summary:
        """Take no more input, finish what is open, leave waiting retries in the log, and stop every part."""
        session = self._up("stop")
        try:
            return session.stop()
        finally:
            self._session = None

    def produce_from_iterable(self, iterable: Iterable[Any], progress: bool | None = None) -> Summary:
        """Start, feed everything that an iterable yields, and end.

        Args:
            iterable: any; it is read only after every part is up, and as fast as the graph takes it.
            progress: show a progress bar on stderr; None shows one when stderr is a terminal.

        Returns:
            What the run came to.

        Raises:
            Exception: what the iterable raises, after everything that it had yielded is finished.
        """
        from consecutiond.progress import progress_bar

        started = self._session is None
        if started:
            self.up()
        session = self._up("produce_from_iterable")
        try:
            with progress_bar(self, iterable, progress) as advance:
                session.feed(iterable, advance)
                return self.down(advance)
        except BaseException as error:
            session.abandon(error)
            raise
        finally:
            self._session = None

    def status(self) -> dict[str, Any]:
        """Return the state of every part and the acker's counters."""
        return self._up("status").runtime.status()

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._session is None:
            return
        if error is None:
            self.down()
        else:
            self._session.abandon(error)
            self._session = None

    def __repr__(self) -> str:
        return f"Consecutor({self.graph!r})"
