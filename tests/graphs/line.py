"""Three nodes in a line, as most tests of whole consecutors use them; loaded by path, by workers too."""

from typing import Any

from consecutiond import Node


class Parse(Node):
    """Adds the words of the text."""

    def process(self, item: dict[str, Any]) -> None:
        item["words"] = item["text"].split()
        self.push(item)


class Enrich(Node):
    """Adds the length of each word."""

    def process(self, item: dict[str, Any]) -> None:
        item["lengths"] = [len(word) for word in item["words"]]
        self.push(item)


class Load(Node):
    """Writes the id, once everything before it is done."""

    def process(self, item: dict[str, Any]) -> None:
        self.write("ids", item["id"])


def middle() -> Enrich:
    """Return the middle node, which has two workers."""
    node = Enrich("enrich")
    node.set_num_workers(2)
    return node


graph = Parse("parse") | middle() | Load("load")


def item(number: int) -> dict[str, Any]:
    """Return a small item."""
    return {"id": number, "text": "the quick brown fox jumps over the lazy dog"}
