"""One batch through a policy, whatever the policy does. Law: every request gets a result; nothing escapes but results.

Runs on the engine's thread. A batch that fails as a whole is run again one by one, so that one request's failure is its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from actlink.errors import ActlinkError, PolicyError, SpecError
from actlink.policies._base import Policy, Result
from actlink.policies._hardware import is_out_of_memory, out_of_memory, release_cached
from actlink.spec import Spec
from actlink.types import ActionChunk, Request

logger = logging.getLogger("actlink.serving")

LONGEST_MESSAGE = 200
"""Characters of a policy's own message that reach a peer."""

QUIET_S = 1.0
"""At most one traceback in this time: a policy that fails at every request must not fill the disk."""


class Inference:
    """Calls the policy and turns what it does into results that fit its spec."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._device = policy.facts.get("device", "cpu")
        self._logged_s = -QUIET_S
        self._unlogged = 0

    def run(self, requests: Sequence[Request]) -> list[Result]:
        """A checked chunk or an error for each request, in order."""
        try:
            results = self._infer(requests)
            return [_checked(self._policy.spec, request, result) for request, result in zip(requests, results, strict=True)]
        except BaseException as error:  # a policy that calls sys.exit() must not take the server with it
            full = is_out_of_memory(error)
            if len(requests) == 1:
                self._log(error)
                return [self._told(error, "an inference")]
            if full:
                logger.warning("%s; its %d requests run one by one", self._told(error, _doing(len(requests))), len(requests))
        # Only here: while the error lives, so do the frames it came from, and what fills the memory with them.
        if full:
            release_cached()
        return [self.run([request])[0] for request in requests]

    def warm_up(self, sizes: Sequence[int]) -> None:
        """Run batches of zeros, so that what the policy builds lazily is built; ``PolicyError`` if it cannot take them."""
        spec = self._policy.spec
        zeros = spec.check(spec.zeros())
        for size in sizes:
            # Steps of one episode: on the way to another server, some wires take each step 0 for the beginning of a new one.
            requests = [Request(zeros, step, session=WARM_UP) for step in range(size)]
            try:
                for request, result in zip(requests, self._infer(requests), strict=True):
                    chunk = _checked(spec, request, result)
                    if isinstance(chunk, ActlinkError):
                        raise chunk
            except BaseException as error:
                if is_out_of_memory(error):
                    raise out_of_memory(error, self._device, f"the warm-up: {_doing(size)}") from error
                raise PolicyError(f"warm-up with {size} observation(s) of zeros failed: {_short(error)}") from error
            finally:
                self._policy.forget(WARM_UP)

    def _infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        results = self._policy.infer(requests)
        if len(results) != len(requests):
            raise PolicyError(f"the policy returned {len(results)} results for {len(requests)} requests")
        return results

    def _told(self, error: BaseException, doing: str) -> ActlinkError:
        """What the peer gets to know of ``error``."""
        if is_out_of_memory(error):
            return out_of_memory(error, self._device, doing)
        return error if isinstance(error, ActlinkError) else _as_policy_error(error)

    def _log(self, error: BaseException) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s < QUIET_S:
            self._unlogged += 1
            return
        more = f" ({self._unlogged} failures since the last one logged)" if self._unlogged else ""
        self._logged_s, self._unlogged = now_s, 0
        logger.error("policy failed%s", more, exc_info=error)


WARM_UP = "warm-up"
"""Session name of the requests that warm a policy up."""


def _checked(spec: Spec, request: Request, result: object) -> Result:
    """The chunk stamped as the answer to ``request``, or what is wrong with it."""
    if isinstance(result, ActlinkError):
        return result
    if not isinstance(result, ActionChunk):
        return PolicyError(f"the policy returned a {type(result).__name__} instead of an action chunk")
    try:
        actions = spec.check_actions(result.actions, "actions")
    except SpecError as error:
        return PolicyError(f"the policy returned a bad chunk: {error}")
    # A copy: the answer is written later, and the policy may have filled its buffer again by then.
    return ActionChunk(np.array(actions), request.step, request.episode, request.session, result.memory, result.timing)


def _doing(size: int) -> str:
    return f"an inference of {size} observation{'s' if size > 1 else ''}"


def _as_policy_error(error: BaseException) -> PolicyError:
    return PolicyError(f"policy failed: {_short(error)}")


def _short(error: BaseException) -> str:
    """Type and first line of an error: enough for a peer, nothing of our files."""
    if isinstance(error, ActlinkError):
        return str(error)
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first[:LONGEST_MESSAGE]}" if first else type(error).__name__
