"""How the HTTP input answers: JSON, and refusals that reach a client which is still sending."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

import msgspec

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

_JSON: Final = (b"content-type", b"application/json")
#: seconds and bytes for which the rest of a refused body is read: a client that is cut off while it sends never sees
#: the answer
_LINGER_S: Final = 2.0
_LINGER_BYTES: Final = 64 << 20

_encode = msgspec.json.Encoder().encode


class RefusalError(Exception):
    """A request that is not done as asked.

    Attributes:
        status: the HTTP status.
        content: what the answer says; it has an `error`.
        headers: more headers.
    """

    def __init__(self, status: int, error: str, headers: Headers = (), **content: Any) -> None:
        super().__init__(error)
        self.status, self.headers = status, headers
        self.content = {"error": error, **content}


async def answer(send: Send, status: int, content: dict[str, Any], headers: Headers = ()) -> None:
    """Send an answer."""
    body = _encode(content)
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [_JSON, length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def refuse(receive: Receive, send: Send, refusal: RefusalError, *, unread: bool) -> None:
    """Send a refusal; with `unread`, let the client finish sending, within limits, and close the connection."""
    if not unread:
        await answer(send, refusal.status, refusal.content, refusal.headers)
        return
    body = _encode(refusal.content)
    head = [_JSON, (b"content-length", str(len(body)).encode()), (b"connection", b"close"), *refusal.headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    try:
        async with asyncio.timeout(_LINGER_S):
            left = _LINGER_BYTES
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    break
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b""})
