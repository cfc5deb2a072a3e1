"""Write a torch policy as policy.json and ONNX, so that a server of it needs onnxruntime only.

PATH is a checkpoint (or any name of a local policy), OUT a directory for the two files. At the end random observations go through
both, with the same random numbers where the policy draws some and over an episode where it remembers, and the largest difference of
their actions is printed; where it is too large nothing is written and the exit code is 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from actlink import export as exporting
from actlink import options as grammar
from actlink.commands._options import Common
from actlink.policies._open import open_policy
from actlink.types import Runtime

EXAMPLES = """\
  actlink export ckpt/policy_best.ckpt exported --policy-options cameras=top image_size=480,640
  actlink export outputs/train/act/checkpoints/last exported
  actlink export outputs/train/diffusion/checkpoints/last exported
  actlink export outputs/train/smolvla exported --policy-options 'prompt=put the cube into the box'
"""


@dataclass(frozen=True)
class Options:
    """Options of ``actlink export``."""

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """A checkpoint directory or file, or family:source."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Directory to write; made if it is not there, and then holds this policy alone."""
    policy_options: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...")] = ()
    """Options of the policy's family; an unknown one is answered with the list of those there are."""
    policy_type: str | None = None
    """The family, where the files do not say it or several fit."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)


def run(options: Options) -> int:
    chosen = grammar.parse_pairs(options.policy_options, "--policy-options")
    if options.policy_type is not None:
        chosen["policy_type"] = options.policy_type
    policy = open_policy(options.path, Runtime(dtype="float32"), chosen)
    try:
        for name, fact in policy.facts.items():
            print(f"{name:15} {fact}")
        exporting.export(policy, options.out, told=tell)
    finally:
        policy.close()
    files = sorted(options.out.iterdir())
    print(f"{options.out}: " + ", ".join(f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)" for path in files))
    print(f"serve it: actlink serve {options.out}")
    return 0


def tell(found: exporting.Difference) -> None:
    print(f"batch {found.batch}: actions differ by at most {found.largest:.1e} (allowed: {found.allowed:.1e})")
