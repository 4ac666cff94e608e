"""Lines of keys in TOML, compared with what the standard library's parser finds there."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consecutiond.tomllines import TomlLines

TRAPS = '''\
# first = 1
first = 1
"quoted key" = 2 # [third]
'literal "key"' = "a # b"
dotted . "in parts" . three = 4
"esc\\u0061ped" = 5

long = """
first = 6
[no.table]
\\""" still = 7
"""
longer = \'\'\'
still = 8'\'\'\'
list = [ # [[
  "]", # ]
  { inline = "}" }, \'[\',
]
empty = """"""
five = """""a"""""
four = """a""""
after = 9

[table] # = [
first = 10

  [ table . "sub table" ]
  first = 11
[[many]]
first = 12
[[many]]
first = 13
[many.below]
first = 14
'''


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("first",), "first = 1"),
        (("quoted key",), '"quoted key"'),
        (('literal "key"',), "'literal"),
        (("dotted",), "dotted ."),
        (("dotted", "in parts", "three"), "dotted ."),
        (("escaped",), '"esc'),
        (("long",), "long ="),
        (("longer",), "longer ="),
        (("list",), "list ="),
        (("list", 1, "inline"), "list ="),
        (("empty",), "empty ="),
        (("five",), "five ="),
        (("four",), "four ="),
        (("after",), "after ="),
        (("table",), "[table]"),
        (("table", "first"), "first = 10"),
        (("table", "sub table"), "  [ table"),
        (("table", "sub table", "first"), "  first = 11"),
        (("many",), "[[many]]"),
        (("many", 0, "first"), "first = 12"),
        (("many", 1, "first"), "first = 13"),
        (("many", 1, "below", "first"), "first = 14"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_key_is_found_on_its_line_whatever_stands_around_it(path: tuple[Any, ...], text: str, end: str) -> None:
    tomllib.loads(TRAPS)
    line = TomlLines(TRAPS.replace("\n", end)).line(path)
    assert line is not None
    assert TRAPS.splitlines()[line - 1].startswith(text)


@pytest.mark.parametrize("path", [("no",), ("still",), ("third",), ("no", "table"), ("inline",), ()])
def test_what_is_no_key_has_no_line(path: tuple[str, ...]) -> None:
    assert TomlLines(TRAPS).line(path) is None


KEYS = st.sampled_from(["a", "b-c", '"a"', '"d # ["', "'e.f'", '"\\t="'])
VALUES = st.recursive(
    st.sampled_from(['"x"', '"\\" # ["', "'#'", '"""\na = 1\n"""', "'''\n[a]\n'''", "1", "true", "1979-05-27"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda each: "[\n # a ]\n" + ",\n".join(each) + "\n]"),
    max_leaves=4,
)
STATEMENTS = st.one_of(
    st.tuples(st.lists(KEYS, min_size=1, max_size=3).map(".".join), VALUES).map(" = ".join),
    st.lists(KEYS, min_size=1, max_size=2).map(lambda keys: f"[{' . '.join(keys)}]"),
    st.lists(KEYS, min_size=1, max_size=2).map(lambda keys: f"[[{'.'.join(keys)}]]"),
    st.sampled_from(["", "# a = 1", "  "]),
)


@given(st.lists(STATEMENTS, max_size=8))
def test_every_key_that_the_parser_finds_has_the_line_that_brought_it_about(statements: list[str]) -> None:
    """The oracle: a key is absent from the text before its line, and present once its statement is there."""
    valid: list[str] = []
    for statement in statements:
        try:
            tomllib.loads("\n".join([*valid, statement]))
        except tomllib.TOMLDecodeError:
            continue
        valid.append(statement)
    lines = TomlLines("\n".join(valid))
    ends = [0]
    for statement in valid:
        ends.append(ends[-1] + len(statement.split("\n")))
    for key in tomllib.loads("\n".join(valid)):
        first = next(n for n in range(len(valid)) if key in tomllib.loads("\n".join(valid[: n + 1])))
        assert lines.line((key,)) == ends[first] + 1
