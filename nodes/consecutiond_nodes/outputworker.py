"""The worker that fills containers: what one batch has for a container goes to it together, if it can take that."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from consecutiond_broker.cell import INDEX
from consecutiond_nodes.job import Job
from consecutiond_nodes.outputs import OutputNode, Sink
from consecutiond_nodes.raised import describe, user_traceback
from consecutiond_nodes.worker import Interrupted, Worker

#: batches that wait for a flush, at the utmost
_MOST_UNFLUSHED: Final = 64


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
    #: batches that the containers got since they were flushed
    _unflushed: list[Job]
    #: called when a container's pipe is broken, each time
    on_broken_pipe: Callable[[], None] | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._unflushed = []
        super().__init__(*arguments, **named)

    def _raised(self, job: Job, position: int, error: BaseException) -> None:
        if isinstance(error, BrokenPipeError) and self.on_broken_pipe is not None:
            self.on_broken_pipe()
        super()._raised(job, position, error)

    def _turn(self, timeout_ms: int) -> None:
        super()._turn(timeout_ms)
        if self._unflushed and not self._can_work():
            self._flush()

    def _processed(self, job: Job) -> None:
        self._unflushed.append(job)
        if len(self._unflushed) >= _MOST_UNFLUSHED:
            self._flush()

    def _flush(self) -> None:
        """Have the containers make safe what they got, and settle the batches it came in.

        A flush may cost a disk's turn or a server's answer, however little it is for: so it is done once for all
        batches that are at hand. If it raises, no item of them is done.
        """
        jobs, self._unflushed = self._unflushed, []
        # Should it kill us, the first one is told from those that nobody was at.
        self.cell.start(jobs[0].slot, jobs[0].seq)
        try:
            self.node.finish_batch()
        except BaseException as error:  # the user's container; a full disk, say
            if isinstance(error, BrokenPipeError) and self.on_broken_pipe is not None:
                self.on_broken_pipe()
            for job in jobs:
                left = sorted(set(range(job.count)).difference(job.failed, job.skip))
                self.failures += len(left)
                job.fail_all(left, "raised", self.node.name, describe(error), user_traceback(error))
        finally:
            self.cell.finish()
        for job in jobs:
            super()._processed(job)

    def close(self) -> None:
        """Flush what is left, leave every broker and close the connections."""
        if self._unflushed:
            self._flush()
        super().close()

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
