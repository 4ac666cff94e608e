"""The keys of the lines of a file, in a file beside it: which lines count, and whose they are."""

import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from consecutiond_broker.errors import ConsecutiondError
from consecutiond_broker.ids import U64, mix_array

_MAGIC: Final = b"conskey1"
#: magic, and the offset at which the first recorded line begins
_HEAD: Final = 16
#: One for each line, in the order of the lines: its key, its bytes, and a check that only fits this key at this place.
_RECORD: Final = np.dtype([("key", "<u8"), ("size", "<u4"), ("check", "<u4")])
#: bytes of records that are read at a time
_PART_BYTES: Final = _RECORD.itemsize << 16
#: the key of lines that have none
NO_KEY: Final = 0


class KeyFileError(ConsecutiondError):
    """A file of keys cannot be used."""


class KeyFile:
    """The keys of the newest lines.

    A record is only ever written when its line is on the disk. At open, what follows the first record that is not whole
    or not right, or whose line is not there, is cut off. Nobody but the holder of its lock may touch either file.

    Args:
        path: of the file; it is made if it is not there.
        size: bytes of the file with the lines.
        whole: how many of them are whole lines; what these are is not known if the file of keys is made.

    Attributes:
        end: bytes of the lines that count.
        count: how many records there are.
        keys: the keys that were read when it was opened, or when others were forgotten.

    Raises:
        KeyFileError: it is something else, or in use.
        OSError: it cannot be read or made.
    """

    def __init__(self, path: Path, size: int, whole: int) -> None:
        self.path = path
        self._fd = self._opened(whole)
        try:
            self._read(size, whole)
        except BaseException:
            self.close()
            raise

    def _opened(self, whole: int) -> int:
        if not self.path.exists():
            self._replace(whole, ())
        fd = os.open(self.path, os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise KeyFileError(
                f"{self.path} is in use: another process writes to this output, or another output to this file. "
                "One of them needs another path"
            ) from None
        return fd

    def _read(self, size: int, whole: int) -> None:
        head = os.pread(self._fd, _HEAD, 0)
        if len(head) < _HEAD or head[:8] != _MAGIC:
            raise KeyFileError(f"{self.path} is no file of keys: move it away, and keys count from now on")
        self.end, self.count = int.from_bytes(head[8:], "little"), 0
        if self.end > size:
            # The lines were moved away, so none of their keys may keep a line out of the new file.
            self._replace(whole, ())
            self._reopen()
            self.end = whole
        keys: U64 = np.empty(os.fstat(self._fd).st_size // _RECORD.itemsize, np.uint64)
        for some in self._right_keys(size):
            keys[self.count - len(some) : self.count] = some
        self.keys = keys[: self.count]
        os.ftruncate(self._fd, self._place(self.count))

    def _right_keys(self, size: int) -> Iterator[U64]:
        """Yield the keys of all records up to the first that is not right."""
        for part in self._parts(0):
            records = np.frombuffer(part, _RECORD, len(part) // _RECORD.itemsize)
            ends = _ends(self.end, records["size"])
            right = (records["check"] == _checks(records["key"], ends)) & (ends <= size)
            count = len(records) if right.all() else int(right.argmin())
            if count:
                self.end, self.count = int(ends[count - 1]), self.count + count
                yield records["key"][:count]
            if count < len(records):
                return

    def _parts(self, first: int) -> Iterator[bytes]:
        """Yield the records from one on."""
        place = self._place(first)
        while part := os.pread(self._fd, _PART_BYTES, place):
            yield part
            place += len(part)

    def _place(self, number: int) -> int:
        return _HEAD + number * _RECORD.itemsize

    def add(self, keys: U64, sizes: npt.NDArray[np.uint32]) -> None:
        """Record lines that are on the disk, behind the last one that was recorded; then the records are, too."""
        ends = _ends(self.end, sizes)
        records = np.empty(len(keys), _RECORD)
        records["key"], records["size"], records["check"] = keys, sizes, _checks(keys, ends)
        write_all(self._fd, records.tobytes(), self._place(self.count))
        os.fsync(self._fd)
        self.end, self.count = int(ends[-1]), self.count + len(keys)

    def forget(self, most: int) -> None:
        """Keep only the newest records, and read their keys."""
        first = self.count - most
        base = self.end
        for part in self._parts(first):
            base -= int(np.frombuffer(part, _RECORD)["size"].sum(dtype=np.uint64))
        self._replace(base, self._parts(first))
        size = self.end
        self._reopen()
        self._read(size, size)

    def _replace(self, base: int, records: Iterable[bytes]) -> None:
        """Put another file in the place of this one; whatever is killed meanwhile, there is one or the other."""
        new = self.path.with_name(f"{self.path.name}.new")
        with new.open("wb") as file:
            file.write(_MAGIC + base.to_bytes(8, "little"))
            file.writelines(records)
            file.flush()
            os.fsync(file.fileno())
        new.rename(self.path)
        sync_directory(self.path.parent)

    def _reopen(self) -> None:
        self.close()
        self._fd = self._opened(0)

    def close(self) -> None:
        """Close it; the lock is gone, too."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _ends(base: int, sizes: npt.NDArray[np.uint32]) -> U64:
    """Return where each line ends."""
    return np.uint64(base) + np.cumsum(sizes, dtype=np.uint64)


def _checks(keys: U64, ends: U64) -> npt.NDArray[np.uint32]:
    return mix_array(keys ^ mix_array(ends)).astype(np.uint32)


def write_all(fd: int, data: bytes, place: int) -> None:
    """Write everything at a place of a file.

    Raises:
        OSError: that is not possible; a part may be written.
    """
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, place)
        left, place = left[written:], place + written


def sync_directory(path: Path) -> None:
    """Put the names in a directory on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
