"""The last net: it never calls a root lost while anything could still hold a part of its tree."""

from consecutiond.acker.backstop import QUIET_S, Backstop

EDGES = frozenset({"in->a", "a->b"})


def asked(net: Backstop, now: float, progress: int = 1) -> int:
    number = net.ask(progress, now)
    assert number is not None
    return number


def quiet_net(now: float = 0.0) -> Backstop:
    net = Backstop(EDGES)
    assert net.ask(1, now) is None
    return net


def answered(net: Backstop, number: int, activity: int = 5, left: int = 0) -> list[bool]:
    return [net.answer(edge, number, left, activity) for edge in sorted(EDGES)]


def test_nobody_is_asked_before_it_was_quiet_for_long_enough() -> None:
    net = quiet_net()
    assert net.ask(1, QUIET_S - 0.01) is None
    assert net.ask(1, QUIET_S) is not None


def test_progress_starts_the_quiet_time_anew() -> None:
    net = quiet_net()
    assert net.ask(2, QUIET_S) is None
    assert net.ask(2, 2 * QUIET_S - 0.01) is None
    assert net.ask(2, 2 * QUIET_S) is not None


def test_two_looks_at_idle_brokers_that_did_not_move_mean_lost() -> None:
    net = quiet_net()
    assert answered(net, asked(net, QUIET_S)) == [False, False]
    assert answered(net, asked(net, 2 * QUIET_S)) == [False, True]


def test_a_batch_that_moved_between_two_looks_is_not_lost() -> None:
    """It may have gone from a broker that had not answered yet to one that had."""
    net = quiet_net()
    answered(net, asked(net, QUIET_S), activity=5)
    assert answered(net, asked(net, 2 * QUIET_S), activity=6) == [False, False]
    assert answered(net, asked(net, 3 * QUIET_S), activity=6) == [False, True]


def test_a_broker_that_holds_something_spoils_the_look_and_the_one_before() -> None:
    net = quiet_net()
    answered(net, asked(net, QUIET_S))
    number = asked(net, 2 * QUIET_S)
    assert not net.answer("a->b", number, 1, 5)
    assert not net.answer("in->a", number, 0, 5)
    assert not net.answer("a->b", number, 0, 5)
    assert answered(net, asked(net, 3 * QUIET_S)) == [False, False]


def test_progress_between_two_looks_spoils_the_first() -> None:
    net = quiet_net()
    answered(net, asked(net, QUIET_S))
    assert net.ask(2, QUIET_S + 1) is None
    assert answered(net, asked(net, 2 * QUIET_S + 1, progress=2)) == [False, False]


def test_every_broker_has_to_answer() -> None:
    net = quiet_net()
    answered(net, asked(net, QUIET_S))
    number = asked(net, 2 * QUIET_S)
    assert not net.answer("a->b", number, 0, 5)
    assert not net.answer("a->b", number, 0, 5)


def test_an_answer_to_an_older_question_does_not_count() -> None:
    net = quiet_net()
    old = asked(net, QUIET_S)
    answered(net, old)
    new = asked(net, 2 * QUIET_S)
    assert answered(net, old) == [False, False]
    assert answered(net, new) == [False, True]
