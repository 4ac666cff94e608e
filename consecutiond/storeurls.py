"""URLs of stores: from the setting to the one that every process gets, and from that one to what may be shown."""

import re
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

#: schemes of Redis servers
REDIS: Final = ("redis", "rediss", "unix")
#: the parameter of a Redis URL that names the log; the server's client never sees it
PREFIX: Final = "prefix"
#: what stands for a password where it is shown
_MASK: Final = "***"
_PASSWORD: Final = re.compile(r"([?&]password=)[^&]*")
_USER: Final = re.compile(r"://[^/]*@")
_USER_PASSWORD: Final = re.compile(r"^(\w+://[^:@/]*):.*@", re.DOTALL)

#: the stores that are files in the consecutor's directory, by their short name
EMBEDDED: Final = {"sqlite": "acker_db.sqlite", "kyoto": "acker_db.kyoto"}


def scheme(url: str) -> str:
    """Return what is before ``://``, "" where there is none."""
    return url.partition("://")[0] if "://" in url else ""


def resolved(setting: str, directory: Path, id: str) -> str:
    """Return the URL of a consecutor's log.

    Args:
        setting: the option `store`: a URL, or the short name of an embedded store.
        directory: the consecutor's.
        id: the consecutor's; its log on a Redis server is called so, unless the URL has a ``?prefix=``.

    """
    if setting in EMBEDDED:
        return f"{setting}:///{directory / EMBEDDED[setting]}"
    if scheme(setting) not in REDIS or redis_parts(setting)[1]:
        return setting
    joint = "&" if urlsplit(setting).query else "?"
    return f"{setting}{joint}{PREFIX}={quote(id, safe='')}"


def file_of(url: str) -> Path | None:
    """Return the file that a store is; None for one that is no file."""
    return Path(url.partition(":///")[2]) if scheme(url) in EMBEDDED and ":///" in url else None


def redis_parts(url: str) -> tuple[str, str]:
    """Split the URL of a log on a Redis server into the server's own URL and the name of the log, "" without one."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    name = next((value for key, value in query if key == PREFIX), "")
    rest = urlencode([(key, value) for key, value in query if key != PREFIX])
    # `urlunsplit` would drop the empty host of unix:///path.
    server, _, _ = url.partition("?")
    return (f"{server}?{rest}" if rest else server), name


def same(one: str, other: str) -> bool:
    """Return whether two URLs name one log; on a server that is only known if both are written alike."""
    if scheme(one) != scheme(other):
        return False
    file, another = file_of(one), file_of(other)
    if file is not None and another is not None:
        return file.resolve() == another.resolve()
    # Who asks is not the log.
    return _USER.sub("://", one) == _USER.sub("://", other)


def masked(text: str) -> str:
    """Return a URL, or a text that may be one, without its password."""
    if scheme(text) not in REDIS:
        return text
    # To the last @, because people forget to escape one in a password.
    return _USER_PASSWORD.sub(rf"\1:{_MASK}@", _PASSWORD.sub(rf"\1{_MASK}", text))
