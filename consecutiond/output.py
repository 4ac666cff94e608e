"""The output process of a daemon: ``python -m consecutiond.output PLAN PART`` fills the target's containers."""

from consecutiond_broker import child

if __name__ == "__main__":
    child.adopt()

import logging
import signal
import sys
from pathlib import Path

import zmq

from consecutiond.chaining import Chain
from consecutiond.outputs.jsonlines import JsonLinesDirectory
from consecutiond_broker.epochs import next_epoch
from consecutiond_broker.options import load_options
from consecutiond_broker.partlog import log_to_stderr
from consecutiond_broker.pulse import Pulse
from consecutiond_broker.signals import Signals
from consecutiond_broker.stacks import Stacks, path_of
from consecutiond_nodes import importer
from consecutiond_nodes.outputs import OutputNode
from consecutiond_nodes.outputworker import OutputWorker
from consecutiond_nodes.ports import Who
from consecutiond_nodes.raised import user_traceback
from consecutiond_nodes.worker import WorkerOptions

log = logging.getLogger("consecutiond.output")


def main() -> int:
    """Run until TERM."""
    plan = Path(sys.argv[1])
    options = load_options(plan, sys.argv[2], WorkerOptions)
    pid_dir = Path(options.pid_dir)
    epoch = next_epoch(pid_dir, options.part)
    log_to_stderr(options.part, epoch=epoch, prints=True)
    stacks = Stacks(path_of(pid_dir, options.part, epoch))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pid, started = child.identity()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    current: list[OutputWorker] = []
    pulse = Pulse(
        context, options.heart_uri, options.part, (pid, started), epoch, options.heartbeat_s,
        lambda: current[0].stats() if current else {},
    )  # fmt: skip
    try:
        found = importer.load(options.target)
        chain = Chain(getattr(found, "outputs", {}), options.consecutor, plan.parent.parent)
        node = OutputNode(chain.containers, JsonLinesDirectory(plan.parent / "output_files"))
        chain.open()
        who = Who(options.worker, epoch, pid, started, str(pid_dir / f"{options.part}-{epoch}.cell"))
        worker = OutputWorker(options, node, (), who, context)
    except BaseException as error:  # the target is the user's code; its traceback reaches whoever waits
        log.exception("output.start_failed")
        pulse.say("failed", getattr(error, "user_traceback", "") or user_traceback(error))
        pulse.close()
        return 3
    current.append(worker)
    worker.listen(Signals(signal.SIGTERM))
    pulse.say("ready")
    worker.run()
    worker.close()
    chain.stop()
    pulse.close()
    stacks.close()
    context.term()
    return 0


if __name__ == "__main__":
    sys.exit(main())
