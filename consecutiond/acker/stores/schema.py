"""The tables of the SQLite store: how they are created, told apart from others, written and read."""

import json
import secrets
import sqlite3
from typing import Any

from consecutiond.acker.stores.base import (
    FIRST_NUMBER,
    Chunk,
    Failed,
    Head,
    OpenChunk,
    Retained,
    StoreError,
    Where,
    printable,
)
from consecutiond.acker.stores.shapes import shape

#: "cons" in ASCII; SQLite keeps it in the header of the file, where `file` and we can read it.
APPLICATION_ID = 0x636F6E73
#: Raised by every change of the tables below; a file of another version is refused, never guessed at.
SCHEMA_VERSION = 4
#: The one before it, to which only tables and columns were added: an acker adds them when it opens such a file.
FORMER_VERSION = 3
#: bytes; 512 to 65536. A body of 20 kB to 1 MiB is a chain of pages; 16 kB pages measured best over both.
PAGE_SIZE = 16384

_FAILED_COLUMNS = """
    position INTEGER PRIMARY KEY, attempts INTEGER NOT NULL, entry TEXT NOT NULL, body BLOB NOT NULL,
    due REAL NOT NULL, node TEXT NOT NULL, kind TEXT NOT NULL, error TEXT NOT NULL, traceback TEXT NOT NULL,
    failed_at REAL NOT NULL, accepted_at REAL NOT NULL, handed_out INTEGER NOT NULL, edge TEXT NOT NULL,
    item BLOB NOT NULL, path TEXT NOT NULL, start_edge TEXT NOT NULL, start_item BLOB NOT NULL,
    replayed_at REAL NOT NULL, shape TEXT NOT NULL
"""

_CHECKSUM = "checksum INTEGER NOT NULL DEFAULT -1"
_CHECKSUMS = (f"ALTER TABLE chunks ADD COLUMN {_CHECKSUM}",)
# Retained batches have a table of their own, so that a start, which reads the open chunks, does not meet them.
_RETENTION = (
    "ALTER TABLE counters ADD COLUMN retained INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE counters ADD COLUMN retained_bytes INTEGER NOT NULL DEFAULT 0",
    f"""CREATE TABLE retained (number INTEGER PRIMARY KEY AUTOINCREMENT, chunk INTEGER NOT NULL, first INTEGER NOT NULL,
       count INTEGER NOT NULL, entry TEXT NOT NULL, accepted_at REAL NOT NULL, {_CHECKSUM}, completed BLOB NOT NULL,
       completed_at REAL NOT NULL, size INTEGER NOT NULL, roots INTEGER NOT NULL)""",
    """CREATE TRIGGER retained_insert AFTER INSERT ON retained BEGIN UPDATE counters SET
       retained = retained + NEW.roots, retained_bytes = retained_bytes + NEW.size; END""",
    """CREATE TRIGGER retained_delete AFTER DELETE ON retained BEGIN UPDATE counters SET
       retained = retained - OLD.roots, retained_bytes = retained_bytes - OLD.size; END""",
)

# Bodies have a table of their own, so that a new bitmap rewrites a short row and not a megabyte. The counts
# of waiting and dead rows are kept by triggers: counting would read every leaf of tables full of bodies.
_TABLES = (
    """CREATE TABLE counters (one INTEGER PRIMARY KEY CHECK (one = 1), salt BLOB NOT NULL,
       next_chunk INTEGER NOT NULL, next_position INTEGER NOT NULL,
       accepted INTEGER NOT NULL DEFAULT 0, completed INTEGER NOT NULL DEFAULT 0,
       discarded INTEGER NOT NULL DEFAULT 0,
       failed INTEGER NOT NULL DEFAULT 0, waiting INTEGER NOT NULL DEFAULT 0)""",
    """CREATE TABLE chunks (id INTEGER PRIMARY KEY, first INTEGER NOT NULL, count INTEGER NOT NULL,
       entry TEXT NOT NULL, accepted_at REAL NOT NULL, done BLOB NOT NULL DEFAULT x'')""",
    "CREATE TABLE bodies (chunk INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    "CREATE TABLE producers (producer BLOB PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID",
    f"CREATE TABLE waiting ({_FAILED_COLUMNS})",
    f"CREATE TABLE dead ({_FAILED_COLUMNS})",
    # All that a list of groups needs, so that it reads no body, however many dead letters there are.
    "CREATE INDEX dead_groups ON dead (node, kind, shape, failed_at)",
    """CREATE TABLE audits (number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, who TEXT NOT NULL,
       what TEXT NOT NULL, count INTEGER NOT NULL, which TEXT NOT NULL)""",
    *(
        f"""CREATE TRIGGER {table}_{event.lower()} AFTER {event} ON {table}
            BEGIN UPDATE counters SET {counter} = {counter} {change}; END"""  # noqa: S608 - our own names
        for table, counter in (("waiting", "waiting"), ("dead", "failed"))
        for event, change in (("INSERT", "+ 1"), ("DELETE", "- 1"))
    ),
    *_CHECKSUMS,
    *_RETENTION,
)

INSERT_CHUNK = "INSERT INTO chunks (id, first, count, entry, accepted_at, checksum) VALUES (?, ?, ?, ?, ?, ?)"
INSERT_BODY = "INSERT INTO bodies (chunk, body) VALUES (?, ?)"
KEEP_SEQUENCE = """INSERT INTO producers (producer, sequence) VALUES (?, ?)
    ON CONFLICT (producer) DO UPDATE SET sequence = max(sequence, excluded.sequence)"""
COUNT = """UPDATE counters SET next_chunk = ?, next_position = ?,
    accepted = accepted + ?, completed = completed + ?, discarded = discarded + ?"""
DISCARD = """UPDATE counters SET discarded = discarded + 1
    WHERE NOT EXISTS (SELECT 1 FROM waiting WHERE position = ?)"""
PUT_AUDIT = "INSERT INTO audits (at, who, what, count, which) VALUES (?, ?, ?, ?, ?)"
GET_AUDITS = "SELECT at, who, what, count, which, number FROM audits WHERE number > ? ORDER BY number LIMIT ?"
_CHUNK = "first, count, entry, accepted_at, checksum"
PUT_RETAINED = f"""INSERT INTO retained (chunk, {_CHUNK}, completed, completed_at, size, roots)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""  # noqa: S608 - our own names
GET_RETAINED = f"""SELECT number, completed, completed_at, size, chunk, {_CHUNK} FROM retained
    WHERE number > ? ORDER BY number LIMIT ?"""  # noqa: S608 - our own names
GET_CHUNKS = f"SELECT done, id, {_CHUNK} FROM chunks WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608 - our own names

_COLUMNS = (*Failed.__struct_fields__, "shape")
_NAMES = ", ".join(_COLUMNS)
_EXCLUDED = ", ".join(f"excluded.{name}" for name in _COLUMNS)
# Not INSERT OR REPLACE: that deletes without firing the trigger that counts.
_PUT = (
    f"INSERT INTO {{table}} ({_NAMES}) VALUES ({', '.join('?' * len(_COLUMNS))}) "  # noqa: S608 - our own names
    f"ON CONFLICT (position) DO UPDATE SET ({_NAMES}) = ({_EXCLUDED})"
)
PUT_WAITING, PUT_DEAD = _PUT.format(table="waiting"), _PUT.format(table="dead")
GET_WAITING = f"SELECT {_NAMES} FROM waiting WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608 - our own


def get_dead(where: Where, after: int, limit: int) -> tuple[str, list[object]]:
    """Return the query for a page of dead letters, and its values."""
    conditions, values = _conditions(where)
    query = f"SELECT {_NAMES} FROM dead WHERE position > ? AND {conditions} ORDER BY position LIMIT ?"  # noqa: S608
    return query, [after, *values, limit]


def count_dead(where: Where) -> tuple[str, list[object]]:
    """Return the query that counts dead letters, and its values."""
    conditions, values = _conditions(where)
    return f"SELECT count(*) FROM dead WHERE {conditions}", values  # noqa: S608 - our own


def get_groups(where: Where) -> tuple[str, list[object]]:
    """Return the query for the groups of dead letters, and its values."""
    conditions, values = _conditions(where)
    query = (
        "SELECT node, kind, shape, count(*) AS many, max(failed_at), min(position) AS oldest FROM dead "  # noqa: S608
        f"WHERE {conditions} GROUP BY node, kind, shape ORDER BY many DESC, oldest"
    )
    return query, values


def _conditions(where: Where) -> tuple[str, list[object]]:
    found: list[tuple[str, object]] = [
        (f"{name} = ?", getattr(where, name)) for name in ("node", "kind", "shape") if getattr(where, name)
    ]
    if where.error:
        found.append(("instr(error, ?) > 0", where.error))
    if where.since > 0:
        found.append(("failed_at >= ?", where.since))
    if where.until < float("inf"):
        found.append(("failed_at < ?", where.until))
    if where.positions:
        # As JSON: the number of a statement's values is bounded.
        found.append(("position IN (SELECT value FROM json_each(?))", json.dumps(where.positions)))
    return " AND ".join(["1", *(condition for condition, _ in found)]), [value for _, value in found]


def prepare(connection: sqlite3.Connection) -> None:
    """Create the tables in an empty file, or add what the former version lacks, in one transaction."""
    # The write lock first, always: two acker processes may start together, and a file that this user may
    # only read has to fail here and not at the first commit.
    connection.execute("BEGIN IMMEDIATE")
    if is_empty(connection):
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute(
            "INSERT INTO counters (one, salt, next_chunk, next_position) VALUES (1, ?, ?, ?)",
            (secrets.token_bytes(8), FIRST_NUMBER, FIRST_NUMBER),
        )
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    elif _pragma(connection, "user_version") == FORMER_VERSION:
        for statement in (*_CHECKSUMS, *_RETENTION):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def adopt(connection: sqlite3.Connection, head: Head) -> None:
    """Take over what another log is beside its rows."""
    connection.execute(
        "UPDATE counters SET salt = ?, next_chunk = ?, next_position = ?, accepted = ?, completed = ?, discarded = ?",
        (
            head.salt.to_bytes(8, "little"), head.next_chunk, head.next_position, head.accepted, head.completed,
            head.discarded,
        ),
    )  # fmt: skip
    connection.execute("DELETE FROM producers")
    connection.executemany(KEEP_SEQUENCE, head.producers.items())


def refuse_foreign(connection: sqlite3.Connection, path: str, *, former: bool = False) -> None:
    """Raise StoreError unless the file is a store of this version.

    Args:
        connection: open on the file; only read.
        path: of the file, for the message.
        former: one of the former version will do, as `prepare` comes next.

    Raises:
        StoreError: the file belongs to another program, or to another version of this one.

    """
    if is_empty(connection):
        raise StoreError(f"{path} holds no store yet: the acker never finished its first start. Start the consecutor.")
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise StoreError(
            f"{path} is an SQLite database of another program; it was not touched. Give the store a path of its own."
        )
    version = _pragma(connection, "user_version")
    if version == FORMER_VERSION and not former:
        raise StoreError(
            f"{path} was written by an older consecutiond (schema version {version}, this one reads {SCHEMA_VERSION}). "
            "Start its consecutor once with this one, which brings the file up to date."
        )
    if version not in (SCHEMA_VERSION, FORMER_VERSION):
        age = "newer" if version > SCHEMA_VERSION else "older"
        raise StoreError(
            f"{path} was written by {age} consecutiond (schema version {version}, this one reads "
            f"{SCHEMA_VERSION}); it was not touched. Drain it with the version that wrote it, or move it."
        )


def is_empty(connection: sqlite3.Connection) -> bool:
    """Tell whether the file holds no table and no mark of any program: it was just created."""
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return bool(tables == 0 and _pragma(connection, "application_id") == 0)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def chunk_row(chunk: Chunk) -> tuple[object, ...]:
    """Return the values of `INSERT_CHUNK`; the body goes elsewhere."""
    return chunk.id, chunk.first, chunk.count, json.dumps(chunk.entry), chunk.accepted_at, chunk.checksum


def open_chunk(row: Any) -> OpenChunk:
    """Return the chunk that a row of `GET_CHUNKS` stands for, without its body."""
    done, *chunk = row
    return OpenChunk(_chunk(*chunk), done)


def _chunk(id: int, first: int, count: int, entry: str, accepted_at: float, checksum: int) -> Chunk:
    return Chunk(id, first, count, tuple(json.loads(entry)), b"", accepted_at, checksum)


def retained_row(batch: Retained) -> tuple[object, ...]:
    """Return the values of `PUT_RETAINED`; the body goes elsewhere."""
    return *chunk_row(batch.chunk), batch.completed, batch.completed_at, batch.size, batch.count


def retained(row: Any) -> Retained:
    """Return the batch that a row of `GET_RETAINED` stands for, without its body."""
    number, completed, completed_at, size, *chunk = row
    return Retained(_chunk(*chunk), completed, completed_at, size, number)


def failed_row(failed: Failed) -> tuple[object, ...]:
    """Return the values of `PUT_WAITING` and `PUT_DEAD`."""
    row = printable(failed)
    texts = {"entry": json.dumps(row.entry), "path": json.dumps(row.path), "shape": shape(row.error)}
    return tuple(texts[name] if name in texts else getattr(row, name) for name in _COLUMNS)


def failed(row: Any) -> Failed:
    """Return the root that a row of `GET_WAITING` or `GET_DEAD` stands for."""
    found = dict(zip(_COLUMNS, row, strict=True))
    del found["shape"]
    return Failed(**(found | {name: tuple(json.loads(found[name])) for name in ("entry", "path")}))
