"""A worker process: one environment, one connection to the policy, one trial after the other. Law: the plan is not its business.

It hears ``{"kind": "trial", ...}`` and ``{"kind": "stop"}`` and says ``ready``, ``result``, ``away``, ``back``, ``gave_up``,
``note`` and ``failed``, as JSON over the pipe it was born with. An episode that link or server spoil is run again from its seed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

from actlink import loading, matching, options
from actlink.client import ClientConfig, RemotePolicy, needs_spec, open_policy
from actlink.clock import Clock, MonotonicClock
from actlink.credentials import Credentials
from actlink.environments._base import Environment
from actlink.environments._open import open_environment
from actlink.errors import ActlinkError, ConfigError, PolicyError, SimulationError, SpecError
from actlink.evaluation import video
from actlink.evaluation.driving import Driver
from actlink.evaluation.latency import LatencyConfig, Trace
from actlink.evaluation.plan import Trial
from actlink.evaluation.results import EpisodeResult
from actlink.execution._base import Strategy
from actlink.policies._base import Policy, Result
from actlink.spec import Spec
from actlink.types import ActionChunk, Request, Runtime

logger = logging.getLogger("actlink.evaluation")

MAX_ATTEMPTS = 20
"""Episodes of one trial that may be lost to link and server before the worker gives that trial back."""
BACKOFF_FIRST_S = 0.1
BACKOFF_LIMIT_S = 5.0


@dataclass(frozen=True)
class Setup:
    """Everything a worker needs to know before its first trial."""

    policy: str
    environment: str
    seed: int
    """Of the first trial: for the trial observation that shows whether policy and environment fit."""
    strategy: str = "receding"
    strategy_options: Mapping[str, Any] = field(default_factory=dict)
    policy_options: Mapping[str, str] = field(default_factory=dict)
    environment_options: Mapping[str, str] = field(default_factory=dict)
    runtime: Runtime = field(default_factory=Runtime)
    client: ClientConfig = field(default_factory=ClientConfig)
    spec: Spec | None = None
    """Of the policy, where its wire announces none and the user gave one."""
    token: str | None = field(default=None, repr=False)
    credentials: Credentials = field(default_factory=Credentials)
    max_steps: int | None = None
    videos: Path | None = None
    """Directory for videos."""
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    trace: Trace | None = None
    """Recorded latencies, where ``latency`` names some."""


class Channel:
    """The worker's end of the pipe; may be used from several threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def say(self, kind: str, **message: Any) -> None:
        with self._lock:
            self._connection.send_bytes(json.dumps({"kind": kind, **message}, allow_nan=False).encode())

    def hear(self) -> dict[str, Any]:
        """The next message; ``EOFError`` when the other side is gone."""
        message: dict[str, Any] = json.loads(self._connection.recv_bytes())
        return message


def main(setup: Setup, connection: Connection) -> None:
    """What the process runs."""
    channel = Channel(connection)
    _behave(channel)
    worker = Worker(setup, channel, MonotonicClock())
    try:
        worker.prepare()
        # From here on there is a server to take leave of. Not before: an import can swallow what a signal handler raises.
        signal.signal(signal.SIGTERM, _exit)
        while (message := channel.hear())["kind"] == "trial":
            worker.run(Trial(**message["trial"]), int(message["attempts"]), bool(message["video"]))
    except (EOFError, BrokenPipeError):
        pass  # nobody wants the rest
    except Exception as error:
        with contextlib.suppress(BrokenPipeError):
            _report(channel, error)
    finally:
        worker.close()


def _report(channel: Channel, error: Exception) -> None:
    if isinstance(error, ActlinkError):
        channel.say("failed", code=error.code, message=str(error))
    else:
        logger.error("a worker failed", exc_info=error)
        channel.say("failed", code="error", message=f"{type(error).__name__}: {error}")


class Worker:
    """One environment and one policy, opened once and used for many trials."""

    def __init__(self, setup: Setup, channel: Channel, clock: Clock) -> None:
        self._setup = setup
        self._channel = channel
        self._clock = clock
        self._policy: Policy | None = None
        self._environment: Environment | None = None
        self._driver: Driver | None = None
        self._identity: dict[str, str | bool | None] = {}

    def prepare(self) -> None:
        """Open everything, see that it fits, and say ``ready``; ``ConfigError`` says what is wrong once and for all."""
        setup = self._setup
        if setup.videos is not None and (reason := video.missing()):
            self._channel.say("note", message=reason)
        if setup.spec is None and needs_spec(setup.policy):
            self._setup = setup = replace(setup, spec=self._offered())
        self._policy = policy = self._reach()
        with _mapped(SimulationError, setup.environment):
            self._environment, task = open_environment(setup.environment, policy.spec, setup.environment_options)
        self._take(policy)
        self._fit(task)
        config = asdict(self._strategy_config())
        self._channel.say("ready", policy=self._identity, task=task, strategy={"name": setup.strategy, **config})

    def _offered(self) -> Spec:
        """What the environment offers and takes: the spec of a policy whose wire announces none."""
        setup = self._setup
        with _mapped(SimulationError, setup.environment):
            environment, _ = open_environment(setup.environment, None, setup.environment_options)
        environment.close()
        return environment.spec

    def run(self, trial: Trial, attempts: int, record: bool) -> None:
        """Run ``trial`` until it is over, however often link and server spoil it; ``attempts`` were made elsewhere."""
        for attempt in range(attempts + 1, attempts + 1 + MAX_ATTEMPTS):
            try:
                result = self._attempt(trial, record)
            except ActlinkError as error:
                if not error.infrastructure:
                    raise
                self._lost(trial, error, attempt - attempts)
            else:
                self._channel.say("result", episode=replace(result, attempts=attempt).to_dict())
                return
        self._channel.say("gave_up", message=f"{trial}: link or server failed {MAX_ATTEMPTS} times")

    def close(self) -> None:
        """Leave the server politely and release the simulator, as far as that still works."""
        for thing in (self._driver, self._policy, self._environment):
            if thing is not None:
                with contextlib.suppress(Exception):
                    thing.close()

    def _attempt(self, trial: Trial, record: bool) -> EpisodeResult:
        assert self._driver is not None
        film = self._film(trial) if record else None
        try:
            result = self._driver.run(trial, max_steps=self._setup.max_steps, watcher=film)
        except BaseException:
            if film is not None:
                film.discard()
            raise
        path = film.finish() if film is not None else None
        return replace(result, video=f"{path.parent.name}/{path.name}") if path is not None else result

    def _film(self, trial: Trial) -> video.Video | None:
        if self._setup.videos is None or video.missing():
            return None
        task = f"{trial.task.replace('/', '-')}-" if trial.task else ""
        path = self._setup.videos / f"{task}episode-{trial.episode:04d}-seed-{trial.seed}.mp4"
        return video.Video(path, lambda message: self._channel.say("note", message=message))

    def _lost(self, trial: Trial, error: ActlinkError, times: int) -> None:
        """Tell, wait longer every time, and connect afresh: what the server remembers of this episode must not matter."""
        self._channel.say("away", message=f"{trial}: {error}")
        assert self._policy is not None
        self._policy.close()
        self._pause(min(BACKOFF_FIRST_S * 2**times, BACKOFF_LIMIT_S))
        self._take(self._reach())

    def _reach(self) -> Policy:
        """The policy; tries until it is there. Whoever started this process knows how long that may take."""
        pause_s = BACKOFF_FIRST_S
        setup = self._setup
        while True:
            try:
                with _mapped(PolicyError, setup.policy):
                    return open_policy(
                        setup.policy,
                        setup.runtime,
                        setup.policy_options,
                        spec=setup.spec,
                        token=setup.token,
                        credentials=setup.credentials,
                        config=setup.client,
                    )
            except ActlinkError as error:
                if not error.infrastructure:
                    raise
                self._channel.say("away", message=str(error))
            self._pause(pause_s)
            pause_s = min(2 * pause_s, BACKOFF_LIMIT_S)

    def _pause(self, pause_s: float) -> None:
        # Jitter keeps the workers from knocking in step after a server restart.
        self._clock.wait_until(self._clock.now() + pause_s * random.uniform(0.5, 1.0))

    def _take(self, policy: Policy) -> None:
        """Drive with ``policy`` from now on; a server that came back must have come back with the same one."""
        runs_so = policy.deterministic if isinstance(policy, RemotePolicy) else self._setup.runtime.deterministic
        identity = {"name": policy.spec.name, "digest": policy.spec.digest, "deterministic": runs_so}
        if self._identity and identity != self._identity:
            policy.close()
            raise ConfigError(f"{self._setup.policy}: came back with another policy: {identity}, before {self._identity}")
        self._identity = identity
        self._policy = policy
        strategy: Strategy = loading.load("execution", self._setup.strategy).Strategy(self._strategy_config(), policy.spec)
        assert self._environment is not None
        heard, setup = _Heard(policy, self._channel), self._setup
        if self._driver is not None:
            self._driver.close()
        self._driver = Driver(heard, strategy, self._environment, self._clock, setup.latency, setup.trace)

    def _strategy_config(self) -> Any:
        module = loading.load("execution", self._setup.strategy)
        return options.build(module.Config, self._setup.strategy_options, f"strategy {self._setup.strategy!r}")

    def _fit(self, task: str) -> None:
        """Both specs and one observation, before fifty episodes fail for the same reason."""
        assert self._environment is not None and self._policy is not None
        names = f"{self._setup.policy} {self._setup.environment}"
        found = [each for each in matching.compare(self._policy.spec, self._environment.spec) if each.fatal]
        if found:
            lines = [f"{each}{f'; transform: {each.fix}' if each.fix else ''}" for each in found]
            raise ConfigError(f"policy and environment do not fit ('actlink check {names}' tells more):\n  " + "\n  ".join(lines))
        try:
            self._policy.spec.check(self._environment.reset(task, self._setup.seed), "the environment's observation")
        except SpecError as error:
            raise ConfigError(f"policy and environment do not fit ('actlink check {names}' tells more): {error}") from error


@contextlib.contextmanager
def _mapped(error_class: type[ActlinkError], what: str) -> Iterator[None]:
    """Whatever the constructor of somebody's class raises, as an error of ours; its traceback goes to the log."""
    try:
        yield
    except ActlinkError:
        raise
    except Exception as error:
        logger.exception("%s cannot be opened", what)
        raise error_class(f"{what} cannot be opened: {type(error).__name__}: {error}") from error


class _Heard(Policy):
    """Says ``back`` at the first chunk: only an answer proves that a server works, a connection does not."""

    def __init__(self, inner: Policy, channel: Channel) -> None:
        self.spec = inner.spec
        self._inner = inner
        self._channel = channel
        self._silent = True

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        results = self._inner.infer(requests)
        if self._silent and any(isinstance(result, ActionChunk) for result in results):
            self._silent = False
            self._channel.say("back")
        return results


class _Forward(logging.Handler):
    """Warnings go to whoever shows the progress bar; the same line at most three times."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(logging.WARNING)
        self._channel = channel
        self._seen: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self._seen[record.msg] = self._seen.get(record.msg, 0) + 1
        if self._seen[record.msg] <= 3:
            with contextlib.suppress(OSError):
                self._channel.say("note", message=self.format(record))


def _behave(channel: Channel) -> None:
    """Ctrl-C is the parent's business, warnings go to the parent, and no worker outlives the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logger = logging.getLogger("actlink")
    logger.addHandler(_Forward(channel))
    logger.propagate = False


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
