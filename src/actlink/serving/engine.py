"""The owner of a policy: its thread, its queue and its memories. Law: only ``infer``, ``forget`` and ``close`` run on the thread.

Everything else happens on the event loop, so nothing here is locked. The thread sees one batch at a time and hands all of its
results back in one callback.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any

from actlink.errors import ActlinkError, DeadlineError, SupersededError
from actlink.policies._base import Policy, Result
from actlink.serving.config import ServerConfig
from actlink.serving.inference import Inference
from actlink.serving.scheduler import Entry, Scheduler
from actlink.serving.statistics import Counters
from actlink.spec import Spec

logger = logging.getLogger("actlink.serving")


class Call:
    """One question of a peer on its way: collects the results of its lanes and answers once."""

    __slots__ = ("_answer", "_pending", "arrived_s", "decoded_s", "open", "results", "stages", "steps", "tag")

    def __init__(self, tag: Any, steps: Sequence[int], arrived_s: float, decoded_s: float, answer: Callable[[Call], None]) -> None:
        self.tag = tag
        """What the dialect ties its reply to; None where its wire knows only the order."""
        self.arrived_s = arrived_s
        self.decoded_s = decoded_s
        self.open = True
        """Whether somebody still waits for the answer."""
        self.steps = steps
        """Control step of each lane."""
        self.results: list[Result | None] = [None] * len(steps)
        self.stages: Mapping[str, float] = {}
        self._pending = set(range(len(steps)))
        self._answer = answer

    @property
    def settled(self) -> bool:
        return not self._pending

    def settle(self, lane: int, result: Result, stages: Mapping[str, float] | None = None) -> None:
        """The result of one lane; the last one answers the call. Does nothing once nobody waits."""
        if not self.open or lane not in self._pending:
            return
        self.results[lane] = result
        self.stages = stages or self.stages
        self._done(lane)

    def skip(self, lane: int) -> None:
        """This lane needs no inference: its result stays None."""
        self._done(lane)

    def fail(self, error: ActlinkError) -> None:
        """The same error for every lane that still waits for its result."""
        for lane in sorted(self._pending):
            self.settle(lane, error)

    def _done(self, lane: int) -> None:
        self._pending.discard(lane)
        if self.settled:
            self._answer(self)


class Engine:
    """Serves one policy, and closes it in the end."""

    def __init__(self, name: str, policy: Policy, config: ServerConfig, counters: Counters) -> None:
        self.name = name
        self.spec: Spec = policy.spec
        self.device = policy.facts.get("device", "")
        """Where the policy runs; empty where it does not tell."""
        self.sessions = 0
        """Peers that are bound to it now."""
        self.batches = self.batched = 0
        """Batches that it has run, and the requests in them."""
        self._policy = policy
        self._config = config
        self._counters = counters
        self._inference = Inference(policy)
        self._max_batch_size = _batch_limit(policy.spec, config)
        self._scheduler = Scheduler(
            self._max_batch_size,
            gather_s=config.gather_ms / 1e3,
            per_session=config.queue_per_session,
            total=config.queue_total,
            total_bytes=config.queue_mib << 20,
        )
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._memory: dict[str, tuple[int, Any]] = {}  # lane's session -> episode, what the policy remembers
        self._running: list[Entry] = []
        self._busy = True  # until warm-up is over
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return len(self._scheduler)

    @property
    def running(self) -> int:
        return len(self._running)

    # Life

    def start(self) -> None:
        """Start the thread; what is submitted waits until ``warm_up`` has returned."""
        self._loop = asyncio.get_running_loop()
        self._stopped = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name=f"actlink-engine-{self.name}", daemon=True)
        self._thread.start()

    async def warm_up(self) -> None:
        """Run zeros through the policy, then take up work; ``PolicyError`` if the policy cannot take them."""
        if self._config.warm_up:
            done = self._loop.create_future()
            self._inbox.put(partial(self._warm_up, done))
            await done
        self._busy = False
        self._turn()

    async def close(self, timeout_s: float) -> None:
        """Close the policy and end the thread; one that does not return in time is left behind (it does not keep the process)."""
        self._busy = True
        if self._timer is not None:
            self._timer.cancel()
        self._inbox.put(None)
        try:
            await asyncio.wait_for(asyncio.shield(self._stopped), timeout_s)
        except asyncio.TimeoutError:
            logger.warning("model %r is still inferring; its thread is left behind", self.name)

    # Work, on the event loop

    def submit(self, entries: Sequence[Entry]) -> None:
        """Queue the lanes of one call; each is settled later. ``OverloadedError`` if there is no room."""
        for old in self._scheduler.add(entries, self._loop.time()):
            _call(old).settle(old.lane, SupersededError("a newer observation took its place"))
        self._turn()

    def reset(self, sessions: Sequence[str]) -> None:
        """A new episode of these lanes' sessions: forget what the policy remembers of them, and what waits."""
        for session in sessions:
            self._memory.pop(session, None)
        self._scheduler.clear(sessions[0])

    def leave(self, session: str) -> None:
        """The peer of this session has gone: what it has waiting is dropped before inference."""
        self._scheduler.remove(session)
        self._turn()

    def forget(self, sessions: Sequence[str]) -> None:
        """These lanes' sessions have ended for good."""
        for session in sessions:
            self._memory.pop(session, None)
            self._inbox.put(partial(self._forget, session))

    def _turn(self) -> None:
        """Do whatever can be done now, and see to it that we are called when more can be."""
        now = self._loop.time()
        for entry in self._scheduler.expire(now):
            waited_ms = 1e3 * (now - entry.arrived_s)
            _call(entry).settle(entry.lane, DeadlineError(f"waited {waited_ms:.0f} ms for inference; its budget is used up"))
        if not self._busy:
            batch = self._scheduler.next_batch(now)
            if batch:
                self._dispatch(batch)
        wake_s = self._scheduler.wake_at()
        if wake_s is not None and (self._timer is None or self._timer.cancelled() or wake_s < self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(wake_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._turn()

    def _dispatch(self, batch: list[Entry]) -> None:
        self._busy, self._running = True, batch
        requests = []
        for entry in batch:
            episode, memory = self._memory.get(entry.request.session, (None, None))
            known = memory is not None and episode == entry.request.episode
            requests.append(replace(entry.request, memory=memory) if known else entry.request)
        self._inbox.put(partial(self._infer, batch, requests))

    def _finished(self, batch: list[Entry], results: list[Result], began_s: float, ended_s: float) -> None:
        self._busy, self._running = False, []
        alive = [entry for entry in batch if _call(entry).open]
        for entry, result in zip(batch, results, strict=True):
            if not isinstance(result, ActlinkError) and _call(entry).open:
                self._memory[entry.request.session] = (result.episode, result.memory)
        self._counters.batch(len(batch))
        self.batches, self.batched = self.batches + 1, self.batched + len(batch)
        self._scheduler.answered(alive, self._loop.time())
        self._turn()  # the next batch runs while the answers to this one are written
        stages = {"infer_ms": 1e3 * (ended_s - began_s), "batch_size": float(len(batch))}
        for entry, result in zip(batch, results, strict=True):
            _call(entry).settle(entry.lane, result, {"queue_ms": 1e3 * (began_s - entry.arrived_s), **stages})

    # Work, on the thread

    def _work(self) -> None:
        for task in iter(self._inbox.get, None):
            task()
        try:
            self._policy.close()
        except Exception:
            logger.exception("closing model %r failed", self.name)
        self._hand_over(self._end)

    def _infer(self, batch: list[Entry], requests: list[Any]) -> None:
        began_s = self._loop.time()
        results = self._inference.run(requests)
        self._hand_over(self._finished, batch, results, began_s, self._loop.time())

    def _warm_up(self, done: asyncio.Future[None]) -> None:
        try:
            self._inference.warm_up(warm_up_sizes(self._max_batch_size, self.device))
        except Exception as error:
            self._hand_over(_set_exception, done, error)
        else:
            self._hand_over(_set_result, done)

    def _forget(self, session: str) -> None:
        try:
            self._policy.forget(session)
        except Exception:
            logger.exception("model %r failed to forget a session", self.name)

    def _hand_over(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
            logger.debug("model %r: a result came after the server had ended", self.name)

    def _end(self) -> None:
        _set_result(self._stopped)


def warm_up_sizes(most: int, device: str) -> list[int]:
    """Batch sizes to run before readiness: alone, two, and the largest, which shows that memory is enough.

    Compilers take 1 for a special case and build for "any" at 2; beside a CPU, the powers of two between have kernels of their own.
    """
    between = [1 << power for power in range(most.bit_length())] if device not in ("", "cpu") else [1, 2]
    return sorted({size for size in (*between, most) if size <= most})


def _call(entry: Entry) -> Call:
    assert isinstance(entry.group, Call)
    return entry.group


def _batch_limit(spec: Spec, config: ServerConfig) -> int:
    if config.deterministic:
        return 1
    return min(spec.max_batch_size, config.max_batch_size or spec.max_batch_size)


def _set_result(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _set_exception(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
