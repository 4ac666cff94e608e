"""The program ``input`` of a daemon, a server that feeds the acker: ``python -m consecutiond.inputs PLAN PART``."""

from consecutiond_broker import child

child.adopt()

import select  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Final  # noqa: E402

import zmq  # noqa: E402

from consecutiond.control import ControlError, ask  # noqa: E402
from consecutiond.feeder import Feeder  # noqa: E402
from consecutiond.inputs.opening import Server, open_server, parse_uri  # noqa: E402
from consecutiond.inputs.options import InputOptions  # noqa: E402
from consecutiond.logs import get_logger, log_events  # noqa: E402
from consecutiond_broker.epochs import next_epoch  # noqa: E402
from consecutiond_broker.errors import ConsecutiondError  # noqa: E402
from consecutiond_broker.options import load_options  # noqa: E402
from consecutiond_broker.pulse import Pulse  # noqa: E402
from consecutiond_broker.signals import Signals  # noqa: E402

log = get_logger("input")

#: the place cannot be used
_EXIT_NO_PLACE: Final = 3
#: it takes nothing more although nobody has told it to end; whoever follows it will
_EXIT_BROKEN: Final = 1
#: seconds between looks at whether it still takes anything
_LOOK_S: Final = 0.5
#: seconds that what has come may take to be recorded; less than the root's patience
_FINISH_S: Final = 7.0


class Input:
    """A server, and what it feeds.

    It listens at once, so that a place that is taken fails the start; it takes nothing before the whole graph is up.

    Args:
        options: what the plan says.
        context: the process's ZeroMQ context.

    Raises:
        InputUriError: the uri is wrong.
        InputError: the place cannot be used.
    """

    def __init__(self, options: InputOptions, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        self._options = options
        uri = parse_uri(options.uri)
        # Whoever we feed is our root's child, as we are: we do not outlive it.
        self._feeder = Feeder(
            context, options.acker_uri, batch_items=options.batch_items, batch_bytes=options.batch_bytes,
            max_message=options.max_message, alive=lambda: True,
        )  # fmt: skip
        try:
            self._server: Server = open_server(uri, self._feeder)
        except BaseException:
            self._feeder.close()
            raise

    @property
    def endpoint(self) -> str:
        """Where clients come, with the true port."""
        return self._server.endpoint

    def stats(self) -> dict[str, object]:
        """Return the counters of the moment: of this incarnation."""
        return {
            "endpoint": self.endpoint,
            "items": self._feeder.recorded,
            "failures": self._server.refused,
            "withheld": self._feeder.full,
        }

    def run(self, signals: Signals) -> int:
        """Serve until a signal; return the exit code."""
        poller = select.poll()
        poller.register(signals.fileno(), select.POLLIN)
        if not self._wait_for_the_graph(signals, poller):
            return 0
        self._server.start()
        while not signals.taken():
            poller.poll(int(1000 * _LOOK_S))
            if self._feeder.error is not None or self._server.wait(0.0):
                log.error("input.broken", error=str(self._feeder.error or "the server has ended"))
                return _EXIT_BROKEN
        return 0

    def _wait_for_the_graph(self, signals: Signals, poller: select.poll) -> bool:
        """Return whether the graph is up, and not whether we are to end before it is."""
        told = False

        def undisturbed() -> bool:
            nonlocal told
            told = told or bool(signals.taken())
            return not told

        while not told:
            try:
                ask(self._options.control_uri, "wait", self._options.start_timeout_s, undisturbed)
            except ControlError as error:
                # A heart that is away comes back; one that gives the start up has the root stop us.
                log.info("input.waits", error=str(error))
                poller.poll(int(1000 * _LOOK_S))
            else:
                return True
        return False

    def close(self) -> None:
        """Take nothing more, wait for the receipts of what has come, and give the last answers."""
        self._server.stop(_FINISH_S)
        self._feeder.close()


def main() -> int:
    """Run until TERM."""
    options = load_options(Path(sys.argv[1]), sys.argv[2], InputOptions)
    log_events(role=options.part)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals = Signals(signal.SIGTERM)
    epoch = next_epoch(Path(options.pid_dir), options.part)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    current: list[Input] = []
    pulse = Pulse(
        context, options.heart_uri, options.part, child.identity(), epoch, options.heartbeat_s,
        lambda: current[0].stats() if current else {},
    )  # fmt: skip
    try:
        current.append(Input(options, context))
    except ConsecutiondError as error:
        log.error("input.cannot_open", error=str(error))
        pulse.say("failed", str(error))
        pulse.close()
        return _EXIT_NO_PLACE
    pulse.say("ready")
    log.info("input.ready", endpoint=current[0].endpoint, epoch=epoch)
    code: Any = current[0].run(signals)
    current[0].close()
    pulse.close()
    context.term()
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
