"""One connection to a Redis server: requests in, answers out, every fault told with what to do about it."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from redis import ConnectionPool, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from consecutiond.acker.stores.base import StoreError
from consecutiond.storeurls import masked

#: seconds to wait for a connection, and for an answer; a disk that is slow to synchronise needs a few; 1 to 60.
#: Both can be set in the URL, as ``?socket_timeout=30``
_TIMEOUT_S: Final = 10.0

Command = tuple[Any, ...]

#: how an answer of the server, or a fault of the connection, begins -> probable cause and what to do
_REMEDIES: Final = (
    ("OOM", "the server has used all of its `maxmemory`: raise it, or make room; what was not recorded is tried again"),
    ("READONLY", "this is a read-only replica: name its primary in the URL"),
    ("MISCONF", "the server could not save its snapshot: make room on its disk, and see its log"),
    ("NOREPLICAS", "the server wants more replicas than it has (`min-replicas-to-write`)"),
    ("MASTERDOWN", "this is a replica that has lost its primary: name the primary in the URL"),
    ("MOVED", "this is a node of a cluster that does not hold this log: name the node that the answer names"),
    ("CLUSTERDOWN", "the cluster has no node for this log: repair it"),
    ("NOPERM", "the user of the URL lacks a right: it needs all commands on the keys of this log"),
    ("WRONGTYPE", "another program uses our keys: give the log a name of its own with ?prefix=NAME in the URL"),
    ("WRONGPASS", "the user or the password in the URL is wrong"),
    ("invalid username-password", "the user or the password in the URL is wrong"),
    ("invalid password", "the password in the URL is wrong"),
    ("NOAUTH", "the server wants a password: redis://:PASSWORD@host:port, or in a file that --config names"),
    ("Authentication required", "the server wants a password: redis://:PASSWORD@host:port"),
    ("AUTH <password> called without any password", "the server has no password: leave it out of the URL"),
    ("DB index is out of range", "the server has no database of that number: see the end of the URL"),
    ("Redis is loading", "the server has just been started and reads its data: it answers when it has"),
    ("max number of clients", "the server has too many clients: raise its `maxclients`"),
    ("BUSY", "the server runs somebody's script, which does not end"),
    ("Timeout", "the server hangs, or its disk does: look whether it runs, and at its log"),
    ("Error", "the server is down, or the address is wrong: start it, or correct the URL"),
    ("Connection", "the server was stopped or restarted: see its log"),
)


class Link:
    """A connection that is made when it is first needed, and again after it broke.

    Args:
        url: as redis-py takes it, with the parts that are ours already out of it.
        greet: called with each new connection before anything else is sent; what it raises ends the connection.
        what: what the server is here, for errors.

    """

    def __init__(self, url: str, greet: Callable[["Link"], None], what: str = "the store") -> None:
        self.address, self._what = masked(url), what
        self._greet = greet
        self._connection: Any = None
        try:
            # RESP2: no server says anything that it was not asked for. No retry: only the store knows what may
            # be sent twice.
            pool = ConnectionPool.from_url(
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, protocol=2,
                retry=Retry(NoBackoff(), 0), client_name="consecutiond",
            )  # fmt: skip
            # Only the first: a pool counts those that it has made, and after a hundred makes no other.
            self._again = pool.make_connection()
        except (ValueError, TypeError, exceptions.RedisError) as error:
            raise StoreError(
                f"{self.address} is no URL of a Redis server: {error}. It is redis://host:port/db, "
                "rediss://host:port/db or unix:///path/of/socket?db=0."
            ) from error

    def close(self) -> None:
        """End the connection; does nothing when there is none."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def ask(self, *commands: Command) -> list[Any]:
        """Send requests that may be sent twice, as `try_ask` does, and return their answers.

        Raises:
            StoreError: one of the answers is an error, or there is no connection.

        """
        return self._checked(self.try_ask(*commands))

    def try_ask(self, *commands: Command) -> list[Any]:
        """Send requests that may be sent twice, and return their answers, errors among them.

        A connection that turns out to be broken is made again once, since servers end idle ones.

        Raises:
            StoreError: there is no connection.

        """
        answers = self._exchanged(commands) if self._connection is not None else None
        return self.send(*commands) if answers is None else answers

    def _exchanged(self, commands: Sequence[Command]) -> list[Any] | None:
        """Return the answers, None when the old connection is broken."""
        try:
            return self._exchange(commands)
        except exceptions.TimeoutError as error:
            # A second try would only double the wait.
            raise self._told(error) from error
        except (exceptions.ConnectionError, OSError):
            return None

    def ask_at_once(self, *commands: Command) -> list[Any]:
        """Send requests in a transaction, as `ask` does, and return their answers, all as of one moment."""
        *_, answers = self.ask(("MULTI",), *commands, ("EXEC",))
        return self._checked(answers)

    def ask_now(self, *commands: Command) -> list[Any]:
        """Send requests once, and return their answers.

        Raises:
            StoreError: one of the answers is an error, or there is no connection.

        """
        return self._checked(self.send(*commands))

    def send(self, *commands: Command) -> list[Any]:
        """Send requests once, and return their answers, errors among them.

        Raises:
            StoreError: there is no connection, or it broke; whether the server has done anything is not known.

        """
        try:
            if self._connection is None:
                self._connect()
            return self._exchange(commands)
        except (exceptions.RedisError, OSError) as error:
            self.close()
            raise self._told(error) from error

    def _connect(self) -> None:
        self._connection = self._again
        try:
            self._connection.connect()
            self._greet(self)
        except BaseException:
            self.close()
            raise

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            return [_answer(connection) for _ in commands]
        except (exceptions.RedisError, OSError):
            self.close()
            raise

    def _checked(self, answers: list[Any]) -> list[Any]:
        error = first_error(answers)
        if error is not None:
            raise self._told(error)
        return answers

    def _told(self, error: Exception) -> StoreError:
        return StoreError(f"{self._what} at {self.address} does not work: {explained(error)}")


def first_error(answers: Sequence[Any]) -> Exception | None:
    """Return the first answer that is an error."""
    return next((answer for answer in answers if isinstance(answer, Exception)), None)


def explained(error: Exception) -> str:
    """Return what a server or a connection said, with the probable cause and what to do."""
    said = _said(error)
    remedy = next((text for begin, text in _REMEDIES if said.startswith(begin)), "")
    return f"{said.rstrip('.')}. Probably {remedy}." if remedy else f"{said.rstrip('.')}."


def is_full(error: Exception) -> bool:
    """Tell whether a server has refused something because its memory is full."""
    return isinstance(error, exceptions.OutOfMemoryError)


def _said(error: Exception) -> str:
    said = str(error) or type(error).__name__
    code = {
        exceptions.OutOfMemoryError: "OOM", exceptions.ReadOnlyError: "READONLY",
        exceptions.NoPermissionError: "NOPERM", exceptions.MasterDownError: "MASTERDOWN",
        exceptions.ClusterDownError: "CLUSTERDOWN", exceptions.MovedError: "MOVED",
    }.get(type(error), "")  # fmt: skip
    # redis-py cuts off the codes that it has classes for.
    return said if not code or said.startswith(code) else f"{code} {said}"


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except exceptions.ConnectionError:
        raise
    except exceptions.ResponseError as error:
        return error
