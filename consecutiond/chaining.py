"""Consecutors that are output containers of another: fed by it, and brought up and ended with it."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consecutiond.feeder import GoneError
from consecutiond.runtime import default_id
from consecutiond_nodes.outputs import Container
from consecutiond_nodes.worker import Interrupted

if TYPE_CHECKING:
    from consecutiond.consecutor import Consecutor
    from consecutiond.session import Session


class Link:
    """The container that stands for a consecutor in the outputs of another.

    What it gets in one batch is recorded by one group commit. While the consecutor takes nothing, it waits.

    Args:
        name: of the output.
        consecutor: what is fed.
        before: id of the consecutor that feeds it.
        directory: where the directories of consecutors are, for one that is not told otherwise.
    """

    def __init__(self, name: str, consecutor: "Consecutor", before: str, directory: Path) -> None:
        self._name, self._consecutor, self._before, self._directory = name, consecutor, before, directory
        self._session: Session | None = None
        self._ours = False
        self._given_up = threading.Event()

    def open(self) -> None:
        """Bring the consecutor up, if it is not up already.

        Raises:
            StateError: it has an input already.
            StartError: a part of it did not come up.
        """
        defaults = {"id": default_id(f"{self._before}-{self._name}.py"), "dir": self._directory}
        self._session, self._ours = self._consecutor.join(self._before, defaults)

    def append(self, value: Any) -> None:
        """Take one value."""
        self.push_many([value])

    def push_many(self, values: Sequence[Any]) -> None:
        """Take several values; return when all are recorded.

        Raises:
            StateError: the consecutor is not up any more.
            RefusedError: it is being stopped.
        """
        if not self._given_up.is_set():
            try:
                self._consecutor.session_for("an output of another consecutor").feeder.push_many(
                    list(values), self._given_up.is_set
                )
            except GoneError:
                if not self._given_up.is_set():
                    raise
        if self._given_up.is_set():
            # Not the values' fault: they are tried anew when the consecutor before runs again.
            raise Interrupted

    def give_up(self) -> None:
        """Have nobody wait for a receipt any more: the consecutor before ends."""
        self._given_up.set()

    def _is_ours(self) -> bool:
        """Return whether it came up here and nobody else has ended it."""
        return self._ours and self._session is not None and self._consecutor.is_up(self._session)

    def leave(self) -> None:
        """Feed it no more."""
        if self._session is not None:
            self._session.fed_by.discard(self._before)

    def finish(self) -> None:
        """End the consecutor's input and wait for its end."""
        if self._is_ours():
            self._consecutor.down()

    def stop(self, timeout_s: float | None) -> None:
        """Stop it; retries stay in its log."""
        if self._is_ours():
            self._consecutor.stop(timeout_s)

    def abandon(self, error: BaseException) -> None:
        """End it because of what was raised in the calling process."""
        if self._is_ours():
            assert self._session is not None  # noqa: S101 - it is ours
            self._consecutor.give_up(self._session, error)


class Chain:
    """The outputs of a consecutor, with a link for each consecutor among them.

    Args:
        outputs: the registered containers.
        before: id of the consecutor whose outputs these are.
        directory: where the directories of consecutors are.
    """

    def __init__(self, outputs: Mapping[str, Container], before: str, directory: Path) -> None:
        from consecutiond.consecutor import Consecutor

        self.containers: dict[str, Container] = dict(outputs)
        self._links: list[Link] = []
        self._open: list[Link] = []
        for name, container in outputs.items():
            if isinstance(container, Consecutor):
                link = Link(name, container, before, directory)
                self.containers[name] = link
                self._links.append(link)

    def open(self) -> None:
        """Bring up what is not up; whatever goes wrong, nothing that came up here stays."""
        try:
            for link in self._links:
                link.open()
                self._open.append(link)
        except BaseException as error:
            self.abandon(error)
            raise

    def give_up(self) -> None:
        """Have nobody wait for a receipt any more."""
        for link in self._links:
            link.give_up()

    def finish(self) -> None:
        """End what came up here, once everything for it is recorded."""
        self._end(Link.finish)

    def stop(self, timeout_s: float | None = None) -> None:
        """Stop what came up here.

        Args:
            timeout_s: seconds for each; None takes each one's own option.
        """
        self._end(lambda link: link.stop(timeout_s))

    def abandon(self, error: BaseException) -> None:
        """End what came up here, because of what was raised."""
        while self._open:
            link = self._open.pop()
            link.leave()
            link.abandon(error)

    def _end(self, how: Callable[[Link], None]) -> None:
        try:
            while self._open:
                link = self._open.pop()
                link.leave()
                how(link)
        except BaseException as error:
            self.abandon(error)
            raise
