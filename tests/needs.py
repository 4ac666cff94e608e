"""What tests need that pip does not install: skipped without it on a laptop, a failure in CI."""

import os
import shutil

import pytest

from consecutiond.acker.stores import StoreError
from consecutiond.acker.stores.kyotolib import load


def redis_server() -> str:
    """Return the path of the program."""
    path = shutil.which("redis-server")
    if path is None:
        _missing("redis-server")
    return str(path)


def kyoto() -> None:
    """Make sure that there is the library."""
    try:
        load()
    except StoreError:
        _missing("python3-kyotocabinet")


def _missing(package: str) -> None:
    what = f"{package} is not installed: apt-get install {package}; `make test` does it for root"
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)
