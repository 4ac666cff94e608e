"""The whole wire protocol: version, messages, frame layouts, packing and unpacking.

Every message is ZeroMQ multipart. Frame 0 is the *head*: one of the structs below as a msgpack array whose first
element is the tag. The heads marked with ``+`` are followed by raw frames, which nobody opens on the way:

    Batch, Deliver      head | roots | ids | body
    Settle              head | roots | xors | fails
    Reports             head | roots | xors | fails | roots | xors | fails | …      (3 frames a report)
    Append              head | body

    roots, ids, xors    n unsigned 64-bit integers, little-endian, no header; none when nothing is tracked
    body                one msgpack array of n values
    fails               one msgpack array of Fail, or no bytes at all

A *root key* is ``epoch << 48 | emission << 12 | index``: which acker, which of its emissions, which root in it
(:mod:`consecutiond_broker.ids`). Wherever a head carries ``broker_epoch``, the receiver drops the message when the
number is not its own: it was meant for an incarnation that is dead.
"""

from typing import Any, Final

import msgspec

from consecutiond_broker import spans
from consecutiond_broker.errors import WireError

#: The first element of every greeting; a peer that speaks another version is refused by name.
VERSION: Final = 1

#: In the place of an acker's epoch: nothing is tracked, so a batch has no root keys and no ids. It is greater than any
#: epoch (of 16 bits), so that no acker that comes later has such a batch dropped.
UNTRACKED: Final = (1 << 48) - 1

#: Frames that make up one report.
REPORT_FRAMES: Final = 3


class _Head(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A message head: an array on the wire, its tag first."""


# --- upstream worker or acker  ->  broker ------------------------------------------------------------------------


class Join(_Head, tag=1, frozen=True):
    """A worker greets a broker, at every (re)connection.

    ``side`` is "up" for a sender and "down" for a receiver. ``started`` is the process's start time in clock ticks,
    which together with ``pid`` names a process for good; ``pid`` is 0 for one on another machine. ``cell`` is the path
    of the worker's cell file, ``slot`` the place of this edge in it. ``held`` lists the deliveries that the worker
    still has in hand. ``partition`` is the number of the worker among those of its node.
    """

    version: int
    side: str
    name: str
    epoch: int
    pid: int
    started: int
    cell: str
    slot: int
    limit: int
    hint: int
    held: tuple[int, ...]
    partition: int = -1


class Batch(_Head, tag=2, frozen=True):
    """+ A sender hands over its batch number ``seq`` (1, 2, 3 … per sender and broker epoch).

    ``attempt`` and ``accepted_ms`` (wall clock, since 1970) are those of the roots: which attempt this is, and when the
    input was accepted. ``spans`` is empty unless an item has several roots (:mod:`consecutiond_broker.spans`).
    ``partition`` is the number of the only receiver that may have it, -1 for any. ``path`` are the nodes through which
    the items came, the sender's last. ``epoch`` is the sender's incarnation, since another one may have taken its
    identity over; 0 where there is only one.
    """

    broker_epoch: int
    seq: int
    acker_epoch: int
    count: int
    attempt: int = 1
    accepted_ms: int = 0
    spans: bytes = b""
    partition: int = -1
    path: tuple[str, ...] = ()
    epoch: int = 0


class Settle(_Head, tag=3, frozen=True):
    """+ A receiver is done with delivery ``seq``; it takes up to ``limit`` deliveries in all, ``hint`` items each.

    When the receiver's node holds ``held`` of its items for later, the delivery stays in the receiver's custody, and
    ``done`` are the positions of the items that are over. ``epoch`` is the receiver's incarnation.
    """

    broker_epoch: int
    seq: int
    acker_epoch: int
    limit: int
    hint: int
    held: int = 0
    done: tuple[int, ...] = ()
    epoch: int = 0


class Leave(_Head, tag=4, frozen=True):
    """A worker ends on purpose; its cell says what becomes of deliveries that it still has in hand."""

    epoch: int


# --- broker  ->  workers, acker ----------------------------------------------------------------------------------


class Joined(_Head, tag=10, frozen=True):
    """The answer to `Join`: who speaks, and how many of the sender's batches it has accepted."""

    version: int
    broker_epoch: int
    accepted: int
    limit: int
    hint: int


class Grant(_Head, tag=11, frozen=True):
    """Batches up to ``accepted`` are in the broker's custody; a sender may go on to number ``limit``.

    ``greeting`` is that since which the acker's batches are counted; 0 for a worker's, whose count goes on.
    """

    broker_epoch: int
    accepted: int
    limit: int
    hint: int
    greeting: int = 0


class Deliver(_Head, tag=12, frozen=True):
    """+ A batch for a receiver; the items at the positions in ``skip`` are not to be processed again."""

    broker_epoch: int
    seq: int
    acker_epoch: int
    count: int
    skip: tuple[int, ...]
    attempt: int = 1
    accepted_ms: int = 0
    spans: bytes = b""
    path: tuple[str, ...] = ()


class Fenced(_Head, tag=13, frozen=True):
    """A newer incarnation of the receiver has joined; the receiver must end."""

    epoch: int


# --- broker  <->  acker ------------------------------------------------------------------------------------------


class EdgeJoin(_Head, tag=20, frozen=True):
    """A broker greets the acker, at every (re)connection; ``greeting`` numbers them."""

    version: int
    edge: str
    epoch: int
    limit: int
    hint: int
    greeting: int = 0


class EdgeJoined(_Head, tag=21, frozen=True):
    """The acker's answer to a greeting: its epoch, and the last report that it has applied of this broker epoch."""

    acker_epoch: int
    applied: int
    greeting: int = 0


class Reports(_Head, tag=22, frozen=True):
    """+ Reports ``first``, ``first + 1`` … of this broker epoch, three frames each."""

    broker_epoch: int
    first: int
    acker_epochs: tuple[int, ...]


class Applied(_Head, tag=23, frozen=True):
    """The acker has applied all reports up to ``seq``; the broker may forget them."""

    broker_epoch: int
    seq: int


class Probe(_Head, tag=24, frozen=True):
    """The acker asks every broker whether anything is left in it."""

    number: int


class Idle(_Head, tag=25, frozen=True):
    """The broker's answer: what it holds, and a counter that moves with every batch that it touches.

    ``held`` batches are in the hands of receivers; of further ``parked`` ones only items are left that nodes hold.
    ``accepted`` counts the items that this incarnation has taken from senders.
    """

    number: int
    queued: int
    held: int
    reports: int
    activity: int
    parked: int = 0
    accepted: int = 0


# --- producers, workers  <->  acker ------------------------------------------------------------------------------


class ProducerJoin(_Head, tag=30, frozen=True):
    """A producer greets the acker, at every (re)connection. ``inside``: a node that pushes without an anchor.

    ``pid`` and ``started`` name its process, so that one that was killed is not waited for; 0 for one elsewhere.
    """

    version: int
    producer: bytes
    inside: bool
    pid: int = 0
    started: int = 0


class ProducerJoined(_Head, tag=31, frozen=True):
    """The acker's answer: the number of the last batch of this producer that is recorded.

    When nothing is tracked, ``uri`` is the broker of the input's edge: batches go straight there.
    """

    acker_epoch: int
    recorded: int
    uri: str = ""


class Append(_Head, tag=32, frozen=True):
    """+ Record this batch, whose roots enter at the edges in ``entry`` (none: at the input's).

    ``audit``: who feeds it, what the deed is called, and what was chosen, if it is an operator: an entry of the audit
    trail that is recorded with the batch.
    """

    producer: bytes
    seq: int
    count: int
    entry: tuple[str, ...]
    audit: tuple[str, str, str] | None = None


class Receipt(_Head, tag=33, frozen=True):
    """All batches of the producer up to ``seq`` are recorded.

    ``positions`` has the place in the input log of the first root of each of the newest of them, as far as the acker
    knows. ``withheld``: later ones are recorded too, but get their receipts when the backlog is shorter.
    """

    seq: int
    positions: tuple[int, ...] = ()
    withheld: bool = False


class Refused(_Head, tag=34, frozen=True):
    """The acker takes nothing from this producer, and says why; what has a receipt stays recorded."""

    reason: str


class EndOfInput(_Head, tag=35, frozen=True):
    """The producer has nothing more; ``wait`` asks for `Finished` when the graph has ended.

    When nothing is tracked, ``lost`` items were on their way to a broker that died.
    """

    producer: bytes
    wait: bool
    lost: int = 0


class Finished(_Head, tag=36, frozen=True):
    """The graph has ended; ``summary`` is the JSON of the acker's statistics."""

    summary: bytes


class NodeJoin(_Head, tag=40, frozen=True):
    """A worker greets the acker, at every (re)connection; it has run ``begin`` for ``round``."""

    version: int
    node: str
    worker: str
    epoch: int
    round: int


class Turn(_Head, tag=41, frozen=True):
    """The acker tells a worker to run ``begin`` or ``end`` (``what``) of a round."""

    what: str
    round: int


class TurnDone(_Head, tag=42, frozen=True):
    """The worker has run it; ``traceback`` is empty unless the user's code raised.

    When nothing is tracked, ``lost`` of the values that it pushed were on their way to a broker that died.
    """

    what: str
    round: int
    node: str
    worker: str
    epoch: int
    traceback: str
    lost: int = 0


# --- heart  <->  acker, every part  ->  heart, control  <->  heart -------------------------------------------------


class HeartJoin(_Head, tag=50, frozen=True):
    """The heart greets the acker; ``ready`` opens the ready barrier."""

    version: int
    epoch: int
    ready: bool


class Drain(_Head, tag=51, frozen=True):
    """The heart asks the acker to take no more input, finish what is open, and end the graph.

    With ``cut`` there is no more time: workers are about to be killed, and nobody is to be charged for that.
    """

    reason: str
    cut: bool = False


class StatsAsk(_Head, tag=52, frozen=True):
    """The heart asks for the acker's statistics."""

    number: int


class Stats(_Head, tag=53, frozen=True):
    """The statistics as JSON."""

    number: int
    body: bytes


class Alive(_Head, tag=60, frozen=True):
    """A part's heartbeat: who it is, ``state`` in "starting", "ready", "failed", and its counters as JSON."""

    version: int
    name: str
    pid: int
    started: int
    epoch: int
    state: str
    detail: str
    stats: bytes


class End(_Head, tag=61, frozen=True):
    """The heart tells a worker on another machine to end."""

    reason: str


class Ask(_Head, tag=70, frozen=True):
    """A request to the heart's control socket."""

    number: int
    verb: str
    args: bytes


class Answer(_Head, tag=71, frozen=True):
    """Its answer: JSON, or an error text."""

    number: int
    error: str
    body: bytes


Head = (
    Join | Batch | Settle | Leave | Joined | Grant | Deliver | Fenced | EdgeJoin | EdgeJoined | Reports | Applied
    | Probe | Idle | ProducerJoin | ProducerJoined | Append | Receipt | Refused | EndOfInput | Finished | NodeJoin
    | Turn | TurnDone | HeartJoin | Drain | StatsAsk | Stats | Alive | End | Ask | Answer
)  # fmt: skip

#: Raw frames behind each head; `Reports` is checked by its own count.
_FRAMES: Final[dict[type[Any], int]] = {Batch: 3, Deliver: 3, Settle: REPORT_FRAMES, Append: 1}


#: `Fail.kind` of an item whose `process` took too long
TIMED_OUT: Final = "timed out"
#: `Fail.kind` of a death between two items: while the batch was decoded, flushed or sent. Nobody can say whether one of
#: them is at fault, so it is not charged; but that it happens again and again to the same root is remembered.
BETWEEN: Final = "died between items"


class Fail(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Roots that failed for one reason.

    ``charged`` says whether an attempt is counted: the item's own failure is, a lost broker is not. ``roots`` are raw
    root keys. ``edge`` is where the item came from that failed, ``item`` that item as a batch of one (no bytes where it
    is too large or there are several), ``path`` the nodes that it came through, the failing one last.
    """

    kind: str
    charged: bool
    roots: bytes
    node: str
    error: str
    traceback: str
    edge: str = ""
    item: bytes = b""
    path: tuple[str, ...] = ()


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Head] = msgspec.msgpack.Decoder(Head)
_fails: msgspec.msgpack.Decoder[list[Fail]] = msgspec.msgpack.Decoder(list[Fail])

#: What decoding raises: ValueError for text that is not UTF-8, RecursionError for arrays nested too deep.
_UNREADABLE: Final = (msgspec.DecodeError, ValueError, RecursionError)

#: Encode one head to its frame.
pack = _encoder.encode


def unpack(frames: list[bytes]) -> Head:
    """Decode the head of a message and check the number of frames that follow it.

    Args:
        frames: one multipart message, without the routing identity.

    Returns:
        The head.

    Raises:
        WireError: the message is not of this protocol; it is to be counted and dropped.
    """
    try:
        head = _decoder.decode(frames[0])
    except (*_UNREADABLE, IndexError) as error:
        raise WireError(f"a message of {len(frames)} frames has no head that I know: {error}") from None
    expected = _FRAMES.get(type(head), 0)
    if type(head) is Reports:
        expected = REPORT_FRAMES * len(head.acker_epochs)
    if len(frames) - 1 != expected:
        raise WireError(f"{type(head).__name__} came with {len(frames) - 1} frames, not {expected}")
    if isinstance(head, (Batch, Deliver)):
        entries = spans.entries(head.spans, head.count) if head.acker_epoch != UNTRACKED else 0
        if entries is None or not (len(frames[1]) == len(frames[2]) == 8 * entries):
            raise WireError(f"{type(head).__name__} of {head.count} items came with {len(frames[1])} bytes of roots")
    return head


def pack_fails(fails: list[Fail]) -> bytes:
    """Encode the failures of a report; none is no bytes at all."""
    return _encoder.encode(fails) if fails else b""


def unpack_fails(frame: bytes) -> list[Fail]:
    """Decode the failures of a report.

    Raises:
        WireError: the frame is not a list of `Fail`.
    """
    if not frame:
        return []
    try:
        return _fails.decode(frame)
    except _UNREADABLE as error:
        raise WireError(f"the failures of a report cannot be read: {error}") from None
