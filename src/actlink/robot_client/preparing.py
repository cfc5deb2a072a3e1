"""Everything that can be known before the arm is touched. Law: whatever does not fit ends the start, and nothing has moved."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from actlink import address as addresses
from actlink import matching, transform
from actlink import options as grammar
from actlink._operations import Resize
from actlink.client import ClientConfig, RemotePolicy, given_spec, needs_spec, open_policy
from actlink.errors import ConfigError
from actlink.matching import Mismatch
from actlink.policies._base import Policy
from actlink.policies._wrappers import Transformed
from actlink.robot_client.config import DEFAULT_FPS, RunConfig, robot_of
from actlink.robots._base import Robot
from actlink.robots._open import open_robot
from actlink.spec import Field, Spec

logger = logging.getLogger("actlink.run")

PROMPT = "prompt"


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A policy that speaks the robot's language, and a robot that is not connected yet."""

    policy: Policy
    """Takes the robot's observation (and ``prompt``), gives the robot's actions."""
    remote: RemotePolicy | None
    """The same without its wrappers, where it is behind an address."""
    robot: Robot
    rate_hz: float


def prepare(config: RunConfig) -> Prepared:
    """Reach the server, make the robot, see that they fit.

    ``ConnectError``, a refusal: the server cannot be had. ``ConfigError``: policy and robot do not fit, with what repairs it.
    """
    name, options = robot_of(config.robot)
    spec = given_spec(config.spec, config.like)
    if spec is None and needs_spec(config.policy):
        spec = _as_policy(offered(open_robot(name, options).spec), config)
    policy = open_policy(
        address(config),
        options=grammar.parse_pairs(config.policy_options, "--policy-options"),
        spec=spec,
        credentials=config.credentials,
        config=ClientConfig(timeout_s=config.start_timeout_s),
    )
    remote = policy if isinstance(policy, RemotePolicy) else None
    try:
        if remote is not None:
            logger.info("Connected to policy server at %s", remote.url)
        robot = open_robot(name, options, policy.spec)
        fitted = fit(policy, robot.spec, transform.parse(config.transform) if config.transform else transform.Transform())
        rate_hz = config.fps or policy.spec.rate_hz or robot.spec.rate_hz or DEFAULT_FPS
        for who, spec in (("policy", policy.spec), ("robot", robot.spec)):
            if spec.rate_hz and abs(spec.rate_hz - rate_hz) > 0.01 * rate_hz:
                logger.warning("the loop runs at %g Hz, and the %s is made for %g Hz", rate_hz, who, spec.rate_hz)
        if PROMPT in policy.spec.observation and not config.task:
            logger.warning("the policy takes an instruction, and none was given: --task '...'")
        return Prepared(fitted, remote, robot, rate_hz)
    except BaseException:
        policy.close()
        raise


def address(config: RunConfig) -> str:
    """The policy's name, with JPEG asked for where the wire has it and a codec is here."""
    if not addresses.is_address(config.policy) or not config.jpeg:
        return config.policy
    parsed = addresses.parse(config.policy)
    if parsed.dialect != "native" or "jpeg" in parsed.options:
        return config.policy
    from actlink.codecs import images
    from actlink.errors import MissingPackageError

    try:
        images.backend()
    except MissingPackageError as error:
        logger.warning("pictures are sent as they are: %s", error)
        return config.policy
    return f"{config.policy}{'&' if '?' in config.policy else '?'}jpeg=true"


def offered(robot: Spec) -> Spec:
    """What the loop offers with this robot: the robot's observation and the instruction."""
    return replace(robot, observation={**robot.observation, PROMPT: Field((), "str", required=False)})


def fit(policy: Policy, robot: Spec, change: transform.Transform) -> Policy:
    """The policy in the robot's terms. Pictures are resized and named entries reordered unasked; ``ConfigError`` has the rest."""
    given = offered(robot)
    if change:
        policy = Transformed(policy, change, given.observation)
    found = matching.compare(policy.spec, given)
    unasked = matching.fixes([each for each in found if each.certain or _resizes(each)])
    if unasked:
        for line in str(unasked).splitlines():
            logger.info("done before sending: %s", line.removeprefix("- "))
        policy = Transformed(policy, unasked, given.observation)
        found = matching.compare(policy.spec, given)
    for each in found:
        if not each.fatal:
            logger.warning("%s (runs, at your risk)", each)
    wrong = [each for each in found if each.fatal]
    if wrong:
        raise ConfigError("policy and robot do not fit:\n" + _told(wrong))
    return policy


def _resizes(found: Mismatch) -> bool:
    """Whether nothing but the size of a picture is wrong."""
    return found.fix is not None and all(isinstance(each, Resize) for each in transform.parse(found.fix).operations)


def _told(wrong: list[Mismatch]) -> str:
    lines = [f"  {each}{'' if each.fix else ' (no transform repairs this)'}" for each in wrong]
    together = str(matching.fixes(wrong))
    if together:
        lines += ["put this into a file and give it with --transform:", *(f"  {line}" for line in together.splitlines())]
    return "\n".join(lines)


def _as_policy(robot: Spec, config: RunConfig) -> Spec:
    """The spec of a policy made for this robot, for wires that announce none; its chunks are as long as they are asked for."""
    observation = dict(robot.observation)
    if not config.task:
        del observation[PROMPT]
    return replace(robot, observation=observation, action_horizon=config.actions_per_chunk or 50, name="")
