"""LeRobot checkpoints through the installed LeRobot: SmolVLA, Diffusion, pi0, pi0.5, VQ-BeT, TD-MPC, GR00T, whatever it registers.

A directory that ``save_pretrained`` wrote (``_lerobot_files`` says what lies in it), or a training run that has one. Its own
processors normalise, tokenise and rename. Only directories: nothing is looked up in a hub, and nothing in a checkpoint is run.
Type ``act`` needs no LeRobot (family ``act``); ``lerobot:PATH`` loads it here nevertheless.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from actlink import loading
from actlink.errors import ConfigError, PolicyError
from actlink.policies import _lerobot_files, _lerobot_load, _torch
from actlink.policies._base import Exportable, Policy, Result, answer
from actlink.policies._lerobot_history import History, Memory
from actlink.policies._lerobot_realtime import RealTime
from actlink.policies._lerobot_spec import PROMPT, Keys, observation_fields, typical
from actlink.spec import Field, Spec
from actlink.types import Request, Runtime

REQUIRES = ("lerobot", "torch")
EXTRA = "lerobot"
LOOKS_FOR = "config.json of LeRobot with a type other than act"


@dataclass(frozen=True, slots=True)
class Config:
    """Options of the family."""

    rename_map: Mapping[str, str] = field(default_factory=dict)
    """LeRobot key of the robot -> of the policy, e.g. {observation.images.front: observation.images.camera1}."""
    replace: Mapping[str, str] = field(default_factory=dict)
    """Name of a model that the checkpoint uses (a language model, a tokenizer) -> the directory where it is."""
    max_batch_size: int = 8
    """Requests per call; 1 where the policy turns out not to take more."""
    rate_hz: float | None = None
    """Control steps per second of the demonstrations; the checkpoint does not say."""
    prompt: str | None = None
    """What every request tells a policy that reads words; requests then bring none, and the policy can be exported."""
    real_time: bool = True
    """Use prefix and inference delay where the policy can (real-time chunking)."""
    guided_steps: int | None = None
    """Steps of the prefix that guide the new chunk; default: all of it. LeRobot calls it execution_horizon."""
    guidance_weight: float = 10.0
    """Largest weight of the guidance; LeRobot calls it max_guidance_weight."""
    strict: bool = True
    """Refuse weights that do not fit the policy exactly."""


def recognises(path: Path) -> bool:
    """Whether ``path`` is a LeRobot checkpoint of a type that no other family takes, or a training run with one."""
    place = _lerobot_files.place_of(path) if path.is_dir() else None
    return place is not None and _lerobot_files.type_of(place) not in _lerobot_files.OWN_FAMILIES


def load(source: str, config: Config, runtime: Runtime) -> Policy:
    """The policy in directory ``source``. ``ConfigError`` says which file is wrong, and how."""
    path = Path(source).expanduser()
    if not path.is_dir():
        raise ConfigError(f"{source}: no such directory; expected a LeRobot checkpoint's, because nothing is looked up in a hub")
    if config.max_batch_size < 1:
        raise ConfigError(f"lerobot: max_batch_size: expected at least 1, got {config.max_batch_size}")
    checkpoint = _lerobot_files.read(_lerobot_files.place_of(path) or path)
    loading.require(sys.modules[__name__])
    return LeRobotPolicy(checkpoint, config, runtime)


@final
class LeRobotPolicy(Policy):
    """One ``PreTrainedPolicy`` with its processors."""

    def __init__(self, checkpoint: _lerobot_files.Checkpoint, config: Config, runtime: Runtime) -> None:
        self._device = str(_torch.device(runtime))
        _torch.threads(runtime)
        self._deterministic = runtime.deterministic
        self._precision = None if runtime.dtype is None else _torch.dtype(runtime)
        renames = {**checkpoint.renames(), **config.rename_map}
        loaded = _lerobot_load.load(
            checkpoint, device=self._device, renames=config.rename_map and renames, replace=config.replace, strict=config.strict
        )
        self._policy, self._before, self._after = loaded.policy, loaded.before, loaded.after
        if runtime.dtype == "float32":
            self._policy.float()
        self._history = History(self._policy)
        fields = observation_fields(self._policy.config, checkpoint, renames)
        if config.prompt is not None:
            if PROMPT not in fields:
                raise ConfigError(f"{checkpoint.directory}: prompt: a policy of type {checkpoint.type} reads no words")
            del fields[PROMPT]
        self._keys = Keys(fields, self._device, config.prompt)
        self._chunks = True
        self._whole: bool | None = None
        self._real_time: RealTime | None = None
        chunk = self._try_out(fields, checkpoint)
        if config.real_time:
            self._real_time = RealTime.of(loaded, config.guided_steps, config.guidance_weight, chunk.shape[1])
        known = typical(self._before, "observation.state", fields["state"].shape[0] or 0) if "state" in fields else None
        width = chunk.shape[-1]
        self.spec = Spec(
            observation=fields if known is None else {**fields, "state": replace(fields["state"], typical=known)},
            action=Field((width,), names=_names(self._policy.config, width), typical=typical(self._before, "action", width)),
            action_horizon=chunk.shape[-2],
            rate_hz=config.rate_hz,
            accepts_prefix=self._real_time is not None,
            max_batch_size=self._largest_batch(fields, config.max_batch_size),
            stateful=self._history.remembers,
            digest=_lerobot_files.digest(checkpoint),
        )
        self.facts = _facts(checkpoint, self._policy, self._real_time is not None)

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        """Requests that share one inference delay and length of prefix are one call: LeRobot has one of each per call."""
        groups: dict[tuple[int, int] | None, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(None if self._real_time is None else self._real_time.group(request), []).append(index)
        results: dict[int, Result] = {}
        for group, indices in groups.items():
            own = [requests[index] for index in indices]
            chunks, memories = self._ask(own, guided=group is not None)
            for index, request, rows, memory in zip(indices, own, chunks, memories, strict=True):
                results[index] = answer(request, rows, memory)
        return [results[index] for index in range(len(requests))]

    def exportable(self) -> Exportable:
        from actlink.policies import _lerobot_export

        if self._device != "cpu" or str(self._precision) not in ("None", "torch.float32"):
            raise ConfigError("lerobot: an export computes in float32 on the cpu; leave --device out, and --dtype or say float32")
        parts = _lerobot_export.Parts(self._policy, self._before, self._keys, self._history, self._chunk, self._finished)
        try:
            return _lerobot_export.exportable(parts, self.spec)
        except ConfigError as error:
            raise ConfigError(f"lerobot: {self._policy.name}: {error}") from error
        except Exception as error:  # LeRobot and what it stands on raise whatever they like
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
            raise ConfigError(f"lerobot: {self._policy.name} cannot be exported: {said}") from error

    def close(self) -> None:
        del self._policy, self._before, self._after, self._history, self._real_time

    def _ask(self, requests: Sequence[Request], *, guided: bool = False) -> tuple[Any, list[Memory | None]]:
        """float32 ``(requests, action_horizon, action_dim)`` in the robot's units, and one memory for each request."""
        import torch

        if self._deterministic:
            torch.manual_seed(0)
        try:
            with torch.no_grad(), self._computing():
                batch = self._before(self._keys.batch(requests))
                batch.pop("action", None)  # an empty place for what is only there in training
                memories = self._history.fill(batch, [each.step for each in requests], [each.memory for each in requests])
                extra = self._real_time.arguments(requests) if guided and self._real_time is not None else {}
                chunk = self._chunk(batch, extra)
                kept = self._history.after(memories)
                actions = self._finished(chunk)
        except Exception as error:  # LeRobot and what it stands on raise whatever they like
            if _torch.is_out_of_memory(error):
                raise _torch.out_of_memory(error, self._device, f"inference of {len(requests)} observations") from error
            raise PolicyError(f"lerobot: {type(error).__name__}: {' '.join(str(error).split())[:600]}") from error
        return actions.detach().to(device="cpu", dtype=torch.float32).numpy(), kept

    def _chunk(self, batch: dict[str, Any], extra: Mapping[str, Any]) -> Any:
        """The policy's own chunk ``(batch, horizon, action_dim)``, before its post-processor."""
        if not self._chunks:
            return self._policy.select_action(batch).unsqueeze(1)
        chunk = self._policy.predict_action_chunk(batch, **extra)
        if self._policy.name == "tdmpc":  # the one whose time comes first, and that can repeat its first action
            repeats = self._policy.config.n_action_repeats
            chunk = chunk.transpose(0, 1)
            return chunk[:, :1].repeat(1, repeats, 1) if repeats > 1 else chunk
        return chunk if chunk.ndim == 3 else chunk.unsqueeze(0)

    def _finished(self, chunk: Any) -> Any:
        """Post-processed at once where that is the same as one control step after the other, as LeRobot's server does."""
        import torch

        if self._whole:
            return self._after(chunk)
        stepwise = torch.stack([self._after(chunk[:, row]) for row in range(chunk.shape[1])], dim=1)
        if self._whole is None:
            try:
                self._whole = bool(torch.equal(self._after(chunk.clone()), stepwise))
            except Exception:  # a step that takes one control step only
                self._whole = False
        return stepwise

    def _computing(self) -> Any:
        """Half precision where asked for, or where the checkpoint was trained so and the card is there."""
        import torch

        kind = self._device.partition(":")[0]
        if self._precision is not None and self._precision != torch.float32:
            return torch.autocast(kind, dtype=self._precision)
        return (
            torch.autocast(kind)
            if kind == "cuda" and self._precision is None and self._policy.config.use_amp
            else contextlib.nullcontext()
        )

    def _try_out(self, fields: Mapping[str, Field], checkpoint: _lerobot_files.Checkpoint) -> Any:
        """One chunk from zeros, which shows the horizon and what this policy can do. ``ConfigError`` if it can do nothing."""
        request = Request({key: value.zeros() for key, value in fields.items()})
        try:
            try:
                chunk, _ = self._ask([request])
            except PolicyError as error:
                if not isinstance(error.__cause__, NotImplementedError):
                    raise
                self._chunks = False  # one action at a time
                chunk, _ = self._ask([request])
        except PolicyError as error:
            if _torch.is_out_of_memory(error):
                raise
            raise ConfigError(f"{checkpoint.directory}: the policy was loaded and cannot answer zeros: {error}") from error
        return chunk

    def _largest_batch(self, fields: Mapping[str, Field], most: int) -> int:
        """``most``, or 1 if two different observations do not make one call."""
        if most == 1:
            return 1
        request = Request({key: value.zeros() for key, value in fields.items()})
        try:
            chunk, _ = self._ask([request, request])
        except PolicyError:
            return 1
        return most if np.shape(chunk)[0] == 2 else 1


def _names(config: Any, count: int) -> tuple[str, ...] | None:
    names = getattr(config, "action_feature_names", None)
    return tuple(map(str, names)) if names and len(names) == count else None


def _facts(checkpoint: _lerobot_files.Checkpoint, policy: Any, real_time: bool) -> dict[str, str]:
    count = sum(parameter.numel() for parameter in policy.parameters())
    modes = checkpoint.config.get("normalization_mapping") or {}
    normalised = ", ".join(f"{kind.lower()} {str(mode).lower()}" for kind, mode in modes.items())
    return {
        "type": checkpoint.type,
        "parameters": f"{count / 1e6:.1f} M" if count >= 1e6 else str(count),
        "normalisation": f"policy_preprocessor.json ({normalised})",
        "layout": f"LeRobot {_lerobot_load.version()}",
        "real-time chunking": "yes" if real_time else "no",
    }
