"""What operators do to dead letters while the acker runs."""

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec

from consecutiond.acker.committer import Committer
from consecutiond.acker.inputlog import InputLog
from consecutiond.acker.stores.base import Failed
from consecutiond.deadletters import CHANGING, MOST, Request, decide, decode_request, encode, read
from consecutiond_broker import wire
from consecutiond_broker.clock import Clock

#: answers that are kept for clients that ask again
_KEPT: Final = 100

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
        if request.verb in CHANGING and closed:
            answer(error=f"{closed}: nothing is changed any more; ask again when it is stopped")
            return
        self._do(request, answer)

    def _do(self, request: Request, answer: Callable[..., None]) -> None:
        store, ask = self._committer.store, self._committer.ask
        if request.verb not in CHANGING:
            ask(lambda: read(request, store), answer)
            return
        limit = min(max(1, request.limit), MOST)
        ask(
            lambda: store.dead_letters(request.after, limit, request.where),
            lambda letters: self._change(request, letters, answer),
        )

    def _change(self, request: Request, letters: list[Failed], answer: Callable[..., None]) -> None:
        decision = decide(request, letters, self._edges, self._busy)
        positions = decision.positions
        if decision.error or not positions:
            answer(decision.outcome, decision.error)
            return
        self._busy.update(positions)

        def recorded() -> None:
            self._busy.difference_update(positions)
            answer(decision.outcome)

        audit = decision.audit(request, self._clock.wall())
        if decision.waiting:
            self._log.revive(decision.waiting, audit, recorded)
        elif decision.discarded:
            self._log.discard(decision.discarded, audit, recorded)
        else:
            self._log.edit(decision.edited[0], audit, recorded)
