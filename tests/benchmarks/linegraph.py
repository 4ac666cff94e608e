"""The graphs of the benchmark."""

import time
from typing import Any

from consecutiond import Node


class Parse(Node):
    """Adds the words."""

    def process(self, item: dict[str, Any]) -> None:
        item["words"] = item["text"].split()
        self.push(item)


class Enrich(Node):
    """Adds the length of each word."""

    def process(self, item: dict[str, Any]) -> None:
        item["lengths"] = [len(word) for word in item["words"]]
        self.push(item)


class Load(Node):
    """Counts."""

    def begin(self) -> None:
        self.seen = 0

    def process(self, item: dict[str, Any]) -> None:
        self.seen += 1


class Slow(Load):
    """Takes 100 microseconds an item, ten times as long as the source."""

    def process(self, item: dict[str, Any]) -> None:
        until = time.perf_counter() + 100e-6
        while time.perf_counter() < until:
            pass
        self.seen += 1


graph = Parse("parse") | Enrich("enrich") | Load("load")
slow = Parse("parse") | Enrich("enrich") | Slow("load")
