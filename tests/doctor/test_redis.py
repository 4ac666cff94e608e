"""What doctor says of real servers in several settings, and of facts that no server here can be brought to."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from consecutiond.acker.stores import open_store
from consecutiond.acker.stores.base import Append, Changes, Chunk
from consecutiond.doctor import redis, store
from consecutiond.doctor.check import Check, in_one_sentence
from consecutiond.doctor.redisfacts import RedisFacts, way_of
from tests.redis_server import RedisServer, free_port

SOUND = RedisFacts(
    "redis://host", "tls",
    info={
        "redis_version": "7.0.15", "role": "master", "aof_enabled": "1", "maxmemory_policy": "noeviction",
        "used_memory": "1000", "maxmemory": "0",
    },
    settings={"appendfsync": "always", "save": "", "stop-writes-on-bgsave-error": "yes"},
    password=True, open=False,
)  # fmt: skip


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    servers = []

    def start(**settings: str) -> RedisServer:
        servers.append(RedisServer(tmp_path / f"redis{len(servers)}", free_port(), **settings))
        return servers[-1].start()

    yield start
    for server in servers:
        server.close()


def by_name(checks: tuple[Check, ...] | list[Check]) -> dict[str, Check]:
    return {check.name.removeprefix("redis."): check for check in checks}


def bad(checks: tuple[Check, ...] | list[Check]) -> dict[str, str]:
    return {name: check.status for name, check in by_name(checks).items() if check.status != "ok"}


def test_a_durable_server_is_sound_and_nothing_on_it_changes(start: Callable[..., RedisServer]) -> None:
    server = start()
    url = server.url("flow")
    with closing(open_store(url, "durable")) as log:
        log.commit(Changes(appends=[Append(Chunk(1, 1, 3, ("in",), b"values", 1.0), None)]))
    before = server.client().info("persistence")["rdb_changes_since_last_save"], server.client().dbsize()
    seen = store.look(url, "durable")
    assert not bad(seen.checks)
    assert "3 accepted: 0 completed, 0 failed, 0 discarded, 3 open" in by_name(seen.checks)["log.counts"].seen
    assert "on the server's disk and survives a power cut (appendfsync always)" in seen.promise
    assert seen.newest == 1.0
    assert (server.client().info("persistence")["rdb_changes_since_last_save"], server.client().dbsize()) == before
    assert "log.counts" not in by_name(store.look(server.url("other"), "durable").checks), "there is no such log"
    assert server.client().dbsize() == before[1], "looking for a log makes none"


@pytest.mark.parametrize(
    ("settings", "found", "promise"),
    [
        ({"appendonly": "no"}, {"appendonly": "problem"}, "any end of the server takes all"),
        ({"appendfsync": "everysec"}, {"appendfsync": "problem"}, "may take the last two seconds"),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, {"policy": "problem"}, "nothing is safe"),
        ({"maxmemory-policy": "allkeys-lru"}, {"policy": "warning"}, "survives a power cut"),
    ],
)
def test_what_a_server_is_set_to_less_is_told(
    start: Callable[..., RedisServer], settings: dict[str, str], found: dict[str, str], promise: str
) -> None:
    seen = store.look(start(**settings).url("flow"), "durable")
    assert bad(seen.checks) == found
    assert promise in seen.promise
    assert all(by_name(seen.checks)[name].do for name in found)


def test_everysec_is_what_fast_asks_for(start: Callable[..., RedisServer]) -> None:
    assert not bad(store.look(start(appendfsync="everysec").url("flow"), "fast").checks)


def test_a_full_memory_is_seen_and_that_writes_are_refused(start: Callable[..., RedisServer]) -> None:
    server = start()
    client = server.client()
    for number in range(20):
        client.set(f"filler{number}", b"x" * 100_000)
    client.config_set("maxmemory", 1_000_000)
    seen = store.look(server.url("flow"), "durable")
    assert bad(seen.checks) == {"memory": "problem", "write": "problem"}
    assert "OOM" in by_name(seen.checks)["write"].seen
    assert in_one_sentence(seen.promise, seen.checks).endswith(
        "; but the server refuses writes, so nothing is accepted now."
    )


def test_a_replica_is_told_for_what_it_is(start: Callable[..., RedisServer]) -> None:
    primary, replica = start(), start()
    replica.client().replicaof("127.0.0.1", primary.port)
    while replica.client().info("replication")["master_link_status"] != "up":
        pass
    seen = store.look(replica.url("flow"), "durable")
    assert {name: status for name, status in bad(seen.checks).items() if status == "problem"} == {
        "role": "problem", "write": "problem"
    }  # fmt: skip
    role = by_name(seen.checks)["role"]
    assert role.do == f"Name its primary in `store`: 127.0.0.1:{primary.port}."
    assert bad(store.look(primary.url("flow"), "durable").checks) == {"replicas": "warning"}


def test_a_user_who_may_not_ask_for_settings_leaves_them_unknown(start: Callable[..., RedisServer]) -> None:
    """With the rights that the documentation asks for, but for `config|get`."""
    server = start()
    server.client().acl_setuser(
        "flow", enabled=True, passwords=["+s3cret"], keys=["{consecutiond:*"],
        categories=["+@read", "+@write", "+@transaction", "+@connection"], commands=["+info"],
    )  # fmt: skip
    server.client().acl_setuser("default", enabled=False)
    url = f"redis://flow:s3cret@127.0.0.1:{server.port}/0?prefix=flow"
    seen = store.look(url, "durable")
    assert bad(seen.checks) == {"appendfsync": "unknown"}
    assert "config|get" in by_name(seen.checks)["appendfsync"].do
    assert "what a power cut takes is not known" in seen.promise
    assert "s3cret" not in repr(seen)


def test_a_user_without_the_rights_to_write_is_found_out(start: Callable[..., RedisServer]) -> None:
    server = start()
    server.client().acl_setuser(
        "flow", enabled=True, passwords=["+s3cret"], keys=["*"], categories=["+@all"], commands=["-zadd"]
    )
    seen = store.look(f"redis://flow:s3cret@127.0.0.1:{server.port}/0?prefix=flow", "durable")
    # Its default user has no password, so whoever comes without one gets in.
    assert bad(seen.checks) == {"write": "problem", "password": "warning"}
    assert "'zadd'" in by_name(seen.checks)["write"].seen


def test_where_no_transaction_may_begin_nothing_is_written_either(start: Callable[..., RedisServer]) -> None:
    """Outside of one, what is only to be rehearsed would be done."""
    server = start()
    server.client().acl_setuser(
        "flow", enabled=True, passwords=["+s3cret"], keys=["*"], categories=["+@all"], commands=["-multi"]
    )
    seen = store.look(f"redis://flow:s3cret@127.0.0.1:{server.port}/0?prefix=flow", "durable")
    assert bad(seen.checks)["write"] == "problem"
    assert "'multi'" in by_name(seen.checks)["write"].seen
    assert server.client().info("persistence")["rdb_changes_since_last_save"] == 0


def test_a_server_that_is_down_or_wants_another_password_guarantees_nothing(start: Callable[..., RedisServer]) -> None:
    server = start(requirepass="s3cret")
    for url, said in (
        (server.url("flow"), "the server wants a password"),
        (server.url("flow", tcp=True, password="wrong"), "the password in the URL is wrong"),
        (f"redis://127.0.0.1:{free_port()}/0?prefix=flow", "the server is down, or the address is wrong"),
    ):
        seen = store.look(url, "durable")
        assert bad(seen.checks) == {"answers": "problem"}
        assert said in by_name(seen.checks)["answers"].seen
        assert in_one_sentence(seen.promise, seen.checks).startswith("Nothing is guaranteed: the server does not")
    assert not bad(store.look(server.url("flow", tcp=True, password="s3cret"), "durable").checks)


# --- facts ---------------------------------------------------------------------------------------------------


def told(facts: RedisFacts, *, durable: bool = True, **info: Any) -> dict[str, str]:
    return bad(redis.check(replace(facts, info={**facts.info, **info}), durable=durable))


def test_the_sound_facts_are_sound() -> None:
    assert told(SOUND) == {}


@pytest.mark.parametrize(
    ("info", "found"),
    [
        ({"redis_version": "6.0.9"}, {"version": "problem"}),
        ({"valkey_version": "8.0", "redis_version": "7.2.4"}, {}),
        ({"role": "slave", "slave_read_only": "0"}, {"role": "problem"}),
        ({"loading": "1", "loading_eta_seconds": "9"}, {"loading": "warning"}),
        ({"aof_last_write_status": "err"}, {"aof": "problem"}),
        ({"aof_last_bgrewrite_status": "err"}, {"aof": "warning"}),
        ({"used_memory": "85", "maxmemory": "100"}, {"memory": "warning"}),
        ({"used_memory": "99", "maxmemory": "100"}, {"memory": "problem"}),
        ({"used_memory": "50", "maxmemory": "100", "maxmemory_policy": "volatile-lru"}, {}),
        ({"rdb_last_bgsave_status": "err"}, {"snapshot": "warning"}),
    ],
)
def test_states_of_a_server(info: dict[str, str], found: dict[str, str]) -> None:
    assert told(SOUND, **info) == found


def test_a_snapshot_that_failed_is_a_problem_where_it_stops_writes() -> None:
    saving = replace(SOUND, settings={**(SOUND.settings or {}), "save": "60 1"})
    assert told(saving, rdb_last_bgsave_status="err") == {"snapshot": "problem"}


def test_from_7_2_on_a_commit_waits_for_the_disk_itself() -> None:
    everysec = replace(SOUND, settings={"appendfsync": "everysec"})
    assert told(everysec) == {"appendfsync": "problem"}
    assert told(everysec, redis_version="7.2.0") == {}
    assert told(everysec, durable=False) == {}
    assert told(replace(SOUND, settings={"appendfsync": "no"}), durable=False) == {"appendfsync": "warning"}


@pytest.mark.parametrize(
    ("way", "password", "open", "mode", "found"),
    [
        ("network", True, False, None, {"transport": "warning"}),
        ("network", False, True, None, {"transport": "warning", "password": "problem"}),
        ("tls without verification", True, False, None, {"transport": "warning"}),
        ("tls", True, None, None, {"password": "unknown"}),
        ("loopback", False, True, None, {"password": "warning"}),
        ("unix", False, True, 0o777, {"password": "warning"}),
        ("unix", False, True, 0o770, {}),
    ],
)
def test_who_can_listen_in_and_who_can_come_in(
    way: str, password: bool, open: bool | None, mode: int | None, found: dict[str, str]
) -> None:
    assert told(replace(SOUND, way=way, password=password, open=open, socket_mode=mode)) == found


@pytest.mark.parametrize(
    ("url", "way"),
    [
        ("unix:///run/redis.sock", "unix"), ("redis://localhost", "loopback"), ("redis://:p@127.1.2.3:1/0", "loopback"),
        ("redis://[::1]:6379/0", "loopback"), ("redis://redis.example", "network"), ("rediss://host", "tls"),
        ("rediss://host?ssl_cert_reqs=none", "tls without verification"), ("redis://127.evil.example", "network"),
    ],
)  # fmt: skip
def test_the_way_to_a_server(url: str, way: str) -> None:
    assert way_of(url) == way
