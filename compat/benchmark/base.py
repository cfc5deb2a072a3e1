"""``MetaObs`` and ``MetaAction`` as IL-Studio has them: its clients and servers name this module in what they send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class MetaObs:
    """One observation, of one environment or (with a leading axis) of several."""

    state: np.ndarray | None = None
    """Robot state (D,)."""
    state_ee: np.ndarray | None = None
    """End-effector state."""
    state_joint: np.ndarray | None = None
    """Joint state."""
    state_obj: np.ndarray | None = None
    """State of objects."""
    image: np.ndarray | None = None
    """Camera images (K, C, H, W), uint8 RGB."""
    depth: np.ndarray | None = None
    """Depth images (K, H, W)."""
    pc: np.ndarray | None = None
    """Point cloud (n, 3)."""
    raw_lang: str | list[str] = ""
    """Instruction."""
    timestep: int | np.ndarray = -1
    """Control step; 0 begins an episode, -1 = not counted."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


@dataclass
class MetaAction:
    """The action of one control step."""

    ctrl_space: str = "ee"
    """'ee' or 'joint'."""
    ctrl_type: str = "delta"
    """'abs', 'delta' or 'relative'."""
    action: np.ndarray | None = None
    """Action vector (action_dim,)."""
    gripper_continuous: bool = False

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __len__(self) -> int:
        return 0 if self.action is None else len(self.action)
