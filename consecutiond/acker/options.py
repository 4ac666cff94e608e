"""The options of the acker, as the plan carries them."""

import msgspec

from consecutiond.acker.policies import Policies
from consecutiond.acker.stores import Durability, Store, open_store
from consecutiond.guarantee import Kept
from consecutiond_broker.tcp import Listen


class AckerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the acker."""

    part: str
    uri: str
    heart_uri: str
    pid_dir: str
    #: the store's URL
    store: str
    durability: Durability = "durable"
    #: where the accounts are; "off": nothing is tracked and nothing recorded, the acker drives the end and counts
    acker_store: Kept = "disk"
    #: where the values of inputs are kept
    input_store: Kept = "disk"
    #: for every edge the edges at which a root can enter and reach it, itself among them
    reach: dict[str, tuple[str, ...]]
    #: the edge at which input enters
    input_edge: str
    #: the node that each edge leads to
    targets: dict[str, str]
    #: the workers of each node, in topological order
    nodes: dict[str, tuple[str, ...]]
    #: open roots at which emission stops
    max_pending: int = 20_000
    #: bytes recorded and not emitted at which receipts are withheld
    max_backlog: int = 8 << 20
    policies: Policies = Policies()
    #: seconds that completed inputs are kept; None: for ever, as JSON has no infinity
    retain_s: float | None = 0.0
    heartbeat_s: float = 0.5
    max_message: int = 64 << 20
    #: the broker of the input's edge, to which producers send when nothing is tracked
    input_uri: str = ""
    #: where it listens for workers on other machines, if there are any
    listen: Listen | None = None

    @property
    def tracking(self) -> bool:
        """Whether trees are tracked."""
        return self.acker_store != "off"

    def open_store(self) -> Store:
        """Open the store that all of this describes.

        Raises:
            StoreError: it cannot be opened.
        """
        return open_store(self.store, self.durability, self.acker_store, self.input_store)
