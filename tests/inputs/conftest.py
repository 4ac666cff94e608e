"""What the tests of inputs share."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consecutiond.feeder import Feeder
from tests.inputs.acker import FakeAcker


@pytest.fixture
def acker(tmp_path: Path) -> Iterator[FakeAcker]:
    acker = FakeAcker(tmp_path)
    yield acker
    acker.close()


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """Return what was logged, in any thread."""
    stream = io.StringIO()
    monkeypatch.setattr("consecutiond.logs._sink.streams", [stream])
    return lambda: [msgspec.json.decode(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def feeder(acker: FakeAcker) -> Iterator[Feeder]:
    feeder = acker.feeder()
    yield feeder
    feeder.close()
