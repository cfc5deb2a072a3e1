"""A LeRobot checkpoint directory as the installed LeRobot loads it. Law: offline, no code from the checkpoint, no random weights.

LeRobot 0.4.4 and 0.6 have the same names for what is used here. What they would do that a server must not: ask a hub, import Python
files that lie beside a model (``trust_remote_code``), and go on with random weights when the file does not fit (some policies only
print a warning then; here every parameter is compared with the file).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actlink.errors import ConfigError, MissingPackageError
from actlink.policies import _torch
from actlink.policies._lerobot_files import WEIGHTS_FILE, Checkpoint, write_view

log = logging.getLogger("actlink.policies.lerobot")

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_COMPARED = 16
"""Values of each tensor that are compared with the file: enough to tell the file's from random ones."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What LeRobot made of a checkpoint."""

    policy: Any
    """``PreTrainedPolicy`` in evaluation mode, on its device."""
    before: Any
    """``PolicyProcessorPipeline``: observation -> what the policy takes."""
    after: Any
    """``PolicyProcessorPipeline``: the policy's actions -> the robot's."""


def load(checkpoint: Checkpoint, *, device: str, renames: Mapping[str, str], replace: Mapping[str, str], strict: bool) -> Loaded:
    """Policy and processors on ``device``. ``ConfigError`` says what does not fit; ``PolicyError`` that the device is full.

    ``renames``: LeRobot key of the robot -> of the policy, in place of the checkpoint's own; ``replace``: model name -> directory.
    """
    _go_offline()
    _refuse_code_beside_models()
    factory = importlib.import_module("lerobot.policies.factory")
    configs = importlib.import_module("lerobot.configs.policies")
    _plugins()
    known = configs.PreTrainedConfig.get_known_choices()
    if checkpoint.type not in known:
        raise ConfigError(
            f"{checkpoint.directory}: no policy type {checkpoint.type!r} in the installed LeRobot {version()}; "
            f"it has {', '.join(sorted(known))}"
        )
    with tempfile.TemporaryDirectory(prefix="actlink-lerobot-") as name, contextlib.redirect_stdout(io.StringIO()) as printed:
        place = Path(name)
        write_view(checkpoint, place, device=device, replace=replace)
        try:
            config = configs.PreTrainedConfig.from_pretrained(place)
            kind = factory.get_policy_class(checkpoint.type)
            policy = kind.from_pretrained(place, config=config, local_files_only=True, strict=strict)
            before, after = factory.make_pre_post_processors(
                policy.config,
                pretrained_path=str(place),
                preprocessor_overrides=_overrides(checkpoint, "policy_preprocessor.json", device, renames),
                postprocessor_overrides=_overrides(checkpoint, "policy_postprocessor.json", None, {}),
            )
        except Exception as error:  # LeRobot, draccus, transformers and safetensors raise whatever they like
            raise _told(error, checkpoint, device, renames) from error
        finally:
            log.debug("%s", printed.getvalue())
    policy.eval()
    policy.to(device)
    if strict:
        _is_the_files(policy, checkpoint.directory / WEIGHTS_FILE)
    if checkpoint.config.get("load_vlm_weights"):
        _as_stored(policy, checkpoint.directory / WEIGHTS_FILE)
    for parameter in policy.parameters():
        parameter.requires_grad_(False)
    return Loaded(policy, before, after)


def version() -> str:
    """Of the installed LeRobot."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    try:
        return of("lerobot")
    except PackageNotFoundError:  # on the path without having been installed
        return "?"


def _go_offline() -> None:
    """No look-up in a hub from this process on: neither here nor by what is imported later."""
    for name in _OFFLINE:
        os.environ[name] = "1"
    if importlib.util.find_spec("huggingface_hub") is not None:
        constants = importlib.import_module("huggingface_hub.constants")
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def _refuse_code_beside_models() -> None:
    """Have transformers refuse Python files that come with a model, whoever asks for them with ``trust_remote_code``."""
    if importlib.util.find_spec("transformers") is None:
        return
    dynamic = importlib.import_module("transformers.dynamic_module_utils")

    def refuse(*_: object, **__: object) -> Any:
        raise ConfigError("a model of this checkpoint brings Python code to run (trust_remote_code); it is never run")

    for name in ("get_class_in_module", "get_cached_module_file"):
        setattr(dynamic, name, refuse)


def _plugins() -> None:
    """Policies and robots of other distributions, as LeRobot's own programs find them."""
    tools = importlib.import_module("lerobot.utils.import_utils")
    register = getattr(tools, "register_third_party_plugins", None) or getattr(tools, "register_third_party_devices", None)
    if register is not None:
        register()


def _overrides(checkpoint: Checkpoint, file: str, device: str | None, renames: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Options of steps that are ours to say; only for steps that are there, because LeRobot refuses any other."""
    names = {str(step["registry_name"]) for step in checkpoint.processors[file]["steps"]}
    found: dict[str, dict[str, Any]] = {}
    if device is not None and "device_processor" in names:
        found["device_processor"] = {"device": device}
    if renames:
        if "rename_observations_processor" not in names:
            raise ConfigError(
                f"{checkpoint.directory}: rename_map: this checkpoint's {file} has no step that renames; it has {names}"
            )
        found["rename_observations_processor"] = {"rename_map": dict(renames)}
    return found


def _told(error: Exception, checkpoint: Checkpoint, device: str, renames: Mapping[str, str]) -> Exception:
    """The error to raise for one of LeRobot's."""
    if isinstance(error, ConfigError):
        return error
    if _torch.is_out_of_memory(error):
        return _torch.out_of_memory(error, device, f"loading {checkpoint.directory}")
    text = " ".join(str(error).split())[:600] or type(error).__name__
    where = f"{checkpoint.directory}: LeRobot {version()} cannot load this {checkpoint.type} checkpoint"
    if isinstance(error, ImportError):
        return MissingPackageError(f"{where}: {text}")
    if _is_missing_model(error):
        return ConfigError(
            f"{where}: {text}. A model that it names is neither a directory nor in the local cache, and nothing is looked up in a "
            "hub; give its directory with replace={NAME: DIRECTORY}"
        )
    return ConfigError(f"{where}: {type(error).__name__}: {text}")


def _is_missing_model(error: BaseException | None) -> bool:
    names = ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "HFValidationError", "RepositoryNotFoundError")
    while error is not None:
        text = str(error)
        if type(error).__name__ in names or "huggingface.co" in text or "is not a local folder" in text:
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_the_files(policy: Any, path: Path) -> None:
    """Refuse a policy whose parameters are not those of the file, by the first values of each."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        heads = {name: _head(file, name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    seen: set[int] = set()
    lacking: list[tuple[str, Any]] = []
    for name, parameter in policy.named_parameters(remove_duplicate=False):
        key = next((each for each in (name, name.removeprefix("model."), f"model.{name}") if each in heads), None)
        if key is None:
            lacking.append((name, parameter))
        elif not _same(parameter, heads[key]):
            raise ConfigError(f"{path}: {name} was not taken from the file: this LeRobot reads it otherwise than it was saved")
        else:
            seen.add(parameter.data_ptr())
    # A tensor that is shared is stored once, and some policies store it under another name.
    random = [
        name
        for name, parameter in lacking
        if parameter.data_ptr() not in seen and not any(_same(parameter, head) for head in heads.values())
    ]
    if random:
        raise ConfigError(
            f"{path}: the file lacks {len(random)} of the policy's parameters, which would stay random: {', '.join(random[:3])}; "
            "strict=false takes it as it is"
        )


def _head(file: Any, name: str) -> tuple[tuple[int, ...], Any]:
    """Shape and first values, without reading the rest."""
    part = file.get_slice(name)
    shape = tuple(part.get_shape())
    return shape, (part[:1] if shape else file.get_tensor(name)).flatten()[:_COMPARED]


def _same(parameter: Any, head: tuple[tuple[int, ...], Any]) -> bool:
    shape, first = head
    if tuple(parameter.shape) != shape:
        return False
    mine = parameter.detach().flatten()[: len(first)].cpu()
    return bool((mine.float() == first.to(mine.dtype).float()).all())


def _as_stored(policy: Any, path: Path) -> None:
    """Each parameter in the precision it was saved in: a language model that LeRobot would have loaded in half precision."""
    import torch
    from safetensors import safe_open

    kinds = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    with safe_open(path, framework="pt") as file:
        stored = set(file.keys())
        for name, parameter in policy.named_parameters():
            kind = kinds.get(file.get_slice(name).get_dtype()) if name in stored else None
            if kind is not None:
                parameter.data = parameter.data.to(kind)
