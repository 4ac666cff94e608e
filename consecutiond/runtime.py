"""One consecutor's processes, from the directory to the last exit; the calling script and the CLI both use it."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from consecutiond.config import Settings
from consecutiond.control import ControlError, ask
from consecutiond.plan import Places, Plan, make_plan
from consecutiond.rundir import RunDir
from consecutiond.supervision.root import spawn_root
from consecutiond.supervision.states import RootOptions
from consecutiond.supervision.supervisord import render
from consecutiond_broker.errors import ConsecutiondError
from consecutiond_nodes.graph import Graph

#: seconds that the root may take to stop everything after it was asked to
_SHUTDOWN_S = 30.0


class StartError(ConsecutiondError):
    """The consecutor did not come up; the text has the reason, the user's own traceback included."""


class Runtime:
    """The directory, the plan and the root process of one consecutor.

    Args:
        graph: a valid graph.
        settings: the options, `id` set.
        target: how workers import the graph.
        outputs: names of the registered outputs; None takes every name.
        local_output: the containers are in this process.
    """

    def __init__(
        self,
        graph: Graph,
        settings: Settings,
        target: str,
        outputs: tuple[str, ...] | None,
        *,
        local_output: bool,
    ) -> None:
        self.settings = settings
        self.dir = RunDir(settings.dir, settings.id)
        self._graph, self._target, self._outputs, self._local_output = graph, target, outputs, local_output
        self.process: subprocess.Popen[bytes] | None = None
        self.plan: Plan
        self._lock_fd = -1

    def prepare(self) -> None:
        """Make and lock the directory, warn of leftovers, write the plan and the root's configuration.

        Raises:
            RunDirError: the directory cannot be used, or a live consecutor has the id.
        """
        self.dir.create()
        self._lock_fd = self.dir.acquire()
        leftovers = self.dir.leftovers()
        if leftovers is not None:
            print(
                f"consecutiond: warning: {leftovers}; nothing of it is alive. Its log is taken over, stale files "
                "are removed.",
                file=sys.stderr,
            )
        self.dir.sweep()
        places = Places(
            uri=self.dir.socket_uri, plan=str(self.dir.plan), pid_dir=str(self.dir.pid_dir),
            supervisor_socket=str(self.dir.supervisor_socket), store=self._store_url(),
        )  # fmt: skip
        self.plan = make_plan(
            self._graph, self.settings, self._target, self._outputs, places, local_output=self._local_output
        )
        self.dir.plan.write_bytes(self.plan.to_json())
        self.dir.conf.write_text(render(self.plan.programs, self.dir, RootOptions(directory=os.getcwd())))

    def _store_url(self) -> str:
        return f"sqlite:///{self.dir.store}" if self.settings.store == "sqlite" else self.settings.store

    def spawn(self, *, die_with_parent: bool) -> None:
        """Start the root, which starts everything else."""
        self.process = spawn_root(
            self.dir.conf, lock_fd=self._lock_fd, die_with_parent=die_with_parent, detach=not die_with_parent
        )
        self._lock_fd = -1

    def keep_lock(self) -> int:
        """Hand the lock over to whoever becomes the root by `exec`."""
        return self._lock_fd

    def wait_ready(self) -> None:
        """Return when every part is up.

        Raises:
            StartError: one is not; everything has been stopped again.
        """
        try:
            ask(self.plan.control_uri, "wait", self.settings.start_timeout_s + 10, self.alive)
        except ControlError as error:
            raise StartError(f"{error}\n(logs: {self.dir.log_dir})") from None

    def alive(self) -> bool:
        """Return whether the root lives."""
        return self.process is not None and self.process.poll() is None

    def status(self) -> dict[str, Any]:
        """Return what the heart knows."""
        return ask(self.plan.control_uri, "status", 10, self.alive)

    def stop(self) -> None:
        """Have the graph drained and everything stopped; open roots stay in the log."""
        self._request("stop", self.settings.stop_timeout_s + 5)

    def shutdown(self) -> None:
        """Stop every process, now, in order."""
        self._request("shutdown", 5)

    def _request(self, verb: str, timeout_s: float) -> None:
        if not self.alive():
            return
        try:
            ask(self.plan.control_uri, verb, timeout_s, self.alive)
        except ControlError:
            # No heart to ask, or it was gone before it could answer: the root itself stops everything on TERM.
            self.process_or_fail().terminate()

    def process_or_fail(self) -> subprocess.Popen[bytes]:
        """Return the root's process."""
        if self.process is None:
            raise StartError("the root was not started")
        return self.process

    def wait_gone(self) -> None:
        """Return when the root and all its children are gone; a root that hangs is killed, its children with it."""
        if self.process is not None:
            try:
                self.process.wait(_SHUTDOWN_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._sweep()

    def _sweep(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
        self.dir.sweep()
        self.dir.release_links()


def wait_dead(directory: RunDir, timeout_s: float) -> bool:
    """Wait until nobody holds the lock of a consecutor; return whether that came in time."""
    deadline = time.monotonic() + timeout_s
    while directory.is_live():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def default_id(target: str) -> str:
    """Return the id of a target that has none: the file's stem, or the module's last name."""
    place = target.rpartition(":")[0] or target
    stem = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    legal = "".join(c if c.isalnum() or c in "_-." else "_" for c in stem).lstrip(".-")
    return legal[:64] or "consecutor"
