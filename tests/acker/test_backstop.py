"""The last net: it never calls a root lost while anything could still hold a part of its tree."""

from consecutiond.acker.backstop import ENDING_S, PATIENCE_S, QUIET_S, Backstop, Verdict

EDGES = frozenset({"in->a", "a->b"})


def asked(net: Backstop, now: float, progress: int = 1) -> int:
    number = net.ask(progress, now)
    assert number is not None
    return number


def quiet_net(now: float = 0.0) -> Backstop:
    net = Backstop(EDGES)
    assert net.ask(1, now) is None
    return net


def answered(net: Backstop, number: int, activity: int = 5, left: int = 0, parked: int = 0) -> list[Verdict]:
    return [net.answer(edge, number, left, activity, parked) for edge in sorted(EDGES)]


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
    assert answered(net, asked(net, QUIET_S)) == [Verdict.NOTHING, Verdict.NOTHING]
    assert answered(net, asked(net, 2 * QUIET_S)) == [Verdict.NOTHING, Verdict.LOST]


def test_a_batch_that_moved_between_two_looks_is_not_lost() -> None:
    """It may have gone from a broker that had not answered yet to one that had."""
    net = quiet_net()
    answered(net, asked(net, QUIET_S), activity=5)
    assert answered(net, asked(net, 2 * QUIET_S), activity=6) == [Verdict.NOTHING, Verdict.NOTHING]
    assert answered(net, asked(net, 3 * QUIET_S), activity=6) == [Verdict.NOTHING, Verdict.LOST]


def test_a_broker_that_holds_something_spoils_the_look_and_the_one_before() -> None:
    net = quiet_net()
    answered(net, asked(net, QUIET_S))
    number = asked(net, 2 * QUIET_S)
    assert net.answer("a->b", number, 1, 5) is Verdict.NOTHING
    assert net.answer("in->a", number, 0, 5) is Verdict.NOTHING
    assert net.answer("a->b", number, 0, 5) is Verdict.NOTHING
    assert answered(net, asked(net, 3 * QUIET_S)) == [Verdict.NOTHING, Verdict.NOTHING]


def test_progress_between_two_looks_spoils_the_first() -> None:
    net = quiet_net()
    answered(net, asked(net, QUIET_S))
    assert net.ask(2, QUIET_S + 1) is None
    assert answered(net, asked(net, 2 * QUIET_S + 1, progress=2)) == [Verdict.NOTHING, Verdict.NOTHING]


def test_every_broker_has_to_answer() -> None:
    net = quiet_net()
    answered(net, asked(net, QUIET_S))
    number = asked(net, 2 * QUIET_S)
    assert net.answer("a->b", number, 0, 5) is Verdict.NOTHING
    assert net.answer("a->b", number, 0, 5) is Verdict.NOTHING


def test_an_answer_to_an_older_question_does_not_count() -> None:
    net = quiet_net()
    old = asked(net, QUIET_S)
    answered(net, old)
    new = asked(net, 2 * QUIET_S)
    assert answered(net, old) == [Verdict.NOTHING, Verdict.NOTHING]
    assert answered(net, new) == [Verdict.NOTHING, Verdict.LOST]


def test_when_only_held_items_are_left_two_looks_say_so_and_nothing_is_lost() -> None:
    net = quiet_net()
    assert answered(net, asked(net, QUIET_S), parked=1) == [Verdict.NOTHING, Verdict.NOTHING]
    assert answered(net, asked(net, 2 * QUIET_S), parked=1) == [Verdict.NOTHING, Verdict.HELD]


def test_an_item_that_was_parked_between_two_looks_moved() -> None:
    net = quiet_net()
    answered(net, asked(net, QUIET_S), parked=0)
    assert answered(net, asked(net, 2 * QUIET_S), parked=1) == [Verdict.NOTHING, Verdict.NOTHING]


def test_a_graph_that_is_about_to_end_is_asked_sooner() -> None:
    net = quiet_net()
    assert net.ask(1, ENDING_S, ENDING_S) is not None


def test_answers_that_take_longer_than_the_quiet_time_are_waited_for() -> None:
    """Busy brokers would otherwise always answer a question that is not asked any more, and no end would come."""
    net = quiet_net()
    number = asked(net, QUIET_S)
    net.answer("in->a", number, 0, 5)
    assert net.ask(1, QUIET_S + 2 * ENDING_S, ENDING_S) is None
    net.answer("a->b", number, 0, 5)
    assert net.ask(1, QUIET_S + 2 * ENDING_S, ENDING_S) is not None


def test_a_broker_that_never_answers_is_asked_again() -> None:
    net = quiet_net()
    number = asked(net, QUIET_S)
    assert net.ask(1, QUIET_S + PATIENCE_S, ENDING_S) == number + 1
