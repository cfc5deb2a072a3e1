"""Run by LeRobot's own Python (test_lerobot_inside.py starts it): checkpoints as graphs, beside LeRobot's own policies.

The originals get the same random numbers in other ways than the export's own: LeRobot's argument, or ``torch.randn`` replaced.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch

from actlink import cli
from actlink import export as exporting
from actlink.errors import ConfigError
from actlink.policies import _noise, _torch_draws, _torch_tracing
from actlink.policies._base import Policy
from actlink.policies._open import open_policy
from actlink.types import Array, Observation, Request, Runtime

MOST = 1e-4
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "act": ("act", {}),
    "ddpm": ("diffusion", {"clip_sample": False}),
    "ddim": (
        "diffusion",
        {"noise_scheduler_type": "DDIM", "clip_sample": False, "n_obs_steps": 3, "use_separate_rgb_encoder_per_camera": False},
    ),
    "vqbet": ("vqbet", {}),
    "tdmpc": ("tdmpc", {}),
    "tdmpc_many": ("tdmpc", {"q_ensemble_size": 5, "n_action_repeats": 1}),
    "smolvla": ("smolvla", {}),
}
ALONE = ("tdmpc_many", "smolvla")
"""Where two of five Q functions are drawn for a whole batch, and where words are constants of the graph."""


class Made:
    """A checkpoint and its export, each opened once."""

    def __init__(self, name: str, directory: Path) -> None:
        kind, options = KINDS[name]
        self.place = tiny.make(kind, directory / name, **options)
        self.out = directory / name / "exported"
        told = {"prompt": tiny.WORDS} if kind == "smolvla" else {}
        words = ["--policy-options", *(f"{key}={value}" for key, value in told.items())] if told else []
        assert cli.main(["export", f"lerobot:{self.place}", str(self.out), *words]) == 0
        self.told = json.loads((self.out / "policy.json").read_text())
        self.torch, self.onnx = open_policy(f"lerobot:{self.place}", options=told), open_policy(str(self.out))

    def seen(self, seed: int) -> dict[str, Any]:
        source = np.random.default_rng(seed)
        found: dict[str, Any] = {"state": source.standard_normal(tiny.STATE).astype(np.float32)}
        for name in self.torch.spec.cameras:
            found[f"images.{name}"] = source.integers(0, 256, (tiny.HEIGHT, tiny.WIDTH, 3), np.uint8)
        return found

    def numbers(self, observation: Observation, step: int = 0) -> Array:
        """What the export draws for this request."""
        noise = [_noise.Noise(name, tuple(one["shape"]), one["distribution"]) for name, one in self.told["noise"].items()]
        (found,) = _noise.batch(noise, [Request(observation, step)], tuple(self.onnx.spec.observation), 0).values()
        return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    known: dict[str, Made] = {}

    def make(name: str) -> Made:
        if name not in known:
            known[name] = Made(name, tmp_path_factory.mktemp(name))
        return known[name]

    return make


def rows(policy: Policy, observation: Observation, step: int = 0, memory: Any = None) -> tuple[Array, Any]:
    (chunk,) = policy.infer([Request(observation, step, memory=memory)])
    return chunk.actions, chunk.memory  # type: ignore[union-attr]


@pytest.mark.parametrize("name", KINDS)
def test_every_type_is_exported(made: Callable[[str], Made], name: str, differences: dict[str, float]) -> None:
    """The command has compared batches of 1, 2 and 5 over episodes; here what the files say, and an episode with gaps."""
    one = made(name)
    spec = one.onnx.spec
    assert one.onnx.facts["family"] == "onnx" and sorted(path.name for path in one.out.iterdir()) == ["model.onnx", "policy.json"]
    assert spec.observation == one.torch.spec.observation and spec.action == one.torch.spec.action
    assert spec.stateful == one.torch.spec.stateful and spec.action_horizon == one.torch.spec.action_horizon
    assert spec.max_batch_size == (1 if name in ALONE else 8) and not spec.accepts_prefix
    assert set(one.told.get("memory", {})) == ({"plan"} if name.startswith("tdmpc") else set())
    exportable = one.torch.exportable()
    assert exportable is not None
    ours = theirs = None
    for step in (0, 1, 7, 9):
        observation = one.seen(step)
        numbers = _noise.batch(exportable.noise, [Request(observation, step)], tuple(spec.observation), 0)
        with exportable.drawing(numbers):
            expected, theirs = rows(one.torch, observation, step, theirs)
        found, ours = rows(one.onnx, observation, step, ours)
        difference = float(np.abs(found - expected).max())
        differences[f"{name}, step {step} of an episode with gaps"] = difference
        assert difference <= MOST * max(1.0, float(np.abs(expected).max()))


@pytest.fixture
def given_randn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Tensor]]:
    """``torch.randn`` gives these, in order."""
    numbers: list[torch.Tensor] = []
    monkeypatch.setattr(torch, "randn", lambda *_, **__: numbers.pop(0))
    yield numbers
    assert not numbers, "fewer were drawn than the export says"


def test_ddpm_with_its_own_noise_in_every_step(made: Callable[[str], Made], given_randn: list[torch.Tensor]) -> None:
    """Three steps of denoising: where it begins, and after all but the last one."""
    one = made("ddpm")
    assert one.told["noise"] == {"noise_normal": {"shape": [3 * 8 * tiny.ACTION], "distribution": "normal"}}
    observation = one.seen(1)
    given_randn += [torch.from_numpy(each) for each in one.numbers(observation).reshape(3, 1, 8, tiny.ACTION)]
    expected, _ = rows(one.torch, observation)
    np.testing.assert_allclose(rows(one.onnx, observation)[0], expected, atol=MOST)


def test_ddim_from_the_noise_that_lerobot_takes_as_an_argument(made: Callable[[str], Made]) -> None:
    from inside_policies import Original

    one = made("ddim")
    assert one.told["noise"] == {"noise_normal": {"shape": [8 * tiny.ACTION], "distribution": "normal"}}
    original, observation = Original(one.place), one.seen(1)
    with torch.no_grad():
        noise = torch.from_numpy(one.numbers(observation).reshape(1, 8, tiny.ACTION))
        first = original.policy.select_action(original.prepared([observation]), noise=noise)
        expected = torch.stack([original.after(row) for row in (first, *original.policy._queues["action"])], dim=1)[0].numpy()
    found, _ = rows(one.onnx, observation)
    np.testing.assert_allclose(found[: len(expected)], expected, atol=MOST)


def test_vqbet_chooses_as_often_as_the_original(made: Callable[[str], Made]) -> None:
    """Which of its sixteen pairs of codes, over 240 draws: total variation between the two."""
    one, count = made("vqbet"), 240
    shares = []
    for policy in (one.onnx, one.torch):
        torch.manual_seed(0)
        requests = [Request(one.seen(1), step) for step in range(count)]
        chunks = [chunk for start in range(0, count, 8) for chunk in policy.infer(requests[start : start + 8])]
        places: dict[tuple[int, ...], int] = {}
        for chunk in chunks:
            key = tuple(np.round(chunk.actions.ravel() * 1000).astype(int))  # type: ignore[union-attr]
            near = next((known for known in places if np.abs(np.subtract(known, key)).max() <= 1), key)
            places[near] = places.get(near, 0) + 1
        shares.append(places)
    ours, theirs = shares
    assert len(ours) > 4 and len(theirs) > 4
    same = 0.0
    for key, number in ours.items():
        near = next((known for known in theirs if np.abs(np.subtract(known, key)).max() <= 2), None)
        same += min(number, theirs[near]) / count if near else 0
    assert same > 0.75


def test_it_runs_where_neither_torch_nor_lerobot_is(made: Callable[[str], Made]) -> None:
    one = made("ddpm")
    program = (
        "import sys\n"
        "for name in ('torch', 'lerobot', 'diffusers'): sys.modules[name] = None\n"
        "from actlink.policies._open import open_policy\n"
        "from actlink.testing.policies import check_policy\n"
        f"check_policy(open_policy({str(one.out)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_a_graph_says_why(made: Callable[[str], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tiny.make("smolvla", tmp_path)
    with pytest.raises(ConfigError, match=r"smolvla: it reads words.*--policy-options 'prompt=.*or serve the checkpoint itself"):
        exporting.export(open_policy(str(place), Runtime(dtype="float32")), tmp_path / "out")
    with pytest.raises(ConfigError, match="prompt: a policy of type diffusion reads no words"):
        open_policy(f"lerobot:{made('ddpm').place}", options={"prompt": "put it down"})
    one = made("ddpm")
    inner: Any = getattr(one.torch, "_inner", one.torch)
    model = inner._policy.diffusion
    sample = model.conditional_sample
    monkeypatch.setattr(model, "conditional_sample", lambda *a, **k: sample(*a, **k) + np.random.standard_normal())
    with pytest.raises(ConfigError, match="diffusion: it draws random numbers in a way that cannot be given from outside"):
        exporting.export(one.torch, tmp_path / "out")
    monkeypatch.setattr(model, "conditional_sample", lambda *a, **k: sample(*a, **k)[:, torch.randperm(8)])
    with pytest.raises(ConfigError, match="diffusion: it draws random numbers with randperm"):
        exporting.export(one.torch, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


WAYS: dict[str, Callable[[int], torch.Tensor]] = {
    "randn": lambda batch: torch.randn(batch, 4000),
    "randn with the batch behind": lambda batch: torch.randn(20, 200, batch).movedim(2, 0),
    "randn_like": lambda batch: torch.randn_like(torch.zeros(batch, 4000)),
    "normal": lambda batch: (torch.normal(3.0, 2.0, (batch, 4000)) - 3) / 2,
    "normal of tensors": lambda batch: (torch.normal(torch.full((batch, 4000), 3.0), torch.tensor(2.0)) - 3) / 2,
    "normal_": lambda batch: torch.empty(batch * 10, 400).normal_(0, 1).reshape(batch, 4000),
    "distribution": lambda batch: torch.distributions.Normal(torch.zeros(batch, 4000), 1.0).rsample(),
    "rand": lambda batch: (torch.rand(batch, 4000) - 0.5) * 12**0.5,
    "uniform_": lambda batch: torch.empty(batch, 4000).uniform_(-(3**0.5), 3**0.5),
    "randint": lambda batch: (torch.randint(2, 7, (batch, 4000)) - 4) / 2**0.5,
    "randint by name": lambda batch: (torch.randint(low=2, high=7, size=(batch, 4000)) - 4) / 2**0.5,
    "randint, its end by name": lambda batch: (torch.randint(2, high=7, size=(batch, 4000)) - 4) / 2**0.5,
    "randint from zero": lambda batch: (torch.randint(5, (batch, 4000)) - 2) / 2**0.5,
    "multinomial": lambda batch: torch.multinomial(torch.tensor([[1.0, 0, 1]] * batch), 4000, replacement=True) - 1.0,
    "bernoulli": lambda batch: torch.bernoulli(torch.full((batch, 4000), 0.5)) * 2 - 1,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_every_way_to_draw_has_its_distribution_and_can_be_given(way: Callable[[int], torch.Tensor]) -> None:
    """Each is brought to mean 0 and deviation 1. What one request is given is its own, whatever the others are."""
    (draw,) = draws = _torch_draws.draws_of(way)
    assert draw.count == 4000 and draw.axis is not None
    source = torch.Generator().manual_seed(1)
    numbers = torch.randn(3, 4000, generator=source) if draw.kind == "normal" else torch.rand(3, 4000, generator=source)

    def given(*lanes: int) -> torch.Tensor:
        with _torch_draws.Given(draws, {draw.kind: numbers[list(lanes)]}):
            return way(len(lanes)).reshape(len(lanes), -1)

    found = given(0, 1, 2)
    assert abs(float(found.mean())) < 0.05 and abs(float(found.std()) - 1) < 0.05
    assert torch.equal(given(2, 0), found[[2, 0]])


def traced(function: Callable[[torch.Tensor], torch.Tensor], batch: int, path: Path) -> Callable[[torch.Tensor], Array]:
    """``function`` of ``(batch, 4)`` through a trace and onnxruntime."""
    import onnxruntime

    def forward(values: torch.Tensor) -> torch.Tensor:
        with _torch_tracing.Traceable((values,), batch):
            return function(values)

    module, names = torch.nn.Module(), {"values": {0: "batch"}, "found": {0: "batch"}}
    module.forward = forward  # type: ignore[method-assign]
    module.eval()
    torch.onnx.export(
        module,
        (torch.ones(batch, 4),),
        str(path),
        input_names=["values"],
        output_names=["found"],
        dynamic_axes=names,
        opset_version=exporting.OPSET,
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda values: session.run(None, {"values": values.numpy()})[0]


def constants_that_are_written_to(values: torch.Tensor) -> torch.Tensor:
    """Before the trace has read them, afterwards, by way of a view, and with what depends on the input."""
    early, late, seen, filled = (torch.zeros(4) for _ in range(4))
    early += 1
    found = values + early + late + seen
    late += 10
    seen[1:3].fill_(100.0)
    filled[2] = values[0, 2]
    return found + late + seen + filled


def sizes_as_numbers(values: torch.Tensor) -> torch.Tensor:
    middle = round(values.shape[1] / 2.0)
    place = torch.arange(0, values.size(1))[middle]
    return values[:, place : place + 1].expand(values.shape[0], values.size(-1)) + torch.full(values.shape[:1], 0.5)[:, None]


def what_the_exporter_lacks(values: torch.Tensor) -> torch.Tensor:
    order = values.argsort(dim=0, descending=True)[:1]
    return values + values.take_along_dim(order, dim=0) + (values / values.detach().clone().zero_()).nan_to_num_(7.0, 8.0, 9.0)


@pytest.mark.parametrize("function", [constants_that_are_written_to, sizes_as_numbers, what_the_exporter_lacks])
def test_a_trace_computes_the_same(function: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    """In batches of other sizes than the example's, too."""
    graph = traced(function, 11, tmp_path / "model.onnx")
    for batch in (1, 2, 11, 12):
        values = torch.from_numpy(np.random.default_rng(batch).standard_normal((batch, 4)).astype(np.float32))
        np.testing.assert_allclose(graph(values), function(values).numpy(), atol=1e-6)
