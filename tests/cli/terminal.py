"""A command that believes to have a terminal, for tests of what it asks."""

import os
import pty
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.system.shell import PATIENCE_S, Shell


class Terminal:
    """The other end of a command's terminal."""

    def __init__(self, process: "subprocess.Popen[bytes]", fd: int) -> None:
        self._process, self._fd = process, fd
        self.seen = ""
        self._read_to = 0

    def expect(self, text: str) -> None:
        """Read until a text has come that was not there at the last `expect`."""
        while text not in self.seen[self._read_to :]:
            assert self._read(), f"{text!r} did not come; there was: {self.seen}"
        self._read_to = self.seen.index(text, self._read_to) + len(text)

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._fd, f"{line}\n".encode())

    def end(self) -> int:
        """Read to the end of the command; return its exit code."""
        while self._read():
            pass
        return self._process.wait(PATIENCE_S)

    def _read(self) -> bool:
        readable, _, _ = select.select([self._fd], [], [], PATIENCE_S)
        assert readable, f"nothing more came; there was: {self.seen}"
        try:
            found = os.read(self._fd, 65536)
        except OSError:
            # The other side is closed.
            return False
        self.seen += found.decode(errors="replace").replace("\r\n", "\n")
        return bool(found)


@contextmanager
def terminal(shell: Shell, *words: object, **environment: str) -> Iterator[Terminal]:
    """Type a command at a terminal."""
    ours, theirs = pty.openpty()
    # COLUMNS: tables are as wide as they need to be.
    process = subprocess.Popen(
        shell.argv(*words), cwd=shell.directory, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=shell.environment | {"COLUMNS": "300", "TERM": "dumb"} | environment,
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE_S)
        os.close(ours)
