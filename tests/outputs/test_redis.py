"""The Redis output against real servers: every item once, whatever the server does."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from consecutiond import RedisOutput
from consecutiond.outputs import redis as module
from consecutiond.outputs.redis import RedisOutputError
from tests.redis_server import RedisServer

Make = Callable[..., RedisServer]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make servers of the test's own."""
    made: list[RedisServer] = []

    def one(**settings: str) -> RedisServer:
        made.append(RedisServer(tmp_path / f"redis{len(made)}", **settings))
        return made[-1].start()

    yield one
    for server in made:
        server.close()


@pytest.fixture
def key(tmp_path: Path) -> str:
    return f"out-{tmp_path.name}"


def put(output: RedisOutput, *items: tuple[int, Any]) -> None:
    output.put_many([key for key, _ in items], [value for _, value in items])
    output.flush()


def values(server: RedisServer, key: str) -> list[bytes]:
    found: list[bytes] = server.client().lrange(key, 0, -1)
    return found


def test_a_list_has_every_item_once_in_order_whichever_batch_it_came_in(redis_server: RedisServer, key: str) -> None:
    with closing(RedisOutput(redis_server.url(), key)) as output:
        put(output, (1, "é"), (2**64 - 1, {"k": [1]}), (1, "é"))
        put(output, (1, "é"), (3, None))
    with closing(RedisOutput(redis_server.url(), key)) as output:
        put(output, (3, None), (2**64 - 1, {"k": [1]}))
        output.put(4, 4)
        output.flush()
    assert values(redis_server, key) == ['"é"'.encode(), b'{"k":[1]}', b"null", b"4"]
    assert redis_server.client().zcard(f"{{{key}}}:keys") == 4


def test_a_stream_has_every_item_once(redis_server: RedisServer, key: str) -> None:
    with closing(RedisOutput(redis_server.url(), key, "stream")) as output:
        put(output, (1, "a"), (2, "b"))
        put(output, (2, "b"), (3, "c"))
    entries = [fields for _, fields in redis_server.client().xrange(key)]
    assert entries == [{b"value": b'"a"'}, {b"value": b'"b"'}, {b"value": b'"c"'}]


def test_a_large_batch_goes_in_several_scripts(redis_server: RedisServer, key: str) -> None:
    with closing(RedisOutput(redis_server.url(), key)) as output:
        for _ in range(2):
            put(output, *((number, number) for number in range(1, 4501)))
    assert values(redis_server, key) == [str(number).encode() for number in range(1, 4501)]


def test_values_without_keys_are_never_left_out(redis_server: RedisServer, key: str) -> None:
    with closing(RedisOutput(redis_server.url(), key)) as output:
        for _ in range(2):
            output.append("x")
        output.flush()
    assert values(redis_server, key) == [b'"x"', b'"x"']


def test_two_outputs_of_one_server_keep_their_keys_apart(redis_server: RedisServer, key: str) -> None:
    for name in (key, f"{key}-other", f"{{{key}}}tagged"):
        with closing(RedisOutput(redis_server.url(), name)) as output:
            put(output, (1, name))
        assert len(values(redis_server, name)) == 1
    assert redis_server.client().exists(f"{{{key}}}tagged:keys")


def test_keys_are_forgotten_some_time_after_they_came_last(
    redis_server: RedisServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr(module.time, "time", lambda: now)
    with closing(RedisOutput(redis_server.url(), key, keep_s=100)) as output:
        put(output, (1, 1), (2, 2))
        now += 90
        put(output, (2, 2))
        now += 90
        put(output, (3, 3))
        assert redis_server.client().zcard(f"{{{key}}}:keys") == 2
        put(output, (2, 2), (1, 1))
    assert values(redis_server, key) == [b"1", b"2", b"3", b"1"]


def test_a_server_that_is_restarted_meanwhile_is_waited_for(make: Make) -> None:
    server = make()
    with closing(RedisOutput(server.url(), "out")) as output:
        put(output, (1, 1))
        server.kill()
        server.start(wait=False)
        put(output, (1, 1), (2, 2))
        server.client().script_flush()
        put(output, (2, 2), (3, 3))
    assert values(server, "out") == [b"1", b"2", b"3"]


def test_a_server_that_stays_away_fails_the_batch_which_is_taken_when_it_comes_again(make: Make) -> None:
    server = make()
    with closing(RedisOutput(server.url(), "out", patience_s=0.2)) as output:
        put(output, (1, 1))
        server.kill()
        with pytest.raises(RedisOutputError, match=r"the output at unix://.* the server is down"):
            put(output, (2, 2))
        server.start()
        put(output, (1, 1), (2, 2))
    assert values(server, "out") == [b"1", b"2"]


def test_an_answer_that_is_lost_makes_nothing_come_twice(make: Make) -> None:
    """The server takes the batch after its client has given up."""
    server = make()
    with closing(RedisOutput(f"{server.url()}?socket_timeout=0.2", "out", patience_s=60)) as output:
        put(output, (1, 1))
        server.client().execute_command("CLIENT", "PAUSE", "1000", "WRITE")
        put(output, (2, 2), (3, 3))
    assert values(server, "out") == [b"1", b"2", b"3"]


def test_a_full_server_takes_nothing_of_a_batch_and_everything_later(make: Make) -> None:
    server = make(maxmemory="3mb")
    with closing(RedisOutput(server.url(), "out", patience_s=0.1)) as output:
        put(output, (1, 1))
        server.client().config_set("maxmemory", "1mb")
        with pytest.raises(RedisOutputError, match="has used all of its `maxmemory`"):
            put(output, (1, 1), (2, 2))
        assert (values(server, "out"), server.client().zcard("{out}:keys")) == ([b"1"], 1)
        server.client().config_set("maxmemory", "0")
        put(output, (1, 1), (2, 2))
    assert values(server, "out") == [b"1", b"2"]


@pytest.mark.parametrize("taken", ["out", "{out}:keys"])
def test_a_key_of_another_type_is_told_at_once_and_nothing_is_written(make: Make, taken: str) -> None:
    server = make()
    server.client().set(taken, "mine")
    with closing(RedisOutput(server.url(), "out", patience_s=1000)) as output:
        with pytest.raises(RedisOutputError, match=f"WRONGTYPE {taken} is a string and no"):
            put(output, (1, 1))
        server.client().delete(taken)
        put(output, (1, 1))
    assert values(server, "out") == [b"1"]


def test_a_user_without_the_right_to_note_keys_loses_nothing(make: Make) -> None:
    server = make()
    server.client().execute_command("ACL", "SETUSER", "default", "-zadd")
    with closing(RedisOutput(server.url(), "out", patience_s=1000)) as output:
        with pytest.raises(RedisOutputError, match=r"does not take what was written: .*(user|permission)"):
            put(output, (1, 1), (2, 2))
        server.client().execute_command("ACL", "SETUSER", "default", "+zadd")
        put(output, (1, 1), (2, 2))
    assert {b"1", b"2"} <= set(values(server, "out"))


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("http://x", "k"), {}, "is no URL of a Redis server"),
        (("redis://:secret@x", ""), {}, "a key that is not empty"),
        (("redis://x", "k", "set"), {}, '"list" or a "stream"'),
        (("redis://x", "k"), {"keep_s": 0}, "keep_s is more than 0"),
        (("redis://x", "k"), {"patience_s": -1}, "patience_s at least 0"),
    ],
)
def test_wrong_arguments_are_told(arguments: tuple[Any, ...], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RedisOutput(*arguments, **options)


def test_the_password_is_in_no_error() -> None:
    output = RedisOutput("redis://:secret@127.0.0.1:1/0", "out", patience_s=0)
    with pytest.raises(RedisOutputError) as caught:
        put(output, (1, 1))
    assert "secret" not in str(caught.value)


def test_redis_is_imported_when_it_is_needed() -> None:
    code = (
        "import sys; from consecutiond import RedisOutput; RedisOutput('redis://x', 'k'); print('redis' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
