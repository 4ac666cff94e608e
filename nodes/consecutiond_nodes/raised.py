"""What the user's code has raised, as texts that can travel."""

from typing import Final

from consecutiond_nodes import usertrace

#: characters of a text that travel: one failed item must not fill a report, or the message that carries it
_MOST_TEXT: Final = 4_000
_MOST_TRACEBACK: Final = 16_000


def describe(error: BaseException) -> str:
    """Return ``Type: text``, for people."""
    name = type(error).__qualname__
    try:
        text = str(error)
    except BaseException:  # its __str__ is the user's code too
        text = "<its text cannot be made>"
    return portable(f"{name}: {text}" if text else name, _MOST_TEXT)


def user_traceback(error: BaseException) -> str:
    """Return the traceback of the user's own frames, cut in the middle if it is too long to travel."""
    return portable(usertrace.user_traceback(error), _MOST_TRACEBACK)


def portable(text: str, most: int) -> str:
    """Cut a text in the middle if it is too long, and escape what UTF-8 has no form for."""
    if len(text) > most:
        text = text[: most // 8] + "\n…\n" + text[most // 8 - most :]
    return text.encode("utf-8", "backslashreplace").decode()
