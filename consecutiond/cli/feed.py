"""Which input the option ``input`` means, and how a consecutor is fed from it."""

import difflib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from consecutiond.cli.filevalues import file_values
from consecutiond.cli.lines import check
from consecutiond.config import ConfigError, Settings
from consecutiond.inputs.errors import InputUriError

if TYPE_CHECKING:
    from consecutiond.consecutor import Consecutor, Summary

Produce = Callable[[], "Summary | None"]

_HTTP = ("http", "https")
_ZMQ = ("tcp", "ipc")
_STDIN = ("stdin", "-")


def produce_of(consecutor: "Consecutor", settings: Settings, *, quiet: bool) -> Produce:
    """Return what starts a consecutor, feeds it from its input and ends it; stdin, if it has no input of its own.

    Raises:
        InputUriError: there is no such kind of input.
        ConfigError: it is more than one.
        typer.Exit: a file cannot be read.
    """
    names = (settings.input,) if isinstance(settings.input, str) else settings.input
    names = tuple(name for name in names if name) or _STDIN[:1]
    _check_names(names)
    progress = False if quiet else None
    name = names[0]
    scheme = name.partition("://")[0] if "://" in name else ""
    if scheme in _HTTP:
        return lambda: consecutor.produce_from_http(name)
    if scheme in _ZMQ:
        return lambda: consecutor.produce_from_tcp(name)
    if name in _STDIN and len(names) == 1:
        if sys.stdin is None:
            raise ConfigError("input: stdin is closed; redirect it, as in: script.py < file, or name an --input")
        if sys.stdin.isatty() and not quiet:
            print("consecutiond: reading from the terminal; Ctrl-D ends the input", file=sys.stderr)
        return lambda: consecutor.produce_from_stdin(settings.input_format, progress)
    check(names)
    values = file_values(names, settings.input_format)
    return lambda: consecutor.produce_from_iterable(values, progress)


def _check_names(names: Sequence[str]) -> None:
    schemes = [name.partition("://")[0] for name in names if "://" in name]
    known = (*_HTTP, *_ZMQ)
    if unknown := [scheme for scheme in schemes if scheme not in known]:
        close = difflib.get_close_matches(unknown[0], known, 1)
        hint = f"did you mean {close[0]}://?" if close else f"there are {', '.join(f'{each}://' for each in known)}"
        raise InputUriError(f"input: there is no kind of input {unknown[0]}://; {hint}")
    if (schemes or "stdin" in names) and len(names) > 1:
        raise ConfigError(
            f"input: a consecutor has one and only one input; {', '.join(names)} are {len(names)}\n"
            "  only files can be several: they are read one after the other"
        )
