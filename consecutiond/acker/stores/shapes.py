"""Which failures look alike: the type of the exception, and its message without what differs from item to item."""

import re
from typing import Final

#: characters of a message that count; longer ones are alike if they begin alike
_LENGTH: Final = 160
#: what differs between failures of one kind; the first alternative that fits is taken
_VARIABLE: Final = re.compile(
    r"'[^'\n]*'|\"[^\"\n]*\""  # quoted text
    r"|0x[0-9a-fA-F]+|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"  # addresses, UUIDs
    r"|[-+]?\d[\d_.,:]*"  # numbers, times
)


def shape(error: str) -> str:
    """Return what an error's message has in common with those of its kind.

    Args:
        error: as it is recorded, ``ValueError: invalid literal for int() with base 10: 'x'``.

    Returns:
        Its first line; what is quoted became ``…``, and each number ``#``.
    """
    line = error.strip().partition("\n")[0][: 4 * _LENGTH]
    return _VARIABLE.sub(lambda found: "…" if found[0][0] in "'\"" else "#", line)[:_LENGTH]
