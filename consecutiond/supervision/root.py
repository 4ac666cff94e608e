"""The root of the process tree: supervisord, made to ask the heart before it stops, and to act at once."""

import argparse
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions, signame
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.supervisord import Supervisor

from consecutiond.rundir import RunDir, sign_lock
from consecutiond.supervision.barrier import read_start
from consecutiond.supervision.states import EXIT_NOT_UP, EXIT_OK, HEART
from consecutiond_broker import child

#: environment: the pid of the process that spawns a root which has to die with it
PARENT_PID: Final = "CONSECUTIOND_PARENT_PID"
#: how many requests to end go to the heart; the next one stops everything without it
_PATIENCE: Final = 2
_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_RUNNING: Final = (ProcessStates.STARTING, ProcessStates.RUNNING)


class Waker:
    """A pipe that ends the wait of supervisord's loop: for signals, and for the loop itself.

    It has the face of one of supervisord's dispatchers, so that the loop polls it.
    """

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def take_signals(self) -> None:
        """Be woken by every signal that has a handler."""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def wake(self) -> None:
        """Have the next wait return at once."""
        try:
            os.write(self._writer, b"\0")
        except BlockingIOError:
            # Full: it is going to wake up anyway.
            pass

    def readable(self) -> bool:
        """Ask the loop to wait for it, always."""
        return True

    def writable(self) -> bool:
        """Never ask the loop to wait until it can be written to."""
        return False

    def handle_read_event(self) -> None:
        """Drain the pipe; what is to be done is found out by looking."""
        os.read(self.reader, 65536)

    def handle_error(self) -> None:
        """Carry on: the only error there can be is a pipe that was drained already."""


class RootOptions(ServerOptions):  # type: ignore[misc]
    """Supervisord's options, quieter, with the waker at the signals and an identity in the pid file."""

    def __init__(self, waker: Waker, lock_fd: int | None) -> None:
        super().__init__()
        self._waker = waker
        self._lock_fd = lock_fd
        # What stock supervisord's main function sets.
        self.first, self.test = True, False

    def set_uid_or_exit(self) -> None:
        """Stay who we are, without a critical message when that is the superuser."""

    def setsignals(self) -> None:
        """Install supervisord's handlers, and wake the loop when one has run."""
        super().setsignals()
        self._waker.take_signals()

    def openhttpservers(self, supervisord: Any) -> None:
        """Listen; a socket that an earlier root left is removed first, if the lock proves that root dead."""
        if self._lock_fd is not None:
            for config in self.server_configs:
                Path(config["file"]).unlink(missing_ok=True)
        super().openhttpservers(supervisord)

    def write_pidfile(self) -> None:
        """Write pid and start time, as every part does."""
        Path(self.pidfile).write_text("{} {}\n".format(*child.identity()))
        self.unlink_pidfile = True


class Root(Supervisor):  # type: ignore[misc]
    """Supervisord with three differences.

    Requests to end (TERM, INT, QUIT) go to the heart as TERM; the heart drains the graph and asks for the
    shutdown over XML-RPC. HUP is such a request where there is a terminal that can hang up; a daemon without one
    ignores it. Supervisord stops everything by itself when the heart does not run, when it ends after having been
    asked, or at the third request. The loop turns again at once whenever something has changed, instead of at the
    next second. Programs of one priority are stopped together.
    """

    def __init__(self, options: RootOptions, waker: Waker) -> None:
        super().__init__(options)
        self._waker = waker
        self._has_terminal = _has_terminal()
        self._requests = 0
        self._states: dict[str, int] = {}
        self._stopping: tuple[int, int] = (SupervisorStates.RUNNING, 0)
        # For the first spawn.
        waker.wake()

    def get_process_map(self) -> dict[int, Any]:
        """Return what the loop polls, the waker included."""
        process_map: dict[int, Any] = super().get_process_map()
        process_map[self._waker.reader] = self._waker
        return process_map

    def ordered_stop_groups_phase_1(self) -> None:
        """Stop all programs of the highest priority number at once; stock takes one after the other."""
        if self.stop_groups:
            last = self.stop_groups[-1].config.priority
            for group in self.stop_groups:
                if group.config.priority == last:
                    group.stop_all()

    def handle_signal(self) -> None:
        """Act on every signal that has come; the loop calls it at the end of each turn, after reaping."""
        while (number := self.options.get_signal()) is not None:
            self._handle(number)
        if self._requests and self.options.mood == SupervisorStates.RUNNING and self._heart() is None:
            self.options.logger.warn("the heart ended before it had drained the graph; stopping without it")
            self.options.mood = SupervisorStates.SHUTDOWN
        self._turn_again_if_changed()

    def _handle(self, number: int) -> None:
        if number not in (*_ENDING, signal.SIGHUP) or self.options.mood != SupervisorStates.RUNNING:
            return self._handle_as_stock(number)
        if number == signal.SIGHUP and not self._has_terminal:
            self.options.logger.info("received SIGHUP, and ignored it: no terminal can have hung up")
            return None
        heart = self._heart()
        self._requests += 1
        if heart is None or self._requests > _PATIENCE:
            return self._handle_as_stock(number)
        self.options.logger.info(f"received {signame(number)}; the heart is asked to drain the graph")
        heart.signal(signal.SIGTERM)
        return None

    def _handle_as_stock(self, number: int) -> None:
        """Let stock supervisord act on one signal; HUP would restart the root, which nothing needs, so it ends it."""
        self.options.signal_receiver.receive(signal.SIGTERM if number == signal.SIGHUP else number, None)
        super().handle_signal()

    def _heart(self) -> Any:
        """Return the heart's process, or None when it does not run."""
        group = self.process_groups.get(HEART)
        process = group.processes[HEART] if group else None
        return process if process is not None and process.get_state() in _RUNNING else None

    def _turn_again_if_changed(self) -> None:
        """Wake the loop for what this turn has made possible, like RUNNING after STARTING."""
        processes = [process for group in self.process_groups.values() for process in group.processes.values()]
        states = {process.config.name: process.get_state() for process in processes}
        stopping = (self.options.mood, len(self.stop_groups or ()))
        if stopping != self._stopping or states != self._states:
            self._waker.wake()
        self._states, self._stopping = states, stopping


def _has_terminal() -> bool:
    """Return whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the root until everything has been stopped; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m consecutiond.supervision.root", description=__doc__)
    parser.add_argument("conf", metavar="CONF", type=Path, help="the configuration of supervisord")
    parser.add_argument("--lock-fd", metavar="N", type=int, help="the lock, held as long as this process lives")
    parser.add_argument("--die-with-parent", action="store_true", help=f"the parent is ${PARENT_PID}")
    chosen = parser.parse_args(arguments)
    parent = os.environ.pop(PARENT_PID, None)
    if chosen.die_with_parent:
        child.die_with_parent(parent)
    if chosen.lock_fd is not None:
        # Not for the children: the lock has to be free as soon as this process is gone.
        os.set_inheritable(chosen.lock_fd, False)
        sign_lock(chosen.lock_fd)
    os.environ[child.ROOT_PID] = str(os.getpid())
    return _supervise(chosen.conf, chosen.lock_fd)


def _supervise(conf: Path, lock_fd: int | None) -> int:
    waker = Waker()
    options = RootOptions(waker, lock_fd)
    options.realize(["-n", "-c", str(conf)], doc=__doc__)
    try:
        Root(options, waker).main()
    except asyncore.ExitNow:
        # This is how supervisord's loop ends.
        pass
    options.close_httpservers()
    options.close_logger()
    code = _exit_code(conf.parent)
    if lock_fd is not None:
        # Whatever a later start finds was then left by a crash.
        directory = RunDir(conf.parent.parent, conf.parent.name)
        directory.sweep()
        directory.release_links()
    return code


def _exit_code(directory: Path) -> int:
    """Say why the graph did not come up, if it did not: in the foreground there is nobody else to say it."""
    failed = read_start(directory / "pid_files", child.identity()).failed
    if not failed:
        return EXIT_OK
    print(f"consecutiond: error: {failed}\n(logs: {directory / 'log_files'})", file=sys.stderr, flush=True)
    return EXIT_NOT_UP


def root_argv(conf: Path, *, lock_fd: int | None, die_with_parent: bool, python: str = sys.executable) -> list[str]:
    """Return the command line of a root, for whoever wants to become one."""
    # Its configuration is UTF-8 whatever the locale says; the option is not inherited by its children.
    argv = [python, "-X", "utf8", "-m", "consecutiond.supervision.root", str(conf)]
    if lock_fd is not None:
        argv += ["--lock-fd", str(lock_fd)]
    if die_with_parent:
        argv.append("--die-with-parent")
    return argv


def spawn_root(
    conf: Path, *, lock_fd: int | None, die_with_parent: bool, detach: bool, python: str = sys.executable
) -> "subprocess.Popen[bytes]":
    """Start a root in a process of its own.

    It reads nothing, and what it prints by accident goes to ``log_files/root.log`` beside the configuration.

    Args:
        conf: the configuration, in the consecutor's directory.
        lock_fd: the consecutor's lock. It is handed over: this process's descriptor is closed.
        die_with_parent: the kernel kills the root when this process ends. It then also is a process group of
            its own, so that Ctrl-C reaches this process, which decides what to do, and not the root.
        detach: make it the leader of a session of its own, so that it outlives the terminal.
        python: the interpreter.

    Returns:
        The process; it is reaped by a thread of ours, so `wait` and `poll` work and no zombie stays.

    """
    environment = dict(os.environ)
    if die_with_parent:
        environment[PARENT_PID] = str(os.getpid())
    argv = root_argv(conf, lock_fd=lock_fd, die_with_parent=die_with_parent, python=python)

    def popen() -> "subprocess.Popen[bytes]":
        with (conf.parent / "log_files" / "root.log").open("ab") as log:
            return subprocess.Popen(
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=() if lock_fd is None else (lock_fd,),
                start_new_session=detach,
                process_group=0 if die_with_parent and not detach else None,
            )

    try:
        return _popen_in_lasting_thread(popen)
    finally:
        if lock_fd is not None:
            os.close(lock_fd)


def _popen_in_lasting_thread(popen: Any) -> "subprocess.Popen[bytes]":
    """Call `popen` in a thread that lives as long as what it starts.

    The kernel takes the spawning *thread* for the parent whose death is to be noticed.
    """
    started: queue.SimpleQueue[subprocess.Popen[bytes] | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            process = popen()
        except BaseException as error:  # handed to the caller, whatever it is
            started.put(error)
        else:
            started.put(process)
            process.wait()

    threading.Thread(target=run, name="consecutiond-root", daemon=True).start()
    result = started.get()
    if isinstance(result, BaseException):
        raise result
    return result


if __name__ == "__main__":
    sys.exit(main())
