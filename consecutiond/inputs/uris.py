"""The uris of inputs: what they may say, and every fault of one that says something else."""

import difflib
import ipaddress
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from consecutiond.inputs.errors import InputUriError

#: bytes of the longest path of a Unix socket, see unix(7)
_SOCKET_PATH_MAX: Final = 107
_TOKEN_FORM: Final = "it takes 16 to 256 printable characters without blanks"  # noqa: S105 - no token
_EXAMPLES: Final = {
    "tcp": "tcp://127.0.0.1:5555?type=router",
    "ipc": "ipc:///run/user/1000/in.sock",
    "http": "http://127.0.0.1:8080",
}


@dataclass(frozen=True)
class ZmqUri:
    """Where a ZeroMQ server listens, and how."""

    #: for `bind`; a port of 0 is chosen by the system
    endpoint: str
    #: "pull" or "router"
    type: str = "pull"
    #: "msgpack", "json" or "auto"
    format: str = "msgpack"
    #: file with the server's secret CURVE key
    curve: Path | None = None
    #: directory with the public keys of the clients that may come in
    clients: Path | None = None
    #: bytes of the largest frame
    max_frame: int = 1 << 20


@dataclass(frozen=True)
class HttpUri:
    """Where an HTTP server listens, and how."""

    host: str
    port: int
    #: before every path; "" or "/something"
    prefix: str = ""
    #: bytes of the largest body, and of the largest line of a stream
    max_body: int = 8 << 20
    #: connections at the utmost
    max_connections: int = 512
    #: the bearer token, never a part of the uri
    token: str | None = None
    #: names beside the loopback's that requests may give as their host
    hosts: tuple[str, ...] = ()

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


def parse_zmq(uri: str) -> ZmqUri:
    """Read the uri of a ZeroMQ server.

    Raises:
        InputUriError: with every fault.
    """
    parts = _Parts(uri, ("tcp", "ipc"))
    options = parts.options(("type", "format", "curve", "clients", "max_frame"))
    curve, clients = parts.path("curve", options, directory=False), parts.path("clients", options, directory=True)
    given = ZmqUri(
        endpoint=parts.ipc() if parts.scheme == "ipc" else parts.tcp(),
        type=parts.choice("type", options, ("pull", "router")),
        format=parts.choice("format", options, ("msgpack", "json", "auto")),
        curve=curve, clients=clients,
        max_frame=parts.number("max_frame", options, 1 << 20, 1, 48 << 20),
    )  # fmt: skip
    if (curve is None) != (clients is None):
        parts.fault("curve and clients go together: the server's secret key, and the keys of those who may come in")
    if parts.scheme == "tcp" and not is_loopback(parts.host) and curve is None:
        parts.fault(
            f"{parts.host} can be reached from other machines, and whoever reaches it can feed the graph; keep to "
            "127.0.0.1, or ask for encryption and an allow-list with ?curve=SECRET_KEY_FILE&clients=DIRECTORY"
        )
    if parts.scheme == "ipc" and curve is not None:
        parts.fault("curve is for tcp; an ipc socket is for this user alone")
    parts.check()
    return given


def parse_http(uri: str, token: str | None = None) -> HttpUri:
    """Read the uri of an HTTP server.

    Args:
        uri: such as ``http://127.0.0.1:8080``.
        token: the bearer token, if it does not come from a file.

    Raises:
        InputUriError: with every fault.
    """
    parts = _Parts(uri, ("http",))
    options = parts.options(("token_file", "max_body", "max_connections", "hosts"))
    file = parts.path("token_file", options, directory=False)
    if file is not None:
        token = parts.secret(file)
    elif token is not None and not _is_token(token.encode()):
        parts.fault(f"the token is none: {_TOKEN_FORM}")
    given = HttpUri(
        host="127.0.0.1" if parts.host == "localhost" else parts.host,
        port=parts.port,
        prefix=parts.path_prefix(),
        max_body=parts.number("max_body", options, 8 << 20, 1, 48 << 20),
        max_connections=parts.number("max_connections", options, 512, 1, 65536),
        token=token,
        hosts=tuple(name for name in options.get("hosts", "").lower().split(",") if name),
    )
    if not is_loopback(parts.host) and token is None:
        parts.fault(
            f"{parts.host} can be reached from other machines, and whoever reaches it can feed the graph; keep to "
            "127.0.0.1, or ask for a bearer token with ?token_file=FILE"
        )
    parts.check()
    return given


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host; names other than localhost are not trusted to stay so."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Parts:
    """A uri in parts, and the faults found so far."""

    def __init__(self, uri: str, schemes: Collection[str]) -> None:
        self._uri, self._faults = uri, list[str]()
        self.scheme, self.host, self.port = "", "", 0
        try:
            self._split = urlsplit(uri)
        except ValueError as error:
            raise InputUriError(f"{uri!r} is no uri: {error}; an example: {_EXAMPLES[next(iter(schemes))]}") from None
        self._read_scheme(uri, schemes)
        if self.scheme != "ipc":
            self._read_place()
        if self._split.fragment:
            self.fault(f"#{self._split.fragment} means nothing here")

    def _read_scheme(self, uri: str, schemes: Collection[str]) -> None:
        self.scheme = self._split.scheme
        if "://" in uri and self.scheme in schemes:
            return
        close = difflib.get_close_matches(self.scheme, schemes, 1)
        wanted = " or ".join(f"{scheme}://" for scheme in schemes)
        hint = f"; did you mean {close[0]}://?" if close and close[0] != self.scheme else ""
        example = _EXAMPLES[close[0] if close else next(iter(schemes))]
        raise InputUriError(f"{uri!r} does not begin with {wanted}{hint}\n  an example: {example}")

    def _read_place(self) -> None:
        netloc = self._split.netloc
        if "@" in netloc:
            self.fault("names and passwords do not belong into a uri, which everybody can read")
        self.host = self._split.hostname or ""
        try:
            port = self._split.port
        except ValueError:
            port = -1
        if not self.host:
            self.fault("the host is missing")
        if port is None:
            self.fault("the port is missing; 0 lets the system choose one")
        elif not 0 <= port <= 65535:
            self.fault(f"the port {netloc.rpartition(':')[2]!r} is no number from 0 to 65535")
        self.port = port or 0

    def fault(self, text: str) -> None:
        """Note a fault."""
        self._faults.append(text)

    def check(self) -> None:
        """Raise what was noted."""
        if self._faults:
            example = _EXAMPLES.get(self.scheme, _EXAMPLES["tcp"])
            text = "\n".join(f"  {fault}" for fault in self._faults)
            raise InputUriError(f"the uri {self._uri!r} is wrong:\n{text}\n  an example: {example}")

    # --- places ----------------------------------------------------------------------------------------------

    def tcp(self) -> str:
        """Return the endpoint of a tcp uri."""
        if self._split.path not in ("", "/"):
            self.fault(f"a tcp uri has no path, and this has {self._split.path!r}")
        host = "127.0.0.1" if self.host == "localhost" else self.host
        if host and host != "*":
            try:
                host = f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
            except ValueError:
                self.fault(f"{host!r} is no address to listen at: it takes an IP address, localhost, or * for all")
        return f"tcp://{host}:{self.port}"

    def ipc(self) -> str:
        """Return the endpoint of an ipc uri."""
        place = self._split.netloc + self._split.path
        if not place or place.endswith("/") or place.startswith("@"):
            self.fault("the path of a socket file is missing")
            return ""
        path = os.path.abspath(place)
        if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
            self.fault(f"the path {path} is longer than the {_SOCKET_PATH_MAX} bytes that a socket's may have")
        if not os.path.isdir(os.path.dirname(path)):
            self.fault(f"there is no directory {os.path.dirname(path)}")
        elif os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
            self.fault(f"{path} is there, and it is no socket")
        return f"ipc://{path}"

    def path_prefix(self) -> str:
        """Return the path of an http uri, without a slash at its end."""
        path = self._split.path.rstrip("/")
        if not all(part.replace("-", "").replace("_", "").replace(".", "").isalnum() for part in path.split("/")[1:]):
            self.fault(f"the path {path!r} has something else than letters, digits, '-', '_', '.' and '/'")
        return path

    # --- options ---------------------------------------------------------------------------------------------

    def options(self, known: Collection[str]) -> dict[str, str]:
        """Return what stands behind the question mark."""
        found: dict[str, str] = {}
        for name, value in parse_qsl(self._split.query, keep_blank_values=True):
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
                self.fault(f"there is no option {name}; {hint}")
            elif name in found:
                self.fault(f"{name} is given twice")
            else:
                found[name] = value
        return found

    def choice(self, name: str, options: Mapping[str, str], known: tuple[str, ...]) -> str:
        """Return one of some words; the first is the default."""
        value = options.get(name, known[0])
        if value not in known:
            close = difflib.get_close_matches(value, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            self.fault(f"{name}={value} means nothing; {hint}")
        return value

    def number(self, name: str, options: Mapping[str, str], default: int, least: int, most: int) -> int:
        """Return a number."""
        text = options.get(name, str(default))
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
        if not least <= value <= most:
            self.fault(f"{name}={text} is no number from {least} to {most}")
        return value

    def path(self, name: str, options: Mapping[str, str], *, directory: bool) -> Path | None:
        """Return a file or directory that is there."""
        if name not in options:
            return None
        path = Path(options[name])
        if not (path.is_dir() if directory else path.is_file()):
            self.fault(f"{name}: there is no {'directory' if directory else 'file'} {path}")
        return path

    def secret(self, path: Path) -> str | None:
        """Return what stands in a file that others cannot read."""
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    self.fault(f"others than you can read {path}; try: chmod 600 {path}")
                text = file.read(4096).strip()
        except OSError as error:
            self.fault(f"{path} cannot be read: {error.strerror}")
            return "unreadable"
        if not _is_token(text):
            self.fault(f"{path} holds no token: {_TOKEN_FORM}")
        return text.decode("latin-1")


def _is_token(text: bytes) -> bool:
    return 16 <= len(text) <= 256 and all(0x21 <= byte < 0x7F for byte in text)
