"""What a peer has asked and was not told yet. Law: every question gets one answer, whatever fails.

Where the wire has no numbers for them, answers go out in the order of asking. On wires that want one action per observation each
question waits for the one before it, since the next step depends on the last.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

from actlink.dialects._base import Chunks, Failed, Infer, ServerDialect
from actlink.errors import ActlinkError, InternalError, OverloadedError
from actlink.policies._base import Result
from actlink.serving import intake
from actlink.serving.engine import Call
from actlink.serving.session import Host, Session

logger = logging.getLogger("actlink.serving")


class _Question(NamedTuple):
    session: Session
    event: Infer
    arrived_s: float
    decoded_s: float


class Questions:
    """One peer's; lives on the event loop."""

    def __init__(
        self,
        host: Host,
        dialect: ServerDialect,
        peer: str,
        deliver: Callable[[Chunks | Failed], None],
        bug: Callable[[str], InternalError],
    ) -> None:
        """``deliver`` takes each answer. ``bug`` is told in what an unforeseen exception was raised; it gives the peer's error."""
        self._execution = dialect.execution
        self._newest_wins = dialect.newest_wins
        self._peer = peer
        self._deliver = deliver
        self._bug = bug
        self._counters = host.counters
        self._most_held = host.config.queue_per_session
        self._loop = asyncio.get_running_loop()
        self._calls: deque[Call] = deque()
        self._held: deque[_Question] = deque()  # per-step wires: asked before the step before was answered
        self._starting = False
        self._noted_unknown = False

    @property
    def open(self) -> bool:
        """Whether an answer is being worked on."""
        return bool(self._calls)

    def ask(self, session: Session, event: Infer, arrived_s: float, decoded_s: float) -> None:
        """Have ``event`` answered; ``OverloadedError`` if too many wait for the one before them."""
        question = _Question(session, event, arrived_s, decoded_s)
        if self._execution is None or not (self._calls or self._held):
            self._start(question)
            return
        if len(self._held) >= self._most_held:
            raise OverloadedError(f"{len(self._held)} requests of this peer wait for the one before them; no room for more")
        self._held.append(question)

    def fail(self, error: ActlinkError) -> None:
        """Answer everything that is still unanswered with ``error``."""
        self._starting = True  # nothing new is begun meanwhile
        try:
            for call in list(self._calls):
                call.fail(error)
            while self._held:
                self._deliver(Failed(error, call=self._held.popleft().event.call))
        finally:
            self._starting = False

    def abandon(self) -> None:
        """Nobody waits for the answers any more."""
        self._held.clear()
        for call in self._calls:
            call.open = False
        self._counters.open_calls -= len(self._calls)
        self._calls.clear()

    def _start(self, question: _Question) -> None:
        session, event = question.session, question.event
        steps = [session.step if lane.step is None else lane.step for lane in event.lanes]
        call = Call(event.call, steps, question.arrived_s, question.decoded_s, partial(self._settled, session))
        self._calls.append(call)
        self._counters.open_calls += 1
        session.step = steps[0] + 1
        try:
            session.widen(len(event.lanes), self._execution)
            entries = intake.entries(session, event, call, self._newest_wins, self._count_unknown)
            if entries:
                session.engine.submit(entries)
        except ActlinkError as error:
            call.fail(error)
        except Exception:
            call.fail(self._bug("taking in an observation"))

    def _settled(self, session: Session, call: Call) -> None:
        if call.tag is not None:
            self._calls.remove(call)
            self._answer(session, call)
        else:  # a wire without call numbers tells answers apart by their order alone
            while self._calls and self._calls[0].settled:
                self._answer(session, self._calls.popleft())
        self._start_held()

    def _start_held(self) -> None:
        """What has waited for this answer; in a loop, since some are answered as soon as they are begun."""
        if self._starting:
            return
        self._starting = True
        try:
            while self._held and not self._calls:
                self._start(self._held.popleft())
        finally:
            self._starting = False

    def _answer(self, session: Session, call: Call) -> None:
        call.open = False
        self._counters.open_calls -= 1
        results = self._executed(session, call)
        errors = [result for result in results if isinstance(result, ActlinkError)]
        if len(errors) == len(results):
            self._deliver(Failed(errors[0], call=call.tag))
            return
        for error in errors:
            self._counters.error(error.code)
        now_s = self._loop.time()
        server_ms = 1e3 * (now_s - call.arrived_s)
        timing = {"decode_ms": 1e3 * (call.decoded_s - call.arrived_s), **call.stages, "server_ms": server_ms, "clock_s": now_s}
        self._counters.answered += len(results) - len(errors)
        self._counters.latency(server_ms)
        self._deliver(Chunks(results, timing, call.tag))

    def _executed(self, session: Session, call: Call) -> tuple[Result, ...]:
        """The results of the lanes; on per-step wires the action of this very step instead of the policy's chunk."""
        if not session.steppers:
            return tuple(cast("list[Result]", call.results))
        lanes = zip(session.steppers, call.results, call.steps, strict=False)
        try:
            results: tuple[Result, ...] = tuple(stepper.answer(result, step) for stepper, result, step in lanes)
        except ActlinkError as error:
            results = (error,)
        except Exception:  # somebody's strategy: neither this peer's next question nor another peer's answer may be lost
            results = (self._bug("executing an action chunk"),)
        if all(isinstance(result, ActlinkError) for result in results) and session.step == call.steps[0] + 1:
            session.step -= 1  # nothing was answered, so the peer is still where it was
        return results

    def _count_unknown(self, unknown: frozenset[str]) -> None:
        self._counters.unknown_keys += len(unknown)
        if not self._noted_unknown:
            self._noted_unknown = True
            names = ", ".join(sorted(name[:80] for name in unknown)[:8])
            logger.warning("%s: sends what the policy does not know, ignored: %s", self._peer, names)
