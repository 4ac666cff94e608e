"""The HTTP input as an ASGI application: who may ask what, and whether it is well."""

import asyncio
import hmac
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from consecutiond.feeder import Feeder
from consecutiond.inputs import openapi
from consecutiond.inputs.handover import Mailbox
from consecutiond.inputs.httpanswer import Receive, RefusalError, Scope, Send, refuse
from consecutiond.inputs.httpitems import Items
from consecutiond.inputs.uris import HttpUri, is_loopback

#: seconds for the last answers
_ANSWER_S: Final = 3.0


@dataclass(frozen=True)
class Limits:
    """Times and sizes of an HTTP input."""

    #: seconds for a request's line and headers
    head_s: float = 10.0
    #: seconds for a body; for a stream, seconds without a complete line
    body_s: float = 60.0
    #: seconds that a connection may be idle between requests
    idle_s: float = 30.0
    #: bytes of bodies that are in memory together, beyond which requests are put off
    bodies: int = 128 << 20


class App:
    """The application.

    Args:
        uri: says who may ask.
        feeder: takes the values.
        limits: times and sizes.
    """

    def __init__(self, uri: HttpUri, feeder: Feeder, limits: Limits) -> None:
        self._uri, self._feeder = uri, feeder
        self._token = None if uri.token is None else b"Bearer " + uri.token.encode("latin-1")
        self.counts: Counter[int] = Counter()
        self.items = Items(feeder, uri.max_body, limits.body_s, limits.bodies, 2 * uri.max_connections)
        prefix = uri.prefix
        self._starlette = Starlette(
            routes=[
                Route(f"{prefix}/items", self.items, methods=["POST"]),
                Route(f"{prefix}/healthz", self._healthz, methods=["GET"]),
                Route(f"{prefix}/readyz", self._readyz, methods=["GET"]),
                Route(f"{prefix}/openapi.json", self._openapi, methods=["GET"]),
                Route(f"{prefix}/", self._page, methods=["GET"]),
            ],
            exception_handlers={HTTPException: _http_exception},  # type: ignore[dict-item]
        )
        self._items_path = f"{prefix}/items"
        self._document = openapi.document(prefix, uri.max_body, token=uri.token is not None)
        self._html = openapi.page(self._document)

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, in the loop."""
        self.items.mail = Mailbox(self._feeder, loop)

    async def drain(self, timeout_s: float) -> None:
        """Take nothing more; return when every request has its answer, or the time is over."""
        self.items.stop()
        try:
            async with asyncio.timeout(timeout_s):
                await self.items.idle.wait()
        except TimeoutError:
            self.items.abandon()
            with suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_S):
                    await self.items.idle.wait()

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.counts[message["status"]] += 1
            await send(message)

        try:
            self._check(scope)
        except RefusalError as refusal:
            await refuse(receive, counted, refusal, unread=scope["method"] not in ("GET", "HEAD"))
            return
        if scope["path"] == self._items_path and scope["method"] == "POST":
            # The same as through the router, which asks more questions than this hot path needs.
            await self.items(scope, receive, counted)
        else:
            await self._starlette(scope, receive, counted)

    # --- who may ask -----------------------------------------------------------------------------------------

    def _check(self, scope: Scope) -> None:
        host = origin = authorization = None
        hosts = 0
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
                hosts += 1
            elif name == b"origin":
                origin = value
            elif name == b"authorization":
                authorization = value
        if self._token is not None:
            # Whoever has the token may come under any name: a web page of somebody else's has not.
            if scope["path"] == self._items_path and not hmac.compare_digest(authorization or b"", self._token):
                raise RefusalError(
                    401, "this needs the header `Authorization: Bearer TOKEN`", [(b"www-authenticate", b"Bearer")]
                )
            return
        if hosts > 1 or not self._is_ours(host.decode("latin-1") if host else ""):
            raise RefusalError(
                403, "the header Host names another machine; a web page may have tried to reach this one. Use "
                "http://127.0.0.1 or http://localhost, or allow the name with ?hosts=NAME in the uri",
            )  # fmt: skip
        if origin is not None and not self._is_ours(urlsplit(origin.decode("latin-1")).netloc):
            raise RefusalError(403, "web pages of other sites may not feed this")

    def _is_ours(self, netloc: str) -> bool:
        try:
            name = (urlsplit(f"//{netloc}").hostname or "").lower()
        except ValueError:
            return False
        return is_loopback(name) or name in self._uri.hosts

    # --- how it is -------------------------------------------------------------------------------------------

    async def _healthz(self, _request: Request) -> Response:
        error = self._feeder.error
        return _status(503 if error else 200, str(error) if error else "ok")

    async def _readyz(self, _request: Request) -> Response:
        if self._feeder.error is not None or self.items.stopping:
            return _status(503, str(self._feeder.error or "it is being stopped"))
        if self._feeder.full:
            return _status(503, "the backlog is full")
        return _status(200, "ok")

    async def _openapi(self, _request: Request) -> Response:
        return Response(self._document, media_type="application/json")

    async def _page(self, _request: Request) -> Response:
        policy = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return Response(self._html, media_type="text/html", headers=policy)


def _status(status: int, text: str) -> Response:
    return Response(msgspec.json.encode({"status": text}), status_code=status, media_type="application/json")


async def _http_exception(request: Request, error: HTTPException) -> Response:
    text = {404: f"there is nothing at {request.url.path}; items go to /items", 405: "the method is not for this path"}
    body = msgspec.json.encode({"error": text.get(error.status_code, error.detail)})
    return Response(body, status_code=error.status_code, headers=error.headers, media_type="application/json")
