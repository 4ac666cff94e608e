"""One item becomes many: how many, it says itself."""

from typing import Any

from consecutiond import Node


class Fan(Node):
    def process(self, count: int) -> None:
        for number in range(count):
            self.push({"id": number, "text": "the quick brown fox jumps over the lazy dog"})


class Write(Node):
    def process(self, value: Any) -> None:
        self.write("ids", value["id"])


class Sum:
    """A container that keeps nothing of what it counts."""

    def __init__(self) -> None:
        self.count = self.sum = 0

    def append(self, value: int) -> None:
        self.count += 1
        self.sum += value


graph = Fan("fan") | Write("write")
