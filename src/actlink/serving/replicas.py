"""The engines of one model, one for each device. Law: a session stays on its engine; new ones are spread evenly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from actlink.errors import ConfigError
from actlink.policies._base import Policy
from actlink.serving.config import ServerConfig
from actlink.serving.engine import Engine
from actlink.serving.statistics import Counters


@dataclass(frozen=True, slots=True)
class Replicas:
    """At least one engine; all of them serve the same weights under the same spec."""

    engines: tuple[Engine, ...]

    def __iter__(self) -> Iterator[Engine]:
        return iter(self.engines)

    def __contains__(self, engine: Engine) -> bool:
        return engine in self.engines

    def least_used(self) -> Engine:
        """The engine with the fewest sessions; the first of several."""
        return min(self.engines, key=lambda engine: engine.sessions)


def replicas(name: str, policies: Policy | Sequence[Policy], config: ServerConfig, counters: Counters) -> Replicas:
    """Engines for the model ``name``; ``ConfigError`` if its policies are not one policy several times over."""
    copies = [policies] if isinstance(policies, Policy) else list(policies)
    if not copies:
        raise ConfigError(f"model {name!r}: expected a policy for each device, got none")
    if any(each.spec != copies[0].spec for each in copies):
        raise ConfigError(f"model {name!r}: its policies on several devices have different specs")
    if len({id(_innermost(each)) for each in copies}) < len(copies):
        raise ConfigError(f"model {name!r}: one object cannot run on several devices at once; give a class or a checkpoint")
    return Replicas(tuple(Engine(name, each, config, counters) for each in copies))


def _innermost(policy: Policy) -> object:
    """What the wrappers around a policy come down to."""
    found: object = policy
    while (inner := getattr(found, "_inner", None)) is not None:
        found = inner
    return found
