"""A heart for each test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervision.harness import Harness


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    harness = Harness(tmp_path)
    yield harness
    harness.close()
