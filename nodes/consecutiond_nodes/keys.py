"""Keys: which worker of a node gets which values, when values of one key have to meet."""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from consecutiond_broker import codec


class Keyed(NamedTuple):
    """The workers of a node among which values are shared out by key."""

    workers: int
    key: Callable[[Any], Any]

    def number(self, value: Any) -> int:
        """Return the number of the worker that gets a value: the same for equal keys, in every process and for ever.

        Raises:
            CodecError: the key is nothing that can be carried.
            Exception: whatever the user's function raises.

        """
        return zlib.crc32(codec.encode([self.key(value)])) % self.workers
