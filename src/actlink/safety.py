"""The last word before the driver. Law: nothing runs that is not finite, fresh and within limits; else the arm holds, in this tick.

Pure: time, step and measured pose are arguments, so that any run can be replayed. ``docs/safety.md`` says what this is, and that it
is no certified safety function. Order of the checks: finite, stale (step, episode, session, age), latch, position, step and rate,
acceleration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from actlink._limits import Limits
from actlink._motion import Easing, Shown
from actlink.errors import ConfigError
from actlink.spec import Field
from actlink.types import Array

Kind = Literal["act", "hold", "stop"]

REASONS = {
    "no_action": "there is no action for this control step",
    "malformed": "the action is not an array of the action's shape",
    "not_finite": "the action is not finite",
    "wrong_step": "the action is meant for another control step",
    "wrong_episode": "the action is of another episode",
    "wrong_session": "the action is of another session",
    "repeated_step": "an action of this control step, or of a later one, has run",
    "no_observation": "it is not known which observation the action rests on",
    "stale": "the observation that the action rests on is too old",
    "before_stop": "the action rests on an observation from before the arm stood still",
    "latched": "stopped until it is armed again",
    "rearmed": "armed again",
    "late_tick": "the tick before lasted so long that the watchdog has held the arm",
    "no_pose": "the measured pose is needed and is not finite or not of the action's shape",
    "position": "outside the range of a joint",
    "step": "further from the command before than one control step allows",
    "acceleration": "more unlike the step before than one control step allows",
    "resuming": "brought from the measured pose to the plan, one step at a time",
}
"""What may stand in ``Decision.reasons``, and what it means."""

EPSILON_S = 1e-9
MAX_OPEN_LOOP_S = 2.0
"""The default of ``Config.max_open_loop_s`` is a chunk's length and one control step, and never more than this."""

WATCHDOG_STEPS = 1.5


@dataclass(frozen=True)
class Config:
    """Options of the guard. A limit has one value per entry of the action, or one for all."""

    lower: tuple[float, ...] | None = None
    """Smallest value of each entry; None: the range that the robot states."""
    upper: tuple[float, ...] | None = None
    """Largest value of each entry; None: the range that the robot states."""
    max_step: tuple[float, ...] | None = None
    """Largest change from one control step to the next, in the action's unit."""
    max_rate: tuple[float, ...] | None = None
    """Largest change per second, in the action's unit; with max_step, the smaller of both counts."""
    max_acceleration: tuple[float, ...] | None = None
    """Largest change of the speed per second, in the action's unit per s^2. The way to rest is not bound by it."""
    on_violation: Literal["clamp", "refuse"] = "clamp"
    """An action outside the limits is brought inside, or does not run."""
    resume_step: tuple[float, ...] | None = None
    """Largest step from the measured pose after an outage; None: max_step, else 2 % of the range, else the run's own largest."""
    max_open_loop_s: float | None = None
    """An action runs while its observation is younger than this; None: the chunk's length and one step, at most 2 s."""
    ramp_s: float = 0.25
    """From the last fresh action, motion is taken down to zero in this time."""
    latch_s: float = 1.0
    """So long after the last fresh action the arm is latched, and moves again only when armed."""
    watchdog_s: float = 0.2
    """Without a tick of the control loop for this long, the watchdog holds the arm."""
    rearm: bool = False
    """A latched arm moves again by itself once observations and actions are fresh; else by key."""
    on_link_loss: Literal["hold", "exit"] = "hold"
    """What a latched client does: stay up and hold with torque, or stop and disconnect."""

    def __post_init__(self) -> None:
        for name in ("max_step", "max_rate", "max_acceleration", "resume_step"):
            value = getattr(self, name)
            if value is not None and not (value and all(each > 0 for each in value)):
                raise ConfigError(f"{name}: expected values above 0, got {value}")
        for name, most in (("ramp_s", 0.5), ("latch_s", 60.0), ("watchdog_s", 1.0), ("max_open_loop_s", 60.0)):
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise ConfigError(f"{name}: expected above 0, at most {most:g}, got {value}")
        if self.ramp_s > self.latch_s:
            raise ConfigError(f"ramp_s: expected at most latch_s ({self.latch_s:g}), got {self.ramp_s:g}")


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What happens in this control step."""

    kind: Kind
    """``act``: run ``action``. ``hold``: run it if there is one, else the embodiment's own hold. ``stop``: hold, and leave."""
    action: Array | None
    """float32 ``(action_dim,)`` (int64 where discrete), within every limit: the planned one, or a step of the way to rest."""
    reasons: tuple[str, ...] = ()
    """Keys of ``REASONS``: why it is not, or not quite, what was planned."""
    latched: bool = False


class Guard:
    """Decides, tick by tick, for one embodiment."""

    def __init__(
        self, config: Config, action: Field, rate_hz: float, *, action_horizon: int | None = None, control_type: str = "abs"
    ) -> None:
        """``action``, ``rate_hz`` and ``control_type`` are the robot's, ``action_horizon`` (rows of a chunk) the policy's.

        ``ConfigError`` where limits and action do not fit.
        """
        if not 0 < rate_hz < float("inf"):
            raise ConfigError(f"rate_hz: expected above 0, got {rate_hz}")
        longest = MAX_OPEN_LOOP_S if action_horizon is None else min((action_horizon + 1) / rate_hz, MAX_OPEN_LOOP_S)
        if config.watchdog_s * rate_hz < WATCHDOG_STEPS:
            least_s = WATCHDOG_STEPS / rate_hz
            raise ConfigError(
                f"watchdog_s: expected at least {WATCHDOG_STEPS} control steps, {least_s:g} s at {rate_hz:g} Hz, "
                f"got {config.watchdog_s:g}: the watchdog would hold the arm in every step"
            )
        self.config = config
        self.max_open_loop_s = config.max_open_loop_s or longest
        self._limits = Limits(
            action,
            rate_hz,
            control_type,
            lower=config.lower,
            upper=config.upper,
            max_step=config.max_step,
            max_rate=config.max_rate,
            resume_step=config.resume_step,
            max_acceleration=config.max_acceleration,
        )
        limits = self._limits
        self._shown = Shown(limits.resume, rate_hz)
        self._easing = None if limits.acceleration is None else Easing(limits.acceleration, limits.lower, limits.upper)
        self._rate_hz = rate_hz
        self._latched = False
        self._rearm_asked = False
        self._now_s = -float("inf")
        self.begin()

    def begin(self, episode: int = 0, session: str = "") -> None:
        """A new episode: its first command starts from the measured pose. A latch outlives it."""
        self._episode, self._session = episode, session
        self._ticks: dict[int, float] = {}  # control step -> its time, as far back as an observation may be
        self._acted: int | None = None  # control step of the last action that ran
        self._fresh_s: float | None = None  # and its time
        self._last: Array | None = None  # last command
        self._last_step = 0  # and its control step
        self._velocity: Array | None = None  # its change per control step
        self._rest_step: int | None = None  # control step at which the embodiment's own hold began
        self._outage = True  # the next command starts from the measured pose
        self._resuming = False  # from there to the plan, one step at a time
        self._shown.begin()
        self._way: tuple[Array | None, Array | None] = None, None  # the present command's start, and the plan inside its range
        self._rearm_until_s = -float("inf")

    @property
    def latched(self) -> bool:
        return self._latched

    @property
    def state(self) -> Literal["waiting", "moving", "holding", "latched"]:
        """For people: no action yet, the last tick acted, it held, or it holds until armed."""
        if self._latched:
            return "latched"
        if self._fresh_s is None:
            return "waiting"
        return "moving" if self._fresh_s == self._now_s else "holding"

    @property
    def unlimited(self) -> bool:
        """No step limit is configured, and the range tells none: the first command may be any. Worth a warning.

        After an outage the run itself tells how far a step goes: see ``Shown``.
        """
        return self._limits.positions and not self._shown.complete

    def rearm(self) -> None:
        """The operator's key: a latched arm may move again if a fresh action comes within ``latch_s``. Any thread may call it."""
        self._rearm_asked = True

    def decide(
        self,
        now_s: float,
        step: int,
        planned: Array | None,
        observed_step: int | None,
        measured: Array | None = None,
        *,
        meant_for: int | None = None,
        episode: int | None = None,
        session: str | None = None,
    ) -> Decision:
        """What happens at control step ``step``, at ``now_s`` (monotonic seconds).

        ``planned`` ``(action_dim,)``: the strategy's action; ``observed_step``: control step of the observation it rests on.
        ``measured``: the embodiment's pose in the units of the action; None where it has none. ``meant_for``, ``episode`` and
        ``session`` are the action's own, where they are known apart from the caller's.
        """
        late = self._advance(now_s, step)
        problem = self._malformed(planned)
        if problem is None:
            problem = self._stale(step, observed_step, meant_for, episode, session)
        notes = ["late_tick"] if late else []
        armed = self.config.rearm or self._now_s <= self._rearm_until_s
        if self._latched and (problem is not None or not armed):
            notes, problem = ([*notes, problem] if problem else notes), "latched"
        if problem is None:
            assert planned is not None
            action, limited = self._limit(step, planned, measured)
            if action is not None:
                return self._act(step, action, (*notes, *(["rearmed"] if self._latched else []), *limited))
            notes += limited + (["latched"] if self._latched else [])
        else:
            notes.append(problem)
        return self._hold(step, tuple(notes))

    def _advance(self, now_s: float, step: int) -> bool:
        """Time goes on, never back; whether the last tick is so long ago that somebody else has held the arm."""
        before_s, self._now_s = self._now_s, max(now_s, self._now_s)
        late = self._now_s - before_s >= self.config.watchdog_s - EPSILON_S and bool(self._ticks)
        if late:
            self._outage, self._velocity = True, None
            self._rest_step = step if self._rest_step is None else self._rest_step
        self._ticks[step] = self._now_s
        while len(self._ticks) > self.max_open_loop_s * self._rate_hz + 2:
            del self._ticks[next(iter(self._ticks))]
        if self._rearm_asked:  # before the arm is latched there is nothing that a key could mean
            self._rearm_asked = False
            self._rearm_until_s = self._now_s + self.config.latch_s if self._latched else -float("inf")
        if self._fresh_s is not None and self._now_s - self._fresh_s >= self.config.latch_s - EPSILON_S:
            self._latched = True
        return late

    def foreign(self, episode: int | None, session: str | None) -> str | None:
        """Why nothing of this ``episode`` and ``session`` may run here: a key of ``REASONS``. None: it may, or nothing is known."""
        if episode is not None and episode != self._episode:
            return "wrong_episode"
        if session is not None and session != self._session:
            return "wrong_session"
        return None

    def _malformed(self, planned: object) -> str | None:
        if planned is None:
            return "no_action"
        if (
            not isinstance(planned, np.ndarray)
            or planned.shape != self._limits.shape
            or planned.dtype.kind not in self._limits.kinds
        ):
            return "malformed"
        with np.errstate(all="ignore"):
            finite = np.isfinite(planned.astype(np.float32)).all()
        return None if finite else "not_finite"

    def _stale(
        self, step: int, observed: int | None, meant_for: int | None, episode: int | None, session: str | None
    ) -> str | None:
        if meant_for is not None and meant_for != step:
            return "wrong_step"
        if reason := self.foreign(episode, session):
            return reason
        if self._acted is not None and step <= self._acted:
            return "repeated_step"
        if observed is None or observed > step:
            return "no_observation"
        # By the steps' own grid and by the clock: a loop that stood still has aged what it saw.
        age_s = max((step - observed) / self._rate_hz, self._now_s - self._ticks.get(observed, self._now_s))
        if age_s >= self.max_open_loop_s - EPSILON_S:
            return "stale"
        if self._latched and self._rest_step is not None and observed < self._rest_step:
            return "before_stop"
        return None

    def _limit(self, step: int, planned: Array, measured: Array | None) -> tuple[Array | None, list[str]]:
        limits, clamp = self._limits, self.config.on_violation == "clamp"
        if not limits.positions:  # each action is a step of its own
            return limits.apply(planned, None, limits.step, clamp, "step")
        reference, back = self._last, self._outage or self._resuming
        if self._outage and measured is not None:
            if np.shape(measured) != limits.shape or not np.isfinite(measured).all():
                return None, ["no_pose"]
            reference = np.asarray(measured, np.float32)
        most = self._shown.way(step, planned, reference, self._outage) if back else limits.step
        action, notes = limits.apply(planned, reference, most, back or clamp, "resuming" if back else "step")
        if back and "position" in notes and not clamp:
            return None, ["position"]
        if back:
            self._resuming = "resuming" in notes
        if action is not None and self._easing is not None and reference is not None:
            plan = np.clip(planned, limits.lower, limits.upper).astype(np.float32)
            self._way = reference, plan
            eased = limits.inside(self._easing.eased(plan, reference, self._outage, most), reference, most)
            if not np.allclose(eased, action, rtol=1e-6, atol=1e-9):
                action, notes = (eased if back or clamp else None), [*notes, "acceleration"]
        return action, notes

    def _act(self, step: int, action: Array, notes: tuple[str, ...]) -> Decision:
        moving = self._last is not None and not self._outage and self._limits.positions
        self._velocity = (action - self._last) / np.float32(step - self._last_step) if moving else None
        if "resuming" not in notes:
            self._shown.ran(step, action, self._last)
        if self._easing is not None:
            self._easing.ran(action, *self._way)
        self._last, self._last_step, self._acted, self._fresh_s = action, step, step, self._now_s
        self._rest_step, self._outage, self._latched = None, False, False
        return Decision("act", action.copy(), notes)

    def _hold(self, step: int, notes: tuple[str, ...]) -> Decision:
        kind: Kind = "stop" if self._latched and self.config.on_link_loss == "exit" else "hold"
        command = self._slowing()
        if self._easing is not None:
            self._easing.ran(command, self._last, None)
        if command is None:
            self._outage, self._velocity = True, None
            self._rest_step = step if self._rest_step is None else self._rest_step
        else:
            self._last, self._last_step = command, step
        return Decision(kind, None if command is None else command.copy(), notes, self._latched)

    def _slowing(self) -> Array | None:
        """The next command on the way to rest; None once at rest, or where there is nothing to slow down."""
        if self._last is None or self._velocity is None or self._fresh_s is None or self._rest_step is not None:
            return None
        left = 1 - (self._now_s - self._fresh_s) / self.config.ramp_s
        if left <= EPSILON_S:
            return None
        return self._limits.inside(self._last + self._velocity * np.float32(left), self._last)


class Watchdog:
    """Whether the control loop still ticks. The loop calls ``tick``, a thread of its own calls ``due``; they share one number."""

    def __init__(self, limit_s: float = 0.2) -> None:
        if limit_s <= 0:
            raise ConfigError(f"watchdog_s: expected above 0, got {limit_s}")
        self._limit_s = limit_s
        self._ticked_s: float | None = None

    def tick(self, now_s: float) -> None:
        """The loop is alive at ``now_s``."""
        self._ticked_s = now_s

    def end(self) -> None:
        """The loop has ended on purpose; ``due`` is false until it ticks again."""
        self._ticked_s = None

    def due(self, now_s: float) -> bool:
        """Whether the loop stands still, and the arm is to be held. Stays true until the loop ticks or ends."""
        ticked_s = self._ticked_s
        return ticked_s is not None and now_s - ticked_s >= self._limit_s - EPSILON_S
