"""Asker + strategy + clock + hold: the only loop that knows time. Law: an action runs at its own control step or never.

One loop for three kinds of world. One that waits (a paused simulator): no rate, an asker that answers within the tick. Simulated
time: a rate and a clock that jumps. The real one: a rate and the machine's clock, an asker on a thread of its own. There the step
counter follows the clock: step ``t`` belongs to the moment ``start + t / rate``, and a tick that lasted too long costs the steps
that passed meanwhile. They are never made up for by commands in a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from actlink.asking import Arrival, Asker
from actlink.clock import Clock
from actlink.errors import ActlinkError, ConfigError, LocalProtocolError, PolicyError, UnauthorizedError, UnknownModelError
from actlink.execution._base import Replan, Strategy
from actlink.safety import REASONS, Decision, Guard
from actlink.ticks import Log, Tick
from actlink.types import Array, Observation

_NOT_THE_EPISODES = (ConfigError, LocalProtocolError, UnauthorizedError, UnknownModelError)
"""Errors that the next episode would meet as well: the operator has to act."""


class World(Protocol):
    """What a controller drives: an environment in a rollout, a robot."""

    def observe(self) -> Observation | None:
        """The observation of the present control step; None where there is none (a camera dropped a frame)."""

    def act(self, action: Array) -> bool:
        """Run one control step with ``action`` ``(action_dim,)``; False when the episode ended with it."""

    def hold_action(self, last: Array | None) -> Array:
        """The action that keeps the embodiment where it is; ``last`` is the previous action, None at the start."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one run was like, apart from what it achieved."""

    steps: int = 0
    """Ticks: control steps at which something was commanded."""
    starved: int = 0
    """Control steps that held for want of an action."""
    dropped: int = 0
    """Chunks thrown away because they were for another episode or step."""
    latencies_ms: tuple[float, ...] = ()
    """For every chunk, from the request to its arrival."""
    inference_ms: tuple[float, ...] = ()
    """For every chunk whose timing has it, the policy's own time (``infer_ms``)."""
    batched: int = 0
    """Chunks of which the timing says that other requests ran in the same batch."""
    error: str | None = None
    """Why the run ended before its time, as ``code: message``; None where the world ended it."""
    lost: int = 0
    """Questions that no chunk answered."""
    blind: int = 0
    """Control steps that wanted to ask and had no observation."""
    guarded: int = 0
    """Control steps that held because the guard let nothing through."""
    missed: int = 0
    """Control steps that passed without a tick because an earlier one lasted too long."""
    first_error: str | None = None
    """Of the questions that no chunk answered, what happened to the first, as ``code: message``."""


@dataclass
class _Tally:
    """A ``Record`` while it is still growing; bounded, since a robot may run for days."""

    steps: int = 0
    starved: int = 0
    lost: int = 0
    blind: int = 0
    guarded: int = 0
    missed: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    inference_ms: list[float] = field(default_factory=list)
    batched: int = 0
    first_error: str | None = None

    def add(self, arrival: Arrival) -> None:
        if arrival.chunk is None:
            self.lost += 1
            if self.first_error is None and arrival.error is not None:
                self.first_error = f"{arrival.error.code}: {arrival.error}"
            return
        timing = arrival.chunk.timing
        _append(self.latencies_ms, 1e3 * (arrival.arrived_s - arrival.sent_s))
        if "infer_ms" in timing:
            _append(self.inference_ms, float(timing["infer_ms"]))
        self.batched += timing.get("batch_size", 1.0) > 1

    def record(self, dropped: int, error: str | None) -> Record:
        return Record(
            self.steps,
            self.starved,
            dropped,
            tuple(self.latencies_ms),
            tuple(self.inference_ms),
            self.batched,
            error,
            self.lost,
            self.blind,
            self.guarded,
            self.missed,
            self.first_error,
        )


MAX_LATENCIES = 100_000
MOST_CHUNKS = 1_000
"""Of so many it is known whose they are: more than can lie within the age of an action that may still run."""

FIRST_TRIES = 3
"""How often a first chunk that is waited for is asked for; then the loop begins without."""

_HOLD = Decision("hold", None, ("no_action",))


def _append(values: list[float], value: float) -> None:
    if len(values) == MAX_LATENCIES:
        del values[: MAX_LATENCIES // 2]
    values.append(value)


class Controller:
    """Runs a strategy in a world, one episode after the other."""

    def __init__(
        self,
        asker: Asker,
        strategy: Strategy,
        clock: Clock,
        *,
        rate_hz: float | None = None,
        guard: Guard | None = None,
        pose: Callable[[], Array | None] | None = None,
        log: Log | None = None,
        missed: Callable[[int], None] | None = None,
        first_chunk: bool = False,
        session: str = "",
    ) -> None:
        """``rate_hz``: control steps per second of ``clock``; None: the world waits, and no step lasts any time.

        ``guard`` has the last word at every tick, and ``pose`` tells it the measured pose in the units of the action; ``session``
        is the asker's, and with a guard nothing of another session or episode runs.
        ``missed`` is told, before the tick that follows, how many control steps passed without one: a simulator that this loop
        drives in real time has to run them. ``first_chunk``: the first tick waits for the first chunk. Step 0 is then the moment
        of that chunk's observation, and the steps until it came have no tick: the world stands, and nothing is commanded.
        """
        if rate_hz is not None and not (math.isfinite(rate_hz) and rate_hz > 0):
            raise ConfigError(f"rate_hz: expected more than 0, got {rate_hz}")
        self._asker = asker
        self._strategy = strategy
        self._clock = clock
        self._rate_hz = rate_hz
        self._guard = guard
        self._pose = pose
        self._log = log
        self._missed = missed
        self._first_chunk = first_chunk and rate_hz is not None
        self._session = session
        self._episode = -1  # the first is 0
        self._whose: dict[int, tuple[int, str]] = {}  # step of a chunk that was taken in -> its episode and session, newest last

    def run(self, world: World) -> Record:
        """One episode, until ``world.act`` says that it is over or something fails.

        What failed in this episode alone (``PolicyError``, ``SpecError``, ``SimulationError``, a refusal, a reply that its wire
        does not allow) ends it and stands in ``Record.error``. Errors of link and server (``infrastructure``), and those the
        operator has to put right, are raised. What an asker merely reports as lost ends nothing.
        """
        self._episode += 1
        self._strategy.reset()
        self._asker.begin(self._episode)
        if self._guard is not None:
            self._guard.begin(self._episode, self._session)
        tally = _Tally()
        try:
            self._loop(world, tally)
        except ActlinkError as error:
            if error.infrastructure or isinstance(error, _NOT_THE_EPISODES):
                raise
            return tally.record(self._asker.dropped, f"{error.code}: {error}")
        return tally.record(self._asker.dropped, None)

    def _loop(self, world: World, tally: _Tally) -> None:
        start_s, first = self._first(world) if self._first_chunk else (self._clock.now(), [])
        if self._log is not None:
            self._log.begin(start_s)
        last: Array | None = None
        step, skipped = self._present(start_s), 0
        going = True
        while going:
            began_s = now_s = self._clock.now()
            arrivals = [*self._given(first, step, tally), *self._take(step, now_s, tally)]
            first = []
            asked = self._ask(world, step, now_s, tally)
            measured = None if self._pose is None or self._guard is None else self._pose()
            step, passed = self._after_looking(start_s, step)
            tally.missed += passed
            skipped += passed
            now_s = self._clock.now()
            began_s = now_s if passed else began_s
            arrivals += self._take(step, now_s, tally)
            planned = self._strategy.action(step)
            basis = None if planned is None else self._strategy.observed(step)
            decision = self._decide(now_s, step, planned, basis, measured)
            tally.starved += planned is None
            tally.guarded += planned is not None and decision.kind != "act"
            action = world.hold_action(last) if decision.action is None else decision.action
            going = world.act(action) and decision.kind != "stop"
            last = action
            tally.steps += 1
            if self._log is not None:
                due_s = began_s if self._rate_hz is None else start_s + step / self._rate_hz
                times = began_s - start_s, began_s - due_s
                held = decision.kind != "act"
                tick = Tick(step, *times, asked, basis, planned is None, held, decision.reasons, decision.latched, skipped, action)
                self._log.tick(tick, arrivals)
            step, skipped = self._next(start_s, step)
            tally.missed += skipped

    def _decide(self, now_s: float, step: int, planned: Array | None, basis: int | None, measured: Array | None) -> Decision:
        if self._guard is not None:
            episode, session = (None, None) if basis is None else self._whose.get(basis, (None, None))
            return self._guard.decide(now_s, step, planned, basis, measured, episode=episode, session=session)
        return _HOLD if planned is None else Decision("act", planned)

    def _first(self, world: World) -> tuple[float, list[Arrival]]:
        """Ask and wait for the first chunk: the moment that is step 0, and what came. A lost one is asked for again."""
        for _ in range(FIRST_TRIES):
            start_s = self._clock.now()
            replan, observation = self._strategy.replan(0), world.observe()
            if replan is None or observation is None:
                self._strategy.lost(0)
                break
            self._asker.ask(observation, replan, start_s)
            while not (arrivals := list(self._asker.arrived(self._clock.now()))):
                self._clock.wait_until(self._clock.now() + 0.002)
            if any(arrival.chunk is not None for arrival in arrivals):
                return start_s, arrivals
            self._strategy.lost(0)
        return self._clock.now(), []

    @property
    def _latched(self) -> bool:
        return self._guard is not None and self._guard.latched

    def _take(self, step: int, now_s: float, tally: _Tally) -> list[Arrival]:
        return self._given(list(self._asker.arrived(now_s)), step, tally)

    def _given(self, arrivals: list[Arrival], step: int, tally: _Tally) -> list[Arrival]:
        arrivals = [self._own(arrival) for arrival in arrivals]
        for arrival in arrivals:
            if arrival.chunk is not None:
                if self._latched:
                    self._strategy.stopped()
                self._strategy.add(arrival.chunk, step)
            else:
                self._strategy.lost(arrival.step)
            tally.add(arrival)
        return arrivals

    def _own(self, arrival: Arrival) -> Arrival:
        """The same, or a lost one where the guard lets nothing of that chunk's episode and session run: it must not be mixed in."""
        chunk = arrival.chunk
        if self._guard is None or chunk is None:
            return arrival
        reason = self._guard.foreign(chunk.episode, chunk.session)
        if reason is not None:
            said = f"{reason}: {REASONS[reason]} (episode {chunk.episode}, session {chunk.session!r})"
            return replace(arrival, chunk=None, error=PolicyError(said))
        self._whose.pop(chunk.step, None)
        self._whose[chunk.step] = chunk.episode, chunk.session
        if len(self._whose) > MOST_CHUNKS:
            del self._whose[next(iter(self._whose))]
        return arrival

    def _ask(self, world: World, step: int, now_s: float, tally: _Tally) -> bool:
        """Ask if the strategy wants to and the world can be seen; whether it was asked."""
        replan = self._strategy.replan(step)
        if replan is None:
            return False
        observation = world.observe()
        if observation is None:
            tally.blind += 1
            self._strategy.lost(step)
            return False
        if self._latched:  # the plan will not run, so nothing continues it
            replan = Replan(replan.step, must_go=replan.must_go)
        self._asker.ask(observation, replan, now_s)
        return True

    def _next(self, start_s: float, step: int) -> tuple[int, int]:
        """Wait for the next control step; its number, and how many were passed over because their time is gone."""
        following = step + 1
        if self._rate_hz is None:
            return following, 0
        self._clock.wait_until(start_s + following / self._rate_hz)
        skipped = max(0, self._present(start_s) - following)
        if skipped and self._missed is not None:
            self._missed(skipped)
        return following + skipped, skipped

    def _after_looking(self, start_s: float, step: int) -> tuple[int, int]:
        """The control step to command, and how many passed while the world was looked at.

        The time of their actions is gone; and to the guard it is now, since meanwhile the watchdog may have held the arm.
        """
        passed = max(0, self._present(start_s) - step)
        if passed and self._missed is not None:
            self._missed(passed)
        return step + passed, passed

    def _present(self, start_s: float) -> int:
        """The control step of now."""
        if self._rate_hz is None:
            return 0
        # The small number: a moment that is exactly a step's belongs to it whatever the rounding.
        return math.floor((self._clock.now() - start_s) * self._rate_hz + 1e-6)
