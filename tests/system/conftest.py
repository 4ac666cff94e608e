"""A shell for every test that wants one; whatever a test starts or loads ends with it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from consecutiond_nodes.importer import FILE_MODULE
from tests.system.shell import Shell


@pytest.fixture
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    if "architecture" in request.fixturenames:
        shell.environment["CONSECUTIOND_ARCHITECTURE"] = request.getfixturevalue("architecture")
    yield shell
    shell.end()


@pytest.fixture(autouse=True)
def _forgotten_targets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loading a target puts its module, and the path to it, where other tests would find them."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop(FILE_MODULE, None)
