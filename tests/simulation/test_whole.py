"""The whole world with every fault at once, on a network such as ZeroMQ's and on one that is worse.

On the second, 1 % of the messages are lost, 10 % come twice and 10 % are overtaken, of every kind. ZeroMQ does none of
that on a connection that lives, so a connection that has lost a message or its order is found to be broken some time
later. On both networks no tree is ever completed falsely and no root is lost. On the first, the acker's last net has
nothing to catch.
"""

from tests.simulation.machine import long, short
from tests.simulation.network import Faults
from tests.simulation.test_parts import WORKERS, ProducersDie, WorkersDie


class Whole(WorkersDie, ProducersDie):
    """Anything may die at any time."""

    victims = (*WORKERS, "acker", "broker", "feed")
    fails = 0.1


class HostileNetwork(Whole):
    """The network loses, repeats and reorders messages of every kind."""

    faults = Faults(lose=0.01, repeat=0.1, reorder=0.1)

    def judge(self) -> None:
        """What was lost in a connection that has not broken yet may be caught by the last net."""


class Repeating(Whole):
    """The network repeats messages of every kind."""

    faults = Faults(repeat=0.1)


TestWhole = short(Whole, 20, 30)
TestRepeating = short(Repeating, 20, 30)
TestHostileNetwork = short(HostileNetwork, 20, 30)
TestWholeLong = long(Whole, 150, 60)
TestRepeatingLong = long(Repeating, 80, 60)
TestHostileNetworkLong = long(HostileNetwork, 150, 60)
