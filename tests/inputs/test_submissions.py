"""Values of many callers on few batches: nobody waits for anybody, and everybody hears of the end of their own."""

import threading
from typing import Any

import msgspec
import pytest

from consecutiond.feeder import BadValueError, Feeder, GoneError
from consecutiond.submissions import Submission, Submissions
from consecutiond_broker import codec
from consecutiond_broker.errors import ConsecutiondError
from consecutiond_broker.recorder import RefusedError
from tests.inputs.acker import FakeAcker, until

encode = msgspec.msgpack.encode


class Ends(list[tuple[ConsecutiondError | None, int | None]]):
    """Keeps what `done` is called with."""

    def __call__(self, error: ConsecutiondError | None, first: int | None) -> None:
        self.append((error, first))


# --- the queue ----------------------------------------------------------------------------------------------------


def queue_of(*values: Any, batch_items: int = 100, batch_bytes: int = 1000) -> Submissions:
    queue = Submissions(batch_items, batch_bytes)
    for value in values:
        queue.add(Submission(encode(value), 1, Ends()))
    return queue


@pytest.mark.parametrize("count", [1, 15, 16, 65535, 65536])
def test_a_batch_is_an_array_of_the_encodings_as_they_were_given(count: int) -> None:
    queue = Submissions(100_000, 1 << 30)
    for number in range(count):
        queue.add(Submission(encode(number), 1, Ends()))
    body, taken = queue.take()
    assert len(taken) == count
    assert codec.decode(body) == list(range(count))
    assert codec.headless(codec.encode(list(range(count))), count) == b"".join(map(encode, range(count)))


def test_a_batch_has_no_more_values_and_bytes_than_are_aimed_at() -> None:
    queue = queue_of(*range(5), batch_items=2)
    assert [len(queue.take()[1]) for _ in range(3)] == [2, 2, 1]
    queue = queue_of(b"x" * 60, b"x" * 60, b"x" * 500, b"x", batch_bytes=130)
    assert [len(queue.take()[1]) for _ in range(3)] == [2, 1, 1], "one that is larger goes alone"
    assert len(queue) == queue.values == 0


def test_what_is_pending_counts_until_its_end() -> None:
    queue = queue_of(b"x" * 50, b"x" * 50)
    before = queue.pending_bytes
    assert before > 100
    _, taken = queue.take()
    assert queue.pending_bytes == before
    queue.finish(taken, None, 1)
    assert queue.pending_bytes == 0


def test_each_is_told_its_own_position() -> None:
    queue, ends = Submissions(100, 1000), [Ends(), Ends(), Ends()]
    for count, end in zip((2, 3, 1), ends, strict=True):
        queue.add(Submission(b"\x01" * count, count, end))
    _, taken = queue.take()
    queue.finish(taken, None, 70)
    assert ends == [[(None, 70)], [(None, 72)], [(None, 75)]]


def test_a_callback_that_raises_does_not_keep_the_news_from_the_others() -> None:
    def bad(_error: object, _first: object) -> None:
        raise ZeroDivisionError

    queue, end = Submissions(100, 1000), Ends()
    queue.add(Submission(b"\x01", 1, bad))
    queue.add(Submission(b"\x02", 1, end))
    queue.finish(queue.take()[1], None, 5)
    assert end == [(None, 6)]


# --- the feeder ---------------------------------------------------------------------------------------------------


def test_a_submission_is_recorded_and_then_told_where(acker: FakeAcker, feeder: Feeder) -> None:
    end = Ends()
    acker.position = 41
    feeder.submit(encode("a") + encode("b"), 2, end)
    until(lambda: end)
    assert acker.batches == [["a", "b"]]
    assert end == [(None, 41)]


def test_submissions_of_many_callers_share_batches(acker: FakeAcker, feeder: Feeder) -> None:
    acker.silent = True
    ends = [Ends() for _ in range(64)]
    feeder.submit(encode(0), 1, ends[0])
    until(lambda: acker.batches)
    for number in range(1, 64):
        feeder.submit(encode(number), 1, ends[number])
    acker.release()
    until(lambda: all(ends))
    assert acker.values == list(range(64))
    assert len(acker.batches) == 2, "the first went alone, since nothing was on its way"
    assert [end[0][1] for end in ends] == list(range(1, 65))


def test_pushes_from_many_threads_share_batches(acker: FakeAcker, feeder: Feeder) -> None:
    acker.silent = True
    threads = [threading.Thread(target=feeder.push_many, args=([number],)) for number in range(20)]
    for thread in threads:
        thread.start()
    until(lambda: feeder.handed == 20)
    acker.release()
    for thread in threads:
        thread.join(30)
    assert sorted(acker.values) == list(range(20))
    assert len(acker.batches) < 10


def test_submit_does_not_block_while_receipts_are_withheld_and_says_that_there_is_no_room(
    acker: FakeAcker, feeder: Feeder
) -> None:
    acker.withholding = True
    ends = [Ends() for _ in range(3)]
    assert not feeder.full
    feeder.submit(encode(1), 1, ends[0])
    until(lambda: feeder.full)
    feeder.submit(encode(2), 1, ends[1])
    assert not any(ends)
    acker.release()
    until(lambda: ends[1])
    assert not feeder.full


def test_too_many_bytes_without_a_receipt_leave_no_room(acker: FakeAcker, feeder: Feeder) -> None:
    acker.silent = True
    for _ in range(40):
        feeder.submit(encode(b"x" * (1 << 20)), 1, Ends())
    assert feeder.full
    acker.release()
    until(lambda: not feeder.full)


def test_whoever_waits_is_told_when_the_consecutor_takes_no_more(acker: FakeAcker, feeder: Feeder) -> None:
    acker.silent = True
    sent, queued = Ends(), Ends()
    feeder.submit(encode(1), 1, sent)
    until(lambda: acker.batches)
    feeder.submit(encode(2), 1, queued)
    acker.refuse("it is being stopped")
    until(lambda: sent and queued)
    for end in (sent, queued):
        assert isinstance(end[0][0], RefusedError)
    assert "may be recorded or not" in str(sent[0][0]), "that one was on its way"
    assert str(queued[0][0]) == "it is being stopped", "that one never left"
    with pytest.raises(RefusedError):
        feeder.submit(encode(3), 1, Ends())


def test_a_receipt_that_comes_after_the_refusal_still_counts(
    acker: FakeAcker, feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consecutiond.feeder._GRACE_S", 60.0)
    acker.silent = True
    end = Ends()
    feeder.submit(encode(1), 1, end)
    until(lambda: acker.batches)
    acker.refuse("it is being stopped")
    until(lambda: feeder.error)
    # Time for the feeder to look, as it does five times a second.
    until(lambda before=feeder._next_look: feeder._next_look > before + 0.4)
    assert not end
    acker.release()
    until(lambda: end)
    assert end == [(None, 1)]


def test_whoever_waits_is_told_when_the_consecutor_is_gone(acker: FakeAcker, feeder: Feeder) -> None:
    acker.silent = True
    end = Ends()
    feeder.submit(encode(1), 1, end)
    acker.alive = False
    until(lambda: end)
    assert isinstance(end[0][0], GoneError)


def test_whoever_waits_is_told_when_the_feeder_is_closed(acker: FakeAcker) -> None:
    feeder, end = acker.feeder(), Ends()
    acker.silent = True
    feeder.submit(encode(1), 1, end)
    feeder.close()
    assert isinstance(end[0][0], GoneError)
    with pytest.raises(GoneError):
        feeder.submit(encode(1), 1, end)


def test_nothing_of_a_push_is_sent_when_one_value_cannot_be_carried(acker: FakeAcker, feeder: Feeder) -> None:
    values: list[Any] = list(range(3000))
    values[2500] = object()
    with pytest.raises(BadValueError, match="value number 2501 is object") as caught:
        feeder.push_many(values)
    assert caught.value.index == 2500
    feeder.push_many(["after"])
    assert acker.values == ["after"]


def test_a_push_of_large_values_is_cut_into_batches_that_the_acker_takes(acker: FakeAcker) -> None:
    feeder = acker.feeder(batch_bytes=1000)
    feeder.push_many([b"x" * 900] * 50)
    feeder.close()
    assert acker.values == [b"x" * 900] * 50
    assert all(len(codec.encode(batch)) <= 4100 for batch in acker.batches)


def test_a_value_that_is_too_large_is_refused_by_number(acker: FakeAcker, feeder: Feeder) -> None:
    with pytest.raises(BadValueError, match=r"value number 2 takes 5,\d\d\d,\d\d\d bytes, more than max_message"):
        feeder.push_many([1, b"x" * (5 << 20)])
    assert acker.values == []
