"""What the user wrote for an environment, as an environment and a task. Law: the folder is the registry, the longest name wins.

``<file>``, ``<file>:<task>``, ``<file>_<task>`` (``gymnasium:CartPole-v1``, ``aloha_transfer_cube``), or a third party's
``file.py:Class`` / ``module:Class``; options follow as ``?option=value&...``. The option ``transform`` is understood by every
environment. Where policy and environment name the entries of a value, this is the one place that puts them in the policy's order:
entries are chosen by name, without being asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from actlink import loading, matching, transform
from actlink import options as grammar
from actlink.environments._base import Environment
from actlink.environments._wrappers import Transformed
from actlink.errors import ConfigError
from actlink.spec import Spec


def open_environment(
    reference: str, wanted: Spec | None = None, options: Mapping[str, Any] | None = None
) -> tuple[Environment, str]:
    """The environment that ``reference`` names and the task to reset it to.

    ``wanted`` is the policy's spec: the environment learns from it which cameras to render, and its named values are brought into
    the policy's order. ``options`` win over those in the reference. ``ConfigError`` lists what there is.
    """
    name, written = grammar.split(reference)
    chosen: dict[str, Any] = {**written, **(options or {})}
    change = transform.parse(chosen.pop("transform")) if "transform" in chosen else transform.Transform()
    asked = wanted if wanted is None else replace(wanted, observation=change.before(wanted.observation))
    environment, task = _make(name, chosen, asked)
    try:
        tasks = environment.tasks()
        if task and task not in tasks:
            raise ConfigError(f"{name}: no task {task!r}; there are: {', '.join(tasks)}")
        if change:
            environment = Transformed(environment, change, wanted)
        by_name = matching.automatic(wanted, environment.spec) if wanted is not None else transform.Transform()
        if by_name:
            environment = Transformed(environment, by_name, wanted)
    except ConfigError:
        environment.close()
        raise
    return environment, task or tasks[0]


def _make(name: str, chosen: dict[str, Any], wanted: Spec | None) -> tuple[Environment, str]:
    file, task = _split(name)
    if file is None:
        return _third_party(name, chosen, wanted)
    module = loading.load("environments", file)
    loading.require(module)
    environment: Environment = module.Environment(grammar.build(module.Config, chosen, file), task=task, wanted=wanted)
    return environment, task


def _split(name: str) -> tuple[str | None, str]:
    """File and task; no file where the name is a third party's."""
    files = loading.names("environments")
    for file in sorted(files, key=len, reverse=True):
        if name == file:
            return file, ""
        if name.startswith((f"{file}:", f"{file}_")):
            return file, name[len(file) + 1 :]
    if loading.is_reference(name):
        return None, ""
    raise ConfigError(
        f"no environment {name!r}; there are: {', '.join(files)} (with a task: aloha_transfer_cube, gymnasium:CartPole-v1), "
        "file.py:Class and module:Class"
    )


def _third_party(name: str, chosen: dict[str, Any], wanted: Spec | None) -> tuple[Environment, str]:
    """A class made as every environment is; its ``Config`` stands beside it. The task is the option ``task``."""
    made = loading.resolve(name)
    module: ModuleType = loading.third_party(name.rpartition(":")[0], name)
    if not (isinstance(made, type) and issubclass(made, Environment)):
        raise ConfigError(f"{name}: expected a subclass of actlink.environments._base.Environment, got {made!r}")
    task = str(chosen.pop("task", ""))
    if not hasattr(module, "Config"):
        raise ConfigError(f"{name}: its module has no 'Config' (a frozen dataclass of the environment's options, may be empty)")
    loading.require(module)
    build: Any = made
    environment: Environment = build(grammar.build(module.Config, chosen, name), task=task, wanted=wanted)
    return environment, task
