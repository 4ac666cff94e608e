"""A progress bar on stderr, when stderr is a terminal."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consecutiond.consecutor import Consecutor

Advance = Callable[[int], None]


@contextmanager
def progress_bar(consecutor: "Consecutor", iterable: Iterable[Any], wanted: bool | None) -> Iterator[Advance | None]:
    """Show how many items went in, and that the graph is finishing.

    Args:
        consecutor: whose input it is.
        iterable: its length, if it has one, is the bar's.
        wanted: None shows a bar when stderr is a terminal.

    Yields:
        A function that takes the number of items handed over (0: the input has ended), or None.
    """
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    length = len(iterable) if isinstance(iterable, Sized) else None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f} items/s"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("feeding", total=length, rate=0.0)

        def advance(count: int) -> None:
            if count:
                bar.update(task, completed=count, rate=count / max(bar.tasks[0].elapsed or 0.0, 1e-3))
            else:
                bar.update(task, description="finishing")

        yield advance
