"""Who is measured in what: the options that one evaluation and a sweep of them have in common. Law: data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from actlink import address
from actlink.credentials import Credentials


@dataclass(frozen=True)
class Subject:
    """A policy and an environment, and how they are opened."""

    policy: str
    """Address of a server, or a local policy: bundled name, directory, file, file.py:Class, module:Class."""
    env: str
    """Environment: aloha_transfer_cube, gymnasium:CartPole-v1, file.py:Class, module:Class."""
    env_options: tuple[str, ...] = ()
    """Options of the environment, as option=value: push_cube_m=0.02 yaw_deg=15."""
    policy_type: str | None = None
    """The family of a local checkpoint that several families recognise, or none; None: whichever recognises it."""
    policy_options: tuple[str, ...] = ()
    """Options of a local policy, as option=value."""
    spec: Path | None = None
    """YAML file with the policy's spec, for servers whose wire announces none; without it the environment's is taken."""
    like: str | None = None
    """The same, from a local policy that has that spec."""
    transform: str | None = None
    """YAML file (or YAML in place) that turns the environment's values into the policy's; 'actlink check' writes it."""
    workers: int = 1
    """Processes, each with one environment and one connection."""
    device: str = "cpu"
    """Where a local policy runs: cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """What a local policy computes in, where its family can choose; None: as the checkpoint says."""
    max_steps: int | None = None
    """Control steps after which an episode is ended; None leaves that to the environment."""
    credentials: Credentials = field(default_factory=Credentials)
    """What the server asks for, and how to know it."""

    @property
    def remote(self) -> bool:
        """Whether the policy is behind an address."""
        return address.is_address(self.policy)
