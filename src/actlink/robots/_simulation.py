"""An environment whose time passes by itself. Law: one control step per period of the clock, whatever anybody commands meanwhile.

With the machine's clock it runs on a thread of its own, as a robot's motors do. With any other clock (simulated time) the steps
that have become due are run whenever somebody looks or commands.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading

import numpy as np

from actlink.clock import Clock, MonotonicClock
from actlink.environments._base import Environment
from actlink.environments._open import open_environment as open_environment
from actlink.errors import ActlinkError, SimulationError
from actlink.types import Array, Observation

logger = logging.getLogger("actlink.robots")

BEHIND_S = 0.5
"""A simulator this far behind its clock lets the lost time go, so that it never runs steps in a burst."""


class Simulation:
    """``environment`` from ``reset`` on, at ``rate_hz``. All calls may come from any thread."""

    def __init__(
        self,
        environment: Environment,
        task: str,
        seed: int,
        rate_hz: float,
        clock: Clock | None,
        again: bool,
        start_s: float = 60.0,
    ) -> None:
        """``again``: after an episode's end the next begins, with the next seed; else the scene stays as it is.

        ``start_s``: how long the first observation may take.
        """
        self._environment = environment
        self._task, self._seed, self._again = task, seed, again
        self._rate_hz = rate_hz
        self._clock = clock
        self._lock = threading.Lock()
        self._target: Array | None = None  # None: hold
        self._last: Array | None = None
        self._observation: Observation | None = None
        self._error: SimulationError | None = None
        self._over = False
        self._done = 0
        self._lost_s = 0.0
        self._closed = threading.Event()
        self._began = threading.Event()
        self._thread: threading.Thread | None = None
        self.successes = 0
        """Episodes that ended with success."""
        if clock is None:
            self._thread = threading.Thread(target=self._run, name="actlink-simulation", daemon=True)
            self._thread.start()
            if not self._began.wait(start_s):
                raise SimulationError(f"the simulator gave no observation within {start_s:g} s")
        else:
            self._reset()
            self._start_s = clock.now()
        self._raise()

    def observe(self) -> Observation:
        """The newest observation, in arrays of the caller's own."""
        self._advance()
        with self._lock:
            self._raise()
            assert self._observation is not None
            return {key: value if isinstance(value, str) else np.array(value) for key, value in self._observation.items()}

    def command(self, target: Array | None) -> None:
        """The action of the steps to come; None: the environment's own hold."""
        self._advance()
        with self._lock:
            self._raise()
            self._target = None if target is None else np.array(target)

    def hold(self) -> None:
        """``command(None)`` that never fails."""
        with self._lock:
            self._target = None

    def close(self) -> None:
        self._closed.set()
        if self._thread is None:
            self._environment.close()
        elif self._thread is not threading.current_thread():
            self._thread.join(10.0)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        """The thread: whatever draws the pictures must have been made where it draws, so all of the simulator is run here."""
        clock = MonotonicClock()
        try:
            self._reset()
            start_s, behind = clock.now(), False
            self._began.set()
            while not self._closed.is_set():
                due_s = start_s + (self._done + 1) / self._rate_hz
                clock.wait_until(due_s)
                self._step()
                late_s = clock.now() - due_s
                if late_s > BEHIND_S:
                    start_s += late_s
                    if not behind:
                        logger.warning("the simulator is slower than real time on this machine: its robot moves more slowly")
                    behind = True
        except Exception as error:
            self._failed(error)
        finally:
            self._began.set()
            with contextlib.suppress(Exception):
                self._environment.close()

    def _advance(self) -> None:
        if self._clock is None:
            return
        due = math.floor((self._clock.now() - self._start_s) * self._rate_hz + 1e-6)
        try:
            while self._done < due:
                self._step()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, ActlinkError):
            logger.exception("the environment failed")
        self._error = error if isinstance(error, SimulationError) else SimulationError(f"{type(error).__name__}: {error}")

    def _reset(self) -> None:
        observation = self._environment.reset(self._task, self._seed)
        with self._lock:
            self._observation = observation
            self._last, self._over = None, False

    def _step(self) -> None:
        self._done += 1
        if self._over:
            return
        with self._lock:
            target = self._target
        action = self._environment.hold_action(self._last) if target is None else target
        step = self._environment.step(action)
        with self._lock:
            self._observation, self._last = step.observation, action
        if not (step.terminated or step.truncated):
            return
        self._over = True
        self.successes += bool(step.success)
        logger.info("the episode of seed %d ended%s", self._seed, ": success" if step.success else "")
        if self._again:
            self._seed += 1
            with self._lock:
                self._target = None  # a command for the scene before is none for the next
            self._reset()
