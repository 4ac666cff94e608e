"""Opening a consecutor to other machines: keys, the file that workers connect with, and addresses that are free."""

import errno
import os
import socket
import stat
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import zmq

from consecutiond.config import ConfigError
from consecutiond.plan import Plan
from consecutiond.supervision.states import HEART
from consecutiond_broker.errors import ConsecutiondError
from consecutiond_broker.tcp import ClientKeys, ServerKeys
from consecutiond_nodes.remote import Connection

#: what is said of an address in use
_TAKEN: Final = "somebody listens there"
#: seconds for which an address is waited for: an earlier run's processes die a moment after its root
_PATIENCE_S: Final = 1.0
_PAUSE_S: Final = 0.05


class _Keys(ServerKeys, frozen=True):
    """The file that stays with the consecutor; those who listen read the inherited half of it."""

    #: of the workers, whose public key is the only one among `clients`
    client_secret: str


def open_to_others(plan: Plan, keys: Path, connection: Path) -> None:
    """Make what workers on other machines need, and say how they are started.

    Args:
        plan: of the consecutor.
        keys: the file with its keys, which is made when it is missing.
        connection: the file that workers connect with, which is made anew.

    Raises:
        ConfigError: an address cannot be used.
        ConsecutiondError: the keys cannot.
    """
    remote = plan.remote
    _check_free([*remote.local.values(), *remote.uris.values(), *filter(None, (remote.door, remote.acker))])
    if remote.encrypted:
        _check_curve()
    client = _client_keys(keys) if remote.encrypted else None
    if remote.door:
        _write(connection, Connection(remote.door, client))
        commands = dict.fromkeys(plan.parts[HEART].door.commands.values())
        print(
            "consecutiond: waiting for workers on other machines; start there:", *commands, sep="\n  ", file=sys.stderr
        )


def _check_free(uris: list[str]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while any(_why_not(uri) == _TAKEN for uri in uris) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
    faults = [f"{uri} cannot be used: {why}" for uri in uris if (why := _why_not(uri))]
    if faults:
        raise ConfigError("uris of edges, or remote_uri, are wrong:\n" + "\n".join(f"  {fault}" for fault in faults))


def _why_not(uri: str) -> str:
    """Try to listen, or, at a Unix socket, to find somebody who does: what a dead one has left is taken over."""
    scheme, _, place = uri.partition("://")
    try:
        if scheme == "tcp":
            host, _, port = place.rpartition(":")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, int(port)))
                probe.listen()
            return ""
        if not Path(place).parent.is_dir():
            return f"there is no directory {Path(place).parent}"
        if os.path.lexists(place) and not stat.S_ISSOCK(os.lstat(place).st_mode):
            return "there is a file of that name, which is no socket"
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(place)
        return _TAKEN
    except (FileNotFoundError, ConnectionRefusedError):
        return ""
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _TAKEN
        if error.errno == errno.EADDRNOTAVAIL:
            return "this machine does not have that address"
        return error.strerror or str(error)


def _check_curve() -> None:
    if not zmq.has("curve"):
        raise ConsecutiondError("this libzmq was built without CURVE encryption; install pyzmq from its wheel")


def _client_keys(path: Path) -> ClientKeys:
    """Return the keys of the workers; they stay the same, so that a copied connection file keeps its worth."""
    try:
        known = msgspec.json.decode(path.read_bytes(), type=_Keys)
    except FileNotFoundError:
        (public, secret), (client, client_secret) = zmq.curve_keypair(), zmq.curve_keypair()
        known = _Keys(public.decode(), secret.decode(), (client.decode(),), client_secret.decode())
        _write(path, known)
    except (OSError, msgspec.DecodeError) as error:
        raise ConsecutiondError(
            f"the keys in {path} cannot be read ({error}); remove it, and new ones are made"
        ) from None
    return ClientKeys(known.public, known.clients[0], known.client_secret)


def _write(path: Path, content: Any) -> None:
    """Write a file that nobody else can read, complete or not at all."""
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=1))
    draft.replace(path)
