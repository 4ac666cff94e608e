"""The worker that fills the containers of the calling process, in a thread of it."""

import threading
from collections.abc import Mapping
from pathlib import Path

import zmq

from consecutiond.logs import get_logger
from consecutiond_broker import child
from consecutiond_broker.epochs import next_epoch
from consecutiond_broker.errors import ConsecutiondError
from consecutiond_broker.pulse import Pulse
from consecutiond_broker.wake import Wake
from consecutiond_nodes.outputs import Container, OutputNode
from consecutiond_nodes.ports import Who
from consecutiond_nodes.worker import Worker, WorkerOptions

log = get_logger("output")


class OutputThread:
    """Appends what nodes write. It is a worker like any other, so an append that raises fails its root alone."""

    def __init__(
        self, options: WorkerOptions, containers: Mapping[str, Container], other: Container | None,
        context: "zmq.Context[zmq.Socket[bytes]]",
    ) -> None:  # fmt: skip
        pid, started = child.identity()
        epoch = next_epoch(Path(options.pid_dir), options.part)
        # No cell: when this process dies, the whole consecutor goes with it.
        who = Who(options.worker, epoch, pid, started, "")
        self._worker = Worker(options, OutputNode(containers, other), (), who, context)
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

    def _run(self) -> None:
        self._pulse.say("ready")
        try:
            self._worker.run()
        except ConsecutiondError as error:
            log.error("output.failed", error=str(error))
            self._pulse.say("failed", str(error))
        finally:
            self._worker.close()

    def close(self) -> None:
        """Finish the batch in hand and leave."""
        self._wake.call()
        self._thread.join()
        self._pulse.close()
        self._wake.close()
