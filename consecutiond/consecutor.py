"""The Consecutor: a graph, its options and its outputs; up, push, down."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from consecutiond_broker.errors import ConsecutiondError
from consecutiond_nodes import importer
from consecutiond_nodes.graph import Graph, Node, as_graph
from consecutiond_nodes.outputs import Container

if TYPE_CHECKING:
    from consecutiond.config import Settings
    from consecutiond.effective import Effective, Given
    from consecutiond.session import Session


class StateError(ConsecutiondError):
    """A method was called at a time at which it cannot work."""


@dataclass(frozen=True)
class Summary:
    """What a run came to; counts are of this run alone.

    ``accepted + taken_over = completed + failed + open`` always holds, unless nothing is tracked.
    """

    #: roots accepted
    accepted: int
    #: roots that an earlier run had left open
    taken_over: int
    #: roots whose trees are complete; None when nothing is tracked, since nobody can know
    completed: int | None
    #: roots kept as failed; when nothing is tracked: items that failed, and were not tried again
    failed: int
    #: roots that stay in the log
    open: int
    #: from the first push to the end, without the start-up
    seconds: float
    #: ``(worker, "begin" | "end", traceback)`` where the user's code raised
    node_errors: list[tuple[str, str, str]] = field(default_factory=list)
    #: the acker's own counters
    stats: dict[str, Any] = field(default_factory=dict)
    #: items that went down with a part; only when nothing is tracked, else these are tried again
    lost: int = 0


class Consecutor:
    """Runs a graph.

    Args:
        graph: a graph, or any node of one.
        architecture: "process", the default: every part is a supervised process; "thread": all are threads of this
            process.
        target: how workers import the graph, ``module:attribute`` or ``file.py:attribute``; found by itself for
            graphs that stand at the top level of a script or module.
        options: every field of :class:`consecutiond.config.Settings`, such as ``id``, ``dir``, ``store``,
            ``durability``, ``max_pending``.

    Raises:
        GraphError: the graph has faults; all are listed.
        ConfigError: an option is unknown or has a bad value; all are listed.
    """

    def __init__(
        self, graph: Any, architecture: str | None = None, *, target: str | None = None, **options: Any
    ) -> None:
        self.graph: Graph = as_graph(graph)
        self.graph.validate()
        self.outputs: dict[str, Container] = {}
        #: takes ``(name, value)`` of every output that is not registered; None makes such a write an error
        self.other_output: Container | None = None
        #: what the newest run came to, an interrupted one too; None before its end
        self.last: Summary | None = None
        self.target = target
        self.options = options if architecture is None else {"architecture": architecture, **options}
        self._effective: Effective | None = None
        self._session: Session | None = None
        self._lock = threading.Lock()
        if not importer.loading:
            # A worker that imports this only wants the graph, and must not pay for the configuration's imports.
            from consecutiond.effective import check_code

            # Bad options are reported here, where they were written; those of the environment may yet be overridden.
            check_code(self.options)

    def configure(self, given: "Given", defaults: Mapping[str, Any] | None = None) -> None:
        """Take options of a command line, the environment and a configuration file over those of the code.

        Args:
            given: what the command line says, the file's name included.
            defaults: what is better than the options' own defaults.

        Raises:
            ConfigError: with every fault of every place.
        """
        from consecutiond.effective import resolve

        self._effective = resolve(self.options, given, defaults)

    @property
    def effective(self) -> "Effective":
        """The effective options, and where each came from."""
        if self._effective is None:
            from consecutiond.effective import Given

            self.configure(Given())
        assert self._effective is not None  # noqa: S101 - made by `configure`
        return self._effective

    @property
    def settings(self) -> "Settings":
        """The effective options."""
        return self.effective.settings

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
            self.last = None
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

    def _input(self, what: str) -> "Session":
        """Return the session, whose one and only input the caller is about to be."""
        session = self._up(what)
        if session.server is not None:
            raise StateError(
                f"{what} is a second input: {session.server.endpoint} is open, and a consecutor has one and only one"
            )
        return session

    def open_session(self, what: str) -> "Session":
        """Start, if need be, and return the session for an input that has the consecutor for itself.

        Raises:
            StateError: another input is open.
        """
        if self._session is None:
            self.up()
        return self._input(what)

    def give_up(self, session: "Session", error: BaseException) -> None:
        """End a session because of what its input has raised."""
        session.abandon(error)
        self._over(session)

    def __getitem__(self, name: str) -> Node:
        """Return the node of that name."""
        return self.graph[name]

    def push(self, value: Any) -> None:
        """Hand one value to the graph; it is recorded in the input log when this returns.

        Blocks under back-pressure. Each call waits for the disk: use `push_many` or `produce_from_iterable` for
        speed.

        Raises:
            CodecError: the value cannot be carried; it was not accepted.
            RefusedError: the consecutor is being stopped; the value was not accepted.
            StateError: the consecutor is not up.
        """
        self._input("push").feeder.push_many([value])

    #: a consecutor is a container, too
    append = push

    def push_many(self, values: Iterable[Any]) -> None:
        """Hand several values over; all are recorded when this returns. Raises what `push` raises."""
        self._input("push_many").feeder.push_many(list(values))

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
            self._over(session)

    def stop(self) -> Summary:
        """Take no more input, finish what is open, leave waiting retries in the log, and stop every part."""
        session = self._up("stop")
        try:
            return session.stop()
        finally:
            self._over(session)

    def _over(self, session: "Session") -> None:
        self._session = None
        self.last = session.summary()

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

        session = self.open_session("produce_from_iterable")
        try:
            with progress_bar(self, iterable, progress) as advance:
                session.feed(iterable, advance)
                return self.down(advance)
        except BaseException as error:
            session.abandon(error)
            self._over(session)
            raise

    def produce_from_stdin(self, format: str = "lines", progress: bool | None = None) -> Summary:
        """Feed what comes on stdin, to its end.

        Args:
            format: "lines" (of text, without their ends), "ndjson" or "msgpack".
            progress: as for `produce_from_iterable`.

        Raises:
            InputError: a line or a value is not in the format; everything before it is finished.
        """
        from consecutiond.cli.filevalues import file_values

        return self.produce_from_iterable(file_values(("-",), format, self.wait_for), progress)

    def produce_from_http(self, uri: str) -> Summary | None:
        """Feed what HTTP clients post; return after Ctrl-C, or when another thread has called `down` or `stop`.

        Args:
            uri: ``http://127.0.0.1:8080``; port 0 takes a free one, which is told on stderr.

        Returns:
            What the run came to; None when another thread has ended it.

        Raises:
            InputUriError: the uri is wrong, or not safe.
            InputError: the place cannot be used.
        """
        from consecutiond.inputs.opening import open_server
        from consecutiond.inputs.uris import parse_http
        from consecutiond.serving import serve

        parsed = parse_http(uri)
        return serve(self, lambda feeder: open_server(parsed, feeder))

    def produce_from_tcp(self, uri: str) -> Summary | None:
        """Feed what ZeroMQ clients send; returns as `produce_from_http` does.

        Args:
            uri: ``tcp://127.0.0.1:5555`` or ``ipc:///path``; ``?type=router`` answers each message with a receipt.
        """
        from consecutiond.inputs.opening import open_server
        from consecutiond.inputs.uris import parse_zmq
        from consecutiond.serving import serve

        parsed = parse_zmq(uri)
        return serve(self, lambda feeder: open_server(parsed, feeder))

    def expose_cli(self, argv: Sequence[str] | None = None) -> None:
        """Make the script that calls this a program: read its command line, run, and end the process.

        Does nothing in a module that is imported.

        Args:
            argv: the arguments; None takes those of the process.
        """
        if importer.loading:
            raise importer.Loaded(self)
        from consecutiond.cli.expose import expose, is_imported

        if not is_imported():
            expose(self, argv)

    def wait_for(self, fd: int) -> None:
        """Wait until a descriptor can be read, for an iterable that reads one; a stop ends the wait.

        Raises:
            RefusedError: the consecutor takes no more.
            GoneError: it is not there any more.
            StateError: the consecutor is not up.
        """
        self._up("wait_for").feeder.wait_for(fd)

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
            session = self._session
            session.abandon(error)
            self._over(session)

    def __repr__(self) -> str:
        return f"Consecutor({self.graph!r})"
