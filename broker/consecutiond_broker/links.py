"""Workers on other machines, as a broker's ROUTER sees them: who speaks on which connection, and who is gone.

No kernel proves the death of a process elsewhere. All that can be seen is the end of its connection, which the
heartbeats of ZeroMQ bring about when the other side is silent. libzmq tells the number of the connection (its
descriptor) with every message and with the event of its end.
"""

import struct
from typing import Final

import zmq

from consecutiond_broker import wire
from consecutiond_broker.tcp import Listen, listen

_EVENT: Final = struct.Struct("=Hi")


class Links:
    """The connections from other machines to one ROUTER.

    Args:
        context: of the router.
        router: already bound to where local workers connect.
        where: the address for the others.

    Raises:
        ListenError: the address or the keys cannot be used.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", router: "zmq.Socket[bytes]", where: Listen) -> None:
        self._router = router
        #: peer -> connection on which it has joined, and back
        self._link: dict[bytes, int] = {}
        self._newest: dict[tuple[str, str], tuple[bytes, int]] = {}
        self._peer: dict[int, bytes] = {}
        self.monitor = router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        listen(context, router, where)

    def receive(self) -> tuple[list[bytes], int]:
        """Return the next message, and the connection on which it came.

        Raises:
            zmq.Again: there is none.
        """
        frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
        return [frame.bytes for frame in frames], int(frames[-1].get("__fd"))

    def rival(self, peer: bytes, head: wire.Join) -> tuple[bytes, int] | None:
        """Return another incarnation of the worker that greets, and its epoch; from now on the newer one is known.

        Workers on other machines have an identity for each incarnation. With one for all of them, two that live at
        the same time would take the connection away from each other, again and again.
        """
        key = head.side, head.name
        known = self._newest.get(key)
        if known is None or known[1] < head.epoch:
            self._newest[key] = peer, head.epoch
        return known if known is not None and known[0] != peer else None

    def joined(self, peer: bytes, link: int) -> None:
        """Note that a peer on another machine was admitted on this connection."""
        self._peer.pop(self._link.pop(peer, -1), None)
        self._link[peer], self._peer[link] = link, peer

    def gone(self) -> list[bytes]:
        """Return the peers whose connections have ended since the last call.

        Call it before `joined`, too: the number of a connection may be given out again, and the event of its end is
        there before the first message of the new one.
        """
        lost: list[bytes] = []
        while True:
            try:
                event, _ = self.monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return lost
            peer = self._peer.pop(_EVENT.unpack(event)[1], None)
            if peer is not None:
                del self._link[peer]
                lost.append(peer)

    def close(self) -> None:
        """Stop to look."""
        self._router.disable_monitor()
        self.monitor.close(linger=0)
