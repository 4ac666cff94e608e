"""As a service: the units, the examples beside them, and what a service manager hears of a real daemon."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from consecutiond.cli import exits
from consecutiond.cli.app import app
from consecutiond.effective import Given, resolve
from consecutiond.units import TEMPLATE, Service, argument, unit
from tests.chaos.daemon import Daemon

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "consecutiond@.service"
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: apt-get install systemd"
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


def test_the_unit_is_the_one_that_the_program_makes() -> None:
    made = subprocess.run([sys.executable, "-m", "consecutiond.units"], capture_output=True, text=True, check=True)
    assert UNIT.read_text() == made.stdout


@needs_systemd
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    # That the program is not installed where the unit names it would be one.
    place = tmp_path / UNIT.name
    place.write_text(
        UNIT.read_text().replace("/usr/local/lib/consecutiond/bin/consecutiond", shutil.which("true") or "")
    )
    result = analyze("verify", str(place))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@needs_systemd
def test_the_unit_is_hardened() -> None:
    result = analyze("security", "--offline=true", "--threshold=30", str(UNIT))
    assert result.returncode == 0, result.stdout[-500:]


@pytest.mark.parametrize("name", ["flow.toml", "flow-embedded.toml"])
def test_the_configurations_can_be_used(name: str) -> None:
    settings = resolve(given=Given({}, DEPLOY / name)).settings
    assert settings.input == "http://127.0.0.1:8040"
    assert settings.stop_timeout_s < int(UNIT.read_text().partition("TimeoutStopSec=")[2].split()[0])
    assert settings.store == ("sqlite" if "embedded" in name else "unix:///run/redis/redis-server.sock?prefix=flow")


def test_the_environment_file_says_what_the_unit_asks_for() -> None:
    lines = [line for line in (DEPLOY / "flow.env").read_text().splitlines() if line and not line.startswith("#")]
    assert {line.partition("=")[0] for line in lines} == {"TARGET", "PYTHONPATH"}
    assert "${TARGET}" in TEMPLATE.command


def test_the_container_runs_as_nobody_special_and_is_asked_for_its_health() -> None:
    words = (DEPLOY / "Containerfile").read_text()
    assert "\nUSER 10001\n" in words
    assert 'CMD ["consecutiond", "status", "flow"]' in words


# --- install-service -------------------------------------------------------------------------------------------------


GRAPH = 'from consecutiond import Node\n\ngraph = Node("one") | Node("two")\n'


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    (tmp_path / "my flows").mkdir()
    file = tmp_path / "my flows" / "flow.py"
    file.write_text(GRAPH)
    return file


@needs_systemd
def test_the_unit_of_a_target_is_written_and_has_no_fault(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "flow.toml").write_text("max_attempts = 5\n")
    words = ["install-service", str(graph), "--unit-dir", str(tmp_path), "--config", str(tmp_path / "flow.toml")]
    result = CliRunner().invoke(app, [*words, "--user", "daemon", "--group", "redis"])
    assert result.exit_code == exits.OK, result.output
    assert "sudo systemctl enable --now consecutiond-flow.service" in result.output
    path = tmp_path / "consecutiond-flow.service"
    text = path.read_text()
    assert f'start "{graph}" --id flow --config {tmp_path}/flow.toml' in text
    assert f"WorkingDirectory={graph.parent}" in text
    assert "User=daemon" in text
    assert "SupplementaryGroups=redis" in text
    faults = analyze("verify", str(path)).stderr
    assert not [line for line in faults.splitlines() if path.name in line], faults


def test_a_target_with_a_fault_is_told_now_and_not_at_boot(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text("graph = 1\n")
    result = CliRunner().invoke(app, ["install-service", f"{tmp_path}/flow.py", "--unit-dir", str(tmp_path)])
    assert result.exit_code != exits.OK
    assert not list(tmp_path.glob("*.service"))


def test_a_directory_that_cannot_be_written_is_told_with_what_to_do(graph: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["install-service", str(graph), "--unit-dir", str(tmp_path / "none")])
    assert result.exit_code == exits.BAD_DIRECTORY
    assert "--print" in result.output


def test_a_module_runs_where_it_was_installed_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plainflow.py").write_text(GRAPH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    result = CliRunner().invoke(app, ["install-service", "plainflow:graph", "--print"])
    assert result.exit_code == exits.OK, result.output
    assert "start plainflow:graph --id plainflow" in result.output
    assert f"WorkingDirectory={tmp_path}" in result.output


@pytest.mark.parametrize(
    ("text", "quoted"),
    [("flow.py:graph", "flow.py:graph"), ("a b", '"a b"'), ("50%", '"50%%"'), ("$HOME", '"$$HOME"'), ("", '""'),
     ('say "hi"', '"say \\"hi\\""')],
)  # fmt: skip
def test_arguments_reach_the_program_as_they_were_given(text: str, quoted: str) -> None:
    assert argument(text) == quoted


def test_homes_are_hidden_unless_the_target_is_in_one() -> None:
    assert "ProtectHome=yes" in unit(Service("a", "b"))
    assert "ProtectHome=read-only" in unit(Service("a", "b", protect_home="read-only"))


# --- what the manager hears ------------------------------------------------------------------------------------------


class Heard:
    def __init__(self, path: Path) -> None:
        self.lines: list[str] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def wait_for(self, beginning: str) -> str:
        deadline = time.monotonic() + 60
        while True:
            try:
                self.lines += self.socket.recv(65536).decode().splitlines()
            except BlockingIOError:
                time.sleep(0.02)
            for line in self.lines:
                if line.startswith(beginning):
                    return line
            assert time.monotonic() < deadline, self.lines


def test_a_service_manager_hears_ready_status_watchdog_and_the_stop(tmp_path: Path) -> None:
    heard = Heard(tmp_path / "notify")
    daemon = Daemon(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="4000000")
    try:
        daemon.launch()
        heard.wait_for("READY=1")
        up = daemon.parts()
        assert all(part["state"] == "ready" for part in up.values())
        heard.wait_for(f"STATUS=running; {len(up)} of {len(up)} parts up; 0 inputs/s, 0 open, 0 failed")
        heard.wait_for("WATCHDOG=1")
        daemon.process.send_signal(signal.SIGTERM)
        heard.wait_for("STOPPING=1")
        assert daemon.process.wait(60) == 0
    finally:
        daemon.close()
        heard.socket.close()
