"""The acker process: ``python -m consecutiond.acker PLAN PART``."""

from consecutiond_broker import child

child.adopt()

import signal  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import zmq  # noqa: E402

from consecutiond.acker.committer import Committer  # noqa: E402
from consecutiond.acker.options import AckerOptions  # noqa: E402
from consecutiond.acker.service import Acker, log  # noqa: E402
from consecutiond.acker.stores.base import StoreError  # noqa: E402
from consecutiond.acker.stores.numbered import LogLostError  # noqa: E402
from consecutiond.logs import log_events  # noqa: E402
from consecutiond_broker.epochs import next_epoch  # noqa: E402
from consecutiond_broker.options import load_options  # noqa: E402
from consecutiond_broker.pulse import Pulse  # noqa: E402
from consecutiond_broker.signals import Signals  # noqa: E402

#: the store cannot be opened, or has lost what it had confirmed
EXIT_NO_STORE = 3


def main() -> int:
    """Run the acker until TERM."""
    options = load_options(Path(sys.argv[1]), sys.argv[2], AckerOptions)
    log_events(role="acker")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    epoch = next_epoch(Path(options.pid_dir), options.part)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    current: list[Acker] = []
    pulse = Pulse(
        context, options.heart_uri, options.part, child.identity(), epoch, options.heartbeat_s,
        lambda: {"open": current[0].ledger.open} if current else {},
    )  # fmt: skip
    try:
        committer = Committer(options.open_store)
        acker = Acker(options, epoch, context, committer)
    except StoreError as error:
        log.error("store.cannot_open", error=str(error))
        pulse.say("failed", str(error))
        pulse.close()
        return EXIT_NO_STORE
    current.append(acker)
    acker.listen(Signals(signal.SIGTERM))
    pulse.say("ready")
    log.info("acker.ready", epoch=epoch, guarantee=committer.store.describe())
    try:
        acker.run()
    except (LogLostError, StoreError) as error:
        # What is in memory here is not in the log any more, or it was written for another graph.
        log.error("store.unusable", error=str(error))
        pulse.say("failed", str(error))
        pulse.close()
        return EXIT_NO_STORE
    pulse.close()
    acker.close()
    context.term()
    return 0


if __name__ == "__main__":
    sys.exit(main())
