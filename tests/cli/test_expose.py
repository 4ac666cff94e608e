"""`expose_cli`: a user's script is a program, in pipes, with files, with errors, and only when it is the program."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from consecutiond import __version__
from consecutiond.acker.stores import read_only
from consecutiond.cli import exits
from consecutiond.config import Settings
from consecutiond.options import flag, variable
from tests.cli.scripts import SHOUT, environment, run, shell, write

LINE = 'loud\t"{}"\n'


@pytest.mark.usefixtures("architecture")
def test_a_script_works_in_a_pipe(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "x").write_text("c\na\nb")
    ended = shell(f"cat x | {sys.executable} shout.py | sort", tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "".join(LINE.format(each) for each in "ABC"))
    assert "3 accepted = 3 completed + 0 failed" in ended.stderr


@pytest.mark.usefixtures("architecture")
def test_its_workers_do_not_start_it_again_and_the_script_ends_with_it(tmp_path: Path) -> None:
    """A second command line would complain of the worker's arguments, and "after the run" would be printed."""
    ended = run(write(tmp_path), "--quiet", input="a\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, LINE.format("A"), "")


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize(
    "ending",
    ['if __name__ == "__main__":\n    Consecutor(Shout("shout")).expose_cli()\n',
     'Consecutor(Shout("shout")).expose_cli()\n',
     'def main():\n    Consecutor(Shout("shout")).expose_cli()\nif __name__ == "__main__":\n    main()\n'],
)  # fmt: skip
def test_it_runs_however_the_script_ends(tmp_path: Path, ending: str) -> None:
    script = write(tmp_path, SHOUT[: SHOUT.index("consecutor = ")] + ending)
    ended = run(script, "--quiet", input="a\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, LINE.format("A"), "")


def test_a_script_that_is_imported_starts_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    ended = shell(f"{sys.executable} -c 'import shout; print(shout.consecutor)' x y < /dev/null", tmp_path)
    assert ended.returncode == 0
    assert ended.stdout.startswith("after the run\nConsecutor(")
    assert not (tmp_path / ".consecution").exists()


def test_the_daemons_command_line_takes_an_exposed_script(tmp_path: Path) -> None:
    write(tmp_path)
    command = "from consecutiond.cli import main; main()"
    ended = shell(f"echo a | {sys.executable} -c '{command}' run shout.py --quiet", tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, LINE.format("A"), "")


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("arguments", [["--input", "a.txt", "--input", "b.txt"], ["--input", "a.txt", "b.txt"],
                                       ["a.txt", "b.txt"], ["--config", "flow.toml"]])  # fmt: skip
def test_files_are_read_one_after_the_other(tmp_path: Path, arguments: list[str]) -> None:
    """Also as a shell expands `--input *.txt`, and from the configuration file; the open end of one ends its line."""
    script = write(tmp_path)
    (tmp_path / "a.txt").write_text("a\nb")
    (tmp_path / "b.txt").write_text("c\n")
    (tmp_path / "flow.toml").write_text('input = ["a.txt", "b.txt"]\n')
    ended = run(script, "-q", *arguments, input="not this\n")
    assert (ended.returncode, sorted(ended.stdout.splitlines(True))) == (0, [LINE.format(each) for each in "ABC"])


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("source", ["stdin", "file"])
def test_ndjson_is_a_value_on_each_line(tmp_path: Path, source: str) -> None:
    script, text = write(tmp_path), '{"a": 1}\n[2]\n"three"\n'
    (tmp_path / "x.ndjson").write_text(text)
    arguments = ["--input", "x.ndjson"] if source == "file" else ["--input", "stdin"]
    ended = run(script, "-q", "--input-format", "ndjson", *arguments, input=text)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(ended.stdout.splitlines()) == ['loud\t"THREE"', "loud\t[2]", 'loud\t{"a":1}']


@pytest.mark.usefixtures("architecture")
def test_msgpack_values_are_read_from_files_one_behind_the_other(tmp_path: Path) -> None:
    script = write(tmp_path)
    (tmp_path / "a").write_bytes(msgspec.msgpack.encode("a") + msgspec.msgpack.encode([2]))
    (tmp_path / "b").write_bytes(msgspec.msgpack.encode("c"))
    ended = run(script, "-q", "--input-format", "msgpack", "a", "b")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(ended.stdout.splitlines()) == ['loud\t"A"', 'loud\t"C"', "loud\t[2]"]


@pytest.mark.usefixtures("architecture")
def test_a_bad_value_in_a_file_is_told_with_its_line_and_what_came_before_is_done(tmp_path: Path) -> None:
    script = write(tmp_path)
    (tmp_path / "x.ndjson").write_text('"a"\n{\n"c"\n')
    ended = run(script, "-q", "--input", "x.ndjson", "--input-format", "ndjson")
    assert (ended.returncode, ended.stdout) == (exits.USAGE, LINE.format("A"))
    assert ended.stderr.startswith("consecutiond: error: x.ndjson:2: this line is no JSON")


@pytest.mark.parametrize(
    ("inputs", "code", "text"),
    [
        (["htp://localhost:1"], exits.USAGE, "no kind of input htp://; did you mean http://?"),
        (["kafka://localhost:1"], exits.USAGE, "no kind of input kafka://; there are http://, https://, tcp://"),
        (["http://localhost:1", "a.txt"], exits.BAD_TARGET, "one and only one input"),
        (["stdin", "a.txt"], exits.BAD_TARGET, "one and only one input"),
        (["no.txt", "none.txt"], exits.USAGE, "no.txt: No such file or directory\n  none.txt: No such file"),
    ],
)
def test_a_bad_input_is_refused_before_anything_starts(tmp_path: Path, inputs: list[str], code: int, text: str) -> None:
    script = write(tmp_path)
    (tmp_path / "a.txt").touch()
    ended = run(script, *inputs)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / ".consecution").exists()


@pytest.mark.parametrize(("uri", "method"), [("http://localhost:1", "http"), ("tcp://*:1", "tcp"), ("ipc://x", "tcp")])
@pytest.mark.parametrize("place", ["code", "command line"])
def test_a_uri_chooses_the_server_that_feeds(tmp_path: Path, uri: str, method: str, place: str) -> None:
    """The servers have tests of their own; here it is asked which one is called, and with what."""
    own = f'consecutor = Consecutor(Shout("shout"), input="{uri if place == "code" else "stdin"}")\n'
    spy = 'consecutor.produce_from_{0} = lambda uri: print("{0}", uri)\n'
    text = SHOUT[: SHOUT.index("consecutor = ")] + own + spy.format("http") + spy.format("tcp")
    script = write(tmp_path, text + "consecutor.expose_cli()\n")
    ended = run(script, *(["--input", uri] if place == "command line" else []))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{method} {uri}\n", "")


@pytest.mark.usefixtures("architecture")
def test_failures_show_the_users_traceback_and_have_an_exit_code(tmp_path: Path) -> None:
    ended = run(write(tmp_path), input="a\nbad\n")
    assert (ended.returncode, ended.stdout) == (exits.SOME_FAILED, LINE.format("A"))
    assert "ValueError: this one is bad" in ended.stderr
    assert "consecutiond/" not in ended.stderr
    assert "1 completed + 1 failed and kept" in ended.stderr


@pytest.mark.usefixtures("architecture")
def test_registered_outputs_get_what_is_written_and_lists_are_printed_at_the_end(tmp_path: Path) -> None:
    text = SHOUT.replace(
        "consecutor.expose_cli()",
        "class File:\n    def append(self, value): print('to the file', value, flush=True)\n"
        "consecutor.register_output('loud', File() if 'file' in __import__('sys').argv[0] else [])\n"
        "consecutor.expose_cli()",
    )
    assert run(write(tmp_path, text, "list.py"), input="a\n").stdout == LINE.format("A")
    assert run(write(tmp_path, text, "file.py"), input="a\n").stdout == "to the file A\n"


@pytest.mark.usefixtures("architecture")
def test_when_the_reader_of_a_pipe_ends_the_script_stops_and_loses_nothing(tmp_path: Path) -> None:
    """Otherwise each of the items would fail and be tried again."""
    write(tmp_path, SHOUT.replace(", max_attempts=1", ""))
    ended = shell(f"seq 300000 | {sys.executable} shout.py | head -n 1; echo ${{PIPESTATUS[1]}}", tmp_path)
    assert ended.stdout == LINE.format("1") + f"{exits.STOPPED}\n"
    assert "nobody reads the output any more; what is open stays in the log" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Broken" not in ended.stderr
    store = read_only(tmp_path / ".consecution" / "shout" / "acker_db.sqlite")
    try:
        totals = store.totals()
    finally:
        store.close()
    assert totals.failed == 0
    assert 0 < totals.open < totals.accepted == totals.completed + totals.open


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_finishes_what_is_open_and_says_that_it_was_stopped(tmp_path: Path, number: int) -> None:
    script = write(tmp_path)
    process = subprocess.Popen(
        [sys.executable, script.name], cwd=tmp_path, env=environment(), text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        # More than one read-ahead, so that the script is sure to have taken some.
        process.stdin.write("a\n" * 20_000)
        process.stdin.flush()
        first = process.stdout.readline()
        os.kill(process.pid, number)
        rest, errors = process.stdout.read(), process.stderr.read()
        process.stdin.close()
    assert process.returncode == exits.STOPPED, errors
    assert first == LINE.format("A")
    assert set(rest.splitlines(True)) <= {first}
    assert "interrupted before the end of the input; what is open stays in the log" in errors
    assert "Traceback" not in errors


def test_help_has_the_scripts_own_words_examples_and_every_option(tmp_path: Path) -> None:
    ended = run(write(tmp_path), "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Usage: shout.py [OPTIONS]" in ended.stdout
    assert "Shout what comes in." in ended.stdout
    words = " ".join(ended.stdout.split())
    for name in Settings.model_fields:
        assert f" {flag(name)} " in words
        assert f"env: {variable(name)}]" in words
    for own in ("--config FILE", "--print-config", "--json", "--quiet", "--version", "--show-completion", "--help"):
        assert own in ended.stdout
    assert "--input http://127.0.0.1:8080" in ended.stdout
    assert "| sort\n" in ended.stdout
    assert f"{exits.STOPPED}  {exits.TABLE[exits.STOPPED]}" in ended.stdout


def test_help_of_an_option_has_range_default_and_meaning(tmp_path: Path) -> None:
    text = " ".join(run(write(tmp_path), "-h").stdout.replace("\N{NO-BREAK SPACE}", " ").split())
    meaning = Settings.model_fields["batch_items"].description.capitalize()
    assert (
        f"--batch-items INTEGER {meaning}. [≥ 1, ≤ 4096; default: 1024; env: CONSECUTIOND_BATCH_ITEMS] --batch" in text
    )
    assert "--durability [durable|fast] durable: on disk" in text


@pytest.mark.parametrize("own", [True, False])
def test_version_is_the_scripts_and_ours(tmp_path: Path, own: bool) -> None:
    text = SHOUT if own else SHOUT.replace("__version__", "other")
    expected = f"shout.py 4.5 (consecutiond {__version__})\n" if own else f"consecutiond {__version__}\n"
    ended = run(write(tmp_path, text), "--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, expected, "")


def test_a_misspelt_option_is_answered_with_the_near_one(tmp_path: Path) -> None:
    ended = run(write(tmp_path), "--max-pendng", "3")
    assert (ended.returncode, ended.stdout) == (exits.USAGE, "")
    assert "No such option: --max-pendng" in ended.stderr
    assert "--max-pending" in ended.stderr


def test_faults_of_command_line_environment_and_file_are_one_text_without_a_traceback(tmp_path: Path) -> None:
    script = write(tmp_path)
    (tmp_path / "flow.toml").write_text('max_pendin = 3\ndurability = "slow"\nbatch_s = 0\n')
    ended = run(
        script, "--config", "flow.toml", "--max-attempts", "none", CONSECUTIOND_EDGE_WINDOW="0",
        CONSECUTIOND_STOR="memory://",
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (exits.BAD_TARGET, "")
    first, *faults = ended.stderr.splitlines()
    assert first == "consecutiond: error: the configuration is wrong:"
    places = [fault.split(": ")[0].strip() for fault in faults]
    assert sorted(places) == sorted(
        [
            "flow.toml:1", "flow.toml:2", "flow.toml:3", "--max-attempts", "CONSECUTIOND_EDGE_WINDOW",
            "CONSECUTIOND_STOR",
        ]
    )  # fmt: skip


def test_a_fault_in_the_code_is_reported_where_it_was_written(tmp_path: Path) -> None:
    ended = run(write(tmp_path, SHOUT.replace("max_attempts=1", "max_attempt=1")), "--help")
    assert ended.returncode == 1
    assert 'consecutor = Consecutor(Shout("shout"), max_attempt=1)' in ended.stderr
    assert "max_attempt: there is no such option; did you mean max_attempts?" in ended.stderr


def test_the_shell_completes_options_and_their_values(tmp_path: Path) -> None:
    """With the script that `--show-completion` prints, as bash calls it."""
    write(tmp_path)
    ended = shell(
        'eval "$(shout.py --show-completion)"\n'
        "function=$(complete -p shout.py | sed -E 's/.*-F ([^ ]+).*/\\1/')\n"
        'try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); $function shout.py; echo "${COMPREPLY[@]}"; }\n'
        'try shout.py --max-p\ntry shout.py --durability ""\ntry shout.py --input-format nd\n',
        tmp_path,
    )
    assert ended.stdout.splitlines() == ["--max-pending", "durable fast", "ndjson"], ended.stderr
    assert not (tmp_path / ".consecution").exists()


def test_a_closed_stdin_is_said_and_not_a_traceback(tmp_path: Path) -> None:
    write(tmp_path)
    ended = shell("shout.py <&-", tmp_path)
    assert ended.returncode == exits.BAD_TARGET
    assert ended.stderr.startswith("consecutiond: error: input: stdin is closed")
