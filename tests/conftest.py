"""What tests everywhere share: both architectures."""

import pytest


@pytest.fixture(params=["process", "thread"])
def architecture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test in both architectures; the environment wins over what the test's code says, which is nothing."""
    monkeypatch.setenv("CONSECUTIOND_ARCHITECTURE", request.param)
    return str(request.param)
