"""Demonstrations as a flow policy is trained on them. Law: numpy only, so that an expert needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Windows:
    """What is trained on: states, and for each the plan in force."""

    states: Floats
    """(n, state_dim)."""
    plans: Floats
    """(m, action_dim)."""
    first: npt.NDArray[np.int64]
    """(n,): row of ``plans`` that is the action for each state."""
    end: npt.NDArray[np.int64]
    """(n,): row after the last one of that state's plan; its last action goes on for ever."""
