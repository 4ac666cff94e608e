"""Space, inodes and the kind of the file system where a log or a consecutor's directory is."""

import os
import re
from pathlib import Path
from typing import Final

from msgspec import Struct

from consecutiond.doctor.check import Check

#: file systems whose locks or whose synchronisation may not be what they say
_NETWORK: Final = re.compile(
    r"(nfs|nfs4|cifs|smb3|smbfs|9p|ceph|glusterfs|lustre|afs|beegfs|gpfs|ocfs2|virtiofs|vboxsf|prl_fs)"
    r"|fuse\.(sshfs|glusterfs|ceph|s3fs|rclone|gcsfuse|davfs).*|davfs"
)
#: file systems that are gone after a restart of the machine
_MEMORY: Final = ("tmpfs", "ramfs")
#: mount options with which the disk may keep for itself what it was told to write
_NO_BARRIER: Final = frozenset({"nobarrier", "barrier=0"})
#: bytes below which it is a problem, and below which it is a warning
_BYTES: Final = (100 << 20, 1 << 30)
#: inodes, likewise; a consecutor has some three files for each part
_INODES: Final = (100, 1000)
_MIB: Final = 1 << 20
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


class DiskFacts(Struct, frozen=True):
    """What is known of the file system at a path.

    Attributes:
        path: what was asked for; it need not exist.
        free: bytes that this user may still write.
        inodes: files that may still be made; None where the file system has no such number.
        kind: as the kernel calls it; "" where it is not known.
        options: of the mount and of the file system.
        error: why nothing is known, else "".

    """

    path: str
    free: int = 0
    inodes: int | None = None
    kind: str = ""
    options: frozenset[str] = frozenset()
    error: str = ""


def read(path: Path) -> DiskFacts:
    """Look at the file system of a path, or of the nearest directory above it that exists."""
    try:
        there = nearest(path)
        found = os.statvfs(there)
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        kind, options = mount_of(os.path.realpath(there), mounts)
    except OSError as error:
        return DiskFacts(str(path), error=f"{error.strerror} ({error.filename or path})")
    inodes = found.f_favail if found.f_files else None
    return DiskFacts(str(path), found.f_bavail * found.f_frsize, inodes, kind, options)


def nearest(path: Path) -> Path:
    """Return a path, or the nearest directory above it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def mount_of(path: str, mountinfo: str) -> tuple[str, frozenset[str]]:
    """Find the mount that a path is on.

    Args:
        path: real and absolute.
        mountinfo: the text of ``/proc/PID/mountinfo``.

    Returns:
        The kind of its file system and the options; of mounts over each other the last one counts.

    """
    best, found = -1, ("", frozenset[str]())
    for line in mountinfo.splitlines():
        mount, _, file_system = line.partition(" - ")
        words, about = mount.split(), file_system.split()
        if len(words) < 6 or len(about) < 1:
            continue
        point = _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), words[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, found = len(point), (about[0], frozenset(words[5].split(",") + "".join(about[2:3]).split(",")))
    return found


def check(facts: DiskFacts, area: str, *, log: bool, durable: bool) -> list[Check]:
    """Judge a place.

    Args:
        facts: of it.
        area: under which name it is told.
        log: the log is there.
        durable: what is recorded has to survive a power cut.

    """
    if facts.error:
        return [Check(f"{area}.disk", "unknown", f"{facts.path}: {facts.error}", _SPACE, "Look at the path yourself.")]
    checks = [_space(facts, area), _inodes(facts, area)]
    return [*checks, _kind(facts, area, durable=durable)] if log else checks


_SPACE: Final = "While the disk is full nothing is accepted, and nothing that is done is recorded as done."


def _space(facts: DiskFacts, area: str) -> Check:
    seen = f"{facts.free // _MIB:,} MiB are free at {facts.path}"
    problem, warning = _BYTES
    status = "problem" if facts.free < problem else "warning" if facts.free < warning else "ok"
    do = "" if status == "ok" else "Make room, or put it on another disk (--dir, or `store`)."
    return Check(f"{area}.space", status, seen, _SPACE, do)  # type: ignore[arg-type]


def _inodes(facts: DiskFacts, area: str) -> Check:
    why = "Without inodes no file can be made, however much space there is."
    if facts.inodes is None:
        return Check(f"{area}.inodes", "ok", f"{facts.kind or 'the file system'} does not count them", why)
    problem, warning = _INODES
    status = "problem" if facts.inodes < problem else "warning" if facts.inodes < warning else "ok"
    do = "" if status == "ok" else "Remove files there, or put it on another disk."
    return Check(f"{area}.inodes", status, f"{facts.inodes:,} are free", why, do)  # type: ignore[arg-type]


def _kind(facts: DiskFacts, area: str, *, durable: bool) -> Check:
    name, why = f"{area}.filesystem", "What is recorded is as safe as the file system that it is on."
    seen = f"{facts.path} is on {facts.kind or 'a file system that the kernel does not name'}"
    if "ro" in facts.options:
        do = "Mount it for writing, or put the log elsewhere."
        return Check(name, "problem", f"{seen}, mounted read-only", why, do, "the log cannot be written now")
    if facts.kind in _MEMORY:
        takes = f"its file is in memory ({facts.kind}), so a restart of the machine takes all"
        return Check(name, "warning", f"{seen}, which is memory", why, "Put the log on a disk.", takes)
    if _NETWORK.fullmatch(facts.kind):
        do = "Put the log on a disk of this machine, or use Redis."
        takes = f"its file is on a network ({facts.kind}), whose locks and synchronisation may not hold"
        return Check(name, "warning", f"{seen}, which is a network", why, do, takes)
    if durable and facts.options & _NO_BARRIER:
        do = "Mount it with barriers, unless the disk's cache has a battery."
        takes = "its file system is mounted without barriers, so a power cut may take what the disk had not written"
        return Check(name, "warning", f"{seen}, mounted without barriers", why, do, takes)
    return Check(name, "ok" if facts.kind else "unknown", seen, why, "" if facts.kind else "See `findmnt -T PATH`.")
