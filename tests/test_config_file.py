"""The configuration file and the order of the places from which options come."""

from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import EnvSettingsSource, SettingsError

from consecutiond.config import ConfigError, Settings
from consecutiond.effective import Given, check_code, resolve
from consecutiond.options import variable


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*Settings.model_fields, "config"):
        monkeypatch.delenv(variable(name), raising=False)
    monkeypatch.chdir(tmp_path)


def wrong(text: str, name: str = "flow.toml") -> list[str]:
    """Return what is said about a file, a line for each fault."""
    Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        resolve(given=Given(config=Path(name)))
    first, *faults = str(caught.value).splitlines()
    assert first == "the configuration is wrong:"
    return [fault.strip() for fault in faults]


PLACES = ["default", "code", "file", "environment", "command line"]


@pytest.mark.parametrize("named", ["flag", "variable"])
@pytest.mark.parametrize("count", range(1, len(PLACES) + 1))
def test_the_command_line_wins_over_environment_file_code_and_default(
    monkeypatch: pytest.MonkeyPatch, count: int, named: str
) -> None:
    """Each place in turn is added to those below it, and wins; its neighbours' other options stay."""
    given: dict[str, str] = {}
    config = Path("flow.toml")
    code: dict[str, Any] = {}
    expected = Settings.model_fields["max_pending"].default
    if count > 1:
        code, expected = {"max_pending": 11, "batch_items": 1}, 11
    if count > 2:
        config.write_text("max_pending = 22\nmax_attempts = 2\n")
        expected = 22
    else:
        config.touch()
    if count > 3:
        monkeypatch.setenv("CONSECUTIOND_MAX_PENDING", "33")
        monkeypatch.setenv("CONSECUTIOND_EDGE_WINDOW", "3")
        expected = 33
    if count > 4:
        given, expected = {"max_pending": "44"}, 44
    if named == "variable":
        monkeypatch.setenv("CONSECUTIOND_CONFIG", str(config))
    found = resolve(code, Given(given, config if named == "flag" else None))
    assert found.settings.max_pending == expected
    assert found.origins["max_pending"].kind == PLACES[count - 1]
    others = {"batch_items": (1, 2), "max_attempts": (2, 3), "edge_window": (3, 4)}
    for name, (value, least) in others.items():
        assert (getattr(found.settings, name) == value) is (count >= least)


def test_each_origin_names_its_line_its_variable_or_its_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("flow.toml").write_text("\n# comment\ndurability = 'fast'\n")
    monkeypatch.setenv("CONSECUTIOND_BATCH_S", "0.5")
    found = resolve({"dir": "x"}, Given({"max_pending": "5"}, Path("flow.toml")), {"id": "flow"})
    shown = {name: str(origin) for name, origin in found.origins.items()}
    assert shown == dict.fromkeys(Settings.model_fields, "default") | {
        "dir": "code",
        "durability": "file flow.toml:3",
        "batch_s": "environment CONSECUTIOND_BATCH_S",
        "max_pending": "command line --max-pending",
    }
    assert found.settings.id == "flow"


def test_the_command_lines_file_is_read_and_not_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("one.toml").write_text("max_pending = 1\n")
    Path("two.toml").write_text("max_pending = 2\nmax_attempts = 2\n")
    monkeypatch.setenv("CONSECUTIOND_CONFIG", "two.toml")
    settings = resolve(given=Given(config=Path("one.toml"))).settings
    assert (settings.max_pending, settings.max_attempts) == (1, 3)


def test_an_empty_variable_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSECUTIOND_CONFIG", "")
    assert resolve().origins["max_pending"].kind == "default"


def test_three_errors_in_one_file_are_reported_together_each_with_its_line() -> None:
    assert wrong('# flow\nmax_pendin = 3\n\ndurability = """\nslow"""\n[batch_s]\nvalue = 1\n') == [
        "flow.toml:2: max_pendin: there is no such option; did you mean max_pending?",
        "flow.toml:4: durability: Input should be 'durable' or 'fast' (given: 'slow')",
        "flow.toml:6: batch_s: Input should be a valid number (given: {'value': 1})",
    ]


def test_faults_of_every_place_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's, even where the command line overrides it, and a file that is not there does not hide the others."""
    monkeypatch.setenv("CONSECUTIOND_EDGE_WINDOW", "0")
    monkeypatch.setenv("CONSECUTIOND_DURABILTY", "fast")
    Path("flow.toml").write_text("max_pending = 0\n")
    given = {"max_pending": "7", "batch_items": "many"}
    with pytest.raises(ConfigError) as caught:
        resolve({"dirr": "x"}, Given(given, Path("flow.toml")))
    places = [line.split(": ")[0].strip() for line in str(caught.value).splitlines()[1:]]
    assert sorted(places) == sorted(
        ["dirr", "flow.toml:1", "CONSECUTIOND_EDGE_WINDOW", "CONSECUTIOND_DURABILTY", "--batch-items"]
    )
    with pytest.raises(ConfigError, match=r"gone.toml: No such file(.|\n)*--batch-items"):
        resolve({}, Given(given, Path("gone.toml")))


def test_a_missing_file_of_the_environment_is_told_with_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSECUTIOND_CONFIG", "gone.toml")
    with pytest.raises(ConfigError, match=r"gone.toml: No such file or directory \(named by CONSECUTIOND_CONFIG\)"):
        resolve()


def test_others_variables_with_our_prefix_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is a letter or two off an option is one misspelt."""
    monkeypatch.setenv("CONSECUTIOND_HOME_PAGE", "x")
    assert resolve().settings


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("max_pending = 1\nid = flow\n", 2),
        ("max_pending = 1\n\nmax_pending = 2\n", 3),
        ("[a]\nx = 1\n[a]\n", 3),
        ('id = "flow\n', 1),
        ("max_pending = [1,\n2,\n", 2),
        ('id = """a\nb\nc', 3),
        ("\ufeffmax_pending = = 1\n", 1),
    ],
)
def test_a_syntax_error_is_told_with_its_line(text: str, line: int) -> None:
    (fault,) = wrong(text)
    assert fault.startswith(f"flow.toml:{line}: this is no TOML: ")


def test_a_byte_order_mark_is_not_a_fault() -> None:
    Path("flow.toml").write_bytes(b"\xef\xbb\xbfmax_pending = 7\n")
    found = resolve(given=Given(config=Path("flow.toml")))
    assert (found.settings.max_pending, str(found.origins["max_pending"])) == (7, "file flow.toml:1")


@pytest.mark.parametrize(
    ("raw", "start"),
    [
        (b"max_pending = 1\nid = '\xff'\n", "flow.toml:2: this is not UTF-8"),
        (b"id = " + b"[" * 10_000, "flow.toml: "),
        (b"max_pending = " + b"1" * 5_000, "flow.toml: "),
    ],
)
def test_whatever_is_in_the_file_it_is_an_error_of_ours(raw: bytes, start: str) -> None:
    Path("flow.toml").write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        resolve(given=Given(config=Path("flow.toml")))
    assert str(caught.value).splitlines()[1].strip().startswith(start)


def test_a_directory_is_no_configuration_file() -> None:
    with pytest.raises(ConfigError, match=r"\.: Is a directory"):
        resolve(given=Given(config=Path()))


def test_true_is_no_number_in_a_file_or_in_code() -> None:
    assert wrong("max_attempts = true\n") == ["flow.toml:1: max_attempts: this is no number (given: True)"]
    with pytest.raises(ConfigError, match="batch_s: this is no number"):
        check_code({"batch_s": False})


def test_a_union_is_one_fault() -> None:
    """Neither a text nor a list."""
    (fault,) = wrong("input = 3\n")
    assert fault.startswith("flow.toml:1: input: Input should be a valid string or Input should be a valid tuple")


@pytest.mark.parametrize("text", ['input = "a"', 'input = ["a", "b"]'])
def test_inputs_are_one_text_or_a_list(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("flow.toml").write_text(text)
    assert resolve(given=Given(config=Path("flow.toml"))).settings.input in ("a", ("a", "b"))
    monkeypatch.setenv("CONSECUTIOND_INPUT", "[1]")
    assert resolve().settings.input == "[1]"


def test_code_is_checked_without_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its faults are reported where it stands; those of the environment belong to the start."""
    monkeypatch.setenv("CONSECUTIOND_MAX_PENDING", "none")
    check_code({"max_attempts": 3})
    with pytest.raises(ConfigError) as caught:
        check_code({"max_attempts": 0, "max_pendng": 3})
    assert len(str(caught.value).splitlines()) == 3
    assert "did you mean max_pending?" in str(caught.value)


def test_an_environment_that_cannot_be_read_at_all_is_a_fault_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a list that is no JSON; the other places are checked without it."""

    def fail(self: EnvSettingsSource) -> dict[str, Any]:
        raise SettingsError('error parsing value for field "hosts"')

    monkeypatch.setattr(EnvSettingsSource, "__call__", fail)
    check_code({"max_attempts": 3})
    with pytest.raises(ConfigError) as caught:
        resolve(given=Given({"max_pending": "0"}))
    faults = str(caught.value).splitlines()[1:]
    assert [fault.split(": ")[0].strip() for fault in faults] == ["the environment", "--max-pending"]
