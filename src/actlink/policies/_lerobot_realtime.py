"""Prefix and inference delay for LeRobot policies that do real-time chunking. Law: in the model's own units, or not at all.

A request's prefix is in the robot's units and LeRobot wants what its policy gave before post-processing, so the prefix goes through
the checkpoint's own normalisation (and, where actions are relative to the state, through that step first). Whether that undoes the
post-processor is tried when the policy is loaded; where it does not, the policy accepts no prefix.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from actlink.policies._lerobot_load import Loaded
from actlink.types import Request

_TOLERANCE = 1e-3


class RealTime:
    """How one loaded policy is told what is already on its way."""

    @classmethod
    def of(cls, loaded: Loaded, guided_steps: int | None, weight: float, horizon: int) -> RealTime | None:
        """For a policy that was asked at least once; None if it does not do real-time chunking."""
        if not _can(loaded.policy):
            return None
        rtc = importlib.import_module("lerobot.policies.rtc.configuration_rtc")
        loaded.policy.config.rtc_config = rtc.RTCConfig(
            enabled=True, execution_horizon=guided_steps or horizon, max_guidance_weight=weight
        )
        if hasattr(loaded.policy, "init_rtc_processor"):
            loaded.policy.init_rtc_processor()
        made = cls(loaded, guided_steps, horizon)
        return made if made._undoes(loaded) else None

    def __init__(self, loaded: Loaded, guided_steps: int | None, horizon: int) -> None:
        self._device = next(loaded.policy.parameters()).device
        self._guided_steps = guided_steps
        self._horizon = horizon
        self._action_dim = int(loaded.policy.config.action_feature.shape[0])
        self._normalise = next((step for step in loaded.before.steps if type(step).__name__ == "NormalizerProcessorStep"), None)
        relative = (step for step in loaded.before.steps if type(step).__name__ == "RelativeActionsProcessorStep")
        self._relative = next((step for step in relative if step.enabled), None)

    def group(self, request: Request) -> tuple[int, int] | None:
        """Requests of one group can be one call; None: without a prefix."""
        if request.prefix is None or not len(request.prefix):
            return None
        return request.inference_delay, min(len(request.prefix), self._horizon)

    def arguments(self, requests: Sequence[Request]) -> dict[str, Any]:
        """Arguments of ``predict_action_chunk`` for requests of one group, whose observations the preprocessor has just seen."""
        import torch

        prefixes = [np.asarray(each.prefix, np.float32)[: self._horizon] for each in requests]
        rows = torch.from_numpy(np.stack(prefixes)).to(self._device)
        return {
            "inference_delay": requests[0].inference_delay,
            "prev_chunk_left_over": self._in_model_units(rows),
            "execution_horizon": min(self._guided_steps or self._horizon, rows.shape[1]),
        }

    def _in_model_units(self, rows: Any) -> Any:
        """``(batch, steps, action_dim)`` of the robot's units as the policy gives them."""
        if self._relative is not None:
            module = importlib.import_module(type(self._relative).__module__)
            state = self._relative.get_cached_state().detach().to(rows.device)
            rows = module.to_relative_actions(rows, state, self._relative._build_mask(rows.shape[-1]))
        if self._normalise is not None:
            types = importlib.import_module("lerobot.processor")
            rows = self._normalise(types.create_transition(action=rows))[types.TransitionKey.ACTION]
        return rows.to(self._device)

    def _undoes(self, loaded: Loaded) -> bool:
        import torch

        given = torch.linspace(-0.5, 0.5, 2 * self._action_dim, device=self._device).reshape(1, 2, self._action_dim)
        try:
            finished = loaded.after(given.clone())
            back = self._in_model_units(finished.to(self._device))
        except Exception:  # whatever a post-processor raises for what it cannot take: then there is no way back
            return False
        return back.shape == given.shape and bool((back - given).abs().max() <= _TOLERANCE)


def _can(policy: Any) -> bool:
    declared = getattr(policy, "supports_rtc", None)
    if not (declared() if callable(declared) else hasattr(policy, "init_rtc_processor")):  # 0.4.4 does not declare it
        return False
    try:
        inspect.signature(policy.predict_action_chunk).bind(
            {}, inference_delay=0, prev_chunk_left_over=None, execution_horizon=None
        )
    except TypeError:
        return False
    return True
