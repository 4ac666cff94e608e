"""Asks a Redis server what it is set to, what it does, and whether it would take a write; nothing is written."""

import os
import re
import stat
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Struct
from redis import exceptions

from consecutiond.acker.stores.base import StoreError
from consecutiond.acker.stores.redislink import Link, explained, first_error
from consecutiond.storeurls import masked, redis_parts

#: settings that INFO does not tell
_ASKED: Final = ("appendfsync", "save", "stop-writes-on-bgsave-error")
_USER: Final = re.compile(r"://[^/]*@")
_CREDENTIALS: Final = re.compile(r"([?&])(?:username|password)=[^&]*")
_LOOPBACK: Final = re.compile(r"localhost|127(\.\d+){3}|::1|\[::1\]")


class RedisFacts(Struct, frozen=True):
    """What is known of a server.

    Attributes:
        address: its URL, without the password.
        error: why it was not asked, with what to do; else "".
        info: the fields of INFO.
        settings: of CONFIG GET; None where that was refused.
        refusal: how a write was refused that was queued and then discarded, with what to do; "" where it was not.
        way: "unix", "tls", "tls without verification", "loopback" or "network".
        password: the URL has one.
        open: it answers without one; None where that is not known.
        socket_mode: the permissions of its Unix socket; None where it has none, or they cannot be seen.

    """

    address: str
    way: str = "unix"
    error: str = ""
    info: Mapping[str, str] = {}
    settings: Mapping[str, str] | None = None
    refusal: str = ""
    password: bool = False
    open: bool | None = None
    socket_mode: int | None = None


def read(url: str) -> RedisFacts:
    """Ask the server of a log."""
    server, name = redis_parts(url)
    way, password, mode = way_of(server), _has_password(server), _socket_mode(server)
    try:
        link = Link(server, _greet_nobody)
        try:
            info, settings, refusal = _asked(link, f"{{consecutiond:{name}}}:doctor")
        finally:
            link.close()
    except StoreError as error:
        return RedisFacts(masked(server), way, error=str(error), password=password, socket_mode=mode)
    answers = _answers_anybody(server) if password else True
    return RedisFacts(masked(server), way, "", info, settings, refusal, password, answers, mode)


def _greet_nobody(_link: Link) -> None:
    """What the store would ask at a new connection is asked here by hand."""


def _asked(link: Link, key: str) -> tuple[dict[str, str], dict[str, str] | None, str]:
    info, *settings = link.send(("INFO",), *(("CONFIG", "GET", name) for name in _ASKED))
    if isinstance(info, Exception):
        raise StoreError(f"the store at {link.address} does not answer INFO: {explained(info)}")
    known = (
        None if first_error(settings) else {name: _value(answer) for name, answer in zip(_ASKED, settings, strict=True)}
    )
    return fields(info), known, _rehearsal(link, key)


def _rehearsal(link: Link, key: str) -> str:
    """Queue writes in a transaction, which the server judges at once, and discard it."""
    table, row = key.encode(), b"row"
    # First by itself: outside of a transaction the others would be done.
    error = first_error(link.send(("WATCH", table), ("MULTI",)))
    if error is None:
        *queued, _ = link.send(
            ("HSET", table, row, row), ("HDEL", table, row), ("ZADD", table, 0, row),
            ("ZREMRANGEBYLEX", table, b"-", b"+"), ("HMGET", table, row), ("DISCARD",),
        )  # fmt: skip
        error = first_error(queued)
    return "" if error is None else explained(error)


def _value(answer: Any) -> str:
    return answer[1].decode(errors="replace") if len(answer) > 1 else ""


def fields(info: bytes) -> dict[str, str]:
    """Take the text of INFO apart."""
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def way_of(server: str) -> str:
    """Say how the server of a URL is reached."""
    parts = urlsplit(server)
    if parts.scheme == "unix":
        return "unix"
    if parts.scheme == "rediss":
        checked = parse_qs(parts.query).get("ssl_cert_reqs", ["required"])[0]
        return "tls without verification" if checked == "none" else "tls"
    return "loopback" if _LOOPBACK.fullmatch(parts.hostname or "localhost") else "network"


def _has_password(server: str) -> bool:
    return bool(_USER.search(server)) or bool(_CREDENTIALS.search(server))


def _socket_mode(server: str) -> int | None:
    parts = urlsplit(server)
    if parts.scheme != "unix":
        return None
    try:
        return stat.S_IMODE(os.stat(unquote(parts.path)).st_mode)
    except OSError:
        # Whoever connects says what is wrong with it.
        return None


def _answers_anybody(server: str) -> bool | None:
    """Tell whether the server lets in who has no password."""
    bare = _CREDENTIALS.sub(r"\1", _USER.sub("://", server))
    link = Link(bare, _greet_nobody)
    try:
        link.send(("PING",))
    except StoreError as error:
        return False if isinstance(error.__cause__, exceptions.AuthenticationError) else None
    finally:
        link.close()
    return True
