"""What operators do to dead letters while the acker runs."""

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec

from consecutiond.acker.committer import Committer
from consecutiond.acker.inputlog import InputLog
from consecutiond.acker.stores.base import Failed
from consecutiond.deadletters import MOST, Outcome, Request, audit, begin_at, decode_request, encode
from consecutiond_broker import wire
from consecutiond_broker.clock import Clock
from consecutiond_broker.codec import split
from consecutiond_broker.errors import CodecError

#: answers that are kept for clients that ask again
_KEPT: Final = 100
_BUSY: Final = "somebody else is acting on it just now"

_Answer = Callable[[wire.Answer], object]


class Operations:
    """Answers the requests of `consecutiond failed`.

    A client sends its request again until it has the answer, since an acker may be killed meanwhile; one acker acts on
    it once. Dead letters that an earlier acker has acted on are dead letters no more.

    Args:
        log: the input log.
        committer: the store's thread.
        clock: the time.
        edges: those of the graph.
    """

    def __init__(self, log: InputLog, committer: Committer, clock: Clock, edges: Collection[str]) -> None:
        self._log, self._committer, self._clock, self._edges = log, committer, clock, edges
        #: positions that a group commit on its way takes out of the dead letters, or changes there
        self._busy: set[int] = set()
        self._answers: OrderedDict[tuple[bytes, int], wire.Answer | None] = OrderedDict()

    def obey(self, peer: bytes, ask: wire.Ask, closed: str, send: _Answer) -> None:
        """Act on a request.

        Args:
            peer: who asks.
            ask: the request.
            closed: why nothing is taken up any more; empty while it is.
            send: sends the answer.
        """
        key = peer, ask.number
        if key in self._answers:
            known = self._answers[key]
            if known is not None:
                send(known)
            return
        self._answers[key] = None
        while len(self._answers) > _KEPT:
            self._answers.popitem(last=False)

        def answer(body: Any = None, error: str = "") -> None:
            found = self._answers[key] = wire.Answer(ask.number, error, encode(body))
            send(found)

        try:
            request = decode_request(ask.args)
        except (msgspec.DecodeError, ValueError) as error:
            answer(error=f"this is no request: {error}")
            return
        if request.verb in ("replay", "discard", "edit") and closed:
            answer(error=f"{closed}: nothing is changed any more; ask again when it is stopped")
            return
        self._do(request, answer)

    def _do(self, request: Request, answer: Callable[..., None]) -> None:
        store, where, after = self._committer.store, request.where, request.after
        limit = min(max(1, request.limit), MOST)
        ask = self._committer.ask
        if request.verb == "groups":
            ask(lambda: store.groups(where), answer)
        elif request.verb == "count":
            ask(lambda: store.count_dead(where), answer)
        elif request.verb == "list":
            ask(lambda: store.dead_letters(after, limit, where), answer)
        elif request.verb == "audits":
            ask(lambda: store.audits(after, limit), answer)
        else:
            act = {"replay": self._replay, "discard": self._discard, "edit": self._edit}[request.verb]
            ask(lambda: store.dead_letters(after, limit, where), lambda letters: act(request, letters, answer))

    def _replay(self, request: Request, letters: list[Failed], answer: Callable[..., None]) -> None:
        rows, left = [], []
        for letter in letters:
            row = begin_at(letter, request.start, self._edges)
            if letter.position in self._busy:
                left.append((letter.position, _BUSY))
            elif isinstance(row, str):
                left.append((letter.position, row))
            else:
                rows.append(row)
        outcome = Outcome(len(rows), letters[-1].position if letters else 0, left)
        then = self._acting([row.position for row in rows], outcome, answer)
        if then is not None:
            self._log.revive(rows, audit(request, f"replay from {request.start}", len(rows), self._clock.wall()), then)

    def _discard(self, request: Request, letters: list[Failed], answer: Callable[..., None]) -> None:
        positions = [letter.position for letter in letters if letter.position not in self._busy]
        left = [(letter.position, _BUSY) for letter in letters if letter.position in self._busy]
        outcome = Outcome(len(positions), letters[-1].position if letters else 0, left)
        then = self._acting(positions, outcome, answer)
        if then is not None:
            self._log.discard(positions, audit(request, "discard", len(positions), self._clock.wall()), then)

    def _edit(self, request: Request, letters: list[Failed], answer: Callable[..., None]) -> None:
        problem = _bad_value(request.value)
        if problem or len(letters) != 1:
            answer(error=problem or f"exactly one dead letter can be edited at a time, not {len(letters)}")
            return
        [letter] = letters
        if letter.position in self._busy:
            answer(error=_BUSY)
            return
        edited = msgspec.structs.replace(letter, body=request.value, item=b"", start_edge="", start_item=b"")
        then = self._acting([letter.position], Outcome(1, letter.position), answer)
        if then is not None:
            self._log.edit(edited, audit(request, "edit", 1, self._clock.wall()), then)

    def _acting(self, positions: list[int], outcome: Outcome, answer: Callable[..., None]) -> Callable[[], None] | None:
        """Keep others off the dead letters until it is recorded; None, and answered, if there are none."""
        if not positions:
            answer(outcome)
            return None
        self._busy.update(positions)

        def recorded() -> None:
            self._busy.difference_update(positions)
            answer(outcome)

        return recorded


def _bad_value(value: bytes) -> str:
    try:
        count = len(split(value))
    except CodecError as error:
        return str(error)
    return "" if count == 1 else f"the new value of a root is one value, not {count}"
