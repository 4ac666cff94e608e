"""What a service manager is told, over its notification socket: sd_notify(3), without its library."""

import os
import socket
from collections.abc import Mapping
from typing import Final

from consecutiond.logs import get_logger

log = get_logger("heart")

#: environment: where the service manager listens, and how often it wants to hear of us, microseconds
SOCKET: Final = "NOTIFY_SOCKET"
WATCHDOG: Final = "WATCHDOG_USEC"


class Notifier:
    """Sends states to the service manager; does nothing where there is none.

    The heart speaks for the service although it is not its main process, so the unit needs ``NotifyAccess=all``.

    Args:
        environment: of the process.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get(SOCKET, "")
        # A path that begins with @ is in the abstract namespace.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if path else None
        if self._socket is not None:
            self._socket.setblocking(False)
        usec = environment.get(WATCHDOG, "")
        #: seconds between two signs of life, half of what the manager allows; 0: it does not want any
        self.watchdog_s = int(usec) / 2e6 if usec.isdigit() else 0.0

    def __bool__(self) -> bool:
        """Tell whether anybody listens."""
        return self._socket is not None

    def send(self, **fields: str) -> None:
        """Send assignments such as ``READY="1"``; a manager that does not listen is nobody's fault here."""
        if self._socket is None:
            return
        text = "\n".join(f"{name}={value}" for name, value in fields.items())
        try:
            self._socket.sendto(text.encode("utf-8", "backslashreplace"), self._address)
        except OSError as error:
            log.warning("notify.not_sent", error=str(error), fields=sorted(fields))

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
