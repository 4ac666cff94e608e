"""Logging of child processes: one event a line on stderr; JSON, or text on a terminal; cheap to import."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from consecutiond_broker.printed import Printed

#: attributes of a record that are not the user's ``extra``
_OURS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _nothing() -> dict[str, Any]:
    return {}


class JsonLines(logging.Formatter):
    """Renders a record as one JSON object, with the names that the whole project uses.

    Args:
        bound: what every event says: the part's name and epoch.
        context: what an event says beside, of the moment: the root of the item in execution, say. It is called in
            whatever thread logs.

    """

    def __init__(self, bound: dict[str, Any], context: Callable[[], dict[str, Any]] = _nothing) -> None:
        super().__init__()
        self._bound, self.context = bound, context

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event: dict[str, Any] = {
            "timestamp": _utc(record.created), "level": record.levelname.lower(), **self._bound,
            "event": record.getMessage(),
        }  # fmt: skip
        if not record.name.startswith("consecutiond"):
            event["logger"] = record.name
        for name, value in vars(record).items():
            if name not in _OURS:
                event.setdefault(name, value)
        for name, value in self.context().items():
            event.setdefault(name, value)
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            event["stack"] = record.stack_info
        try:
            return msgspec.json.encode(event, enc_hook=repr).decode()
        except UnicodeEncodeError:
            # Half a surrogate pair, from bytes that are no text, has no form in JSON.
            texts = {name: _escaped(value) for name, value in event.items()}
            return msgspec.json.encode(texts, enc_hook=repr).decode()


def _escaped(value: Any) -> Any:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _utc(seconds: float) -> str:
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(1e6 * (seconds - whole)):06d}Z"


_formatter: JsonLines | None = None


def log_to_stderr(part: str, level: int = logging.INFO, *, epoch: int = 0, prints: bool = False) -> None:
    """Send every event of this process to stderr.

    Args:
        part: whose events they are.
        level: the least that is worth a line.
        epoch: of the part; 0 if it has none yet.
        prints: what is printed to stdout and stderr becomes events as well, unless stderr is a terminal.

    """
    global _formatter
    stream = sys.stderr
    handler = logging.StreamHandler(stream)
    if stream.isatty():
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {part} %(message)s"))
    else:
        _formatter = JsonLines({"part": part, "epoch": epoch} if epoch else {"part": part})
        handler.setFormatter(_formatter)
        if prints:
            sys.stdout, sys.stderr = Printed("stdout", sys.stdout), Printed("stderr", stream)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def bind_context(context: Callable[[], dict[str, Any]]) -> None:
    """Have every event say what `context` returns at that moment; cheap, and safe to call from any thread."""
    if _formatter is not None:
        _formatter.context = context
