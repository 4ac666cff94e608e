"""What a directory says of its consecutor, where no command line is needed to see it."""

from pathlib import Path

import pytest

from consecutiond.inventory import in_memory, log_file, shown


@pytest.mark.parametrize(
    ("store", "file"),
    [
        ("sqlite:////a/b.sqlite", Path("/a/b.sqlite")),
        ("sqlite:///b.sqlite", Path("b.sqlite")),
        ("kyoto:////a/b.kyoto", Path("/a/b.kyoto")),
        ("memory://", None),
        ("redis://host:6379/0", None),
    ],
)
def test_which_log_is_a_file(store: str, file: Path | None) -> None:
    assert log_file(store) == file
    assert in_memory(store) == (store == "memory://")


def test_a_password_is_not_shown() -> None:
    assert shown("redis://user:secret@host:6379/0?prefix=a@b") == "redis://***@host:6379/0?prefix=a@b"
    assert shown("sqlite:////a@b/c.sqlite") == "sqlite:////a@b/c.sqlite"
