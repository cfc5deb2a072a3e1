"""The records of LeRobot's asynchronous inference, and its four aggregation functions, for programs that import them.

Nothing here goes over the wire: there actlink writes and reads these names itself (``docs/dialects/lerobot.md``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actlink.execution.asynchronous import AGGREGATE_FUNCTIONS

__all__ = ["AGGREGATE_FUNCTIONS", "RemotePolicyConfig", "TimedAction", "TimedData", "TimedObservation"]


@dataclass
class TimedData:
    """Something of one control step."""

    timestamp: float
    timestep: int

    def get_timestamp(self) -> float:
        return self.timestamp

    def get_timestep(self) -> int:
        return self.timestep


@dataclass
class TimedAction(TimedData):
    """The action of one control step, ``(action_dim,)``."""

    action: Any

    def get_action(self) -> Any:
        return self.action


@dataclass
class TimedObservation(TimedData):
    """What the robot saw; ``must_go``: the queue is empty."""

    observation: dict[str, Any]
    must_go: bool = False

    def get_observation(self) -> dict[str, Any]:
        return self.observation


@dataclass
class RemotePolicyConfig:
    """Which policy a client asks the server for."""

    policy_type: str
    pretrained_name_or_path: str
    lerobot_features: dict[str, Any]
    actions_per_chunk: int
    device: str = "cpu"
    rename_map: dict[str, str] = field(default_factory=dict)
