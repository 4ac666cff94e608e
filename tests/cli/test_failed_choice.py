"""Which failed items filters mean."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consecutiond.cli.choosing import ChoiceError
from consecutiond.cli.failedchoice import Filters, choose
from consecutiond.operator import Operator
from consecutiond.rundir import RunDir
from consecutiond_broker import codec
from tests.cli.buried import FIRST_AT, bury, letter

#: a minute after the last of them failed
NOW = FIRST_AT + 60 * 11


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    others: dict[str, Any] = {"node": "count", "error": "KeyError: 'a'", "item": codec.encode(["derived"])}
    silent: dict[str, Any] = {"node": "count", "error": ""}
    letters = [
        *(letter(position, position) for position in range(1, 6)),
        letter(7, {"price": -1}, **others, kind="raised", edge="parse->count"),
        letter(8, "text", **others, kind="crashed", edge="parse->count"),
        letter(10, None, **silent),
    ]
    with Operator(bury(RunDir(tmp_path, "flow"), letters)) as operator:
        yield operator


def chosen(operator: Operator, *positions: str, **filters: Any) -> list[int]:
    choice = choose(operator, Filters(positions=positions, **filters), NOW)
    found = [each.position for page in choice.pages(operator, limit=2) for each in page]
    assert choice.count(operator) == len(found)
    return found


ALL = [1, 2, 3, 4, 5, 7, 8, 10]


@pytest.mark.parametrize(
    ("positions", "filters", "expected"),
    [
        ((), {}, ALL),
        (("3",), {}, [3]),
        (("8", "1"), {}, [1, 8]),
        (("2-4",), {}, [2, 3, 4]),
        (("2-4", "3", "4-7"), {}, [2, 3, 4, 5, 7]),
        (("4-1000000000000", "1"), {}, [1, 4, 5, 7, 8, 10]),
        ((), {"node": "count"}, [7, 8, 10]),
        ((), {"kind": "crashed"}, [8]),
        ((), {"error": "KeyError"}, [7, 8]),
        ((), {"node": "parse", "error": "KeyError"}, []),
        (("1-7",), {"node": "count"}, [7]),
        ((), {"group": "1"}, [1, 2, 3, 4, 5]),
        ((), {"group": "2", "node": "count"}, [8]),
        ((), {"group": "3", "node": "count"}, [10]),
        ((), {"since": "6m"}, [5, 7, 8, 10]),
        ((), {"until": "6m"}, [1, 2, 3, 4]),
        ((), {"since": "0.1h", "until": "120 s"}, [5, 7, 8]),
        ((), {"since": "2023-11-14T22:20:20+00:00"}, [7, 8, 10]),
        ((), {"until": "2023-11-15"}, ALL),
        ((), {"where": "isinstance(value, int) and value > 2"}, [3, 4, 5]),
        ((), {"where": "item == 'derived'"}, [7, 8]),
        ((), {"where": "letter.position == 10 and item is None"}, [10]),
        (("1-4",), {"where": "value % 2"}, [1, 3]),
    ],
)  # fmt: skip
def test_all_filters_have_to_hold(
    operator: Operator, positions: tuple[str, ...], filters: dict[str, Any], expected: list[int]
) -> None:
    assert chosen(operator, *positions, **filters) == expected


@pytest.mark.parametrize(
    ("positions", "filters", "said"),
    [
        (("6",), {}, "no failed item at position 6: replayed, discarded (`consecutiond failed audit"),
        (("5", "6", "99"), {}, "at position 6, 99"),
        (("x",), {}, "'x' is no position: write a number like 17, or a range like 20-25"),
        (("5-2",), {}, "'5-2' is no position"),
        (("0",), {}, "'0' is no position"),
        ((), {"node": "coutn"}, "no node 'coutn'; did you mean count?"),
        ((), {"node": "qqq"}, "there are count, parse"),
        ((), {"group": "9"}, "no group 9"),
        ((), {"since": "yesterday"}, "--since 'yesterday' is no time: write 2026-03-01"),
        ((), {"until": "3 moons"}, "--until '3 moons' is no time"),
        ((), {"where": "value >"}, "is no Python expression"),
        ((), {"where": "x = 1"}, "is no Python expression"),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(
    operator: Operator, positions: tuple[str, ...], filters: dict[str, Any], said: str
) -> None:
    with pytest.raises(ChoiceError) as raised:
        choose(operator, Filters(positions=positions, **filters), NOW)
    assert said in str(raised.value)


def test_an_expression_that_raises_says_for_which_value_and_position(operator: Operator) -> None:
    with pytest.raises(ChoiceError) as raised:
        chosen(operator, where="value['price'] < 0")
    assert "TypeError: 'int' object is not subscriptable, for the value 1 at position 1" in str(raised.value)


def test_until_a_moment_nothing_that_fails_later_is_meant(operator: Operator) -> None:
    choice = choose(operator, Filters(node="count"), NOW).until(FIRST_AT + 60 * 8)
    assert [each.position for page in choice.pages(operator) for each in page] == [7]
