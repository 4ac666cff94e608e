"""The graph of the chaos rows: five nodes, a fan-out of three, one router; each root passes through every node.

An item may carry an order: what a node does to it instead of its work.
"""

import os
import signal
import time
import zlib
from typing import Any

from consecutiond import Node

#: into how many items each root is split
PARTS = 3
_LETTERS = 240


class Parse(Node):
    """Numbers the words of the text."""

    def process(self, item: dict[str, Any]) -> None:
        item["words"] = len(item["text"].split())
        self.push(item)


class Split(Node):
    """Makes three items of one."""

    def process(self, item: dict[str, Any]) -> None:
        for part in range(PARTS):
            self.push({**item, "part": part, "text": piece(item["text"], part)})


class Sum(Node):
    """Adds a checksum; or does what it is ordered to."""

    def process(self, item: dict[str, Any]) -> None:
        obey(item)
        item["sum"] = zlib.crc32(item["text"].encode())
        self.push(item)


class Load(Node):
    """Writes the root's id, the part, and the checksum; slowly while there is the file that the item names."""

    def process(self, item: dict[str, Any]) -> None:
        if "slow" in item:
            path, seconds = item["slow"]
            if os.path.exists(path):
                time.sleep(seconds)
        self.write("ids", [item["id"], item["part"], item["sum"]])


def obey(item: dict[str, Any]) -> None:
    """Do what is ordered, once for each root."""
    order = item.get("order") if item["part"] == 0 else None
    if order == "raise":
        raise ValueError(f"poison {item['id']}")
    if order == "inflate":
        item["text"] = "x" * item["size"]
    if order == "exit":
        os._exit(9)
    if order == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
        signal.pause()


def route(item: dict[str, Any]) -> str:
    """Send two parts one way and one part the other."""
    return "left" if item["part"] % 2 == 0 else "right"


def piece(text: str, part: int) -> str:
    """Return a third of a text."""
    third = len(text) // PARTS
    return text[part * third : (part + 1) * third]


def left() -> Sum:
    """Return the node that has two workers."""
    node = Sum("left")
    node.set_num_workers(2)
    return node


graph = Parse("parse") | Split("split") | [left(), Sum("right"), route] | Load("load")


def item(number: int, **more: Any) -> dict[str, Any]:
    """Return an item of about 256 bytes."""
    return {"id": number, "text": text(number), **more}


def text(number: int) -> str:
    """Return a text that no other item has."""
    word = f"word {number} of many "
    return (word * (_LETTERS // len(word) + 1))[:_LETTERS]


def outputs(number: int) -> set[Any]:
    """Return what the sink has of an item once its root is completed."""
    return {(number, part, zlib.crc32(piece(text(number), part).encode())) for part in range(PARTS)}
