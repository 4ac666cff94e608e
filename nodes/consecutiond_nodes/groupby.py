"""A node that gets neighbours with the same key together."""

from collections.abc import Callable
from typing import Any

from consecutiond_nodes.errors import NodeError
from consecutiond_nodes.graph import Node
from consecutiond_nodes.item import Item


class GroupByNode(Node):
    """Collects items while their key stays the same, and gets their values as one list.

    Write `key` and `process`. The items of a list are done when `process` returns, and what it pushes is derived from
    all of them: when anything of that fails, all are tried again. Several workers need
    ``set_num_workers(n, key=...)`` with the same key, or each sees only a share of a group.
    """

    holds_items = True
    takes_items = True
    #: a group is complete when another key comes, and that may take its time
    hold_timeout_s = float("inf")
    _last: Any = None
    _group: list[Item] = []  # noqa: RUF012 - never appended to: replaced by a list of the instance's own

    def key(self, value: Any, /) -> Any:
        """Return the key of a value; anything that can be compared.

        Args:
            value: what the node before pushed.

        """
        raise NodeError(f"node {self.name!r} is a GroupByNode without a method key(self, value)")

    def process(self, batch: list[Any], /) -> None:
        """Work on the values of one group.

        Args:
            batch: the values, in the order in which they came.

        """
        raise NodeError(f"node {self.name!r} is a GroupByNode without a method process(self, batch)")

    def _taker(self) -> Callable[[Item], None]:
        return self._collect

    def _collect(self, item: Item) -> None:
        key = self.key(item.value)
        if self._group and key != self._last:
            self._finish_items()
        if not self._group:
            # Made here, since a user's `__init__` need not call ours.
            self._group = []
        self._last = key
        self._group.append(item)

    def _finish_items(self) -> None:
        """Process the group that is being collected; what `process` raises fails all of its items, and no other."""
        group, self._group = [item for item in self._group if item.waits], []
        if not group:
            return
        ways = self._item_ways("process")
        try:
            with ways.anchored(group):
                self.process([item.value for item in group])
        except Exception as error:  # the user's code
            for item in group:
                ways.raised(item, error)
        else:
            for item in group:
                item.ack()
