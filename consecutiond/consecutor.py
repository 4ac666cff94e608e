"""The Consecutor: a graph, its options and its outputs; up, push, down."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from consecutiond_broker.errors import ConsecutiondError
from consecutiond_nodes import importer
from consecutiond_nodes.graph import Graph, Node, as_graph
from consecutiond_nodes.outputs import Container

if TYPE_CHECKING:
    from consecutiond.config import Settings
    from consecutiond.effective import Effective, Given
    from consecutiond.inputs.uris import HttpUri, ZmqUri
    from consecutiond.session import Session


_TWICE: Final = "up() was called twice: one consecutor has one input stream; call down() first"


class StateError(ConsecutiondError):
    """A method was called at a time at which it cannot work."""


@dataclass(frozen=True)
class Summary:
    """What a run came to; counts are of this run alone.

    ``accepted + taken_over = completed + failed + discarded + open`` always holds, unless nothing is tracked.
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
    #: failed roots that operators threw away, or that were dropped as the policy of a node wants it
    discarded: int = 0


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
        #: the newest run ended with its input, and nobody has called `down` for it yet
        self._over_by_itself = False
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
            container: anything with ``append``; it is called from another thread of this process. Another consecutor
                is fed with what is written; if it is not up, it comes up and ends with this one.

        Raises:
            StateError: the consecutor is up already, or feeds itself through the container.
            TypeError: the container has no ``append``.
        """
        if self._session is not None:
            raise StateError(f"register_output({name!r}) came after up(): register outputs before the start")
        if not callable(getattr(container, "append", None)):
            raise TypeError(f"an output container has a method append(value); {container!r} has none")
        if isinstance(container, Consecutor) and container.feeds(self):
            raise StateError(f"register_output({name!r}): what it writes would come back to it, and neither could end")
        self.outputs[name] = container
        return self

    def feeds(self, other: "Consecutor") -> bool:
        """Return whether what this one writes comes to another one, or to itself."""
        return self is other or any(
            isinstance(container, Consecutor) and container.feeds(other) for container in self.outputs.values()
        )

    def up(self) -> Self:
        """Start every part; return when all are up.

        With the option ``input`` it also takes that input, and returns when all of it is over: at the end of stdin or
        files; where clients feed it, after Ctrl-C, or when another thread has called `down` or `stop`. `last` then has
        what the run came to, and `down` returns it, too. Without outputs of its own it prints what nodes `write`; when
        nobody reads stdout any more, as after ``| head``, the program ends with exit code 7.

        Raises:
            StartError: a part did not come up; the text has the user's own traceback.
            RunDirError: the directory cannot be used, or a live consecutor has the id.
            StateError: it is up already.
            InputUriError: the input's uri is wrong, or not safe.
            InputError: the input cannot be read, or its place cannot be used.
        """
        if self.settings.input and not importer.loading:
            self.take_input()
        else:
            self.start()
        return self

    def take_input(self) -> None:
        """Start, and feed what the option ``input`` names, to its end. Raises what `up` raises."""
        if self._session is not None:
            raise StateError(_TWICE)
        from consecutiond.cli.feed import produce_of
        from consecutiond.cli.foreground import as_filter

        with as_filter(self):
            produce_of(self, self.settings, quiet=False)()

    def start(self) -> None:
        """Start every part; take no input. Raises what `up` raises."""
        if importer.loading:
            # A script without `if __name__ == "__main__"` is being imported by a worker: it has what it came for.
            raise importer.Loaded(self)
        with self._lock:
            if self._session is not None:
                raise StateError(_TWICE)
            from consecutiond.session import Session

            self._session = Session(self)
            self.last, self._over_by_itself = None, False
        try:
            self._session.open()
        except BaseException:
            self._session = None
            raise

    def join(self, before: str, defaults: Mapping[str, Any]) -> tuple["Session", bool]:
        """Become the output of another consecutor.

        Args:
            before: the id of the other one.
            defaults: options for a consecutor that is not up and does not say otherwise.

        Returns:
            The session, and whether it was begun here.

        Raises:
            StateError: a server is its input.
        """
        begun = self._session is None
        if begun:
            if self._effective is None:
                from consecutiond.effective import Given

                self.configure(Given(), defaults)
            self.start()
        session = self.session_for(f"an output of {before}")
        session.fed_by.add(before)
        return session, begun

    def _up(self, what: str) -> "Session":
        if self._session is None:
            raise StateError(f"{what} needs a running consecutor: call up() first")
        return self._session

    def session_for(self, what: str) -> "Session":
        """Return the session, for values that are pushed.

        Raises:
            StateError: the consecutor is not up, or a server is its input.
        """
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
            self.start()
        session = self.session_for(what)
        if session.fed_by:
            raise StateError(f"{what} is a second input: this consecutor is an output of {', '.join(session.fed_by)}")
        return session

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
        self.session_for("push").feeder.push_many([value])

    #: a consecutor is a container, too
    append = push

    def push_many(self, values: Iterable[Any]) -> None:
        """Hand several values over; all are recorded when this returns. Raises what `push` raises."""
        self.session_for("push_many").feeder.push_many(list(values))

    def down(self, progress: Callable[[int], None] | None = None) -> Summary:
        """End the input, let the graph finish and end, node by node, and stop every part.

        Returns:
            What the run came to; after a run that its input has ended already, what that came to.

        Raises:
            StateError: the consecutor is not up.
        """
        if self._session is None and self._over_by_itself and self.last is not None:
            self._over_by_itself = False
            return self.last
        session = self._up("down")
        try:
            return session.finish(progress)
        finally:
            self._over(session)

    def stop(self, timeout_s: float | None = None) -> Summary:
        """Take no more input, finish what is open, leave waiting retries in the log, and stop every part.

        It can be called from any thread. A consecutor that is not up here, but in another process with the same id and
        directory, is stopped there.

        Args:
            timeout_s: seconds after which the processes are killed, and what is open stays in the log; None takes
                the option ``stop_timeout_s`` of the consecutor that runs.

        Returns:
            What the run came to; of another process's, since this call.

        Raises:
            StateError: it is up nowhere.
            ControlError: it is still there although it was killed.
        """
        session = self._session
        if session is None:
            from consecutiond.stopping import stop_elsewhere

            return stop_elsewhere(self, timeout_s)
        try:
            return session.stop(timeout_s)
        finally:
            self._over(session)

    def is_up(self, session: "Session") -> bool:
        """Return whether nobody has said yet that a session is over."""
        return self._session is session

    def wait_over(self, session: "Session") -> Summary:
        """Wait until another thread has ended a session; return what it came to."""
        summary = session.wait_over()
        self._over(session)
        return summary

    def _over(self, session: "Session") -> None:
        with self._lock:
            if self._session is session:
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
        finally:
            self._over_by_itself = True

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

    def produce_from_http(self, uri: str) -> Summary:
        """Feed what HTTP clients post; return after Ctrl-C, or when another thread has called `down` or `stop`.

        Args:
            uri: ``http://127.0.0.1:8080``; port 0 takes a free one, which is told on stderr.

        Returns:
            What the run came to, also when another thread has ended it.

        Raises:
            InputUriError: the uri is wrong, or not safe.
            InputError: the place cannot be used.
        """
        from consecutiond.inputs.uris import parse_http

        return self._serve(parse_http(uri))

    def produce_from_tcp(self, uri: str) -> Summary:
        """Feed what ZeroMQ clients send; returns as `produce_from_http` does.

        Args:
            uri: ``tcp://127.0.0.1:5555`` or ``ipc:///path``; ``?type=router`` answers each message with a receipt.
        """
        from consecutiond.inputs.uris import parse_zmq

        return self._serve(parse_zmq(uri))

    def _serve(self, uri: "HttpUri | ZmqUri") -> Summary:
        from consecutiond.inputs.opening import open_server
        from consecutiond.serving import serve

        try:
            return serve(self, lambda feeder: open_server(uri, feeder))
        finally:
            self._over_by_itself = True

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
