"""Run by LeRobot's own Python (test_lerobot_inside.py starts it): our policy beside the original, on genuine checkpoints.

The original is asked as its own programs ask it: its preprocessor, ``select_action`` with its queues, its postprocessor per step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
from safetensors.torch import load_file, save_file

import cli_world
from actlink import connect
from actlink.errors import ConfigError, PolicyError
from actlink.policies import lerobot
from actlink.policies._base import Policy
from actlink.policies._open import open_policy
from actlink.spec import Spec
from actlink.testing.policies import check_policy
from actlink.types import ActionChunk, Request, Runtime

cli_world.START_S = 400.0  # torch, LeRobot and transformers, on a machine that others keep busy

KINDS = ("act", "diffusion", "vqbet", "tdmpc", "smolvla")
MOST = 1e-5


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("checkpoints")
    return {kind: tiny.make(kind, directory) for kind in KINDS}


@pytest.fixture
def copy(places: dict[str, Path], tmp_path: Path) -> Path:
    """A Diffusion checkpoint to spoil."""
    return Path(shutil.copytree(places["diffusion"], tmp_path / "copy"))


class Original:
    """LeRobot's own policy with its own processors; keeps its own queues."""

    def __init__(self, place: Path) -> None:
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors

        config = PreTrainedConfig.from_pretrained(place)
        self.policy = get_policy_class(config.type).from_pretrained(place, config=config)
        self.before, self.after = make_pre_post_processors(config, pretrained_path=str(place))
        self.policy.reset()

    def prepared(self, observations: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {"task": [each.get("prompt", "") for each in observations]}
        for key in observations[0]:
            rows = np.stack([np.asarray(each[key]) for each in observations])
            if key == "state":
                batch["observation.state"] = torch.from_numpy(rows)
            elif key.startswith("images."):
                name = "observation.image" if key == "images.image" else f"observation.{key}"
                batch[name] = torch.from_numpy(rows).float().permute(0, 3, 1, 2) / 255
        prepared = self.before(batch)
        prepared.pop("action", None)
        return dict(prepared)

    def chunk(self, observations: Sequence[dict[str, Any]], seed: int) -> Any:
        """One control step of all its lanes: the whole chunk ``(lanes, steps, action_dim)`` that its queue is filled with."""
        torch.manual_seed(seed)
        prepared = self.prepared(observations)
        queue = getattr(self.policy, "_queues", {}).get("action")
        if queue is None:
            queue = self.policy._action_queue
        queue.clear()
        with torch.no_grad():
            first = self.policy.select_action(prepared)
            rows = [first, *queue]
            return torch.stack([self.after(row) for row in rows], dim=1).numpy()


def seen(spec: Spec, seed: int) -> dict[str, Any]:
    source = np.random.default_rng(seed)
    found: dict[str, Any] = {"state": source.standard_normal(tiny.STATE).astype(np.float32)}
    for name in spec.cameras:
        found[f"images.{name}"] = source.integers(0, 256, (tiny.HEIGHT, tiny.WIDTH, 3), np.uint8)
    if "prompt" in spec.observation:
        found["prompt"] = tiny.WORDS[: 8 + seed % 7]
    return found


def asked(policy: Policy, requests: Sequence[Request], seed: int) -> list[ActionChunk]:
    torch.manual_seed(seed)
    results = policy.infer(requests)
    assert all(isinstance(each, ActionChunk) for each in results), results
    return list(results)  # type: ignore[arg-type]


def opened(place: Path, options: str = "", **runtime: Any) -> Policy:
    return open_policy(f"lerobot:{place}{options}", Runtime(threads=1, **runtime))


class TestTheOriginalsNumbers:
    @pytest.mark.parametrize("kind", KINDS)
    def test_an_episode(self, places: dict[str, Path], kind: str, differences: dict[str, float]) -> None:
        """Five control steps, one observation each: its queues and our memory tell the policy the same history."""
        policy, original = opened(places[kind]), Original(places[kind])
        memory = None
        for step in range(5):
            observation = seen(policy.spec, step)
            (chunk,) = asked(policy, [Request(observation, step=step, memory=memory)], seed=step)
            expected = original.chunk([observation], seed=step)[0]
            memory = chunk.memory
            rows = chunk.actions[: len(expected)]
            differences[f"{kind}, step {step} of an episode"] = found = float(np.abs(rows - expected).max())
            assert found <= MOST, f"step {step}"
        assert policy.spec.stateful == (kind in ("diffusion", "vqbet", "tdmpc"))

    @pytest.mark.parametrize("kind", KINDS)
    def test_two_sessions_in_one_batch(self, places: dict[str, Path], kind: str, differences: dict[str, float]) -> None:
        policy, original = opened(places[kind]), Original(places[kind])
        assert policy.spec.max_batch_size == 8
        memories: list[Any] = [None, None]
        for step in range(4):
            observations = [seen(policy.spec, 10 * step), seen(policy.spec, 10 * step + 7)]
            requests = [
                Request(one, step=step, session=name, memory=memory)
                for one, name, memory in zip(observations, "ab", memories, strict=True)
            ]
            chunks = asked(policy, requests, seed=step)
            expected = original.chunk(observations, seed=step)
            memories = [chunk.memory for chunk in chunks]
            found = max(float(np.abs(c.actions[: len(rows)] - rows).max()) for c, rows in zip(chunks, expected, strict=True))
            differences[f"{kind}, step {step} of two sessions in a batch"] = found
            assert found <= MOST

    @pytest.mark.parametrize("kind", ["diffusion", "vqbet", "tdmpc"])
    def test_two_sessions_that_take_turns(self, places: dict[str, Path], kind: str) -> None:
        """Each has the original to itself; ours serves both, and a third that starts in between."""
        policy = opened(places[kind])
        originals, memories = [Original(places[kind]) for _ in range(2)], [None, None]
        for step in range(4):
            for who in range(2):
                observation = seen(policy.spec, 100 * who + step)
                (chunk,) = asked(policy, [Request(observation, step=step, session=str(who), memory=memories[who])], seed=step)
                memories[who] = chunk.memory
                expected = originals[who].chunk([observation], seed=step)[0]
                assert np.abs(chunk.actions[: len(expected)] - expected).max() <= MOST
                asked(policy, [Request(seen(policy.spec, 999), session="third")], seed=step)

    def test_history_with_gaps_takes_what_is_nearest_in_time(self, places: dict[str, Path]) -> None:
        """Asked every sixth step, the observation one step ago is best told by the newest, not by the one of six steps ago."""
        policy = opened(places["diffusion"])
        first, second = seen(policy.spec, 1), seen(policy.spec, 2)
        (before,) = asked(policy, [Request(first, step=0)], seed=0)
        (gap,) = asked(policy, [Request(second, step=6, memory=before.memory)], seed=1)
        (fresh,) = asked(policy, [Request(second, step=6)], seed=1)
        (next_to,) = asked(policy, [Request(second, step=1, memory=before.memory)], seed=1)
        assert np.array_equal(gap.actions, fresh.actions)
        assert not np.allclose(next_to.actions, fresh.actions)

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_contract(self, places: dict[str, Path], kind: str) -> None:
        policy = opened(places[kind])
        observations = [seen(policy.spec, seed) for seed in range(3)]
        check_policy(policy, observations=observations, repeatable=kind == "act")

    @pytest.mark.parametrize("kind", ["diffusion", "smolvla"])
    def test_deterministic(self, places: dict[str, Path], kind: str) -> None:
        """With one seed for every request even those that draw noise repeat themselves, alone and in a batch."""
        policy = opened(places[kind], deterministic=True)
        check_policy(policy, observations=[seen(policy.spec, seed) for seed in range(3)])

    def test_half_precision(self, places: dict[str, Path]) -> None:
        whole, half = opened(places["act"], dtype="float32"), opened(places["act"], dtype="bfloat16")
        request = Request(seen(whole.spec, 3))
        error = np.abs(asked(whole, [request], 0)[0].actions - asked(half, [request], 0)[0].actions).max()
        assert 0 < error < 0.05

    def test_only_as_many_at_once_as_was_said(self, places: dict[str, Path]) -> None:
        assert opened(places["act"], "?max_batch_size=3").spec.max_batch_size == 3
        with pytest.raises(ConfigError, match="max_batch_size: expected at least 1, got 0"):
            opened(places["act"], "?max_batch_size=0")

    @pytest.mark.parametrize("kind", KINDS)
    def test_where_its_values_lay_in_training(self, places: dict[str, Path], kind: str) -> None:
        """From the statistics in its processors: minimum and maximum here."""
        spec = opened(places[kind]).spec
        middle = np.linspace(-0.5, 0.5, tiny.STATE)
        assert np.allclose(spec.observation["state"].typical, np.stack([middle - 1.3, middle + 1.7], axis=-1), atol=1e-6)
        assert spec.action.typical is not None and len(spec.action.typical) == tiny.ACTION


class TestRealTimeChunking:
    """SmolVLA, whose sampler is LeRobot's own guided one."""

    def guided(self, original: Original, observation: dict[str, Any], tail: Any, delay: int, seed: int) -> Any:
        from lerobot.policies.rtc.configuration_rtc import RTCConfig

        original.policy.config.rtc_config = RTCConfig(enabled=True, execution_horizon=len(tail), max_guidance_weight=10.0)
        original.policy.init_rtc_processor()
        torch.manual_seed(seed)
        with torch.no_grad():
            chunk = original.policy.predict_action_chunk(
                original.prepared([observation]), inference_delay=delay, prev_chunk_left_over=tail, execution_horizon=len(tail)
            )
            return self.finished(original, chunk)

    def finished(self, original: Original, chunk: Any) -> Any:
        return torch.stack([original.after(chunk[:, row]) for row in range(chunk.shape[1])], dim=1)[0].numpy()

    @pytest.mark.parametrize("delay", [0, 2])
    def test_the_originals_numbers(self, places: dict[str, Path], delay: int, differences: dict[str, float]) -> None:
        """LeRobot's own loop hands over what the model gave; a peer hands over what the robot was told. Both mean the same."""
        policy, original = opened(places["smolvla"]), Original(places["smolvla"])
        assert policy.spec.accepts_prefix
        first, second = seen(policy.spec, 1), seen(policy.spec, 2)
        torch.manual_seed(0)
        with torch.no_grad():
            raw = original.policy.predict_action_chunk(original.prepared([first]))
        tail = raw[0, 3:]
        prefix = self.finished(original, raw)[3:]
        request = Request(second, step=3, prefix=prefix, inference_delay=delay)
        (chunk,) = asked(policy, [request], seed=5)
        expected = self.guided(original, second, tail, delay, seed=5)
        differences[f"smolvla guided, delay {delay}"] = found = float(np.abs(chunk.actions - expected).max())
        assert found <= 1e-4
        (free,) = asked(policy, [Request(second, step=3)], seed=5)
        near, far = (np.abs(each.actions[:delay] - prefix[:delay]).sum() for each in (chunk, free))
        assert near < far or delay == 0

    def test_different_delays_in_one_batch(self, places: dict[str, Path]) -> None:
        policy = opened(places["smolvla"])
        prefix = np.full((4, tiny.ACTION), 0.3, np.float32)
        requests = [
            Request(seen(policy.spec, 1), session="a", prefix=prefix, inference_delay=1),
            Request(seen(policy.spec, 2), session="b"),
            Request(seen(policy.spec, 3), session="c", prefix=prefix[:3], inference_delay=2),
        ]
        chunks = asked(policy, requests, seed=1)
        assert [chunk.session for chunk in chunks] == ["a", "b", "c"]
        for index in (0, 2):
            count = requests[index].inference_delay
            assert np.abs(chunks[index].actions[:count] - 0.3).max() < np.abs(chunks[1].actions[:count] - 0.3).max()

    def test_it_can_be_left_out(self, places: dict[str, Path]) -> None:
        assert not opened(places["smolvla"], "?real_time=false").spec.accepts_prefix
        assert not opened(places["diffusion"]).spec.accepts_prefix


class TestNames:
    def test_a_rename_map(self, places: dict[str, Path]) -> None:
        """The robot's camera is called ``wrist``; the spec says so, and the numbers are those of ``front``."""
        plain = opened(places["act"])
        other = opened(places["act"], "?rename_map={observation.images.wrist: observation.images.front}")
        assert list(other.spec.cameras) == ["wrist", "side"]
        observation = seen(plain.spec, 1)
        renamed = {"images.wrist" if key == "images.front" else key: value for key, value in observation.items()}
        chunks = [asked(policy, [Request(one)], 0)[0].actions for policy, one in ((plain, observation), (other, renamed))]
        assert np.array_equal(*chunks)

    def test_weights_of_a_language_model_that_lie_in_the_checkpoint(self, places: dict[str, Path], tmp_path: Path) -> None:
        """Published ones ask for the language model's own weights first, which their own then replace: not needed, not there."""
        place = Path(shutil.copytree(places["smolvla"], tmp_path / "policy"))
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**config, "load_vlm_weights": True}))
        weights = load_file(place / "model.safetensors")
        half = {name for name in weights if name.startswith("model.vlm_with_expert.vlm.")}
        stored = {name: value.to(torch.bfloat16) if name in half else value for name, value in weights.items()}
        save_file(stored, place / "model.safetensors")
        policy = lerobot.load(str(place), lerobot.Config(), Runtime(threads=1))
        kinds = {name: value.dtype for name, value in policy._policy.named_parameters()}  # type: ignore[attr-defined]
        assert half and all((kinds[name] == torch.bfloat16) == (name in half) for name in kinds)
        request = Request(seen(policy.spec, 1))
        chunks = [asked(each, [request], 0)[0].actions for each in (policy, opened(places["smolvla"]))]
        assert np.abs(chunks[0] - chunks[1]).max() < 0.05

    def test_a_language_model_that_has_moved(self, places: dict[str, Path], tmp_path: Path) -> None:
        place = Path(shutil.copytree(places["smolvla"], tmp_path / "policy"))
        model = Path(shutil.copytree(places["smolvla"].parent / "tiny_smolvlm", tmp_path / "policy" / "language"))
        for name in ("config.json", "policy_preprocessor.json"):
            text = (place / name).read_text().replace(str(places["smolvla"].parent / "tiny_smolvlm"), "somebody/SmolVLM")
            (place / name).write_text(text)
        with pytest.raises(ConfigError, match="nothing is looked up in a hub"):
            opened(place)
        moved = opened(place, f"?replace={{somebody/SmolVLM: {model}}}")
        request = Request(seen(moved.spec, 1))
        assert np.array_equal(asked(moved, [request], 0)[0].actions, asked(opened(places["smolvla"]), [request], 0)[0].actions)
        for name in ("config.json", "policy_preprocessor.json"):
            (place / name).write_text((place / name).read_text().replace("somebody/SmolVLM", "language"))
        assert opened(place).spec.action_dim == tiny.ACTION  # a folder of the checkpoint itself


class TestWhatDoesNotFit:
    def test_weights_of_something_else(self, copy: Path) -> None:
        weights = load_file(copy / "model.safetensors")
        del weights["diffusion.unet.final_conv.1.weight"]
        save_file(weights, copy / "model.safetensors")
        with pytest.raises(ConfigError, match=r"diffusion\.unet\.final_conv\.1\.weight"):
            opened(copy)

    def test_a_truncated_file(self, copy: Path) -> None:
        content = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
        with pytest.raises(ConfigError, match="cannot load this diffusion checkpoint"):
            opened(copy)

    def test_a_type_that_is_not_installed(self, copy: Path) -> None:
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "type": "telepathy"}))
        with pytest.raises(ConfigError, match=r"no policy type 'telepathy' in the installed LeRobot .* it has .*diffusion"):
            opened(copy)

    def test_an_option_of_a_newer_lerobot(self, copy: Path) -> None:
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "foresight": 3}))
        with pytest.raises(ConfigError, match="foresight"):
            opened(copy)

    def test_a_step_nobody_registered(self, copy: Path) -> None:
        content = json.loads((copy / "policy_preprocessor.json").read_text())
        content["steps"][0] = {"registry_name": "harmless_looking", "config": {}}
        (copy / "policy_preprocessor.json").write_text(json.dumps(content))
        with pytest.raises(ConfigError, match="harmless_looking"):
            opened(copy)

    def test_python_beside_a_model_is_never_run(self, places: dict[str, Path], tmp_path: Path) -> None:
        """A tokenizer of which ``auto_map`` says that its class stands in a file beside it."""
        place = Path(shutil.copytree(places["smolvla"], tmp_path / "policy"))
        model = Path(shutil.copytree(places["smolvla"].parent / "tiny_smolvlm", tmp_path / "model"))
        canary = tmp_path / "ran"
        (model / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
        for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
            content = json.loads((model / name).read_text())
            told = {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", None], "AutoProcessor": "evil.Evil"}
            (model / name).write_text(json.dumps({**content, "auto_map": told, "model_type": "evil", "tokenizer_class": "Evil"}))
        for name in ("config.json", "policy_preprocessor.json"):
            text = (place / name).read_text().replace(str(places["smolvla"].parent / "tiny_smolvlm"), str(model))
            (place / name).write_text(text)
        with pytest.raises(ConfigError):
            opened(place)
        from transformers import AutoTokenizer

        with pytest.raises(ConfigError, match="it is never run"):  # as some of LeRobot's policies ask
            AutoTokenizer.from_pretrained(model, trust_remote_code=True)
        assert not canary.exists()

    def test_a_state_of_another_length_is_this_requests_error(self, places: dict[str, Path]) -> None:
        policy = opened(places["act"])
        request = Request({**seen(policy.spec, 1), "state": np.zeros(tiny.STATE + 1, np.float32)})
        with pytest.raises(PolicyError, match="lerobot: RuntimeError"):
            policy.infer([request])


@pytest.mark.parametrize("kind", ["act", "diffusion", "smolvla"])
def test_served(places: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Both wires carry the policy's own numbers: three steps of an episode, then one after a reset."""
    policy = opened(places[kind], deterministic=True)
    listen = ("--listen", "tcp://127.0.0.1:0", "--listen", "lerobot+grpc://127.0.0.1:0")
    with cli_world.running(tmp_path, "serve", f"lerobot:{places[kind]}", "--deterministic", *listen) as process:
        native = process.wait_for(r"^  (native\+tcp://\S+)$")[1]
        foreign = process.wait_for(r"^  (lerobot\+grpc://\S+)$")[1]
        observations = [seen(policy.spec, seed) for seed in range(3)]
        expected, memory = [], None
        for step, observation in enumerate(observations):
            (chunk,) = asked(policy, [Request(observation, step=step, memory=memory)], 0)
            expected.append(chunk.actions)
            memory = chunk.memory
        for address, options in ((native, {}), (f"{foreign}?pretrained_name_or_path=tiny_{kind}", {"spec": policy.spec})):
            with connect(address, **options) as remote:  # type: ignore[arg-type]
                chunks = [remote.infer_one(observation, step=step) for step, observation in enumerate(observations)]
                remote.reset()
                again = remote.infer_one(observations[0], step=0)
            for chunk, actions in zip([*chunks, again], [*expected, expected[0]], strict=True):
                assert np.abs(chunk.actions - actions).max() <= MOST, address
