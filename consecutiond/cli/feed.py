"""Which input the option ``input`` means, how a consecutor is fed from it, and which of them a daemon can have."""

import difflib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from consecutiond.cli.filevalues import file_values
from consecutiond.cli.lines import check
from consecutiond.config import ConfigError, Settings
from consecutiond.inputs.errors import InputUriError
from consecutiond.inputs.opening import HTTP_SCHEMES, ZMQ_SCHEMES, is_uri, parse_uri, scheme_of

if TYPE_CHECKING:
    from consecutiond.consecutor import Consecutor, Summary

Produce = Callable[[], "Summary | None"]

_STDIN = ("stdin", "-")


def produce_of(consecutor: "Consecutor", settings: Settings, *, quiet: bool) -> Produce:
    """Return what starts a consecutor, feeds it from its input and ends it; stdin, if it has no input of its own.

    Raises:
        InputUriError: there is no such kind of input.
        ConfigError: it is more than one.
        InputError: a file cannot be read.
    """
    names = input_names(settings) or _STDIN[:1]
    _check_names(names)
    progress = False if quiet else None
    name = names[0]
    if scheme_of(name) in HTTP_SCHEMES:
        return lambda: consecutor.produce_from_http(name)
    if is_uri(name):
        return lambda: consecutor.produce_from_tcp(name)
    if name in _STDIN and len(names) == 1:
        if sys.stdin is None:
            raise ConfigError("input: stdin is closed; redirect it, as in: script.py < file, or name an --input")
        if sys.stdin.isatty() and not quiet:
            print("consecutiond: reading from the terminal; Ctrl-D ends the input", file=sys.stderr)
        return lambda: consecutor.produce_from_stdin(settings.input_format, progress)
    check(names)
    values = file_values(names, settings.input_format, consecutor.wait_for)
    return lambda: consecutor.produce_from_iterable(values, progress)


def input_names(settings: Settings) -> tuple[str, ...]:
    """Return what the option names, in order; nothing if it names nothing."""
    names = (settings.input,) if isinstance(settings.input, str) else settings.input
    return tuple(name for name in names if name)


def daemon_uri(settings: Settings) -> str:
    """Return the uri at which a daemon takes its input; empty for one that is fed with ``consecutiond push`` alone.

    Raises:
        InputUriError: the uri is wrong, or not safe.
        ConfigError: the input is one that ends, or more than one.
    """
    names = input_names(settings)
    if not names:
        return ""
    _check_names(names)
    if not is_uri(names[0]):
        raise ConfigError(
            f"input: a daemon takes input from clients, at http://, tcp:// or ipc://, and not from {', '.join(names)}\n"
            "  leave it out and feed the daemon with `consecutiond push ID`, or run to the end of the input with\n"
            "  `consecutiond run`"
        )
    parse_uri(names[0])
    return names[0]


def _check_names(names: Sequence[str]) -> None:
    schemes = [scheme_of(name) for name in names if scheme_of(name)]
    known = (*HTTP_SCHEMES, *ZMQ_SCHEMES)
    if unknown := [scheme for scheme in schemes if scheme not in known]:
        close = difflib.get_close_matches(unknown[0], known, 1)
        hint = f"did you mean {close[0]}://?" if close else f"there are {', '.join(f'{each}://' for each in known)}"
        raise InputUriError(f"input: there is no kind of input {unknown[0]}://; {hint}")
    if halves := [name for name in names if name.partition(":")[0] in known and not scheme_of(name)]:
        scheme, _, rest = halves[0].partition(":")
        raise InputUriError(f"input: {halves[0]} is half a uri; did you mean {scheme}://{rest.lstrip('/')}?")
    if (schemes or "stdin" in names) and len(names) > 1:
        raise ConfigError(
            f"input: a consecutor has one and only one input; {', '.join(names)} are {len(names)}\n"
            "  only files can be several: they are read one after the other"
        )
