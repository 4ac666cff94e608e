"""Epochs: which incarnation of a part this is, from a counter that is kept on disk and never repeats."""

import fcntl
import os
import re
from pathlib import Path
from typing import Final

from consecutiond_broker.errors import ConsecutiondError

#: digits of the number in the file: a fixed width, so that an update never changes the size of the file,
#: needs no new block of a full disk, and lies within one sector
_WIDTH: Final = 20
_CONTENT: Final = re.compile(rb"[0-9]{%d}\n" % _WIDTH)


class EpochError(ConsecutiondError):
    """The next epoch cannot be told without the danger of giving one out twice."""


def next_epoch(directory: Path, name: str) -> int:
    """Count up and return the epoch of a new incarnation, 1 for the first.

    The number is on disk before it is returned, so it does not repeat after a crash of the machine either.
    Any number of processes may ask at once.

    Args:
        directory: where the counters live, one file ``NAME.epoch`` for each name.
        name: of the part.

    Raises:
        EpochError: the file cannot be read or written, or what it holds is not a number. It never starts anew
            by itself: epochs that repeat would let a dead incarnation settle what belongs to a living one.

    """
    path = directory / f"{name}.epoch"
    try:
        fd = _open(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            epoch = _read(fd, path) + 1
            os.pwrite(fd, _content(epoch), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise EpochError(
            f"cannot count up the epoch of {name} in {path}: {error.strerror}. Probably the directory is"
            " missing or not writable for this user; make it so and start again."
        ) from error
    return epoch


def _content(epoch: int) -> bytes:
    return b"%0*d\n" % (_WIDTH, epoch)


def _open(path: Path) -> int:
    """Open the counter; a new one appears complete, with zero in it, so an empty file is always damage."""
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, _content(0))
        os.fsync(fd)
        os.link(draft, path)
        _sync_directory(path.parent)
    except FileExistsError:
        # Another process was faster; its counter is the one.
        pass
    finally:
        os.close(fd)
        draft.unlink(missing_ok=True)
    return os.open(path, flags)


def _sync_directory(directory: Path) -> None:
    """Make a new name in a directory survive a crash of the machine."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read(fd: int, path: Path) -> int:
    content = os.pread(fd, _WIDTH + 2, 0)
    if not _CONTENT.fullmatch(content):
        raise EpochError(
            f"{path} holds {content!r} instead of a number of {_WIDTH} digits and a line feed. Probably the"
            " disk failed or somebody edited the file. An epoch must never repeat: write a number into it"
            " that is surely greater than every earlier one, for example with"
            f" `printf '%0{_WIDTH}d\\n' 1000000 > {path}`."
        )
    return int(content)
