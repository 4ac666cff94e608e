"""A heart on real sockets, with a root that only records, an acker and parts that the test plays."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq

from consecutiond.heartoptions import HeartOptions
from consecutiond.supervision.heart import Heart
from consecutiond.supervision.parts import Part
from consecutiond.supervision.supervisord import ProgramInfo, SupervisorError
from consecutiond_broker import child, wire
from consecutiond_broker.clock import FakeClock

#: seconds after which a condition that should come true is given up
PATIENCE_S = 20.0
ROOT = (4711, 99)
#: supervisord's fault when it is stopping everything
SHUTDOWN_STATE = 6


class RecordingRoot:
    """Remembers what it was asked; refuses, when told to."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.shutdowns = 0
        self.looks = 0
        self.is_stopping = False
        self.refuse: SupervisorError | None = None
        self.programs: dict[str, str] = {}

    def start(self, name: str) -> None:
        self.started.append(name)
        self._answer()

    def stop(self, name: str) -> None:
        self.stopped.append(name)
        self._answer()

    def info(self) -> list[ProgramInfo]:
        self.looks += 1
        self._answer()
        return [ProgramInfo(name, state, None, 1, 0, "") for name, state in self.programs.items()]

    def shutdown(self) -> None:
        self.shutdowns += 1
        self._answer()

    def stopping(self) -> bool:
        return self.is_stopping

    def _answer(self) -> None:
        if self.refuse is not None:
            raise self.refuse


class Harness:
    """Makes hearts, one after the other, over the same sockets; everything else in the tests speaks to them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.root = RecordingRoot()
        self.clock = FakeClock()
        self.options = HeartOptions(
            part="heart", alive_uri=f"ipc://{directory}/alive", control_uri=f"ipc://{directory}/control",
            acker_uri=f"ipc://{directory}/acker", supervisor_socket="", pid_dir=str(directory),
            parts=("one", "two"), local_parts=(), start_timeout_s=60.0, stop_timeout_s=30.0, stall_s=1e9,
        )  # fmt: skip
        self.heart: Heart
        self.heard: list[wire.Head] = []
        self._acker: zmq.Socket[bytes] | None = None
        self._heart_peer = b""
        self._number = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connect()

    def _connect(self) -> None:
        self.push = self.context.socket(zmq.PUSH)
        self.push.connect(self.options.alive_uri)
        self.client = self.context.socket(zmq.DEALER)
        self.client.connect(self.options.control_uri)

    # --- the heart -------------------------------------------------------------------------------------------

    def start(self, root: tuple[int, int] | None = ROOT, **options: Any) -> Heart:
        self.options = msgspec.structs.replace(self.options, **options)
        self._number += 1
        self.heart = Heart(self.options, self._number, self.context, self.root, self.clock, root)
        return self.heart

    def start_ready(self, **options: Any) -> Heart:
        """Return a heart whose graph is up."""
        self.start(**options)
        self.acker()
        for name in self.options.parts:
            self.beat(name)
        self.until(lambda: any(head.ready for head in self.heard_of(wire.HeartJoin)), "the acker hears that it is up")
        return self.heart

    def replace(self) -> Heart:
        """Kill the heart, as far as that goes in one process, and start the next one."""
        self.heart.close()
        # What is sent into a connection that is just breaking is lost; real parts and clients say it again.
        self.push.close(linger=0)
        self.client.close(linger=0)
        heart = self.start()
        self._connect()
        return heart

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Turn the heart, and the acker with it, until something has come true."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"never came true: {what}"
            self.turn()

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.heart._turn(5)
            self._listen()

    def settle(self) -> None:
        """Turn until every beat that was sent before is surely heard: a mark behind them is dropped."""
        before = self.heart._malformed
        self.push.send(b"a mark")
        self.until(lambda: self.heart._malformed > before, "the mark is dropped")

    def part(self, name: str) -> Part:
        return next(part for part in self.heart.parts if part.name == name)

    # --- parts -----------------------------------------------------------------------------------------------

    def beat(
        self, name: str, state: str = "ready", *, epoch: int = 1, detail: str = "", stats: bytes = b"{}",
        identity: tuple[int, int] | None = None, version: int = wire.VERSION,
    ) -> None:  # fmt: skip
        pid, started = identity or child.identity()
        self.push.send(wire.pack(wire.Alive(version, name, pid, started, epoch, state, detail, stats)))

    def process(self, *, deaf: bool = False) -> "subprocess.Popen[bytes]":
        """Start something that lives until it is ended, or, deaf to TERM, until it is killed."""
        # What is ignored stays ignored across exec.
        command = ["sh", "-c", "trap '' TERM; echo; exec sleep 600"] if deaf else ["sleep", "600"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE if deaf else None)
        if process.stdout is not None:
            process.stdout.readline()
            process.stdout.close()
        self._processes.append(process)
        return process

    # --- the acker -------------------------------------------------------------------------------------------

    def acker(self) -> None:
        """Play the acker from now on; again, a new one."""
        if self._acker is not None:
            self._acker.close(linger=0)
        self._acker = self.context.socket(zmq.ROUTER)
        self._acker.bind(self.options.acker_uri)
        self._heart_peer = b""

    def _listen(self) -> None:
        while self._acker is not None and self._acker.poll(0):
            self._heart_peer, *frames = self._acker.recv_multipart()
            self.heard.append(wire.unpack(frames))

    def tell(self, head: wire.Head) -> None:
        """Say something to the heart, as the acker."""
        assert self._acker is not None
        self._acker.send_multipart([self._heart_peer, wire.pack(head)])

    def heard_of(self, kind: type[Any]) -> list[Any]:
        return [head for head in self.heard if isinstance(head, kind)]

    # --- a client of the control socket ------------------------------------------------------------------------

    def ask(self, verb: str, number: int = 1) -> None:
        self.client.send(wire.pack(wire.Ask(number, verb, b"")))

    def answer(self) -> wire.Answer:
        """Turn until the heart has answered; return the answer."""
        self.until(lambda: self.client.poll(0), "an answer")
        head = wire.unpack(self.client.recv_multipart())
        assert isinstance(head, wire.Answer)
        return head

    def answered(self) -> bool:
        return bool(self.client.poll(0))

    def close(self) -> None:
        self.heart.close()
        for process in self._processes:
            process.kill()
            process.wait()
        self.context.destroy(linger=0)


def identity(process: "subprocess.Popen[bytes]") -> tuple[int, int]:
    """Return pid and start time of a process that lives."""
    started = child.start_time(process.pid)
    assert started is not None
    return process.pid, started


def refusal(code: int = 10) -> SupervisorError:
    return SupervisorError("refused", code)
