"""The Redis store against real servers that go away, hang, fill up, lose their data or are somebody else's."""

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from consecutiond.acker.committer import Committer
from consecutiond.acker.stores import NoStoreError, StoreError, guarantee, open_store, read_only, redislink, redisreader
from consecutiond.acker.stores.base import Append, Changes, Chunk, Failed, Origin, Retained, StoreFullError
from consecutiond.acker.stores.numbered import LogLostError
from consecutiond.acker.stores.redis import RedisStore
from consecutiond.acker.stores.redisreader import FORMER_VERSION, SCHEMA_VERSION
from tests.redis_server import RedisServer, free_port

Make = Callable[..., RedisServer]


def append(id: int, body: bytes = b"values") -> Append:
    return Append(Chunk(id, id, 1, ("in",), body), Origin(b"producer", id))


def row(position: int) -> Failed:
    return Failed(position, 1, ("in",), b"v", 0.0, "parse", "raised", "no", "", 0.0)


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
def name(tmp_path: Path) -> str:
    return tmp_path.name


@pytest.fixture
def store(redis_server: RedisServer, name: str) -> Iterator[RedisStore]:
    with closing(RedisStore(redis_server.url(name), "durable")) as store:
        store.open()
        yield store


def key(name: str, table: str) -> str:
    return f"{{consecutiond:{name}}}:{table}"


# The keys.


def test_all_keys_of_a_log_have_one_hash_tag_and_their_number_does_not_grow(
    redis_server: RedisServer, store: RedisStore, name: str
) -> None:
    for id in range(1, 40):
        store.commit(Changes(appends=[append(id)], done={id: b"\x01"}, waiting=[row(id)], dead=[row(id)]))
    keys = redis_server.client().keys(f"*{name}*")
    assert len(keys) == 6
    assert all(each.startswith(f"{{consecutiond:{name}}}:".encode()) for each in keys)


def test_what_is_over_leaves_nothing_behind(redis_server: RedisServer, store: RedisStore, name: str) -> None:
    store.commit(Changes(appends=[append(1)], done={1: b"\x00"}))
    store.commit(Changes(done={1: None}, completed=1, forget=[b"producer"]))
    assert redis_server.client().keys(f"*{name}*") == [key(name, "log").encode()]


def test_numbers_beyond_the_doubles_of_sorted_sets_are_told_apart_and_in_order(store: RedisStore) -> None:
    large = 2**60
    store.commit(Changes(appends=[append(large + step) for step in range(4)]))
    assert [each.chunk.id for each in store.open_chunks(large, 2)] == [large + 1, large + 2]


def test_two_logs_on_one_server_know_nothing_of_each_other(redis_server: RedisServer, store: RedisStore) -> None:
    store.commit(Changes(appends=[append(1)]))
    with closing(open_store(redis_server.url("another"), "durable")) as another:
        assert another.totals().accepted == 0


# Who may write.


def test_an_acker_whose_log_was_opened_by_another_writes_nothing_more(
    redis_server: RedisServer, store: RedisStore, name: str
) -> None:
    store.commit(Changes(appends=[append(1)]))
    with closing(open_store(redis_server.url(name), "durable")) as second:
        with pytest.raises(StoreError, match=r"opened by another acker.*\?prefix=NAME"):
            store.commit(Changes(appends=[append(2)]))
        second.commit(Changes(appends=[append(2)]))
        assert second.totals().accepted == 2


def test_a_group_that_another_overtakes_is_looked_at_anew(
    redis_server: RedisServer, store: RedisStore, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was looked at is changed before the transaction: the server must not run it."""
    execute, client = store._execute, redis_server.client()

    def meddled(commands: list[redislink.Command]) -> bool:
        monkeypatch.setattr(store, "_execute", execute)
        client.hset(key(name, "log"), "next_chunk", 5)
        return execute(commands)

    monkeypatch.setattr(store, "_execute", meddled)
    with pytest.raises(StoreError, match="goes on at chunk 5"):
        store.commit(Changes(appends=[append(1)]))
    assert store.open_chunks() == []


def test_reading_changes_nothing_and_works_beside_the_acker(
    redis_server: RedisServer, store: RedisStore, name: str
) -> None:
    with closing(read_only(redis_server.url(name))) as reader:
        store.commit(Changes(appends=[append(1)]))
        assert reader.totals().accepted == 1
        store.commit(Changes(appends=[append(2)]))
    with pytest.raises(NoStoreError, match="nothing was ever started"):
        read_only(redis_server.url("nobody"))
    assert redis_server.client().keys("*nobody*") == []


# Connections that break, and answers that are lost.


def test_a_group_whose_answer_was_lost_is_applied_once(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after the server has the transaction and before its answer is read."""
    group = Changes(appends=[append(1)], waiting=[row(1)], completed=1)
    send = redislink.Link.send

    def lost(link: redislink.Link, *commands: redislink.Command) -> list[object]:
        answers = send(link, *commands)
        if commands[0] == ("MULTI",):
            link.close()
            raise StoreError("Connection closed")
        return answers

    monkeypatch.setattr(redislink.Link, "send", lost)
    with pytest.raises(StoreError, match="Connection closed"):
        store.commit(group)
    monkeypatch.undo()
    assert store.totals().accepted == 1
    store.commit(group)
    assert (store.totals().accepted, store.totals().completed, store.next_chunk()) == (1, 1, 2)
    # A group that looks the same and is another one counts.
    store.commit(Changes(completed=-1))
    store.commit(Changes(completed=-1))
    assert store.totals().completed == -1


def test_a_server_that_hangs_takes_a_group_once_though_it_is_sent_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redislink, "_TIMEOUT_S", 0.3)
    server = make()
    with closing(open_store(server.url("log"), "durable")) as store:
        group = Changes(appends=[append(1)], completed=1)
        server.pause()
        for _ in range(2):
            with pytest.raises(StoreError, match=r"Timeout.*hangs"):
                store.commit(group)
        server.resume()
        server.wait()
        store.commit(group)
        store.commit(Changes(appends=[append(2)]))
        assert (store.totals().accepted, store.totals().completed) == (2, 1)


def test_a_server_that_is_killed_and_started_again_has_every_group_that_returned(make: Make) -> None:
    server = make()
    with closing(open_store(server.url("log"), "durable")) as store:
        for id in range(1, 60):
            store.commit(Changes(appends=[append(id, b"x" * 10_000)]))
            if id % 20 == 0:
                server.kill()
                with pytest.raises(StoreError, match=r"server is down.*start it"):
                    store.commit(Changes(appends=[append(id + 1)]))
                server.start()
        assert [each.chunk.id for each in store.open_chunks()] == list(range(1, 60))


def test_an_idle_connection_that_the_server_ended_is_no_trouble(store: RedisStore, redis_server: RedisServer) -> None:
    redis_server.client().execute_command("CLIENT", "KILL", "TYPE", "normal")
    store.commit(Changes(appends=[append(1)]))
    redis_server.client().execute_command("CLIENT", "KILL", "TYPE", "normal")
    assert store.totals().accepted == 1


def test_the_committer_tells_the_trouble_and_goes_on_when_the_server_is_back(make: Make) -> None:
    server = make()
    committer = Committer(lambda: open_store(server.url("log"), "durable"))
    try:
        server.kill()
        done = threading.Event()
        committer.commit(Changes(appends=[append(1)]), lambda _totals: done.set())
        while not committer.trouble:
            done.wait(0.01)
        assert "server is down" in committer.trouble
        assert not done.is_set()
        server.start()
        while not done.wait(0.01):
            committer.finish()
        assert committer.trouble == ""
    finally:
        committer.close()


# Data that is gone.


def test_a_server_that_went_back_is_found_out_before_anything_is_written(make: Make) -> None:
    """Without an append-only file a restart takes all since the last snapshot: numbers would be used twice."""
    server = make(appendonly="no")
    with closing(open_store(server.url("log"), "durable")) as store:
        store.commit(Changes(appends=[append(1)]))
        server.client().save()
        store.commit(Changes(appends=[append(2), append(3)]))
        server.kill()
        server.start()
        calls = (lambda: store.commit(Changes(appends=[append(4)])), store.totals, lambda: store.body(3))
        for call in calls:
            with pytest.raises(LogLostError, match=r"went back.*appendonly no.*2 accepted items are lost"):
                call()
        server.client().flushall()
        for call in calls:
            with pytest.raises(LogLostError, match=r"gone from the server.*3 accepted items are lost"):
                call()


def test_a_log_that_is_flushed_under_a_connection_that_stays_is_missed_by_every_call(make: Make) -> None:
    server = make()
    with closing(open_store(server.url("log"), "durable")) as store:
        store.commit(Changes(appends=[append(1)]))
        server.client().flushall()
        for call in (lambda: store.commit(Changes(appends=[append(2)])), store.totals, lambda: store.body(1)):
            with pytest.raises(LogLostError, match="gone from the server"):
                call()


def test_a_body_that_was_taken_away_stops_the_log(store: RedisStore, redis_server: RedisServer, name: str) -> None:
    store.commit(Changes(appends=[append(1)]))
    redis_server.client().delete(key(name, "bodies"))
    with pytest.raises(StoreError, match="1 chunks and 0 bodies"):
        store.commit(Changes(appends=[append(2)]))


# Servers that refuse.


def test_a_key_of_another_program_is_named_and_left_alone(
    store: RedisStore, redis_server: RedisServer, name: str
) -> None:
    client = redis_server.client()
    store.commit(Changes(appends=[append(1)]))
    client.rename(key(name, "chunks"), key(name, "aside"))
    client.set(key(name, "chunks"), "theirs")
    with pytest.raises(StoreError, match=r"chunks at .* another program: it is a string, where the log has a zset"):
        store.commit(Changes(appends=[append(2)]))
    assert client.get(key(name, "chunks")) == b"theirs"
    client.rename(key(name, "aside"), key(name, "chunks"))
    store.commit(Changes(appends=[append(2)]))
    assert store.totals().accepted == 2


def test_a_foreign_key_and_another_version_are_refused_at_the_start(redis_server: RedisServer, name: str) -> None:
    client = redis_server.client()
    client.set(key(name, "dead"), "theirs")
    with pytest.raises(StoreError, match="another program"):
        open_store(redis_server.url(name), "durable")
    client.delete(key(name, "dead"))
    client.hset(key(name, "log"), "schema", 99)
    for opened in (lambda: open_store(redis_server.url(name), "durable"), lambda: read_only(redis_server.url(name))):
        with pytest.raises(StoreError, match=r"schema 99.*not touched"):
            opened()
    client.delete(key(name, "log"))
    client.hset(key(name, "producers"), "p", 1)
    with pytest.raises(StoreError, match="damaged"):
        open_store(redis_server.url(name), "durable")


def test_a_log_of_the_former_schema_is_read_and_taken_over(redis_server: RedisServer, name: str) -> None:
    with closing(open_store(redis_server.url(name), "durable")) as store:
        store.commit(Changes(appends=[append(1)]))
    client = redis_server.client()
    client.hset(key(name, "log"), "schema", FORMER_VERSION)
    client.hdel(key(name, "log"), "retained", "retained_bytes", "last_retained")
    with closing(read_only(redis_server.url(name))) as reader:
        assert (reader.totals().accepted, reader.totals().retained) == (1, 0)
    with closing(open_store(redis_server.url(name), "durable")) as store:
        batch = Retained(Chunk(1, 1, 1, ("in",), b""), b"\x01", 2.0, 6)
        store.commit(Changes(done={1: None}, completed=1, retained=[batch]))
        assert (store.totals().retained, store.body(1)) == (1, b"values")
    assert client.hget(key(name, "log"), "schema") == b"%d" % SCHEMA_VERSION


def test_the_server_may_be_away_any_number_of_times(make: Make) -> None:
    server = make()
    with closing(open_store(server.url("log"), "durable")) as store:
        for number in range(1, 131):
            server.client().client_kill_filter(_type="normal", skipme=True)
            store.commit(Changes(appends=[append(number)]))
        assert store.totals().accepted == 130


def test_a_full_memory_changes_nothing_and_heals(make: Make) -> None:
    server = make()
    with closing(open_store(server.url("log"), "durable")) as store:
        store.commit(Changes(appends=[append(1)]))
        server.client().config_set("maxmemory", "1mb")
        group = Changes(appends=[append(2)], done={1: None}, waiting=[row(1)], completed=1)
        for _ in range(2):
            with pytest.raises(StoreError, match=r"nothing was recorded.*OOM.*maxmemory.*raise it"):
                store.commit(group)
            assert (store.next_chunk(), store.totals().open, store.body(1)) == (2, 1, b"values")
        server.client().config_set("maxmemory", "0")
        store.commit(group)
        assert (store.next_chunk(), store.totals().waiting, store.totals().completed) == (3, 1, 1)


def test_while_the_memory_is_full_what_ends_is_recorded_and_makes_room(make: Make) -> None:
    server = make()
    client = server.client()
    with closing(open_store(server.url("log"), "durable")) as store:
        for id in range(1, 9):
            chunk = Chunk(id, id, 1, ("in",), b"x" * (1 << 20))
            store.commit(Changes(appends=[Append(chunk, None)]))
        client.config_set("maxmemory", client.info("memory")["used_memory"] - (2 << 20))
        with pytest.raises(StoreFullError):
            store.commit(Changes(appends=[append(9)]))
        store.commit(Changes(waiting=[row(1)], done={1: None}))
        with pytest.raises(StoreFullError):
            store.commit(Changes(appends=[append(9)]))
        store.commit(Changes(done=dict.fromkeys(range(2, 9)), completed=7))
        store.commit(Changes(appends=[append(9)]))
        totals = store.totals()
        assert (totals.completed, totals.waiting, totals.open) == (7, 1, 2)


def test_a_replica_refuses_and_is_told_for_what_it_is(make: Make) -> None:
    server = make()
    with closing(open_store(server.url("log"), "durable")) as store:
        server.client().replicaof("127.0.0.1", free_port())
        with pytest.raises(StoreError, match=r"READONLY.*read-only replica: name its primary"):
            store.commit(Changes(appends=[append(1)]))
        server.client().replicaof("NO", "ONE")
        store.commit(Changes(appends=[append(1)]))


@pytest.mark.parametrize(
    ("password", "remedy"), [("", r"NOAUTH|Authentication required.*wants a password"), ("wrong", "password.*is wrong")]
)
def test_a_password_that_is_missing_or_wrong_is_told_and_never_shown(
    tmp_path: Path, password: str, remedy: str
) -> None:
    server = RedisServer(tmp_path / "redis", free_port(), requirepass="s3cret").start()
    try:
        with closing(open_store(server.url("log", tcp=True, password="s3cret"), "durable")) as store:
            store.commit(Changes(appends=[append(1)]))
            assert "s3cret" not in store.describe()
        with pytest.raises(StoreError, match=remedy) as caught:
            open_store(server.url("log", tcp=True, password=password), "durable")
        assert not password or password not in str(caught.value).replace("is wrong", "")
    finally:
        server.close()


def test_a_server_that_is_down_is_told_at_the_start() -> None:
    with pytest.raises(StoreError, match=r"redis://127\.0\.0\.1:\d+/0.*refused.*server is down"):
        open_store(f"redis://:pw@127.0.0.1:{free_port()}/0?prefix=log".replace(":pw@", ""), "durable")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://localhost", r"needs a name.*\?prefix=NAME"),
        ("redis://localhost?prefix={a}", "without braces"),
        ("redis://localhost:port?prefix=a", r"no URL of a Redis server.*redis://host:port/db"),
        ("redis://localhost?prefix=a&nonsense=1", "no URL of a Redis server"),
    ],
)
def test_a_url_that_is_none_is_refused_with_the_right_forms(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        open_store(url, "durable")


# What a receipt is worth.


@pytest.mark.parametrize(
    ("settings", "durable", "said"),
    [
        ({}, True, "survives a power cut (appendfsync always)"),
        ({"appendfsync": "everysec"}, False, "a kill of the server or a power cut may take the last two seconds"),
        ({"appendfsync": "no"}, False, "a power cut may take what the system had not written"),
        ({"appendonly": "no"}, False, "any end of the server takes all since its last snapshot"),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, False, "nothing is safe"),
        ({"maxmemory": "100mb", "maxmemory-policy": "volatile-lru"}, True, "survives a power cut"),
    ],
)
def test_the_sentence_says_what_the_server_is_set_to(
    make: Make, settings: dict[str, str], durable: bool, said: str
) -> None:
    with closing(open_store(make(**settings).url("log"), "durable")) as store:
        assert store.durable is durable
        assert said in store.describe()


def test_settings_are_read_again_with_each_connection(make: Make) -> None:
    server = make()
    with closing(open_store(server.url("log"), "durable")) as store:
        assert store.durable
        server.client().config_set("appendfsync", "everysec")
        server.client().execute_command("CLIENT", "KILL", "TYPE", "normal")
        store.commit(Changes(appends=[append(1)]))
        assert not store.durable
        assert "two seconds" in store.describe()


def test_a_server_that_can_wait_for_its_disk_is_asked_to_after_each_group(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server at hand is too old for WAITAOF: its answers are played, the group is recorded for real."""
    answers, asked = [[1, 0], [0, 0], [1, 0]], []
    ask_now, inspect = redislink.Link.ask_now, redisreader.inspect

    def waiting(link: redislink.Link, *commands: redislink.Command) -> list[object]:
        if commands[0][0] != "WAITAOF":
            return ask_now(link, *commands)
        asked.append(commands[0])
        return [answers.pop(0)]

    monkeypatch.setattr(redislink.Link, "ask_now", waiting)
    monkeypatch.setattr(redisreader, "inspect", lambda link: replace(inspect(link), fsync="everysec", can_wait=True))
    store.link.close()
    store.commit(Changes(appends=[append(1)]))
    assert store.durable
    assert "survives a power cut (WAITAOF)" in store.describe()
    with pytest.raises(StoreError, match="not synchronised its disk"):
        store.commit(Changes(appends=[append(2)], completed=1))
    store.commit(Changes(appends=[append(2)], completed=1))
    assert (store.totals().accepted, store.totals().completed) == (2, 1)
    assert asked == [("WAITAOF", 1, 0, 10_000)] * 3


@pytest.mark.parametrize(
    ("rights", "said"), [("+config|get", "appendfsync always"), ("", "does not tell its appendfsync")]
)
def test_a_user_with_the_rights_that_the_docs_name_is_enough(make: Make, rights: str, said: str) -> None:
    server = make()
    server.client().execute_command(
        "ACL", "SETUSER", "us", "on", ">pw", "~{consecutiond:*", "+@read", "+@write", "+@transaction", "+@connection",
        "+info", *rights.split(),
    )  # fmt: skip
    url = f"unix://us:pw@{server.socket}?prefix=log"
    with closing(open_store(url, "durable")) as store:
        store.commit(Changes(appends=[append(1)], waiting=[row(1)], dead=[row(1)]))
        store.commit(Changes(done={1: None}, revived=[1]))
        assert said in store.describe()
        server.client().execute_command("ACL", "SETUSER", "us", "-hset")
        with pytest.raises(StoreError, match=r"NOPERM.*lacks a right"):
            store.commit(Changes(appends=[append(2)]))


def test_without_asking_the_server_no_promise_is_made() -> None:
    said = guarantee("redis://:secret@localhost:1/0?prefix=log", "durable")
    assert "depends on the server" in said
    assert "secret" not in said


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes a certificate, is not installed")
def test_over_tls_a_log_is_written_and_a_server_that_cannot_prove_itself_is_refused(make: Make, tmp_path: Path) -> None:
    key, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    make(**{
        "tls-port": str(port), "tls-cert-file": str(certificate), "tls-key-file": str(key),
        "tls-ca-cert-file": str(certificate), "tls-auth-clients": "no",
    })  # fmt: skip
    url = f"rediss://127.0.0.1:{port}/0?prefix=log"
    with pytest.raises(StoreError, match=r"(?i)certificate"):
        open_store(url, "durable")
    known = f"{url}&ssl_ca_certs={certificate}"
    with closing(open_store(known, "durable")) as store:
        store.commit(Changes(appends=[append(1)]))
        assert "a receipted item is on the server's disk" in store.describe()
    with closing(read_only(known)) as reader:
        assert reader.totals().accepted == 1
