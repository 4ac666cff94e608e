"""A graph whose roots come again after a part of what they write was written."""

import os
from typing import Any

from consecutiond import Item, Node


class Write(Node):
    """Writes twice, under two names, and pushes on."""

    def process(self, value: int) -> None:
        self.write("lines", ["first", value])
        self.write("raw", ["first", value])
        self.push(value)
        self.write("lines", ["second", value])


class Unsure(Node):
    """Fails every third value at the first attempt, and every fifth always while there is the file."""

    def process(self, item: Item) -> None:
        value: Any = item.value
        if (item.attempt == 1 and value % 3 == 0) or (value % 5 == 0 and os.path.exists(os.environ["AGAIN_HELD"])):
            item.fail("not yet")
        else:
            self.push(value)


class Last(Node):
    """Fans out."""

    def process(self, value: int) -> None:
        for number in range(3):
            self.write("lines", [number, value])


graph = Write("write") | Unsure("unsure") | Last("last")
