"""What the settings and the state of a Redis or Valkey server mean for a log that is on it."""

from typing import Final

from consecutiond.doctor.check import Check
from consecutiond.doctor.redisfacts import RedisFacts

#: the first version with the commands that are used, and the first that can be asked to have synchronised its disk
_OLDEST: Final = (6, 2)
_WAITAOF: Final = (7, 2)
#: shares of `maxmemory` at which it is a warning, and a problem
_NEARLY, _FULL = 0.8, 0.95
_MIB: Final = 1 << 20


def check(facts: RedisFacts, *, durable: bool) -> list[Check]:
    """Judge a server.

    Args:
        facts: of it.
        durable: what is recorded has to survive a power cut.

    """
    why = "The log is on it: while it does not answer, nothing is accepted."
    if facts.error:
        do = "See what is said behind the address; then ask again."
        takes = "the server does not answer, so nothing is accepted now"
        return [Check("redis.answers", "problem", facts.error.rstrip("."), why, do, takes), _transport(facts)]
    return [
        Check("redis.answers", "ok", facts.address, why), _version(facts), _role(facts), _loading(facts), _write(facts),
        _append_only(facts, durable=durable), _fsync(facts, durable=durable), _written(facts), _snapshot(facts),
        _memory(facts), _policy(facts), _replicas(facts), _transport(facts), _password(facts),
    ]  # fmt: skip


def _numbers(facts: RedisFacts) -> tuple[int, ...]:
    return tuple(int(part) for part in facts.info.get("redis_version", "0").split(".")[:2] if part.isdecimal())


def _version(facts: RedisFacts) -> Check:
    name, why = "redis.version", "The log is written with commands of 6.2; from 7.2 on it can wait for the disk."
    info = facts.info
    shown = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info.get('redis_version')}"
    if _numbers(facts) < _OLDEST:
        return Check(name, "problem", shown, why, "Run Redis 6.2 or newer, or Valkey.", "the server is too old")
    return Check(name, "ok", shown, why)


def _role(facts: RedisFacts) -> Check:
    name, why = "redis.role", "Only a primary keeps what it is told; a replica follows its own."
    if facts.info.get("role") != "slave":
        return Check(name, "ok", facts.info.get("role", "not told").replace("master", "primary"), why)
    primary = f"{facts.info.get('master_host')}:{facts.info.get('master_port')}"
    if facts.info.get("slave_read_only") == "1":
        seen, takes = "a read-only replica", "the server is a read-only replica, so nothing is accepted now"
    else:
        seen, takes = "a replica that takes writes", "the server is a replica, and forgets all at its next resync"
    return Check(name, "problem", f"{seen} of {primary}", why, f"Name its primary in `store`: {primary}.", takes)


def is_loading(facts: RedisFacts) -> bool:
    """Tell whether a server reads its data still."""
    return "1" in (facts.info.get("loading"), facts.info.get("async_loading"))


def _loading(facts: RedisFacts) -> Check:
    name, why = "redis.loading", "While it reads its data it answers nothing else."
    if not is_loading(facts):
        return Check(name, "ok", "it has read its data", why)
    eta = facts.info.get("loading_eta_seconds", "?")
    return Check(name, "warning", f"it reads its data, for about {eta} s more", why, "Wait; all goes on by itself.")


def _write(facts: RedisFacts) -> Check:
    name, why = "redis.write", "What the server refuses is not accepted."
    if not facts.refusal:
        return Check(name, "ok", "a write was queued, and discarded", why)
    if is_loading(facts):
        return Check(name, "unknown", "it is not asked while it reads its data", why, "Ask again when it has.")
    takes = "the server refuses writes, so nothing is accepted now"
    return Check(name, "problem", f"a write is refused: {facts.refusal.rstrip('.')}", why, "Mend that.", takes)


# --- the disk ------------------------------------------------------------------------------------------------


def _append_only(facts: RedisFacts, *, durable: bool) -> Check:
    name, why = (
        "redis.appendonly",
        "Without an append-only file any end of it takes all since its last snapshot.",
    )
    if facts.info.get("aof_enabled") == "1":
        return Check(name, "ok", "appendonly yes", why)
    do = "`CONFIG SET appendonly yes`, and the same in its configuration file."
    return Check(name, "problem" if durable else "warning", "appendonly no", why, do)


def _fsync(facts: RedisFacts, *, durable: bool) -> Check:
    name, why = "redis.appendfsync", "It says when what was confirmed is on the disk."
    if facts.info.get("aof_enabled") != "1":
        return Check(name, "ok", "there is no append-only file", why)
    if facts.settings is None:
        do = "Give the user of the URL `+config|get`, or look in the server's configuration."
        return Check(name, "unknown", "the server refuses CONFIG GET", why, do)
    fsync = facts.settings["appendfsync"]
    if fsync == "always":
        return Check(name, "ok", "appendfsync always", why)
    seen = f"appendfsync {fsync}"
    if durable and _numbers(facts) >= _WAITAOF:
        return Check(name, "ok", f"{seen}; each commit waits for the disk (WAITAOF)", why)
    do = "`CONFIG SET appendfsync always`, and the same in its configuration file"
    if durable:
        return Check(name, "problem", f"{seen}, though durability is `durable`", why, f"{do}; or Redis 7.2 or newer.")
    return Check(name, "ok" if fsync == "everysec" else "warning", seen, why, "" if fsync == "everysec" else f"{do}.")


def _written(facts: RedisFacts) -> Check:
    name, why = "redis.aof", "An append-only file that cannot be written ends in refused writes, or in lost ones."
    failed = [
        field for field in ("aof_last_write_status", "aof_last_bgrewrite_status")
        if facts.info.get(field, "ok") != "ok"
    ]  # fmt: skip
    if not failed:
        return Check(name, "ok", "the last write and the last rewrite of its file went well", why)
    status = "problem" if "aof_last_write_status" in failed else "warning"
    seen = ", ".join(f"{field} is {facts.info[field]}" for field in failed)
    takes = "the server could not write its file" if status == "problem" else ""
    do = "Make room on the server's disk, and see its log."
    return Check(name, status, seen, why, do, takes)  # type: ignore[arg-type]


def _snapshot(facts: RedisFacts) -> Check:
    name, why = "redis.snapshot", "With `save` points, a snapshot that failed has the server refuse all writes."
    settings = facts.settings or {}
    if facts.info.get("rdb_last_bgsave_status", "ok") == "ok":
        return Check(name, "ok", "the last snapshot went well, or there was none", why)
    refuses = settings.get("save", "?") and settings.get("stop-writes-on-bgsave-error", "yes") == "yes"
    do = "Make room on the server's disk, and see its log."
    return Check(name, "problem" if refuses else "warning", "the last snapshot failed", why, do)


# --- the memory ----------------------------------------------------------------------------------------------


def _memory(facts: RedisFacts) -> Check:
    name, why = "redis.memory", "At `maxmemory` nothing is recorded until there is room, completions neither."
    used, most = int(facts.info.get("used_memory", 0)), int(facts.info.get("maxmemory", 0))
    if not most:
        return Check(name, "ok", f"{used // _MIB:,} MiB are used; maxmemory is not set", why)
    seen = f"{used // _MIB:,} of {most // _MIB:,} MiB are used ({100 * used / most:.0f} %)"
    status = "problem" if used >= _FULL * most else "warning" if used >= _NEARLY * most else "ok"
    do = "" if status == "ok" else "Raise `maxmemory`, or find out who else fills it."
    return Check(name, status, seen, why, do)  # type: ignore[arg-type]


def _policy(facts: RedisFacts) -> Check:
    name, why = "redis.policy", "A server that makes room by itself takes away parts of the log."
    policy = facts.info.get("maxmemory_policy", "")
    if not policy.startswith("allkeys"):
        # Ours have no time limit, which is all that the volatile ones take.
        return Check(name, "ok" if policy else "unknown", f"maxmemory-policy {policy or 'not told'}", why)
    do = "`CONFIG SET maxmemory-policy noeviction`, and the same in its configuration file."
    limited = facts.info.get("maxmemory", "0") != "0"
    seen = f"maxmemory-policy {policy}" + ("" if limited else ", without effect as long as maxmemory is not set")
    return Check(name, "problem" if limited else "warning", seen, why, do)


def _replicas(facts: RedisFacts) -> Check:
    name, why = "redis.replicas", "A failover to a replica takes what had not reached it."
    count = int(facts.info.get("connected_slaves", 0))
    if not count:
        return Check(name, "ok", "there are none", why)
    return Check(name, "warning", f"there are {count}", why, "Let nobody fail over while it is under load.")


# --- who else ------------------------------------------------------------------------------------------------


def _transport(facts: RedisFacts) -> Check:
    name, why = "redis.transport", "Who can listen in reads every value, and the password."
    if facts.way == "network":
        secret = "its password and all values go" if facts.password else "all values go"
        do = "Use rediss:// (TLS), a tunnel, or a server on this machine."
        return Check(name, "warning", f"{secret} over a network in plain text", why, do)
    if facts.way == "tls without verification":
        return Check(
            name, "warning", "TLS, and the server's certificate is not verified", why, "Drop ssl_cert_reqs=none."
        )
    return Check(name, "ok", {"unix": "a Unix socket", "tls": "TLS", "loopback": "the loopback"}[facts.way], why)


def _password(facts: RedisFacts) -> Check:
    name, why = "redis.password", "Who reaches the server without a password can read, change and remove the log."
    private = facts.socket_mode is not None and not facts.socket_mode & 0o002
    if facts.open is None:
        return Check(name, "unknown", "whether it lets in who has none is not known", why, "Try `redis-cli ping`.")
    if not facts.open:
        return Check(name, "ok", "it wants one", why)
    if private:
        return Check(name, "ok", f"it wants none, and its socket has mode {facts.socket_mode:04o}", why)
    seen = "it lets in who has none" if facts.password else "it wants none"
    do = "Set `requirepass`, or users (ACL), with the default user off; put the URL into a file, not on a command line."
    return Check(name, "problem" if facts.way == "network" else "warning", seen, why, do)
