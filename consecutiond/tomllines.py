"""On which line of a TOML file a key stands, which the standard library's parser does not tell."""

import re
import tomllib
from collections.abc import Sequence

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_KEY_PART = re.compile(r"""[ \t]*("(?:\\.|[^"\\])*"|'[^']*'|[^\s.=\]"'#]+)[ \t]*(\.?)""")
#: what a value consists of; longest first, so that a quote, bracket or # in a string or comment is none
_PIECE = re.compile(
    r'''"""(?:\\.|[^\\])*?"""(?:"{0,2})|\'\'\'.*?\'\'\'(?:'{0,2})'''
    r"""|"(?:\\.|[^"\\])*"|'[^']*'|\#[^\n]*|[\[{]|[\]}]|\n|[^"'\#\[\]{}\n]+""",
    re.DOTALL,
)


class TomlLines:
    """The line of every key and table header of a text that the parser has accepted.

    Keys inside of inline tables and arrays are not looked for; they have the line of what they are in.

    Args:
        text: valid TOML.
    """

    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._lines: dict[Path, int] = {}
        #: how many tables each array of tables has so far
        self._tables: dict[Path, int] = {}
        self._scan()

    def line(self, path: Sequence[str | int]) -> int | None:
        """Return the line of a key, else of what it is in, else None."""
        for length in range(len(path), 0, -1):
            if (line := self._lines.get(tuple(path[:length]))) is not None:
                return line
        return None

    def _scan(self) -> None:
        table: Path = ()
        while (start := self._after_blank()) < len(self._text):
            line = self._text.count("\n", 0, start) + 1
            if self._text[start] == "[":
                table = self._header()
                self._note(table, line)
            else:
                self._note(table + self._key(), line)
            self._skip_value()

    def _after_blank(self) -> int:
        blank = _BLANK.match(self._text, self._at)
        self._at = blank.end() if blank else self._at
        return self._at

    def _note(self, path: Path, line: int) -> None:
        """Remember where a path stands first, and with it every table that it brings about."""
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], line)

    def _header(self) -> Path:
        many = self._text.startswith("[[", self._at)
        self._at += 2 if many else 1
        key = self._key()
        path: Path = ()
        for position, part in enumerate(key):
            path += (part,)
            if many and position == len(key) - 1:
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path += (self._tables[path] - 1,)
        # What is left of the header must not count as an opened bracket.
        self._at = self._text.index("]]" if many else "]", self._at) + (2 if many else 1)
        return path

    def _key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while part := _KEY_PART.match(self._text, self._at):
            self._at = part.end()
            parts.append(_unquoted(part[1]))
            if not part[2]:
                break
        return tuple(parts)

    def _skip_value(self) -> None:
        """Go to the end of the line on which the value ends."""
        depth = 0
        while piece := _PIECE.match(self._text, self._at):
            self._at = piece.end()
            if piece[0] == "\n" and depth == 0:
                return
            depth += (piece[0] in ("[", "{")) - (piece[0] in ("]", "}"))


def _unquoted(part: str) -> str:
    if part.startswith('"'):
        return str(tomllib.loads(f"key = {part}")["key"])
    return part.strip("'")
