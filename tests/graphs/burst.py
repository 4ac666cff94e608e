"""One item becomes as many as it says; each is written with its root's id."""

from typing import Any

from consecutiond import Node


class Burst(Node):
    def process(self, item: dict[str, int]) -> None:
        for child in range(item["count"]):
            self.push([item["id"], child])


class Keep(Node):
    def process(self, value: Any) -> None:
        self.write("ids", value)


graph = Burst("burst") | Keep("keep")
