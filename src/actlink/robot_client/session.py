"""A robot's run from options to summary. Law: nothing moves before everything fits, and however it ends the arm holds."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from actlink.asking import Conversation
from actlink.asking_thread import Threaded
from actlink.client import ClientConfig, RemotePolicy
from actlink.clock import Clock, MonotonicClock
from actlink.controller import Controller, Record
from actlink.errors import ActlinkError, ConfigError, LinkError, SimulationError
from actlink.execution._base import Replan
from actlink.robot_client import latency
from actlink.robot_client.config import RunConfig, make_strategy, rows_used
from actlink.robot_client.holding import connected, undisturbed
from actlink.robot_client.preparing import PROMPT, Prepared, prepare
from actlink.robot_client.reports import Reports
from actlink.robot_client.world import RobotWorld, Watch, pose_entries
from actlink.robots._base import Robot
from actlink.safety import Config as SafetyConfig
from actlink.safety import Guard, Watchdog
from actlink.spec import Spec
from actlink.ticks import Recorder

logger = logging.getLogger("actlink.run")

PINGS = 10
REACH_S = 1.0
"""One attempt to reach a server that has gone."""


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """A run that is over."""

    record: Record
    times: latency.Times
    rate_hz: float
    """What was wanted."""
    recorder: Recorder
    failures: int
    """Observations that could not be had."""
    trips: int
    """How often the watchdog had to hold the arm."""
    latched: bool
    ended: str
    """Why it ended, for people."""
    failed: bool
    """It ended for another reason than being told to."""
    wanted: Prepared
    rows: int
    """Rows of a chunk that can run."""


@dataclass(eq=False)
class Controls:
    """What an operator can do to a run, from any thread."""

    over: threading.Event
    began: threading.Event
    """Set when the loop begins: until then nothing has moved, and whoever wants to end it may break off whatever is being done."""
    rearm: Callable[[], None] = lambda: None

    @classmethod
    def new(cls) -> Controls:
        return cls(threading.Event(), threading.Event())

    def stop(self) -> None:
        """End the run after the present step; the arm holds."""
        self.over.set()


class Spectator:
    """Who is told that the loop begins and ends: a terminal's view of it."""

    def watch(self, recorder: Recorder, rows: int) -> contextlib.AbstractContextManager[Any]:
        """Entered before the first tick; ``rows``: how many rows of a chunk can run."""
        return contextlib.nullcontext()


def run(
    config: RunConfig, controls: Controls | None = None, spectator: Spectator | None = None, clock: Clock | None = None
) -> Summary:
    """The whole run; see the module.

    ``ConfigError``, errors of link and server: the start failed, and the arm was not touched. Whatever ends a run that has begun
    stands in the summary.
    """
    clock = clock or MonotonicClock()
    controls = controls or Controls.new()
    config.warn_of_ranges()
    ready = prepare(config)
    with contextlib.closing(ready.policy):
        loop = _Loop(config, ready, clock, controls)
        with connected(ready.robot, config):
            return loop.run(spectator or Spectator())


class _Loop:
    """The parts of one run."""

    def __init__(self, config: RunConfig, ready: Prepared, clock: Clock, controls: Controls) -> None:
        spec, robot = ready.policy.spec, ready.robot
        self._config, self._ready, self._clock, self._controls = config, ready, clock, controls
        self._strategy = make_strategy(config, spec)
        self._rows = rows_used(config, spec)
        self._guard = Guard(
            _within(config.safety, robot),
            robot.spec.action,
            ready.rate_hz,
            action_horizon=self._rows,
            control_type=robot.spec.control_type,
        )
        if self._guard.unlimited:
            logger.warning(
                "no limit is known for a step of this robot: its first command may be any, and after an outage a step may be the "
                "largest that this run has shown (--resume-step, --max-step)"
            )
        if pose_entries(robot.spec) is None and robot.spec.control_type == "abs" and robot.spec.action.dtype == "float32":
            logger.warning(
                "this robot's state does not tell where it stands in the units of its action (other names, or another length): "
                "after an outage, motion starts from the last command instead of the measured pose"
            )
        controls.rearm = self._guard.rearm
        self._watchdog = Watchdog(config.safety.watchdog_s)
        self._end_s: float | None = None
        self._world = RobotWorld(
            robot,
            clock,
            self._over,
            prompt=config.task if PROMPT in spec.observation else None,
            dry_run=config.dry_run,
            camera_failures=config.camera_failures,
            watchdog=self._watchdog,
            watchdog_s=config.safety.watchdog_s,
        )

    def run(self, spectator: Spectator) -> Summary:
        config, clock, ready = self._config, self._clock, self._ready
        self._warm_up()
        if ready.remote is not None:
            ready.remote.be(ClientConfig(connect_timeout_s=min(2.0, config.timeout_s), timeout_s=config.timeout_s, reconnect_s=0.2))
        offset_ms = self._offset()
        recorder = Recorder()
        log = Reports(recorder, config.dry_run, self._begun)
        asker = Threaded(ready.policy, clock, reach=None if ready.remote is None else _Reach(ready.remote))
        controller = Controller(
            asker,
            self._strategy,
            clock,
            rate_hz=ready.rate_hz,
            guard=self._guard,
            pose=self._world.pose,
            log=log,
            first_chunk=True,
        )
        stop = (lambda: None) if config.dry_run else ready.robot.stop
        watch = Watch(self._watchdog, stop, clock, config.safety.watchdog_s)
        self._end_s = None if config.duration_s is None else clock.now() + config.duration_s
        with watch, spectator.watch(recorder, self._rows), undisturbed():
            try:
                record = controller.run(self._world)
            except (ConfigError, ActlinkError) as error:
                record = replace(log.record, error=f"{error.code}: {error}")
            finally:
                asker.close()
        return self._summary(record, recorder, watch.trips, offset_ms)

    def _begun(self) -> None:
        """The first chunk is there."""
        config = self._config
        self._controls.began.set()
        dry = "; dry run" if config.dry_run else ""
        logger.info("control loop at %g Hz, strategy %s%s", self._ready.rate_hz, config.strategy, dry)

    def _over(self) -> bool:
        return self._controls.over.is_set() or (self._end_s is not None and self._clock.now() >= self._end_s)

    def _warm_up(self) -> None:
        """One question before anything moves: it shows that all of it works, and takes what a first inference costs."""
        conversation = Conversation(self._ready.policy, self._clock)
        conversation.begin(-1)  # an episode of its own: a policy that remembers forgets it
        seen = self._world.observe()
        if seen is None:
            raise SimulationError("the robot gave no observation at the start, so nothing was moved")
        answer = conversation.ask(seen, Replan(0))
        logger.info("first chunk: %d actions after %.0f ms", len(answer.chunk), 1e3 * (answer.arrived_s - answer.sent_s))

    def _offset(self) -> float | None:
        """The server's clock minus ours, in milliseconds, from the quickest of some pings; None where the wire has none."""
        if self._ready.remote is None:
            return None
        try:
            pings = [self._ready.remote.ping() for _ in range(PINGS)]
        except (ConfigError, LinkError):
            return None
        return min(pings, key=lambda ping: ping.round_trip_ms).clock_offset_ms

    def _summary(self, record: Record, recorder: Recorder, trips: int, offset_ms: float | None) -> Summary:
        times = latency.measure(list(recorder.ticks), list(recorder.replies), recorder.start_s, offset_ms)
        latched = self._guard.latched
        left = latched and self._config.safety.on_link_loss == "exit"
        if record.error is not None:
            ended = record.error
        elif left:
            ended = "no fresh actions: stopped and disconnected (--on-link-loss exit)"
        else:
            ended = "stopped by the operator" if self._controls.over.is_set() else "the time was up"
        failed = record.error is not None or left
        return Summary(
            record,
            times,
            self._ready.rate_hz,
            recorder,
            self._world.failures,
            trips,
            latched,
            ended,
            failed,
            self._ready,
            self._rows,
        )


def _within(safety: SafetyConfig, robot: Robot) -> SafetyConfig:
    """The limits of every joint as the robot knows them, where nobody gave others."""
    if robot.limits is None:
        return safety
    lower, upper = (tuple(map(float, each)) for each in robot.limits)
    return replace(safety, lower=safety.lower or lower, upper=safety.upper or upper)


class _Reach:
    """Whether the server is back, with the policy that it had."""

    def __init__(self, remote: RemotePolicy) -> None:
        self._remote = remote
        self._known = remote.served

    def __call__(self) -> None:
        self._remote.wait_ready(REACH_S)
        served = self._remote.served
        if served != self._known:
            raise ConfigError(
                f"{self._remote.url}: the server came back with another policy ({_title(served)}); it was {_title(self._known)}"
            )


def _title(spec: Spec) -> str:
    return f"{spec.name or 'without a name'} {spec.digest}".strip()
