"""The training example of the ALOHA policy: its expert solves the task, its script starts, its network is LeRobot's layout."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "training"


def _need(*packages: str, extra: str) -> None:
    lacking = [name for name in packages if importlib.util.find_spec(name) is None]
    if lacking:
        pytest.skip(f"{', '.join(lacking)} not installed: pip install 'actlink[{extra}]'")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the examples by name, as the script does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.parametrize(
    "options",
    [{}, {"yaw_deg": 20.0}, {"push_cube_m": 0.03, "yaw_deg": 20.0}],
    ids=["as gym-aloha", "turned", "turned and pushed"],
)
def test_expert_hands_the_cube_over(modules: Any, options: dict[str, float]) -> None:
    _need("mujoco", "dm_control", "gym_aloha", extra="sim")
    from actlink.environments.aloha import Config, Environment

    demonstrations, expert = modules("aloha_demonstrations"), modules("aloha_expert")
    success, stretches = demonstrations.demonstrate(Environment(Config(**options)), expert.Expert(), 1, noise=0.0, jitter=0)
    assert success
    assert len(stretches) == (2 if "push_cube_m" in options else 1)
    plan = stretches[0].plan
    assert np.abs(np.diff(plan[:, [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]], axis=0)).max() < 0.15, "no branch flip"


def test_noisy_demonstration_records_the_clean_plan(modules: Any) -> None:
    _need("mujoco", "dm_control", "gym_aloha", extra="sim")
    from actlink.environments.aloha import Environment

    demonstrations, expert = modules("aloha_demonstrations"), modules("aloha_expert")
    env, planner = Environment(), expert.Expert()
    _, (clean,) = demonstrations.demonstrate(env, planner, 1, noise=0.0, jitter=0)
    _, (noisy,) = demonstrations.demonstrate(env, planner, 1, noise=0.02, jitter=0)
    np.testing.assert_array_equal(clean.plan, noisy.plan)
    assert np.abs(clean.states[40] - noisy.states[40]).max() > 1e-3


def test_training_seeds_lie_above_evaluation_seeds(modules: Any) -> None:
    _need("mujoco", "dm_control", "gym_aloha", extra="sim")
    assert modules("aloha_demonstrations").FIRST_SEED >= 100_000


def test_weights_have_lerobots_names_and_the_padded_tail_has_no_weight(modules: Any) -> None:
    _need("torch", extra="train")
    import torch

    act = modules("act_model")
    torch.manual_seed(0)
    model = act.Act(act.ActConfig(dim_model=16, dim_feedforward=32, chunk_size=10))
    tensors = act.lerobot_tensors(model)
    for name in (
        "model.encoder_latent_input_proj.weight",
        "model.encoder_robot_state_input_proj.weight",
        "model.encoder_env_state_input_proj.weight",
        "model.encoder_1d_feature_pos_embed.weight",
        "model.encoder.layers.3.self_attn.in_proj_weight",
        "model.encoder.layers.0.norm2.bias",
        "model.decoder.layers.0.multihead_attn.out_proj.weight",
        "model.decoder.norm.weight",
        "model.decoder_pos_embed.weight",
        "model.action_head.bias",
    ):
        assert name in tensors
    batch = {
        act.STATE: torch.randn(3, 14),
        act.ENVIRONMENT_STATE: torch.randn(3, 7),
        act.ACTION: torch.randn(3, 10, 14),
        "action_is_pad": torch.arange(10)[None] >= torch.tensor([[10], [4], [1]]),
    }
    first, _ = act.act_loss(model, batch)
    batch[act.ACTION] = torch.where(batch["action_is_pad"][..., None], 100.0, batch[act.ACTION])
    second, _ = act.act_loss(model, batch)
    assert first.item() == second.item()


def test_attention_is_that_of_torch(modules: Any) -> None:
    """Same parameters, same numbers as ``nn.MultiheadAttention``, which LeRobot's ACT is made of."""
    _need("torch", extra="train")
    import torch

    act = modules("act_model")
    torch.manual_seed(0)
    ours, theirs = act.Attention(32, 8), torch.nn.MultiheadAttention(32, 8, batch_first=True)
    torch.nn.init.xavier_uniform_(ours.in_proj_weight)
    theirs.load_state_dict(ours.state_dict())
    query, key, value = torch.randn(2, 5, 32), torch.randn(2, 3, 32), torch.randn(2, 3, 32)
    expected, _ = theirs(query, key, value)
    torch.testing.assert_close(ours(query, key, value), expected)


def test_cvae_trains(modules: Any) -> None:
    _need("torch", extra="train")
    import torch

    act = modules("act_model")
    model = act.Act(act.ActConfig(dim_model=16, dim_feedforward=32, chunk_size=10, use_vae=True))
    batch = {
        act.STATE: torch.randn(2, 14),
        act.ENVIRONMENT_STATE: torch.randn(2, 7),
        act.ACTION: torch.randn(2, 10, 14),
        "action_is_pad": torch.zeros(2, 10, dtype=torch.bool),
    }
    loss, parts = act.act_loss(model, batch)
    loss.backward()
    assert parts["kl"] > 0
    assert model.vae_encoder_latent_output_proj.weight.grad is not None


def test_script_explains_its_options() -> None:
    _need("mujoco", "dm_control", "gym_aloha", extra="sim")
    _need("torch", "onnxruntime", "safetensors", extra="train,onnx")
    script = FOLDER / "act_aloha_transfer_cube.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for option in ("--out", "--demonstrations", "--steps", "--seconds", "--vae"):
        assert option in done.stdout
