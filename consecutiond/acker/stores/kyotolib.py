"""Kyoto Cabinet through the C interface of its library: what the store needs of it, and its faults as exceptions.

The Python binding of Debian is built for Debian's Python alone; the library serves any, and says more about faults.
"""

import ctypes
from collections.abc import Iterator
from ctypes.util import find_library
from typing import Any, Final

from consecutiond.acker.stores.base import StoreError

#: the library of version 1.2, its C interface the same since 2010
_LIBRARY: Final = "libkyotocabinet.so.16"

#: modes of `kcdbopen`
READER, WRITER, CREATE, TRY_LOCK, NO_REPAIR = 1, 2, 4, 128, 256
#: error codes: none, and for a key that is not there
SUCCESS, NO_RECORD = 0, 7

_P, _S, _I = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32
#: function -> type of its result, types of its arguments
_SIGNATURES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "kcdbnew": (_P, []),
    "kcdbdel": (None, [_P]),
    "kcdbopen": (_I, [_P, ctypes.c_char_p, ctypes.c_uint32]),
    "kcdbclose": (_I, [_P]),
    "kcdbecode": (_I, [_P]),
    "kcdbemsg": (ctypes.c_char_p, [_P]),
    "kcecodename": (ctypes.c_char_p, [_I]),
    "kcdbset": (_I, [_P, ctypes.c_char_p, _S, ctypes.c_char_p, _S]),
    "kcdbremove": (_I, [_P, ctypes.c_char_p, _S]),
    "kcdbget": (_P, [_P, ctypes.c_char_p, _S, ctypes.POINTER(_S)]),
    "kcdbbegintran": (_I, [_P, _I]),
    "kcdbendtran": (_I, [_P, _I]),
    "kcdbcursor": (_P, [_P]),
    "kccurdel": (None, [_P]),
    "kccurjump": (_I, [_P]),
    "kccurgetkey": (_P, [_P, ctypes.POINTER(_S), _I]),
    "kcfree": (None, [_P]),
}


class KyotoError(Exception):
    """What the library says of a fault.

    Attributes:
        code: its number.
        label: its name, as "no permission".
        message: the library's words.

    """

    def __init__(self, code: int, label: str, message: str) -> None:
        super().__init__(f"{message} ({label})")
        self.code, self.label, self.message = code, label, message


def load() -> Any:
    """Load the library.

    Raises:
        StoreError: it is not installed.

    """
    try:
        library = ctypes.CDLL(find_library("kyotocabinet") or _LIBRARY)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise StoreError(
            f"Kyoto Cabinet's library cannot be loaded ({error}). Install it (on Debian and Ubuntu: apt-get install "
            "libkyotocabinet16v5, which python3-kyotocabinet brings along), or use the store sqlite."
        ) from error
    return library


class Database:
    """One open file. Every fault is a `KyotoError`.

    Args:
        path: as Kyoto Cabinet takes it, its tuning behind it.
        mode: of the modes above.

    """

    def __init__(self, path: bytes, mode: int) -> None:
        self._library = load()
        self._handle = self._library.kcdbnew()
        if not self._library.kcdbopen(self._handle, path, mode):
            error = self._error()
            self._library.kcdbdel(self._handle)
            raise error

    def _error(self) -> KyotoError:
        code = self._library.kcdbecode(self._handle)
        label, message = self._library.kcecodename(code), self._library.kcdbemsg(self._handle)
        return KyotoError(code, label.decode(), message.decode(errors="replace"))

    def _check(self, succeeded: int) -> None:
        if not succeeded:
            raise self._error()

    def close(self) -> None:
        """Write everything out and close the file, which is closed whatever is raised."""
        try:
            self._check(self._library.kcdbclose(self._handle))
        finally:
            self._library.kcdbdel(self._handle)

    def begin(self, *, hard: bool) -> None:
        """Begin a transaction; `hard`: its end is on the disk."""
        self._check(self._library.kcdbbegintran(self._handle, hard))

    def end(self, *, commit: bool) -> None:
        """End the transaction."""
        self._check(self._library.kcdbendtran(self._handle, commit))

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, None where there is none."""
        size = _S()
        found = self._library.kcdbget(self._handle, key, len(key), ctypes.byref(size))
        if found is None:
            error = self._error()
            if error.code == NO_RECORD:
                return None
            raise error
        try:
            return ctypes.string_at(found, size.value)
        finally:
            self._library.kcfree(found)

    def set(self, key: bytes, value: bytes) -> None:
        """Give a key a value."""
        self._check(self._library.kcdbset(self._handle, key, len(key), value, len(value)))

    def remove(self, key: bytes) -> None:
        """Take a key away, if it is there."""
        if not self._library.kcdbremove(self._handle, key, len(key)):
            error = self._error()
            if error.code != NO_RECORD:
                raise error

    def all_keys(self) -> Iterator[bytes]:
        """Yield all keys, in no order; nothing may be written meanwhile."""
        cursor = self._library.kcdbcursor(self._handle)
        try:
            more = self._library.kccurjump(cursor)
            while more and (key := self._step(cursor)) is not None:
                yield key
        finally:
            self._library.kccurdel(cursor)
        error = self._error()
        if error.code not in (SUCCESS, NO_RECORD):
            raise error

    def _step(self, cursor: Any) -> bytes | None:
        size = _S()
        key = self._library.kccurgetkey(cursor, ctypes.byref(size), True)
        if key is None:
            return None
        try:
            return ctypes.string_at(key, size.value)
        finally:
            self._library.kcfree(key)
