"""One worker process: ``python -m consecutiond_nodes PLAN PART``."""

from consecutiond_broker import child

child.adopt()

import signal  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import zmq  # noqa: E402

import consecutiond_nodes.importer as importer  # noqa: E402
from consecutiond_broker.epochs import next_epoch  # noqa: E402
from consecutiond_broker.options import load_options  # noqa: E402
from consecutiond_broker.partlog import log_to_stderr  # noqa: E402
from consecutiond_broker.pulse import Pulse  # noqa: E402
from consecutiond_broker.signals import Signals  # noqa: E402
from consecutiond_broker.stacks import Stacks, path_of  # noqa: E402
from consecutiond_nodes.ports import Who  # noqa: E402
from consecutiond_nodes.running import Life  # noqa: E402
from consecutiond_nodes.worker import WorkerOptions  # noqa: E402


def main() -> int:
    """Run the worker until TERM."""
    options = load_options(Path(sys.argv[1]), sys.argv[2], WorkerOptions)
    pid_dir = Path(options.pid_dir)
    epoch = next_epoch(pid_dir, options.part)
    log_to_stderr(options.part, epoch=epoch, prints=True)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pid, started = child.identity()
    who = Who(options.worker, epoch, pid, started, str(pid_dir / f"{options.part}-{epoch}.cell"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stacks = Stacks(path_of(pid_dir, options.part, epoch))
    life = Life(options, who, context, lambda: Signals(signal.SIGTERM))
    pulse = Pulse(context, options.heart_uri, options.part, (pid, started), epoch, options.heartbeat_s, life.stats)
    try:
        return life.run(lambda: importer.graph_of(importer.load(options.target)), pulse)
    finally:
        stacks.close()


if __name__ == "__main__":
    sys.exit(main())
