"""The effective options: command line over environment over file over code over default, and where each came from."""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsError

from consecutiond.config import ConfigError, Settings
from consecutiond.configfile import ConfigFile, ConfigFileError
from consecutiond.options import flag, variable
from consecutiond.storeurls import masked

#: names the configuration file when the command line does not
CONFIG_VARIABLE = f"{Settings.model_config.get('env_prefix', '')}CONFIG"
#: how alike two names must be before an unknown variable counts as a misspelt option; other ones are not ours
_TYPO = 0.85


@dataclass(frozen=True)
class Given:
    """What the command line gave; as text, it is checked together with all the rest."""

    values: Mapping[str, Any] = field(default_factory=dict)
    #: ``--config``
    config: Path | None = None

    def with_inputs(self, names: Sequence[str]) -> "Given":
        """Add what stands on the command line without an option: more inputs."""
        if not names:
            return self
        return Given({**self.values, "input": [*self.values.get("input", ()), *names]}, self.config)


@dataclass(frozen=True)
class Origin:
    """Where a value came from."""

    #: ``default``, ``code``, ``file``, ``environment`` or ``command line``
    kind: str
    #: which line, variable or flag
    place: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.place}".rstrip()


@dataclass(frozen=True)
class Effective:
    """The options and the origin of each."""

    settings: Settings
    origins: Mapping[str, Origin]


class _Alone(Settings):
    """The same model without the environment, to check what one place says by itself."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class _Layer:
    """What one place says, and how to name it."""

    def __init__(self, kind: str, values: Mapping[str, Any]) -> None:
        self.kind, self.values = kind, values

    def place(self, name: str) -> str:
        """Return the line, variable or flag of an option."""
        return ""

    def prefix(self, name: str) -> str:
        """Return how a fault begins: where, then what."""
        return name

    def faults(self) -> Iterator[str]:
        """Say everything that is wrong, whether or not another place overrides it."""
        by_name: dict[str, list[str]] = {}
        for name, message in self._found():
            by_name.setdefault(name, []).append(message)
        for name, messages in by_name.items():
            given = f" (given: {unsecret(self.values[name])!r})" if name in Settings.model_fields else ""
            # Each member of a union has a fault of its own.
            yield f"{self.prefix(name)}: {' or '.join(dict.fromkeys(messages))}{given}"

    def _found(self) -> Iterator[tuple[str, str]]:
        known = Settings.model_fields
        for name in self.values:
            if name not in known:
                yield name, unknown(name)
        values = {name: value for name, value in self.values.items() if name in known}
        for name in [name for name, value in values.items() if _is_no_number(name, value)]:
            del values[name]
            yield name, "this is no number"
        try:
            _Alone(**values)
        except ValidationError as error:
            for fault in error.errors():
                # What the model says about several options together is asked of all places together, later.
                if fault["loc"] and fault["loc"][0] in values:
                    yield str(fault["loc"][0]), _message(fault["msg"])


class _CommandLine(_Layer):
    def place(self, name: str) -> str:
        return flag(name)

    def prefix(self, name: str) -> str:
        return self.place(name)


class _Environment(_Layer):
    def place(self, name: str) -> str:
        return variable(name)

    def prefix(self, name: str) -> str:
        return self.place(name)


class _File(_Layer):
    def __init__(self, file: ConfigFile) -> None:
        super().__init__("file", file.values)
        self._file = file

    def place(self, name: str) -> str:
        return self._file.place((name,))

    def prefix(self, name: str) -> str:
        return f"{self.place(name)}: {name}"


def unsecret(value: Any) -> Any:
    """Return the value of an option as it may be shown: a URL without its password."""
    return masked(value) if isinstance(value, str) else value


def resolve(
    code: Mapping[str, Any] | None = None,
    given: Given | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Effective:
    """Put the places together.

    Args:
        code: what a program says.
        given: what the command line says, the configuration file's name included.
        defaults: what is better than the model's own default, such as an `id` made of the script's name.

    Raises:
        ConfigError: with every fault of every place, each with file and line, variable or flag.
    """
    given = given or Given()
    faults: list[str] = []
    layers = [_Layer("default", defaults or {}), _Layer("code", code or {}), *_file_layer(given, faults)]
    layers += [*_environment_layer(faults), _CommandLine("command line", given.values)]
    for layer in layers:
        faults += layer.faults()
    merged = {name: value for layer in layers for name, value in layer.values.items()}
    settings: Settings | None = None
    if not faults:
        try:
            settings = Settings(**merged)
        except ValidationError as error:
            faults += [_together(fault["loc"], fault["msg"]) for fault in error.errors()]
    if settings is None:
        raise _wrong(faults)
    origins = {name: Origin("default") for name in Settings.model_fields}
    for layer in layers:
        origins.update({name: Origin(layer.kind, layer.place(name)) for name in layer.values})
    leader = "tracking" if "tracking" in merged else "acker_store"
    origins.update(dict.fromkeys(settings.followed, origins[leader]))
    return Effective(settings, origins)


def check_code(options: Mapping[str, Any]) -> None:
    """Check what a program says, alone, so that its faults are reported where they were written.

    Raises:
        ConfigError: with every fault.
    """
    faults = list(_Layer("code", options).faults())
    if faults:
        raise _wrong(faults)


def _wrong(faults: list[str]) -> ConfigError:
    return ConfigError("the configuration is wrong:\n" + "\n".join(f"  {fault}" for fault in faults))


def unknown(name: str) -> str:
    """Say that there is no such option, and which is probably meant."""
    known = list(Settings.model_fields)
    close = difflib.get_close_matches(name.replace("-", "_").lower(), known, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"
    return f"there is no such option; {hint}"


def _file_layer(given: Given, faults: list[str]) -> list[_Layer]:
    named = given.config or os.environ.get(CONFIG_VARIABLE)
    if not named:
        return []
    try:
        return [_File(ConfigFile(Path(named).expanduser()))]
    except ConfigFileError as error:
        by = "" if given.config else f" (named by {CONFIG_VARIABLE})"
        faults.append(f"{error}{by}")
        return []


def _environment_layer(faults: list[str]) -> list[_Layer]:
    prefix = variable("")
    known = [name.upper() for name in (*Settings.model_fields, CONFIG_VARIABLE.removeprefix(prefix))]
    for name in sorted(os.environ):
        stem = name.removeprefix(prefix)
        if stem != name and stem not in known and (close := difflib.get_close_matches(stem, known, 1, _TYPO)):
            faults.append(f"{name}: there is no such option; did you mean {prefix}{close[0]}?")
    try:
        return [_Environment("environment", EnvSettingsSource(Settings)())]
    except SettingsError as error:
        faults.append(f"the environment: {error}")
        return []


def _is_no_number(name: str, value: object) -> bool:
    """Find `max_attempts = true`, which pydantic would take for 1."""
    return isinstance(value, bool) and Settings.model_fields[name].annotation in (int, float)


def _message(text: str) -> str:
    return text.removeprefix("Value error, ")


def _together(loc: tuple[str | int, ...], message: str) -> str:
    name = ".".join(map(str, loc))
    return f"{name}: {_message(message)}" if name else _message(message)
