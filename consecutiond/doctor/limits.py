"""What the system lets a consecutor have: descriptors, processes and threads, against what its graph needs."""

import os
from pathlib import Path
from typing import Final

from msgspec import Struct

from consecutiond.doctor.check import Check

#: descriptors of the root or the heart, whichever has more: so many, and so many for each part (measured: 8 and 3)
_FILES: Final = (64, 4)
#: threads of a part (measured: 3 to 5)
_THREADS: Final = 6
_FILES_LIMIT, _PROCESSES_LIMIT = "Max open files", "Max processes"


class LimitFacts(Struct, frozen=True):
    """The limits of a process, and what its user has.

    Attributes:
        whose: the process, for people.
        files: descriptors that it may have; None is any number.
        processes: processes and threads that its user may have; None is any number.
        used: how many that user has.
        tasks: processes and threads that its control group may have; None is any number.
        grouped: how many that has.
        error: why nothing is known, else "".

    """

    whose: str
    files: int | None = None
    processes: int | None = None
    used: int = 0
    tasks: int | None = None
    grouped: int = 0
    error: str = ""


def read(pid: int | None) -> LimitFacts:
    """Look at the limits of a process; None is this one, whose limits a start from here would have."""
    proc = Path("/proc") / (str(pid) if pid else "self")
    whose = f"the running consecutor (pid {pid})" if pid else "this shell"
    try:
        found = soft_limits((proc / "limits").read_text())
        user = proc.stat().st_uid
        tasks, grouped = _control_group((proc / "cgroup").read_text())
    except OSError as error:
        return LimitFacts(whose, error=f"{error.strerror} ({error.filename})")
    # Nobody counts those of root.
    processes = found.get(_PROCESSES_LIMIT) if user else None
    return LimitFacts(whose, found.get(_FILES_LIMIT), processes, _threads_of(user) if user else 0, tasks, grouped)


def soft_limits(text: str) -> dict[str, int | None]:
    """Return the soft limits of ``/proc/PID/limits`` by name; None is none."""
    found: dict[str, int | None] = {}
    for name in (_FILES_LIMIT, _PROCESSES_LIMIT):
        line = next((line for line in text.splitlines() if line.startswith(name)), "")
        word = line[len(name) :].split()[:1]
        found[name] = int(word[0]) if word and word[0].isdecimal() else None
    return found


def _control_group(text: str) -> tuple[int | None, int]:
    """Return how many tasks the control group may have, and has."""
    paths = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    unified = next((path for number, _, path in paths if number == "0"), "/")
    group = Path("/sys/fs/cgroup") / unified.lstrip("/")
    try:
        limit, current = (group / "pids.max").read_text().strip(), (group / "pids.current").read_text().strip()
    except OSError:
        # The root group, or one that does not count.
        return None, 0
    return (int(limit) if limit.isdecimal() else None), int(current)


def _threads_of(user: int) -> int:
    count = 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        try:
            if entry.stat().st_uid == user:
                count += len(os.listdir(f"{entry.path}/task"))
        except OSError:
            # It has ended meanwhile.
            continue
    return count


def check(facts: LimitFacts, parts: int | None, *, running: bool) -> list[Check]:
    """Judge limits.

    Args:
        facts: of the process.
        parts: how many parts the graph has; None where there is no graph.
        running: they run already, and are among what the user has.

    """
    if facts.error:
        why = "A part that gets no descriptor or no thread ends, and is started again in vain."
        return [Check("limits.read", "unknown", facts.error, why, "See `ulimit -a`.")]
    # Where they run already, they are among those that are taken.
    tasks = 0 if running else _THREADS * (parts or 0)
    return [
        _files(facts, parts),
        _room("limits.processes", facts.processes, facts.used, tasks, parts, facts.whose, "ulimit -u"),
        _room("limits.tasks", facts.tasks, facts.grouped, tasks, parts, "its group", "TasksMax"),
    ]


def _files(facts: LimitFacts, parts: int | None) -> Check:
    name, why = "limits.files", "The root and the heart have descriptors for every part; without any they cannot work."
    base, each = _FILES
    need = base + each * (parts or 0)
    limit = "any number of" if facts.files is None else f"{facts.files:,}"
    seen = f"{facts.whose} may have {limit} descriptors; needed: about {need:,}"
    seen += f" for {parts} parts" if parts is not None else ", and four for each part"
    do = f"Raise it to {2 * need:,} or more: `ulimit -n`, or LimitNOFILE= of the service."
    if facts.files is None or facts.files >= 2 * need:
        return Check(name, "ok", seen, why)
    return Check(name, "problem" if facts.files < need else "warning", seen, why, do)


def _room(name: str, limit: int | None, used: int, need: int, parts: int | None, whose: str, knob: str) -> Check:
    why = "Each part is a process with some threads; without room no part can be started, nor started again."
    if limit is None:
        return Check(name, "ok", f"{whose}: no limit", why)
    free = limit - used
    wanted = f"; needed: about {need:,} for {parts} parts" if need else ""
    seen = f"{whose}: {limit:,} processes and threads, {used:,} of them taken{wanted}"
    if free >= 2 * need and free >= _THREADS:
        return Check(name, "ok", seen, why)
    do = f"Raise it ({knob}), or end what is not needed."
    return Check(name, "problem" if free < max(need, _THREADS) else "warning", seen, why, do)
