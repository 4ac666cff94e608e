"""How a long command goes on: no faster than it may, with a bar for whoever looks."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Advance = Callable[[int], None]
Step = TypeVar("Step")


def page_size(rate: float, most: int) -> int:
    """Return how many items to do at once so that a rate is kept within a second; `most` if there is no rate."""
    return min(most, max(1, math.floor(rate / 4))) if rate else most


def paced(steps: Iterator[Step], count: Callable[[Step], int], rate: float) -> Iterator[Step]:
    """Pause between steps, so that no more than `rate` items are done in a second; 0: as many as there can be."""
    done, began = 0, time.monotonic()
    for step in steps:
        yield step
        done += count(step)
        if rate:
            time.sleep(max(0.0, began + done / rate - time.monotonic()))


@contextmanager
def progress(what: str, total: int, *, wanted: bool) -> Iterator[Advance]:
    """Show a bar on stderr, where that is a terminal."""
    if not wanted or total <= 1 or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.update(task, completed=count)
