"""Supervisord as a tool: the text of its configuration, and a client of its XML-RPC interface."""

import http.client
import re
import shlex
import socket
import time
import xmlrpc.client
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.parsers.expat import ExpatError

from consecutiond.rundir import RunDir
from consecutiond.supervision.states import Program, RootOptions
from consecutiond_broker.errors import ConsecutiondError

#: file descriptors that supervisord closes in a child; everything of the root's closes by itself on exec
_MIN_FDS: Final = 32
_NAME: Final = re.compile(r"[^\s:/\[\]%]+")
#: what no value of an ini file can carry, however it is quoted
_CONTROL: Final = re.compile(r"[\0\n\r]")
#: what ini files take for the start of a comment, even in quotes
_COMMENT: Final = re.compile(r"(?<=\s)(?=[;#])")
_ENV_KEY: Final = re.compile(r"[A-Za-z0-9_]+")
#: the program through which whatever supervisord's `environment` and `directory` cannot express is set
_ENV: Final = "/usr/bin/env"

#: attempts to start a program that must never be given up
_FOR_EVER: Final = 1_000_000

#: seconds that one request may take
_TIMEOUT_S: Final = 10.0
#: seconds for which a program that has just died may still be "started" for supervisord
_REAP_PATIENCE_S: Final = 1.0
_PAUSE_S: Final = 0.005

# The faults of supervisor.xmlrpc.Faults that we tell apart; importing them would import all of supervisor.
_SHUTDOWN_STATE: Final = 6
_BAD_NAME: Final = 10
_ALREADY_STARTED: Final = 60
_NOT_RUNNING: Final = 70
_ALREADY_ADDED: Final = 90


class SupervisorError(ConsecutiondError):
    """Supervisord cannot be configured so, does not answer, or refuses; `code` is that of a refusal."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code

    @property
    def stopping(self) -> bool:
        """Whether it was refused because supervisord is stopping everything."""
        return self.code == _SHUTDOWN_STATE


# --- configuration ---------------------------------------------------------------------------------------


def render(programs: Sequence[Program], rundir: RunDir, options: RootOptions) -> str:
    """Return the text of `supervisord.conf`, to be written as UTF-8 into the consecutor's directory.

    Raises:
        SupervisorError: a name or a value that supervisord's configuration cannot carry, or a name twice.

    """
    names = [program.name for program in programs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise SupervisorError(f"programs need different names; more than once there is {', '.join(sorted(twice))}")
    sections = [_root_section(rundir, options), *(_program_section(program, options) for program in programs)]
    return "\n".join(sections)


def _root_section(rundir: RunDir, options: RootOptions) -> str:
    # Paths are relative to the directory of the file, whose name may be one that ini files cannot carry.
    return f"""\
[unix_http_server]
file = {_path(rundir.supervisor_socket, rundir)}
chmod = 0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisord]
identifier = {rundir.id}
nodaemon = true
silent = true
nocleanup = true
minfds = {_MIN_FDS}
minprocs = 1
pidfile = %(here)s/pid_files/root.pid
logfile = %(here)s/log_files/supervisord.log
logfile_maxbytes = {options.log_max_bytes}
logfile_backups = {options.log_backups}
loglevel = {options.log_level}
childlogdir = %(here)s/log_files
"""


def _program_section(program: Program, options: RootOptions) -> str:
    if not _NAME.fullmatch(program.name):
        raise SupervisorError(
            f"{program.name!r} cannot name a program of supervisord: white space and ':', '/', '[', ']', '%'"
            " have a meaning of their own there"
        )
    # A program that the root restarts by itself has to live for a second, or supervisord waits a second longer each
    # time. The others are restarted by the heart, which has a policy of its own.
    startsecs, retries = (1, _FOR_EVER) if program.autorestart else (0, options.start_retries)
    # supervisord expands the name of a log file twice, hence the second percent sign.
    return f"""\
[program:{program.name}]
{_launch(program, options)}
autostart = true
autorestart = {str(program.autorestart).lower()}
startsecs = {startsecs}
startretries = {retries}
stopwaitsecs = {program.stop_wait_s}
stopasgroup = true
killasgroup = true
priority = {program.priority}
redirect_stderr = true
stdout_logfile = %%(here)s/log_files/{program.name}.log
stdout_logfile_maxbytes = {options.log_max_bytes}
stdout_logfile_backups = {options.log_backups}
"""


def _launch(program: Program, options: RootOptions) -> str:
    """Return the lines `command`, `environment` and `directory`."""
    for text in (*program.argv, *program.env, *program.env.values(), options.directory):
        if _CONTROL.search(text):
            raise SupervisorError(
                f"{text!r}, for program {program.name}, has a line break or a NUL in it, which supervisord's"
                " configuration cannot carry; leave it out of the command line, environment and directory"
            )
    plain = {key: value for key, value in program.env.items() if _is_plain(key, value)}
    prefix = [f"{key}={value}" for key, value in program.env.items() if key not in plain]
    directory = options.directory
    if _COMMENT.search(directory) or directory != directory.strip():
        prefix.insert(0, f"--chdir={directory}")
        directory = "/"
    argv = [_ENV, *prefix, *program.argv] if prefix else program.argv
    environment = ",".join(f'{key}="{value}"' for key, value in plain.items())
    lines = {"command": _command(argv), "environment": environment, "directory": directory}
    return "\n".join(f"{key} = {_doubled(value)}" for key, value in lines.items() if value)


def _is_plain(key: str, value: str) -> bool:
    """Return whether `environment` can carry it: there are no escapes, and quotes at the ends get lost."""
    return (
        bool(_ENV_KEY.fullmatch(key)) and '"' not in value and value == value.strip("'") and not _COMMENT.search(value)
    )


def _command(argv: Sequence[str]) -> str:
    """Quote a command line as for a shell, and part what looks like a comment by an empty pair of quotes."""
    return " ".join(_COMMENT.sub("''", shlex.quote(word)) for word in argv)


def _doubled(text: str) -> str:
    return text.replace("%", "%%")


def _path(path: Path, rundir: RunDir) -> str:
    if path.is_relative_to(rundir.path):
        return f"%(here)s/{_doubled(str(path.relative_to(rundir.path)))}"
    return _doubled(str(path))


# --- client ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProgramInfo:
    """A program as supervisord sees it at the moment."""

    name: str
    #: one of supervisor's: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL, UNKNOWN
    state: str
    #: None when it does not run
    pid: int | None
    #: of the last end, 0 before the first; negative signals are not told apart from -1
    exit_status: int
    #: seconds since the epoch of the last start, 0 for none
    started_at: int
    #: why the last start failed, or empty
    spawn_error: str


class SupervisorClient:
    """Speaks to the root over its Unix socket; every request on a connection of its own.

    A transport that failed once stays broken, so none is kept. All methods raise `SupervisorError`.

    Args:
        socket_path: `RunDir.supervisor_socket`.
        timeout_s: seconds that a request may take.

    """

    def __init__(self, socket_path: Path, timeout_s: float = _TIMEOUT_S) -> None:
        self._path = socket_path
        self._timeout_s = timeout_s

    def start(self, name: str) -> None:
        """Start a program that does not run; a death that supervisord has not noticed yet is waited for."""
        deadline = time.monotonic() + _REAP_PATIENCE_S
        while True:
            try:
                self._call("startProcess", name, False)
            except SupervisorError as error:
                if error.code != _ALREADY_STARTED or time.monotonic() > deadline:
                    raise
            else:
                return
            time.sleep(_PAUSE_S)

    def stop(self, name: str) -> None:
        """Begin to stop a program, if it runs: TERM to its process group, KILL after its time."""
        try:
            self._call("stopProcess", name, False)
        except SupervisorError as error:
            if error.code != _NOT_RUNNING:
                raise

    def info(self) -> list[ProgramInfo]:
        """Return every program, by name."""
        return [_program_info(found) for found in self._call("getAllProcessInfo")]

    def pid(self, name: str) -> int | None:
        """Return the pid of a program, or None when it does not run."""
        return _program_info(self._call("getProcessInfo", name)).pid

    def add(self, *programs: Program) -> None:
        """Take programs that the configuration file has gained, and start them; nobody else is touched.

        One that is there already is left as it is, so it can be said again after a failure.
        """
        self._call("reloadConfig")
        for program in programs:
            try:
                self._call("addProcessGroup", program.name)
            except SupervisorError as error:
                if error.code != _ALREADY_ADDED:
                    raise

    def remove(self, name: str) -> None:
        """Forget a program that does not run; one that is not known is fine."""
        try:
            self._call("removeProcessGroup", name)
        except SupervisorError as error:
            if error.code != _BAD_NAME:
                raise

    def shutdown(self) -> None:
        """Begin to stop every program, those of the highest priority number first, and then the root."""
        self._call("shutdown")

    def stopping(self) -> bool:
        """Return whether the root is stopping everything already; it then refuses every request, and says so."""
        try:
            self._call("getPID")
        except SupervisorError as error:
            if not error.stopping:
                raise
            return True
        return False

    def root_pid(self) -> int:
        """Return the pid of the root."""
        return int(self._call("getPID"))

    def _call(self, method: str, *arguments: str | bool) -> Any:
        transport = _UnixTransport(self._path, self._timeout_s)
        try:
            with xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=transport) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            text = f"supervisord refuses {method}({', '.join(map(repr, arguments))}): {fault.faultString}"
            raise SupervisorError(text, fault.faultCode) from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError) as error:
            raise SupervisorError(
                f"supervisord does not answer {method} on {self._path}: {error}. Probably it has ended; see"
                " supervisord.log in the log_files of the consecutor."
            ) from error


def _program_info(found: Any) -> ProgramInfo:
    return ProgramInfo(
        name=found["name"],
        state=found["statename"],
        pid=found["pid"] or None,
        exit_status=found["exitstatus"],
        started_at=found["start"],
        spawn_error=found["spawnerr"],
    )


class _UnixTransport(xmlrpc.client.Transport):
    """XML-RPC over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path, self._timeout_s)
        # Kept where the base class looks for what it has to close.
        self._connection = host, connection
        return connection


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
