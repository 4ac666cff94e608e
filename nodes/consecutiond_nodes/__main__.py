"""One worker process: ``python -m consecutiond_nodes PLAN PART``."""

from consecutiond_broker import child

child.adopt()

import gc  # noqa: E402
import logging  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import zmq  # noqa: E402

import consecutiond_nodes.importer as importer  # noqa: E402
from consecutiond_broker.epochs import next_epoch  # noqa: E402
from consecutiond_broker.errors import FencedError  # noqa: E402
from consecutiond_broker.options import load_options  # noqa: E402
from consecutiond_broker.partlog import log_to_stderr  # noqa: E402
from consecutiond_broker.pulse import Pulse  # noqa: E402
from consecutiond_broker.signals import Signals  # noqa: E402
from consecutiond_nodes.ports import Who  # noqa: E402
from consecutiond_nodes.raised import user_traceback  # noqa: E402
from consecutiond_nodes.worker import Worker, WorkerOptions  # noqa: E402
from consecutiond_nodes.workers import worker_class  # noqa: E402

log = logging.getLogger("consecutiond.worker")

#: the worker could not start: its target or its `begin` raised
EXIT_START_FAILED = 3
#: a newer worker of the same name is running
EXIT_FENCED = 4


def main() -> int:
    """Run the worker until TERM."""
    options = load_options(Path(sys.argv[1]), sys.argv[2], WorkerOptions)
    log_to_stderr(options.part)
    pid_dir = Path(options.pid_dir)
    epoch = next_epoch(pid_dir, options.part)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pid, started = child.identity()
    current: list[Worker] = []
    pulse = Pulse(
        context, options.heart_uri, options.part, (pid, started), epoch, options.heartbeat_s,
        lambda: current[0].stats() if current else {},
    )  # fmt: skip
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        graph = importer.graph_of(importer.load(options.target))
        who = Who(options.worker, epoch, pid, started, str(pid_dir / f"{options.part}-{epoch}.cell"))
        node = graph[options.node]
        ways = graph.outlets(options.node), who, context, graph.keyed(options.node)
        worker = worker_class(node)(options, node, *ways)
        worker.listen(Signals(signal.SIGTERM))
        worker.begin()
    except FencedError as error:
        return _fenced(pulse, error)
    except BaseException as error:  # whatever the user's code does at start, its traceback reaches whoever waits
        log.exception("worker.start_failed")
        pulse.say("failed", getattr(error, "user_traceback", "") or user_traceback(error))
        pulse.close()
        return EXIT_START_FAILED
    current.append(worker)
    _tame_collector()
    pulse.say("ready")
    try:
        worker.run()
    except FencedError as error:
        return _fenced(pulse, error)
    finally:
        pulse.close()
        worker.close()
        context.term()
    return 0


def _fenced(pulse: Pulse, error: FencedError) -> int:
    log.error("worker.fenced error=%s", error)
    pulse.say("failed", str(error))
    pulse.close()
    return EXIT_FENCED


def _tame_collector() -> None:
    """Keep the cyclic collector off what lives for ever, and off every batch of small objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


if __name__ == "__main__":
    sys.exit(main())
