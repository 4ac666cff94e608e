"""Two machines for a test: network namespaces with a cable between them that can be cut."""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator

import pytest

#: the addresses of the two machines; each namespace has a network of its own
HERE, THERE = "10.77.0.1", "10.77.0.2"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Network:
    """The consecutor's machine, `here`, and another one, `there`."""

    def __init__(self) -> None:
        mark = uuid.uuid4().hex[:8]
        self.here, self.there = f"cons-{mark}-here", f"cons-{mark}-there"
        self._cable = f"c{mark}"

    def make(self) -> None:
        for name in (self.here, self.there):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        ends = f"{self._cable}a", f"{self._cable}b"
        _ip("-n", self.here, "link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns", self.there)
        for name, end, address in ((self.here, ends[0], HERE), (self.there, ends[1], THERE)):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            _ip("-n", name, "link", "set", end, "up")

    def cut(self) -> None:
        _ip("-n", self.here, "link", "set", f"{self._cable}a", "down")

    def mend(self) -> None:
        _ip("-n", self.here, "link", "set", f"{self._cable}a", "up")

    def inside(self, name: str, argv: list[str]) -> list[str]:
        """Return a command line that runs on one of the machines; the process becomes that command."""
        return ["ip", "netns", "exec", name, *argv]

    def remove(self) -> None:
        for name in (self.here, self.there):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture
def network() -> Iterator[Network]:
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip`; install iproute2")
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    network = Network()
    try:
        try:
            network.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces can be made here: {error.stderr}")
        yield network
    finally:
        network.remove()
