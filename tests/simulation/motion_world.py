"""One simulated run per seed: the real loop, strategy, guard and link schedule, in virtual time, with everything that can go wrong.

The policy's actions say what they are: entry 0 is the control step the row is for, entry 1 the step of the observation, both in
thousandths; entry 2 is motion, and what a hostile policy writes. So whatever is commanded can be judged at the arm.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from actlink import loading, safety
from actlink.asking import Arrival
from actlink.clock import ManualClock
from actlink.controller import Controller
from actlink.errors import LinkTimeoutError
from actlink.execution._base import Replan, Strategy
from actlink.link.faults import LinkConfig, Weather
from actlink.link.schedule import Schedule
from actlink.spec import Field, Spec
from actlink.ticks import Tick
from actlink.types import ActionChunk, Array, Observation

RANGE = (-1.0, 1.0)
MAX_STEP, RESUME_STEP, MAX_BEND = 0.05, 0.02, 0.005
WATCHDOG_S = 0.2
TAG = 1e-3
EPSILON = 1e-6
HOSTILE = (math.nan, math.inf, -math.inf, 1e30, -7.0, 1.0000001, 1e-45)
STRATEGIES = (
    ("receding", {}),
    ("receding", {"execution_horizon": 8}),
    ("ensemble", {"execution_horizon": 5}),
    ("realtime", {}),
    ("realtime", {"execution_horizon": 6, "delay_quantile": 0.8}),
    *(("asynchronous", {"aggregate_fn_name": name}) for name in ("weighted_average", "latest_only", "average", "conservative")),
)


@dataclass(frozen=True)
class Plan:
    """What a seed stands for."""

    seed: int
    rate_hz: float
    seconds: float
    rows: int
    strategy: str
    options: dict[str, object]
    accepts_prefix: bool
    link: LinkConfig
    inference_s: tuple[float, float]
    patience_s: float
    """After which a question counts as lost; its answer may still come."""
    hostile: float
    """Share of chunks with a wild number in them."""
    hangs: float
    """Share of control steps at which the loop hangs."""
    rearm: bool
    bare: bool = False
    """The robot states no range, and no step is configured: what the run has shown bounds the way back from an outage."""
    eased: bool = False
    """The acceleration is limited: a step differs from the one before by at most ``MAX_BEND``."""

    @classmethod
    def of(cls, seed: int) -> Plan:
        draw = random.Random(f"plan/{seed}")
        seconds = draw.uniform(4.0, 9.0)
        outages = []
        for _ in range(draw.choice((0, 1, 1, 2))):
            where = draw.choice(("", "up ", "down "))
            outages.append(f"blackhole {where}from {draw.uniform(0.5, seconds):.3f} s for {draw.uniform(0.05, 3.0):.3f} s")
        link = LinkConfig(
            delay_ms=draw.choice((0.0, 5.0, 40.0, 120.0)),
            jitter_ms=draw.choice((0.0, 5.0, 60.0)),
            loss=draw.choice((0.0, 0.01, 0.2, 0.5)),
            duplicate=draw.choice((0.0, 0.2)),
            reorder=draw.choice((0.0, 0.2)),
            faults=tuple(outages),
            seed=seed,
        )
        strategy, options = draw.choice(STRATEGIES)
        slow_s = draw.choice((0.0, 0.02, 0.2))
        return cls(
            seed,
            draw.choice((10.0, 20.0, 30.0)),
            seconds,
            draw.choice((8, 20, 50)),
            strategy,
            dict(options),
            draw.random() < 0.5,
            link,
            (slow_s * draw.choice((0.2, 1.0)), slow_s * draw.choice((1.0, 4.0))),
            draw.choice((0.15, 0.5, 2.0)),
            draw.choice((0.0, 0.0, 0.1)),
            draw.choice((0.0, 0.0, 0.01)),
            draw.random() < 0.7,
        )

    @property
    def spec(self) -> Spec:
        fields = {"state": Field((3,))}
        action = Field((3,), range=None if self.bare else RANGE)
        return Spec(fields, action, self.rows, self.rate_hz, accepts_prefix=self.accepts_prefix, name="tags")


def chunk(step: int, rows: int) -> Array:
    """``rows`` honest actions from ``step`` on, seen at ``step``."""
    steps = np.arange(step, step + rows, dtype=np.float64)
    return np.stack([TAG * steps, np.full(rows, TAG * step), 0.5 * np.sin(steps / 15)], axis=1).astype(np.float32)


class Wire:
    """An ``Asker``: questions and answers are datagrams on the link's two ways, the server answers each copy it gets."""

    def __init__(self, plan: Plan) -> None:
        self._weather = weather = Weather(plan.link)
        self._plan = plan
        self._up = Schedule(weather, "up")
        self._questions, self._answers, self._order = itertools.count(), itertools.count(), itertools.count()
        self._draw = random.Random(f"server/{plan.seed}")
        self._due: list[tuple[float, int, Arrival]] = []
        self.dropped = 0
        self.delivered: set[int] = set()
        """Steps of the chunks that have arrived."""

    def begin(self, episode: int) -> None:
        self._due = []

    def ask(self, observation: Observation, replan: Replan, now_s: float) -> None:
        answered = False
        for there_s in self._up.fate(next(self._questions), now_s, 2000):
            ready_s = there_s + self._draw.uniform(*self._plan.inference_s)
            # Every answer has a way of its own, so that a quick one overtakes a slow one.
            for back_s in Schedule(self._weather, "down", str(next(self._answers))).fate(0, ready_s, 2000):
                answered = answered or back_s - now_s <= self._plan.patience_s
                self._put(back_s, Arrival(replan.step, ActionChunk(self._actions(replan.step), replan.step), None, now_s, back_s))
        if not answered:
            at_s = now_s + self._plan.patience_s
            self._put(at_s, Arrival(replan.step, None, LinkTimeoutError("no answer in time"), now_s, at_s))

    def arrived(self, now_s: float) -> Sequence[Arrival]:
        found = []
        while self._due and self._due[0][0] <= now_s:
            found.append(heapq.heappop(self._due)[2])
        self.delivered |= {arrival.step for arrival in found if arrival.chunk is not None}
        return found

    def close(self) -> None:
        pass

    def _actions(self, step: int) -> Array:
        actions = chunk(step, self._plan.rows)
        if self._draw.random() < self._plan.hostile:
            row = self._draw.randrange(self._plan.rows)
            actions[row, 2] = np.float32(self._draw.choice(HOSTILE))
        return actions

    def _put(self, at_s: float, arrival: Arrival) -> None:
        heapq.heappush(self._due, (at_s, next(self._order), arrival))


class Arm:
    """The controller's world: joints that come no further in a step than the resume step; sometimes the loop hangs in it."""

    def __init__(self, plan: Plan, clock: ManualClock) -> None:
        self._plan = plan
        self._clock = clock
        self._draw = random.Random(f"arm/{plan.seed}")
        self._measured = np.zeros(3, np.float32)
        self.seen: list[Array] = []
        """The pose before each command."""
        self.rested: list[bool] = []
        """Whether each command was the embodiment's own hold, not a step of the guard's on the way to rest."""
        self._asked_to_hold = False

    def observe(self) -> Observation:
        return {"state": self._measured}

    def pose(self) -> Array:
        return self._measured

    def hold_action(self, last: Array | None) -> Array:
        self._asked_to_hold = True
        return self._measured.copy()

    def act(self, action: Array) -> bool:
        self.rested.append(self._asked_to_hold)
        self._asked_to_hold = False
        self.seen.append(self._measured)
        way = np.clip(np.nan_to_num(action) - self._measured, -RESUME_STEP, RESUME_STEP)
        self._measured = (self._measured + way).astype(np.float32)
        if self._draw.random() < self._plan.hangs:
            self._clock.advance(self._draw.uniform(0.01, 0.6))
        return self._clock.now() < self._plan.seconds


@dataclass
class Run:
    """What one seed did, and what is wrong with it."""

    plan: Plan
    ticks: list[Tick] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    acted: int = 0
    outages: int = 0
    planned: dict[int, Array] = field(default_factory=dict)
    """By control step, what the strategy gave."""

    @property
    def digest(self) -> str:
        """Of the event log."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def begin(self, start_s: float) -> None:
        pass

    def tick(self, tick: Tick, arrivals: Sequence[Arrival]) -> None:
        self.ticks.append(tick)
        came = " ".join(f"{arrival.step}{'' if arrival.chunk is not None else '!'}@{arrival.arrived_s:.9f}" for arrival in arrivals)
        what = "hold" if tick.held else "act"
        bits = np.asarray(tick.action, np.float32).tobytes().hex()
        self.lines.append(f"{tick.step} {tick.at_s:.9f} {what} {tick.basis} {','.join(tick.reasons)} {bits} [{came}]")


Make = Callable[[Plan], Strategy]


def honest(plan: Plan) -> Strategy:
    """The strategy that the plan names."""
    module = loading.load("execution", plan.strategy)
    strategy: Strategy = module.Strategy(module.Config(**plan.options), plan.spec)
    return strategy


def simulate(seed: int, *, make: Make = honest, guarded: bool = True, **changes: object) -> Run:
    """Run ``seed`` and judge it; ``changes`` are of its plan."""
    plan = replace(Plan.of(seed), **changes)  # type: ignore[arg-type]
    clock = ManualClock()
    wire, arm, run = Wire(plan), Arm(plan, clock), Run(plan)
    config = safety.Config(max_step=(MAX_STEP,), resume_step=(RESUME_STEP,), watchdog_s=WATCHDOG_S, rearm=plan.rearm)
    if plan.bare:
        config = replace(config, max_step=None, resume_step=None)
    if plan.eased:
        config = replace(config, max_acceleration=(MAX_BEND * plan.rate_hz**2,))
    guard = safety.Guard(config, plan.spec.action, plan.rate_hz, action_horizon=plan.rows)
    watched = _Watched(make(plan), wire, run)
    used = guard if guarded else None
    controller = Controller(wire, watched, clock, rate_hz=plan.rate_hz, guard=used, pose=arm.pose, log=run)
    with np.errstate(all="ignore"):  # hostile numbers go through the strategy on purpose
        record = controller.run(arm)
    if record.error is not None:
        run.violations.append(f"error: {record.error}")
    _judge(run, arm, guard.max_open_loop_s)
    return run


class _Watched(Strategy):
    """Judges every action that a strategy hands out, before the guard sees it."""

    def __init__(self, inner: Strategy, wire: Wire, run: Run) -> None:
        self._inner, self._wire, self._run = inner, wire, run

    def replan(self, step: int) -> Replan | None:
        return self._inner.replan(step)

    def add(self, chunk: ActionChunk, step: int) -> None:
        self._inner.add(chunk, step)

    def lost(self, step: int) -> None:
        self._inner.lost(step)

    def observed(self, step: int) -> int | None:
        return self._inner.observed(step)

    def stopped(self) -> None:
        self._inner.stopped()

    def reset(self) -> None:
        self._inner.reset()

    def action(self, step: int) -> Array | None:
        action = self._inner.action(step)
        if action is not None:
            self._run.planned[step] = np.array(action, np.float64)
            meant_for, seen = float(action[0]) / TAG, float(action[1]) / TAG
            basis = self._inner.observed(step)
            if abs(meant_for - step) > 0.01:
                self._run.violations.append(f"wrong step: step {step} was given the action of {meant_for:.2f}")
            if basis is None or basis not in self._wire.delivered or seen > basis + 0.01:
                self._run.violations.append(f"false basis: the action at {step} rests on {seen:.2f}, and says {basis}")
        return action


def _judge(run: Run, arm: Arm, max_open_loop_s: float) -> None:
    """Everything that must hold of what reached the arm."""
    found, rate_hz = run.violations, run.plan.rate_hz
    period_s = 1 / rate_hz
    last, rested = None, True
    shown, speed = Shown(run), np.zeros(3)
    for tick, pose, rests in zip(run.ticks, arm.seen, arm.rested, strict=True):
        action = np.asarray(tick.action, np.float64)
        where = f"at step {tick.step}"
        if last is not None and tick.step <= last.step:
            found.append(f"burst: step {tick.step} after step {last.step}")
        if not -1e-9 <= tick.at_s - tick.step * period_s < period_s:
            found.append(f"burst: the command of step {tick.step} at {tick.at_s:.4f} s, outside its own {period_s:.4f} s")
        if not np.isfinite(action).all():
            found.append(f"not finite {where}: {tick.action}")
            continue
        if not run.plan.bare and ((action < RANGE[0]).any() or (action > RANGE[1]).any()):
            found.append(f"over limit {where}: {tick.action}")
        if not tick.held:
            run.acted += 1
            # Where the loop hung, the watchdog has held the arm.
            held = rested or last is None or tick.at_s - last.at_s > WATCHDOG_S
            reference = pose if held or last is None else last.action
            most: Array | float = RESUME_STEP if held else MAX_STEP
            if run.plan.bare:
                most = shown.most(tick, np.asarray(reference, np.float64), held)
                shown.note(tick)
            _judge_action(found, where, tick, reference, most, held, max_open_loop_s, rate_hz)
            before, speed = np.zeros(3) if held else speed, action - reference
            if (
                run.plan.eased
                and (held or (last is not None and not last.held))
                and np.abs(speed - before).max() > MAX_BEND + EPSILON
            ):
                found.append(f"bend {where}: a step of {speed} after one of {before}")
        run.outages += last is not None and tick.held and not last.held
        last, rested = tick, rests


class Shown:
    """How far a command may go from its reference where only the run tells: from what the strategy gave and what was commanded."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._largest: Array | None = None
        self._last: Tick | None = None  # command that was as planned
        self._away, self._over = False, 0

    def most(self, tick: Tick, reference: Array, held: bool) -> Array | float:
        """Without bound where nothing is known, the second is over, or it is not on the way back."""
        if held:
            self._over = tick.step + math.ceil(self._run.plan.rate_hz)
        left = self._over - tick.step
        if self._largest is None or left <= 1 or not (held or self._away):
            return math.inf
        return np.maximum(self._largest, np.abs(self._run.planned[tick.step] - reference) / left)

    def note(self, tick: Tick) -> None:
        self._away = "resuming" in tick.reasons
        if self._away:
            return
        if self._last is not None and self._last.step == tick.step - 1:
            change = np.abs(np.asarray(tick.action, np.float64) - self._last.action)
            self._largest = change if self._largest is None else np.maximum(self._largest, change)
        self._last = tick


def _judge_action(
    found: list[str],
    where: str,
    tick: Tick,
    reference: Array,
    most: Array | float,
    held: bool,
    max_open_loop_s: float,
    rate_hz: float,
) -> None:
    action = np.asarray(tick.action, np.float64)
    if tick.basis is None or (tick.step - tick.basis) / rate_hz >= max_open_loop_s:
        found.append(f"stale {where}: rests on {tick.basis}")
    if not tick.reasons and abs(action[0] / TAG - tick.step) > 0.01:
        found.append(f"wrong step {where}: commanded the action of {action[0] / TAG:.2f}")
    steps = np.abs(action - np.asarray(reference, np.float64))
    if (steps > most + EPSILON).any():
        kind, what = ("burst", "the measured pose") if held else ("over limit", "the last command")
        found.append(f"{kind} {where}: a step of {steps.max():.4f} from {what}")
