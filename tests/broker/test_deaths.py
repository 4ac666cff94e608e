"""Deaths are proven by the kernel, for exactly the process that was meant."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import zmq

from consecutiond_broker.child import start_time
from consecutiond_broker.deaths import DeathWatch, kill_if_ours

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(SLEEP) as process:
        yield process
        process.kill()


@pytest.fixture
def watch() -> Iterator[DeathWatch]:
    watch = DeathWatch()
    yield watch
    watch.close()


def started(pid: int) -> int:
    found = start_time(pid)
    assert found is not None
    return found


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill it and wait until it is a zombie, without reaping it."""
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_living_process_is_watched_and_its_death_wakes_a_zmq_poller(
    watch: DeathWatch, process: "subprocess.Popen[bytes]"
) -> None:
    assert watch.watch("worker", process.pid, started(process.pid))
    fd = watch.fd("worker")
    assert fd is not None
    assert watch.fds() == {fd: "worker"}
    poller = zmq.Poller()
    poller.register(fd, zmq.POLLIN)
    assert poller.poll(0) == []
    assert not watch.is_dead("worker")
    process.kill()
    assert poller.poll(20_000) == [(fd, zmq.POLLIN)]
    assert watch.is_dead("worker")


def test_a_death_is_told_until_it_is_forgotten(watch: DeathWatch, process: "subprocess.Popen[bytes]") -> None:
    """Level-triggered: reaping it does not take the news away either."""
    watch.watch("worker", process.pid, started(process.pid))
    end(process)
    assert watch.is_dead("worker")
    process.wait()
    assert watch.is_dead("worker")
    watch.forget("worker")
    assert not watch.is_dead("worker")
    assert watch.fd("worker") is None
    assert watch.fds() == {}


def test_a_process_that_is_no_child_is_watched_too(watch: DeathWatch) -> None:
    code = f"import subprocess; p = subprocess.Popen({SLEEP!r}); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert watch.watch("grandchild", pid, started(pid))
        fd = watch.fd("grandchild")
        assert fd is not None
        os.kill(pid, signal.SIGKILL)
        assert select.select([fd], [], [], 20)[0] == [fd]


def test_a_zombie_a_reaped_process_and_an_impossible_pid_are_dead(
    watch: DeathWatch, process: "subprocess.Popen[bytes]"
) -> None:
    pid, start = process.pid, started(process.pid)
    end(process)
    assert not watch.watch("zombie", pid, start)
    process.wait()
    assert not watch.watch("reaped", pid, start)
    assert not watch.watch("zero", 0, 0)
    assert not watch.watch("negative", -1, 0)
    assert watch.fds() == {}


def test_a_pid_that_somebody_else_has_by_now_is_dead(watch: DeathWatch, process: "subprocess.Popen[bytes]") -> None:
    """The start time tells the two apart; no descriptor is left open."""
    before = open_descriptors()
    assert not watch.watch("worker", process.pid, started(process.pid) - 1)
    assert watch.fd("worker") is None
    assert open_descriptors() == before


def test_watching_a_key_again_lets_go_of_the_first_process(
    watch: DeathWatch, process: "subprocess.Popen[bytes]"
) -> None:
    with subprocess.Popen(SLEEP) as old:
        assert watch.watch("worker", old.pid, started(old.pid))
        before = open_descriptors()
        assert watch.watch("worker", process.pid, started(process.pid))
        assert open_descriptors() == before
        end(old)
        assert not watch.is_dead("worker")
        assert list(watch.fds().values()) == ["worker"]


def test_close_leaves_no_descriptor_open(process: "subprocess.Popen[bytes]") -> None:
    before = open_descriptors()
    watch = DeathWatch()
    for key in range(5):
        assert watch.watch(key, process.pid, started(process.pid))
    assert open_descriptors() == before + 5
    watch.close()
    assert open_descriptors() == before


def test_a_signal_reaches_the_process_that_is_meant(process: "subprocess.Popen[bytes]") -> None:
    assert kill_if_ours(process.pid, started(process.pid), signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM


def test_a_signal_for_another_start_time_is_not_sent(process: "subprocess.Popen[bytes]") -> None:
    """The pid is somebody else's, who lives on."""
    assert not kill_if_ours(process.pid, started(process.pid) + 1, signal.SIGKILL)
    assert not kill_if_ours(process.pid, started(process.pid) + 1, signal.SIGKILL, group=True)
    assert process.poll() is None


def test_a_signal_for_the_dead_is_not_sent(process: "subprocess.Popen[bytes]") -> None:
    start = started(process.pid)
    end(process)
    assert not kill_if_ours(process.pid, start, signal.SIGKILL)
    process.wait()
    assert not kill_if_ours(process.pid, start, signal.SIGKILL)
    assert not kill_if_ours(process.pid, start, signal.SIGKILL, group=True)


@pytest.mark.parametrize("leader_is_a_zombie", [False, True])
def test_a_group_is_killed_whole(leader_is_a_zombie: bool) -> None:
    """What a worker has started in turn goes with it, also when the worker itself has just died."""
    code = f"import subprocess; p = subprocess.Popen({SLEEP!r}); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, process_group=0) as leader:
        assert leader.stdout is not None
        grandchild = int(leader.stdout.readline())
        watch = DeathWatch()
        assert watch.watch("grandchild", grandchild, started(grandchild))
        start = started(leader.pid)
        if leader_is_a_zombie:
            end(leader)
        assert kill_if_ours(leader.pid, start, signal.SIGKILL, group=True)
        fd = watch.fd("grandchild")
        assert select.select([fd], [], [], 20)[0] == [fd]
        watch.close()


def test_a_process_that_leads_no_group_gets_a_group_signal_alone(process: "subprocess.Popen[bytes]") -> None:
    """It is in our group, and we are not killed."""
    assert kill_if_ours(process.pid, started(process.pid), signal.SIGKILL, group=True)
    assert process.wait() == -signal.SIGKILL
