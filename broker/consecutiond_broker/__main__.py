"""One broker process: ``python -m consecutiond_broker PLAN PART``."""

from consecutiond_broker import child

child.adopt()

import signal  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import zmq  # noqa: E402

from consecutiond_broker.epochs import next_epoch  # noqa: E402
from consecutiond_broker.options import BrokerOptions, load_options  # noqa: E402
from consecutiond_broker.partlog import log_to_stderr  # noqa: E402
from consecutiond_broker.pulse import Pulse  # noqa: E402
from consecutiond_broker.router import Broker  # noqa: E402
from consecutiond_broker.signals import Signals  # noqa: E402


def main() -> None:
    """Run the broker until TERM."""
    options = load_options(Path(sys.argv[1]), sys.argv[2], BrokerOptions)
    epoch = next_epoch(Path(options.pid_dir), options.part)
    log_to_stderr(options.part, epoch=epoch)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    broker = Broker(options, epoch, context)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    broker.listen(Signals(signal.SIGTERM))
    pulse = Pulse(context, options.heart_uri, options.part, child.identity(), epoch, options.heartbeat_s, broker.stats)
    pulse.say("ready")
    broker.run()
    pulse.close()
    broker.close()
    context.term()


if __name__ == "__main__":
    main()
