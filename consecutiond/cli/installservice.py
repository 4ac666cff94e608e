"""``consecutiond install-service``: the unit of a service manager for one target."""

import os
import shutil
import sys
from pathlib import Path

from consecutiond.cli import exits
from consecutiond.cli.target import consecutor_of
from consecutiond.effective import CONFIG_VARIABLE, Given
from consecutiond.rundir import check_id
from consecutiond.units import Service, argument, unit

#: where units of the machine's administrator are
UNITS = Path("/etc/systemd/system")


def install(target: str, given: Given, *, user: str, directory: Path, groups: list[str], only_print: bool) -> int:
    """Write the unit of a target, after it was loaded once; say what to type then.

    Raises:
        ConfigError: an option is wrong.
        TargetError: the target cannot be loaded, or its graph has faults.
    """
    id = check_id(consecutor_of(target, given).settings.id)
    text = unit(_service(target, id, given, user=user, groups=groups))
    if only_print:
        print(text, end="")
        return exits.OK
    path = directory / f"consecutiond-{id}.service"
    try:
        path.write_text(text)
    except OSError as error:
        print(
            f"consecutiond: error: {path} cannot be written: {error.strerror}. Units of the whole machine belong to "
            "root: use sudo, or --print and put it there yourself.",
            file=sys.stderr,
        )
        return exits.BAD_DIRECTORY
    print(f"{path} is written; next:")
    print(f"  id {user} > /dev/null 2>&1 || sudo useradd --system --user-group --home-dir /var/lib/consecutiond {user}")
    print("  sudo systemctl daemon-reload")
    print(f"  sudo systemctl enable --now {path.name}")
    print(f"  systemctl status {path.name}")
    return exits.OK


def _service(target: str, id: str, given: Given, *, user: str, groups: list[str]) -> Service:
    file, colon, attribute = target.partition(":")
    is_file = file.endswith(".py")
    place = Path(file).resolve() if is_file else Path.cwd()
    absolute = f"{place}{colon}{attribute}" if is_file else target
    words = [_program(), "start", absolute, "--id", id]
    config = given.config or os.environ.get(CONFIG_VARIABLE)
    if config:
        words += ["--config", str(Path(config).expanduser().resolve())]
    home = any(place.is_relative_to(top) for top in ("/home", "/root", "/run/user"))
    return Service(
        description=f"consecutiond: graph {id}", command=" ".join(map(argument, words)), user=user,
        directory=str(place.parent if is_file else place),
        protect_home="read-only" if home else "yes", groups=tuple(groups),
    )  # fmt: skip


def _program() -> str:
    """Return the program as it was called, absolute."""
    beside = Path(sys.executable).with_name("consecutiond")
    return str(beside) if beside.exists() else shutil.which("consecutiond") or "/usr/bin/env consecutiond"
