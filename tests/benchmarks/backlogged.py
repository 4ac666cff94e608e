"""The graph of the backlog benchmark: a node that keeps up with nothing, and says when it is reached."""

import os
import time

from consecutiond import Item, Node
from consecutiond_broker.ids import EMISSION_BITS, INDEX_BITS

#: names the file to which a line ``EPOCH TIME`` is added when the first item of an acker's life comes in
SEEN = "BACKLOG_SEEN"


class Slow(Node):
    """Takes half a millisecond an item."""

    def begin(self) -> None:
        self.epoch = -1

    def process(self, item: Item) -> None:
        epoch = item.root_id >> (EMISSION_BITS + INDEX_BITS)
        if epoch != self.epoch:
            self.epoch = epoch
            with open(os.environ[SEEN], "a") as seen:
                seen.write(f"{epoch} {time.time()}\n")
        time.sleep(0.0005)


graph = Slow("slow")
