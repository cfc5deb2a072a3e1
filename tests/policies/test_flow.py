"""Flow policies: how a prefix is continued, that answers are functions of requests, and what is wrong with a folder.

Equality with torch is in ``tests/interop/flow``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlink.environments._open import open_environment
from actlink.errors import ConfigError, PolicyError
from actlink.policies import flow
from actlink.policies._open import MODELS, families_of, open_policy
from actlink.testing.policies import check_policy
from actlink.types import ActionChunk, Array, Request, Runtime

pytest.importorskip("onnxruntime")

NAME = "conveyor_flow"
HORIZON, WIDTH, LONGEST = 64, 3, 32
WITHIN_M = 0.02
"""How close guidance keeps the rows that will have run: median over requests of the row that is farthest off."""


def opened(name: str = NAME, **options: Any) -> flow.FlowPolicy:
    policy = open_policy(name, options=options)
    assert isinstance(policy, flow.FlowPolicy)
    return policy


def states(count: int) -> list[Array]:
    """Starts of episodes."""
    env, task = open_environment("conveyor")
    return [np.asarray(env.reset(task, seed)["state"]) for seed in range(count)]


def actions_of(policy: flow.FlowPolicy, *requests: Request) -> list[Array]:
    found = []
    for chunk in policy.infer(requests):
        assert isinstance(chunk, ActionChunk), chunk
        found.append(chunk.actions)
    return found


# Continuing a prefix


@pytest.mark.parametrize("delay", [1, 7, LONGEST])
def test_hard_prefix_comes_back_bit_for_bit(delay: int) -> None:
    policy = opened(prefix_mode="hard")
    for seed, state in enumerate(states(5)):
        prefix = np.random.default_rng(seed).uniform(0, 1, (40, WIDTH)).astype(np.float32)
        (actions,) = actions_of(policy, Request({"state": state}, prefix=prefix, inference_delay=delay))
        np.testing.assert_array_equal(actions[:delay], prefix[:delay])
        assert (actions[delay] != prefix[delay]).any(), "the rows after the delay are the network's own"


def test_hard_prefix_is_cut_where_training_ended_and_where_the_prefix_ends() -> None:
    policy = opened(prefix_mode="hard")
    prefix = np.full((50, WIDTH), 0.4, np.float32)
    (state,) = states(1)
    for rows, delay, given in ((50, 50, LONGEST), (5, 20, 5), (50, 0, 0)):
        (actions,) = actions_of(policy, Request({"state": state}, prefix=prefix[:rows], inference_delay=delay))
        assert (actions[:given] == prefix[:given]).all()
        assert (actions[given] != prefix[0]).any()


def replanned(mode: str, delay: int, count: int = 40) -> tuple[Array, Array]:
    """Of plans that are continued after eight steps of an episode: by how much the step from the old plan to the new one, at
    ``delay``, differs from the old plan's own step there, and how far the rows before it are off; metres.
    """
    free, policy = opened(prefix_mode="ignore"), opened(prefix_mode=mode)
    env, task = open_environment("conveyor")
    seams, changes = [], []
    for seed in range(count):
        (plan,) = actions_of(free, Request(env.reset(task, seed)))
        for action in plan[:8]:
            observation = env.step(action).observation
        prefix = plan[8:]
        (actions,) = actions_of(policy, Request(observation, step=8, prefix=prefix, inference_delay=delay))
        seams.append(float(np.abs(actions[delay] - prefix[delay])[:2].max()))
        changes.append(float(np.abs(actions[:delay] - prefix[:delay])[:, :2].max()))
    return np.array(seams), np.array(changes)


def test_a_continued_plan_has_smaller_seams_than_a_new_one() -> None:
    """Of what guidance cannot move, most is what the network is sure of: the prefix then was not what it would do now."""
    new, off = replanned("ignore", 15)
    guided, kept = replanned("guided", 15)
    hard, given = replanned("hard", 15)
    assert guided.mean() < 0.75 * new.mean() and hard.mean() < 0.9 * new.mean()
    assert np.median(kept) < WITHIN_M < np.median(off)
    assert given.max() == 0


def test_stronger_guidance_follows_more_closely() -> None:
    (state,) = states(1)
    plain = opened(prefix_mode="ignore")
    prefix = actions_of(plain, Request({"state": state}, step=1))[0][:30] + np.float32(0.02)
    request = Request({"state": state}, prefix=prefix, inference_delay=10)
    distances = [
        float(np.abs(actions_of(opened(guidance=guidance, steps=20), request)[0][:10] - prefix[:10]).mean())
        for guidance in (0.0, 1.0, 5.0, 20.0)
    ]
    assert distances == sorted(distances, reverse=True) and distances[-1] < 0.7 * distances[0], distances
    np.testing.assert_allclose(actions_of(opened(guidance=0.0), request)[0], actions_of(plain, request)[0], atol=1e-6)


def test_the_pull_is_the_derivative_times_the_weighted_error() -> None:
    """Against differences of the graph's own answers, in random directions."""
    policy = opened()
    random = np.random.default_rng(0)
    chunk = (1, HORIZON, WIDTH)
    noisy, target = (random.standard_normal(chunk).astype(np.float32) for _ in range(2))
    weight = random.uniform(0, 1, chunk[:2]).astype(np.float32)
    feeds = {"state": random.standard_normal((1, 10)).astype(np.float32), "times": np.full(chunk[:2], 0.4, np.float32)}
    feeds |= {"noisy": noisy, "target": target, "weight": weight}
    clean, pull = policy._run(["clean", "pull"], feeds)
    wish = (target - clean) * weight[..., None]
    for _ in range(5):
        way = random.standard_normal(chunk).astype(np.float32)
        ahead, behind = (policy._run(["clean"], {**feeds, "noisy": noisy + side * way})[0] for side in (0.01, -0.01))
        assert np.vdot(pull, way) == pytest.approx(np.vdot(wish, (ahead - behind) / 0.02), rel=0.02, abs=0.02)


def test_soft_mask_is_the_papers() -> None:
    expected = [1, 1, *(c * np.expm1(c) / (np.e - 1) for c in (4 / 5, 3 / 5, 2 / 5, 1 / 5)), 0, 0, 0, 0]
    np.testing.assert_allclose(flow.soft_mask(2, 6, 10), expected, atol=1e-6)
    np.testing.assert_array_equal(flow.soft_mask(8, 3, 5), [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(flow.soft_mask(0, 0, 3), [0, 0, 0])
    assert flow.soft_mask(0, 4, 4)[0] < 1, "nothing has run yet: every row may still change"


def test_ignored_prefix_is_not_even_looked_at() -> None:
    policy = opened(prefix_mode="ignore")
    assert not policy.spec.accepts_prefix and opened().spec.accepts_prefix
    (state,) = states(1)
    plain, ignored = actions_of(policy, Request({"state": state}), Request({"state": state}, prefix=np.zeros(7)))
    np.testing.assert_array_equal(plain, ignored)


@pytest.mark.parametrize("mode", ["guided", "hard"])
@pytest.mark.parametrize(
    ("prefix", "delay", "said"),
    [
        (np.zeros((5, 2), np.float32), 1, r"prefix: expected numbers of shape \(n, 3\), got float32 \(5, 2\)"),
        (np.zeros(3, np.float32), 1, r"prefix: expected numbers of shape \(n, 3\), got float32 \(3,\)"),
        (np.zeros((5, 3), np.complex64), 1, "prefix: expected numbers"),
        (np.full((5, 3), np.nan, np.float32), 1, "prefix: expected finite numbers"),
        (np.zeros((5, 3), np.float32), -1, "inference_delay: expected at least 0"),
    ],
    ids=["narrow", "one row", "complex", "nan", "negative delay"],
)
def test_a_bad_prefix_is_that_requests_error(mode: str, prefix: Array, delay: int, said: str) -> None:
    policy = opened(prefix_mode=mode)
    first, last = states(2)
    good = Request({"state": last}, prefix=np.zeros((5, 3), np.float32), inference_delay=2)
    refused, answered = policy.infer([Request({"state": first}, prefix=prefix, inference_delay=delay), good])
    with pytest.raises(PolicyError, match=said):
        raise refused if isinstance(refused, PolicyError) else AssertionError(refused)
    assert isinstance(answered, ActionChunk)
    np.testing.assert_allclose(answered.actions, actions_of(policy, good)[0], atol=1e-5)


# Answers are functions of requests


@pytest.mark.parametrize("mode", ["guided", "hard", "ignore"])
def test_it_is_a_policy(mode: str) -> None:
    check_policy(opened(prefix_mode=mode), observations=[{"state": state} for state in states(3)])


def test_equal_requests_have_equal_answers_whoever_asks() -> None:
    (state,) = states(1)
    requests = [Request({"state": state}, 5, episode, session) for episode, session in ((0, "a"), (7, "b"))]
    first, again = (actions_of(opened(), request)[0] for request in requests)
    np.testing.assert_array_equal(first, again)
    assert (actions_of(opened(), Request({"state": state}, 6))[0] != first).any(), "another step, another draw"
    assert (actions_of(opened(seed=1), requests[0])[0] != first).any(), "another seed, another draw"


def test_requests_of_all_kinds_share_a_batch() -> None:
    for mode in ("guided", "hard"):
        policy = opened(prefix_mode=mode)
        prefix = np.full((40, WIDTH), 0.3, np.float32)
        requests = [
            Request({"state": state}, step, prefix=None if step % 2 else prefix[: 10 * step + 1], inference_delay=step)
            for step, state in enumerate(states(5))
        ]
        together = actions_of(policy, *requests)
        for request, actions in zip(requests, together, strict=True):
            np.testing.assert_allclose(actions, actions_of(policy, request)[0], atol=1e-4)


# The folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(MODELS / NAME, tmp_path / "policy")
    return tmp_path / "policy"


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    plain = json.loads((folder / "flow.json").read_text())
    edit(plain)
    (folder / "flow.json").write_text(json.dumps(plain))
    return folder


def test_folder_and_its_file_are_recognised(folder: Path) -> None:
    assert families_of(folder) == families_of(folder / "flow.json") == ["flow"]
    assert opened(str(folder / "flow.json")).spec.name == NAME
    assert not flow.recognises(folder.parent) and not flow.recognises(folder / "CARD.md")


def test_facts_say_how_it_runs(folder: Path) -> None:
    assert opened(str(folder), prefix_mode="hard").facts["prefix"] == "hard, at most 32 rows"
    facts = opened(str(folder), steps=4).facts
    assert (facts["family"], facts["flow"], facts["parameters"]) == ("flow", "4 Euler steps", "1.5 M")
    assert facts["normalisation"] == "flow.json (mean/std of state, action)"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda p: p.pop("flow"), "'flow': expected an object with steps and longest_prefix"),
        (lambda p: p["flow"].update(steps=0), "flow.steps: expected an integer of at least 1, got 0"),
        (lambda p: p["flow"].update(longest_prefix=2.5), "flow.longest_prefix: expected an integer of at least 0, got 2.5"),
        (lambda p: p["flow"].update(order=2), "'flow': expected an object with steps and longest_prefix"),
        (lambda p: p["inputs"][next(iter(p["inputs"]))].update(history=2), "a flow looks at one observation"),
        (lambda p: p["spec"].update(action_horizon=32), r"\(batch, 32"),
        (lambda p: p["output"].update(name="dirty"), "expected the graph outputs dirty, pull, got clean, pull"),
        (lambda p: p["inputs"].update(other=p["inputs"].pop("state")), "expected the graph inputs noisy, other"),
        (lambda p: p["output"].update(std=[1.0, 1.0]), "expected 3 numbers"),
        (lambda p: p.update(format=2), "'format': expected 1, got 2"),
        (lambda p: p.update(steps=8), "unknown key 'steps'"),
        (lambda p: p.update(model="../flow.onnx"), "expected the name of a file in this directory"),
    ],
)
def test_what_does_not_fit_is_named(folder: Path, edit: Callable[[dict[str, Any]], Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        flow.load(str(change(folder, edit)), flow.Config(), Runtime())


def test_missing_and_damaged_files_are_named(folder: Path) -> None:
    content = (folder / "flow.onnx").read_bytes()
    (folder / "flow.onnx").write_bytes(content[:1000])
    with pytest.raises(ConfigError, match=r"flow\.onnx: expected an ONNX model"):
        flow.load(str(folder), flow.Config(), Runtime())
    (folder / "flow.onnx").unlink()
    with pytest.raises(ConfigError, match=r"flow\.onnx: no such file"):
        flow.load(str(folder), flow.Config(), Runtime())
    with pytest.raises(ConfigError, match="no such directory; expected one with flow"):
        flow.load(str(folder / "nowhere"), flow.Config(), Runtime())


def test_another_precision_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="precision it was exported in; got dtype 'bfloat16'"):
        flow.load(str(folder), flow.Config(), Runtime(dtype="bfloat16"))


def test_a_network_without_prefix_training_refuses_the_hard_mode(folder: Path) -> None:
    change(folder, lambda plain: plain["flow"].update(longest_prefix=0))
    with pytest.raises(ConfigError, match="not trained to continue a hard prefix"):
        opened(str(folder), prefix_mode="hard")
    assert opened(str(folder)).spec.accepts_prefix


@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"guidance": -1.0}, {"guidance": float("inf")}, {"seed": -1}, {"max_batch_size": 0}, {"prefix_mode": "soft"}],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        opened(**options)


@pytest.mark.parametrize("name", ["aloha_transfer_cube_flow", NAME])
def test_bundled_files_say_nothing_of_the_machine_they_were_made_on(name: str) -> None:
    assert {path.name for path in (MODELS / name).iterdir()} == {"flow.json", "flow.onnx", "CARD.md"}
    graph = (MODELS / name / "flow.onnx").read_bytes()
    assert len(graph) < 5_000_000
    assert not any(word in graph for word in (b"/home/", b"/work", b"/tmp", b"site-packages", b".py"))
