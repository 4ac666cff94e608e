"""Puts the areas together, and says what results."""

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from consecutiond import guarantee
from consecutiond.doctor import clock, disk, files, limits, store, versions
from consecutiond.doctor.check import Check, Status, in_one_sentence, worst
from consecutiond.doctor.subject import Subject
from consecutiond.storeurls import file_of, masked

_NOTHING = store.Seen("", ())


class Report(Struct, frozen=True):
    """All that was found.

    Attributes:
        subject: what was examined, for people.
        store: the URL of its log, without the password.
        worst: the worst status there is.
        guarantee: what results, in one sentence.
        checks: in the order in which they are told.

    """

    subject: str
    store: str
    worst: Status
    guarantee: str
    checks: tuple[Check, ...]


def examine(subject: Subject) -> Report:
    """Look at everything; change nothing."""
    seen = store.look(subject.store, subject.durability) if subject.stored else _NOTHING
    running = subject.pid is not None
    checks = (
        *seen.checks, *_places(subject), *clock.check(clock.read(), seen.newest),
        *limits.check(limits.read(subject.pid), subject.parts, running=running), *versions.check(versions.read()),
    )  # fmt: skip
    held = in_one_sentence(seen.promise, checks) if subject.stored else guarantee.MEMORY
    sentence = guarantee.sentence(held, subject.acker_store, subject.input_store)
    told = f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}."
    return Report(subject.title, masked(subject.store), worst(checks), told, checks)


def _places(subject: Subject) -> Iterator[Check]:
    log = file_of(subject.store) if subject.stored else None
    yield from files.check(files.read(subject.base, subject.directory, log, subject.uris))
    directory = subject.directory or subject.base
    if log is None or not _together(log, directory):
        yield from disk.check(disk.read(directory), "directory", log=False, durable=False)
    if log is not None:
        yield from disk.check(disk.read(log.absolute()), "log", log=True, durable=subject.durable)


def _together(one: Path, other: Path) -> bool:
    """Tell whether two places are on one file system."""
    return disk.nearest(one.absolute()).stat().st_dev == disk.nearest(other).stat().st_dev
