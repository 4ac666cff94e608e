"""What each store costs: ``python -m tests.benchmarks.stores``.

Three nodes in a line as in `line.py`, once for each store and durability, and single commits of 32 batches of 15 kB,
which is what a receipt waits for. The Redis server is one of our own on a Unix socket, on the same machine:
`appendfsync always` for durable, `everysec` for fast.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from consecutiond.acker.stores import Durability, open_store
from consecutiond.acker.stores.base import Append, Changes, Chunk
from tests.benchmarks.line import graph
from tests.redis_server import RedisServer

COMMITS = 200
DURABILITIES: tuple[Durability, ...] = ("fast", "durable")


def commit_ms(url: str, durability: Durability) -> float:
    """Return the median milliseconds of a commit that records 32 batches and ends the 32 before."""
    taken = []
    with closing(open_store(url, durability)) as store:
        first = store.next_chunk()
        for number in range(COMMITS):
            ids = range(first + 32 * number, first + 32 * (number + 1))
            chunks = [Append(Chunk(id, 256 * id, 256, ("in",), bytes(15_000)), None) for id in ids]
            started = time.perf_counter()
            store.commit(Changes(appends=chunks, done=dict.fromkeys(id - 32 for id in ids if id - 32 >= first)))
            taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken)


@contextmanager
def urls(directory: Path, durability: Durability) -> Iterator[dict[str, str]]:
    """Yield the store that each kind is set to."""
    fsync = "always" if durability == "durable" else "everysec"
    server = RedisServer(directory / f"redis-{durability}", appendfsync=fsync).start()
    try:
        yield {"sqlite": "sqlite", "redis": server.url(), "kyoto": "kyoto"}
    finally:
        server.close()


def main() -> None:
    """Run, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--items", type=int, default=300_000)
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    table = Table("store", "durability", "items/s (median)", "min", "max", "of sqlite", "ms a commit", "of sqlite")
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        for durability in DURABILITIES:
            with urls(directory, durability) as stores:
                rates: dict[str, list[float]] = {name: [] for name in stores}
                for round_ in range(chosen.rounds):
                    for name, url in stores.items():
                        id = f"{name}-{durability}-{round_}"
                        rates[name].append(graph(chosen.items, place, id, {"store": url, "durability": durability}))
                singles = {
                    name: commit_ms(
                        f"{url}?prefix=single" if name == "redis" else f"{name}:///{directory}/{name}-{durability}",
                        durability,
                    )
                    for name, url in stores.items()
                }
            base = statistics.median(rates["sqlite"])
            for name, values in rates.items():
                median, single = statistics.median(values), singles[name]
                table.add_row(
                    name, durability, f"{median:,.0f}", f"{min(values):,.0f}", f"{max(values):,.0f}",
                    f"{median / base:.2f}", f"{single:.2f}", f"{single / singles['sqlite']:.2f}",
                )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
