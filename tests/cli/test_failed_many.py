"""Many failed items: groups come from an index, replays go in pages and at a rate."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from consecutiond.acker.stores.sqlite import SqliteReader
from consecutiond.cli import failedact
from consecutiond.cli.failedact import Order, carry_out
from consecutiond.cli.failedchoice import Filters, choose
from consecutiond.cli.failedlist import list_failed
from consecutiond.deadletters import MOST
from consecutiond.operator import Operator
from consecutiond.rundir import RunDir
from tests.cli.buried import bury, letter

MANY = 50_000


def test_a_list_of_groups_reads_no_bodies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = bury(RunDir(tmp_path, "flow"), (letter(position, "x" * 50) for position in range(1, MANY + 1)))
    queries: list[tuple[str, tuple[Any, ...]]] = []
    plain = SqliteReader._all

    def watched(self: SqliteReader, query: str, *values: object) -> list[Any]:
        queries.append((query, values))
        return plain(self, query, *values)

    monkeypatch.setattr(SqliteReader, "_all", watched)
    with Operator(directory) as operator:
        list_failed(operator, Filters(node="parse"), each=False, limit=None, after=0, as_json=False)
    assert f" {MANY:,}  parse " in capsys.readouterr().out
    assert queries
    connection = sqlite3.connect(directory.store)
    for query, values in queries:
        [plan] = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values) if " dead" in row[3]]
        assert "COVERING INDEX" in plan
    connection.close()


def test_all_are_replayed_in_pages_and_each_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 2 * MOST + 1
    directory = bury(RunDir(tmp_path, "flow"), (letter(position, position) for position in range(1, count + 1)))
    with Operator(directory) as operator:
        assert carry_out(operator, choose(operator, Filters()), Order(verb="replay", yes=True)) == 0
        assert [audit.count for audit in operator.audits()] == [MOST, MOST, 1]
        assert operator.count() == 0
        assert len(operator.still_open(list(range(1, count + 1)))) == count
    assert f"{count:,} failed items of flow replayed" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["", "True"])
def test_a_rate_pauses_between_small_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    directory = bury(RunDir(tmp_path, "flow"), (letter(position, position) for position in range(1, 8)))
    now, pauses = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(failedact.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(failedact.time, "sleep", sleep)
    with Operator(directory) as operator:
        carry_out(operator, choose(operator, Filters(where=where)), Order(verb="replay", rate=12.0, yes=True))
        assert [audit.count for audit in operator.audits()] == [3, 3, 1]
    assert sum(pauses) == pytest.approx(7 / 12)
    assert pauses[0] == pytest.approx(3 / 12)
