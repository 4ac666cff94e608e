"""Items that nodes hold, join, fail, group and process as coroutines, in whole consecutors of both architectures."""

from pathlib import Path
from typing import Any

import pytest

from consecutiond import Consecutor, Summary
from tests.graphs import items

GRAPHS = Path(items.__file__)


@pytest.fixture(params=["process", "thread"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Run one of the graphs over some inputs; give the summary and what was written, by output."""

    def run(name: str, inputs: Any, **options: Any) -> tuple[Summary, dict[str, list[Any]]]:
        consecutor = Consecutor(
            getattr(items, name), request.param, target=f"{GRAPHS}:{name}", id=name, dir=tmp_path,
            retry_backoff_s=0.01, **options,
        )  # fmt: skip
        written: dict[str, list[Any]] = {output: [] for output in ("out", "keys", "most", "owners")}
        for output, container in written.items():
            consecutor.register_output(output, container)
        summary = consecutor.produce_from_iterable(inputs, progress=False)
        assert summary.stats["lost"] == 0, "the backstop had to help"
        assert summary.accepted == summary.completed + summary.failed + summary.open
        return summary, written

    return run


def test_joined_items_carry_each_value_and_a_failure_of_the_join_retries_all_of_its_roots(run: Any) -> None:
    summary, written = run("join", range(200))
    assert (summary.completed, summary.failed, summary.open) == (200, 0, 0)
    assert sorted({value for group in written["out"] for value in group}) == list(range(200))
    # the roots of the groups that failed came again, each in a new tree
    assert summary.stats["retried"] > 0
    assert sum(map(len, written["out"])) == 200


def test_nodes_that_hold_the_last_items_are_asked_to_end_one_after_the_other(run: Any) -> None:
    summary, written = run("two_holders", range(50))
    assert (summary.completed, summary.failed, summary.stats["round"]) == (50, 0, 1)
    assert sorted(written["out"]) == list(range(50))


def test_what_a_node_still_holds_after_its_end_fails_and_is_kept_after_its_attempts(run: Any) -> None:
    summary, _ = run("left", range(5), max_attempts=2)
    assert (summary.completed, summary.failed, summary.open) == (0, 5, 0)
    [failure] = summary.stats["failures"]
    assert (failure["kind"], failure["count"]) == ("held to the end", 5)
    assert summary.stats["round"] == 2


def test_what_is_held_for_too_long_fails(run: Any) -> None:
    def slowly() -> Any:
        import time

        yield 1
        # the input stays open, so that the end of the graph is not what fails it
        deadline = time.monotonic() + 20
        while not seen() and time.monotonic() < deadline:
            time.sleep(0.01)

    consecutors: list[Consecutor] = []
    original = Consecutor.up

    def remember(self: Consecutor) -> Consecutor:
        consecutors.append(self)
        return original(self)

    def seen() -> bool:
        return bool(consecutors) and (consecutors[0].status()["failed"] or 0) > 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Consecutor, "up", remember)
        summary, _ = run("hasty", slowly(), max_attempts=1)
    assert (summary.completed, summary.failed) == (0, 1)
    assert summary.stats["failures"][0]["kind"] == "held too long"


def test_a_group_is_one_list_and_what_its_process_raises_fails_its_items_alone(run: Any) -> None:
    summary, written = run("groups", range(95))
    assert (summary.completed, summary.failed, summary.open) == (85, 10, 0)
    assert sorted(written["out"]) == [list(range(n, min(n + 10, 95))) for n in range(0, 95, 10) if n != 50]
    assert len(set(written["keys"])) == 9
    assert summary.stats["failures"][0]["error"] == "ValueError: no fifties"
    assert "no fifties" in summary.stats["failures"][0]["traceback"]


def test_a_coroutine_has_many_items_in_flight_but_no_more_than_it_wants(run: Any) -> None:
    summary, written = run("coroutine", range(300))
    # one root more: what `end` wrote
    assert (summary.completed, summary.failed, summary.open) == (271, 30, 0)
    right = [value for value in range(300) if value % 10 != 3]
    assert sorted(written["out"]) == sorted([*right, *(-value for value in right)])
    assert 1 < max(written["most"]) <= 20


def test_values_of_one_key_meet_in_one_worker(run: Any) -> None:
    _, written = run("keyed", range(2000))
    assert len(written["owners"]) == 2000
    who: dict[int, set[tuple[int, int]]] = {}
    for key, pid, thread in written["owners"]:
        who.setdefault(key, set()).add((pid, thread))
    assert all(len(workers) == 1 for workers in who.values())
    assert len(set.union(*who.values())) > 1


@pytest.mark.parametrize("run", ["process"], indirect=True)
def test_a_coroutine_that_kills_its_worker_is_quarantined_and_its_neighbours_complete(run: Any) -> None:
    """At first all items in flight are suspects; retried one by one, only the guilty one stays."""
    summary, written = run("deadly", range(150))
    assert (summary.completed, summary.failed, summary.open) == (149, 1, 0)
    assert set(written["out"]) == set(range(150)) - {77}
    assert summary.stats["failures"][0]["kind"] == "crashed"
