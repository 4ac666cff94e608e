"""The graph of the chaos rows with three sinks: a file of lines, a list of a Redis server, and a file without keys."""

import json
import os
from typing import Any

from consecutiond import Consecutor, JsonLinesOutput, RedisOutput
from tests.graphs import dag


class Load(dag.Load):
    """Writes everything to each of the sinks."""

    def process(self, item: dict[str, Any]) -> None:
        for name in ("ids", "list", "raw"):
            self.write(name, [item["id"], item["part"], item["sum"]])


class Raw:
    """A file that has every value as often as it comes."""

    def __init__(self, path: str) -> None:
        self._path, self._fd = path, -1

    def append(self, value: Any) -> None:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(self._fd, json.dumps(value).encode() + b"\n")


consecutor = Consecutor(
    dag.Parse("parse") | dag.Split("split") | [dag.left(), dag.Sum("right"), dag.route] | Load("load")
)
consecutor.register_output("ids", JsonLinesOutput(os.environ.get("SINKS_LINES", "lines")))
consecutor.register_output("raw", Raw(os.environ.get("SINKS_RAW", "raw")))
consecutor.register_output("list", RedisOutput(os.environ.get("SINKS_URL", "redis://"), "list", patience_s=120))
