"""The systemd unit of a consecutor: pure text; ``python -m consecutiond.units`` prints the one in ``deploy/``."""

from dataclasses import dataclass
from typing import Final

#: seconds beyond ``stop_timeout_s`` before systemd kills what is left: we kill by ourselves, and that takes a moment
_KILL_MARGIN_S: Final = 30
#: the option's default, see `consecutiond.config`
_STOP_TIMEOUT_S: Final = 60
#: times ``stall_s`` without a sign of life
_WATCHDOG_S: Final = 120

#: Everything that a graph does not need; `systemd-analyze security` calls the result OK. What user code may need
#: and this takes away is said in the unit itself.
_HARDENING: Final = """\
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={protect_home}
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectProc=invisible
PrivateMounts=yes
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
LockPersonality=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
# Not MemoryDenyWriteExecute: libraries that compile at run time (numba, some regular expressions) need it.
"""


@dataclass(frozen=True)
class Service:
    """What differs from service to service.

    Attributes:
        description: for people.
        command: the line of ``ExecStart=``.
        user: whose processes they are; a group of that name is theirs.
        directory: the working directory, "" for the state directory.
        environment_file: a file with more of them, "" for none.
        protect_home: what of the home directories may be seen: ``yes`` nothing, ``read-only`` all.
        groups: more groups, such as that of a Redis socket.

    """

    description: str
    command: str
    user: str = "consecutiond"
    directory: str = ""
    environment_file: str = ""
    protect_home: str = "yes"
    groups: tuple[str, ...] = ()


def unit(service: Service) -> str:
    """Return the text of its unit file."""
    lines = [
        "[Unit]",
        f"Description={service.description}",
        "Wants=network-online.target",
        # Where Redis is the store it is to be there first, and to stop last; where it is not, this does nothing.
        "After=network-online.target redis-server.service redis.service valkey-server.service",
        "StartLimitIntervalSec=600",
        "StartLimitBurst=10",
        "",
        "[Service]",
        # The heart tells when every part is up, and as long as the graph moves. It is not the main process, so `all`.
        "Type=notify",
        "NotifyAccess=all",
        f"WatchdogSec={_WATCHDOG_S}",
        f"ExecStart={service.command}",
        # TERM goes to the main process alone, which drains the graph; KILL, in the end, to all.
        "KillMode=mixed",
        f"TimeoutStopSec={_STOP_TIMEOUT_S + _KILL_MARGIN_S}",
        f"TimeoutStartSec={_STOP_TIMEOUT_S + _KILL_MARGIN_S}",
        "Restart=on-failure",
        "RestartSec=5",
        # One worker that runs out of memory is restarted by us; the others go on.
        "OOMPolicy=continue",
        "LimitNOFILE=65536",
        "TasksMax=4096",
        "",
        f"User={service.user}",
        f"Group={service.user}",
        *([f"SupplementaryGroups={' '.join(service.groups)}"] if service.groups else []),
        "StateDirectory=consecutiond",
        "StateDirectoryMode=0700",
        f"WorkingDirectory={service.directory or '%S/consecutiond'}",
        "Environment=CONSECUTIOND_DIR=%S/consecutiond",
        *([f"EnvironmentFile={service.environment_file}"] if service.environment_file else []),
        "",
        _HARDENING.format(protect_home=service.protect_home),
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def argument(text: str) -> str:
    """Quote one argument for ``ExecStart=``, so that systemd changes nothing in it."""
    plain = all(c.isalnum() or c in "-_./:=@,+" for c in text) and text != ""
    return text if plain else f'"{_escaped(text).replace("$", "$$")}"'


#: one unit for any number of consecutors: ``systemctl start consecutiond@flow``
TEMPLATE: Final = Service(
    description="consecutiond: graph %i",
    command="/usr/local/lib/consecutiond/bin/consecutiond start ${TARGET} --id %i --config /etc/consecutiond/%i.toml",
    environment_file="/etc/consecutiond/%i.env",
)


def main() -> None:
    """Print the template."""
    print("# Made by `python -m consecutiond.units`; change it there, or locally with `systemctl edit`.")
    print(unit(TEMPLATE), end="")


if __name__ == "__main__":
    main()
