"""What is examined: a consecutor in the directory, a graph as `start` would run it, or the options alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from msgspec import Struct

from consecutiond.acker.stores.base import Durability
from consecutiond.config import ConfigError, Settings
from consecutiond.effective import Given, resolve
from consecutiond.guarantee import Kept
from consecutiond.operator import read_plan
from consecutiond.planpicture import parts_of
from consecutiond.rundir import RunDir
from consecutiond.storeurls import resolved
from consecutiond_nodes.errors import TargetError

#: sockets that every consecutor has besides those of its plan
_SOCKETS: Final = ("control", "kill")


class Subject(Struct, frozen=True):
    """One thing to examine.

    Attributes:
        title: what it is, for people.
        id: of the consecutor; "" where only the options are looked at.
        base: the directory that holds all consecutors.
        store: the URL of the log.
        durability: of the log.
        acker_store: where the accounts are.
        input_store: where the input values are.
        parts: how many processes the graph has, the heart among them; None where there is no graph.
        uris: of all its sockets.
        pid: of the root; None when it does not run.

    """

    title: str
    id: str
    base: Path
    store: str
    durability: Durability = "durable"
    acker_store: Kept = "disk"
    input_store: Kept = "disk"
    parts: int | None = None
    uris: tuple[str, ...] = ()
    pid: int | None = None

    @property
    def directory(self) -> Path | None:
        """The directory of the consecutor."""
        return self.base / self.id if self.id else None

    @property
    def durable(self) -> bool:
        """Whether what is recorded has to survive a power cut."""
        return self.durability == "durable" and self.stored

    @property
    def stored(self) -> bool:
        """Whether anything is kept in the store."""
        return self.acker_store == "disk" or (self.input_store == "disk" and self.acker_store != "off")


def subject_of(what: str, given: Given) -> Subject:
    """Find out what is meant.

    Args:
        what: the id of a consecutor that has a directory, else a target as for `start`; "" for the options alone.
        given: the options of the command line.

    Raises:
        ConfigError: an option is wrong, or one was given that a consecutor's own plan says.
        TargetError: it is neither.
        RunDirError: the plan of the consecutor cannot be read.

    """
    if not what:
        return _of_options(given)
    base = _base(given)
    directory = next((each for each in RunDir.all(base) if each.id == what), None)
    if directory is not None:
        return _of_directory(directory, given)
    try:
        return _of_target(what, given)
    except TargetError as error:
        if any(sign in what for sign in ":./"):
            raise
        there = ", ".join(each.id for each in RunDir.all(base)) or "none"
        raise TargetError(f"there is no consecutor {what!r} in {base} (there is: {there}), and {error}") from None


def _base(given: Given) -> Path:
    # The others may be wrong: whoever names a consecutor does not mean them.
    values = {name: value for name, value in given.values.items() if name == "dir"}
    return resolve(given=Given(values, given.config)).settings.dir


def _of_options(given: Given) -> Subject:
    settings = resolve(given=given).settings
    title = "the options that are used here" + (f", for {settings.id}" if settings.id else "")
    # Without an id the embedded stores have no place yet; what is above it is looked at.
    id = settings.id or "ID"
    store = resolved(settings.store, settings.dir / id, id)
    acker_store, input_store = kept(settings.model_dump())
    return Subject(title, settings.id, settings.dir, store, settings.durability, acker_store, input_store)


def _of_directory(directory: RunDir, given: Given) -> Subject:
    if meant := sorted(given.values.keys() - {"dir"}):
        raise ConfigError(
            f"the options of {directory.id} are those that it was started with: leave out {', '.join(meant)}, or give "
            "its target instead of its id"
        )
    parts = read_plan(directory)
    acker = parts.get("acker", {})
    signature = directory.signature() if directory.is_live() else None
    state = f"running (pid {signature.pid})" if signature else "stopped"
    return Subject(
        f"{directory.id}, {state}", directory.id, directory.base,
        str(acker.get("store") or resolved("sqlite", directory.path, directory.id)),
        acker.get("durability", "durable"), *kept(acker), len(parts) or None, _uris(parts, directory),
        signature.pid if signature else None,
    )  # fmt: skip


def _of_target(target: str, given: Given) -> Subject:
    from consecutiond.cli.target import consecutor_of
    from consecutiond.plan import Places, make_plan

    consecutor = consecutor_of(target, given)
    settings: Settings = consecutor.settings
    directory = RunDir(settings.dir, settings.id)
    store = resolved(settings.store, directory.path, directory.id)
    places = Places(
        uri=lambda name: directory.socket_uri(name, look_only=True), plan="", pid_dir="", supervisor_socket="",
        store=store,
    )  # fmt: skip
    outputs = tuple(consecutor.outputs) or None
    plan = make_plan(consecutor.graph, settings, target, outputs, places, local_output=False)
    parts = parts_of(plan.to_json())
    signature = directory.signature() if directory.is_live() else None
    return Subject(
        f"{target}, as `start` would run it under the id {settings.id}", settings.id, settings.dir, store,
        settings.durability, *kept(settings.model_dump()), len(parts), _uris(parts, directory),
        signature.pid if signature else None,
    )  # fmt: skip


def _uris(parts: Mapping[str, Mapping[str, Any]], directory: RunDir) -> tuple[str, ...]:
    known = {value for part in parts.values() for value in _texts(part) if value.startswith("ipc://")}
    own = {directory.socket_uri(name, look_only=True) for name in _SOCKETS} if parts else set()
    return tuple(sorted(known | own | ({f"ipc://{directory.supervisor_address}"} if parts else set())))


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [text for each in inner for text in _texts(each)]


def kept(options: Mapping[str, Any]) -> tuple[Kept, Kept]:
    """Return where accounts and where values are kept, by the options of a consecutor or of its acker."""
    tracked = "disk" if options.get("tracking", True) else "off"
    accounts, values = options.get("acker_store") or tracked, options.get("input_store") or tracked
    return cast(Kept, accounts), cast(Kept, values)
