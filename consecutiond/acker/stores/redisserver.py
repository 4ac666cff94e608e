"""What a Redis server is set to, and what a receipt is therefore worth."""

from typing import Any, Final

from msgspec import Struct

from consecutiond.acker.stores.base import StoreError
from consecutiond.acker.stores.redislink import Link, first_error

#: the first version with the commands that are used
_OLDEST: Final = (6, 2)
#: the first version that can be asked to have synchronised its disk
_WAITAOF: Final = (7, 2)
#: the first version whose scripts can say that they may run while the memory is full
_SCRIPT_FLAGS: Final = (7, 0)


class Server(Struct, frozen=True):
    """The settings of a server that matter, as they were when it was asked.

    Attributes:
        version: as the server says.
        aof: it writes an append-only file.
        fsync: "always", "everysec" or "no"; "" where it does not tell.
        evicts: its policy for a full memory, where that takes away keys without a time limit; else "".
        replicas: how many it has.
        can_wait: it can be asked to synchronise its disk.
        works_when_full: it has a way to change things while its memory is full.

    """

    version: str = ""
    aof: bool = False
    fsync: str = ""
    evicts: str = ""
    replicas: int = 0
    can_wait: bool = False
    works_when_full: bool = False

    @property
    def always(self) -> bool:
        """Whether it synchronises its disk before every answer."""
        return self.aof and self.fsync == "always"

    @property
    def can_be_durable(self) -> bool:
        """Whether there is a way to have a group on its disk before the receipt."""
        return not self.evicts and (self.always or (self.aof and self.can_wait))

    def promise(self, *, durable: bool) -> str:
        """Say what becomes of a receipted item, as a sentence without its full stop.

        Args:
            durable: the store asks for the disk where the server does not go there by itself.

        """
        if self.evicts:
            return (
                f"nothing is safe, because the server takes away keys when its memory is full (maxmemory-policy "
                f"{self.evicts}); set noeviction"
            )
        return self._on_disk(durable=durable) + self._copies()

    def _on_disk(self, *, durable: bool) -> str:
        if not self.aof:
            return (
                "a receipted item survives the kill of any process here, but any end of the server takes all since "
                "its last snapshot (appendonly no)"
            )
        if self.always:
            return "a receipted item is on the server's disk and survives a power cut (appendfsync always)"
        if durable and self.can_wait:
            return "a receipted item is on the server's disk and survives a power cut (WAITAOF)"
        survives = "a receipted item survives the kill of any process here, but"
        if self.fsync == "everysec":
            return (
                f"{survives} a kill of the server or a power cut may take the last two seconds (appendfsync everysec)"
            )
        if self.fsync == "no":
            return f"{survives} a power cut may take what the system had not written, about 30 s (appendfsync no)"
        return f"{survives} what a power cut takes is not known, as the server does not tell its appendfsync"

    def _copies(self) -> str:
        if not self.replicas:
            return ""
        return f"; a failover to one of its replicas ({self.replicas}) may take what had not reached it"


def inspect(link: Link) -> Server:
    """Ask a server what it is set to.

    Raises:
        StoreError: it is too old, or does not answer.

    """
    info, config = link.send(("INFO",), ("CONFIG", "GET", "append*"))
    error = first_error([info])
    if error is not None:
        raise StoreError(f"the store at {link.address} does not answer INFO ({error}): the user of the URL needs it.")
    known = _fields(info)
    version = tuple(int(part) for part in known.get("redis_version", "0").split(".")[:2])
    if version < _OLDEST:
        raise StoreError(
            f"the store at {link.address} is Redis {known.get('redis_version')}: 6.2 or newer is needed, or Valkey."
        )
    settings = _pairs(config)
    policy = known.get("maxmemory_policy", "")
    shown = f"Valkey {known['valkey_version']}" if "valkey_version" in known else f"Redis {known['redis_version']}"
    return Server(
        version=shown,
        aof=known.get("aof_enabled") == "1",
        fsync=settings.get("appendfsync", ""),
        evicts=policy if policy.startswith("allkeys") and known.get("maxmemory", "0") != "0" else "",
        replicas=int(known.get("connected_slaves", "0")),
        can_wait=version >= _WAITAOF,
        works_when_full=version >= _SCRIPT_FLAGS,
    )


def _fields(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def _pairs(config: Any) -> dict[str, str]:
    # Managed servers refuse CONFIG; what they are set to is then not known.
    if isinstance(config, Exception):
        return {}
    texts = [each.decode() for each in config]
    return dict(zip(texts[::2], texts[1::2], strict=True))
