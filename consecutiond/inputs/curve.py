"""CURVE keys of a ZeroMQ server, and the list of the clients that may come in."""

from pathlib import Path
from typing import Final

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from consecutiond.inputs.errors import InputError

#: what the server's sockets are called where clients are let in
DOMAIN: Final = "consecutiond"


class Gate:
    """Lets in only clients whose public keys are in a directory.

    Args:
        context: the server's own context; one gate a context.
        secret: file with the server's keys, as ``zmq.auth.create_certificates`` writes it.
        clients: directory with ``.key`` files of the clients.

    Raises:
        InputError: the keys cannot be used.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", secret: Path, clients: Path) -> None:
        if not zmq.has("curve"):
            raise InputError("this libzmq was built without CURVE encryption; install pyzmq from its wheel")
        if secret.stat().st_mode & 0o077:
            raise InputError(f"others than you can read the secret key {secret}; try: chmod 600 {secret}")
        try:
            self._public, self._secret = zmq.auth.load_certificate(secret)
        except (OSError, ValueError) as error:
            raise InputError(f"there is no CURVE key in {secret}: {error}") from None
        if self._secret is None:
            raise InputError(f"{secret} holds a public key; the server needs the file with the secret one")
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve(domain=DOMAIN, location=clients)

    def guard(self, socket: "zmq.Socket[bytes]") -> None:
        """Make a socket that is not bound yet let in nobody else."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._secret or b"")

    def close(self) -> None:
        """Stop looking at who comes."""
        self._authenticator.stop()
