"""One request, one answer: whoever asks a heart waits no longer than it makes sense, and hears why."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from consecutiond.control import ControlError, ask
from consecutiond_broker import wire

PATIENCE_S = 20.0


class FakeHeart(threading.Thread):
    """Answers requests with what the test says, from the n-th on."""

    def __init__(self, uri: str, answer: list[bytes] | None, ignore: int = 0) -> None:
        super().__init__(daemon=True)
        self.uri, self.answer, self.ignore = uri, answer, ignore
        self.heard: list[wire.Head] = []
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.setsockopt(zmq.LINGER, 1000)
            router.bind(self.uri)
            while not self.over.is_set():
                if not router.poll(20):
                    continue
                peer, *frames = router.recv_multipart()
                self.heard.append(wire.unpack(frames))
                if self.answer is not None and len(self.heard) > self.ignore:
                    router.send_multipart([peer, *self.answer])


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/control"


@pytest.fixture
def hearts() -> Iterator[list[FakeHeart]]:
    started: list[FakeHeart] = []
    yield started
    for heart in started:
        heart.over.set()
        heart.join()


def answer(body: bytes = b"{}", error: str = "") -> list[bytes]:
    return [wire.pack(wire.Answer(1, error, body))]


def test_the_answer_is_what_the_heart_says(uri: str, hearts: list[FakeHeart]) -> None:
    hearts.append(FakeHeart(uri, answer(b'{"ready":true}')))
    assert ask(uri, "wait", PATIENCE_S) == {"ready": True}
    assert hearts[0].heard[0] == wire.Ask(1, "wait", b"")


def test_an_error_of_the_heart_is_raised_with_its_text(uri: str, hearts: list[FakeHeart]) -> None:
    hearts.append(FakeHeart(uri, answer(error="node-a.0 could not start")))
    with pytest.raises(ControlError, match=r"^node-a\.0 could not start$"):
        ask(uri, "wait", PATIENCE_S)


def test_a_request_is_repeated_so_that_a_new_heart_hears_it(uri: str, hearts: list[FakeHeart]) -> None:
    """The first heart took it to its grave."""
    hearts.append(FakeHeart(uri, answer(), ignore=1))
    assert ask(uri, "stop", PATIENCE_S) == {}
    assert len(hearts[0].heard) == 2


def test_a_heart_that_is_not_there_yet_is_waited_for(uri: str, hearts: list[FakeHeart]) -> None:
    asked: list[object] = []
    client = threading.Thread(target=lambda: asked.append(ask(uri, "wait", PATIENCE_S)))
    client.start()
    hearts.append(FakeHeart(uri, answer()))
    client.join()
    assert asked == [{}]


def test_no_answer_in_time_is_an_error_that_names_request_and_socket(uri: str) -> None:
    with pytest.raises(ControlError, match=rf"'status' within 0\.1 s \(control socket {uri}\)"):
        ask(uri, "status", 0.1)


def test_nobody_waits_for_a_consecutor_that_has_ended(uri: str) -> None:
    """The time-out is longer than the hang guard: only the look at the root can end this."""
    looks = iter([True, False])
    with pytest.raises(ControlError, match="ended before it had answered to 'wait'"):
        ask(uri, "wait", 3600, lambda: next(looks))


@pytest.mark.parametrize(
    "frames", [[b"rubbish"], [wire.pack(wire.Drain("x"))], answer(b"no json"), answer(b"[]"), answer(b"")]
)
def test_an_answer_that_is_none_is_an_error_of_ours(uri: str, hearts: list[FakeHeart], frames: list[bytes]) -> None:
    hearts.append(FakeHeart(uri, frames))
    with pytest.raises(ControlError):
        ask(uri, "status", PATIENCE_S)
