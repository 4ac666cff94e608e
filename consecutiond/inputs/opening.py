"""A uri becomes a server that feeds a consecutor, whichever kind it asks for."""

from typing import Final, Protocol

from consecutiond.feeder import Feeder
from consecutiond.inputs.uris import HttpUri, ZmqUri, parse_http, parse_zmq

#: schemes of uris for clients that speak HTTP, and for those that speak ZeroMQ
HTTP_SCHEMES: Final = ("http", "https")
ZMQ_SCHEMES: Final = ("tcp", "ipc")


class Server(Protocol):
    """What feeds a consecutor from outside."""

    endpoint: str

    def start(self) -> None:
        """Begin."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return whether it has ended."""

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish what has come, and end."""

    @property
    def refused(self) -> int:
        """How many requests or frames were not taken."""


def scheme_of(name: str) -> str:
    """Return the scheme of a uri, or nothing for the name of a file."""
    return name.partition("://")[0] if "://" in name else ""


def is_uri(name: str) -> bool:
    """Return whether a server is asked for."""
    return scheme_of(name) in (*HTTP_SCHEMES, *ZMQ_SCHEMES)


def parse_uri(uri: str) -> HttpUri | ZmqUri:
    """Read the uri of a server.

    Raises:
        InputUriError: with every fault.
    """
    return parse_http(uri) if scheme_of(uri) in HTTP_SCHEMES else parse_zmq(uri)


def open_server(uri: HttpUri | ZmqUri, feeder: Feeder) -> Server:
    """Listen; nothing is taken before `start`.

    Raises:
        InputError: the place cannot be used.
    """
    if isinstance(uri, HttpUri):
        from consecutiond.inputs.httpserver import HttpServer

        return HttpServer(uri, feeder)
    from consecutiond.inputs.zmqserver import ZmqServer

    return ZmqServer(uri, feeder)
