"""The examples of the documentation, in parts and as whole programs."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
#: seconds after which an example hangs; a slow machine needs a tenth of it
HANGS_S = 150


@pytest.fixture(scope="module")
def census() -> ModuleType:
    spec = importlib.util.spec_from_file_location("census", EXAMPLES / "census.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "keywords", "names"),
    [
        ("", [], []),
        ("    \n", [], []),
        ("if x is not None:  # or else\n", ["if", "is", "not", "None", "or", "else"], ["x"]),
        ("self.self = _a1 + self\n", [], ["self", "self", "_a1", "self"]),
        ("'import this', \"and that\"", ["import", "and"], ["this", "that"]),
        ("1e5 0xff 2j 10_000", [], []),
        ("importlib classes notify", [], ["importlib", "classes", "notify"]),
        ("naïve � f\x00g", [], ["naïve", "f", "g"]),
    ],
)
def test_tokenise_finds_keywords_and_names_in_order_and_no_words_in_numbers(census, line, keywords, names):
    assert census.tokenise(line) == (keywords, names)


def test_whatever_tokenise_pushes_is_routed_to_the_node_of_its_kind(census):
    for line in census.lines_of([EXAMPLES / "census.py"]):
        keywords, names = census.tokenise(line)
        assert not keywords or census.route(keywords) == "keywords"
        assert not names or census.route(names) == "names"


def test_a_table_adds_each_key_once_however_often_and_in_whatever_order_rows_come(census):
    table = census.Table()
    for key, counts in [
        (1, {"a": 2}),
        (2, {"a": 1, "b": 1}),
        (1, {"a": 2}),
        (3, {"b": 5}),
        (2, {"a": 1, "b": 1}),
    ]:
        table.append([key, counts])
    assert table.totals == {"a": 3, "b": 6}
    assert (len(table.keys), table.repeats) == (3, 2)


def test_the_source_is_that_of_the_standard_library_alone_and_always_in_the_same_order(census):
    files = census.source_files()
    assert Path(os.__file__).resolve() in [file.resolve() for file in files]
    assert not [file for file in files if file.match("*-packages/*") or "site-packages" in file.parts]
    assert files == sorted(files)
    assert census.source_files(3) == files[:3]


def test_files_that_are_not_utf8_are_read_all_the_same(census, tmp_path):
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\npass\n")
    (tmp_path / "open_end.py").write_bytes(b"x")
    files = [tmp_path / "latin.py", tmp_path / "open_end.py"]
    assert list(census.lines_of(files)) == ["# caf\N{REPLACEMENT CHARACTER}\n", "pass\n", "x"]


def test_the_plain_count_counts_lines_without_words_too(census):
    lines = ["for a in b:\n", "\n", "a\n"]
    assert census.plain_count(lines) == (3, {"keywords": {"for": 1, "in": 1}, "names": {"a": 2, "b": 1}})


def test_differences_name_every_word_that_was_counted_too_often_or_too_rarely(census):
    table = census.Table()
    table.append([1, {"same": 2, "more": 3, "alone": 1}])
    right = {"names": Counter(same=2, more=1, less=4)}
    wrong = census.differences({"names": table}, right)
    assert sorted(wrong) == ["names: alone +1", "names: less -4", "names: more +2"]
    assert census.differences({"names": table}, {"names": Counter(table.totals)}) == []


def run(arguments, cwd, stdout=subprocess.PIPE):
    environment = {**os.environ, "TMPDIR": str(cwd), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=stdout,
        stderr=subprocess.PIPE, text=True, timeout=HANGS_S, check=False,
    )  # fmt: skip


def processes_of(directory):
    """Every process that was given a path in the directory."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path("/proc", pid, "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in line:
            found.append(line.replace(b"\0", b" "))
    return found


def on_a_terminal(arguments, cwd):
    """Run an example with a terminal as its output; return its end and what it showed."""
    shown, ours = cwd / "shown", os.openpty()
    with open(shown, "wb") as file:
        copier = subprocess.Popen(["cat"], stdin=ours[0], stdout=file, stderr=subprocess.DEVNULL)
        os.close(ours[0])
        try:
            ended = run(arguments, cwd, stdout=ours[1])
        finally:
            # its terminal is gone, so the copier ends
            os.close(ours[1])
            copier.wait()
    return ended, shown.read_text(encoding="utf-8")


def test_the_census_is_exact_although_a_worker_is_killed_and_leaves_nothing_behind(census, tmp_path):
    # enough for the killed worker to be back before the end
    files = census.source_files(500)
    lines, right = census.plain_count(census.lines_of(files))
    ended, shown = on_a_terminal([EXAMPLES / "census.py", "--limit", len(files)], tmp_path)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert (ended.stderr, ended.returncode) == ("", 0), shown
    assert "census correct" in shown
    assert f"roots: {lines:,} accepted = {lines:,} completed + 0 failed + 0 open" in shown
    assert f"{right['keywords']['if']:,}" in shown
    # the live line, with the processes
    assert re.search(rf"[\d,]+ of {lines:,} lines, [\d,]+/s, [\d,]+ open; .*tokenise.1=\d+", shown)
    # killed in mid-flight, and back as another process
    killed = re.search(r"node-tokenise.0, pid (\d+), killed after ([\d,]+) lines", shown)
    back = re.search(r"node-tokenise.0 is back: pid (\d+), restarts: 1\b", shown)
    assert killed[1] != back[1]
    assert 0.3 * lines <= int(killed[2].replace(",", "")) < lines
    assert [path.name for path in tmp_path.iterdir()] == ["shown"]
    assert not processes_of(tmp_path)


def test_a_census_that_counts_wrongly_says_so_and_fails(census, tmp_path):
    """One word in one node is counted twice; without a kill, and with a directory that is kept."""
    source = (EXAMPLES / "census.py").read_text(encoding="utf-8")
    script = tmp_path / "wrong.py"
    broken = source.replace("{word: words.count(word) for", "{word: words.count(word) + (word == 'def') for")
    assert broken != source
    script.write_text(broken, encoding="utf-8")
    ended = run([script, "--limit", 5, "--no-kill", "--dir", tmp_path / "kept"], tmp_path)
    assert (ended.stderr, ended.returncode) == ("", 1)
    right = census.plain_count(census.lines_of(census.source_files(5)))[1]
    lines_with_def = sum("def" in census.tokenise(line)[0] for line in census.lines_of(census.source_files(5)))
    assert 0 < lines_with_def <= right["keywords"]["def"]
    assert ended.stdout.endswith(f"census wrong\nkeywords: def +{lines_with_def}\n")
    assert "killed" not in ended.stdout
    assert (tmp_path / "kept" / "census" / "log_files").is_dir()
    assert not processes_of(tmp_path)


def test_the_word_count_prints_how_often_each_word_occurs(tmp_path):
    text = "the quick brown fox\njumps over the lazy dog\n\nthe end"
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    ended = run([EXAMPLES / "wordcount.py", "book.txt"], tmp_path)
    assert (ended.stderr, ended.returncode) == ("", 0)
    words = Counter(text.split())
    printed = dict(line.split(maxsplit=1) for line in ended.stdout.splitlines())
    assert {name: ast.literal_eval(seen) for name, seen in printed.items()} == {
        "short": {word: count for word, count in words.items() if len(word) < 5},
        "long": {word: count for word, count in words.items() if len(word) >= 5},
    }
    assert not processes_of(tmp_path)
