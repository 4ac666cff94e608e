"""What tests everywhere share: both architectures."""

import pytest
from hypothesis import settings

from tests.redis_server import RedisServer, shared

# A loaded machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(params=["process", "thread"])
def architecture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test in both architectures; the environment wins over what the test's code says, which is nothing."""
    monkeypatch.setenv("CONSECUTIOND_ARCHITECTURE", request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def redis_server() -> RedisServer:
    """A durable Redis server that tests share, each with a log of its own name."""
    return shared()
