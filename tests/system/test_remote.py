"""Nodes whose workers run on other machines: two network namespaces, real processes, CURVE, cut cables and kills."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from consecutiond.cli import exits
from tests.system.network import HERE, Network, network
from tests.system.shell import PATIENCE_S, Shell, logged, wait_for

__all__ = ["network"]

FLOW = """
    import time

    from consecutiond import Node

    class Far(Node):
        def __init__(self, pause_s=0.0):
            self.pause_s = pause_s
            self.connect_with(remote=True)

        def process(self, number):
            time.sleep(self.pause_s)
            self.push(number)

        def end(self):
            self.push("end")

    class Last(Node):
        def process(self, number):
            self.write("out", number)

    graph = Node("first") | Far() | Last("last")
    slow = Node("first") | Far(0.001) | Last("last")

    two = Far(0.001)
    two.set_num_workers(2)
    pair = Node("first") | two | Last("last")
"""
#: more than any queue or window on the way can hold, so that a kill hits a worker that has work
MANY = 6000
ID = "far"


class Remote:
    """A consecutor, and workers of its node `Far`, on this machine or on two."""

    def __init__(self, shell: Shell, uri: str, network: Network | None = None) -> None:
        self.shell, self.uri, self.network = shell, uri, network
        shell.write("flow.py", FLOW)
        self.daemon: subprocess.Popen[str]

    def _on(self, name: str, argv: list[str]) -> "subprocess.Popen[str]":
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return self.shell._spawn(self.network.inside(name, argv) if self.network is not None else argv, pipes)

    def start(self, target: str = "flow.py:graph", *options: object) -> None:
        words = ("start", target, "--id", ID, "--remote-uri", self.uri, "--remote-silence-s", 1, *options)
        self.daemon = self._on(self.network.here if self.network else "", self.shell.argv(*words))
        wait_for(lambda: self.connection.exists() or self.daemon.poll() is not None, "the connection file")

    @property
    def connection(self) -> Path:
        return self.shell.home(ID) / "connection.json"

    def worker(
        self, target: str = "flow.py:graph", *options: object, connect: object = None, machine: str = ""
    ) -> "subprocess.Popen[str]":
        words = ("worker", target, "Far", "--connect", connect or self.connection, *options)
        return self._on(machine or (self.network.there if self.network else ""), self.shell.argv(*words))

    def push(self, count: int = MANY) -> None:
        """Feed numbers, and return when all are recorded."""
        lines = "".join(f"{number}\n" for number in range(count))
        pushed = self.shell.run("push", ID, stdin=lines)
        assert pushed.returncode == exits.OK, pushed.stderr

    def status(self) -> dict[str, Any]:
        return self.shell.status(ID)

    def part(self) -> dict[str, Any]:
        return self.status()["parts"]["node-Far.0"]  # type: ignore[no-any-return]

    def count(self, state: str) -> int:
        """Return how many workers are in a state."""
        return sum(part["state"] == state for name, part in self.status()["parts"].items() if "node-Far" in name)

    def wait_state(self, state: str) -> None:
        wait_for(lambda: self.status().get("parts") and self.part()["state"] == state, f"the worker is {state}")

    def wait_up(self) -> None:
        wait_for(lambda: self.status().get("state") == "running", "the graph is up")

    def wait_some(self) -> None:
        """Wait until the worker has done something, and has more to do."""
        wait_for(lambda: self.shell.written(ID, "out"), "the first output")
        assert len(self.shell.written(ID, "out")) < MANY, "all was done before anything could happen"

    def wait_done(self, count: int = MANY) -> None:
        wait_for(lambda: self.status()["completed"] == count, "everything is completed")

    def stop(self) -> None:
        stopped = self.shell.run("stop", ID)
        assert stopped.returncode == exits.OK, stopped.stderr
        self.daemon.wait(PATIENCE_S)

    def check(self, count: int = MANY) -> None:
        """Nothing is lost, and nothing is counted twice."""
        totals = logged(self.shell.home(ID))
        ends = totals["accepted"] - count
        assert totals == {"accepted": count + ends, "completed": count + ends, "failed": 0, "open": 0}
        written = self.shell.written(ID, "out")
        assert {each for each in written if each != "end"} == {str(number) for number in range(count)}
        assert "end" in written
        for log in self.shell.home(ID).glob("log_files/*"):
            assert "bug.roots_lost" not in log.read_text(), log


def leave(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for the end of a process; return its code and what it said."""
    _, said = process.communicate(timeout=PATIENCE_S)
    return process.returncode, said


def free_ports(count: int) -> int:
    """Return the first of some neighbouring ports that are free on the loopback."""
    for base in range(20000 + os.getpid() % 10000, 60000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for place, each in enumerate(sockets):
                each.bind(("127.0.0.1", base + place))
            return base
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
    raise AssertionError("no ports are free")


@pytest.fixture
def near(shell: Shell) -> Remote:
    """Everything on the loopback, where no keys are needed."""
    return Remote(shell, f"tcp://127.0.0.1:{free_ports(8)}")


@pytest.fixture
def far(shell: Shell, network: Network) -> Remote:
    return Remote(shell, f"tcp://{HERE}:7000", network)


# --- on the loopback ---------------------------------------------------------------------------------------------


def test_on_the_loopback_a_uri_is_enough(near: Remote) -> None:
    near.start()
    assert not (near.shell.home(ID) / "keys.json").exists()
    worker = near.worker(connect=near.uri)
    near.wait_up()
    near.push(200)
    near.wait_done(200)
    near.stop()
    assert leave(worker) == (exits.OK, f"consecutiond: Far.0 joins {near.uri}; Ctrl-C ends it\n")
    near.check(200)


def test_a_run_to_the_end_of_its_input_ends_remote_workers_too(near: Remote) -> None:
    lines = near.shell.write("numbers", "".join(f"{number}\n" for number in range(300)))
    run = near.shell.spawn("run", "flow.py:graph", lines, "--id", ID, "--remote-uri", near.uri)
    wait_for(near.connection.exists, "the connection file")
    worker = near.worker()
    printed, _ = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == exits.OK
    assert sorted(printed.split()) == sorted(["out"] * 301 + ['"end"', *(f'"{number}"' for number in range(300))])
    assert leave(worker)[0] == exits.OK


def test_a_worker_that_does_not_come_is_named_with_the_command_that_starts_it(near: Remote) -> None:
    near.start("flow.py:graph", "--start-timeout-s", 1, "--detach")
    code, said = leave(near.daemon)
    assert code == exits.START_FAILED
    assert "node-Far.0 did not come up within start_timeout_s = 1 s" in said
    assert f"consecutiond worker flow.py:graph Far --connect {near.connection}" in said


def test_a_worker_whose_begin_raises_fails_the_start_with_its_traceback(near: Remote) -> None:
    near.shell.write("broken.py", FLOW.replace("def end", "def begin(self):\n            1 / 0\n\n        def end"))
    near.start("broken.py:graph", "--detach")
    worker = near.worker("broken.py:graph")
    for process in (worker, near.daemon):
        code, said = leave(process)
        assert code == exits.START_FAILED
        assert "ZeroDivisionError" in said


def test_a_remote_node_needs_an_address(shell: Shell) -> None:
    shell.write("flow.py", FLOW)
    refused = shell.run("start", "flow.py:graph")
    assert refused.returncode == exits.BAD_TARGET
    assert "remote_uri is not set, and Far run on other machines" in refused.stderr


def test_an_address_in_use_is_refused_at_once(near: Remote) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        near.uri = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        near.start()
        code, said = leave(near.daemon)
    assert code == exits.BAD_TARGET
    assert f"{near.uri} cannot be used: somebody listens there" in said


@pytest.mark.parametrize(
    ("connect", "code", "says"),
    [
        ("tcp://10.0.0.1:7000", exits.USAGE, "nothing goes there unencrypted: copy connection.json"),
        ("missing.json", exits.USAGE, "cannot read the connection file missing.json"),
        ("ipc:///x", exits.USAGE, "workers connect over tcp"),
        ("tcp://127.0.0.1:1", exits.NOT_RUNNING, "no consecutor answers at tcp://127.0.0.1:1"),
    ],
)
def test_what_cannot_be_connected_to_says_why(near: Remote, connect: str, code: int, says: str) -> None:
    worker = near.worker("flow.py:graph", "--patience", 0.5, connect=connect)
    found, said = leave(worker)
    assert says in said
    assert found == code


def test_requests_that_make_no_sense_are_turned_away(near: Remote) -> None:
    near.start()
    code, said = leave(near.worker("flow.py:graph", "--worker", 7))
    assert (code, "node Far has 1 workers" in said) == (exits.TURNED_AWAY, True)
    other = near.shell.run("worker", "flow.py:graph", "first", "--connect", near.connection)
    assert (other.returncode, "there is no remote node 'first'" in other.stderr) == (exits.TURNED_AWAY, True)
    near.shell.write("other.py", FLOW.replace("| Far()", "| Node('x') | Far()"))
    code, said = leave(near.worker("other.py:graph"))
    assert (code, "the graph of other.py:graph is not the one that runs" in said) == (exits.BAD_TARGET, True)


def test_a_worker_that_is_told_to_end_frees_its_place(near: Remote) -> None:
    near.start()
    first = near.worker()
    near.wait_up()
    first.send_signal(signal.SIGINT)
    assert leave(first)[0] == exits.OK
    near.wait_state("lost")
    second = near.worker()
    near.wait_state("ready")
    near.push(200)
    near.wait_done(200)
    near.stop()
    assert leave(second)[0] == exits.OK
    near.check(200)


@pytest.mark.parametrize("architecture", ["process", "thread"])
def test_a_uri_of_one_s_own_serves_workers_of_this_machine(shell: Shell, architecture: str) -> None:
    """Nothing is remote here: the socket is merely where the node wants it."""
    tcp = f', {{"last": "tcp://127.0.0.1:{free_ports(1)}"}}' if architecture == "process" else ""
    shell.write("flow.py", FLOW.replace("remote=True", f'"ipc://mine.sock"{tcp}'))
    shell.write("numbers", "1\n2\n")
    ended = shell.run("run", "flow.py:graph", "numbers", "--id", ID, "--quiet", "--architecture", architecture)
    assert (ended.returncode, ended.stderr) == (exits.OK, "")
    assert sorted(ended.stdout.splitlines()) == ['out\t"1"', 'out\t"2"', 'out\t"end"']
    assert (shell.directory / "mine.sock").is_socket()


# --- on two machines ---------------------------------------------------------------------------------------------


def test_between_machines_everything_is_encrypted_with_keys_that_nobody_else_can_read(far: Remote) -> None:
    far.start()
    for name in ("keys.json", "connection.json"):
        assert (far.shell.home(ID) / name).stat().st_mode & 0o777 == 0o600
    worker = far.worker()
    far.wait_up()
    far.push(500)
    far.wait_done(500)
    keys = (far.shell.home(ID) / "keys.json").read_bytes()
    far.stop()
    assert leave(worker)[0] == exits.OK
    far.check(500)
    far.start()
    assert (far.shell.home(ID) / "keys.json").read_bytes() == keys, "a copied connection file keeps its worth"


def other_key(connection: dict[str, Any]) -> None:
    public, secret = zmq.curve_keypair()
    connection["keys"] |= {"public": public.decode(), "secret": secret.decode()}


def other_server(connection: dict[str, Any]) -> None:
    connection["keys"]["server"] = zmq.curve_keypair()[0].decode()


@pytest.mark.parametrize("spoil", [other_key, other_server])
def test_a_wrong_key_is_turned_away(far: Remote, spoil: Callable[[dict[str, Any]], None]) -> None:
    far.start()
    connection = msgspec.json.decode(far.connection.read_bytes())
    spoil(connection)
    spoilt = far.shell.directory / "spoilt.json"
    spoilt.write_bytes(msgspec.json.encode(connection))
    spoilt.chmod(0o600)
    code, said = leave(far.worker(connect=spoilt))
    assert code == exits.TURNED_AWAY
    assert "refused the key of this worker" in said


def test_without_keys_nothing_goes_to_another_machine(far: Remote) -> None:
    far.start()
    connection = msgspec.json.decode(far.connection.read_bytes()) | {"keys": None}
    spoilt = far.shell.directory / "spoilt.json"
    spoilt.write_bytes(msgspec.json.encode(connection))
    spoilt.chmod(0o600)
    for connect in (spoilt, far.uri):
        code, said = leave(far.worker(connect=connect))
        assert (code, "nothing goes there unencrypted" in said) == (exits.USAGE, True)


def test_one_edge_that_others_reach_is_enough_to_encrypt_all(far: Remote) -> None:
    """With an address of the loopback the worker may try without keys, and is turned away."""
    assert far.network is not None
    far.shell.write("flow.py", FLOW.replace("remote=True", f'"tcp://{HERE}:7100", remote=True'))
    far.uri = "tcp://127.0.0.1:7000"
    far.start()
    code, said = leave(far.worker(connect=far.uri, machine=far.network.here))
    assert (code, "is encrypted; name its connection file" in said) == (exits.TURNED_AWAY, True)
    worker = far.worker(machine=far.network.here)
    far.wait_up()
    far.stop()
    assert leave(worker)[0] == exits.OK


def test_a_worker_killed_under_load_loses_nothing(far: Remote) -> None:
    far.start("flow.py:slow")
    first = far.worker("flow.py:slow")
    far.wait_up()
    far.push()
    far.wait_some()
    first.kill()
    second = far.worker("flow.py:slow")
    far.wait_done()
    far.stop()
    assert leave(second)[0] == exits.OK
    far.check()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_dead_or_silent_worker_had_is_done_by_its_sibling(far: Remote, how: signal.Signals) -> None:
    """Nobody takes its place: the end of its connection, or its silence, is all that is known."""
    far.start("flow.py:pair")
    workers = [far.worker("flow.py:pair") for _ in range(2)]
    far.wait_up()
    far.push()
    far.wait_some()
    lost = workers.pop()
    lost.send_signal(how)
    far.wait_done()
    lost.kill()
    workers.append(far.worker("flow.py:pair"))
    wait_for(lambda: far.count("ready") == 2, "both workers are there again, for the end")
    far.stop()
    assert [leave(worker)[0] for worker in workers] == [exits.OK, exits.OK]
    far.check()


def test_a_worker_comes_back_after_its_network_was_cut_under_load(far: Remote) -> None:
    assert far.network is not None
    far.start("flow.py:slow")
    worker = far.worker("flow.py:slow")
    far.wait_up()
    far.push()
    far.wait_some()
    far.network.cut()
    far.wait_state("lost")
    far.network.mend()
    far.wait_done()
    far.stop()
    assert leave(worker)[0] == exits.OK
    far.check()


def test_a_woken_zombie_settles_nothing_and_ends(far: Remote) -> None:
    far.start("flow.py:slow")
    first = far.worker("flow.py:slow")
    far.wait_up()
    far.push()
    far.wait_some()
    epoch = far.part()["epoch"]
    first.send_signal(signal.SIGSTOP)
    second = far.worker("flow.py:slow")
    wait_for(lambda: far.part()["epoch"] > epoch, "another has its place")
    far.wait_state("ready")
    first.send_signal(signal.SIGCONT)
    code, said = leave(first)
    assert code == exits.TURNED_AWAY
    assert "a newer worker has the place of Far.0" in said
    far.wait_done()
    far.stop()
    assert leave(second)[0] == exits.OK
    far.check()


def test_a_worker_waits_for_a_consecutor_that_is_killed_and_started_again(far: Remote) -> None:
    far.start("flow.py:slow")
    worker = far.worker("flow.py:slow")
    far.wait_up()
    far.push()
    far.wait_some()
    far.daemon.kill()
    far.daemon.wait(PATIENCE_S)
    far.start("flow.py:slow")
    far.wait_up()
    far.wait_done()
    far.stop()
    assert leave(worker)[0] == exits.OK
    far.check()


def test_a_consecutor_that_stays_away_is_given_up(near: Remote) -> None:
    near.start()
    worker = near.worker("flow.py:graph", "--patience", 1)
    near.wait_up()
    near.daemon.kill()
    code, said = leave(worker)
    assert code == exits.NOT_RUNNING
    assert "was away for 1 s" in said
