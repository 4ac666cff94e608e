"""One consecutor as threads of the calling process: the same parts, over inproc sockets, without supervisord."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from typing import Any, Final

from consecutiond.acker.committer import Committer
from consecutiond.acker.options import AckerOptions
from consecutiond.acker.service import Acker
from consecutiond.logs import get_logger, logged_to
from consecutiond.partthread import Part, PartThread
from consecutiond.runtime import Runtime, StartError
from consecutiond.supervision.heart import Heart
from consecutiond.supervision.states import HEART
from consecutiond.supervision.supervisord import ProgramInfo
from consecutiond_broker import child
from consecutiond_broker.clock import SystemClock
from consecutiond_broker.epochs import next_epoch
from consecutiond_broker.options import BrokerOptions
from consecutiond_broker.pulse import Pulse
from consecutiond_broker.router import Broker
from consecutiond_nodes.ports import Who
from consecutiond_nodes.worker import Worker, WorkerOptions
from consecutiond_nodes.workers import worker_class

log = get_logger("threads")

#: sockets that stay Unix sockets, so that `consecutiond status`, `stop` and `push` reach the consecutor
_REACHABLE: Final = frozenset({"acker", "control"})
#: seconds for what parts have in hand when everything stops; as much as processes have between TERM and KILL
_STUCK_S: Final = 10.0


class ThreadRuntime(Runtime):
    """The directory, the plan and the threads of one consecutor.

    Nodes with one worker are the user's own objects; of others, each worker has a deep copy.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._spawned = False
        #: what a part has raised
        self.failure = ""
        self._gone = threading.Event()
        self._reaper: threading.Thread | None = None
        self._reaping = threading.Lock()
        self._log = ExitStack()
        #: they are stopped in this order: workers, brokers, acker, heart
        self._workers: list[PartThread] = []
        self._others: list[PartThread] = []

    def _uri(self, name: str) -> str:
        return self.dir.socket_uri(name) if name in _REACHABLE else f"inproc://{name}"

    def _write_root_configuration(self) -> None:
        """There is no root."""

    def _ship(self) -> str:
        """Nothing travels."""
        return ""

    def spawn(self, *, die_with_parent: bool) -> None:
        """Start every part."""
        self._log.enter_context(logged_to(self.dir.log_dir / "threads.log"))
        self.dir.write_pid("root")
        self._identity = child.identity()
        self._epoch = next_epoch(self.dir.pid_dir, "acker")
        for name, options in self.plan.parts.items():
            make = self._maker(options)
            if make is not None:
                part = PartThread(name, make, self._pulse(name, options), self._failed)
                (self._workers if isinstance(options, WorkerOptions) else self._others).append(part)
        # Brokers before the acker, and the heart last: what they stop is what the one after them may still need.
        order: dict[type, int] = {BrokerOptions: 0, AckerOptions: 1}
        self._others.sort(key=lambda part: order.get(type(self.plan.parts[part.name]), 2))
        self._spawned = True
        for part in reversed([*self._workers, *self._others]):
            part.start()

    def wait_ready(self) -> None:
        """Return when every part is up.

        Raises:
            StartError: one is not; the text has what it raised.
        """
        try:
            super().wait_ready()
        except StartError:
            if self.failure:
                raise StartError(self.failure) from None
            raise

    def _maker(self, options: Any) -> Callable[[], Part] | None:
        if isinstance(options, WorkerOptions):
            return lambda: self._worker(options)
        if isinstance(options, BrokerOptions):
            return lambda: Broker(options, self._epoch, self.context)
        if isinstance(options, AckerOptions):
            return lambda: self._acker(options)
        return lambda: Heart(options, self._epoch, self.context, ThreadSupervisor(self), SystemClock())

    def _pulse(self, name: str, options: Any) -> Pulse | None:
        if name == HEART:
            return None
        return Pulse(
            self.context, options.heart_uri, name, self._identity, self._epoch, options.heartbeat_s,
            lambda: self._stats(name),
        )  # fmt: skip

    def _stats(self, name: str) -> dict[str, object]:
        part = next((thread.part for thread in (*self._workers, *self._others) if thread.name == name), None)
        if isinstance(part, Acker):
            return {"open": part.ledger.open}
        return part.stats() if isinstance(part, Worker | Broker) else {}

    def _worker(self, options: WorkerOptions) -> Worker:
        node = self._graph[options.node]
        if node.num_workers > 1:
            try:
                node = deepcopy(node)
            except Exception as error:  # copying runs the user's code
                raise StartError(
                    f"node {options.node} has {node.num_workers} workers and cannot be copied for each "
                    f"({type(error).__name__}: {error}); open such things in `begin`"
                ) from error
        who = Who(options.worker, self._epoch, *self._identity, "")
        ways = self._graph.outlets(options.node), who, self.context, self._graph.keyed(options.node)
        worker = worker_class(node)(options, node, *ways)
        try:
            worker.begin()
        except BaseException:
            worker.close()
            raise
        return worker

    def _acker(self, options: AckerOptions) -> Acker:
        committer = Committer(options.open_store)
        return Acker(options, self._epoch, self.context, committer)

    def _failed(self, text: str) -> None:
        self.failure = self.failure or text

    # --- the end ---------------------------------------------------------------------------------------------

    def alive(self) -> bool:
        """Return whether the parts run and none of them has failed."""
        return self._spawned and not self._gone.is_set() and self._reaper is None and not self.failure

    @property
    def reaping(self) -> bool:
        """Whether the parts are being stopped."""
        return self._reaper is not None

    def reap(self) -> None:
        """Begin to stop every part, workers first; does nothing the second time."""
        with self._reaping:
            if self._reaper is None:
                self._reaper = threading.Thread(target=self._stop_all, name="reaper", daemon=True)
                self._reaper.start()

    def _stop_all(self) -> None:
        stuck = []
        for group in (self._workers, *([part] for part in self._others)):
            for part in group:
                part.call()
            until = time.monotonic() + _STUCK_S
            stuck += [part.name for part in group if not part.join(max(0.0, until - time.monotonic()))]
        if stuck:
            log.warning("threads.stuck", parts=stuck, reason="a node does not return; a thread cannot be killed")
        self._log.close()
        if self._lock_fd >= 0:
            # Before the lock is free: whoever starts next kills what is recorded and alive, and we are.
            self.dir.sweep()
        self._release_lock()
        self._gone.set()

    def _give_up(self) -> None:
        self.reap()

    def wait_gone(self) -> None:
        """Return when every thread has ended, but for those whose user code does not return."""
        self.reap()
        self._gone.wait()
        self._sweep()


class ThreadSupervisor:
    """What the heart needs of a supervisor, where the parts are threads."""

    def __init__(self, runtime: ThreadRuntime) -> None:
        self._runtime = runtime

    def start(self, name: str) -> None:
        """Threads are not restarted: none is ever dead for the heart."""
        raise NotImplementedError(name)

    def stop(self, name: str) -> None:
        """Threads are stopped all together: no part of theirs has clients of its own."""
        raise NotImplementedError(name)

    def info(self) -> list[ProgramInfo]:
        """Nothing dies without a word."""
        return []

    def shutdown(self) -> None:
        """Begin to stop every part."""
        self._runtime.reap()

    def stopping(self) -> bool:
        """Return whether every part is being stopped already."""
        return self._runtime.reaping
