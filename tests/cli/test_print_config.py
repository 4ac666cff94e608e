"""`--print-config`: every option, its value and where it came from."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from consecutiond.cli import exits
from consecutiond.cli.printconfig import toml
from consecutiond.config import Settings
from tests.cli.scripts import environment, run, write


def origins(tmp_path: Path, *arguments: str) -> dict[str, dict[str, object]]:
    script = write(tmp_path)
    (tmp_path / "flow.toml").write_text('# flow\nmax_pending = 5\ndurability = "fast"\nmax_attempts = 4\n')
    ended = run(
        script, "--print-config", "--json", "--config", "flow.toml", "--max-pending", "7", *arguments,
        CONSECUTIOND_DURABILITY="durable",
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert not (tmp_path / ".consecution").exists()
    return json.loads(ended.stdout)


def test_each_value_has_its_origin(tmp_path: Path) -> None:
    found = origins(tmp_path, "a.txt")
    assert list(found) == list(Settings.model_fields)
    assert found["max_pending"] == {"value": 7, "origin": "command line", "place": "--max-pending"}
    assert found["durability"] == {
        "value": "durable", "origin": "environment", "place": "CONSECUTIOND_DURABILITY",
    }  # fmt: skip
    # The script says max_attempts=1, and the file wins.
    assert found["max_attempts"] == {"value": 4, "origin": "file", "place": "flow.toml:4"}
    assert found["input"] == {"value": ["a.txt"], "origin": "command line", "place": "--input"}
    assert found["id"] == {"value": "shout", "origin": "default", "place": ""}
    assert found["architecture"]["origin"] == "default"
    assert found["dir"]["value"] == str(tmp_path / ".consecution")


def test_code_is_an_origin(tmp_path: Path) -> None:
    ended = run(write(tmp_path), "--print-config")
    assert "max_attempts = 1  # code\n" in ended.stdout
    assert "max_pending = 20000  # default\n" in ended.stdout


def test_for_ever_is_written_as_toml_has_it_and_in_json_as_a_text(tmp_path: Path) -> None:
    script = write(tmp_path)
    first = run(script, "--print-config", "--retain-s", "inf")
    assert tomllib.loads(first.stdout)["retain_s"] == float("inf")
    (tmp_path / "flow.toml").write_text(first.stdout, encoding="utf-8")
    again = json.loads(run(script, "--print-config", "--json", "--config", "flow.toml").stdout)
    assert again["retain_s"]["value"] == "inf"


def test_in_a_pipe_it_prints_a_configuration_file_that_gives_the_same_values(tmp_path: Path) -> None:
    script = write(tmp_path)
    given = ["--input", 'a "quoted" \\ é.txt', "b.txt", "--batch-s", "1e-3", "--dir", "x y", "--retain-s", "90"]
    first = run(script, "--print-config", *given)
    (tmp_path / "flow.toml").write_text(first.stdout, encoding="utf-8")
    assert set(tomllib.loads(first.stdout)) == set(Settings.model_fields)
    again = json.loads(run(script, "--print-config", "--json", "--config", "flow.toml").stdout)
    assert {each["origin"] for each in again.values()} == {"file"}
    assert {name: each["value"] for name, each in again.items()} == tomllib.loads(first.stdout)
    assert again["batch_s"]["value"] == 0.001
    assert again["input"]["value"] == ['a "quoted" \\ é.txt', "b.txt"]


def test_every_value_is_written_as_toml() -> None:
    value = {"a b": ["x\n\x7f\x00\"'\\é", 1, 2.5, True, {"c": []}], "d": 1e100}
    assert tomllib.loads(f"key = {toml(value)}") == {"key": value}


def test_on_a_terminal_it_is_a_table_in_which_nothing_is_cut_off(tmp_path: Path) -> None:
    script = write(tmp_path)
    ours, theirs = os.openpty()
    directory = "/long" * 30
    with subprocess.Popen(
        [sys.executable, script.name, "--print-config", "--dir", directory], cwd=tmp_path, stdout=theirs,
        stderr=subprocess.PIPE, env=environment(COLUMNS="100"),
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
        assert process.stderr.read() == b""
    os.close(ours)
    assert process.returncode == 0
    lines = shown.decode().splitlines()
    assert lines[0].split() == ["option", "value", "from"]
    # A long value goes on in the next line, in its column.
    words = "".join(shown.decode().replace("command line --dir", "").split())
    assert f"dir{directory}architecture" in words
    assert any(line.split() == ["max_attempts", "1", "code"] for line in lines)
    assert "command line --dir" in shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        # how a terminal tells that nobody has its other end
        return b""


def test_bad_options_are_reported_instead(tmp_path: Path) -> None:
    ended = run(write(tmp_path), "--print-config", "--max-pending", "0")
    assert (ended.returncode, ended.stdout) == (exits.BAD_TARGET, "")
    assert "--max-pending: " in ended.stderr


def test_json_goes_with_print_config(tmp_path: Path) -> None:
    ended = run(write(tmp_path), "--json", input="a\n")
    assert (ended.returncode, ended.stdout) == (exits.USAGE, "")
    assert "--print-config" in ended.stderr
