"""What lies in a LeRobot checkpoint directory. Law: reads JSON and names; imports neither LeRobot nor torch, runs nothing.

::

    config.json                      "type", input_features, output_features, and the policy's own options
    model.safetensors                weights
    policy_preprocessor.json         steps before the policy (rename, tokens, normalisation), each with a registered name
    policy_postprocessor.json        steps after it
    *_processor.safetensors          what the steps have learned: statistics

A training run keeps it under ``checkpoints/<step>/pretrained_model``; ``checkpoints/last`` is a link to the newest.

What these files name is judged here before LeRobot sees it: it would import any class that a step names, look into a hub for any
model that is not a directory, and download a backbone's first weights although the checkpoint brings its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actlink.errors import ConfigError
from actlink.policies import _json

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PROCESSOR_FILES = ("policy_preprocessor.json", "policy_postprocessor.json")
OWN_FAMILIES = frozenset({"act"})
"""Types that another file of this folder loads without LeRobot."""

_PLACES = ("", "pretrained_model", "checkpoints/last/pretrained_model")
_NAMES_A_MODEL = ("_name", "_path", "_name_or_path", "_model")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A directory whose files are all there and name nothing that may not be named."""

    directory: Path
    config: dict[str, Any]
    processors: dict[str, dict[str, Any]]
    """File name -> its content, for both of ``PROCESSOR_FILES``."""

    @property
    def type(self) -> str:
        return str(self.config["type"])

    def steps(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Registered name and options of every step of both processors."""
        for content in self.processors.values():
            for step in content["steps"]:
                yield str(step.get("registry_name") or step.get("class")), step.get("config") or {}

    def renames(self) -> dict[str, str]:
        """LeRobot's key as the robot has it -> as the policy has it; what the checkpoint's own rename step says."""
        found: dict[str, str] = {}
        for name, options in self.steps():
            if "rename_map" in options and "rename" in name and isinstance(options["rename_map"], Mapping):
                found |= {str(key): str(value) for key, value in options["rename_map"].items()}
        return found


def place_of(path: Path) -> Path | None:
    """The directory at or under ``path`` that looks like a LeRobot checkpoint of any type."""
    for place in _PLACES:
        if type_of(path / place) is not None:
            return path / place
    return None


def type_of(directory: Path) -> str | None:
    """``type`` of a LeRobot ``config.json`` in ``directory``; None if there is none. Other programs have a ``config.json`` too."""
    try:
        config = _json.read(directory / CONFIG_FILE)
    except ConfigError:
        return None
    kind = config.get("type")
    return kind if isinstance(kind, str) and ("input_features" in config or "output_features" in config) else None


def read(directory: Path) -> Checkpoint:
    """The checkpoint in ``directory``; ``ConfigError`` says which file is missing, broken, or names what it may not."""
    there = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
    listed = ", ".join(there[:12]) or "nothing"
    if CONFIG_FILE not in there:
        raise ConfigError(f"{directory}: expected a LeRobot checkpoint with {CONFIG_FILE}; it holds {listed}")
    config = _json.read(directory / CONFIG_FILE)
    if not isinstance(config.get("type"), str):
        raise ConfigError(f"{directory / CONFIG_FILE}: expected a LeRobot policy's 'type'; its keys are {', '.join(config)}")
    if "adapter_config.json" in there or config.get("use_peft") is True:
        raise ConfigError(
            f"{directory}: these are the weights of a PEFT adapter, not of a policy; merge them into the policy in the training "
            "environment (merge_and_unload, then save_pretrained)"
        )
    if WEIGHTS_FILE not in there:
        others = [name for name in there if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        hint = f"; {', '.join(others)} is not read: save it as safetensors in the training environment" if others else ""
        raise ConfigError(f"{directory}: half a LeRobot checkpoint, without {WEIGHTS_FILE}; it holds {listed}{hint}")
    lacking = [name for name in PROCESSOR_FILES if name not in there]
    if lacking:
        raise ConfigError(
            f"{directory}: half a LeRobot checkpoint, without {' and '.join(lacking)}; it holds {listed}. One saved before LeRobot "
            "0.4 has its statistics among the weights: convert it in the training environment with "
            "python -m lerobot.processor.migrate_policy_normalization --pretrained-path DIRECTORY"
        )
    processors = {name: _processor(directory, name) for name in PROCESSOR_FILES}
    return Checkpoint(directory, config, processors)


def write_view(checkpoint: Checkpoint, place: Path, *, device: str, replace: Mapping[str, str]) -> None:
    """Write into the empty directory ``place`` what LeRobot is to load: links to the files, and the JSON files with directories for
    names, the device, and nothing to download. ``replace``: model name -> directory."""
    for entry in checkpoint.directory.iterdir():
        if entry.name not in (CONFIG_FILE, *PROCESSOR_FILES):
            os.symlink(entry.resolve(), place / entry.name)
    config = _placed(checkpoint.config, checkpoint.directory, replace)
    config["device"] = device
    for key, value in (("pretrained_backbone_weights", None), ("load_vlm_weights", False), ("pretrained_path", None)):
        if key in config:
            config[key] = value
    (place / CONFIG_FILE).write_text(json.dumps(config))
    for name, content in checkpoint.processors.items():
        (place / name).write_text(json.dumps(_placed(content, checkpoint.directory, replace)))


def digest(checkpoint: Checkpoint) -> str:
    """Of the weights, the configuration and everything the processors have learned."""
    total = hashlib.sha256()
    names = [CONFIG_FILE, *PROCESSOR_FILES, WEIGHTS_FILE]
    states = {
        step["state_file"] for content in checkpoint.processors.values() for step in content["steps"] if step.get("state_file")
    }
    for name in [*names, *sorted(states)]:
        with (checkpoint.directory / name).open("rb") as file:
            for part in iter(lambda file=file: file.read(1 << 20), b""):  # type: ignore[misc]
                total.update(part)
    return f"sha256:{total.hexdigest()[:16]}"


def _placed(value: Any, directory: Path, replace: Mapping[str, str], key: str = "") -> Any:
    """``value`` with model names replaced by directories: those in ``replace``, and those that are folders of the checkpoint."""
    if isinstance(value, dict):
        return {name: _placed(inner, directory, replace, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_placed(inner, directory, replace, key) for inner in value]
    if isinstance(value, str) and value:
        if value in replace:
            return str(Path(replace[value]).expanduser().resolve())
        if key.endswith(_NAMES_A_MODEL) and not os.path.isabs(value) and (directory / value).is_dir():
            return str((directory / value).resolve())
    return value


def _processor(directory: Path, name: str) -> dict[str, Any]:
    content = _json.read(directory / name)
    steps = content.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ConfigError(f"{directory / name}: expected a list 'steps', got the keys {', '.join(content) or '(none)'}")
    for step in steps:
        if not isinstance(step.get("registry_name"), str):
            raise ConfigError(
                f"{directory / name}: a step names the class {step.get('class')!r} to import; only steps with a registered name "
                "are taken: a checkpoint must not choose what code runs. Register the step (ProcessorStepRegistry), save again"
            )
        state = step.get("state_file")
        if state is not None and (not isinstance(state, str) or Path(state).name != state or not state.endswith(".safetensors")):
            raise ConfigError(f"{directory / name}: state_file: expected a .safetensors file beside it, got {state!r}")
        if state is not None and not (directory / state).is_file():
            raise ConfigError(f"{directory}: half a LeRobot checkpoint, without {state}, which {name} names")
    return content
