"""The versions of what this runs on."""

import platform
import re
import sqlite3
from collections.abc import Mapping
from importlib import metadata
from typing import Final

import zmq

from consecutiond.doctor.check import Check

#: what it is -> the oldest that will do, and why; those that pip installs as in pyproject.toml
OLDEST: Final[Mapping[str, tuple[str, str]]] = {
    "python": ("3.11", "Nothing here was ever run with an older one."),
    "libzmq": ("4.3.3", "Older ones can be brought down by anybody who reaches a socket (CVE-2020-15166)."),
    "sqlite": ("3.35", "Older ones lack what the log is written with."),
    "pyzmq": ("26", "Nothing here was ever run with an older one."),
    "redis": ("6.2", "Nothing here was ever run with an older one."),
    "supervisor": ("4.3", "The root is a subclass of supervisor's own; another one may work differently inside."),
}


def read() -> dict[str, str]:
    """Return the versions by name; "" for what is not installed."""
    found = {"python": platform.python_version(), "libzmq": zmq.zmq_version(), "sqlite": sqlite3.sqlite_version}
    return found | {name: _installed(name) for name in OLDEST if name not in found}


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def check(found: Mapping[str, str]) -> list[Check]:
    """Judge versions."""
    return [_check(name, found.get(name, "")) for name in OLDEST]


def _check(name: str, version: str) -> Check:
    oldest, why = OLDEST[name]
    if not version:
        return Check(f"versions.{name}", "problem", "it is not installed", why, f"Install {name} {oldest} or newer.")
    if _numbers(version) < _numbers(oldest):
        seen = f"{version}, where {oldest} is the oldest that will do"
        return Check(f"versions.{name}", "problem", seen, why, f"Install {name} {oldest} or newer.")
    return Check(f"versions.{name}", "ok", version, why)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
