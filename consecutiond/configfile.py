"""The configuration file: TOML whose keys are the options, with the line of each."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from consecutiond.tomllines import TomlLines

_LINE = re.compile(r"\(at line (\d+), column \d+\)")


class ConfigFileError(Exception):
    """The file cannot be read at all; the text says where and why."""


class ConfigFile:
    """What one file says.

    Args:
        path: the file, as the user named it.

    Raises:
        ConfigFileError: there is no such file, or it is no TOML.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ConfigFileError(f"{path}: {error.strerror}") from None
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise ConfigFileError(f"{path}:{line}: this is not UTF-8, as TOML has to be") from None
        #: the value of every key, tables as dicts
        self.values: dict[str, Any] = _parsed(path, text)
        self._lines = TomlLines(text)

    def place(self, key: Sequence[str | int]) -> str:
        """Return ``file:line`` of a key, or the file alone if the line cannot be told."""
        line = self._lines.line(key)
        return str(self.path) if line is None else f"{self.path}:{line}"


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigFileError(f"{path}: its values are nested too deeply") from None
    except ValueError as error:
        # Not only TOMLDecodeError: a number of thousands of digits is a plain ValueError without a line.
        message = str(error)
        place = str(path)
        if found := _LINE.search(message):
            place = f"{path}:{found[1]}"
        elif "end of document" in message:
            place = f"{path}:{text.rstrip().count(chr(10)) + 1}"
        raise ConfigFileError(f"{place}: this is no TOML: {message}") from None
