"""The output process of a daemon: ``python -m consecutiond.output PLAN PART`` fills the target's containers."""

from consecutiond_broker import child

if __name__ == "__main__":
    child.adopt()

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import zmq

from consecutiond.chaining import Chain
from consecutiond_broker.epochs import next_epoch
from consecutiond_broker.options import load_options
from consecutiond_broker.partlog import log_to_stderr
from consecutiond_broker.pulse import Pulse
from consecutiond_broker.signals import Signals
from consecutiond_nodes import importer
from consecutiond_nodes.outputs import OutputNode
from consecutiond_nodes.outputworker import OutputWorker
from consecutiond_nodes.ports import Who
from consecutiond_nodes.raised import user_traceback
from consecutiond_nodes.worker import WorkerOptions

log = logging.getLogger("consecutiond.output")

#: bytes read at a time on the way back from the end of a file
_LOOK_BYTES: Final = 1 << 16


class JsonLines:
    """The container of outputs that nobody registered: ``NAME.jsonl`` in a directory, on the disk before it counts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, BinaryIO] = {}

    def append(self, pair: tuple[str, Any]) -> None:
        """Append one line to the file of its output."""
        name, value = pair
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = self._open(name)
        file.write(msgspec.json.encode(value) + b"\n")

    def _open(self, name: str) -> BinaryIO:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        # A name is the user's; whatever is in it must not lead out of the directory.
        safe = name.replace("/", "_").replace("\0", "_").lstrip(".") or "_"
        path = self._directory / f"{safe}.jsonl"
        # Two names may come to one file, which is opened once: see below.
        return next((file for file in self._files.values() if file.name == str(path)), None) or _open_whole(path)

    def flush(self) -> None:
        """Put every line on the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())


def _open_whole(path: Path) -> BinaryIO:
    """Open a file of lines to append to it, without the piece of a line that a killed process has left at its end.

    The piece counts for nothing, since whole lines are flushed before they do; left there, it would spoil the next.
    Nobody else may be writing to the file.
    """
    file = path.open("a+b")
    end = whole = file.seek(0, os.SEEK_END)
    while whole:
        start = max(0, whole - _LOOK_BYTES)
        file.seek(start)
        newline = file.read(whole - start).rfind(b"\n")
        whole = start + newline + 1
        if newline >= 0:
            break
    if whole < end:
        file.truncate(whole)
    return file


def main() -> int:
    """Run until TERM."""
    plan = Path(sys.argv[1])
    options = load_options(plan, sys.argv[2], WorkerOptions)
    log_to_stderr(options.part)
    pid_dir = Path(options.pid_dir)
    epoch = next_epoch(pid_dir, options.part)
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
        node = OutputNode(chain.containers, JsonLines(plan.parent / "output_files"))
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
    context.term()
    return 0


if __name__ == "__main__":
    sys.exit(main())
