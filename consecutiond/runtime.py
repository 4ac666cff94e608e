"""One consecutor's processes, from the directory to the last exit; the calling script and the CLI both use it."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import zmq

from consecutiond.acker.stores import StoreError, Totals, read_only
from consecutiond.config import Settings
from consecutiond.control import ControlError, ask
from consecutiond.eviction import Eviction
from consecutiond.plan import Places, Plan, make_plan
from consecutiond.remote import open_to_others
from consecutiond.rundir import RunDir, RunDirError
from consecutiond.storeurls import resolved
from consecutiond.supervision.root import spawn_root
from consecutiond.supervision.states import RootOptions
from consecutiond.supervision.supervisord import render
from consecutiond_broker.errors import ConsecutiondError
from consecutiond_nodes import shipping
from consecutiond_nodes.graph import Graph

#: seconds that the root may take to stop everything after it was asked to
_SHUTDOWN_S = 30.0
#: seconds that a heart may take, after a drain was cut off, to kill the workers
_CUT_S = 15.0


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
        input_uri: where a program of its own takes input from clients, if one is to do so.
    """

    def __init__(
        self,
        graph: Graph,
        settings: Settings,
        target: str,
        outputs: tuple[str, ...] | None,
        *,
        local_output: bool,
        input_uri: str = "",
    ) -> None:
        self.settings = settings
        self._input_uri = input_uri
        self.dir = RunDir(settings.dir, settings.id)
        self._graph, self._target, self._outputs, self._local_output = graph, target, outputs, local_output
        self.process: subprocess.Popen[bytes] | None = None
        #: for the sockets of the calling process
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.plan: Plan
        self._lock_fd = -1

    def prepare(self) -> None:
        """Make and lock the directory, warn of leftovers, write the plan and the root's configuration.

        Raises:
            RunDirError: the directory cannot be used, or a live consecutor has the id.
            ConfigError: an address for other machines cannot be used.
        """
        self.dir.create()
        self._lock_fd = self.dir.acquire()
        self._clear_leftovers()
        self.dir.sweep()
        self._target = self._target or self._ship()
        places = Places(
            uri=self._uri, plan=str(self.dir.plan), pid_dir=str(self.dir.pid_dir),
            supervisor_socket=str(self.dir.supervisor_socket), store=self._store_url(),
            kill_uri="" if self._local_output else self.kill_uri,
            keys=str(self.dir.path / "keys.json"), connection=str(self.dir.path / "connection.json"),
        )  # fmt: skip
        self.plan = make_plan(
            self._graph, self.settings, self._target, self._outputs, places, local_output=self._local_output,
            input_uri=self._input_uri,
        )  # fmt: skip
        open_to_others(self.plan, Path(places.keys), Path(places.connection))
        # The URL of the store may have a password in it.
        self.dir.plan.touch(0o600)
        self.dir.plan.chmod(0o600)
        self.dir.plan.write_bytes(self.plan.to_json())
        self._write_root_configuration()

    def _clear_leftovers(self) -> None:
        """Kill what an earlier run has left alive, and say on stderr what else there is of it."""
        leftovers, left_open = self.dir.leftovers(), self._logged().get("open", 0)
        if leftovers is not None:
            killed = ", ".join(map(str, Eviction(self.dir, threads=False).kill_left()))
            alive = f"killed what was still alive of it: {killed}" if killed else "nothing of it is alive"
            print(
                f"consecutiond: warning: {leftovers}; {alive}. Its log is taken over, stale files are removed. To "
                f"begin anew instead: `consecutiond clean {self.dir.id}`, then start again.",
                file=sys.stderr,
            )
        if left_open and self.settings.uses_store:
            print(f"consecutiond: {left_open:,} open item(s) of an earlier run are taken over", file=sys.stderr)
        elif left_open:
            print(
                f"consecutiond: warning: {left_open:,} open item(s) of an earlier run stay in its log: with "
                f"acker_store = {self.settings.acker_store} and input_store = {self.settings.input_store} it is not "
                "used",
                file=sys.stderr,
            )

    def logged(self) -> dict[str, int]:
        """Return the counts of the log; nothing if there is none that can be read, or if the accounts are not there."""
        return self._logged() if self.settings.acker_store == "disk" else {}

    def _logged(self) -> dict[str, int]:
        try:
            store = read_only(self._store_url())
        except StoreError:
            # There is none yet, or it is the acker's to report.
            return {}
        try:
            totals = store.totals()
            return {name: getattr(totals, name) for name in Totals.__struct_fields__}
        except StoreError:
            return {}
        finally:
            store.close()

    def _ship(self) -> str:
        """Send a graph that workers could not import: return the target under which they find it."""
        path = self.dir.path / "graph.pickle"
        draft = path.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(shipping.pack(self._graph))
        draft.replace(path)
        return f"{shipping.SCHEME}{path}"

    def _uri(self, name: str) -> str:
        return self.dir.socket_uri(name)

    def _write_root_configuration(self) -> None:
        self.dir.conf.write_text(render(self.plan.programs, self.dir, RootOptions(directory=os.getcwd())))

    def _store_url(self) -> str:
        return resolved(self.settings.store, self.dir.path, self.dir.id)

    def spawn(self, *, die_with_parent: bool) -> None:
        """Start the root, which starts everything else."""
        # The descriptor is closed in here, whatever becomes of the root.
        lock_fd, self._lock_fd = self._lock_fd, -1
        self.process = spawn_root(
            self.dir.conf, lock_fd=lock_fd, die_with_parent=die_with_parent, detach=not die_with_parent
        )

    def keep_lock(self) -> int:
        """Hand the lock over to whoever becomes the root by `exec`."""
        return self._lock_fd

    @property
    def kill_uri(self) -> str:
        """Where a stop can be asked for: of the heart in a daemon, else of the process that has the input."""
        return self.dir.socket_uri("kill")

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

    def stop(self, stop_s: float | None = None) -> dict[str, Any]:
        """Have the graph drained and everything stopped; return the last word of the acker, if it came.

        Args:
            stop_s: seconds after which what is not done is cut off; None takes the option ``stop_timeout_s``.
        """
        seconds = self.settings.stop_timeout_s if stop_s is None else stop_s
        return self._request("stop", seconds + _CUT_S, f"{seconds:.3f}".encode())

    def shutdown(self) -> None:
        """Stop every process, now, in order."""
        self._request("shutdown", 5)

    def _request(self, verb: str, timeout_s: float, args: bytes = b"") -> dict[str, Any]:
        if not self.alive():
            return {}
        try:
            return ask(self.plan.control_uri, verb, timeout_s, self.alive, args)
        except ControlError:
            # No heart to ask, or it was gone before it could answer.
            self._give_up()
            return {}

    def _give_up(self) -> None:
        """Stop everything without the heart: the root does that itself on TERM."""
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
        """Remove what is stale, under the lock: it went with the root, and somebody else may have it by now."""
        try:
            if self._lock_fd < 0:
                self._lock_fd = self.dir.acquire()
        except RunDirError:
            # The directory is somebody else's, or was never made; nothing in it is ours to remove.
            return
        self.dir.sweep()
        self.dir.release_links()
        self._release_lock()

    def _release_lock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def wait_dead(directory: RunDir, timeout_s: float) -> bool:
    """Wait until nobody holds the lock of a consecutor; return whether that came in time."""
    deadline = time.monotonic() + timeout_s
    while directory.is_live():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def main_name() -> str:
    """Return the target that the running script is, for a graph that stands nowhere in it."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return str(file) if file else ""


def default_id(target: str) -> str:
    """Return the id of a target that has none: the file's stem, or the module's last name."""
    place = target.rpartition(":")[0] or target
    stem = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    legal = "".join(c if c.isalnum() or c in "_-." else "_" for c in stem).lstrip(".-")
    return legal[:64] or "consecutor"
