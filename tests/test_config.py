"""Options: defaults, code, environment, and every fault at once."""

from pathlib import Path
from typing import Any

import pytest

from consecutiond import Consecutor, Node
from consecutiond.config import ConfigError, Settings
from consecutiond.effective import resolve
from consecutiond.rundir import RunDir


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CONSECUTIOND_{name.upper()}", raising=False)


def test_defaults_are_durable_and_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = resolve({}).settings
    assert (settings.architecture, settings.store, settings.durability) == ("process", "sqlite", "durable")
    assert RunDir(settings.dir, "x").path == tmp_path / ".consecution" / "x"
    assert (settings.id, settings.max_attempts) == ("", 3)


def test_the_environment_wins_over_code_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSECUTIOND_MAX_PENDING", "7")
    monkeypatch.setenv("CONSECUTIOND_MAX_ATTEMPTS", "8")
    settings = resolve({"max_pending": 9, "batch_items": 9}).settings
    assert (settings.max_pending, settings.max_attempts, settings.batch_items) == (7, 8, 9)
    assert settings.edge_window == Settings.model_fields["edge_window"].default


@pytest.mark.parametrize("source", ["code", "environment"])
def test_a_directory_is_made_absolute_where_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Children run elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/the/home")
    options: dict[str, Any] = {"dir": Path("runs")} if source == "code" else {}
    if source == "environment":
        monkeypatch.setenv("CONSECUTIOND_DIR", "runs")
    assert resolve(options).settings.dir == tmp_path / "runs"
    monkeypatch.delenv("CONSECUTIOND_DIR", raising=False)
    assert resolve({"dir": Path("~/runs")}).settings.dir == Path("/the/home/runs")


def test_every_bad_option_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code and environment together; each with its name, the reason and what was given."""
    monkeypatch.setenv("CONSECUTIOND_EDGE_WINDOW", "none")
    bad: dict[str, Any] = {
        "id": "a/b", "durability": "maybe", "max_pending": 0, "batch_items": 5000, "heartbeat_s": 0, "store_": "x",
        "architecture": "cloud",
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        resolve(bad)
    first, *lines = str(caught.value).splitlines()
    assert first == "the configuration is wrong:"
    assert {line.split(":")[0].strip() for line in lines} == {*bad, "CONSECUTIOND_EDGE_WINDOW"}
    assert len(lines) == len(bad) + 1
    text = str(caught.value)
    for given in ("'a/b'", "'maybe'", "0", "5000", "'none'", "'cloud'"):
        assert f"(given: {given})" in text


def test_an_unknown_option_is_answered_with_the_near_one_or_all_there_are() -> None:
    with pytest.raises(ConfigError, match=r"max_pendng: there is no such option; did you mean max_pending\?"):
        resolve({"max_pendng": 3})
    with pytest.raises(ConfigError, match=r"xyz: there is no such option; there are .*max_pending"):
        resolve({"xyz": 3})


#: what may be kept for ever
ENDLESS = "retain_s"
TIMES = [name for name, field in Settings.model_fields.items() if field.annotation is float and name != ENDLESS]


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [float("inf"), float("nan"), float("-inf"), "inf"])
def test_no_time_is_endless(name: str, value: object) -> None:
    """The plan file could not carry it, and no part would come up."""
    with pytest.raises(ConfigError, match=name):
        resolve({name: value})


@pytest.mark.parametrize("value", [float("inf"), "inf"])
def test_inputs_may_be_kept_for_ever(value: object) -> None:
    assert resolve({ENDLESS: value}).settings.retain_s == float("inf")


@pytest.mark.parametrize("value", [float("nan"), "nan", -1, "-inf"])
def test_inputs_are_kept_for_a_time_that_there_is(value: object) -> None:
    with pytest.raises(ConfigError, match=ENDLESS):
        resolve({ENDLESS: value})


@pytest.mark.parametrize("elsewhere", [{"input_store": "memory"}, {"acker_store": "memory"}, {"tracking": False}])
def test_inputs_are_kept_only_where_values_and_accounts_are_in_the_store(elsewhere: dict[str, object]) -> None:
    assert resolve(elsewhere).settings.retain_s == 0
    with pytest.raises(ConfigError, match="retain_s = 5 keeps inputs in the store"):
        resolve(elsewhere | {ENDLESS: 5})


@pytest.mark.parametrize("id", ["../up", "with space", ".hidden", "-dash", "x" * 65, "ü", "a\n"])
def test_an_id_that_cannot_name_a_directory_is_refused_with_an_example(id: str) -> None:
    with pytest.raises(ConfigError, match=r"id: .*Try for example 'wordcount'"):
        resolve({"id": id})


def test_settings_do_not_change_once_made() -> None:
    settings = resolve({}).settings
    with pytest.raises(ValueError, match="frozen"):
        settings.max_pending = 3


def test_a_consecutor_reports_bad_options_where_they_are_written() -> None:
    class Only(Node):
        def process(self, item: object) -> None: ...

    with pytest.raises(ConfigError) as caught:
        Consecutor(Only("only"), max_pending=-1, retries=2)
    assert "max_pending: Input should be greater" in str(caught.value)
    assert "retries: there is no such option" in str(caught.value)
