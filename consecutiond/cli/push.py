"""``consecutiond push``: lines into a running consecutor."""

import sys

import zmq

from consecutiond.cli import exits
from consecutiond.cli.lines import check, lines
from consecutiond.effective import Given, resolve
from consecutiond.feeder import Feeder
from consecutiond.rundir import RunDir


def push_lines(id: str, names: list[str], given: Given) -> int:
    """Feed lines; return the exit code once all of them are recorded."""
    settings = resolve(given=given).settings
    directory = RunDir(settings.dir, id)
    if not directory.is_live():
        print(f"consecutiond: error: no consecutor {id!r} is running in {settings.dir}", file=sys.stderr)
        return exits.NOT_RUNNING
    check(names)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    feeder = Feeder(
        context, directory.socket_uri("acker"), batch_items=settings.batch_items, batch_bytes=settings.batch_bytes,
        max_message=settings.max_message, alive=directory.is_live,
    )  # fmt: skip
    try:
        count = feeder.feed(lines(names, feeder.wait_for), None)
        feeder.leave()
    finally:
        feeder.close()
        context.destroy()
    print(f"{count:,} recorded", file=sys.stderr)
    return exits.OK
