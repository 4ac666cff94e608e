"""The world with faults in one kind of part at a time: acker, workers, brokers, producers."""

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.simulation.machine import Simulation, long, short
from tests.simulation.processes import Process


class AckerDies(Simulation):
    """The acker is killed between any two messages and any two steps of its store."""

    victims = ("acker",)


WORKERS = ("a.", "b.", "c.", "d.")


class WorkersDie(Simulation):
    """Workers are killed between messages and in the middle of items, end in order, and start beside one that lives."""

    victims = WORKERS

    def draw_worker(self, data: st.DataObject) -> Process | None:
        found = self.living(lambda process: process.name.startswith(WORKERS) and not process.busy)
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data())
    def kill_in_the_middle_of_an_item(self, data: st.DataObject) -> None:
        victim = self.draw_worker(data)
        if victim is not None:
            victim.doomed = True

    @rule(data=st.data())
    def end_in_order(self, data: st.DataObject) -> None:
        victim = self.draw_worker(data)
        if victim is not None:
            self.world.stop(victim)

    @rule(data=st.data())
    def start_a_second_instance(self, data: st.DataObject) -> None:
        victim = self.draw_worker(data)
        if victim is not None and victim.name not in {each.name for each in self.world.zombies}:
            self.world.clash(victim.name)


class BrokersDie(Simulation):
    """Brokers are killed between any two messages."""

    victims = ("broker",)


class ProducersDie(Simulation):
    """Producers are killed with batches on their way; others come."""

    victims = ("feed",)
    fails = 0.0

    @rule()
    def another_producer_comes(self) -> None:
        if len(self.world.feeds) < 5:
            self.world.start_feed()


TestAckerDies = short(AckerDies, 15, 25)
TestWorkersDie = short(WorkersDie, 15, 25)
TestBrokersDie = short(BrokersDie, 15, 25)
TestProducersDie = short(ProducersDie, 15, 25)
TestAckerDiesLong = long(AckerDies, 40, 50)
TestWorkersDieLong = long(WorkersDie, 40, 50)
TestBrokersDieLong = long(BrokersDie, 40, 50)
TestProducersDieLong = long(ProducersDie, 40, 50)
