"""`consecutiond log`: completed inputs that were kept are listed and entered again, live and stopped."""

import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from consecutiond.acker.stores import read_only
from consecutiond.acker.stores.base import Append, Changes, Chunk, Failed, Retained
from consecutiond.acker.stores.sqlite import SqliteStore
from consecutiond.cli import exits
from consecutiond.cli.logchoice import Filters, choose
from consecutiond.kept import LOOK
from consecutiond.operator import Operator
from consecutiond.rundir import RunDir
from consecutiond_broker import codec
from tests import needs
from tests.cli.terminal import terminal
from tests.redis_server import shared
from tests.system.shell import Shell, wait_for

#: writes capitals; what is bad fails always, and what is slow at its first attempt
FLOW = """
    from consecutiond import Node


    class Up(Node):
        tried = set()

        def process(self, text):
            if text == "bad" or (text == "late" and text not in self.tried):
                self.tried.add(text)
                raise ValueError(text)
            self.write("out", text.upper())


    graph = Up("up")
"""
LINES = "one\nbad\ntwo\nlate\n"
KEPT = ["one", "two", "late"]


@pytest.fixture
def flow(shell: Shell) -> Shell:
    shell.write("flow.py", FLOW)
    return shell


def start(shell: Shell, *options: object) -> None:
    words = ("--detach", "--max-attempts", 2, "--retry-backoff-s", 0, *options)
    done = shell.run("start", "flow.py", *words)
    assert done.returncode == exits.OK, done.stderr


def push(shell: Shell, lines: str = LINES) -> None:
    assert shell.run("push", "flow", stdin=lines).returncode == exits.OK
    settled(shell)


def settled(shell: Shell) -> None:
    """Wait until everything that was entered has ended."""
    wait_for(lambda: counts(shell)[4] == 0, "everything has ended")


@pytest.fixture
def live(flow: Shell) -> Iterator[Shell]:
    """A daemon that has kept some inputs."""
    start(flow, "--retain-s", 3600)
    push(flow)
    yield flow
    flow.run("stop", "flow")


@pytest.fixture
def stopped(flow: Shell) -> Shell:
    """A log as such a daemon leaves it, made without one: bad has failed, and late was late."""
    found = LINES.split()
    body, alone = codec.encode(found), codec.encode(["late"])
    chunk, entry = Chunk(1, 1, 4, ("input->up",), body, 1e9), ("input->up",)
    retained = [
        Retained(Chunk(1, 1, 4, entry, b"", 1e9), b"\x05", time.time() - 60, len(body)),
        Retained(Chunk(2, 4, 1, entry, alone, 1e9), b"\x01", time.time() - 30, len(alone)),
    ]
    dead = Failed(2, 2, entry, codec.encode(["bad"]), 0.0, "up", "raised", "ValueError: bad", "", 1e9)
    changes = Changes(appends=[Append(chunk, None)], done={1: None}, dead=[dead], completed=3, retained=retained)
    leave(directory(flow), changes, {"retain_s": 3600, "targets": {"input->up": "up"}})
    return flow


def leave(home: RunDir, changes: Changes, acker: dict[str, Any]) -> None:
    """Make a stopped consecutor with this log."""
    home.create()
    with closing(SqliteStore(home.store, "fast")) as store:
        store.open()
        store.commit(changes)
    home.lock.touch(mode=0o600)
    known = {"store": f"sqlite:///{home.store}", "durability": "durable", "input_edge": "input->up"}
    home.plan.write_bytes(msgspec.json.encode({"parts": {"acker": known | acker}}))


@pytest.fixture(params=["live", "stopped"])
def either(request: pytest.FixtureRequest) -> Shell:
    shell: Shell = request.getfixturevalue(request.param)
    return shell


def log(shell: Shell, verb: str, *words: object, code: int = exits.OK) -> str:
    """Type a command of `log`; return what it prints, on stderr if that is where it has something to say."""
    done = shell.run("log", verb, "flow", *words)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout if code == exits.OK else done.stdout + done.stderr


def objects(shell: Shell, *words: object) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in log(shell, "list", "--json", "--limit", 0, *words).splitlines()]


def values(shell: Shell, *words: object) -> list[str]:
    """Return the values that are listed; batches that are over at about the same time are in any order."""
    return sorted((each["value"] for each in objects(shell, *words)), key=[*KEPT, "three"].index)


def audits(shell: Shell) -> list[tuple[str, int, str]]:
    with Operator(directory(shell)) as operator:
        return [(each.what, each.count, each.which) for each in operator.audits()]


def directory(shell: Shell) -> RunDir:
    return RunDir(shell.directory / ".consecution", "flow")


def counts(shell: Shell) -> tuple[int, ...]:
    """Return what the log itself says, while nobody has accepted anything for a moment."""
    with closing(read_only(shell.home("flow") / "acker_db.sqlite")) as store:
        totals = store.totals()
    found = tuple(getattr(totals, name) for name in ("accepted", "completed", "failed", "discarded", "open"))
    assert found[0] == sum(found[1:])
    return (*found, totals.retained)


def told(shell: Shell) -> tuple[int, ...]:
    """Return what `status` says."""
    state = shell.status("flow")
    return tuple(state[name] for name in ("accepted", "completed", "failed", "discarded", "open", "retained"))


# --- list ------------------------------------------------------------------------------------------------------------


def test_what_completed_is_listed_with_its_times_and_what_failed_is_not(either: Shell) -> None:
    assert counts(either) == (4, 3, 1, 0, 0, 3)
    found = sorted(objects(either), key=lambda each: int(each["position"]))
    assert [(each["position"], each["value"]) for each in found] == [(1, "one"), (3, "two"), (4, "late")]
    assert all(each["accepted_at"] <= each["completed_at"] for each in found)
    table = log(either, "list").splitlines()
    assert table[0].split() == ["position", "accepted", "completed", "value"]
    said = either.run("status", "flow").stdout
    assert re.search(r"3 of the completed are kept, \d+ bytes: consecutiond log list flow", said)
    assert told(either) == (4, 3, 1, 0, 0, 3)
    assert any(re.fullmatch(r" +3  \d{4}-\d\d-\d\d [\d:]{8}  \d{4}-\d\d-\d\d [\d:]{8}  \"two\"", row) for row in table)


def test_they_are_chosen_by_time_and_by_value(stopped: Shell) -> None:
    assert values(stopped, "--since", "1h") == KEPT
    assert values(stopped, "--until", "1h") == []
    assert values(stopped, "--since", "2999-01-01") == []
    times = sorted(each["completed_at"] for each in objects(stopped))
    with Operator(directory(stopped)) as operator:
        for since, until in ((times[0], times[0] + 1e-6), (times[-1], times[-1] + 1), (times[-1] + 1e-3, 1e12)):
            found = [batch.completed_at for page in operator.kept(since, until) for batch in page]
            assert found == [at for at in sorted(set(times)) if since <= at < until]
    assert values(stopped, "--where", "value > 'one'") == ["two"]
    assert values(stopped, "--where", "root.position == 4") == ["late"]
    assert log(stopped, "list", "--since", "2999-01-01") == "flow: no completed inputs of that kind are kept\n"


def test_a_limit_says_that_there_are_more(stopped: Shell) -> None:
    done = stopped.run("log", "list", "flow", "--limit", 2)
    assert (len(done.stdout.splitlines()), done.stderr) == (3, "\nThere are more than 2: --limit 0 shows all\n")
    assert stopped.run("log", "list", "flow", "--limit", 3).stderr == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("list", "--since", "noon"), "--since 'noon' is no time: write 2026-03-01"),
        (("list", "--where", "value <"), "is no Python expression: "),
        (("list", "--where", "value['x']"), "raised TypeError"),
        (("replay",), "which ones? Give --since, --until or --where, or --all"),
        (("replay", "--all", "--since", "2h"), "--all means all of them"),
        (("replay", "--all", "--rate", "fast"), "--rate 'fast' is no number of items a second"),
    ],
)
def test_what_cannot_be_understood_is_told_and_changes_nothing(
    stopped: Shell, words: tuple[str, ...], said: str
) -> None:
    assert said in log(stopped, *words, code=exits.USAGE)
    assert counts(stopped) == (4, 3, 1, 0, 0, 3)


def test_who_keeps_nothing_is_told_which_option_does(flow: Shell) -> None:
    leave(directory(flow), Changes(), {"retain_s": 0})
    for verb in (("list",), ("replay", "--all", "--yes")):
        said = log(flow, *verb, code=exits.NOT_RUNNING)
        assert "flow keeps no completed inputs" in said
        assert "retain_s, --retain-s 86400 say" in said


# --- replay ----------------------------------------------------------------------------------------------------------


def test_what_is_replayed_is_a_new_input_and_is_audited(either: Shell) -> None:
    before = Counter(either.written("flow", "out"))
    said = log(either, "replay", "--since", "1h", "--yes")
    assert said.startswith("3 completed inputs of flow entered again\n")
    if "does not run" in said:
        start(either, "--retain-s", 3600)
    # It is late no more: it was tried before. Where it is another worker's first, it is tried again.
    settled(either)
    assert counts(either) == (7, 6, 1, 0, 0, 6)
    assert sorted(each["position"] for each in objects(either)) == [1, 3, 4, 5, 6, 7]
    assert Counter(values(either)) == Counter(2 * KEPT)
    assert Counter(either.written("flow", "out")) == before + Counter(value.upper() for value in KEPT)
    assert audits(either) == [("log replay", 3, "--since 1h")]


def test_a_dry_run_and_a_refusal_change_nothing(stopped: Shell) -> None:
    assert log(stopped, "replay", "--all", "--dry-run") == "3 completed inputs of flow would be entered again\n"
    found = msgspec.json.decode(log(stopped, "replay", "--where", "value == 'one'", "--dry-run", "--json"))
    assert found == {"id": "flow", "dry_run": True, "replayed": 1}
    said = log(stopped, "replay", "--all", code=exits.REFUSED)
    assert "refused: 3 completed inputs of flow would be entered again" in said
    assert "--yes does it" in said
    assert (counts(stopped), audits(stopped)) == ((4, 3, 1, 0, 0, 3), [])


def test_on_a_terminal_it_asks(stopped: Shell) -> None:
    with terminal(stopped, "log", "replay", "flow", "--all") as typing:
        typing.expect("enter 3 completed inputs of flow again: all. Go on? [y/N] ")
        typing.type("n")
        typing.expect("nothing was entered")
        assert typing.end() == exits.REFUSED
    assert audits(stopped) == []
    with terminal(stopped, "log", "replay", "flow", "--where", "value != 'late'") as typing:
        typing.expect("Go on? [y/N] ")
        typing.type("y")
        typing.expect("2 completed inputs of flow entered again")
        assert typing.end() == exits.OK
    assert audits(stopped) == [("log replay", 2, "--where value != 'late'")]


def test_no_match_is_no_error(stopped: Shell) -> None:
    assert log(stopped, "replay", "--until", "1h", "--yes") == "0 completed inputs of flow entered again\n"
    assert audits(stopped) == []


@pytest.mark.parametrize("by", ["Ctrl-C", "stop"])
def test_a_replay_that_is_cut_short_says_how_many_were_entered_and_that_is_how_many_were(live: Shell, by: str) -> None:
    push(live, "".join(f"{number}\n" for number in range(60)))
    replay = live.spawn("log", "replay", "flow", "--where", "value.isdigit()", "--rate", "4/s", "--yes")
    wait_for(lambda: audits(live), "the first are entered")
    if by == "stop":
        assert live.run("stop", "flow").returncode == exits.OK
    else:
        replay.send_signal(signal.SIGINT)
    out, error = replay.communicate()
    assert replay.returncode == exits.STOPPED
    entered = int(re.match(r"(\d+) completed inputs? of flow entered again\n", out)[1])  # type: ignore[index]
    assert f"; {60 - entered} completed input" in error
    assert ("interrupted" in error) == (by == "Ctrl-C")
    assert sum(count for _, count, _ in audits(live)) == entered < 60
    settled(live)
    assert counts(live)[0] == 64 + entered


def test_what_completes_meanwhile_is_not_meant(live: Shell) -> None:
    """Each pass over what is kept doubles it once: what was entered again completes, and is kept, at once."""
    for doubled in (6, 12):
        log(live, "replay", "--all", "--yes", "--rate", "20/s")
        settled(live)
        assert len(objects(live)) == doubled


# --- where it is kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["kyoto", "redis", "memory://"])
def test_in_every_store_a_daemon_lists_and_replays(flow: Shell, store: str) -> None:
    if store == "kyoto":
        needs.kyoto()
    where = shared().url(str(flow.directory).replace("/", "_")) if store == "redis" else store
    start(flow, "--retain-s", "inf", "--store", where)
    assert flow.run("push", "flow", stdin=LINES).returncode == exits.OK
    wait_for(lambda: told(flow) == (4, 3, 1, 0, 0, 3), "everything has ended")
    assert values(flow) == KEPT
    log(flow, "replay", "--all", "--yes")
    wait_for(lambda: told(flow) == (7, 6, 1, 0, 0, 6), "all have completed again")
    assert Counter(values(flow)) == Counter(2 * KEPT)
    assert flow.run("stop", "flow").returncode == exits.OK
    if store != "memory://":
        assert len(values(flow)) == 6
        log(flow, "replay", "--where", "value == 'one'", "--yes")
        assert told(flow) == (9, 6, 1, 0, 2, 6)


def test_a_daemon_lets_go_of_what_is_older_than_it_is_to_keep(stopped: Shell) -> None:
    assert counts(stopped)[-1] == 3
    start(stopped, "--retain-s", "0.5")
    wait_for(lambda: counts(stopped)[-1] == 0, "what was kept is gone")
    push(stopped, "three\n")
    wait_for(lambda: counts(stopped)[-1] == 0, "so is what came later")
    assert counts(stopped)[:5] == (5, 4, 1, 0, 0)
    assert log(stopped, "list") == "flow: no completed inputs are kept\n"
    with closing(read_only(stopped.home("flow") / "acker_db.sqlite")) as store:
        assert store.retained() == []


# --- many ------------------------------------------------------------------------------------------------------------


def test_many_are_read_in_pages_and_entered_in_full_batches(shell: Shell) -> None:
    """Batches of one, as an input under light load has them."""
    home, count = directory(shell), 2 * LOOK + 1
    chunks = [Chunk(id, id, 1, ("input->up",), codec.encode([id])) for id in range(1, count + 1)]
    changes = Changes(
        appends=[Append(chunk, None) for chunk in chunks], done=dict.fromkeys(range(1, count + 1)), completed=count,
        retained=[Retained(replace(chunk, body=b""), b"\x01", 1e9 + chunk.id, 2) for chunk in chunks],
    )  # fmt: skip
    leave(home, changes, {})
    assert [each["value"] for each in objects(shell, "--where", "value % 1000 == 7")] == [7, 1007]
    assert len(log(shell, "list", "--limit", "0").splitlines()) == 1 + count
    assert log(shell, "replay", "--all", "--yes").startswith("2,001 completed inputs of flow entered again\n")
    assert [entered for _, entered, _ in audits(shell)] == [1024, 977]
    with closing(read_only(home.store)) as reader:
        assert [row.chunk.entry for row in reader.open_chunks()] == [("input->up",)] * 2
        assert [value for row in reader.open_chunks() for value in codec.decode(reader.body(row.chunk.id))] == list(
            range(1, count + 1)
        )
    with Operator(home) as operator:
        assert choose(operator, Filters()).count(operator) == count
