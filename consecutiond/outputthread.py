"""The worker that fills the containers of the calling process, in a thread of it."""

import select
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import zmq

from consecutiond.logs import get_logger
from consecutiond_broker import child
from consecutiond_broker.epochs import next_epoch
from consecutiond_broker.errors import ConsecutiondError
from consecutiond_broker.pulse import Pulse
from consecutiond_broker.wake import Wake
from consecutiond_nodes.outputs import Container, OutputNode
from consecutiond_nodes.outputworker import OutputWorker
from consecutiond_nodes.ports import Who
from consecutiond_nodes.worker import WorkerOptions

log = get_logger("output")

#: seconds for the batch in hand when everything stops; as much as other parts have
_STUCK_S: Final = 10.0


class OutputThread:
    """Appends what nodes write. It is a worker like any other, so an append that raises fails its root alone."""

    def __init__(
        self, options: WorkerOptions, containers: Mapping[str, Container], other: Container | None,
        context: "zmq.Context[zmq.Socket[bytes]]", on_reader_gone: Callable[[], None],
    ) -> None:  # fmt: skip
        pid, started = child.identity()
        epoch = next_epoch(Path(options.pid_dir), options.part)
        # No cell: when this process dies, the whole consecutor goes with it.
        who = Who(options.worker, epoch, pid, started, "")
        self._worker = OutputWorker(options, OutputNode(containers, other), (), who, context)
        self._on_reader_gone = on_reader_gone
        self._worker.on_broken_pipe = self._look_at_stdout
        self._wake = Wake()
        self._worker.listen(self._wake)
        self._pulse = Pulse(
            context,
            options.heart_uri,
            options.part,
            (pid, started),
            epoch,
            options.heartbeat_s,
            self._worker.stats,
        )
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def _look_at_stdout(self) -> None:
        # The broken pipe may be another one, which the container can open again.
        if stdout_is_unread():
            self._on_reader_gone()

    def _run(self) -> None:
        self._pulse.say("ready")
        try:
            self._worker.run()
        except ConsecutiondError as error:
            log.error("output.failed", error=str(error))
            self._pulse.say("failed", str(error))
        finally:
            self._worker.close()

    def close(self) -> bool:
        """Finish the batch in hand and leave; return whether it did: an `append` that does not return is left alone."""
        self._wake.call()
        self._thread.join(_STUCK_S)
        if self._thread.is_alive():
            log.error("output.stuck", reason="an append does not return; a thread cannot be killed")
            return False
        self._pulse.close()
        self._wake.close()
        return True


def stdout_is_unread() -> bool:
    """Return whether stdout is a pipe whose reader has ended."""
    try:
        fd = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        # Closed, or replaced by something that is no file.
        return False
    poller = select.poll()
    poller.register(fd, 0)
    return any(event & select.POLLERR for _, event in poller.poll(0))
