"""kill -9 of the acker in the middle of `consecutiond log replay`: each kept input is entered again exactly once."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from consecutiond.acker.stores import Totals, read_only
from consecutiond.kept import REPLAYED, roots
from consecutiond.operator import Operator
from tests.chaos.daemon import PATIENCE_S, Daemon, eventually

KILLS = 3


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    # What is recorded gets its receipt only when nearly all of it is emitted: so a kill comes in between.
    bounds = {"CONSECUTIOND_MAX_BACKLOG": "1024", "CONSECUTIOND_MAX_PENDING": "20"}
    daemon = Daemon(tmp_path, CONSECUTIOND_RETAIN_S="inf", **bounds)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()


def totals(daemon: Daemon) -> Totals:
    with closing(read_only(daemon.dir.store)) as store:
        return store.totals()


def kept_ids(daemon: Daemon) -> Counter[int]:
    """Return how often each input was completed, by what the log itself has kept."""
    with Operator(daemon.dir) as operator:
        pages = operator.kept(values=True)
        return Counter(
            msgspec.msgpack.decode(root.value)["id"] for page in pages for batch in page for root in roots(batch)
        )


@pytest.mark.chaos
def test_each_input_is_entered_again_once_whenever_the_acker_dies(daemon: Daemon) -> None:
    daemon.feed(lambda: True, least=2000)
    count = len(daemon.oracle.receipted)
    eventually(lambda: totals(daemon).retained == count, "everything is completed and kept")
    # At a rate, so that there is a middle; a batch is a quarter of it.
    words = ("log", "replay", "daemon", "--dir", str(daemon.dir.base), "--all", "--yes", "--rate", "400", "--json")
    replay = subprocess.Popen(
        [sys.executable, "-m", "consecutiond", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )  # fmt: skip
    try:
        for _ in range(KILLS):
            before = totals(daemon).accepted
            eventually(lambda before=before: totals(daemon).accepted > before, "some more are entered")
            assert replay.poll() is None, "the replay was over before the acker was killed"
            daemon.kill("acker")
        out, error = replay.communicate(timeout=4 * PATIENCE_S)
    finally:
        replay.kill()
        replay.wait()
    assert replay.returncode == 0, error
    assert msgspec.json.decode(out)["replayed"] == count
    eventually(lambda: totals(daemon).open == 0, "everything that was entered again is done")
    found = totals(daemon)
    assert (found.accepted, found.completed, found.failed, found.retained) == (2 * count, 2 * count, 0, 2 * count)
    assert kept_ids(daemon) == dict.fromkeys(daemon.oracle.receipted, 2)
    with Operator(daemon.dir) as operator:
        audits = list(operator.audits())
    assert {(audit.what, audit.which) for audit in audits} == {(REPLAYED, "all")}
    # Each entry is recorded with its batch: no kill comes between the two.
    assert sum(audit.count for audit in audits) == count
    assert daemon.starts("acker") == 1 + KILLS
