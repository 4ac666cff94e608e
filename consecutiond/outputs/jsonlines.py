"""Files with one JSON value a line that hold every item once, however often it was written to them."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from consecutiond.outputs.keyfile import NO_KEY, KeyFile, KeyFileError, write_all
from consecutiond.outputs.keyset import KeySet

#: bytes read at a time on the way back from the end of a file
_LOOK_BYTES: Final = 1 << 16
#: keys that are kept for each file, the newest ones
MOST_KEYS: Final = 10_000_000
_encode: Final = msgspec.json.Encoder().encode


class JsonLinesOutput:
    """The container that is a file of lines, each a JSON value, on the disk before it counts.

    A line whose key was taken before is left out. The keys are in ``PATH.keys``, 16 bytes a line. A batch becomes

    1. lines at the end of the file, which is then synchronised,
    2. a record for each line in the file of keys, which is then synchronised,
    3. and only then it is settled, and never comes again unless something else of its inputs fails.

    So whatever is killed, at the next open the file of keys says which lines count. Half a line, and a line without its
    record, are of items that come again, and are cut off. A record whose line is not there is left by no kill, but by a
    file that was moved away; it is cut off, too, and its item may be written again. A file without a file of keys, of
    an older version, is gone on with behind its last whole line. When a batch cannot be written, all of it fails, and
    the next one opens the files anew, the same way.

    The newest keys are kept, 8 bytes each in memory. An item that comes again after so many others that its key is
    forgotten is written again.

    Args:
        path: of the file, which nobody else may write to. Its directory is made, if need be. Move it only together with
            its file of keys, while the consecutor is down.
        most_keys: keys that are kept at least; it can be a quarter more.
    """

    def __init__(self, path: str | Path, most_keys: int = MOST_KEYS) -> None:
        if most_keys < 1:
            raise ValueError(f"most_keys is the number of keys that are kept, at least 1; it was {most_keys}")
        self.path, self._most_keys = Path(path), most_keys
        self._lines: list[bytes] = []
        self._line_keys: list[int] = []
        self._fd = -1
        self._file: KeyFile
        self._keys = KeySet()

    def append(self, value: Any) -> None:
        """Take a value that has no key."""
        line = _encode(value) + b"\n"
        self._open()
        self._lines.append(line)
        self._line_keys.append(NO_KEY)

    def put(self, key: int, value: Any) -> None:
        """Take a value, unless its key was taken before."""
        self.put_many([key], [value])

    def put_many(self, keys: Sequence[int], values: Sequence[Any]) -> None:
        """Take those of some values whose keys were not taken before; all or none.

        Raises:
            TypeError: a value is nothing that JSON has.
            OSError: the file cannot be opened.
            KeyFileError: its file of keys cannot be used.
        """
        self._open()
        every = np.array(keys, dtype=np.uint64)
        fresh = self._keys.fresh(every)
        if fresh.all():
            lines, taken = [_encode(value) + b"\n" for value in values], list(keys)
        else:
            places = np.flatnonzero(fresh).tolist()
            lines, taken = [_encode(values[place]) + b"\n" for place in places], [keys[place] for place in places]
        self._keys.add(every[fresh])
        self._lines += lines
        self._line_keys += taken

    def flush(self) -> None:
        """Put every line on the disk, and its key.

        Raises:
            OSError: that cannot be done; nothing since the last flush has been taken.
        """
        if not self._lines:
            return
        try:
            self._write()
        except BaseException:
            self.close()
            raise

    def _write(self) -> None:
        if os.fstat(self._fd).st_size != self._file.end:
            raise KeyFileError(f"{self.path} was changed by somebody else while it was open for appending")
        write_all(self._fd, b"".join(self._lines), self._file.end)
        os.fsync(self._fd)
        sizes = np.fromiter(map(len, self._lines), dtype=np.uint32, count=len(self._lines))
        self._file.add(np.array(self._line_keys, dtype=np.uint64), sizes)
        self._lines.clear()
        self._line_keys.clear()
        if self._file.count > self._most_keys + self._most_keys // 4:
            self._keys = KeySet()
            self._file.forget(self._most_keys)
            self._keys = _known(self._file)

    def _open(self) -> None:
        """Open the files, if they are not, and make them whole."""
        if self._fd >= 0:
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ExitStack() as undo:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            undo.callback(os.close, fd)
            size = os.fstat(fd).st_size
            file = KeyFile(self.path.with_name(f"{self.path.name}.keys"), size, _whole(fd, size))
            undo.callback(file.close)
            if file.end and os.pread(fd, 1, file.end - 1) != b"\n":
                raise KeyFileError(
                    f"{file.path} is not of this {self.path.name}, in which no line ends at {file.end}: another file "
                    "was put in its place. Move the file of keys away, and keys count from now on"
                )
            os.ftruncate(fd, file.end)
            undo.pop_all()
        self._fd, self._file, self._keys = fd, file, _known(file)

    def close(self) -> None:
        """Close the files; what was not flushed was not taken."""
        self._lines.clear()
        self._line_keys.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._file.close()
        self._fd, self._keys = -1, KeySet()


class JsonLinesDirectory:
    """The container of outputs that nobody registered: a file ``NAME.jsonl`` for each in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._outputs: dict[str, JsonLinesOutput] = {}

    def append(self, pair: tuple[str, Any]) -> None:
        """Take a value that has no key."""
        name, value = pair
        self._output(name).append(value)

    def put(self, key: int, pair: tuple[str, Any]) -> None:
        """Take a value, unless its key was taken before."""
        self.put_many([key], [pair])

    def put_many(self, keys: Sequence[int], pairs: Sequence[tuple[str, Any]]) -> None:
        """Take those of some values whose keys were not taken before."""
        by_name: dict[str, tuple[list[int], list[Any]]] = {}
        for key, (name, value) in zip(keys, pairs, strict=True):
            of_name = by_name.get(name)
            if of_name is None:
                of_name = by_name[name] = ([], [])
            of_name[0].append(key)
            of_name[1].append(value)
        for name, (its_keys, values) in by_name.items():
            self._output(name).put_many(its_keys, values)

    def _output(self, name: str) -> JsonLinesOutput:
        output = self._outputs.get(name)
        if output is None:
            # A name is the user's; whatever is in it must not lead out of the directory.
            safe = name.replace("/", "_").replace("\0", "_").lstrip(".") or "_"
            path = self._directory / f"{safe}.jsonl"
            # Two names may come to one file, which then is one output.
            same = next((other for other in self._outputs.values() if other.path == path), None)
            output = self._outputs[name] = same or JsonLinesOutput(path)
        return output

    def flush(self) -> None:
        """Put every line on the disk, and its key."""
        for output in self._outputs.values():
            output.flush()

    def close(self) -> None:
        """Close the files."""
        for output in self._outputs.values():
            output.close()


def _known(file: KeyFile) -> KeySet:
    """Return the keys of a file, and let them be forgotten there."""
    keys, file.keys = file.keys, np.empty(0, np.uint64)
    if not keys.all():
        keys = keys[keys != NO_KEY]
    return KeySet(keys)


def _whole(fd: int, size: int) -> int:
    """Return how many bytes of a file are whole lines: a killed process may have left a piece of one at the end."""
    whole = size
    while whole:
        start = max(0, whole - _LOOK_BYTES)
        newline = os.pread(fd, whole - start, start).rfind(b"\n")
        whole = start + newline + 1
        if newline >= 0:
            break
    return whole
