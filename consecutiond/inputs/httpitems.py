"""``POST /items``: bodies in, values out, and an answer when they are recorded."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qsl

from consecutiond.feeder import Feeder, GoneError
from consecutiond.inputs import values
from consecutiond.inputs.handover import Handover, Mailbox
from consecutiond.inputs.httpanswer import Headers, Receive, RefusalError, Scope, Send, answer, refuse
from consecutiond.inputs.slow import Slow
from consecutiond_broker.errors import ConsecutiondError

_JSON: Final = "application/json"
_NDJSON: Final = "application/x-ndjson"
_MSGPACK: Final = ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")
_LATER: Final[Headers] = ((b"retry-after", b"1"),)
_STOPPING: Final[Headers] = ((b"retry-after", b"5"),)


class _GoneError(Exception):
    """The client has closed its connection."""


class Items:
    """The endpoint.

    Args:
        feeder: takes the values.
        max_body: bytes of a body, and of a line of a stream, at the utmost.
        body_s: seconds for a body; for a stream, seconds without a complete line.
        bodies: bytes of bodies in memory together.
        requests: how many may go on, those of clients that have gone included.
    """

    def __init__(self, feeder: Feeder, max_body: int, body_s: float, bodies: int, requests: int) -> None:
        self._feeder, self._max_body, self._body_s, self._bodies = feeder, max_body, body_s, bodies
        self._requests = requests
        self.mail: Mailbox
        self.stopping = False
        #: no request is going on
        self.idle = asyncio.Event()
        self.idle.set()
        self._waiting: set[Handover] = set()
        self._buffered = 0
        self._streams: set[asyncio.Timeout] = set()
        self._slow = Slow(body_s)

    def stop(self) -> None:
        """Take nothing more; streams end with what they have sent so far."""
        self.stopping = True
        for timeout in self._streams:
            timeout.reschedule(self.mail.loop.time())

    def abandon(self) -> None:
        """Answer every request with what is known."""
        for handover in self._waiting:
            handover.abandon(GoneError("it is being stopped, and what was on its way may be recorded or not"))

    @property
    def active(self) -> int:
        """How many requests are going on."""
        return len(self._waiting)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        body = _Body(receive)
        handover = Handover(self.mail)
        self._waiting.add(handover)
        self.idle.clear()
        try:
            await self._take(scope, body, handover)
        except RefusalError as refusal:
            await self._report(handover, refusal)
            await refuse(receive, send, refusal, unread=body.more)
        except _GoneError:
            await handover.over()
        else:
            await answer(send, 202, _recorded(handover))
        finally:
            self._waiting.discard(handover)
            if not self._waiting:
                self.idle.set()

    async def _take(self, scope: Scope, body: "_Body", handover: Handover) -> None:
        kind, length = self._kind(scope)
        each = _each(scope["query_string"])
        self._check_open()
        if kind == _NDJSON:
            if each:
                raise RefusalError(400, "each=1 is for arrays; a stream has a value a line in any case")
            await self._stream(body, handover)
        else:
            if length > self._max_body:
                raise self._too_large(f"the body has {length:,} bytes, more")
            raw = await self._whole(body)
            if kind == _JSON:
                parsed = (values.json_array if each else values.json_value)(raw, self._feeder.encode)
            else:
                parsed = (values.msgpack_array if each else values.msgpack_value)(raw, self._feeder.encode)
            self._hand_over(handover, parsed, "value")
        await handover.over()
        if handover.error is not None:
            raise _unavailable(handover.error)

    def _check_open(self) -> None:
        if self.stopping:
            raise RefusalError(503, "it is being stopped, and takes nothing more", _STOPPING)
        if self._feeder.error is not None:
            raise _unavailable(self._feeder.error)
        if self._feeder.full:
            raise RefusalError(429, "the backlog is full; try again later", _LATER)
        if len(self._waiting) > self._requests:
            raise RefusalError(429, "too many requests wait for their receipts; try again later", _LATER)

    def _hand_over(self, handover: Handover, parsed: values.Parsed, noun: str, before: int = 0) -> None:
        handover.submit(parsed.parts)
        if parsed.bad is not None:
            number = before + parsed.bad.number
            raise RefusalError(400, f"{noun} {number}: {parsed.bad.reason}", position={noun: number})

    async def _report(self, handover: Handover, refusal: RefusalError) -> None:
        """Add to a refusal what became of the values before it."""
        await handover.over()
        refusal.content.update(_recorded(handover))

    # --- bodies ----------------------------------------------------------------------------------------------

    async def _whole(self, body: "_Body") -> bytes:
        chunks: list[bytes] = []
        held = 0
        try:
            with self._slow:
                while body.more:
                    chunk = await body.next()
                    chunks.append(chunk)
                    held += len(chunk)
                    self._hold(len(chunk))
                    if held > self._max_body:
                        raise self._too_large("the body is larger")
        except TimeoutError:
            raise RefusalError(408, f"the body did not come within {self._body_s:g} s") from None
        finally:
            self._buffered -= held
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _hold(self, size: int) -> None:
        self._buffered += size
        if self._buffered > self._bodies:
            raise RefusalError(429, "too many large bodies at a time; try again later", _LATER)

    async def _stream(self, body: "_Body", handover: Handover) -> None:
        """Read lines as they come; hand them over before the next ones."""
        lines, rest, held = 0, bytearray(), 0
        try:
            async with asyncio.timeout(self._body_s) as timeout:
                self._streams.add(timeout)
                while body.more:
                    chunk = await body.next()
                    cut = chunk.rfind(b"\n") + 1
                    if cut:
                        raw = bytes(rest) + chunk[:cut]
                        self._hand_over(handover, values.json_lines(raw, self._feeder.encode), "line", lines)
                        lines += raw.count(b"\n")
                        rest.clear()
                        self._buffered -= held
                        held = 0
                        await self._room(handover, timeout)
                        if not self.stopping:
                            timeout.reschedule(self.mail.loop.time() + self._body_s)
                    rest += chunk[cut:]
                    held += len(chunk) - cut
                    self._hold(len(chunk) - cut)
                    if len(rest) > self._max_body:
                        raise self._too_large(f"line {lines + 1} is larger", line=lines + 1)
                self._hand_over(handover, values.json_lines(bytes(rest), self._feeder.encode), "line", lines)
        except TimeoutError:
            if self.stopping:
                raise RefusalError(503, "it is being stopped, and takes nothing more", _STOPPING) from None
            raise RefusalError(408, f"no complete line came within {self._body_s:g} s") from None
        finally:
            self._streams.discard(timeout)
            self._buffered -= held

    async def _room(self, handover: Handover, timeout: asyncio.Timeout) -> None:
        # The client is not to blame for the time that the graph takes.
        if not self.stopping:
            timeout.reschedule(None)
        await handover.room()
        if handover.error is not None:
            raise _unavailable(handover.error)

    def _too_large(self, what: str, **position: int) -> RefusalError:
        refusal = RefusalError(413, f"{what} than the {self._max_body:,} bytes that are allowed (max_body)")
        if position:
            refusal.content["position"] = position
        return refusal

    # --- heads -----------------------------------------------------------------------------------------------

    def _kind(self, scope: Scope) -> tuple[str, int]:
        """Return the format of the body, and its length if it is given."""
        kind, length = "", 0
        for name, value in scope["headers"]:
            if name == b"content-type":
                kind = value.decode("latin-1").lower()
            elif name == b"content-length":
                length = int(value)
            elif name == b"content-encoding" and value.lower() != b"identity":
                raise RefusalError(415, "compressed bodies are not taken")
        media, _, parameters = kind.partition(";")
        media, parameters = media.strip(), parameters.replace(" ", "").replace('"', "")
        if media in _MSGPACK:
            return _MSGPACK[0], length
        if media not in (_JSON, _NDJSON):
            raise RefusalError(
                415, f"a body of type {media or '(none)'} is not taken; say Content-Type: {_JSON}, {_NDJSON} or "
                f"{_MSGPACK[0]}",
            )  # fmt: skip
        if parameters not in ("", "charset=utf-8", "charset=utf8"):
            raise RefusalError(415, f"JSON is UTF-8, and this says {parameters}")
        return media, length


class _Body:
    """The body of a request as it comes."""

    def __init__(self, receive: Callable[[], Awaitable[object]]) -> None:
        self._receive: Receive = receive  # type: ignore[assignment]
        #: there is more to come
        self.more = True

    async def next(self) -> bytes:
        """Return the next piece."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.more = False
            raise _GoneError
        self.more = message.get("more_body", False)
        return bytes(message.get("body", b""))


def _recorded(handover: Handover) -> dict[str, object]:
    content: dict[str, object] = {"accepted": handover.accepted, "ids": handover.ranges}
    if handover.more:
        content["more_ids"] = True
    if handover.unknown:
        content["unknown"] = handover.unknown
    return content


def _unavailable(error: ConsecutiondError) -> RefusalError:
    return RefusalError(503, str(error), _STOPPING)


def _each(query: bytes) -> bool:
    """Return whether the elements of an array are the values."""
    if not query:
        return False
    each = False
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name != "each" or value not in ("0", "1"):
            raise RefusalError(400, f"the query {name}={value} means nothing here; there is each=1")
        each = value == "1"
    return each
