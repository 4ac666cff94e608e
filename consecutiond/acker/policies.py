"""How often a root is tried, how long it waits in between, and what becomes of it in the end."""

import msgspec

from consecutiond_nodes.failurepolicy import Exhausted


class Policy(msgspec.Struct, frozen=True):
    """What holds for roots that fail in one node."""

    #: failures after which a root is given up
    max_attempts: int = 3
    #: seconds before the second attempt; doubled each time
    backoff_s: float = 0.1
    #: seconds at the utmost
    backoff_max_s: float = 60.0
    #: seconds after its acceptance in which a root may be tried; 0: for ever
    max_age_s: float = 0.0
    exhausted: Exhausted = "dead-letter"

    def delay(self, attempts: int, random_unit: float) -> float:
        """Return the seconds to wait after `attempts` failures; up to half of it is jitter."""
        full = min(self.backoff_max_s, self.backoff_s * 2.0 ** min(attempts - 1, 100))
        return full * (1 - random_unit / 2)

    def too_old(self, age_s: float) -> bool:
        """Tell whether a root of that age is tried no more."""
        return 0 < self.max_age_s < age_s


class Policies(msgspec.Struct, frozen=True):
    """The policies of all nodes; ``default`` is that of the others, and of roots that no node has failed yet."""

    default: Policy = Policy()
    nodes: dict[str, Policy] = {}

    def of(self, node: str) -> Policy:
        """Return what holds for a node."""
        return self.nodes.get(node, self.default)

    @property
    def longest_s(self) -> float:
        """Seconds of the longest wait that there can be."""
        return max(policy.backoff_max_s for policy in (self.default, *self.nodes.values()))
