"""What a LeRobot policy would keep in itself, kept per session instead. Law: a memory is a value; the policy keeps nothing of it.

Policies with ``n_obs_steps`` above 1 (Diffusion, VQ-BeT, multi-task DiT) fill queues with one observation per control step; TD-MPC
starts its planner at the last plan. Here a request's memory fills those queues just before the policy is asked, and they are
emptied right after.

Which observation stands for which control step ``_past`` says; for one observation per step that is LeRobot's own rule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actlink.policies import _past

_ACTION = "action"
_IMAGES = "observation.images"
_IMAGE = "observation.image"


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What one session's next request needs."""

    seen: _past.Seen[Mapping[str, Any]] = ()
    """Observations: queue's name -> tensor ``(1, ...)``."""
    plan: Any = None
    """TD-MPC: ``(horizon, action_dim)``, mean of the last plan; a session without one starts at zero, as the planner does."""


class History:
    """The queues of one policy, which this class alone fills."""

    def __init__(self, policy: Any) -> None:
        policy.reset()
        queues = getattr(policy, "_queues", None) or {}
        self._policy = policy
        self._lengths = {name: int(queue.maxlen or 1) for name, queue in queues.items() if name != _ACTION}
        self.longest = max(self._lengths.values(), default=1)
        """Observations that the policy looks at."""
        self._plans = hasattr(policy, "_prev_mean")

    @property
    def remembers(self) -> bool:
        """Whether a memory is of any use."""
        return self.longest > 1 or self._plans

    def fill(self, batch: dict[str, Any], steps: Sequence[int], memories: Sequence[Memory | None]) -> list[Memory]:
        """Fill the policy's queues for this batch of requests; gives their memories with this observation, without the plan."""
        import torch

        self._policy.reset()
        own = self._own(batch)
        seen = [self._with(memory, step, own, row) for row, (step, memory) in enumerate(zip(steps, memories, strict=True))]
        for name, length in self._lengths.items():
            if name not in own:
                continue
            batch[name] = own[name]
            lanes = [_past.places(each, length) for each in seen]
            rows = (torch.cat([lane[place][name] for lane in lanes]) for place in range(length))
            self._policy._queues[name] = deque(rows, maxlen=length)
        if self._plans and any(memory is not None and memory.plan is not None for memory in memories):
            known = next(memory.plan for memory in memories if memory is not None and memory.plan is not None)
            plans = [torch.zeros_like(known) if memory is None or memory.plan is None else memory.plan for memory in memories]
            self._policy._prev_mean = torch.stack(plans, dim=1)
        return [Memory(each) for each in seen]

    def fill_whole(self, batches: Sequence[dict[str, Any]], plans: Any = None) -> None:
        """Fill the queues with batches of consecutive steps, oldest first; ``plans`` ``(batch, horizon, action_dim)``."""
        self._policy.reset()
        own = [self._own(batch) for batch in batches]
        for name, length in self._lengths.items():
            if name in own[-1]:
                batches[-1][name] = own[-1][name]
                self._policy._queues[name] = deque((each[name] for each in own[-length:]), maxlen=length)
        if plans is not None:
            self._policy._prev_mean = plans.transpose(0, 1)

    def take_plans(self) -> Any:
        """Of all requests, ``(batch, horizon, action_dim)``, now that it has answered, which it forgets; None: it makes none."""
        plan = self._policy._prev_mean if self._plans else None
        self._policy.reset()
        return None if plan is None else plan.transpose(0, 1)

    def after(self, memories: Sequence[Memory]) -> list[Memory | None]:
        """What to remember now that the policy has answered; the policy itself forgets."""
        found = self.take_plans()
        if not self.remembers:
            return [None] * len(memories)
        plans = [None] * len(memories) if found is None else [each.clone() for each in found]
        return [Memory(each.seen, plans[row]) for row, each in enumerate(memories)]

    def _own(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch under the queues' names; images are one tensor there: ``(batch, cameras, channels, height, width)``."""
        import torch

        cameras = list(getattr(self._policy.config, "image_features", None) or {})
        own = {name: batch[name] for name in self._lengths if name in batch}
        if _IMAGES in self._lengths and cameras:
            own[_IMAGES] = torch.stack([batch[key] for key in cameras], dim=-4)
        if _IMAGE in self._lengths and cameras:
            own[_IMAGE] = batch[cameras[0]]
        return own

    def _with(self, memory: Memory | None, step: int, own: Mapping[str, Any], row: int) -> _past.Seen[Mapping[str, Any]]:
        """One session's observations with this one at the end."""
        now = {name: tensor[row : row + 1].clone() for name, tensor in own.items()}
        return _past.with_newest(() if memory is None else memory.seen, step, now, self.longest)
