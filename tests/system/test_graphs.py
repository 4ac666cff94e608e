"""Graphs of every shape, end to end in both architectures: where values go, and how a graph begins and ends."""

import functools
from collections import Counter
from pathlib import Path

import pytest

from tests.system.shell import both_architectures, living, make, process_only

pytestmark = both_architectures

HEAD = """
    import os
    import threading
    from pathlib import Path
    from consecutiond import Consecutor, Node

    HERE = Path(__file__).parent

    class Tag(Node):
        def process(self, value):
            self.push(value + self.name)

    class Keep(Node):
        def process(self, value):
            self.write("out", value)

    class Sum(Node):
        def begin(self):
            self.total = 0

        def process(self, value):
            self.total += value

        def end(self):
            self.push([self.name, self.total])
            self.write("out", [self.name, "ended"])
"""


def test_a_push_is_broadcast_to_every_node_of_a_list_and_merged_again(tmp_path: Path) -> None:
    consecutor, out = make(tmp_path, HEAD + '\n    graph = Tag("a") | [Tag("b"), Tag("c") | Tag("d")] | Keep("e")\n')
    summary = consecutor.produce_from_iterable(["1", "2"])
    assert sorted(out) == ["1ab", "1acd", "2ab", "2acd"]
    assert (summary.accepted, summary.completed, summary.failed, summary.open) == (2, 2, 0, 0)


def test_a_routed_value_goes_to_the_named_node_alone(tmp_path: Path) -> None:
    route = 'lambda value: "odd" if int(value[:-1]) % 2 else "even"'
    consecutor, out = make(
        tmp_path, HEAD + f'\n    graph = Tag("a") | [Tag("odd"), Tag("even"), {route}] | Keep("e")\n'
    )
    consecutor.produce_from_iterable(map(str, range(5)))
    assert sorted(out) == ["0aeven", "1aodd", "2aeven", "3aodd", "4aeven"]


def test_a_route_to_nowhere_fails_its_item_with_the_names_there_are(tmp_path: Path) -> None:
    route = 'lambda value: {"1a": "odd", "2a": "even"}.get(value, "neither")'
    consecutor, out = make(
        tmp_path, HEAD + f'\n    graph = Tag("a") | [Tag("odd"), Tag("even"), {route}] | Keep("e")\n'
    )
    summary = consecutor.produce_from_iterable(["1", "2", "3"])
    assert sorted(out) == ["1aodd", "2aeven"]
    assert (summary.completed, summary.failed) == (2, 1)
    [failure] = summary.stats["failures"]
    assert failure["node"] == "a"
    for word in ("neither", "odd", "even"):
        assert word in failure["error"]


def test_the_workers_of_a_node_share_its_values_and_each_begins_and_ends(tmp_path: Path) -> None:
    source = (
        HEAD
        + """
    class Who(Node):
        def begin(self):
            self.write("out", ["begin", threading.get_native_id()])

        def process(self, value):
            self.write("out", [value, threading.get_native_id()])

        def end(self):
            self.write("out", ["end", threading.get_native_id()])

    who = Who("who")
    who.set_num_workers(3)
    graph = who
"""
    )
    consecutor, out = make(tmp_path, source, batch_items=1)
    consecutor.produce_from_iterable(range(300))
    began, ended = ({pid for what, pid in out if what == word} for word in ("begin", "end"))
    assert len(began) == 3
    assert ended == began
    worked = Counter(pid for what, pid in out if isinstance(what, int))
    assert sum(worked.values()) == 300
    assert set(worked) == began


def test_ends_run_from_the_top_and_what_they_push_and_write_goes_on(tmp_path: Path) -> None:
    """The sum of the first node reaches the second before that one ends."""
    source = (
        HEAD
        + """
    class Late(Sum):
        def process(self, value):
            super().process(value[1])

    graph = Sum("first") | Late("second") | Keep("keep")
"""
    )
    consecutor, out = make(tmp_path, source)
    summary = consecutor.produce_from_iterable(range(10))
    assert sorted(out, key=str) == [["first", "ended"], ["second", "ended"], ["second", 45]]
    assert out.index(["first", "ended"]) < out.index(["second", 45])
    # Ten inputs, two pushes and two writes that have no input to belong to.
    assert (summary.accepted, summary.completed, summary.open) == (14, 14, 0)


def test_an_item_that_fails_once_after_the_end_has_begun_is_tried_again_before_the_next_node_ends(
    tmp_path: Path,
) -> None:
    source = (
        HEAD
        + """
    class Once(Sum):
        def process(self, value):
            if not (HERE / "failed_once").exists():
                (HERE / "failed_once").touch()
                raise OSError("not yet")
            super().process(value[1])

    graph = Sum("first") | Once("second") | Keep("keep")
"""
    )
    consecutor, out = make(tmp_path, source)
    summary = consecutor.produce_from_iterable(range(10))
    assert (tmp_path / "failed_once").exists()
    assert ["second", 45] in out
    assert (summary.failed, summary.open, summary.stats["retried"]) == (0, 0, 1)
    assert not summary.node_errors


def test_an_item_that_fails_for_good_after_the_end_has_begun_does_not_hold_the_end_up(tmp_path: Path) -> None:
    source = (
        HEAD
        + """
    class Never(Sum):
        def process(self, value):
            raise OSError("never")

    graph = Sum("first") | Never("second") | Keep("keep")
"""
    )
    consecutor, out = make(tmp_path, source)
    summary = consecutor.produce_from_iterable(range(10))
    assert ["second", 0] in out
    assert (summary.failed, summary.open, summary.stats["retried"]) == (1, 0, 3)


@process_only
def test_a_worker_that_dies_in_its_end_is_started_again_and_ends(tmp_path: Path) -> None:
    source = (
        HEAD
        + """
    class Dies(Sum):
        def end(self):
            if not (HERE / "died_once").exists():
                (HERE / "died_once").touch()
                os._exit(9)
            super().end()

    graph = Dies("first") | Keep("keep")
"""
    )
    consecutor, out = make(tmp_path, source)
    summary = consecutor.produce_from_iterable(range(10))
    assert (tmp_path / "died_once").exists()
    assert ["first", "ended"] in out
    assert (summary.failed, summary.open) == (0, 0)


def test_an_end_that_raises_is_reported_and_the_nodes_below_end_all_the_same(tmp_path: Path) -> None:
    source = (
        HEAD
        + """
    class Bad(Tag):
        def end(self):
            raise OSError("no end")

    class Good(Keep):
        def end(self):
            self.write("out", "good end")

    graph = Bad("bad") | Good("good")
"""
    )
    consecutor, out = make(tmp_path, source)
    summary = consecutor.produce_from_iterable(["1"])
    assert out == ["1bad", "good end"]
    [(worker, what, traceback)] = summary.node_errors
    assert (worker, what) == ("bad.0", "end")
    assert 'raise OSError("no end")' in traceback
    assert "consecutiond_nodes" not in traceback


def test_a_root_is_complete_only_after_what_it_wrote_was_appended(tmp_path: Path) -> None:
    """The container is slow to take the first value; until it has, nothing is completed."""
    consecutor, _ = make(tmp_path, HEAD + '\n    graph = Keep("keep")\n')
    seen = []

    class Watching:
        def append(self, value: str) -> None:
            seen.append((value, consecutor.status()["completed"]))

    consecutor.outputs["out"] = Watching()
    with consecutor:
        consecutor.push("first")
    assert seen == [("first", 0)]
    assert consecutor.last is not None
    assert consecutor.last.completed == 1


def test_a_container_that_raises_fails_the_items_it_refused_and_no_other(tmp_path: Path) -> None:
    consecutor, _ = make(tmp_path, HEAD + '\n    graph = Keep("keep")\n')
    kept: list[int] = []

    class Picky:
        def append(self, value: int) -> None:
            if value % 10 == 3:
                raise ValueError(f"no threes: {value}")
            kept.append(value)

    consecutor.outputs["out"] = Picky()
    summary = consecutor.produce_from_iterable(range(50))
    assert sorted(kept) == [value for value in range(50) if value % 10 != 3]
    assert (summary.completed, summary.failed) == (45, 5)
    assert "no threes" in summary.stats["failures"][0]["error"]


# --- the consecutor ------------------------------------------------------------------------------------------


def test_a_consecutor_goes_up_takes_values_and_comes_down_as_often_as_wanted(tmp_path: Path) -> None:
    """One log over all runs; each summary counts its own run alone."""
    consecutor, out = make(tmp_path, HEAD + '\n    graph = Keep("keep")\n')
    for run in range(2):
        consecutor.up()
        consecutor.push([run, "pushed"])
        consecutor.append([run, "appended"])
        consecutor.push_many([[run, "many"]] * 3)
        assert consecutor.status()["accepted"] == 5 * (run + 1)
        summary = consecutor.down()
        assert (summary.accepted, summary.taken_over, summary.completed, summary.open) == (5, 0, 5, 0)
        assert not living(tmp_path)
    assert len(out) == 10


def test_a_consecutor_is_a_container_of_another_one(tmp_path: Path) -> None:
    first, _ = make(tmp_path, HEAD + '\n    graph = Tag("a") | Keep("b")\n', id="first")
    second, out = make(tmp_path, HEAD + '\n    graph = Tag("c") | Keep("d")\n', id="second")
    first.outputs["out"] = second
    with second:
        first.produce_from_iterable(["1", "2"])
    assert sorted(out) == ["1ac", "2ac"]


def test_stop_takes_no_more_finishes_what_is_open_and_counts_it(tmp_path: Path) -> None:
    consecutor, out = make(tmp_path, HEAD + '\n    graph = Keep("keep")\n')
    consecutor.up()
    consecutor.push_many(range(500))
    summary = consecutor.stop()
    assert sorted(out) == list(range(500))
    assert (summary.accepted, summary.completed, summary.open) == (500, 500, 0)
    assert not living(tmp_path)


def test_any_iterable_will_do_and_an_empty_one_ends_the_graph_too(tmp_path: Path) -> None:
    consecutor, out = make(tmp_path, HEAD + '\n    graph = Sum("sum") | Keep("keep")\n')
    for iterable, total in ((iter([1, 2]), 3), ({3, 4}, 7), (range(0), 0), (functools.reduce, None)):
        out.clear()
        if total is None:
            with pytest.raises(TypeError, match="not iterable"):
                consecutor.produce_from_iterable(iterable)  # type: ignore[arg-type]
            continue
        consecutor.produce_from_iterable(iterable)  # type: ignore[arg-type]
        assert ["sum", total] in out
    assert not living(tmp_path)


def test_initialize_comes_before_begin_and_knows_edges_and_consecutor(tmp_path: Path) -> None:
    source = (
        HEAD
        + """
    class Wired(Node):
        def initialize(self, upstream, downstream, consecutor):
            super().initialize(upstream, downstream, consecutor)
            self.seen = [list(upstream), list(downstream), consecutor]

        def begin(self):
            self.write("out", self.seen)

    graph = Wired("wired") | Keep("keep")
"""
    )
    consecutor, out = make(tmp_path, source)
    consecutor.produce_from_iterable([])
    assert out == [[["input->wired"], ["wired->keep"], "it"]]
