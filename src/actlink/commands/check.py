"""Compare what a policy wants with what an environment gives, or examine one of them.

With two names: every mismatch, with the line of a transform that repairs it where one can; without any, one step is tried.
With --robot.type: what has to be right before that robot runs, from its port to the server, item by item; nothing moves.
With one name: the conformance suite that this package's own policies and environments pass. Exit code 1 if anything does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional, arg

from actlink import address as addresses
from actlink import loading
from actlink import options as grammar
from actlink.client import Credentials, given_spec, open_policy
from actlink.commands import _checklist
from actlink.commands._options import Common
from actlink.commands._show import spec_lines
from actlink.environments._base import Environment
from actlink.environments._open import open_environment
from actlink.environments._wrappers import Transformed
from actlink.errors import ActlinkError, ConfigError, MissingPackageError, SimulationError
from actlink.matching import Mismatch, compare, fixes, judge
from actlink.policies._base import Policy
from actlink.spec import Spec
from actlink.testing.environments import check_environment
from actlink.testing.policies import check_policy
from actlink.types import Array, Request, Runtime

EXAMPLES = """\
  actlink check aloha_transfer_cube aloha_transfer_cube
  actlink check my_policy.py:MyPolicy
  actlink check ws://gpu-box:8000 --robot.type=so101_follower --robot.port=/dev/ttyACM0 --robot.id=my_arm
"""

NESTED = "robot"
"""``--robot.OPTION=VALUE`` is ``--robot OPTION=VALUE``."""


@dataclass(frozen=True)
class Options:
    """Options of ``actlink check``."""

    policy: Annotated[Positional[str], arg(metavar="POLICY")] = ""
    """A policy (path, bundled name, file.py:Class, address); alone, it may also be an environment."""
    env: Annotated[Positional[str], arg(metavar="ENV")] = ""
    """The environment it should run in; left out: examine the first name alone."""
    kind: Literal["auto", "policy", "environment"] = "auto"
    """With one name: what to take it for."""
    policy_type: str | None = None
    """The family of a local checkpoint that several families recognise, or none; None: whichever recognises it."""
    policy_options: tuple[str, ...] = ()
    """Options of a local policy, as option=value."""
    env_options: tuple[str, ...] = ()
    """Options of the environment, as option=value."""
    transform: str | None = None
    """YAML file (or YAML in place) with the transform to check with."""
    spec: Path | None = None
    """YAML file with the policy's spec, for servers whose wire announces none."""
    like: str | None = None
    """The same, from a local policy that has that spec."""
    device: str = "cpu"
    """Where a local policy runs."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """What a local policy computes in, where its family can choose; None: as the checkpoint says."""
    robot: tuple[str, ...] = ()
    """The robot that is to run, as for 'actlink run': then POLICY is the server, and may be left out."""
    credentials: OmitArgPrefixes[Credentials] = field(default_factory=Credentials)
    common: OmitArgPrefixes[Common] = field(default_factory=Common)


def run(options: Options) -> int:
    if options.robot:
        return _checklist.run(_checklist.Checked(options.robot, options.policy, options.device, options.credentials))
    if not options.policy:
        raise ConfigError("expected a policy, an environment, or --robot.type=NAME; actlink check --help has examples")
    if options.env:
        return _compare(options)
    if is_environment(options):
        environment, task = open_environment(options.policy, None, _env_options(options))
        return _examine("environment", options.policy, lambda: check_environment(environment, task=task), environment)
    policy = _open_policy(options)
    return _examine("policy", options.policy, lambda: check_policy(policy), policy)


def is_environment(options: Options) -> bool:
    """Whether the one name means an environment: said so, a class that is one, or a name that only an environment has."""
    if options.kind != "auto":
        return options.kind == "environment"
    name = grammar.split(options.policy)[0]
    if addresses.is_address(name):
        return False
    if loading.is_reference(name) and name.partition(":")[0] not in (*loading.names("policies"), *loading.names("environments")):
        found = loading.resolve(name)
        return isinstance(found, type) and issubclass(found, Environment)
    return _is_shipped_environment(name)


def _is_shipped_environment(name: str) -> bool:
    from actlink.policies._open import bundled

    if name in bundled() or Path(name).exists():
        return False
    return any(name == file or name.startswith((f"{file}:", f"{file}_")) for file in loading.names("environments"))


def _examine(kind: str, name: str, suite: Callable[[], None], examined: Policy | Environment) -> int:
    try:
        suite()
    except AssertionError as failure:
        print(f"{name} does not pass as {kind}:\n  {failure}")
        return 1
    finally:
        examined.close()
    if isinstance(examined, Policy):
        print("\n".join([name, *spec_lines(examined.spec, examined.facts)]))
    print(f"{name} passes the conformance suite of {'policies' if kind == 'policy' else 'environments'}")
    return 0


def _compare(options: Options) -> int:
    policy = _open_policy(options)
    try:
        found, environment, task = mismatches(policy.spec, options)
        try:
            if environment is not None and all(each.fatal is False or each.fix for each in found):
                found = [*found, *_strange(policy.spec, environment, task, found)]
            if found or environment is None:
                print(report(found, options))
                return 1
            _try_one_step(policy, environment, task)
        finally:
            if environment is not None:
                environment.close()
    finally:
        policy.close()
    print(f"{options.policy} fits {options.env}: every value the policy takes is there, and its actions are taken (one step tried)")
    return 0


def mismatches(wanted: Spec, options: Options) -> tuple[list[Mismatch], Environment | None, str]:
    """What does not fit, and the environment and task where it could be made for this policy at all."""
    try:
        environment, task = open_environment(options.env, wanted, _env_options(options))
    except MissingPackageError:
        raise
    except ConfigError as error:  # for instance a camera it does not have: compare with what it is without the policy
        environment, task = open_environment(options.env, None, _env_options(options))
        offered = environment.spec
        environment.close()
        found = compare(wanted, replace(offered, observation={**environment.on_request, **offered.observation}))
        told = any(each.where.startswith("observation 'images.") for each in found)
        return [*([] if told else [Mismatch("environment", "to be made for this policy", str(error))]), *found], None, task
    return compare(wanted, environment.spec, _seen(environment, task)), environment, task


def _seen(environment: Environment, task: str) -> dict[str, list[Array]]:
    """Vectors of one start, by the environment's keys; none where it cannot start (then the one step that is tried says why)."""
    try:
        observation = environment.reset(task, 0)
    except SimulationError:
        return {}
    return {key: [np.asarray(value)] for key, value in observation.items() if not isinstance(value, str) and np.ndim(value) == 1}


def _strange(wanted: Spec, environment: Environment, task: str, found: Sequence[Mismatch]) -> list[Mismatch]:
    """What is wrong with the values themselves, once what was found is repaired."""
    try:
        repaired = Transformed(environment, fixes(list(found)), wanted) if found else environment
        values = _seen(repaired, task)
        hold = repaired.hold_action(None)
    except (ConfigError, SimulationError):  # what cannot be repaired cannot be judged
        return []
    return judge(wanted, values, hold)


def report(found: Sequence[Mismatch], options: Options) -> str:
    """Every mismatch with its fix, then the transform that all fixes make, ready to paste."""
    lines = [f"{options.policy} and {options.env}: {len(found)} mismatch{'es' if len(found) > 1 else ''}"]
    for each in found:
        lines.append(f"  {each}{'' if each.fatal else ' (runs, at your risk)'}")
        lines += [f"      fix: {line}" for line in (each.fix or "").splitlines()]
        lines += [f"      note: {each.hint}"] if each.hint else []
        if each.fix is None and each.fatal:
            lines.append("      no transform repairs this")
    together = str(fixes(list(found)))
    if together:
        lines += ["put this into a file and give it with --transform:", *(f"  {line}" for line in together.splitlines())]
    return "\n".join(lines)


def _try_one_step(policy: Policy, environment: Environment, task: str) -> None:
    observation = environment.reset(task, 0)
    (result,) = policy.infer([Request(policy.spec.check(observation))])
    if isinstance(result, ActlinkError):
        raise result
    actions = policy.spec.check_actions(result.actions)
    environment.step(actions[0])


def _open_policy(options: Options) -> Policy:
    chosen = grammar.parse_pairs(options.policy_options, "--policy-options")
    if options.policy_type is not None:
        chosen["policy_type"] = options.policy_type
    spec = given_spec(options.spec, options.like)
    return open_policy(
        options.policy, Runtime(options.device, dtype=options.dtype), chosen, spec=spec, credentials=options.credentials
    )


def _env_options(options: Options) -> dict[str, str]:
    chosen = grammar.parse_pairs(options.env_options, "--env-options")
    return chosen if options.transform is None else {**chosen, "transform": options.transform}
