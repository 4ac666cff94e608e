"""A node that takes nothing on until the test says so: what is accepted until then stays in the store, to be read."""

import os
import time
from pathlib import Path
from typing import Any

from consecutiond import Node

#: names the file that opens the gate
GATE = "HELD_GATE"


class Held(Node):
    """Waits for the gate, then writes each value."""

    def process(self, value: Any) -> None:
        gate = Path(os.environ[GATE])
        while not gate.exists():
            time.sleep(0.01)
        self.write("values", value)


graph = Held("held") | Node("rest")
