"""``consecutiond failed edit``: the value of a root, as JSON, in an editor or from the command line."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec

from consecutiond.acker.stores.base import Failed, Where
from consecutiond.cli import exits
from consecutiond.cli.choosing import ChoiceError
from consecutiond.cli.failedchoice import one
from consecutiond.cli.failedvalues import json_of, survives_json, value_of
from consecutiond.deadletters import Request
from consecutiond.inputs.values import MAX_DEPTH, is_too_deep
from consecutiond.operator import Operator
from consecutiond_broker import codec
from consecutiond_broker.errors import CodecError

#: characters of a value in the audit trail
_MOST_SHOWN: Final = 100


class EditError(ChoiceError):
    """The new value cannot be taken."""


def edit_failed(operator: Operator, position: int, value: str | None, file: Path | None) -> int:
    """Give a failed item another root value; return the exit code.

    Args:
        operator: the consecutor's.
        position: of the root.
        value: the new one, as JSON; None takes it from the file, or an editor.
        file: holds JSON, or msgpack if its name ends so; ``-`` is stdin; None asks an editor.
    """
    letter = one(operator, position)
    if value is not None:
        new = _json(value.encode(errors="surrogateescape"), "--value")
    elif file is not None:
        new = _from_file(file)
    else:
        new = _from_editor(letter)
    body = _encoded(new)
    if body == letter.body:
        print(f"{operator.id}: the value at position {position} is what it was; nothing was changed")
        return exits.OK
    change = f"{position}: {_shown(letter.body)} -> {_shown(body)}"
    operator.act(Request("edit", Where(positions=(position,)), value=body, which=change))
    print(f"{operator.id}: the root at position {position} has a new value")
    return exits.OK


def _shown(body: bytes) -> str:
    """Return a value as it stands in the audit trail: short."""
    text = repr(codec.decode(body)[0]) if body else "(a value that was not kept)"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _encoded(value: Any) -> bytes:
    try:
        return codec.encode([value])
    except CodecError as error:
        raise EditError(f"the new value cannot be carried: {error}") from None


def _json(text: bytes, where: str) -> Any:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        if text.strip() and text.strip()[:1] not in b'{["':
            example = text.decode(errors="replace").strip().splitlines()[0][:40]
            raise EditError(f"{where} is no JSON; for text write it in quotes: '\"{example}\"'") from None
        raise EditError(f"{where} is no JSON: {error}") from None
    if is_too_deep(text, value):
        raise EditError(f"{where}: this is nested deeper than {MAX_DEPTH}")
    return value


def _from_file(file: Path) -> Any:
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise EditError(f"--file {file}: {error.strerror}") from None
    if file.suffix != ".msgpack":
        return _json(content, str(file))
    try:
        return msgspec.msgpack.decode(content)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise EditError(f"{file}: this is no msgpack: {error}") from None


# --- an editor -------------------------------------------------------------------------------------------------------


def _from_editor(letter: Failed) -> Any:
    value = value_of(letter.body)
    if not survives_json(value):
        raise EditError(
            f"the value at position {letter.position} holds what JSON has no form for, bytes or times say, so it "
            "cannot be edited as text. Give a new one: --value JSON, or --file NAME.msgpack"
        )
    argv = _editor()
    # Only this user can read what is in it: mode 0600.
    fd, name = tempfile.mkstemp(prefix=f"consecutiond-{letter.position}-", suffix=".json")
    path = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.format(json_of(value), indent=2) + b"\n")
        while True:
            _run_editor([*argv, name])
            try:
                return _json(path.read_bytes(), "the edited value")
            except EditError as error:
                if not _again(error):
                    raise
    finally:
        path.unlink(missing_ok=True)


def _editor() -> list[str]:
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not named and not sys.stdin.isatty():
        raise EditError("there is no terminal for an editor: give the new value with --value JSON or --file NAME")
    try:
        argv = shlex.split(named or "vi")
    except ValueError as error:
        raise EditError(f"EDITOR={named!r} is no command: {error}") from None
    return argv or ["vi"]


def _run_editor(argv: list[str]) -> None:
    try:
        code = subprocess.run(argv, check=False).returncode
    except OSError as error:
        raise EditError(f"the editor {argv[0]!r} cannot be run: {error.strerror}; set EDITOR") from None
    if code:
        raise EditError(f"the editor ended with exit code {code}, so nothing was changed")


def _again(error: EditError) -> bool:
    """Ask whether to go on editing; without a terminal nobody can say."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"{error}\nEdit it again? [Y/n] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("", "y", "yes")
