"""`acker_store`, `input_store` and `tracking`: what each says, what follows from another, and what contradicts."""

from pathlib import Path
from typing import Any

import pytest

from consecutiond.config import ConfigError, Settings
from consecutiond.effective import Given, resolve


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CONSECUTIOND_{name.upper()}", raising=False)


def said(code: dict[str, Any]) -> tuple[bool, str, str]:
    settings = resolve(code).settings
    return settings.tracking, settings.acker_store, settings.input_store


def test_everything_is_on_the_disk_unless_said_otherwise() -> None:
    assert said({}) == (True, "disk", "disk")
    assert resolve({}).settings.uses_store


@pytest.mark.parametrize("code", [{"tracking": False}, {"acker_store": "off"}])
def test_no_tracking_and_no_acker_store_are_one(code: dict[str, Any]) -> None:
    assert said(code) == (False, "off", "off")
    assert not resolve(code).settings.uses_store


def test_what_follows_comes_from_where_the_other_was_given(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("tracking = false\n")
    origins = resolve({}, Given({}, file)).origins
    assert str(origins["acker_store"]) == str(origins["input_store"]) == str(origins["tracking"])
    assert "c.toml" in str(origins["acker_store"])


def test_what_is_printed_can_be_read_again() -> None:
    settings = resolve({"acker_store": "off"}).settings
    assert resolve(settings.model_dump()).settings == settings


@pytest.mark.parametrize("accounts", ["memory", "disk"])
@pytest.mark.parametrize("values", ["off", "memory", "disk"])
def test_the_two_are_free_of_each_other_while_there_are_accounts(accounts: str, values: str) -> None:
    code = {"acker_store": accounts, "input_store": values}
    assert said(code) == (True, accounts, values)
    assert resolve(code).settings.uses_store == ("disk" in (accounts, values))


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ({"tracking": True, "acker_store": "off"}, "tracking = true and acker_store = off contradict each other"),
        ({"tracking": False, "acker_store": "disk"}, "tracking = false and acker_store = disk contradict each other"),
        ({"tracking": False, "input_store": "disk"}, "input_store = disk is of no use with acker_store = off"),
        ({"acker_store": "off", "input_store": "memory"}, "input_store = memory is of no use"),
    ],
)
def test_what_contradicts_is_refused(code: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        resolve(code)


def test_two_places_that_contradict_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSECUTIOND_ACKER_STORE", "disk")
    with pytest.raises(ConfigError, match="contradict each other"):
        resolve({"tracking": False})
