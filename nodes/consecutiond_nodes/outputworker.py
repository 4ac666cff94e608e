"""The worker that fills containers: what one batch has for a container goes to it together, if it can take that."""

from collections.abc import Callable
from typing import Any, NamedTuple

from consecutiond_broker.cell import INDEX
from consecutiond_nodes.job import Job
from consecutiond_nodes.outputs import OutputNode, Sink
from consecutiond_nodes.worker import Interrupted, Worker


class _Written(NamedTuple):
    """One value on its way into a container; sorted by its place in the batch."""

    position: int
    key: int
    value: Any


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
        together: dict[Sink, list[_Written]] = {}
        alone: list[tuple[Sink, _Written]] = []
        sinks, keys = self.node.sinks[not job.untracked], job.keys()
        for position, (name, value) in enumerate(values):
            if position in job.skip:
                continue
            sink, given = sinks.of(name, value)
            written = _Written(position, keys[position], given)
            if sink.many is None:
                alone.append((sink, written))
            else:
                together.setdefault(sink, []).append(written)
        for sink, batch in together.items():
            if not self._take(sink, batch):
                alone += [(sink, written) for written in batch]
        self._take_each(job, sorted(alone, key=lambda each: each[1].position))

    def _take(self, sink: Sink, batch: list[_Written]) -> bool:
        """Hand several values over; return whether the container took them."""
        assert sink.many is not None  # noqa: S101 - the caller has asked
        # Should it kill us, the first one is the suspect and is tried alone: so the guilty one is found in the end.
        self.cell.words[INDEX] = batch[0].position + 1
        try:
            sink.many([written.key for written in batch], [written.value for written in batch])
        except Interrupted:
            raise
        except BaseException:  # the user's container; each value alone then says why
            return False
        finally:
            self.cell.words[INDEX] = 0
        return True

    def _take_each(self, job: Job, alone: list[tuple[Sink, _Written]]) -> None:
        words = self.cell.words
        for sink, written in alone:
            words[INDEX] = written.position + 1
            try:
                sink.one(written.key, written.value)
            except Interrupted:
                raise
            except BaseException as error:  # whatever the container raises fails this item alone
                self._raised(job, written.position, error)
        words[INDEX] = 0
