"""One root with very many children: every process sends and forgets slice by slice, and none of them grows with it."""

import os
from pathlib import Path

import pytest

from consecutiond import Consecutor
from tests.graphs import fan
from tests.system.shell import wait_for

#: MiB by which the peak memory of a process may grow; what is on its way at a time is far less
MOST_MIB = 16
#: children of the root that comes first: from it on, every process has what it needs to work at all
WARM = 1000


def peaks_mib(consecutor: Consecutor) -> dict[str, float]:
    """Return the peak resident memory of every process so far, by part."""
    pids = {name: part["pid"] for name, part in consecutor.status()["parts"].items()} | {"script": os.getpid()}
    if consecutor.settings.architecture == "process":
        pids["root"] = consecutor._up("a test").runtime.process_or_fail().pid
    status = {name: Path(f"/proc/{pid}/status").read_text() for name, pid in pids.items()}
    return {name: int(text.partition("VmHWM:")[2].split()[0]) / 1024 for name, text in status.items()}


@pytest.mark.parametrize("children", [100_000, pytest.param(1_000_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("architecture", ["process", "thread"])
def test_no_process_grows_with_the_children_of_one_root(tmp_path: Path, architecture: str, children: int) -> None:
    target = f"{Path(fan.__file__)}:graph"
    consecutor = Consecutor(fan.graph, architecture, target=target, id="fan", dir=tmp_path)
    consecutor.register_output("ids", ids := fan.Sum())
    consecutor.up()
    consecutor.push(WARM)
    wait_for(lambda: consecutor.status()["completed"] == 1, "the first root is complete")
    before = peaks_mib(consecutor)
    consecutor.push(children)
    wait_for(lambda: consecutor.status()["completed"] == 2, "the second root is complete")
    after = peaks_mib(consecutor)
    summary = consecutor.down()
    assert (summary.completed, summary.failed) == (2, 0)
    assert (ids.count, ids.sum) == (WARM + children, sum(range(WARM)) + sum(range(children)))
    grown = {name: round(after[name] - before[name], 1) for name in after}
    assert not {name: grew for name, grew in grown.items() if grew > MOST_MIB}, grown
