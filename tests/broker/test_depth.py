"""How many items an edge has: those in its queue and those in the custody of receivers."""

from consecutiond_broker.cell import Remains
from consecutiond_broker.edge import Batch, Edge

DOWN, UP = b"down:a.0", b"up:in.0"


def edge(limit: int = 100) -> Edge:
    made = Edge(100)
    made.join_source(UP, 1)
    admitted = made.join_receiver(DOWN, 1, ())
    assert admitted is not None
    admitted[0].limit = limit
    return made


def fill(made: Edge, *counts: int, partition: int = -1) -> None:
    for count in counts:
        sequence = made.sources[UP].accepted + 1
        assert made.offer(UP, sequence, Batch(1, count, [b""], partition=partition))


def test_items_move_from_the_queue_into_custody_and_are_gone_when_settled() -> None:
    made = edge(limit=1)
    assert made.items == (0, 0)
    fill(made, 3, 5)
    fill(made, 7, partition=9)
    assert made.items == (15, 0)
    [(peer, sequence, _)] = made.dispatch()
    assert made.items == (12, 3)
    made.settle(peer, sequence)
    assert made.items == (12, 0)


def test_of_a_batch_that_is_held_only_what_is_not_over_counts() -> None:
    made = edge()
    fill(made, 4)
    [(peer, sequence, _)] = made.dispatch()
    made.park(peer, sequence, (0, 2))
    assert made.items == (0, 2)


def test_the_suspect_of_a_crash_is_not_in_the_queue_again() -> None:
    made = edge()
    fill(made, 4)
    [(_, sequence, _)] = made.dispatch()
    made.bury(DOWN, Remains(delivery=sequence, position=1, outputs=0))
    assert made.items == (3, 0)
