"""The worker that fills containers: what one batch has for a container goes to it together, if it can take that."""

from collections.abc import Callable
from typing import Any

from consecutiond_broker.cell import INDEX
from consecutiond_nodes.job import Job
from consecutiond_nodes.outputs import OutputNode
from consecutiond_nodes.worker import Interrupted, Worker


class OutputWorker(Worker):
    """Runs the output node.

    A container that refuses several values is asked with each alone, so that only what it refuses fails. It may then
    get again what it had taken before it refused.
    """

    node: OutputNode
    #: called when a container's pipe is broken, each time
    on_broken_pipe: Callable[[], None] | None = None

    def _raised(self, job: Job, position: int, error: BaseException) -> None:
        if isinstance(error, BrokenPipeError) and self.on_broken_pipe is not None:
            self.on_broken_pipe()
        super()._raised(job, position, error)

    def _finish(self, job: Job, finish_batch: Callable[[], None]) -> None:
        def watched() -> None:
            try:
                finish_batch()
            except BrokenPipeError:
                if self.on_broken_pipe is not None:
                    self.on_broken_pipe()
                raise

        super()._finish(job, watched)

    def _process(self, job: Job, values: list[Any]) -> None:
        takers = self.node.takers
        if not takers:
            super()._process(job, values)
            return
        together: dict[str, list[int]] = {}
        alone: list[int] = []
        for position, (name, _) in enumerate(values):
            if position not in job.skip:
                (together.setdefault(name, []) if name in takers else alone).append(position)
        for name, positions in together.items():
            if not self._take(name, positions, values):
                alone += positions
        self._process_each(job, values, sorted(alone))

    def _take(self, name: str, positions: list[int], values: list[Any]) -> bool:
        """Hand several values over; return whether the container took them."""
        # Should it kill us, the first one is the suspect and is tried alone: so the guilty one is found in the end.
        self.cell.words[INDEX] = positions[0] + 1
        try:
            self.node.takers[name]([values[position][1] for position in positions])
        except Interrupted:
            raise
        except BaseException:  # the user's container; each value alone then says why
            return False
        finally:
            self.cell.words[INDEX] = 0
        return True

    def _process_each(self, job: Job, values: list[Any], positions: list[int]) -> None:
        words = self.cell.words
        for position in positions:
            words[INDEX] = position + 1
            try:
                self.node.process(values[position])
            except Interrupted:
                raise
            except BaseException as error:  # whatever the container raises fails this item alone
                self._raised(job, position, error)
        words[INDEX] = 0
